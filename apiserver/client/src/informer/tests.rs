//! Informers against a small API server in process.

use super::*;
use crate::testing::Fake;
use k8s_openapi::{api::core::v1::ConfigMap, apimachinery::pkg::apis::meta::v1::ManagedFieldsEntry};
use std::time::Duration;
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

fn put(fake: &Fake, namespace: &str, name: &str, uid: &str, data: &str) {
    fake.put(&ConfigMap {
        metadata: ObjectMeta {
            namespace: Some(namespace.into()),
            name: Some(name.into()),
            uid: Some(uid.into()),
            managed_fields: Some(vec![ManagedFieldsEntry::default()]),
            ..Default::default()
        },
        data: Some([("value".to_owned(), data.to_owned())].into()),
        ..Default::default()
    });
}

struct Bed {
    fake: Fake,
    store: Store<ConfigMap>,
    changes: UnboundedReceiver<String>,
    informers: Informers,
    token: CancellationToken,
}

fn value(object: &ConfigMap) -> &str {
    object.data.as_ref().and_then(|d| d.get("value")).map_or("", String::as_str)
}

/// `+ns/name new`, `~ns/name old>new`, `-ns/name last`.
fn describe(change: &Change<ConfigMap>) -> String {
    let meta = &change.object().metadata;
    let key = format!("{}/{}", meta.namespace.as_deref().unwrap(), meta.name.as_deref().unwrap());
    match change {
        Change::Applied { old: None, new } => format!("+{key} {}", value(new)),
        Change::Applied { old: Some(old), new } => format!("~{key} {}>{}", value(old), value(new)),
        Change::Deleted(last) => format!("-{key} {}", value(last)),
    }
}

fn subscribe(store: &Store<ConfigMap>) -> UnboundedReceiver<String> {
    let (tx, rx) = unbounded_channel();
    store.on_change(move |change| drop(tx.send(describe(change))));
    rx
}

impl Bed {
    fn new(fake: Fake) -> Self {
        let token = CancellationToken::new();
        let informers = Informers::new(fake.client(), token.clone());
        let store = informers.store::<ConfigMap>();
        let changes = subscribe(&store);
        Self { fake, store, changes, informers, token }
    }

    async fn expect(&mut self, expected: &[&str]) {
        for expected in expected {
            let got = tokio::time::timeout(Duration::from_secs(10), self.changes.recv()).await;
            assert_eq!(got.ok().flatten().as_deref(), Some(*expected), "after {:?}", self.fake.requests());
        }
    }
}

#[tokio::test]
async fn objects_arrive_change_and_go() {
    let fake = Fake::default();
    put(&fake, "b", "two", "2", "x");
    put(&fake, "a", "one", "1", "x");
    let mut bed = Bed::new(fake);
    bed.expect(&["+a/one x", "+b/two x"]).await;
    bed.informers.synced().await;
    assert!(bed.store.is_synced());
    put(&bed.fake, "a", "one", "1", "y");
    put(&bed.fake, "a", "three", "3", "z");
    bed.fake.delete::<ConfigMap>("b", "two");
    bed.expect(&["~a/one x>y", "+a/three z", "-b/two x"]).await;
    let names = |list: Vec<Arc<ConfigMap>>| list.iter().map(|o| value(o).to_owned()).collect::<Vec<_>>();
    assert_eq!(names(bed.store.list()), ["y", "z"]);
    assert_eq!(names(bed.store.in_namespace("a")), ["y", "z"]);
    assert_eq!(names(bed.store.in_namespace("b")), Vec::<String>::new());
    let one = bed.store.get("a", "one").unwrap();
    assert_eq!((value(&one), one.metadata.managed_fields.as_ref()), ("y", None));
    assert!(bed.store.get("b", "two").is_none());
}

#[tokio::test]
async fn indexes_follow_changes_of_their_values() {
    fn by_value(object: &ConfigMap) -> Vec<String> {
        vec![value(object).to_owned(), "all".to_owned()]
    }
    let fake = Fake::default();
    put(&fake, "a", "one", "1", "x");
    let mut bed = Bed::new(fake);
    bed.expect(&["+a/one x"]).await;
    bed.store.add_index("value", by_value);
    put(&bed.fake, "a", "two", "2", "x");
    put(&bed.fake, "a", "one", "1", "y");
    bed.expect(&["+a/two x", "~a/one x>y"]).await;
    let names = |v: &str| -> Vec<String> {
        bed.store.by_index("value", v).iter().filter_map(|o| o.metadata.name.clone()).collect()
    };
    assert_eq!(
        (names("x"), names("y"), names("all")),
        (vec!["two".into()], vec!["one".into()], vec!["one".into(), "two".into()])
    );
    assert_eq!(value(&bed.store.by_index("value", "all")[0]), "y", "an index holds the newest object");
    bed.fake.delete::<ConfigMap>("a", "two");
    bed.expect(&["-a/two x"]).await;
    assert!(bed.store.by_index("value", "x").is_empty());
}

