//! The directory of one provisioned volume: made, and removed, only directly below the volumes directory.

use crate::error::{Error, Result};
use async_trait::async_trait;
use std::{
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    root: PathBuf,
    path: PathBuf,
}

/// What makes and removes directories.
#[async_trait]
pub trait Disk: Send + Sync {
    async fn make(&self, directory: &Directory) -> Result<()>;
    async fn remove(&self, directory: &Directory) -> Result<()>;
}

/// The machine's own.
#[derive(Debug, Clone, Copy)]
pub struct Filesystem;

#[async_trait]
impl Disk for Filesystem {
    async fn make(&self, directory: &Directory) -> Result<()> {
        directory.make().await
    }
    async fn remove(&self, directory: &Directory) -> Result<()> {
        directory.remove().await
    }
}

impl Directory {
    /// `name` is a volume's name; anything that could lead elsewhere is refused.
    pub fn of(root: &Path, name: &str) -> Result<Self> {
        if !api::names::dns_subdomain(name).is_empty() || name.contains("..") {
            return Err(Error::Object(format!("volume name {name:?} is not usable as a directory")));
        }
        Ok(Self { root: root.to_owned(), path: root.join(name) })
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes it with mode 0777, whatever the umask: pods run as any user (peers.md §2, row 8).
    async fn make(&self) -> Result<()> {
        tokio::fs::create_dir_all(&self.path).await?;
        tokio::fs::set_permissions(&self.path, std::fs::Permissions::from_mode(0o777)).await?;
        Ok(())
    }

    /// Removes it with all it holds. A link in its place is removed itself, never followed.
    async fn remove(&self) -> Result<()> {
        let parent = match tokio::fs::canonicalize(&self.root).await {
            Ok(parent) => parent,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        let path = parent.join(self.path.file_name().unwrap_or_default());
        let done = match tokio::fs::symlink_metadata(&path).await {
            Ok(meta) if meta.is_dir() => tokio::fs::remove_dir_all(&path).await,
            Ok(_) => tokio::fs::remove_file(&path).await,
            Err(error) => Err(error),
        };
        match done {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error.into()),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn only_what_is_below_the_root_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let (root, outside) = (dir.path().join("volumes"), dir.path().join("outside"));
        std::fs::create_dir_all(&outside).unwrap();
        let volume = Directory::of(&root, "pvc-1").unwrap();
        volume.make().await.unwrap();
        assert_eq!(std::fs::metadata(volume.path()).unwrap().permissions().mode() & 0o777, 0o777);
        std::fs::write(volume.path().join("data"), "x").unwrap();
        volume.remove().await.unwrap();
        volume.remove().await.unwrap();
        assert!(!volume.path().exists());
        std::os::unix::fs::symlink(&outside, volume.path()).unwrap();
        volume.remove().await.unwrap();
        assert!(outside.exists() && !volume.path().exists());
        for bad in ["..", "a/b", "", "../outside", "a..b"] {
            assert!(Directory::of(&root, bad).is_err(), "{bad}");
        }
    }
}
