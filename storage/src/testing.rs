//! The battery: what every store must do, one function a rule. `storage::battery!(bed)` makes a test of each.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use crate::{
    Change, Error, Event, EventKind, Key, KeyValue, Limits, ListOptions, Payload, Prefix, Revision, Store,
    Watch,
};
use async_trait::async_trait;
use bytes::Bytes;
use std::{collections::BTreeSet, sync::Arc, time::Duration};

/// A store to test. Between the steps of a rule the bed may close it and open it again.
#[async_trait]
pub trait Bed: Send {
    fn store(&self) -> Arc<dyn Store>;
    async fn step(&mut self) {}
}

/// The limits that the battery's rules on trimming and slow watchers count on.
pub fn limits() -> Limits {
    Limits { history_age: Duration::MAX, history_bytes: u64::MAX, history_events: 64, watch_queue: 32 }
}

/// `battery!(bed)`: one `#[tokio::test]` a rule, each on a fresh `bed` (an expression of a type that is `Bed`).
#[macro_export]
macro_rules! battery {
    ($bed:expr) => {
        $crate::battery! { $bed =>
            starts_empty writes_count_up a_create_needs_a_free_key an_update_needs_the_right_revision
            a_delete_needs_the_right_revision the_hole_gets_the_revision values_of_any_size
            a_list_is_in_order_and_within_its_prefix a_list_is_paged a_list_shows_the_past pages_agree_on_one_revision
            a_watch_replays_then_follows a_watch_joins_without_gap_or_double events_say_what_happened
            a_watch_sees_its_prefix_only the_revision_comes_after_the_events a_slow_watcher_is_cut
            a_dropped_watch_is_forgotten what_lies_ahead_is_refused compaction_forgets_the_past
            compaction_keeps_revisions_unique old_history_is_trimmed one_of_many_creates_wins no_update_is_lost
            writes_together_are_all_or_none a_closed_store_says_so figures_add_up
        }
    };
    ($bed:expr => $($rule:ident)*) => {
        $(#[tokio::test]
        async fn $rule() {
            $crate::testing::$rule(&mut $bed).await;
        })*
    };
}

fn key(name: &str) -> Key {
    Key::new(name)
}

fn all() -> Prefix {
    Prefix::new("")
}

fn text(value: &Bytes) -> &str {
    std::str::from_utf8(value).unwrap()
}

async fn create(bed: &dyn Bed, name: &str, value: &str) -> KeyValue {
    bed.store().create(key(name), Payload::plain(value.to_owned())).await.unwrap()
}

async fn update(bed: &dyn Bed, old: &KeyValue, value: &str) -> KeyValue {
    bed.store().update(old.key.clone(), old.modified, Payload::plain(value.to_owned())).await.unwrap()
}

async fn delete(bed: &dyn Bed, old: &KeyValue, last: &str) -> KeyValue {
    bed.store().delete(old.key.clone(), old.modified, Payload::plain(last.to_owned())).await.unwrap()
}

async fn list_at(bed: &dyn Bed, prefix: &str, at: Option<u64>) -> Vec<KeyValue> {
    let options = ListOptions { at: at.map(Revision), ..Default::default() };
    bed.store().list(&Prefix::new(prefix), options).await.unwrap().items
}

fn names(items: &[KeyValue]) -> Vec<&str> {
    items.iter().map(|item| item.key.as_str()).collect()
}

fn values(items: &[KeyValue]) -> Vec<&str> {
    items.iter().map(|item| text(&item.value)).collect()
}

/// All that is queued now.
fn drain(watch: &mut Watch) -> Vec<Arc<Event>> {
    std::iter::from_fn(|| watch.try_next()).map(|event| event.unwrap()).collect()
}

fn revisions(events: &[Arc<Event>]) -> Vec<u64> {
    events.iter().map(|event| event.revision.0).collect()
}

pub async fn starts_empty(bed: &mut dyn Bed) {
    for _ in 0..2 {
        assert_eq!(bed.store().revision(), Revision(0));
        assert_eq!(bed.store().get(&key("/a")).await.unwrap(), None);
        let list = bed.store().list(&all(), ListOptions::default()).await.unwrap();
        assert_eq!((list.revision, list.items.len(), list.remaining), (Revision(0), 0, 0));
        bed.step().await;
    }
}

