//! The battery on every backend.
#![allow(clippy::unwrap_used, reason = "test code")]

use async_trait::async_trait;
use std::sync::Arc;
use storage::{
    MemoryStore, Options, SledStore, Store,
    testing::{Bed, limits},
};
use tempfile::TempDir;

struct Memory(Arc<dyn Store>);

fn memory() -> Memory {
    Memory(Arc::new(MemoryStore::new(limits()).unwrap()))
}

impl Bed for Memory {
    fn store(&self) -> Arc<dyn Store> {
        self.0.clone()
    }
}

struct Sled {
    store: Arc<dyn Store>,
    dir: TempDir,
    reopens: bool,
}

fn open(dir: &TempDir) -> Arc<dyn Store> {
    Arc::new(SledStore::open(dir.path(), Options { limits: limits() }).unwrap())
}

fn sled(reopens: bool) -> Sled {
    let dir = TempDir::new().unwrap();
    Sled { store: open(&dir), dir, reopens }
}

#[async_trait]
impl Bed for Sled {
    fn store(&self) -> Arc<dyn Store> {
        self.store.clone()
    }
    async fn step(&mut self) {
        if self.reopens {
            self.store.close().await.unwrap();
            self.store = open(&self.dir);
        }
    }
}

mod memory {
    storage::battery!(super::memory());
}
mod sled_kept_open {
    storage::battery!(super::sled(false));
}
mod sled_reopened {
    storage::battery!(super::sled(true));
}
