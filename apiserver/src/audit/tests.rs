use super::*;
use crate::auth::{Peer, User};
use axum::body::Body;
use serde_json::{Value, json};
use std::sync::Arc;

fn request(path: &str) -> Request {
    let mut request = Request::get(path).header("user-agent", "kubectl/v1").body(Body::empty()).unwrap();
    let remote = "192.0.2.9:1".parse().unwrap();
    request.extensions_mut().insert(Peer::tls(None, remote));
    request
}

fn record(audit: &Audit, path: &str) -> Record {
    let request = request(path);
    let mut record = audit.begin("id-1", &request).unwrap();
    record.about(&RequestInfo::parse(request.method(), request.uri()).unwrap());
    record
}

fn events(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test]
async fn events_are_kubernetes_own() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("audit.log");
    let (audit, writer) = Audit::open(&path).unwrap();
    let identity = Identity {
        user: Some(Arc::new(User::of("admin", &["system:masters"]))),
        acting_as: Some(Arc::new(User::of("jane", &[]))),
        allowed: Some(false),
    };
    let mut refused = record(&audit, "/apis/apps/v1/namespaces/a/statefulsets/b/scale?x=y");
    refused.answered(&identity, 403, Some(("Forbidden", "no".to_owned())));
    refused.log(Stage::ResponseComplete);
    let mut watch = record(&audit, "/api/v1/pods?watch=1");
    watch.answered(&Identity::default(), 200, None);
    watch.log(Stage::ResponseStarted);
    drop(Ending(watch));
    let stop = CancellationToken::new();
    stop.cancel();
    // What is queued when it is told to stop is written still.
    writer.run(stop).await;
    assert_eq!(audit.counts(), Counts { taken: 3, lost: 0 });

    let mut events = events(&path);
    let first = events[0].as_object_mut().unwrap();
    for stamp in ["requestReceivedTimestamp", "stageTimestamp"] {
        let text = first.remove(stamp).unwrap();
        assert_eq!(text.as_str().unwrap().len(), "2026-11-22T21:41:36.000000Z".len(), "{text}");
    }
    assert_eq!(
        events[0],
        json!({
            "kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": "Metadata", "auditID": "id-1",
            "stage": "ResponseComplete", "verb": "get",
            "requestURI": "/apis/apps/v1/namespaces/a/statefulsets/b/scale?x=y",
            "user": {"username": "admin", "groups": ["system:masters", "system:authenticated"]},
            "impersonatedUser": {"username": "jane", "groups": ["system:authenticated"]},
            "sourceIPs": ["192.0.2.9"], "userAgent": "kubectl/v1",
            "objectRef": {
                "resource": "statefulsets", "namespace": "a", "name": "b", "apiGroup": "apps",
                "apiVersion": "v1", "subresource": "scale",
            },
            "responseStatus":
                {"metadata": {}, "status": "Failure", "message": "no", "reason": "Forbidden", "code": 403},
            "annotations": {"authorization.k8s.io/decision": "forbid", "authorization.k8s.io/reason": ""},
        })
    );
    let stages: Vec<_> = events[1..].iter().map(|e| (&e["verb"], &e["stage"])).collect();
    let watch = json!("watch");
    assert_eq!(stages, [(&watch, &json!("ResponseStarted")), (&watch, &json!("ResponseComplete"))]);
    assert_eq!(events[1]["responseStatus"], json!({"metadata": {}, "code": 200}));
}

#[tokio::test]
async fn a_full_queue_loses_events_and_nobody_waits() {
    let dir = tempfile::tempdir().unwrap();
    let (audit, writer) = Audit::open(&dir.path().join("audit.log")).unwrap();
    for _ in 0..QUEUE + 5 {
        record(&audit, "/version").log(Stage::ResponseComplete);
    }
    assert_eq!(audit.counts(), Counts { taken: QUEUE as u64, lost: 5 });
    let stop = CancellationToken::new();
    stop.cancel();
    writer.run(stop).await;
    assert_eq!(events(&dir.path().join("audit.log")).len(), QUEUE);
    assert!(Audit::default().begin("id", &request("/version")).is_none(), "nobody asked for a log");
}

#[test]
fn a_client_may_name_its_request() {
    let id = |sent: &str| {
        let headers = HeaderMap::from_iter([("audit-id".parse().unwrap(), sent.parse().unwrap())]);
        id_of(&headers)
    };
    assert_eq!(id("my-own"), "my-own");
    assert_eq!(id("").len(), 36);
    assert_eq!(id(&"x".repeat(65)).len(), 36);
}