pub async fn writes_count_up(bed: &mut dyn Bed) {
    let a = create(bed, "/a", "1").await;
    assert_eq!((a.created, a.modified), (Revision(1), Revision(1)));
    bed.step().await;
    let a = update(bed, &a, "2").await;
    assert_eq!((a.created, a.modified), (Revision(1), Revision(2)));
    assert_eq!(bed.store().get(&a.key).await.unwrap().as_ref(), Some(&a));
    // What is refused uses no revision up.
    bed.store().create(key("/a"), Payload::plain("x")).await.unwrap_err();
    bed.step().await;
    assert_eq!(bed.store().revision(), Revision(2));
    let gone = delete(bed, &a, "last").await;
    assert_eq!((gone.created, gone.modified, text(&gone.value)), (Revision(1), Revision(3), "last"));
    bed.step().await;
    assert_eq!(bed.store().get(&a.key).await.unwrap(), None);
    assert_eq!(bed.store().revision(), Revision(3));
}

pub async fn a_create_needs_a_free_key(bed: &mut dyn Bed) {
    let a = create(bed, "/a", "1").await;
    bed.step().await;
    let error = bed.store().create(key("/a"), Payload::plain("2")).await.unwrap_err();
    assert!(matches!(&error, Error::AlreadyExists(k) if *k == key("/a")), "{error}");
    assert_eq!(bed.store().get(&key("/a")).await.unwrap().as_ref(), Some(&a));
    delete(bed, &a, "").await;
    bed.step().await;
    let again = create(bed, "/a", "3").await;
    assert_eq!((again.created, again.modified), (Revision(3), Revision(3)));
}

pub async fn an_update_needs_the_right_revision(bed: &mut dyn Bed) {
    let store = bed.store();
    let error = store.update(key("/a"), Revision(1), Payload::plain("x")).await.unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error}");
    let first = create(bed, "/a", "1").await;
    let second = update(bed, &first, "2").await;
    bed.step().await;
    for wrong in [0, 1, 3] {
        let result = bed.store().update(key("/a"), Revision(wrong), Payload::plain("x")).await;
        let Err(Error::Conflict { key: k, expected, actual }) = result else { panic!("{result:?}") };
        assert_eq!((k, expected, actual), (key("/a"), Revision(wrong), Revision(2)));
    }
    assert_eq!(bed.store().get(&key("/a")).await.unwrap(), Some(second));
}

pub async fn a_delete_needs_the_right_revision(bed: &mut dyn Bed) {
    let error = bed.store().delete(key("/a"), Revision(0), Payload::plain("x")).await.unwrap_err();
    assert!(matches!(error, Error::NotFound(_)), "{error}");
    let first = create(bed, "/a", "1").await;
    update(bed, &first, "2").await;
    bed.step().await;
    let error = bed.store().delete(key("/a"), first.modified, Payload::plain("x")).await.unwrap_err();
    assert!(matches!(error, Error::Conflict { actual: Revision(2), .. }), "{error}");
    assert!(bed.store().get(&key("/a")).await.unwrap().is_some());
}

pub async fn the_hole_gets_the_revision(bed: &mut dyn Bed) {
    create(bed, "/other", "").await;
    let hole = || Payload::with_revision_at("{\"v\":\"\"}", 6);
    let a = bed.store().create(key("/a"), hole()).await.unwrap();
    assert_eq!(text(&a.value), "{\"v\":\"2\"}");
    bed.step().await;
    let a = bed.store().update(key("/a"), a.modified, hole()).await.unwrap();
    assert_eq!(text(&a.value), "{\"v\":\"3\"}");
    let gone = bed.store().delete(key("/a"), a.modified, hole()).await.unwrap();
    assert_eq!(text(&gone.value), "{\"v\":\"4\"}");
    bed.step().await;
    let mut watch = bed.store().watch(Prefix::new("/a"), Revision(0)).await.unwrap();
    let seen: Vec<_> = drain(&mut watch).iter().map(|event| text(&event.value).to_owned()).collect();
    assert_eq!(seen, ["{\"v\":\"2\"}", "{\"v\":\"3\"}", "{\"v\":\"4\"}"]);
}

