//! The worker over a runtime that only remembers and an API of a few routes.

use super::*;
use crate::{
    Config,
    addresses::Addresses,
    pods::Lookup,
    runtime::fake::{Fake, Script},
    testing::{fake_api::FakeApi, pod},
};
use client::{Informers, Recorder};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::task::JoinHandle;
use tokio_util::task::TaskTracker;

struct Bench {
    api: FakeApi,
    runtime: Arc<Fake>,
    context: Arc<Context>,
    wishes: watch::Sender<Wish>,
    pokes: mpsc::Sender<Poke>,
    worker: JoinHandle<bool>,
    token: CancellationToken,
    _dir: TempDir,
}

impl Bench {
    fn new(spec: Value, prepare: impl FnOnce(&Fake, &FakeApi)) -> Self {
        let pod = pod(spec);
        let api = FakeApi::new(&pod);
        let runtime = Arc::new(Fake::default());
        runtime.add_image("img");
        prepare(&runtime, &api);
        Self::over(pod, api, runtime, tempfile::tempdir().unwrap())
    }

    fn over(pod: Pod, api: FakeApi, runtime: Arc<Fake>, dir: TempDir) -> Self {
        let client = api.client();
        let token = CancellationToken::new();
        let tracker = TaskTracker::new();
        let config = Config::new("n1", 0, "abc", dir.path().to_owned(), "10.1.1.0/24".parse().unwrap());
        let context = Arc::new(Context {
            machine: crate::node::machine(&config),
            addresses: Addresses::new(config.pod_cidr),
            services: Informers::new(client.clone(), token.clone()).store(),
            lookup: Lookup::default(),
            recorder: Recorder::new(client.clone(), "kubelet", "n1", &tracker, token.clone()),
            client,
            config,
            runtime: Arc::clone(&runtime) as Arc<dyn runtime::Runtime>,
        });
        let wish = Wish { pod: Arc::new(pod), vanished: false, rejected: None, resize: None };
        let (wishes, seen) = watch::channel(wish);
        let (pokes, poked) = mpsc::channel(POKES);
        let worker = Worker::new(Arc::clone(&context), seen, poked, None);
        let worker = tokio::spawn(worker.run(token.clone()));
        let bench = Self { api, runtime, context, wishes, pokes, worker, token, _dir: dir };
        bench.forward_events();
        bench
    }

    /// The agent's part: events of the runtime reach the worker.
    fn forward_events(&self) {
        let (mut events, pokes) = (runtime::Runtime::events(self.runtime.as_ref()), self.pokes.clone());
        let token = self.token.clone();
        tokio::spawn(async move {
            while let Some(event) =
                tokio::select! { event = events.next() => event, () = token.cancelled() => None }
            {
                if let runtime::Event::Pod { container_id: id, action, .. } = event
                    && pokes.send(Poke::Container { id, action }).await.is_err()
                {
                    return;
                }
            }
        });
    }

    fn delete(&self, grace: i64) {
        self.wishes.send_modify(|wish| {
            let mut pod = Pod::clone(&wish.pod);
            let end = Timestamp::now().checked_add(SignedDuration::from_secs(grace)).unwrap();
            pod.metadata.deletion_timestamp = Some(k8s_openapi::apimachinery::pkg::apis::meta::v1::Time(end));
            pod.metadata.deletion_grace_period_seconds = Some(grace);
            wish.pod = Arc::new(pod);
        });
    }

    async fn gone(self) -> (FakeApi, Arc<Fake>, Arc<Context>) {
        let ended = tokio::time::timeout(std::time::Duration::from_secs(20), self.worker).await;
        assert!(ended.expect("the worker ends").unwrap(), "because its pod is gone");
        self.token.cancel();
        (self.api, self.runtime, self.context)
    }
}

fn one() -> Value {
    json!({"containers": [{"name": "a"}]})
}

