//! Watches: where they start, what they tell, how they end.

use super::*;
use futures::StreamExt;
use std::time::Duration;

/// An open watch, read event by event.
pub(super) struct Watching {
    body: axum::body::BodyDataStream,
    text: Vec<u8>,
}

impl Server {
    pub(super) async fn watch(&self, path: &str) -> Watching {
        self.watch_as(path, "application/json").await
    }
    async fn watch_as(&self, path: &str, accept: &str) -> Watching {
        let request = Request::builder().uri(path).header("accept", accept).body(Body::empty()).unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), 200);
        Watching { body: response.into_body().into_data_stream(), text: Vec::new() }
    }
}

impl Watching {
    /// The next event; `None` at the end.
    async fn next(&mut self) -> Option<Value> {
        loop {
            if let Some(end) = self.text.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.text.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let chunk = tokio::time::timeout(Duration::from_secs(20), self.body.next())
                .await
                .expect("an event or the end");
            self.text.extend_from_slice(&chunk?.unwrap());
        }
    }
    /// (type, name) of the next `n` events.
    pub(super) async fn take(&mut self, n: usize) -> Vec<(String, String)> {
        let mut events = Vec::new();
        for _ in 0..n {
            let event = self.next().await.unwrap();
            let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
            events.push((text(&event["type"]), text(&event["object"]["metadata"]["name"])));
        }
        events
    }
}

pub(super) fn told(events: &[(&str, &str)]) -> Vec<(String, String)> {
    events.iter().map(|(t, n)| ((*t).to_owned(), (*n).to_owned())).collect()
}

#[tokio::test]
async fn without_a_revision_what_is_there_comes_first() {
    let server = Server::new();
    server.create(MAPS, &map("a", &json!({}))).await;
    server.create(MAPS, &map("b", &json!({}))).await;
    for query in ["watch=1", "watch=true&resourceVersion=0"] {
        let mut watch = server.watch(&format!("{MAPS}?{query}")).await;
        assert_eq!(watch.take(2).await, told(&[("ADDED", "a"), ("ADDED", "b")]));
        server.put(&format!("{MAPS}/a"), &map("a", &json!({"q": query}))).await.expect(200);
        assert_eq!(watch.take(1).await, told(&[("MODIFIED", "a")]));
    }
    let mut old_path = server.watch("/api/v1/watch/namespaces/default/configmaps/b").await;
    assert_eq!(old_path.take(1).await, told(&[("ADDED", "b")]));
    server.create(MAPS, &map("c", &json!({}))).await;
    server.delete(&format!("{MAPS}/b"), &Value::Null).await.expect(200);
    assert_eq!(old_path.take(1).await, told(&[("DELETED", "b")]));
}

#[tokio::test]
async fn from_a_revision_nothing_is_missed_and_nothing_comes_twice() {
    let server = Server::new();
    let first = server.create(MAPS, &map("a", &json!({}))).await;
    server.create(MAPS, &map("b", &json!({}))).await;
    server.create(PODS, &pod("p")).await;
    server.put(&format!("{MAPS}/b"), &map("b", &json!({"x": "1"}))).await.expect(200);
    let gone = server.app.registry.store().revision().0 + 1;
    server.delete(&format!("{MAPS}/a"), &Value::Null).await.expect(200);
    let mut watch = server.watch(&format!("{MAPS}?watch=1&resourceVersion={}", revision(&first))).await;
    assert_eq!(watch.take(2).await, told(&[("ADDED", "b"), ("MODIFIED", "b")]));
    let deleted = watch.next().await.unwrap();
    assert_eq!((&deleted["type"], revision(&deleted["object"])), (&json!("DELETED"), gone));
    assert_eq!(deleted["object"]["metadata"]["uid"], first["metadata"]["uid"]);
    server.create(MAPS, &map("z", &json!({}))).await;
    assert_eq!(watch.take(1).await, told(&[("ADDED", "z")]));
}