pub async fn values_of_any_size(bed: &mut dyn Bed) {
    let sizes = [0, 1, 100 << 10, 700 << 10, 3 << 20];
    for size in sizes {
        let value = Bytes::from(vec![b'x'; size]);
        bed.store().create(key(&format!("/{size}")), Payload::plain(value)).await.unwrap();
    }
    bed.step().await;
    for size in sizes {
        let found = bed.store().get(&key(&format!("/{size}"))).await.unwrap().unwrap();
        assert_eq!(found.value.len(), size);
        let value = Bytes::from(vec![b'y'; size]);
        bed.store().update(found.key, found.modified, Payload::plain(value)).await.unwrap();
    }
    bed.step().await;
    for size in sizes {
        let found = bed.store().get(&key(&format!("/{size}"))).await.unwrap().unwrap();
        assert!(found.value.len() == size && found.value.iter().all(|byte| *byte == b'y'));
    }
}

pub async fn a_list_is_in_order_and_within_its_prefix(bed: &mut dyn Bed) {
    for name in ["/b/2", "/a/z", "/b/10", "/ab/1", "/b/1", "/b", "/c/1", "/b/1/x"] {
        create(bed, name, name).await;
    }
    bed.step().await;
    assert_eq!(names(&list_at(bed, "/b/", None).await), ["/b/1", "/b/1/x", "/b/10", "/b/2"]);
    assert_eq!(names(&list_at(bed, "/a/", None).await), ["/a/z"]);
    assert_eq!(list_at(bed, "", None).await.len(), 8);
    assert_eq!(list_at(bed, "/none/", None).await.len(), 0);
}

pub async fn a_list_is_paged(bed: &mut dyn Bed) {
    for name in ["/a/1", "/a/2", "/a/3", "/a/4", "/a/5", "/b/1"] {
        create(bed, name, "").await;
    }
    bed.step().await;
    let page = async |after: Option<&str>, limit| {
        let options = ListOptions { at: None, after: after.map(key), limit };
        let list = bed.store().list(&Prefix::new("/a/"), options).await.unwrap();
        (names(&list.items).join(" "), list.remaining)
    };
    assert_eq!(page(None, Some(2)).await, ("/a/1 /a/2".into(), 3));
    assert_eq!(page(Some("/a/2"), Some(2)).await, ("/a/3 /a/4".into(), 1));
    assert_eq!(page(Some("/a/4"), Some(2)).await, ("/a/5".into(), 0));
    assert_eq!(page(Some("/a/5"), Some(2)).await, (String::new(), 0));
    assert_eq!(page(Some("/a/35"), None).await, ("/a/4 /a/5".into(), 0));
    assert_eq!(page(Some("/"), None).await.1, 0);
    assert_eq!(page(Some("/z"), None).await, (String::new(), 0));
}

pub async fn a_list_shows_the_past(bed: &mut dyn Bed) {
    let a = create(bed, "/x/a", "a1").await; // 1
    let b = create(bed, "/x/b", "b2").await; // 2
    let a = update(bed, &a, "a3").await; // 3
    bed.step().await;
    delete(bed, &b, "b4").await; // 4
    create(bed, "/x/c", "c5").await; // 5
    bed.step().await;
    delete(bed, &a, "a6").await; // 6
    create(bed, "/x/b", "b7").await; // 7
    create(bed, "/y/d", "d8").await; // 8
    let expected: [&[&str]; 9] = [
        &[],
        &["a1"],
        &["a1", "b2"],
        &["a3", "b2"],
        &["a3"],
        &["a3", "c5"],
        &["c5"],
        &["b7", "c5"],
        &["b7", "c5"],
    ];
    for (revision, expected) in expected.iter().enumerate() {
        assert_eq!(values(&list_at(bed, "/x/", Some(revision as u64)).await), *expected, "at {revision}");
    }
    bed.step().await;
    let then = list_at(bed, "/x/", Some(3)).await;
    assert_eq!((then[0].created, then[0].modified), (Revision(1), Revision(3)));
}