#[tokio::test]
async fn a_pod_runs_and_is_deleted_only_when_its_containers_are_dead() {
    let bench = Bench::new(one(), |_, _| {});
    bench.api.until_state("Running/Running").await;
    let status = bench.api.pod().unwrap().status.unwrap();
    assert_eq!(status.pod_ip.as_deref(), Some("10.1.1.2"));
    assert!(api::pod::is_ready(&bench.api.pod().unwrap()));
    bench.api.until("events", |content| content.position("event Started").is_some()).await;
    assert_eq!(bench.runtime.calls(), ["sandbox p#0", "create a#0", "start a#0"]);
    bench.delete(30);
    let (api, runtime, context) = bench.gone().await;
    assert_eq!(runtime.calls()[3..], ["stop a#0", "remove POD#0", "remove a#0"]);
    let content = api.lock();
    let last = content.position("status Succeeded/Completed").expect("the final status is told");
    assert!(last < content.position("delete").unwrap(), "before the object goes: {:?}", content.log);
    assert!(!context.pod_dir("u").exists());
    assert_eq!(
        context.addresses.allocate("other").map(|ip| ip.octets()[3]),
        Some(3),
        "its address is free, and used last"
    );
}

#[tokio::test]
async fn a_pod_whose_object_vanished_is_killed_and_nothing_is_written() {
    let bench = Bench::new(one(), |_, _| {});
    bench.api.until_state("Running/Running").await;
    bench.wishes.send_modify(|wish| wish.vanished = true);
    let (api, runtime, _) = bench.gone().await;
    assert!(runtime.containers().is_empty());
    assert_eq!(api.lock().position("delete"), None);
}

#[tokio::test]
async fn what_runs_is_adopted() {
    let first = Bench::new(one(), |_, _| {});
    first.api.until_state("Running/Running").await;
    let calls = first.runtime.calls();
    first.token.cancel();
    assert!(!first.worker.await.unwrap(), "stopped, not gone");
    // Another kubelet, the same engine: the container's end is seen, so it is being watched, and nothing was restarted.
    let pod = first.api.pod().unwrap();
    let bench = Bench::over(pod, first.api, first.runtime, first._dir);
    let shown = || bench.context.lookup.running("ns", "p", "a").is_ok();
    while !shown() {
        tokio::task::yield_now().await;
    }
    assert_eq!(bench.runtime.calls(), calls);
    bench.runtime.exit("a", 1);
    bench
        .api
        .until("restart", |content| {
            content.pod.as_ref().unwrap()["status"]["containerStatuses"][0]["restartCount"] == 1
        })
        .await;
    bench.token.cancel();
}

#[tokio::test]
async fn a_crashing_container_backs_off() {
    let bench = Bench::new(one(), |runtime, _| runtime.script("a", [Script::Exit(3), Script::Exit(3)]));
    bench.api.until_state("Running/CrashLoopBackOff").await;
    let status = bench.api.pod().unwrap().status.unwrap().container_statuses.unwrap().remove(0);
    assert_eq!(status.restart_count, 1, "the first restart is at once");
    assert_eq!(status.last_state.unwrap().terminated.unwrap().exit_code, 3);
    bench.api.until("BackOff", |content| content.position("event BackOff").is_some()).await;
    bench.token.cancel();
}

#[tokio::test]
async fn a_pod_that_ran_to_its_end_succeeds() {
    let spec = json!({"restartPolicy": "Never", "containers": [{"name": "a"}]});
    let bench = Bench::new(spec, |runtime, _| runtime.script("a", [Script::Exit(0)]));
    bench.api.until_state("Succeeded/Completed").await;
    let left = || bench.runtime.containers().iter().map(|c| c.name.clone()).collect::<Vec<_>>();
    while left() != ["a"] {
        tokio::task::yield_now().await;
    }
    bench.delete(0);
    bench.gone().await;
}