#[tokio::test]
async fn a_watch_list_ends_its_first_part_with_a_bookmark() {
    let server = Server::new();
    let initial = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut empty = server.watch(&format!("{MAPS}?{initial}")).await;
    let end = empty.next().await.unwrap();
    assert_eq!(end["type"], "BOOKMARK");
    server.create(MAPS, &map("a", &json!({}))).await;
    assert_eq!(empty.take(1).await, told(&[("ADDED", "a")]));
    let mut watch = server.watch(&format!("{MAPS}?{initial}&resourceVersion=1")).await;
    assert_eq!(watch.take(1).await, told(&[("ADDED", "a")]));
    let end = watch.next().await.unwrap();
    assert_eq!(
        end,
        json!({"type": "BOOKMARK", "object": {
            "kind": "ConfigMap", "apiVersion": "v1",
            "metadata": {"resourceVersion": "1", "annotations": {"k8s.io/initial-events-end": "true"}},
        }})
    );
    server.get(&format!("{MAPS}?{initial}&resourceVersion=99")).await.refused(
        504,
        "Timeout",
        "Too large resource version",
    );
    server.get(&format!("{MAPS}?watch=1&sendInitialEvents=true")).await.refused(
        422,
        "Invalid",
        "sendInitialEvents requires",
    );
    server.get(&format!("{MAPS}?watch=1&resourceVersionMatch=Exact&resourceVersion=1")).await.refused(
        422,
        "Invalid",
        "resourceVersionMatch is forbidden for watch",
    );
}

#[tokio::test]
async fn entering_and_leaving_a_selection() {
    let server = Server::new();
    let mut watch = server.watch(&format!("{MAPS}?watch=1&labelSelector=l%3Dyes")).await;
    let mut by_node = server.watch(&format!("{PODS}?watch=1&fieldSelector=spec.nodeName%3Dn1")).await;
    let labelled = |value: &str, data: &str| {
        let mut object = map("a", &json!({"d": data}));
        object["metadata"]["labels"] = json!({"l": value});
        object
    };
    let path = format!("{MAPS}/a");
    server.create(MAPS, &labelled("no", "1")).await;
    server.put(&path, &labelled("no", "2")).await.expect(200);
    server.put(&path, &labelled("yes", "2")).await.expect(200);
    server.put(&path, &labelled("yes", "3")).await.expect(200);
    let left = server.put(&path, &labelled("no", "4")).await.expect(200);
    server.delete(&path, &Value::Null).await.expect(200);
    server.create(MAPS, &labelled("yes", "5")).await;
    server.delete(&path, &Value::Null).await.expect(200);
    assert_eq!(watch.take(2).await, told(&[("ADDED", "a"), ("MODIFIED", "a")]));
    let deleted = watch.next().await.unwrap();
    // The state the watcher knew, at the revision of the change that took it out of sight.
    assert_eq!((&deleted["type"], &deleted["object"]["data"]["d"]), (&json!("DELETED"), &json!("3")));
    assert_eq!(revision(&deleted["object"]), revision(&left));
    assert_eq!(watch.take(2).await, told(&[("ADDED", "a"), ("DELETED", "a")]));

    server.create(PODS, &pod("p")).await;
    server.post(&format!("{PODS}/p/binding"), &json!({"target": {"name": "n1"}})).await.expect(201);
    assert_eq!(by_node.take(1).await, told(&[("ADDED", "p")]));
}