#[tokio::test]
async fn a_broken_watch_resumes_where_it_was() {
    let fake = Fake::default();
    put(&fake, "a", "one", "1", "x");
    let mut bed = Bed::new(fake);
    bed.expect(&["+a/one x"]).await;
    bed.fake.cut();
    put(&bed.fake, "a", "one", "1", "y");
    bed.fake.delete::<ConfigMap>("a", "one");
    bed.expect(&["~a/one x>y", "-a/one y"]).await;
    let requests = bed.fake.requests();
    assert_eq!(
        requests,
        [
            "allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan&sendInitialEvents=true&watch=true",
            "allowWatchBookmarks=true&resourceVersion=1&watch=true"
        ]
    );
}

#[tokio::test]
async fn bookmarks_move_the_position() {
    let mut bed = Bed::new(Fake::default());
    bed.informers.synced().await;
    put(&bed.fake, "a", "one", "1", "x");
    bed.expect(&["+a/one x"]).await;
    bed.fake.send::<ConfigMap>(
        r#"{"type":"BOOKMARK","object":{"kind":"ConfigMap","metadata":{"resourceVersion":"7"}}}"#,
    );
    bed.fake.cut();
    put(&bed.fake, "a", "two", "2", "never sent: 2 is before 7");
    while bed.fake.requests().len() < 2 {
        tokio::task::yield_now().await;
    }
    assert!(bed.fake.requests()[1].contains("resourceVersion=7"));
}

#[tokio::test]
async fn an_expired_revision_lists_again_and_tells_what_was_missed() {
    let fake = Fake::default();
    for (name, uid) in [("changed", "1"), ("gone", "2"), ("replaced", "3"), ("same", "4")] {
        put(&fake, "a", name, uid, "x");
    }
    let mut bed = Bed::new(fake);
    bed.expect(&["+a/changed x", "+a/gone x", "+a/replaced x", "+a/same x"]).await;
    bed.fake.cut();
    put(&bed.fake, "a", "changed", "1", "y");
    bed.fake.delete::<ConfigMap>("a", "gone");
    bed.fake.delete::<ConfigMap>("a", "replaced");
    put(&bed.fake, "a", "replaced", "5", "y");
    bed.fake.forget();
    bed.expect(&["-a/gone x", "~a/changed x>y", "-a/replaced x", "+a/replaced y"]).await;
    put(&bed.fake, "a", "same", "4", "z");
    bed.expect(&["~a/same x>z"]).await;
}

#[tokio::test]
async fn an_expiry_within_the_watch_lists_again() {
    let mut bed = Bed::new(Fake::default());
    bed.informers.synced().await;
    bed.fake.send::<ConfigMap>(
        r#"{"type":"ERROR","object":{"kind":"Status","code":410,"reason":"Expired","message":"too old"}}"#,
    );
    put(&bed.fake, "a", "one", "1", "x");
    bed.expect(&["+a/one x"]).await;
    assert_eq!(bed.fake.requests().iter().filter(|q| q.contains("sendInitialEvents")).count(), 2);
}

#[tokio::test]
async fn without_watch_list_it_lists_in_pages() {
    let fake = Fake::default();
    fake.refuse_watch_lists();
    for name in ["1", "2", "3", "4", "5"] {
        put(&fake, "a", name, name, "x");
    }
    let mut bed = Bed::new(fake);
    bed.expect(&["+a/1 x", "+a/2 x", "+a/3 x", "+a/4 x", "+a/5 x"]).await;
    put(&bed.fake, "a", "1", "1", "y");
    bed.expect(&["~a/1 x>y"]).await;
    let requests = bed.fake.requests();
    assert_eq!(
        requests[1..],
        [
            "limit=500",
            "continue=a/2&limit=500",
            "continue=a/4&limit=500",
            "allowWatchBookmarks=true&resourceVersion=5&watch=true"
        ]
    );
}