#[tokio::test]
async fn a_missing_image_is_said_with_the_engines_words() {
    let spec = json!({"containers": [{"name": "a", "image": "none:1"}]});
    let bench = Bench::new(spec, |_, _| {});
    bench.api.until_state("Pending/ErrImagePull").await;
    let status = bench.api.pod().unwrap().status.unwrap().container_statuses.unwrap().remove(0);
    let message = status.state.unwrap().waiting.unwrap().message.unwrap();
    assert_eq!(message, "Failed to pull image \"none:1\": no such host");
    // Another image in the spec is tried at once.
    bench.wishes.send_modify(|wish| {
        let mut pod = Pod::clone(&wish.pod);
        pod.metadata.generation = Some(2);
        pod.spec.as_mut().unwrap().containers[0].image = Some("img".to_owned());
        wish.pod = Arc::new(pod);
    });
    bench.api.until_state("Running/Running").await;
    bench.token.cancel();
}

#[tokio::test]
async fn a_missing_secret_holds_the_container_until_it_is_there() {
    let spec = json!({"containers": [{"name": "a",
        "env": [{"name": "X", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}]}]});
    let bench = Bench::new(spec, |_, _| {});
    bench.api.until_state("Pending/CreateContainerConfigError").await;
    bench.api.put("secrets/s", json!({"metadata": {"name": "s"}, "data": {"k": "dg=="}}));
    bench.pokes.send(Poke::Refresh).await.unwrap();
    bench.api.until_state("Running/Running").await;
    bench.token.cancel();
}

#[tokio::test]
async fn a_missing_volume_holds_the_pod_and_updates_arrive() {
    let spec =
        json!({"containers": [{"name": "a"}], "volumes": [{"name": "v", "configMap": {"name": "cm"}}]});
    let bench = Bench::new(spec, |_, _| {});
    bench.api.until("FailedMount", |content| content.position("event FailedMount").is_some()).await;
    let map = |text: &str| json!({"metadata": {"name": "cm"}, "data": {"k": text}});
    bench.api.put("configmaps/cm", map("one"));
    bench.pokes.send(Poke::Refresh).await.unwrap();
    bench.api.until_state("Running/Running").await;
    let file = bench.context.pod_dir("u").join("volumes/kubernetes.io~configmap/v/k");
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "one");
    bench.api.put("configmaps/cm", map("two"));
    bench.pokes.send(Poke::Refresh).await.unwrap();
    while std::fs::read_to_string(&file).unwrap() != "two" {
        tokio::task::yield_now().await;
    }
    bench.token.cancel();
}

#[tokio::test]
async fn readiness_follows_the_probe() {
    let spec = json!({"containers": [{"name": "a", "readinessProbe": {"exec": {"command": ["up"]}, "failureThreshold": 1, "periodSeconds": 1}}]});
    let bench = Bench::new(spec, |runtime, _| runtime.exec_results("a", [(0, ""), (1, "down")]));
    let ready = |content: &crate::testing::fake_api::Content, wanted: bool| {
        let status = &content.pod.as_ref().unwrap()["status"]["containerStatuses"][0];
        status["ready"] == wanted && status["state"]["running"].is_object()
    };
    bench.api.until("ready", |content| ready(content, true)).await;
    bench.api.until("unready", |content| ready(content, false)).await;
    bench.api.until("Unhealthy", |content| content.position("event Unhealthy").is_some()).await;
    bench.token.cancel();
}

#[tokio::test]
async fn a_failed_liveness_probe_restarts_and_a_failed_hook_too() {
    let spec = json!({"containers": [{"name": "a", "livenessProbe": {"exec": {"command": ["up"]}, "failureThreshold": 1}}]});
    let bench = Bench::new(spec, |runtime, _| runtime.exec_results("a", [(1, "sick"), (0, "")]));
    let restarted = |content: &crate::testing::fake_api::Content| {
        let status = &content.pod.as_ref().unwrap()["status"]["containerStatuses"][0];
        status["restartCount"] == 1 && status["state"]["running"].is_object()
    };
    bench.api.until("restart", restarted).await;
    bench.token.cancel();
    let spec =
        json!({"containers": [{"name": "a", "lifecycle": {"postStart": {"exec": {"command": ["hook"]}}}}]});
    let bench = Bench::new(spec, |runtime, _| runtime.exec_results("a", [(1, "no"), (0, "")]));
    bench.api.until("restart", restarted).await;
    assert!(bench.api.lock().log.iter().any(|line| line == "event FailedPostStartHook"));
    bench.token.cancel();
}