#[tokio::test]
async fn too_old_a_revision_is_told_in_the_stream() {
    let server = Server::new();
    for i in 0..3 {
        server.create(MAPS, &map(&format!("m{i}"), &json!({}))).await;
    }
    let store = server.app.registry.store();
    store.compact(store.revision()).await.unwrap();
    let mut watch = server.watch(&format!("{MAPS}?watch=1&resourceVersion=1")).await;
    let error = watch.next().await.unwrap();
    assert_eq!((&error["type"], &error["object"]["code"]), (&json!("ERROR"), &json!(410)));
    assert_eq!(error["object"]["reason"], "Expired");
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn bookmarks_say_how_far_a_quiet_watch_has_come() {
    let limits = Limits { bookmark: Duration::from_millis(10), ..Limits::default() };
    let server = Server::with(limits, storage::Limits::default());
    let mut watch = server.watch(&format!("{MAPS}?watch=1&allowWatchBookmarks=true")).await;
    let made = server.create(PODS, &pod("p")).await;
    loop {
        let event = watch.next().await.unwrap();
        assert_eq!((&event["type"], &event["object"]["kind"]), (&json!("BOOKMARK"), &json!("ConfigMap")));
        if revision(&event["object"]) >= revision(&made) {
            break;
        }
    }
}

#[tokio::test]
async fn a_watch_ends_when_its_time_is_over() {
    let server = Server::new();
    let mut watch = server.watch(&format!("{MAPS}?watch=1&timeoutSeconds=1")).await;
    assert!(watch.next().await.is_none());
}

#[tokio::test]
async fn a_stopping_server_ends_watches_cleanly() {
    let server = Server::new();
    let mut watch = server.watch(&format!("{MAPS}?watch=1")).await;
    server.create(MAPS, &map("a", &json!({}))).await;
    assert_eq!(watch.take(1).await, told(&[("ADDED", "a")]));
    server.app.stop.cancel();
    assert!(watch.next().await.is_none());
    server.get(&format!("{MAPS}?watch=1")).await.refused(503, "ServiceUnavailable", "shutting down");
}

#[tokio::test]
async fn tables_and_partial_objects_can_be_watched() {
    let server = Server::new();
    server.create(MAPS, &map("a", &json!({"x": "1"}))).await;
    server.create(MAPS, &map("b", &json!({}))).await;
    let mut table =
        server.watch_as(&format!("{MAPS}?watch=1"), "application/json;as=Table;v=v1;g=meta.k8s.io").await;
    let (first, second) = (table.next().await.unwrap(), table.next().await.unwrap());
    assert_eq!((&first["type"], &first["object"]["kind"]), (&json!("ADDED"), &json!("Table")));
    assert_eq!(first["object"]["rows"][0]["cells"][0], "a");
    assert!(
        first["object"]["columnDefinitions"].is_array() && second["object"]["columnDefinitions"].is_null()
    );
    let partial = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io";
    let mut partial = server.watch_as(&format!("{MAPS}?watch=1"), partial).await;
    let first = partial.next().await.unwrap();
    assert_eq!(
        (&first["object"]["kind"], first["object"].get("data")),
        (&json!("PartialObjectMetadata"), None)
    );
}

#[tokio::test]
async fn many_watchers_see_the_same_order() {
    let server = Server::new();
    let mut watches = Vec::new();
    for _ in 0..20 {
        watches.push(server.watch(&format!("{MAPS}?watch=1")).await);
    }
    let mut expected = Vec::new();
    for i in 0..10 {
        let name = format!("m{i}");
        server.create(MAPS, &map(&name, &json!({}))).await;
        expected.push(("ADDED".to_owned(), name.clone()));
        if i % 2 == 0 {
            server.delete(&format!("{MAPS}/{name}"), &Value::Null).await.expect(200);
            expected.push(("DELETED".to_owned(), name));
        }
    }
    for watch in &mut watches {
        assert_eq!(watch.take(expected.len()).await, expected);
    }
}

#[tokio::test]
async fn a_watcher_that_does_not_read_is_cut_and_comes_back() {
    let storage = storage::Limits { watch_queue: 4, ..storage::Limits::default() };
    let server = Server::with(Limits::default(), storage);
    let mut watch = server.watch(&format!("{MAPS}?watch=1")).await;
    let mut made = Vec::new();
    for i in 0..10 {
        made.push(server.create(MAPS, &map(&format!("m{i}"), &json!({}))).await);
    }
    let mut seen = 0;
    while let Some(event) = watch.next().await {
        assert_eq!((&event["type"], &event["object"]), (&json!("ADDED"), &made[seen]));
        seen += 1;
    }
    assert!(seen < 10, "the queue holds four");
    let from = if seen == 0 { 0 } else { revision(&made[seen - 1]) };
    let mut again = server.watch(&format!("{MAPS}?watch=1&resourceVersion={from}")).await;
    for object in &made[seen..] {
        assert_eq!(&again.next().await.unwrap()["object"], object);
    }
}

#[tokio::test]
async fn a_large_initial_state_comes_in_chunks_and_whole() {
    let server = Server::new();
    for i in 0..10 {
        server.create(MAPS, &map(&format!("m{i}"), &json!({"x": "y".repeat(30_000)}))).await;
    }
    let initial = "watch=1&sendInitialEvents=true&resourceVersionMatch=NotOlderThan&allowWatchBookmarks=true";
    let mut watch = server.watch(&format!("{MAPS}?{initial}")).await;
    let names: Vec<_> = (0..10).map(|i| ("ADDED".to_owned(), format!("m{i}"))).collect();
    assert_eq!(watch.take(10).await, names);
    assert_eq!(watch.next().await.unwrap()["type"], "BOOKMARK");
    assert!(watch.text.is_empty());
}
