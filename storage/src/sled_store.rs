//! The embedded default: the engine over an append-only sled tree.
//!
//! | key | value |
//! |---|---|
//! | `m` `format` | [`codec::FORMAT`] |
//! | `m` `floor` | u64 BE: history up to and including this revision is gone |
//! | `r` + revision, u64 BE | one write: [`codec::encode`] |
//!
//! A group is one sled batch, so a crash leaves all of it or nothing. Revisions after the floor are there without
//! a gap; before it only the records of live values (and what a crash kept from being cleared away). The newest record
//! is never removed, not even a compacted tombstone: it says which revisions were used.
//!
//! sled is only read at start. All its calls come from the writer thread.

mod codec;
mod durable;
mod load;

use crate::{
    engine::{Backed, Engine},
    error::{Error, Result},
    limits::Limits,
    types::Revision,
    writer::{Group, Log},
};
use durable::{DirLock, Sync};
use std::{
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

/// sled counts a fifth of what it really takes, and we read it only at start: this costs some 20 MB at worst.
const CACHE_BYTES: u64 = 4 << 20;
/// How long sled's own threads may take to let go of a database that this process has just closed.
const HANDOVER: Duration = Duration::from_secs(5);
const HANDOVER_STEP: Duration = Duration::from_millis(5);

/// How a [`SledStore`] is opened.
#[derive(Debug, Clone, Default)]
pub struct Options {
    pub limits: Limits,
}

/// Durable in one directory, for one process at a time.
#[derive(Debug)]
pub struct SledStore {
    engine: Engine,
    path: PathBuf,
}

impl SledStore {
    /// Opens the directory, or makes it (mode 0700). Reads and checks everything in it, so it blocks: a fifth of a
    /// second for 200,000 records.
    ///
    /// # Errors
    /// `Backend` if the directory is in use by another process, cannot be used, or was written by a newer version;
    /// `Corrupt` with the place and what is wrong there.
    pub fn open(path: impl AsRef<Path>, options: Options) -> Result<Self> {
        let path = path.as_ref().to_path_buf();
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&path)
            .map_err(|error| backend(&path, "cannot make the directory", &error))?;
        let lock = DirLock::take(&path)?;
        let db = open_sled(&path)?;
        let sync = Sync::new(&path)?;
        load::prepare(&db, &path)?;
        db.flush().map_err(|error| sled_error(&path, error))?;
        let loaded = load::load(&db, &path, options.limits)?;
        let log = SledLog { db, sync, path: path.clone(), _lock: lock };
        let mut log = Box::new(log);
        log.sync.directory()?;
        log.sync.commit()?;
        let engine = Engine::start(loaded.state, log, loaded.garbage)?;
        Ok(Self { engine, path })
    }
}

impl Backed for SledStore {
    fn engine(&self) -> &Engine {
        &self.engine
    }
    fn disk_bytes(&self) -> Option<u64> {
        let used = |path: PathBuf| std::fs::metadata(path).map(|meta| meta.blocks() * 512);
        let blobs = std::fs::read_dir(self.path.join("blobs")).ok()?;
        let blobs: u64 = blobs.flatten().filter_map(|blob| used(blob.path()).ok()).sum();
        Some(blobs + used(self.path.join("db")).ok()?)
    }
}

fn open_sled(path: &Path) -> Result<sled::Db> {
    let config = sled::Config::new().path(path).cache_capacity(CACHE_BYTES).flush_every_ms(None);
    let deadline = Instant::now() + HANDOVER;
    loop {
        match config.open() {
            // We hold the directory's lock, so this can only be what is left of our own last instance.
            Err(sled::Error::Io(error))
                if error.to_string().contains("lock") && Instant::now() < deadline =>
            {
                thread::sleep(HANDOVER_STEP);
            }
            other => return other.map_err(|error| sled_error(path, error)),
        }
    }
}

struct SledLog {
    db: sled::Db,
    sync: Sync,
    path: PathBuf,
    /// Last, so that it is let go last.
    _lock: DirLock,
}

impl SledLog {
    fn flush(&mut self) -> Result<()> {
        self.db.flush().map_err(|error| sled_error(&self.path, error))?;
        // sled only starts the write-back (sync_file_range); this waits until the disk has it.
        self.sync.commit()
    }
}

impl Log for SledLog {
    fn append(&mut self, group: &Group<'_>) -> Result<()> {
        let mut batch = sled::Batch::default();
        for entry in group.entries {
            batch.insert(&codec::record_key(entry.event.revision), codec::encode(entry));
        }
        if let Some(floor) = group.floor {
            batch.insert(codec::FLOOR_KEY, &floor.0.to_be_bytes());
        }
        for revision in group.garbage {
            batch.remove(&codec::record_key(*revision));
        }
        self.db.apply_batch(batch).map_err(|error| sled_error(&self.path, error))?;
        // Clearing away may be lost: the next start finds what was left.
        if group.entries.is_empty() && group.floor.is_none() { Ok(()) } else { self.flush() }
    }

    fn close(mut self: Box<Self>) -> Result<()> {
        self.flush()
    }
}

fn sled_error(path: &Path, error: sled::Error) -> Error {
    match error {
        sled::Error::Corruption { at, .. } => Error::Corrupt {
            place: path.join("db").display().to_string(),
            what: format!("a page fails its check ({at:?})"),
        },
        other => Error::Backend(format!("{}: {other}", path.display())),
    }
}

fn backend(path: &Path, what: &str, error: &std::io::Error) -> Error {
    Error::Backend(format!("{}: {what}: {error}", path.display()))
}

/// Where a record is, for a person.
fn place(path: &Path, revision: Revision) -> String {
    format!("{}, record {revision}", path.join("db").display())
}