#[tokio::test]
async fn a_dead_sandbox_is_replaced_with_everything_in_it() {
    let bench = Bench::new(one(), |_, _| {});
    bench.api.until_state("Running/Running").await;
    bench.runtime.exit("POD", 137);
    bench
        .api
        .until("restart", |content| {
            let status = &content.pod.as_ref().unwrap()["status"]["containerStatuses"][0];
            status["restartCount"] == 1 && status["state"]["running"].is_object()
        })
        .await;
    let calls = bench.runtime.calls();
    let position =
        |call: &str| calls.iter().position(|c| c == call).unwrap_or_else(|| panic!("{call}: {calls:?}"));
    assert!(
        position("stop a#0") < position("sandbox p#1") && position("sandbox p#1") < position("create a#1")
    );
    assert_eq!(
        bench.api.pod().unwrap().status.unwrap().pod_ip.as_deref(),
        Some("10.1.1.2"),
        "the same address"
    );
    bench.token.cancel();
}

#[tokio::test]
async fn an_engine_that_goes_away_costs_nothing_but_time() {
    let bench = Bench::new(one(), |runtime, _| runtime.set_down(Some("connection refused")));
    bench.runtime.set_down(None);
    bench.pokes.send(Poke::Look).await.unwrap();
    bench.api.until_state("Running/Running").await;
    bench.token.cancel();
}

#[tokio::test]
async fn a_resize_is_told_of_and_done() {
    let spec = |cpu: &str| json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}, "limits": {"cpu": "2"}}}]});
    let bench = Bench::new(spec("100m"), |_, _| {});
    bench.api.until_state("Running/Running").await;
    let wish = |cpu: &str, generation: i64, resize: Option<Pending>| {
        bench.wishes.send_modify(|wish| {
            let mut pod = Pod::clone(&wish.pod);
            pod.spec = crate::testing::pod(spec(cpu)).spec;
            pod.metadata.generation = Some(generation);
            (wish.pod, wish.resize) = (Arc::new(pod), resize);
        });
    };
    let shown = |content: &crate::testing::fake_api::Content| {
        let status = content.pod.as_ref().unwrap()["status"].clone();
        let told = status["containerStatuses"][0].clone();
        let conditions = status["conditions"].as_array().unwrap().iter();
        let resize = conditions.filter(|c| c["type"].as_str().unwrap().starts_with("PodResize"));
        (
            status["observedGeneration"].clone(),
            told["allocatedResources"]["cpu"].clone(),
            told["resources"]["requests"]["cpu"].clone(),
            resize.map(|c| c["reason"].clone()).collect::<Vec<_>>(),
        )
    };
    // No room: it is told so, and nothing changes.
    wish("100m", 2, Some(Pending { reason: "Deferred", message: "no room".to_owned() }));
    let expected = (json!(2), json!("100m"), json!("100m"), vec![json!("Deferred")]);
    bench.api.until("deferred", |content| shown(content) == expected).await;
    wish("1", 2, None);
    let expected = (json!(2), json!("1"), json!("1"), vec![]);
    bench.api.until("resized", |content| shown(content) == expected).await;
    bench.api.until("completed", |content| content.position("event ResizeCompleted").is_some()).await;
    assert_eq!(bench.runtime.calls(), ["sandbox p#0", "create a#0", "start a#0", "update a#0"]);
    let content = bench.api.lock();
    for event in ["event ResizeDeferred", "event ResizeStarted"] {
        assert!(content.position(event).is_some(), "{event}: {:?}", content.log);
    }
    drop(content);
    bench.token.cancel();
}
