//! What sled leaves to us: that bytes reach the disk, and that one process has the directory.

use super::backend;
use crate::error::{Error, Result};
use std::{
    collections::HashSet,
    ffi::OsString,
    fs::{File, OpenOptions, TryLockError},
    io::{Read, Write},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant, SystemTime},
};

/// How long a store of this process that was dropped, not closed, may take to end.
const LOCK_WAIT: Duration = Duration::from_secs(1);
const LOCK_STEP: Duration = Duration::from_millis(5);
/// Two changes of a directory this close together may carry one time stamp (the kernel's clock tick, with room).
const STAMP_STEP: Duration = Duration::from_millis(100);

/// The exclusive lock of a data directory; let go when dropped, also by a crash.
#[derive(Debug)]
pub(super) struct DirLock {
    _file: File,
}

impl DirLock {
    pub(super) fn take(dir: &Path) -> Result<Self> {
        let path = dir.join("lock");
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(|error| backend(&path, "cannot be opened", &error))?;
        let deadline = Instant::now() + LOCK_WAIT;
        loop {
            match file.try_lock() {
                Ok(()) => break,
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => thread::sleep(LOCK_STEP),
                Err(TryLockError::WouldBlock) => {
                    let mut holder = String::new();
                    let _ = file.read_to_string(&mut holder);
                    let holder = if holder.is_empty() {
                        String::new()
                    } else {
                        format!(" (process {})", holder.trim())
                    };
                    return Err(Error::Backend(format!(
                        "{} is in use by another server{holder}",
                        dir.display()
                    )));
                }
                Err(TryLockError::Error(error)) => return Err(backend(&path, "cannot be locked", &error)),
            }
        }
        // Only for the message above; the lock is what counts.
        let note = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
        note.map_err(|error| backend(&path, "cannot be written", &error))?;
        Ok(Self { _file: file })
    }
}

/// Our own handles on sled's files: sled's flush issues no fsync.
#[derive(Debug)]
pub(super) struct Sync {
    dir: PathBuf,
    db: File,
    blobs: Blobs,
}

impl Sync {
    pub(super) fn new(dir: &Path) -> Result<Self> {
        let path = dir.join("db");
        let db = File::open(&path).map_err(|error| backend(&path, "cannot be opened", &error))?;
        Ok(Self { dir: dir.to_path_buf(), db, blobs: Blobs::new(dir.join("blobs")) })
    }

    /// Makes the directory's entries durable, once after opening.
    pub(super) fn directory(&self) -> Result<()> {
        let parent = self.dir.parent().filter(|parent| !parent.as_os_str().is_empty());
        for dir in [Some(self.dir.as_path()), parent].into_iter().flatten() {
            sync_dir(dir).map_err(|error| backend(dir, "cannot be synced", &error))?;
        }
        Ok(())
    }

    /// Returns when what sled has flushed is on the disk.
    pub(super) fn commit(&mut self) -> Result<()> {
        self.blobs.commit().map_err(|error| backend(&self.blobs.dir, "cannot be synced", &error))?;
        self.db.sync_data().map_err(|error| backend(&self.dir.join("db"), "cannot be synced", &error))
    }
}

/// sled writes pages over 128 KiB to a file of their own each.
#[derive(Debug)]
struct Blobs {
    dir: PathBuf,
    synced: HashSet<OsString>,
    /// The directory's time stamp when it was last gone through, unless another change could carry the same one.
    seen: Option<SystemTime>,
}

impl Blobs {
    fn new(dir: PathBuf) -> Self {
        Self { dir, synced: HashSet::new(), seen: None }
    }

    /// Syncs the files that are new. Costs one stat where there are none, as in most groups.
    fn commit(&mut self) -> std::io::Result<()> {
        let stamp = std::fs::metadata(&self.dir)?.modified()?;
        if self.seen == Some(stamp) {
            return Ok(());
        }
        let mut present = HashSet::new();
        for entry in std::fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if !self.synced.contains(&name) {
                match File::open(entry.path()) {
                    Ok(file) => file.sync_all()?,
                    // sled has replaced it meanwhile.
                    Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
                    Err(error) => return Err(error),
                }
            }
            present.insert(name);
        }
        if !present.is_subset(&self.synced) {
            sync_dir(&self.dir)?;
        }
        self.synced = present;
        let settled = SystemTime::now().duration_since(stamp).is_ok_and(|age| age > STAMP_STEP);
        self.seen = settled.then_some(stamp);
        Ok(())
    }
}

fn sync_dir(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}
