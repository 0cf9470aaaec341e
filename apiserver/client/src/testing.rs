//! A small API server for tests: it serves what is put in, lists, watches, resumes, expires, breaks. It checks
//! nothing and keeps no spec from status; whoever needs that takes the real one.

use crate::Cached;
use axum::{
    Router,
    body::Body,
    extract::{Query, State},
    http::{StatusCode, Uri},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Cheap to clone; all clones are one server.
#[derive(Clone, Default)]
pub struct Fake(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    revision: u64,
    collections: HashMap<String, Collection>,
    /// Revisions below this are forgotten.
    oldest: u64,
    no_watch_list: bool,
    requests: Vec<String>,
}

#[derive(Default)]
struct Collection {
    objects: BTreeMap<String, Value>,
    log: Vec<(u64, String)>,
    watchers: Vec<UnboundedSender<Result<Bytes, Infallible>>>,
}

fn path<K: Cached>() -> String {
    crate::Store::<K>::path()
}

impl Fake {
    /// Must be called within a tokio runtime.
    pub fn client(&self) -> kube::Client {
        kube::Client::new(Router::new().fallback(serve).with_state(self.clone()), "default")
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes or changes an object and sets its resourceVersion.
    pub fn put<K: Cached + serde::Serialize>(&self, object: &K) {
        let mut inner = self.inner();
        inner.revision += 1;
        let revision = inner.revision;
        let Ok(mut value) = serde_json::to_value(object) else { return };
        value["metadata"]["resourceVersion"] = revision.to_string().into();
        let meta = object.metadata();
        let key = format!(
            "{}/{}",
            meta.namespace.as_deref().unwrap_or_default(),
            meta.name.as_deref().unwrap_or_default()
        );
        let collection = inner.collections.entry(path::<K>()).or_default();
        let kind = if collection.objects.insert(key, value.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        collection.event(kind, &value, revision);
    }

    /// Removes an object; nothing happens if there is none.
    pub fn delete<K: Cached>(&self, namespace: &str, name: &str) {
        let mut inner = self.inner();
        inner.revision += 1;
        let revision = inner.revision;
        let collection = inner.collections.entry(path::<K>()).or_default();
        let Some(mut object) = collection.objects.remove(&format!("{namespace}/{name}")) else { return };
        object["metadata"]["resourceVersion"] = revision.to_string().into();
        collection.event("DELETED", &object, revision);
    }

    /// Sends all watchers of a kind something that is no change of an object.
    pub fn send<K: Cached>(&self, line: &str) {
        self.inner().collections.entry(path::<K>()).or_default().send(line);
    }

    /// Ends all watches.
    pub fn cut(&self) {
        self.inner().collections.values_mut().for_each(|c| c.watchers.clear());
    }

    /// Forgets the past: older revisions get 410.
    pub fn forget(&self) {
        let mut inner = self.inner();
        inner.oldest = inner.revision;
        inner.collections.values_mut().for_each(|c| c.log.clear());
    }

    pub fn refuse_watch_lists(&self) {
        self.inner().no_watch_list = true;
    }

    /// The queries so far.
    pub fn requests(&self) -> Vec<String> {
        self.inner().requests.clone()
    }
}

impl Collection {
    fn event(&mut self, kind: &str, object: &Value, revision: u64) {
        let line = format!("{{\"type\":\"{kind}\",\"object\":{object}}}");
        self.log.push((revision, line.clone()));
        self.send(&line);
    }

    fn send(&mut self, line: &str) {
        // In two pieces, as a network would.
        let (head, tail) = line.as_bytes().split_at(line.len() / 2);
        let (head, tail) = (Bytes::copy_from_slice(head), Bytes::from([tail, b"\n"].concat()));
        self.watchers.retain(|w| {
            w.unbounded_send(Ok(head.clone())).is_ok() && w.unbounded_send(Ok(tail.clone())).is_ok()
        });
    }
}

fn status(code: StatusCode, reason: &str) -> Response {
    let body = json!({"kind": "Status", "code": code.as_u16(), "reason": reason, "message": "no"});
    (code, body.to_string()).into_response()
}

async fn serve(State(fake): State<Fake>, uri: Uri, Query(query): Query<HashMap<String, String>>) -> Response {
    let inner = &mut *fake.inner();
    let mut asked: Vec<_> =
        query.iter().filter(|(k, _)| *k != "timeoutSeconds").map(|(k, v)| format!("{k}={v}")).collect();
    asked.sort();
    inner.requests.push(asked.join("&"));
    let collection = inner.collections.entry(uri.path().to_owned()).or_default();
    if query.get("watch").is_none_or(|w| w != "true") {
        return list(collection, inner.revision, &query);
    }
    let (tx, rx) = unbounded();
    // The receiver is there, so nothing is lost.
    let send = |line: String| tx.unbounded_send(Ok(Bytes::from(line + "\n"))).unwrap_or_default();
    if query.contains_key("sendInitialEvents") {
        if inner.no_watch_list {
            return status(StatusCode::UNPROCESSABLE_ENTITY, "Invalid");
        }
        for object in collection.objects.values() {
            send(format!("{{\"type\":\"ADDED\",\"object\":{object}}}"));
        }
        let bookmark = json!({"metadata": {"resourceVersion": inner.revision.to_string(),
                              "annotations": {"k8s.io/initial-events-end": "true"}}});
        send(format!("{{\"type\":\"BOOKMARK\",\"object\":{bookmark}}}"));
    } else {
        let Some(from) = query.get("resourceVersion").and_then(|v| v.parse::<u64>().ok()) else {
            return status(StatusCode::BAD_REQUEST, "BadRequest");
        };
        if from < inner.oldest {
            return status(StatusCode::GONE, "Expired");
        }
        for (_, line) in collection.log.iter().filter(|(revision, _)| *revision > from) {
            send(line.clone());
        }
    }
    collection.watchers.push(tx);
    Body::from_stream(rx).into_response()
}

/// Pages of two, whatever the limit.
fn list(collection: &Collection, revision: u64, query: &HashMap<String, String>) -> Response {
    let after = query.get("continue").cloned().unwrap_or_default();
    let mut rest = collection.objects.iter().filter(|(key, _)| **key > after);
    let page: Vec<_> = rest.by_ref().take(2).collect();
    let more = rest.next().is_some();
    let token = page.last().filter(|_| more).map(|(key, _)| key.as_str()).unwrap_or_default();
    let items: Vec<_> = page.iter().map(|(_, object)| object).collect();
    json!({"items": items, "metadata": {"resourceVersion": revision.to_string(), "continue": token}})
        .to_string()
        .into_response()
}
