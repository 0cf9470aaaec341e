//! The one directory that holds a cluster: what is in it, and the lock that keeps it to one process.

use crate::{Exit, certs::write_private};
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::{self, File},
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

/// What we make below the data directory; `reset` removes these and nothing else.
pub const ENTRIES: [&str; 7] = ["store", "pki", "pods", "nodes", "volumes", "cluster-id", "admin.kubeconfig"];
const LOCK: &str = "lock";

/// An opened data directory. The lock goes with it, or with the process.
pub struct DataDir {
    root: PathBuf,
    cluster_id: String,
    _lock: File,
}

impl DataDir {
    /// Makes (mode 0700) or opens the directory, locks it, and reads or draws the cluster's id.
    pub fn open(root: &Path) -> Result<Self, Exit> {
        let unusable = |e: &dyn std::fmt::Display| {
            Exit::usage(format!(
                "cannot use the data directory {}: {e}; say another with --data-dir",
                root.display()
            ))
        };
        fs::DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(|e| unusable(&e))?;
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(root.join(LOCK))
            .map_err(|e| unusable(&e))?;
        flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            Exit::usage(format!(
                "the data directory {} is in use by another minik8s; stop that one, or say another with --data-dir",
                root.display()
            ))
        })?;
        let path = root.join("cluster-id");
        let cluster_id = match fs::read_to_string(&path) {
            Ok(id) => id.trim().to_owned(),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                let id = format!("{:08x}", fastrand::u32(..));
                write_private(&path, &id)?;
                id
            }
            Err(e) => return Err(unusable(&e)),
        };
        if cluster_id.len() != 8 || !cluster_id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(Exit::usage(format!(
                "{} does not hold a cluster id; restore it or reset",
                path.display()
            )));
        }
        Ok(Self { root: root.to_owned(), cluster_id, _lock: lock })
    }

    /// Labels everything that this cluster makes in Docker and the kernel.
    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }
    pub fn store(&self) -> PathBuf {
        self.root.join("store")
    }
    pub fn pki(&self) -> PathBuf {
        self.root.join("pki")
    }
    pub fn volumes(&self) -> PathBuf {
        self.root.join("volumes")
    }

    /// What belongs to one node: of the first node only that it is stopped, of the others their pods too.
    pub fn node(&self, name: &str) -> PathBuf {
        self.root.join("nodes").join(name)
    }

    /// Removes all that a cluster made here; the directory itself goes too if nothing else is in it.
    pub fn remove(self) -> Result<(), Exit> {
        for name in ENTRIES.into_iter().chain([LOCK]) {
            let path = self.root.join(name);
            let removed = match fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_dir() => fs::remove_dir_all(&path),
                Ok(_) => fs::remove_file(&path),
                Err(e) => Err(e),
            };
            match removed {
                Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                    return Err(Exit::failed(format!("cannot remove {}: {e}", path.display())));
                }
                _ => {}
            }
        }
        // Somebody else's files stay, and so does the directory then.
        let _ = fs::remove_dir(&self.root);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_process_at_a_time_one_id_for_life_and_strangers_files_stay() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("data");
        let first = DataDir::open(&root).unwrap();
        let id = first.cluster_id().to_owned();
        let refused = DataDir::open(&root).err().unwrap();
        assert!(refused.message.contains("in use"), "{}", refused.message);
        drop(first);
        let again = DataDir::open(&root).unwrap();
        assert_eq!(again.cluster_id(), id);
        fs::create_dir_all(again.volumes().join("pvc-1")).unwrap();
        fs::write(root.join("notes.txt"), "mine").unwrap();
        again.remove().unwrap();
        let left: Vec<_> = fs::read_dir(&root).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert_eq!(left, ["notes.txt"]);
    }
}
