//! An event recorder: tells people, in `core/v1` Events, what a component did with an object.
//!
//! Nothing here ever blocks the caller or fails it: events are best effort. They wait in a bounded queue, the
//! oldest make room; what repeats is counted in the event that is already there.

mod plan;

use crate::lock;
use k8s_openapi::{
    api::core::v1::{Event, ObjectReference},
    jiff::Timestamp,
};
use kube::api::{Api, Patch, PatchParams, PostParams};
use plan::{Occurrence, Pending, Series, Subject};
use std::{
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::sync::Notify;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// One write to the API server.
const WRITE: Duration = Duration::from_secs(10);
/// Pauses before a write is tried again: the server may be restarting. After the last the event is dropped.
const RETRIES: [Duration; 3] = [Duration::from_millis(200), Duration::from_secs(2), Duration::from_secs(10)];

/// Cheap to clone; all clones are one recorder.
#[derive(Clone)]
pub struct Recorder {
    shared: Arc<Shared>,
}

struct Shared {
    pending: Mutex<Pending>,
    added: Notify,
}

impl Recorder {
    /// Events name `component` and `host` as their source. They are written by one task on `tracker` until
    /// `token` is cancelled.
    pub fn new(
        client: kube::Client,
        component: &str,
        host: &str,
        tracker: &TaskTracker,
        token: CancellationToken,
    ) -> Self {
        let shared = Arc::new(Shared { pending: Mutex::default(), added: Notify::new() });
        let writer = Writer {
            client,
            component: component.to_owned(),
            host: host.to_owned(),
            series: Series::default(),
        };
        let queue = shared.clone();
        tracker.spawn(async move { token.run_until_cancelled(writer.run(&queue)).await });
        Self { shared }
    }

    /// Tells that something happened to `object`; `type_` is `Normal` or `Warning`, `reason` a CamelCase word.
    /// An object without a namespace gets its events in `default`.
    pub fn event(&self, object: &ObjectReference, type_: &str, reason: &str, message: &str) {
        let subject = Subject::new(object, type_, reason, message);
        lock(&self.shared.pending).add(subject, Timestamp::now());
        self.shared.added.notify_one();
    }

    /// How many events were dropped because the API server did not keep up.
    pub fn dropped(&self) -> u64 {
        lock(&self.shared.pending).dropped()
    }
}

struct Writer {
    client: kube::Client,
    component: String,
    host: String,
    series: Series,
}

impl Writer {
    async fn run(mut self, shared: &Shared) {
        loop {
            let next = lock(&shared.pending).take();
            match next {
                Some((subject, occurrence)) => self.write(subject, occurrence).await,
                // `notify_one` keeps a permit, so an add since `take` is not missed.
                None => shared.added.notified().await,
            }
        }
    }

    async fn write(&mut self, subject: Subject, occurrence: Occurrence) {
        let mut pauses = RETRIES.iter();
        loop {
            match tokio::time::timeout(WRITE, self.attempt(&subject, &occurrence)).await {
                Ok(Ok(())) => return,
                // The namespace is gone or going, or the event is not acceptable: trying again will not help.
                Ok(Err(kube::Error::Api(status)))
                    if (400..500).contains(&status.code) && status.code != 429 =>
                {
                    tracing::debug!(reason = subject.reason(), error = %status.message, "event refused");
                    return;
                }
                Ok(Err(error)) => tracing::debug!(reason = subject.reason(), %error, "event not written"),
                Err(_elapsed) => tracing::debug!(reason = subject.reason(), "event not written in time"),
            }
            let Some(pause) = pauses.next() else {
                tracing::warn!(reason = subject.reason(), "event given up");
                return;
            };
            tokio::time::sleep(*pause).await;
        }
    }

    async fn attempt(&mut self, subject: &Subject, occurrence: &Occurrence) -> Result<(), kube::Error> {
        let api: Api<Event> = Api::namespaced(self.client.clone(), subject.namespace());
        if let Some((name, patch)) = self.series.repeat(subject, occurrence) {
            match api.patch(&name, &PatchParams::default(), &Patch::Merge(patch)).await {
                Ok(_) => {
                    self.series.written(subject, occurrence, name);
                    return Ok(());
                }
                // Events expire and can be deleted: begin anew.
                Err(kube::Error::Api(status)) if status.code == 404 => self.series.forget(subject),
                Err(error) => return Err(error),
            }
        }
        let event = subject.event(occurrence, &self.component, &self.host, fastrand::u64(..));
        let name = event.metadata.name.clone().unwrap_or_default();
        api.create(&PostParams::default(), &event).await?;
        self.series.written(subject, occurrence, name);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::{
        Json, Router,
        extract::{Path, State},
        http::StatusCode,
        routing::{patch, post},
    };
    use serde_json::{Value, json};
    use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

    type Log = UnboundedSender<(String, Value)>;

    async fn create(State(log): State<Log>, Path(ns): Path<String>, Json(event): Json<Value>) -> Json<Value> {
        log.send((format!("create {ns}"), event.clone())).unwrap();
        Json(event)
    }

    async fn change(
        State(log): State<Log>,
        Path((ns, name)): Path<(String, String)>,
        body: String,
    ) -> (StatusCode, Json<Value>) {
        log.send((format!("patch {ns}/{name}"), serde_json::from_str(&body).unwrap())).unwrap();
        (StatusCode::OK, Json(json!({"metadata": {"name": name}, "involvedObject": {}})))
    }

    #[tokio::test]
    async fn the_first_is_created_and_repeats_are_counted() {
        let (log, mut seen) = unbounded_channel();
        let router = Router::new()
            .route("/api/v1/namespaces/{ns}/events", post(create))
            .route("/api/v1/namespaces/{ns}/events/{name}", patch(change))
            .with_state(log);
        let (tracker, token) = (TaskTracker::new(), CancellationToken::new());
        let recorder =
            Recorder::new(kube::Client::new(router, "default"), "kubelet", "node", &tracker, token.clone());
        let pod = ObjectReference {
            kind: Some("Pod".into()),
            namespace: Some("ns".into()),
            name: Some("p".into()),
            uid: Some("1".into()),
            ..Default::default()
        };
        recorder.event(&pod, "Warning", "BackOff", "no luck");
        let (what, event) = seen.recv().await.unwrap();
        assert_eq!(what, "create ns");
        assert_eq!(
            (&event["reason"], &event["count"], &event["source"]),
            (&json!("BackOff"), &json!(1), &json!({"component": "kubelet", "host": "node"}))
        );
        let name = event["metadata"]["name"].as_str().unwrap().to_owned();
        let hex = name.strip_prefix("p.").unwrap();
        assert!(hex.len() == 16 && hex.chars().all(|c| c.is_ascii_hexdigit()), "{name}");

        recorder.event(&pod, "Warning", "BackOff", "no luck");
        let (what, patch) = seen.recv().await.unwrap();
        assert_eq!((what, &patch["count"]), (format!("patch ns/{name}"), &json!(2)));

        let node =
            ObjectReference { kind: Some("Node".into()), name: Some("n".into()), ..Default::default() };
        recorder.event(&node, "Normal", "Starting", "");
        assert_eq!(seen.recv().await.unwrap().0, "create default");
        assert_eq!(recorder.dropped(), 0);
        token.cancel();
        tracker.close();
        tracker.wait().await;
    }
}
