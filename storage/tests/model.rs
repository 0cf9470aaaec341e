//! Random operations against a model that is plainly right: every state ever is kept whole.
#![allow(clippy::unwrap_used, reason = "test code")]

use proptest::prelude::*;
use std::{collections::BTreeMap, sync::Arc};
use storage::{
    Error, Event, EventKind, Key, Limits, ListOptions, MemoryStore, Options, Payload, Prefix, Revision,
    SledStore, Store,
};
use tempfile::TempDir;

const KEYS: [&str; 6] = ["/a/1", "/a/2", "/a/3", "/ab/1", "/b/1", "/b/2"];
const PREFIXES: [&str; 4] = ["", "/a/", "/b/", "/none/"];

#[derive(Debug, Clone)]
enum Step {
    Create {
        key: usize,
        large: bool,
    },
    /// `off` is added to the right revision: 0 is right.
    Update {
        key: usize,
        off: u64,
    },
    Delete {
        key: usize,
        off: u64,
    },
    List {
        prefix: usize,
        back: u64,
        after: Option<usize>,
        limit: Option<usize>,
    },
    Watch {
        prefix: usize,
        back: u64,
    },
    Compact {
        back: u64,
    },
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let key = 0..KEYS.len();
    let prefix = 0..PREFIXES.len();
    let off = prop_oneof![6 => Just(0u64), 1 => 1..3u64];
    let step = prop_oneof![
        6 => (key.clone(), prop::bool::weighted(0.05)).prop_map(|(key, large)| Step::Create { key, large }),
        6 => (key.clone(), off.clone()).prop_map(|(key, off)| Step::Update { key, off }),
        4 => (key.clone(), off).prop_map(|(key, off)| Step::Delete { key, off }),
        3 => (prefix.clone(), 0..12u64, prop::option::of(key), prop::option::of(0..4usize))
            .prop_map(|(prefix, back, after, limit)| Step::List { prefix, back, after, limit }),
        3 => (prefix, 0..12u64).prop_map(|(prefix, back)| Step::Watch { prefix, back }),
        1 => (0..8u64).prop_map(|back| Step::Compact { back }),
        1 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..80)
}

type World = BTreeMap<&'static str, (String, u64, u64)>;

/// Every world there was, by revision, and every event.
struct Model {
    worlds: Vec<World>,
    events: Vec<Event>,
    floor: u64,
}

impl Model {
    fn now(&self) -> &World {
        self.worlds.last().unwrap()
    }
    fn revision(&self) -> u64 {
        self.events.len() as u64
    }
    fn write(&mut self, key: &'static str, kind: EventKind, value: String) {
        let revision = self.revision() + 1;
        let mut world = self.now().clone();
        let previous = world.remove(key);
        let created = previous.as_ref().map_or(revision, |previous| previous.1);
        if kind != EventKind::Deleted {
            world.insert(key, (value.clone(), created, revision));
        }
        self.worlds.push(world);
        let previous = previous.map(|previous| previous.0.into());
        self.events.push(Event {
            revision: Revision(revision),
            kind,
            key: Key::new(key),
            value: value.into(),
            previous,
        });
    }
}

fn payload(text: &str) -> Payload {
    Payload::plain(text.to_owned())
}

