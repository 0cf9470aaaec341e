//! An API server of a few routes, for tests of the worker: one pod, the objects it refers to, and what was asked.

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
    routing::{get, patch, post},
};
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};
use tokio::sync::watch;

#[derive(Clone)]
pub(crate) struct FakeApi {
    state: Arc<Mutex<Content>>,
    changes: watch::Sender<u64>,
}

#[derive(Default)]
pub(crate) struct Content {
    /// `None` once deleted.
    pub(crate) pod: Option<Value>,
    /// `configmaps/name` → object.
    pub(crate) objects: BTreeMap<String, Value>,
    /// Event reasons and what was written, oldest first.
    pub(crate) log: Vec<String>,
    version: u64,
}

/// No test waits longer than this for anything.
const PATIENCE: Duration = Duration::from_secs(20);

impl FakeApi {
    pub(crate) fn new(pod: &Pod) -> Self {
        let content = Content { pod: serde_json::to_value(pod).ok(), version: 1, ..Content::default() };
        Self { state: Arc::new(Mutex::new(content)), changes: watch::Sender::new(0) }
    }

    pub(crate) fn client(&self) -> kube::Client {
        let pod = "/api/v1/namespaces/{ns}/pods/{name}";
        let router = Router::new()
            .route(&format!("{pod}/status"), patch(patch_status))
            .route(pod, axum::routing::delete(delete_pod))
            .route("/api/v1/namespaces/{ns}/events", post(event))
            .route("/api/v1/namespaces/{ns}/events/{name}", patch(event_again))
            .route("/api/v1/namespaces/{ns}/serviceaccounts/{name}/token", post(token))
            .route("/api/v1/namespaces/{ns}/{plural}/{name}", get(object))
            .with_state(self.clone());
        kube::Client::new(router, "default")
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, Content> {
        self.state.lock().unwrap()
    }

    pub(crate) fn put(&self, path: &str, object: Value) {
        self.lock().objects.insert(path.to_owned(), object);
    }

    pub(crate) fn pod(&self) -> Option<Pod> {
        self.lock().pod.clone().map(|pod| serde_json::from_value(pod).unwrap())
    }

    /// Waits until `wanted` holds after some write; says what was there when it never does.
    pub(crate) async fn until(&self, what: &str, wanted: impl Fn(&Content) -> bool) {
        let mut changes = self.changes.subscribe();
        let wait = async {
            loop {
                if wanted(&self.lock()) {
                    return;
                }
                changes.changed().await.unwrap();
            }
        };
        if tokio::time::timeout(PATIENCE, wait).await.is_err() {
            let content = self.lock();
            panic!("{what}: never; pod {:#}, log {:?}", content.pod.clone().unwrap_or_default(), content.log);
        }
    }

    /// Waits for a phase and the state of the first container: `Running/Running`, `Pending/ErrImagePull`.
    pub(crate) async fn until_state(&self, wanted: &str) {
        self.until(wanted, |content| content.state() == wanted).await;
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }
}

impl Content {
    pub(crate) fn state(&self) -> String {
        let Some(pod) = &self.pod else { return "deleted".to_owned() };
        let status = &pod["status"];
        let state = &status["containerStatuses"][0]["state"];
        let text = match () {
            () if state["running"].is_object() => "Running",
            () if state["waiting"].is_object() => state["waiting"]["reason"].as_str().unwrap_or("?"),
            () if state["terminated"].is_object() => state["terminated"]["reason"].as_str().unwrap_or("?"),
            () => "none",
        };
        format!("{}/{text}", status["phase"].as_str().unwrap_or("none"))
    }

    pub(crate) fn position(&self, entry: &str) -> Option<usize> {
        self.log.iter().position(|line| line == entry)
    }
}

fn not_found() -> Response {
    let status = json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": "NotFound", "code": 404,
        "message": "not found"});
    (StatusCode::NOT_FOUND, Json(status)).into_response()
}

async fn patch_status(State(api): State<FakeApi>, Json(patch): Json<Value>) -> Response {
    let answer = {
        let mut content = api.lock();
        content.version += 1;
        let version = content.version.to_string();
        let Some(pod) = &mut content.pod else { return not_found() };
        if !pod["status"].is_object() {
            pod["status"] = json!({});
        }
        for (key, value) in patch["status"].as_object().cloned().unwrap_or_default() {
            let old = pod["status"][&key].take();
            pod["status"][&key] = if key == "conditions" { merged(old, value) } else { value };
        }
        pod["status"].as_object_mut().unwrap().retain(|_, value| !value.is_null());
        pod["metadata"]["resourceVersion"] = json!(version);
        let pod = pod.clone();
        let state = content.state();
        content.log.push(format!("status {state}"));
        pod
    };
    api.changed();
    Json(answer).into_response()
}

/// Lists of conditions, merged by type.
fn merged(old: Value, new: Value) -> Value {
    let mut list = old.as_array().cloned().unwrap_or_default();
    for mut condition in new.as_array().cloned().unwrap_or_default() {
        condition.as_object_mut().unwrap().retain(|_, value| !value.is_null());
        if condition["$patch"] == "delete" {
            list.retain(|known| known["type"] != condition["type"]);
            continue;
        }
        match list.iter_mut().find(|known| known["type"] == condition["type"]) {
            Some(known) => *known = condition,
            None => list.push(condition),
        }
    }
    Value::Array(list)
}

async fn delete_pod(State(api): State<FakeApi>, Json(options): Json<Value>) -> Response {
    let pod = {
        let mut content = api.lock();
        let Some(pod) = content.pod.take() else { return not_found() };
        assert_eq!(options["preconditions"]["uid"], pod["metadata"]["uid"]);
        assert_eq!(options["gracePeriodSeconds"], 0);
        content.log.push("delete".to_owned());
        pod
    };
    api.changed();
    Json(pod).into_response()
}

async fn event(State(api): State<FakeApi>, Json(event): Json<Value>) -> Response {
    api.lock().log.push(format!("event {}", event["reason"].as_str().unwrap_or_default()));
    api.changed();
    Json(event).into_response()
}

async fn event_again(Json(event): Json<Value>) -> Response {
    Json(event).into_response()
}

async fn token(Json(request): Json<Value>) -> Response {
    let mut answer = request;
    answer["status"] = json!({"token": "jwt", "expirationTimestamp": "2100-01-01T00:00:00Z"});
    Json(answer).into_response()
}

async fn object(
    State(api): State<FakeApi>,
    Path((_, plural, name)): Path<(String, String, String)>,
) -> Response {
    match api.lock().objects.get(&format!("{plural}/{name}")) {
        Some(object) => Json(object.clone()).into_response(),
        None => not_found(),
    }
}