pub async fn pages_agree_on_one_revision(bed: &mut dyn Bed) {
    let mut old = Vec::new();
    for name in ["/p/1", "/p/2", "/p/3", "/p/4"] {
        old.push(create(bed, name, "old").await);
    }
    let first = ListOptions { limit: Some(2), ..Default::default() };
    let first = bed.store().list(&Prefix::new("/p/"), first).await.unwrap();
    delete(bed, &old[2], "").await;
    update(bed, &old[3], "new").await;
    create(bed, "/p/31", "new").await;
    bed.step().await;
    let rest = ListOptions { at: Some(first.revision), after: Some(key("/p/2")), limit: Some(1) };
    let rest = bed.store().list(&Prefix::new("/p/"), rest).await.unwrap();
    assert_eq!((names(&rest.items), rest.remaining, rest.revision), (vec!["/p/3"], 1, first.revision));
    let rest = ListOptions { at: Some(first.revision), after: Some(key("/p/3")), limit: None };
    let rest = bed.store().list(&Prefix::new("/p/"), rest).await.unwrap();
    assert_eq!((names(&rest.items), values(&rest.items), rest.remaining), (vec!["/p/4"], vec!["old"], 0));
}

pub async fn a_watch_replays_then_follows(bed: &mut dyn Bed) {
    let a = create(bed, "/a", "1").await;
    update(bed, &a, "2").await;
    bed.step().await;
    let mut whole = bed.store().watch(all(), Revision(0)).await.unwrap();
    let mut rest = bed.store().watch(all(), Revision(1)).await.unwrap();
    let mut live = bed.store().watch(all(), Revision(2)).await.unwrap();
    assert_eq!(revisions(&drain(&mut whole)), [1, 2]);
    create(bed, "/b", "3").await;
    create(bed, "/c", "4").await;
    assert_eq!(revisions(&drain(&mut whole)), [3, 4]);
    assert_eq!(revisions(&drain(&mut rest)), [2, 3, 4]);
    assert_eq!(live.next().await.unwrap().unwrap().revision, Revision(3));
    assert_eq!(live.next().await.unwrap().unwrap().revision, Revision(4));
    assert!(live.try_next().is_none());
}

pub async fn a_watch_joins_without_gap_or_double(bed: &mut dyn Bed) {
    const WRITES: u64 = 60;
    let store = bed.store();
    let writing = async {
        for n in 0..WRITES {
            store.create(key(&format!("/{n}")), Payload::plain("")).await.unwrap();
        }
    };
    let watching = async {
        for _ in 0..20 {
            let after = store.revision();
            let mut watch = store.watch(all(), after).await.unwrap();
            for expected in after.0 + 1..=WRITES.min(after.0 + 30) {
                assert_eq!(watch.next().await.unwrap().unwrap().revision, Revision(expected));
            }
        }
    };
    tokio::join!(writing, watching);
    bed.step().await;
    let mut watch = bed.store().watch(all(), Revision(0)).await.unwrap();
    assert_eq!(revisions(&drain(&mut watch)), (1..=WRITES).collect::<Vec<_>>());
}

pub async fn events_say_what_happened(bed: &mut dyn Bed) {
    let a = create(bed, "/a", "one").await;
    let a = update(bed, &a, "two").await;
    bed.step().await;
    delete(bed, &a, "last").await;
    create(bed, "/a", "again").await;
    bed.step().await;
    let mut watch = bed.store().watch(all(), Revision(0)).await.unwrap();
    let events = drain(&mut watch);
    let seen: Vec<_> = events
        .iter()
        .map(|event| (event.kind, text(&event.value), event.previous.as_ref().map(text)))
        .collect();
    assert_eq!(
        seen,
        [
            (EventKind::Created, "one", None),
            (EventKind::Updated, "two", Some("one")),
            (EventKind::Deleted, "last", Some("two")),
            (EventKind::Created, "again", None),
        ]
    );
}

