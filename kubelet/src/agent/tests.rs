//! The loop over a runtime that only remembers: what a kubelet does first on a node where others were before it.

use super::*;
use crate::{
    Config,
    addresses::Addresses,
    container_plan::spec_hash,
    container_spec,
    pods::Lookup,
    runtime::{ContainerSpec, Runtime, SandboxSpec, fake::Fake},
};
use client::{Recorder, testing::Fake as Api};
use serde_json::json;

const DEADLINE: Duration = Duration::from_secs(20);

fn pod(name: &str, uid: &str, deleted: bool) -> Pod {
    let (end, grace) = (deleted.then_some("2026-01-01T00:00:00Z"), deleted.then_some(0));
    serde_json::from_value(json!({
        "metadata": {"name": name, "namespace": "ns", "uid": uid, "generation": 1,
            "deletionTimestamp": end, "deletionGracePeriodSeconds": grace},
        "spec": {"nodeName": "n1", "containers": [{"name": name, "image": "img"}]},
    }))
    .unwrap()
}

/// A container of a pod, and its sandbox, as an earlier kubelet left them.
async fn leave(runtime: &Fake, name: &str, uid: &str) {
    let made_of = pod(name, uid, false).spec.unwrap();
    let container = &made_of.containers[0];
    let (hash, resources) = (spec_hash(container), container_spec::resources(&made_of, container, 0));
    let pod = PodRef { namespace: "ns".into(), name: name.into(), uid: uid.into() };
    let sandbox = SandboxSpec { pod: pod.clone(), ..SandboxSpec::default() };
    let sandbox_id = runtime.run_sandbox(&sandbox).await.unwrap().id;
    let spec =
        ContainerSpec { pod, sandbox_id, name: name.into(), hash, resources, ..ContainerSpec::default() };
    let id = runtime.create_container(&spec).await.unwrap();
    runtime.start_container(&id).await.unwrap();
}

fn running(runtime: &Fake, uid: &str) -> usize {
    runtime.containers().iter().filter(|c| c.is_running() && c.pod.uid == uid).count()
}

struct Bed {
    states: watch::Receiver<Option<NotReady>>,
    agent: Agent,
    token: CancellationToken,
    tracker: TaskTracker,
}

fn bed(api: &Api, runtime: &Arc<Fake>, dir: &std::path::Path) -> Bed {
    bed_for(api, runtime, dir, crate::config::DEFAULT_MAX_PODS)
}

fn bed_for(api: &Api, runtime: &Arc<Fake>, dir: &std::path::Path, max_pods: u32) -> Bed {
    let (client, token, tracker) = (api.client(), CancellationToken::new(), TaskTracker::new());
    let config = Config::new("n1", 0, "abc", dir.to_owned(), "10.1.1.0/24".parse().unwrap());
    let config = Config { max_pods, ..config };
    let informers = Informers::new(client.clone(), token.clone());
    let context = Arc::new(Context {
        machine: crate::node::machine(&config),
        addresses: Addresses::new(config.pod_cidr),
        services: informers.store(),
        lookup: Lookup::default(),
        recorder: Recorder::new(client.clone(), "kubelet", "n1", &tracker, token.clone()),
        client,
        config,
        runtime: Arc::clone(runtime) as Arc<dyn Runtime>,
    });
    let state = watch::Sender::new(Some(NotReady::Engine("not asked yet".to_owned())));
    let states = state.subscribe();
    let agent = Agent::new(context, &informers, state, token.clone(), tracker.clone());
    Bed { states, agent, token, tracker }
}

