//! Replaces all files of a volume at once, as the real kubelet does: the files live in a dated directory, `..data` is a
//! symbolic link to it that is swapped by rename(2), and every visible name links through `..data`. A reader sees the old
//! files or the new ones, never some of each.

use super::Files;
use jiff::Timestamp;
use std::{
    collections::BTreeSet,
    fs, io,
    os::unix::fs::{PermissionsExt, chown, symlink},
    path::Path,
};

const DATA: &str = "..data";
const NEXT: &str = "..data_tmp";

/// Makes `dir` show exactly `files`. Nothing is written when it does already.
pub(super) fn write(dir: &Path, files: &Files, group: Option<u32>, now: Timestamp) -> io::Result<()> {
    let data = dir.join(DATA);
    if shows(&data, files) {
        return Ok(());
    }
    let stamp = format!("..{}.{:09}", now.strftime("%Y_%m_%d_%H_%M_%S"), now.subsec_nanosecond());
    let fresh = dir.join(&stamp);
    fs::create_dir(&fresh)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o755))?;
    for (path, file) in files {
        let target = fresh.join(path);
        if let Some(parent) = target.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&target, &file.content)?;
        let mode = if group.is_some() { file.mode | ((file.mode & 0o400) >> 3) } else { file.mode };
        fs::set_permissions(&target, fs::Permissions::from_mode(mode))?;
        if group.is_some() || file.owner.is_some() {
            chown(&target, file.owner, group)?;
        }
    }
    if let Some(group) = group {
        chown(&fresh, None, Some(group))?;
        fs::set_permissions(&fresh, fs::Permissions::from_mode(0o2755))?;
    }
    let old = fs::read_link(&data).ok();
    let next = dir.join(NEXT);
    remove_if_there(fs::remove_file(&next))?;
    symlink(&stamp, &next)?;
    fs::rename(&next, &data)?;
    link_names(dir, files)?;
    if let Some(old) = old {
        remove_if_there(fs::remove_dir_all(dir.join(old)))?;
    }
    Ok(())
}

/// Whether the directory holds these files and no others.
fn shows(data: &Path, files: &Files) -> bool {
    let same = |(path, file): (&String, &super::File)| {
        let target = data.join(path);
        fs::read(&target).is_ok_and(|content| content == file.content)
    };
    fs::symlink_metadata(data).is_ok() && count(data) == files.len() && files.iter().all(same)
}

fn count(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.map(|entry| if entry.path().is_dir() { count(&entry.path()) } else { 1 }).sum()
}

/// The visible names: the first part of every path, as a link through `..data`. Names that have gone are removed.
fn link_names(dir: &Path, files: &Files) -> io::Result<()> {
    let names: BTreeSet<&str> = files.keys().filter_map(|path| path.split('/').next()).collect();
    for name in &names {
        let link = dir.join(name);
        if fs::symlink_metadata(&link).is_err() {
            symlink(Path::new(DATA).join(name), &link)?;
        }
    }
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if !name.starts_with("..") && !names.contains(name.as_ref()) {
            remove_if_there(fs::remove_file(entry.path()))?;
        }
    }
    Ok(())
}

fn remove_if_there(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}