pub async fn a_watch_sees_its_prefix_only(bed: &mut dyn Bed) {
    create(bed, "/a/1", "").await;
    create(bed, "/ab/1", "").await;
    bed.step().await;
    let mut watch = bed.store().watch(Prefix::new("/a/"), Revision(0)).await.unwrap();
    create(bed, "/b/1", "").await;
    create(bed, "/a/2", "").await;
    assert_eq!(revisions(&drain(&mut watch)), [1, 4]);
}

pub async fn the_revision_comes_after_the_events(bed: &mut dyn Bed) {
    let store = bed.store();
    let mut watch = store.watch(all(), Revision(0)).await.unwrap();
    let writing = async {
        for n in 0..30 {
            store.create(key(&format!("/{n}")), Payload::plain("")).await.unwrap();
        }
    };
    let reading = async {
        let mut seen = 0;
        while seen < 30 {
            let revision = store.revision();
            seen += drain(&mut watch).len() as u64;
            assert!(seen >= revision.0, "revision {revision}, but {seen} events");
            tokio::task::yield_now().await;
        }
    };
    tokio::join!(writing, reading);
}

pub async fn a_slow_watcher_is_cut(bed: &mut dyn Bed) {
    let queue = limits().watch_queue as u64;
    let mut slow = bed.store().watch(all(), Revision(0)).await.unwrap();
    let mut elsewhere = bed.store().watch(Prefix::new("/b/"), Revision(0)).await.unwrap();
    for n in 0..queue + 3 {
        create(bed, &format!("/a/{n}"), "").await;
    }
    for expected in 1..=queue {
        assert_eq!(slow.next().await.unwrap().unwrap().revision, Revision(expected));
    }
    assert!(matches!(slow.next().await, Some(Err(Error::TooSlow))));
    assert!(slow.next().await.is_none());
    create(bed, "/b/1", "").await;
    assert_eq!(drain(&mut elsewhere).len(), 1);
    // It comes back where it was cut.
    let mut again = bed.store().watch(all(), Revision(queue)).await.unwrap();
    assert_eq!(revisions(&drain(&mut again)), (queue + 1..=queue + 4).collect::<Vec<_>>());
}

pub async fn a_dropped_watch_is_forgotten(bed: &mut dyn Bed) {
    let first = bed.store().watch(all(), Revision(0)).await.unwrap();
    let second = bed.store().watch(all(), Revision(0)).await.unwrap();
    assert_eq!(bed.store().stats().watchers, 2);
    drop(first);
    assert_eq!(bed.store().stats().watchers, 1);
    create(bed, "/a", "").await;
    drop(second);
    assert_eq!(bed.store().stats().watchers, 0);
}

pub async fn what_lies_ahead_is_refused(bed: &mut dyn Bed) {
    create(bed, "/a", "").await;
    bed.step().await;
    let ahead = |error| matches!(error, Error::Future { requested: Revision(2), newest: Revision(1) });
    assert!(ahead(bed.store().watch(all(), Revision(2)).await.unwrap_err()));
    let options = ListOptions { at: Some(Revision(2)), ..Default::default() };
    assert!(ahead(bed.store().list(&all(), options).await.unwrap_err()));
    assert!(ahead(bed.store().compact(Revision(2)).await.unwrap_err()));
}

async fn is_compacted(bed: &dyn Bed, requested: u64, oldest: u64) {
    let expect = |error| {
        let Error::Compacted { requested: r, oldest: o } = error else { panic!("{error}") };
        assert_eq!((r, o), (Revision(requested), Revision(oldest)));
    };
    expect(bed.store().watch(all(), Revision(requested)).await.unwrap_err());
    let options = ListOptions { at: Some(Revision(requested)), ..Default::default() };
    expect(bed.store().list(&all(), options).await.unwrap_err());
}

