//! What only a store on disk can get wrong: another server, damage, another version.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::path::Path;
use storage::{Error, Key, Options, Payload, Prefix, Revision, SledStore, Store};
use tempfile::TempDir;

fn open(dir: &Path) -> Result<SledStore, Error> {
    SledStore::open(dir, Options::default())
}

/// A closed store with revisions 1 to 40: a key each, the first updated by the last.
async fn filled() -> TempDir {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path()).unwrap();
    for n in 1..40 {
        store.create(Key::new(format!("/pods/{n}")), Payload::plain("value")).await.unwrap();
    }
    store.update(Key::new("/pods/1"), Revision(1), Payload::plain("newer")).await.unwrap();
    store.close().await.unwrap();
    dir
}

fn record(revision: u64) -> Vec<u8> {
    [b"r".as_slice(), &revision.to_be_bytes()].concat()
}

/// Changes the database behind the store's back.
fn tamper(dir: &Path, change: impl FnOnce(&sled::Db)) {
    let config = sled::Config::new().path(dir).flush_every_ms(None);
    // sled's own threads may still hold the database that was closed just now.
    let mut tries = 0..100_000;
    let db = loop {
        match config.open() {
            Ok(db) => break db,
            Err(error) => assert!(tries.next().is_some(), "{error}"),
        }
        std::thread::yield_now();
    };
    change(&db);
    db.flush().unwrap();
}

/// The place and the complaint.
fn damage(dir: &Path) -> (String, String) {
    match open(dir) {
        Err(Error::Corrupt { place, what }) => (place, what),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_second_server_is_told() {
    let dir = TempDir::new().unwrap();
    let first = open(dir.path()).unwrap();
    let error = open(dir.path()).unwrap_err().to_string();
    assert!(error.contains("is in use by another server"), "{error}");
    assert!(error.contains(&std::process::id().to_string()), "{error}");
    first.close().await.unwrap();
    open(dir.path()).unwrap();
}

#[tokio::test]
async fn a_dropped_store_keeps_what_it_acknowledged() {
    let dir = TempDir::new().unwrap();
    let store = open(dir.path()).unwrap();
    store.create(Key::new("/a"), Payload::plain("1")).await.unwrap();
    drop(store);
    assert!(open(dir.path()).unwrap().get(&Key::new("/a")).await.unwrap().is_some());
}

#[tokio::test]
async fn a_changed_byte_is_found() {
    let dir = filled().await;
    tamper(dir.path(), |db| {
        let mut bytes = db.get(record(7)).unwrap().unwrap().to_vec();
        bytes[30] ^= 1;
        db.insert(record(7), bytes).unwrap();
    });
    let (place, what) = damage(dir.path());
    assert!(place.ends_with("db, record 7"), "{place}");
    assert!(what.contains("checksum"), "{what}");
}

#[tokio::test]
async fn a_torn_record_is_found() {
    let dir = filled().await;
    tamper(dir.path(), |db| drop(db.insert(record(9), b"\x01").unwrap()));
    let (place, what) = damage(dir.path());
    assert!(place.ends_with("record 9") && what.contains("cut short"), "{place}: {what}");
}

#[tokio::test]
async fn a_missing_record_is_found() {
    let dir = filled().await;
    tamper(dir.path(), |db| drop(db.remove(record(12)).unwrap()));
    let (place, what) = damage(dir.path());
    assert!(place.ends_with("record 12") && what.contains("missing"), "{place}: {what}");
}

#[tokio::test]
async fn a_record_in_the_wrong_place_is_found() {
    let dir = filled().await;
    tamper(dir.path(), |db| {
        let other = db.get(record(3)).unwrap().unwrap();
        db.insert(record(4), other).unwrap();
    });
    assert!(damage(dir.path()).0.ends_with("record 4"));
}

#[tokio::test]
async fn a_lost_end_after_a_compaction_is_found() {
    let dir = filled().await;
    let store = open(dir.path()).unwrap();
    store.compact(Revision(40)).await.unwrap();
    store.close().await.unwrap();
    tamper(dir.path(), |db| drop(db.remove(record(40)).unwrap()));
    let (place, what) = damage(dir.path());
    assert!(place.ends_with("record 40") && what.contains("missing"), "{place}: {what}");
}

#[tokio::test]
async fn another_format_is_refused() {
    let dir = filled().await;
    tamper(dir.path(), |db| drop(db.insert("mformat", "minik8s-storage 2").unwrap()));
    let error = open(dir.path()).unwrap_err();
    assert!(matches!(error, Error::Backend(_)), "{error}");
    assert!(error.to_string().contains("minik8s-storage 2"), "{error}");
}

#[tokio::test]
async fn a_foreign_database_is_refused() {
    let dir = TempDir::new().unwrap();
    tamper(dir.path(), |db| drop(db.insert("their", "data").unwrap()));
    assert!(damage(dir.path()).1.contains("not a minik8s store"));
}

#[tokio::test]
async fn a_file_in_the_way_is_an_error() {
    let dir = TempDir::new().unwrap();
    let path = dir.path().join("taken");
    std::fs::write(&path, "").unwrap();
    let error = open(&path).unwrap_err().to_string();
    assert!(error.contains("taken"), "{error}");
}

#[tokio::test]
async fn compaction_empties_the_disk_too() {
    let dir = filled().await;
    let store = open(dir.path()).unwrap();
    for n in 2..40 {
        store.delete(Key::new(format!("/pods/{n}")), Revision(n), Payload::plain("gone")).await.unwrap();
    }
    let newest = store.revision();
    store.compact(newest).await.unwrap();
    assert!(store.stats().disk_bytes.is_some_and(|bytes| bytes > 0));
    store.close().await.unwrap();
    tamper(dir.path(), |db| {
        let left: Vec<_> = db.scan_prefix("r").keys().map(|key| key.unwrap().to_vec()).collect();
        // The live key's last write, and the newest record although it is a tombstone.
        assert_eq!(left, [record(40), record(newest.0)]);
    });
    let store = open(dir.path()).unwrap();
    let next = store.create(Key::new("/pods/new"), Payload::plain("")).await.unwrap();
    assert_eq!(next.modified.0, newest.0 + 1);
    let mut watch = store.watch(Prefix::new(""), newest).await.unwrap();
    assert_eq!(watch.try_next().unwrap().unwrap().revision, next.modified);
    store.close().await.unwrap();
    tamper(dir.path(), |db| assert!(!db.contains_key(record(newest.0)).unwrap()));
}
