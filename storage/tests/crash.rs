//! kill -9 under load: what was acknowledged is there, and no revision is given twice.
#![allow(clippy::unwrap_used, reason = "test code")]

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};
use storage::{
    Error, EventKind, Key, Limits, ListOptions, Options, Payload, Prefix, Revision, SledStore, Store,
};
use tempfile::TempDir;

const DIR: &str = "MINIK8S_STORAGE_CRASH_DIR";
const WRITERS: u64 = 16;
const LIVES: u64 = 8;

fn open(path: &Path) -> SledStore {
    // A small history, so that trimming runs all the time as well.
    let limits = Limits { history_events: 500, history_age: Duration::MAX, ..Limits::default() };
    SledStore::open(path, Options { limits }).unwrap()
}

fn value(writer: u64, step: u64) -> String {
    // Some values are large enough for a file of their own in sled.
    let size = if step.is_multiple_of(97) { 200_000 } else { 500 + writer as usize };
    format!("{writer}/{step}/{}", "x".repeat(size))
}

/// What writer `writer` does in its step `step`: creates, updates twice, deletes, again and again, over 5 keys.
fn plan(writer: u64, step: u64) -> (Key, EventKind) {
    let key = Key::new(format!("/w/{writer}/{}", step / 4 % 5));
    let kind = match step % 4 {
        0 => EventKind::Created,
        3 => EventKind::Deleted,
        _ => EventKind::Updated,
    };
    (key, kind)
}

/// Not a test of its own: the process that is killed. Each writer goes on from where its last life was seen to be.
#[tokio::test]
async fn child() {
    let Ok(dir) = std::env::var(DIR) else { return };
    let starts: Vec<u64> = std::env::var("STARTS").unwrap().split(',').map(|n| n.parse().unwrap()).collect();
    let store = Arc::new(open(Path::new(&dir)));
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (store, start) = (store.clone(), starts[writer as usize]);
            tokio::spawn(async move {
                for step in start.. {
                    let (key, kind) = plan(writer, step);
                    let value = Payload::plain(value(writer, step));
                    let old = store.get(&key).await.unwrap().map(|old| old.modified);
                    let done = match kind {
                        EventKind::Created => store.create(key, value).await,
                        EventKind::Updated => store.update(key, old.unwrap(), value).await,
                        EventKind::Deleted => store.delete(key, old.unwrap(), value).await,
                    };
                    // One write call a line: never torn, never held back in a buffer.
                    let line = format!("ack {writer} {step} {}\n", done.unwrap().modified);
                    std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

fn spawn(dir: &Path, starts: &[u64]) -> Child {
    let starts: Vec<_> = starts.iter().map(u64::to_string).collect();
    Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "child", "--nocapture"])
        .env(DIR, dir)
        .env("STARTS", starts.join(","))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

#[tokio::test]
async fn kill_nine_loses_nothing() {
    let dir = TempDir::new().unwrap();
    // For each writer the next step; for each revision ever acknowledged who got it.
    let mut next = vec![0u64; WRITERS as usize];
    let mut given: HashMap<u64, (u64, u64)> = HashMap::new();
    let mut newest = 0;
    for life in 0..LIVES {
        let before = newest;
        let mut child = spawn(dir.path(), &next);
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let enough = fastrand::usize(50..1500);
        let (mut seen, mut killed) = (0, false);
        // After the kill too: what is in the pipe was acknowledged.
        for line in lines {
            let line = line.unwrap();
            let Some(ack) = line.strip_prefix("ack ") else { continue };
            let numbers: Vec<u64> = ack.split(' ').map(|number| number.parse().unwrap()).collect();
            let [writer, step, revision] = numbers[..] else { panic!("{line}") };
            assert_eq!(step, next[writer as usize], "life {life}: {line}");
            next[writer as usize] = step + 1;
            assert!(revision > before, "life {life}: revision {revision} again, {before} was given before");
            assert_eq!(
                given.insert(revision, (writer, step)),
                None,
                "life {life}: revision {revision} twice"
            );
            newest = newest.max(revision);
            seen += 1;
            if seen == enough && !killed {
                child.kill().unwrap();
                killed = true;
            }
        }
        child.wait().unwrap();
        assert!(killed, "life {life}: the child ended by itself after {seen} writes");

        let store = open(dir.path());
        assert!(store.revision().0 >= newest, "life {life}");
        newest = store.revision().0;
        check(&store, &mut next, &given, life).await;
        store.close().await.unwrap();
    }
    println!("{} writes acknowledged in {LIVES} lives, newest revision {newest}", given.len());
}

/// Compares what is there with what was acknowledged, and moves `next` past a step that was written but not acknowledged.
async fn check(store: &SledStore, next: &mut [u64], given: &HashMap<u64, (u64, u64)>, life: u64) {
    let found = store.list(&Prefix::new("/w/"), ListOptions::default()).await.unwrap();
    let mut there: HashMap<String, (String, u64)> = HashMap::new();
    for item in found.items {
        let text = String::from_utf8(item.value.to_vec()).unwrap();
        there.insert(item.key.to_string(), (text, item.modified.0));
    }
    for writer in 0..WRITERS {
        let state = |steps: u64| -> Option<u64> {
            // The key of the last step: there unless that step deleted it.
            let step = steps.checked_sub(1)?;
            (plan(writer, step).1 != EventKind::Deleted).then_some(step)
        };
        let mine: Vec<_> =
            there.iter().filter(|(key, _)| key.starts_with(&format!("/w/{writer}/"))).collect();
        let now = match mine[..] {
            [] => None,
            [(_, (text, revision))] => {
                let step: u64 = text.split('/').nth(1).unwrap().parse().unwrap();
                assert_eq!(*text, value(writer, step), "life {life}: a value was torn");
                if let Some(who) = given.get(revision) {
                    assert_eq!(*who, (writer, step), "life {life}");
                }
                Some(step)
            }
            _ => panic!("life {life}: writer {writer} has more than one key"),
        };
        let acknowledged = next[writer as usize];
        if now == state(acknowledged) {
            continue;
        }
        // At most the one write that was under way may be there in addition.
        assert_eq!(
            now,
            state(acknowledged + 1),
            "life {life}: writer {writer} had {acknowledged} acknowledged"
        );
        next[writer as usize] += 1;
    }
    // The history runs on over the crash without a gap.
    let oldest = store.stats().oldest;
    let mut watch = store.watch(Prefix::new(""), oldest).await.unwrap();
    for expected in oldest.0 + 1..=store.revision().0 {
        let event = watch.try_next().unwrap().unwrap();
        assert_eq!(event.revision, Revision(expected), "life {life}");
        assert_eq!(event.previous.is_none(), event.kind == EventKind::Created);
    }
    if oldest.0 > 0 {
        let before = Revision(oldest.0 - 1);
        assert!(matches!(store.watch(Prefix::new(""), before).await, Err(Error::Compacted { .. })));
    }
}