pub async fn compaction_forgets_the_past(bed: &mut dyn Bed) {
    let a = create(bed, "/a", "1").await; // 1
    create(bed, "/b", "2").await; // 2
    let a = update(bed, &a, "3").await; // 3
    let c = create(bed, "/c", "4").await; // 4
    delete(bed, &c, "5").await; // 5
    update(bed, &a, "6").await; // 6
    bed.step().await;
    bed.store().compact(Revision(3)).await.unwrap();
    for _ in 0..3 {
        is_compacted(bed, 2, 3).await;
        assert_eq!(bed.store().stats().oldest, Revision(3));
        assert_eq!(values(&list_at(bed, "", Some(3)).await), ["3", "2"]);
        assert_eq!(values(&list_at(bed, "", None).await), ["6", "2"]);
        let mut watch = bed.store().watch(all(), Revision(3)).await.unwrap();
        let events = drain(&mut watch);
        assert_eq!(revisions(&events), [4, 5, 6]);
        assert_eq!(events[2].previous.as_ref().map(text), Some("3"));
        // Going back does nothing.
        bed.store().compact(Revision(1)).await.unwrap();
        bed.step().await;
    }
}

pub async fn compaction_keeps_revisions_unique(bed: &mut dyn Bed) {
    let a = create(bed, "/a", "").await;
    delete(bed, &a, "").await;
    bed.store().compact(Revision(2)).await.unwrap();
    bed.step().await;
    assert_eq!(bed.store().revision(), Revision(2));
    is_compacted(bed, 1, 2).await;
    let b = create(bed, "/b", "").await;
    assert_eq!(b.modified, Revision(3));
    bed.store().compact(Revision(3)).await.unwrap();
    bed.step().await;
    delete(bed, &b, "").await;
    bed.store().compact(Revision(4)).await.unwrap();
    bed.step().await;
    bed.step().await;
    assert_eq!(bed.store().revision(), Revision(4));
    assert_eq!(list_at(bed, "", None).await.len(), 0);
}

pub async fn old_history_is_trimmed(bed: &mut dyn Bed) {
    let keep = limits().history_events as u64;
    let first = create(bed, "/first", "kept").await;
    let mut busy = create(bed, "/busy", "0").await;
    for n in 0..3 * keep {
        busy = update(bed, &busy, &n.to_string()).await;
        if n % keep == 0 {
            bed.step().await;
        }
    }
    for _ in 0..2 {
        let stats = bed.store().stats();
        assert!(stats.history_events >= keep && stats.history_events <= keep + keep / 8 + 1, "{stats:?}");
        let oldest = stats.oldest.0;
        assert_eq!(oldest + stats.history_events, bed.store().revision().0);
        is_compacted(bed, oldest - 1, oldest).await;
        let mut watch = bed.store().watch(all(), Revision(oldest)).await.unwrap();
        let events = drain(&mut watch);
        assert_eq!(revisions(&events), (oldest + 1..=bed.store().revision().0).collect::<Vec<_>>());
        assert!(events.iter().all(|event| event.previous.is_some()));
        assert_eq!(bed.store().get(&first.key).await.unwrap().as_ref(), Some(&first));
        assert_eq!(list_at(bed, "", Some(oldest)).await.len(), 2);
        bed.step().await;
    }
}

pub async fn one_of_many_creates_wins(bed: &mut dyn Bed) {
    for round in 1..=10 {
        let store = bed.store();
        let attempts = (0..8).map(|n| {
            let store = store.clone();
            tokio::spawn(async move { store.create(key("/one"), Payload::plain(format!("{n}"))).await })
        });
        let mut won = Vec::new();
        for attempt in attempts.collect::<Vec<_>>() {
            match attempt.await.unwrap() {
                Ok(value) => won.push(value),
                Err(error) => assert!(matches!(error, Error::AlreadyExists(_)), "{error}"),
            }
        }
        assert_eq!(won.len(), 1);
        bed.step().await;
        assert_eq!(bed.store().get(&key("/one")).await.unwrap().as_ref(), won.first());
        delete(bed, &won[0], "").await;
        assert_eq!(bed.store().revision(), Revision(2 * round));
    }
}