#[tokio::test]
async fn what_is_deleted_while_others_end_ends_before_the_node_is_ready_too() {
    let (api, runtime, dir) =
        (Api::default(), Arc::new(Fake::with_any_image()), tempfile::tempdir().unwrap());
    leave(&runtime, "marked", "marked").await;
    leave(&runtime, "stays", "stays").await;
    api.put(&pod("marked", "marked", true));
    api.put(&pod("stays", "stays", false));
    let Bed { states, mut agent, token, tracker } = bed(&api, &runtime, dir.path());
    agent.pods.synced().await;
    let pods = agent.pods_of_now().await;
    agent.begin(runtime.containers(), pods);
    assert_eq!(agent.ending, Some(BTreeSet::from(["marked".to_owned()])));
    // By force, so that nothing is left of it but containers here.
    api.delete::<Pod>("ns", "stays");
    let ended = async {
        while agent.ending.is_some() {
            assert!(states.borrow().is_some(), "not Ready while something ends");
            let ending = agent.ending.as_ref().unwrap();
            assert!(ending.contains("marked"), "it has its turn until all have ended: {ending:?}");
            agent.look_at_ending().await;
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, ended).await.unwrap_or_else(|_| panic!("{:?}", runtime.calls()));
    assert_eq!(states.borrow().clone(), None);
    assert_eq!((running(&runtime, "marked"), running(&runtime, "stays")), (0, 0));
    token.cancel();
    tracker.close();
    tracker.wait().await;
}

#[tokio::test]
async fn what_was_deleted_or_replaced_is_dead_before_the_node_is_ready_and_anything_starts() {
    let (api, runtime, dir) =
        (Api::default(), Arc::new(Fake::with_any_image()), tempfile::tempdir().unwrap());
    leave(&runtime, "forced", "old").await;
    leave(&runtime, "marked", "marked").await;
    leave(&runtime, "stays", "stays").await;
    api.put(&pod("forced", "new", false));
    api.put(&pod("marked", "marked", true));
    api.put(&pod("stays", "stays", false));
    let before = runtime.calls().len();

    let Bed { mut states, agent, token, tracker } = bed(&api, &runtime, dir.path());
    tracker.spawn(agent.run(token.clone()));

    let ending = states.wait_for(|state| matches!(state, Some(NotReady::Ending(_))));
    let ending = tokio::time::timeout(DEADLINE, ending).await.unwrap().unwrap().clone();
    assert!(ending.unwrap().to_string().ends_with("while the kubelet was away: ns/forced, ns/marked"));
    let ready = states.wait_for(Option::is_none);
    tokio::time::timeout(DEADLINE, ready).await.unwrap().unwrap();
    assert_eq!((running(&runtime, "old"), running(&runtime, "marked")), (0, 0));
    assert_eq!(running(&runtime, "stays"), 2, "what nobody deleted is adopted as it is");

    let started = async {
        while running(&runtime, "new") < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, started).await.unwrap_or_else(|_| panic!("{:?}", runtime.calls()));
    let calls = runtime.calls().split_off(before);
    let first = |what: &str| calls.iter().position(|call| call == what).unwrap_or(usize::MAX);
    for end in ["stop forced#0", "stop marked#0"] {
        assert!(first(end) < first("sandbox forced#0"), "{end} comes first: {calls:?}");
    }
    assert!(!calls.iter().any(|call| call.contains("stays")), "{calls:?}");
    token.cancel();
    tracker.close();
    tracker.wait().await;
}

/// The scheduler gives the room of a pod whose object is gone to the next one, and is not told otherwise.
#[tokio::test]
async fn a_pod_whose_object_is_gone_takes_no_room() {
    let (api, runtime, dir) =
        (Api::default(), Arc::new(Fake::with_any_image()), tempfile::tempdir().unwrap());
    leave(&runtime, "old", "old").await;
    api.put(&pod("old", "old", false));
    let Bed { mut states, agent, token, tracker } = bed_for(&api, &runtime, dir.path(), 1);
    let context = Arc::clone(&agent.context);
    tracker.spawn(agent.run(token.clone()));
    tokio::time::timeout(DEADLINE, states.wait_for(Option::is_none)).await.unwrap().unwrap();

    runtime.set_down(Some("so that the containers of the old one do not end yet"));
    api.delete::<Pod>("ns", "old");
    api.put(&pod("next", "next", false));
    let judged = async {
        while !context.lookup.all().iter().any(|view| view.pod.metadata.name.as_deref() == Some("next")) {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, judged).await.unwrap_or_else(|_| panic!("{:?}", runtime.calls()));
    assert_eq!(running(&runtime, "old"), 2);
    runtime.set_down(None);
    let started = async {
        while running(&runtime, "next") < 2 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(DEADLINE, started).await.unwrap_or_else(|_| panic!("{:?}", runtime.calls()));
    token.cancel();
    tracker.close();
    tracker.wait().await;
}
