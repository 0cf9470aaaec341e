//! Makes planned volumes real on disk, and takes them away. Blocking: run it on a blocking thread.

use super::{HostType, Plan, PlanKind, Ready, Volumes, atomic};
use jiff::Timestamp;
use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt, chown},
    path::{Path, PathBuf},
};

/// Makes every volume be as planned; done again, it changes only what differs. Errors are event FailedMount's words.
pub(crate) fn materialize(pod_dir: &Path, plans: &[Plan], now: Timestamp) -> Result<Volumes, String> {
    let one = |plan: &Plan| {
        let ready = make(pod_dir, plan, now)
            .map_err(|why| format!("MountVolume.SetUp failed for volume {:?} : {why}", plan.name))?;
        Ok((plan.name.clone(), ready))
    };
    plans.iter().map(one).collect()
}

fn make(pod_dir: &Path, plan: &Plan, now: Timestamp) -> Result<Ready, String> {
    let own = |plugin: &str| pod_dir.join("volumes").join(plugin).join(&plan.name);
    let said = |path: &Path| {
        let path = path.display().to_string();
        move |error: io::Error| format!("{path}: {error}")
    };
    match &plan.kind {
        PlanKind::EmptyDir => {
            let path = own("kubernetes.io~empty-dir");
            open_directory(&path, plan.group).map_err(said(&path))?;
            Ok(Ready::Path { path, read_only: false })
        }
        PlanKind::Memory { size_bytes } => {
            let path = own("kubernetes.io~empty-dir");
            open_directory(&path, None).map_err(said(&path))?;
            if !is_mount(&path) {
                let options = match size_bytes {
                    Some(size) => format!("mode=1777,size={size}"),
                    None => "mode=1777".to_owned(),
                };
                let options = std::ffi::CString::new(options).map_err(|e| e.to_string())?;
                let flags = rustix::mount::MountFlags::NODEV | rustix::mount::MountFlags::NOSUID;
                let mounted = rustix::mount::mount("tmpfs", &path, "tmpfs", flags, Some(options.as_c_str()));
                if let Err(error) = mounted {
                    tracing::debug!(%error, path = %path.display(), "cannot mount a tmpfs; the engine makes one per container");
                    return Ok(Ready::EngineTmpfs { size_bytes: *size_bytes });
                }
                set_open(&path, plan.group).map_err(said(&path))?;
            }
            Ok(Ready::Path { path, read_only: false })
        }
        PlanKind::Files { plugin, files } => {
            let path = own(plugin);
            fs::create_dir_all(&path).map_err(said(&path))?;
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).map_err(said(&path))?;
            atomic::write(&path, files, plan.group, now).map_err(said(&path))?;
            Ok(Ready::Path { path, read_only: true })
        }
        PlanKind::Host { path, type_, read_only } => {
            host(path, *type_)?;
            Ok(Ready::Path { path: path.clone(), read_only: *read_only })
        }
    }
}

/// A directory any user may write to, whatever the umask; with a group, one that new files inherit it from. One that is
/// there already is left as its users have made it.
fn open_directory(path: &Path, group: Option<u32>) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(path)?;
    set_open(path, group)
}

fn set_open(path: &Path, group: Option<u32>) -> io::Result<()> {
    if let Some(group) = group {
        chown(path, None, Some(group))?;
    }
    let mode = if group.is_some() { 0o2777 } else { 0o777 };
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

fn is_mount(path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let device = |path: &Path| fs::metadata(path).map(|meta| meta.dev()).ok();
    path.parent().is_some_and(|parent| device(path) != device(parent))
}

fn host(path: &Path, type_: HostType) -> Result<(), String> {
    let shown = path.display();
    let found = fs::metadata(path).ok();
    let is = |good: bool, what: &str| {
        if good { Ok(()) } else { Err(format!("hostPath type check failed: {shown} is not {what}")) }
    };
    let made = |result: io::Result<()>| result.map_err(|error| format!("{shown}: {error}"));
    match (type_, found) {
        (HostType::DirectoryOrCreate | HostType::Any, None) => made(fs::create_dir_all(path)),
        (HostType::Any, Some(_)) => Ok(()),
        (HostType::FileOrCreate, None) => {
            made(fs::OpenOptions::new().create(true).append(true).open(path).map(drop))
        }
        (HostType::Directory | HostType::DirectoryOrCreate, found) => {
            is(found.is_some_and(|meta| meta.is_dir()), "a directory")
        }
        (HostType::File | HostType::FileOrCreate, found) => {
            is(found.is_some_and(|meta| meta.is_file()), "a file")
        }
        (HostType::Socket, found) => {
            is(found.is_some_and(|meta| meta.file_type().is_socket()), "a socket file")
        }
        (HostType::CharDevice, found) => {
            is(found.is_some_and(|meta| meta.file_type().is_char_device()), "a character device")
        }
        (HostType::BlockDevice, found) => {
            is(found.is_some_and(|meta| meta.file_type().is_block_device()), "a block device")
        }
    }
}

/// Removes everything below a pod's directory: tmpfs mounts first. Volumes that live elsewhere are only mounted into
/// containers, so nothing of theirs is below.
pub(crate) fn tear_down(pod_dir: &Path) -> io::Result<()> {
    let empty_dirs = pod_dir.join("volumes").join("kubernetes.io~empty-dir");
    for entry in fs::read_dir(&empty_dirs).into_iter().flatten().flatten() {
        let path: PathBuf = entry.path();
        if is_mount(&path) {
            rustix::mount::unmount(&path, rustix::mount::UnmountFlags::DETACH)?;
        }
    }
    match fs::remove_dir_all(pod_dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
