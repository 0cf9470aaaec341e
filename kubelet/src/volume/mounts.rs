//! A container's `volumeMounts` as mounts of the engine.

use super::{Ready, Volumes, is_inside};
use crate::{
    env::expand,
    runtime::{Error, Mount, MountSource},
};
use k8s_openapi::api::core::v1::{Container, VolumeMount};
use std::{
    fs, io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

/// All mounts of a container. `env` is its finished environment, for `subPathExpr`. Blocking: sub-paths are looked up
/// and made.
pub(crate) fn mounts(
    container: &Container,
    volumes: &Volumes,
    env: &[(String, String)],
) -> Result<Vec<Mount>, Error> {
    container.volume_mounts.iter().flatten().map(|mount| one(mount, volumes, env)).collect()
}

fn one(mount: &VolumeMount, volumes: &Volumes, env: &[(String, String)]) -> Result<Mount, Error> {
    let config = |message: String| Error::ContainerConfig(message);
    let volume = volumes.get(&mount.name).ok_or_else(|| {
        config(format!("volume {:?} of mount {:?} is not there", mount.name, mount.mount_path))
    })?;
    let sub_path = sub_path(mount, env).map_err(config)?;
    let (source, volume_read_only) = match volume {
        Ready::EngineTmpfs { size_bytes } => (MountSource::Tmpfs { size_bytes: *size_bytes }, false),
        Ready::Path { path, read_only } => {
            let source = match sub_path {
                Some(sub) => below(path, &sub).map_err(|e| {
                    config(format!("failed to prepare subPath for volumeMount {:?}: {e}", mount.name))
                })?,
                None => path.clone(),
            };
            (MountSource::Path(source), *read_only)
        }
    };
    let propagation = match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => Some("rslave"),
        Some("Bidirectional") => Some("rshared"),
        _ => None,
    };
    let target = mount.mount_path.clone();
    let target = if target.starts_with('/') { target } else { format!("/{target}") };
    Ok(Mount { source, target, read_only: volume_read_only || mount.read_only == Some(true), propagation })
}

fn sub_path(mount: &VolumeMount, env: &[(String, String)]) -> Result<Option<String>, String> {
    let path = match (mount.sub_path_expr.as_deref(), mount.sub_path.as_deref()) {
        (Some(expr), _) if !expr.is_empty() => {
            let get = |name: &str| env.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
            let missing = missing_variable(expr, &get);
            if let Some(name) = missing {
                return Err(format!("missing value for {name:?} in subPathExpr {expr:?}"));
            }
            expand(expr, get)
        }
        (_, Some(path)) if !path.is_empty() => path.to_owned(),
        _ => return Ok(None),
    };
    if !is_inside(&path) {
        return Err(format!("subPath {path:?} must be a relative path and must not contain '..'"));
    }
    Ok(Some(path))
}

fn missing_variable<'a>(expr: &str, get: &impl Fn(&str) -> Option<&'a str>) -> Option<String> {
    let mut missing = None;
    let mut rest = expr;
    while let Some((_, after)) = rest.split_once("$(") {
        let (name, after) = after.split_once(')')?;
        if get(name).is_none_or(str::is_empty) {
            missing = Some(name.to_owned());
        }
        rest = after;
    }
    missing
}

/// The path below a volume, made if it is missing, with symbolic links followed: it must not lead out of the volume.
fn below(volume: &Path, sub_path: &str) -> io::Result<PathBuf> {
    let root = volume.canonicalize()?;
    let wanted = root.join(sub_path);
    if fs::symlink_metadata(&wanted).is_err() {
        // Only below what is inside already: a link must not make us create directories elsewhere.
        let mut existing = root.clone();
        for part in Path::new(sub_path).components() {
            let next = existing.join(part);
            if fs::symlink_metadata(&next).is_err() {
                fs::create_dir(&next)?;
                let mode = fs::metadata(&root)?.permissions().mode() & 0o7777;
                fs::set_permissions(&next, fs::Permissions::from_mode(mode))?;
            }
            existing = next.canonicalize()?;
            inside(&root, &existing)?;
        }
    }
    let found = wanted.canonicalize()?;
    inside(&root, &found)?;
    Ok(found)
}

fn inside(root: &Path, path: &Path) -> io::Result<()> {
    if path.starts_with(root) {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::PermissionDenied, "the path leads out of its volume"))
}