async fn run(steps: Vec<Step>, dir: Option<&TempDir>) {
    // Trimming is by hand here, so that the model knows the floor.
    let limits = Limits { history_age: std::time::Duration::MAX, ..Limits::default() };
    let open = || -> Arc<dyn Store> {
        match dir {
            Some(dir) => Arc::new(SledStore::open(dir.path(), Options { limits: limits.clone() }).unwrap()),
            None => Arc::new(MemoryStore::new(limits.clone()).unwrap()),
        }
    };
    let mut store = open();
    let mut model = Model { worlds: vec![World::new()], events: Vec::new(), floor: 0 };
    for (n, step) in steps.into_iter().enumerate() {
        match step {
            Step::Create { key, large } => {
                let key = KEYS[key];
                let value = if large { format!("{n}").repeat(100_000) } else { format!("created by {n}") };
                let result = store.create(Key::new(key), payload(&value)).await;
                if model.now().contains_key(key) {
                    assert!(matches!(result, Err(Error::AlreadyExists(_))));
                } else {
                    assert_eq!(result.unwrap().modified.0, model.revision() + 1);
                    model.write(key, EventKind::Created, value);
                }
            }
            Step::Update { key, off } | Step::Delete { key, off } => {
                let key = KEYS[key];
                let there = model.now().get(key).cloned();
                let expected = Revision(there.as_ref().map_or(0, |there| there.2) + off);
                let (kind, value, result) = if matches!(step, Step::Update { .. }) {
                    let value = format!("updated by {n}");
                    let result = store.update(Key::new(key), expected, payload(&value)).await;
                    (EventKind::Updated, value, result)
                } else {
                    let value = format!("deleted by {n}");
                    let result = store.delete(Key::new(key), expected, payload(&value)).await;
                    (EventKind::Deleted, value, result)
                };
                match there {
                    None => assert!(matches!(result, Err(Error::NotFound(_)))),
                    Some(there) if off != 0 => {
                        let Err(Error::Conflict { actual, .. }) = result else { panic!("{result:?}") };
                        assert_eq!(actual.0, there.2);
                    }
                    Some(there) => {
                        let result = result.unwrap();
                        assert_eq!((result.created.0, result.modified.0), (there.1, model.revision() + 1));
                        model.write(key, kind, value);
                    }
                }
            }
            Step::List { prefix, back, after, limit } => {
                let at = model.revision().saturating_sub(back);
                let prefix = PREFIXES[prefix];
                let after = after.map(|after| KEYS[after]);
                let options = ListOptions { at: Some(Revision(at)), after: after.map(Key::new), limit };
                let result = store.list(&Prefix::new(prefix), options).await;
                if at < model.floor {
                    assert!(matches!(result, Err(Error::Compacted { .. })));
                    continue;
                }
                let list = result.unwrap();
                let expected: Vec<_> = model.worlds[at as usize]
                    .iter()
                    .filter(|(key, _)| key.starts_with(prefix) && after.is_none_or(|after| **key > after))
                    .map(|(key, (value, created, modified))| (*key, value.as_bytes(), *created, *modified))
                    .collect();
                let found: Vec<_> = list
                    .items
                    .iter()
                    .map(|item| (item.key.as_str(), &*item.value, item.created.0, item.modified.0))
                    .collect();
                let cut = limit.unwrap_or(expected.len()).min(expected.len());
                assert_eq!(found, expected[..cut]);
                assert_eq!((list.remaining, list.revision.0), (expected.len() - cut, at));
            }
            Step::Watch { prefix, back } => {
                let after = model.revision().saturating_sub(back);
                let prefix = Prefix::new(PREFIXES[prefix]);
                let result = store.watch(prefix.clone(), Revision(after)).await;
                if after < model.floor {
                    assert!(matches!(result, Err(Error::Compacted { .. })));
                    continue;
                }
                let mut watch = result.unwrap();
                for expected in
                    model.events[after as usize..].iter().filter(|event| prefix.covers(&event.key))
                {
                    assert_eq!(&*watch.try_next().unwrap().unwrap(), expected);
                }
                assert!(watch.try_next().is_none());
            }
            Step::Compact { back } => {
                let at = model.revision().saturating_sub(back);
                store.compact(Revision(at)).await.unwrap();
                model.floor = model.floor.max(at);
            }
            Step::Reopen if dir.is_some() => {
                store.close().await.unwrap();
                store = open();
            }
            Step::Reopen => {}
        }
        assert_eq!(store.revision().0, model.revision());
        let stats = store.stats();
        assert_eq!((stats.keys, stats.oldest.0), (model.now().len() as u64, model.floor));
        let bytes: usize = model.now().values().map(|(value, ..)| value.len()).sum();
        assert_eq!(stats.value_bytes, bytes as u64);
    }
    store.close().await.unwrap();
}

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().build().unwrap().block_on(future);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn memory_is_like_the_model(steps in steps()) {
        block_on(run(steps, None));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 25, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn sled_is_like_the_model(steps in steps()) {
        let dir = TempDir::new().unwrap();
        block_on(run(steps, Some(&dir)));
    }
}
