//! Durable creates a second, with 32 and 64 clients: `cargo bench -p storage`. Prints figures, judges nothing.
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a bench prints and may panic")]

use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use storage::{Key, Limits, MemoryStore, Options, Payload, SledStore, Store};

const WRITES: usize = 40_000;
const VALUE: usize = 1024;

#[tokio::main]
async fn main() {
    for clients in [1, 32, 64] {
        let memory = MemoryStore::new(Limits::default()).unwrap();
        run("memory", Arc::new(memory), clients).await;
        let dir = tempfile::TempDir::new().unwrap();
        run("sled", Arc::new(SledStore::open(dir.path(), Options::default()).unwrap()), clients).await;
        let started = Instant::now();
        let store = SledStore::open(dir.path(), Options::default()).unwrap();
        println!("  sled opened again in {:?}, {:?}", started.elapsed(), store.stats());
        store.close().await.unwrap();
    }
}

async fn run(name: &str, store: Arc<dyn Store>, clients: usize) {
    // One client waits for the disk at every write; fewer will do.
    let each = if clients == 1 { WRITES / 10 } else { WRITES / clients };
    let started = Instant::now();
    let tasks: Vec<_> = (0..clients)
        .map(|client| {
            let store = store.clone();
            tokio::spawn(async move {
                let mut took = Vec::with_capacity(each);
                for n in 0..each {
                    let value = Payload::plain(vec![b'x'; VALUE]);
                    let begun = Instant::now();
                    store.create(Key::new(format!("/core/pods/ns-{client}/{n}")), value).await.unwrap();
                    took.push(begun.elapsed());
                }
                took
            })
        })
        .collect();
    let mut took: Vec<Duration> = Vec::new();
    for task in tasks {
        took.extend(task.await.unwrap());
    }
    let total = started.elapsed();
    took.sort();
    let at = |part: f64| took[((took.len() - 1) as f64 * part) as usize];
    let rate = took.len() as f64 / total.as_secs_f64();
    println!("{name:6} {clients:2} clients: {rate:8.0} creates/s, p50 {:?}, p99 {:?}", at(0.5), at(0.99));
    store.close().await.unwrap();
}
