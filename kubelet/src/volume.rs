//! A pod's volumes: from the spec to directories on the host and mounts of its containers.
//!
//! Two halves: `resolve` is pure (what each volume has to be, from the spec and fetched objects), `materialize` makes it so
//! on disk and may be repeated at any time: it is also how files are kept up to date.
//! Layout: `<data_dir>/pods/<uid>/volumes/<plugin>/<name>`.

mod atomic;
mod disk;
mod mounts;
mod resolve;

pub(crate) use disk::{materialize, tear_down};
pub(crate) use mounts::mounts;
#[cfg(feature = "testing")]
pub use resolve::bound_volume;
#[cfg_attr(not(feature = "testing"), allow(unreachable_pub))]
pub use resolve::{Claims, claim_names};
pub(crate) use resolve::{Sources, TokenRequest, Tokens, resolve, token_requests};

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
};

/// What one volume has to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) name: String,
    pub(crate) kind: PlanKind,
    /// The pod's fsGroup, for volumes whose ownership is ours to set.
    pub(crate) group: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PlanKind {
    /// A directory of the pod's own.
    EmptyDir,
    /// A tmpfs of the pod's own.
    Memory { size_bytes: Option<u64> },
    /// Files of which all change at once: configMap, secret, downwardAPI, projected.
    Files { plugin: &'static str, files: Files },
    /// A path of the host.
    Host { path: PathBuf, type_: HostType, read_only: bool },
}

/// Relative path → content and mode.
pub(crate) type Files = BTreeMap<String, File>;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct File {
    pub(crate) content: Vec<u8>,
    pub(crate) mode: u32,
    /// Owner when it must not be root: a token for a pod that runs as one user.
    pub(crate) owner: Option<u32>,
}

/// hostPath's `type`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum HostType {
    Any,
    DirectoryOrCreate,
    Directory,
    FileOrCreate,
    File,
    Socket,
    CharDevice,
    BlockDevice,
}

/// A volume that is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ready {
    Path {
        path: PathBuf,
        read_only: bool,
    },
    /// Only as a tmpfs made by the engine, one for each container: we may not mount.
    EngineTmpfs {
        size_bytes: Option<u64>,
    },
}

pub(crate) type Volumes = BTreeMap<String, Ready>;

/// `<data_dir>/pods/<uid>`.
pub(crate) fn pod_dir(data_dir: &Path, uid: &str) -> PathBuf {
    data_dir.join("pods").join(uid)
}

/// Whether a path from a spec stays below where it is put.
fn is_inside(path: &str) -> bool {
    !path.is_empty() && !path.starts_with('/') && !path.split('/').any(|part| part == "..")
}

#[cfg(test)]
mod tests;
