//! What is garbage, and what the API server is asked before anything is removed.

use super::*;
use api::clock::ManualClock;
use client::{
    Informers,
    stage::{self, Call, Reply, Stage, Verb},
    testing::Fake,
};
use futures::{FutureExt, future::BoxFuture};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

fn pod(node: Option<&str>, terminating: bool) -> Pod {
    let deleted = terminating.then_some("2026-01-01T00:00:00Z");
    serde_json::from_value(json!({
        "metadata": {"namespace": "ns", "name": "p", "uid": "u", "resourceVersion": "3", "deletionTimestamp": deleted},
        "spec": {"nodeName": node, "containers": []},
        "status": {"phase": "Running"},
    }))
    .unwrap()
}

fn node(ready: &str, taint: &str) -> Node {
    serde_json::from_value(json!({
        "metadata": {"name": "n", "resourceVersion": "4"},
        "spec": {"taints": [{"key": taint, "effect": "NoExecute"}]},
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }))
    .unwrap()
}

#[test]
fn what_is_garbage() {
    let orphaned = Some(Garbage::Orphaned { node: "n".into() });
    assert_eq!(judge(&pod(Some("n"), false), None), orphaned);
    assert_eq!(judge(&pod(Some("n"), true), None), orphaned);
    assert_eq!(judge(&pod(None, false), None), None);
    assert_eq!(judge(&pod(None, true), None), Some(Garbage::NeverScheduled));
    let lost = node("Unknown", monitor::UNREACHABLE);
    assert_eq!(
        judge(&pod(Some("n"), true), Some(&lost)),
        None,
        "a lost node's pod stays until someone knows"
    );
    let declared = node("Unknown", monitor::OUT_OF_SERVICE);
    assert_eq!(judge(&pod(Some("n"), true), Some(&declared)), Some(Garbage::OutOfService));
    assert_eq!(judge(&pod(Some("n"), false), Some(&declared)), None);
    assert_eq!(judge(&pod(Some("n"), true), Some(&node("True", monitor::OUT_OF_SERVICE))), None);
}

/// An API server that has one node or none, and notes what it is asked for.
struct Door {
    node: Mutex<Option<Node>>,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Stage for Door {
    fn call(&self, call: Call) -> BoxFuture<'static, kube::Result<Reply>> {
        let (verb, answer) = match call.verb {
            Verb::Get => ("get", self.node.lock().unwrap().clone().map(|n| Reply::Object(Arc::new(n)))),
            Verb::PatchStatus(patch) => {
                assert_eq!(patch["metadata"], json!({"uid": "u", "resourceVersion": "3"}));
                assert_eq!(patch["status"]["phase"], "Failed");
                ("fail", Some(Reply::Object(Arc::new(pod(Some("n"), true)))))
            }
            Verb::Delete(params) => {
                assert_eq!(params.grace_period_seconds, Some(0));
                assert_eq!(params.preconditions.and_then(|p| p.uid).as_deref(), Some("u"));
                ("delete", Some(Reply::Object(Arc::new(pod(Some("n"), true)))))
            }
            other => panic!("{other:?} is none of its business"),
        };
        self.calls.lock().unwrap().push(format!("{verb} {} {}", call.kind, call.name));
        let missing = || kube::core::Status::failure("gone", "NotFound").with_code(404).boxed();
        async move { answer.ok_or_else(|| kube::Error::Api(missing())) }.boxed()
    }
}

struct Bed {
    gc: PodGc,
    clock: Arc<ManualClock>,
    stage: Arc<dyn Stage>,
    calls: Arc<Mutex<Vec<String>>>,
}

impl Bed {
    /// `cached` is what the caches show, `held` what the API server has. Must be called within a runtime, which is never
    /// driven.
    fn new(pod: Pod, cached: Option<Node>, held: Option<Node>) -> Self {
        let (client, token) = (Fake::default().client(), CancellationToken::new());
        let clock = Arc::new(ManualClock::new(Timestamp::UNIX_EPOCH));
        let ctx = Arc::new(Ctx {
            informers: Informers::new(client.clone(), token.clone()),
            client,
            clock: clock.clone(),
            config: crate::Config::default(),
            metrics: Arc::default(),
            tracker: TaskTracker::new(),
            token,
        });
        let gc = PodGc::new(ctx);
        gc.pods.feed_list(vec![Arc::new(pod)], 9);
        gc.nodes.feed_list(cached.into_iter().map(Arc::new).collect(), 9);
        let calls = Arc::default();
        let stage = Arc::new(Door { node: Mutex::new(held), calls: Arc::clone(&calls) });
        Self { gc, clock, stage, calls }
    }