pub async fn no_update_is_lost(bed: &mut dyn Bed) {
    create(bed, "/n", "0").await;
    let store = bed.store();
    let tasks = (0..8).map(|_| {
        let store = store.clone();
        tokio::spawn(async move {
            let mut mine = Vec::new();
            while mine.len() < 6 {
                let now = store.get(&key("/n")).await.unwrap().unwrap();
                let next = text(&now.value).parse::<u64>().unwrap() + 1;
                match store.update(now.key, now.modified, Payload::plain(next.to_string())).await {
                    Ok(value) => mine.push(value.modified),
                    Err(error) => assert!(matches!(error, Error::Conflict { .. }), "{error}"),
                }
            }
            mine
        })
    });
    let mut used = BTreeSet::new();
    for task in tasks.collect::<Vec<_>>() {
        let mine = task.await.unwrap();
        assert!(mine.is_sorted());
        used.extend(mine);
    }
    assert_eq!(used.len(), 48);
    bed.step().await;
    let end = bed.store().get(&key("/n")).await.unwrap().unwrap();
    assert_eq!((text(&end.value), end.modified), ("48", Revision(49)));
}

pub async fn writes_together_are_all_or_none(bed: &mut dyn Bed) {
    let quota = create(bed, "/quota", "0").await;
    let make = |name: &str| (key(name), Change::Create { value: Payload::plain("pod") });
    let count = |expected: Revision, n: &str| {
        (key("/quota"), Change::Update { expected, value: Payload::plain(n.to_owned()) })
    };
    let done = bed.store().write(vec![make("/a"), count(quota.modified, "1")]).await.unwrap();
    assert_eq!(done.iter().map(|kv| kv.modified.0).collect::<Vec<_>>(), [2, 3]);
    bed.step().await;
    // Whichever of them cannot be, none is; and what comes later is judged as if nothing had been tried.
    let error = bed.store().write(vec![make("/b"), count(quota.modified, "2")]).await.unwrap_err();
    assert!(matches!(&error, Error::Conflict { key, .. } if key.as_str() == "/quota"), "{error}");
    let error = bed.store().write(vec![count(Revision(3), "2"), make("/a")]).await.unwrap_err();
    assert!(matches!(&error, Error::AlreadyExists(_)), "{error}");
    let gone = (key("/a"), Change::Delete { expected: Revision(2), last: Payload::plain("last") });
    let store = bed.store();
    let (wrong, right) = tokio::join!(
        store.write(vec![make("/b"), count(quota.modified, "2")]),
        store.write(vec![gone, make("/b"), count(Revision(3), "1")]),
    );
    wrong.unwrap_err();
    assert_eq!(right.unwrap().len(), 3);
    bed.step().await;
    assert_eq!(names(&list_at(bed, "", None).await), ["/b", "/quota"]);
    assert_eq!(values(&list_at(bed, "", None).await), ["pod", "1"]);
    assert_eq!(bed.store().revision(), Revision(6));
}

pub async fn a_closed_store_says_so(bed: &mut dyn Bed) {
    let a = create(bed, "/a", "").await;
    let store = bed.store();
    let mut watch = store.watch(all(), Revision(0)).await.unwrap();
    store.close().await.unwrap();
    store.close().await.unwrap();
    assert_eq!(drain(&mut watch).len(), 1);
    assert!(watch.next().await.is_none());
    let value = || Payload::plain("");
    let closed = |error| assert!(matches!(error, Error::Closed), "{error}");
    closed(store.get(&a.key).await.unwrap_err());
    closed(store.list(&all(), ListOptions::default()).await.unwrap_err());
    closed(store.create(key("/b"), value()).await.unwrap_err());
    closed(store.update(key("/a"), a.modified, value()).await.unwrap_err());
    closed(store.delete(key("/a"), a.modified, value()).await.unwrap_err());
    closed(store.watch(all(), Revision(0)).await.unwrap_err());
    closed(store.compact(Revision(1)).await.unwrap_err());
}

pub async fn figures_add_up(bed: &mut dyn Bed) {
    let a = create(bed, "/a", "12345").await;
    create(bed, "/b", "123").await;
    update(bed, &a, "1").await;
    bed.step().await;
    let stats = bed.store().stats();
    assert_eq!((stats.revision, stats.keys, stats.value_bytes), (Revision(3), 2, 4));
    assert_eq!((stats.oldest, stats.history_events), (Revision(0), 3));
    assert!(stats.history_bytes >= 9);
}