#[tokio::test]
async fn synced_wakes_every_waiter() {
    let bed = Bed::new(Fake::default());
    let waiters: Vec<_> = (0..8)
        .map(|_| {
            let (store, informers) = (bed.store.clone(), bed.informers.clone());
            tokio::spawn(async move { tokio::join!(store.synced(), informers.synced()) })
        })
        .collect();
    for waiter in waiters {
        tokio::time::timeout(Duration::from_secs(10), waiter).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_late_subscriber_sees_what_is_there_first_and_there_is_one_watch() {
    let fake = Fake::default();
    put(&fake, "a", "one", "1", "x");
    let mut bed = Bed::new(fake);
    bed.expect(&["+a/one x"]).await;
    bed.changes = subscribe(&bed.informers.store::<ConfigMap>());
    bed.expect(&["+a/one x"]).await;
    put(&bed.fake, "a", "one", "1", "y");
    bed.expect(&["~a/one x>y"]).await;
    assert_eq!(bed.fake.requests().len(), 1);
}

#[tokio::test]
async fn a_subscriber_may_read_the_store() {
    let bed = Bed::new(Fake::default());
    let (tx, mut rx) = unbounded_channel();
    let store = bed.store.clone();
    bed.store.on_change(move |_| tx.send(store.list().len()).unwrap_or_default());
    put(&bed.fake, "a", "one", "1", "x");
    assert_eq!(tokio::time::timeout(Duration::from_secs(10), rx.recv()).await.unwrap(), Some(1));
}

#[tokio::test]
async fn what_cannot_be_read_is_left_out() {
    let mut bed = Bed::new(Fake::default());
    bed.informers.synced().await;
    bed.fake.send::<ConfigMap>(r#"{"type":"ADDED","object":{"metadata":{"namespace":"a","name":"bad","resourceVersion":"0"},"data":7}}"#);
    put(&bed.fake, "a", "one", "1", "x");
    bed.expect(&["+a/one x"]).await;
    assert_eq!(bed.fake.requests().len(), 1, "the watch goes on");
    bed.fake.send::<ConfigMap>("this is no event");
    put(&bed.fake, "a", "two", "2", "x");
    bed.expect(&["+a/two x"]).await;
}

#[tokio::test]
async fn everything_ends_with_the_token() {
    let bed = Bed::new(Fake::default());
    bed.informers.synced().await;
    bed.token.cancel();
    tokio::time::timeout(Duration::from_secs(10), bed.informers.stopped()).await.unwrap();
    // A store asked for too late never syncs, and nobody waits for it.
    bed.informers.store::<k8s_openapi::api::core::v1::Secret>().synced().await;
}

#[test]
fn what_a_cache_has_seen_is_no_news() {
    let object = |uid: &str, revision: Option<u64>| {
        Arc::new(ConfigMap {
            metadata: ObjectMeta {
                namespace: Some("a".into()),
                name: Some("one".into()),
                uid: Some(uid.into()),
                resource_version: revision.map(|r| r.to_string()),
                ..Default::default()
            },
            data: Some([("value".to_owned(), format!("{uid}@{}", revision.unwrap_or(0)))].into()),
            ..Default::default()
        })
    };
    let store = Store::<ConfigMap>::by_hand();
    let mut changes = subscribe(&store);
    let mut check = |what: &dyn Fn(), expected: &[&str]| {
        what();
        let told: Vec<String> = std::iter::from_fn(|| changes.try_recv().ok()).collect();
        assert_eq!(told, expected);
    };
    check(&|| store.feed_list(vec![object("x", Some(4))], 7), &["+a/one x@4"]);
    // Older than the list, although the object is not.
    check(&|| store.feed(false, object("x", Some(6))), &[]);
    check(&|| store.feed(true, object("x", Some(8))), &["-a/one x@8"]);
    check(&|| store.feed(false, object("y", Some(9))), &["+a/one y@9"]);
    // The watch begins again in the past: neither does the first come back, nor does its end take the second away.
    check(&|| store.feed(false, object("x", Some(6))), &[]);
    check(&|| store.feed(true, object("x", Some(8))), &[]);
    check(&|| store.feed(false, object("y", Some(9))), &[]);
    check(&|| store.feed(false, object("y", Some(10))), &["~a/one y@9>y@10"]);
    // A list is believed: it may come from a server that has another past.
    check(&|| store.feed_list(Vec::new(), 3), &["-a/one y@10"]);
    check(&|| store.feed(false, object("z", Some(5))), &["+a/one z@5"]);
    check(&|| store.feed(false, object("z", None)), &["~a/one z@5>z@0"]);
}