    fn reconcile(&self) -> Next {
        let key = ObjectKey { namespace: "ns".into(), name: "p".into() };
        stage::on(&self.stage, || self.gc.reconcile(&key).now_or_never()).unwrap().unwrap()
    }

    fn calls(&self) -> Vec<String> {
        std::mem::take(&mut *self.calls.lock().unwrap())
    }
}

const ASKED: &str = "get Node n";
const REMOVED: [&str; 3] = [ASKED, "fail Pod p", "delete Pod p"];

#[tokio::test]
async fn it_asks_afresh_before_it_believes_that_a_node_is_out_of_service() {
    let check = |held: Option<Node>, expected: &[&str]| {
        let cached = node("Unknown", monitor::OUT_OF_SERVICE);
        let bed = Bed::new(pod(Some("n"), true), Some(cached), held.clone());
        assert!(matches!(bed.reconcile(), Next::Wait));
        assert_eq!(bed.calls(), expected, "{held:?}");
    };
    check(Some(node("Unknown", monitor::OUT_OF_SERVICE)), &REMOVED);
    check(Some(node("False", monitor::OUT_OF_SERVICE)), &REMOVED);
    // Taken back into service, and not yet heard of; or heard of, with the taint still there.
    check(Some(node("Unknown", monitor::UNREACHABLE)), &[ASKED]);
    check(Some(node("True", monitor::OUT_OF_SERVICE)), &[ASKED]);
    // Deleted meanwhile: that is another matter, with a quarantine of its own.
    check(None, &[ASKED]);
}

#[tokio::test]
async fn a_missing_node_is_waited_for_and_asked_about() {
    let check = |held: Option<Node>, expected: &[&str]| {
        let bed = Bed::new(pod(Some("n"), false), None, held);
        let left = match bed.reconcile() {
            Next::After(left) => left,
            Next::Wait => panic!("nothing is waited for"),
        };
        assert!(bed.calls().is_empty());
        bed.clock.advance(SignedDuration::try_from(left).unwrap() - SignedDuration::from_millis(1));
        assert!(matches!(bed.reconcile(), Next::After(_)));
        assert!(bed.calls().is_empty());
        bed.clock.advance(SignedDuration::from_millis(1));
        assert!(matches!(bed.reconcile(), Next::Wait));
        assert_eq!(bed.calls(), expected);
    };
    check(None, &REMOVED);
    check(Some(node("True", "none")), &[ASKED]);
}

#[tokio::test]
async fn a_node_that_was_back_is_waited_for_anew() {
    let bed = Bed::new(pod(Some("n"), false), None, None);
    bed.gc.watch(&Queue::new());
    let Next::After(whole) = bed.reconcile() else { panic!("nothing is waited for") };
    // Long afterwards it registers, and is deleted again: between the two nobody has looked at its pods.
    bed.clock.advance(SignedDuration::from_hours(1));
    let version = |version: &str| {
        let mut node = node("True", "none");
        node.metadata.resource_version = Some(version.to_owned());
        Arc::new(node)
    };
    bed.gc.nodes.feed(false, version("10"));
    bed.clock.advance(SignedDuration::from_hours(1));
    bed.gc.nodes.feed(true, version("11"));
    match bed.reconcile() {
        Next::After(left) => assert_eq!(left, whole),
        Next::Wait => panic!("removed at once: {:?}", bed.calls()),
    }
    assert!(bed.calls().is_empty());
    bed.clock.advance(SignedDuration::try_from(whole).unwrap());
    assert!(matches!(bed.reconcile(), Next::Wait));
    assert_eq!(bed.calls(), REMOVED);
}

#[tokio::test]
async fn what_never_had_a_node_needs_no_question() {
    let bed = Bed::new(pod(None, true), None, None);
    bed.reconcile();
    assert_eq!(bed.calls(), REMOVED[1..]);
    let bed = Bed::new(pod(None, false), None, None);
    bed.reconcile();
    assert!(bed.calls().is_empty());
}
