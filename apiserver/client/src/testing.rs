//! A small API server of one kind for this crate's tests: lists, watches, resumes, expires, breaks.

use axum::{
    Router,
    body::Body,
    extract::{Query, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use futures::channel::mpsc::{UnboundedSender, unbounded};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, HashMap},
    convert::Infallible,
    sync::{Arc, Mutex},
};

#[derive(Clone, Default)]
pub(crate) struct Fake(Arc<Mutex<Inner>>);

#[derive(Default)]
struct Inner {
    revision: u64,
    objects: BTreeMap<String, Value>,
    log: Vec<(u64, String)>,
    /// Revisions below this are forgotten.
    oldest: u64,
    pub(crate) no_watch_list: bool,
    watchers: Vec<UnboundedSender<Result<Bytes, Infallible>>>,
    requests: Vec<String>,
}

impl Fake {
    pub(crate) fn client(&self) -> kube::Client {
        let router = Router::new().route("/api/v1/configmaps", get(serve)).with_state(self.clone());
        kube::Client::new(router, "default")
    }

    fn inner(&self) -> std::sync::MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// Makes or changes a ConfigMap.
    pub(crate) fn put(&self, namespace: &str, name: &str, uid: &str, data: &str) {
        let mut inner = self.inner();
        inner.revision += 1;
        let key = format!("{namespace}/{name}");
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap", "data": {"value": data},
            "metadata": {"namespace": namespace, "name": name, "uid": uid, "resourceVersion": inner.revision.to_string(),
                         "managedFields": [{"manager": "somebody"}]},
        });
        let kind = if inner.objects.insert(key, object.clone()).is_some() { "MODIFIED" } else { "ADDED" };
        inner.event(kind, &object);
    }

    pub(crate) fn delete(&self, namespace: &str, name: &str) {
        let mut inner = self.inner();
        inner.revision += 1;
        let mut object = inner.objects.remove(&format!("{namespace}/{name}")).unwrap();
        object["metadata"]["resourceVersion"] = inner.revision.to_string().into();
        inner.event("DELETED", &object);
    }

    /// Sends something that is no change of an object.
    pub(crate) fn send(&self, line: &str) {
        self.inner().send(line);
    }

    /// Ends all watches.
    pub(crate) fn cut(&self) {
        self.inner().watchers.clear();
    }

    /// Forgets the past: older revisions get 410.
    pub(crate) fn forget(&self) {
        let mut inner = self.inner();
        inner.oldest = inner.revision;
        inner.log.clear();
    }

    pub(crate) fn refuse_watch_lists(&self) {
        self.inner().no_watch_list = true;
    }

    /// The queries so far.
    pub(crate) fn requests(&self) -> Vec<String> {
        self.inner().requests.clone()
    }
}

impl Inner {
    fn event(&mut self, kind: &str, object: &Value) {
        let line = format!("{{\"type\":\"{kind}\",\"object\":{object}}}");
        self.log.push((self.revision, line.clone()));
        self.send(&line);
    }

    fn send(&mut self, line: &str) {
        // In two pieces, as a network would.
        let (head, tail) = line.split_at(line.len() / 2);
        let tail = format!("{tail}\n");
        self.watchers.retain(|w| {
            let sent = w.unbounded_send(Ok(Bytes::copy_from_slice(head.as_bytes())));
            sent.is_ok() && w.unbounded_send(Ok(Bytes::copy_from_slice(tail.as_bytes()))).is_ok()
        });
    }
}

fn status(code: StatusCode, reason: &str) -> Response {
    (code, json!({"kind": "Status", "code": code.as_u16(), "reason": reason, "message": "no"}).to_string())
        .into_response()
}

async fn serve(State(fake): State<Fake>, Query(query): Query<HashMap<String, String>>) -> Response {
    let mut inner = fake.inner();
    let mut asked: Vec<_> =
        query.iter().filter(|(k, _)| *k != "timeoutSeconds").map(|(k, v)| format!("{k}={v}")).collect();
    asked.sort();
    inner.requests.push(asked.join("&"));
    if query.get("watch").is_none_or(|w| w != "true") {
        return list(&inner, &query);
    }
    let (tx, rx) = unbounded();
    let send = |line: String| tx.unbounded_send(Ok(Bytes::from(line + "\n"))).unwrap();
    if query.contains_key("sendInitialEvents") {
        if inner.no_watch_list {
            return status(StatusCode::UNPROCESSABLE_ENTITY, "Invalid");
        }
        for object in inner.objects.values() {
            send(format!("{{\"type\":\"ADDED\",\"object\":{object}}}"));
        }
        let bookmark = json!({"kind": "ConfigMap", "apiVersion": "v1", "metadata": {
            "resourceVersion": inner.revision.to_string(), "annotations": {"k8s.io/initial-events-end": "true"}}});
        send(format!("{{\"type\":\"BOOKMARK\",\"object\":{bookmark}}}"));
    } else {
        let from: u64 = query["resourceVersion"].parse().unwrap();
        if from < inner.oldest {
            return status(StatusCode::GONE, "Expired");
        }
        for (_, line) in inner.log.iter().filter(|(revision, _)| *revision > from) {
            send(line.clone());
        }
    }
    inner.watchers.push(tx);
    Body::from_stream(rx).into_response()
}

/// Pages of two, whatever the limit.
fn list(inner: &Inner, query: &HashMap<String, String>) -> Response {
    let after = query.get("continue").cloned().unwrap_or_default();
    let mut rest = inner.objects.iter().filter(|(key, _)| **key > after);
    let page: Vec<_> = rest.by_ref().take(2).collect();
    let more = rest.next().is_some();
    let token = page.last().filter(|_| more).map(|(key, _)| key.as_str()).unwrap_or_default();
    let items: Vec<_> = page.iter().map(|(_, object)| object).collect();
    let list = json!({"kind": "ConfigMapList", "apiVersion": "v1", "items": items,
                      "metadata": {"resourceVersion": inner.revision.to_string(), "continue": token}});
    list.to_string().into_response()
}
