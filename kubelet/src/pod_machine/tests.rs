use super::*;
use crate::{
    runtime,
    testing::{at, container, exited, pod, running, sandbox},
};
use proptest::prelude::*;
use serde_json::{Value, json};

struct Case {
    pod: Pod,
    object: Object,
    containers: Vec<Container>,
    health: BTreeMap<String, Health>,
    running: BTreeSet<Op>,
    volumes: bool,
    images: BTreeSet<String>,
    held: BTreeMap<Op, Timestamp>,
    rejected: Option<(String, String)>,
    published: bool,
    released: bool,
    state: State,
}

impl Case {
    fn new(spec: Value) -> Self {
        Self {
            pod: pod(spec),
            object: Object::Present,
            containers: Vec::new(),
            health: BTreeMap::new(),
            running: BTreeSet::new(),
            volumes: false,
            images: BTreeSet::new(),
            held: BTreeMap::new(),
            rejected: None,
            published: true,
            released: false,
            state: State::default(),
        }
    }

    fn step(&mut self, second: i64) -> Vec<Effect> {
        let world = World {
            pod: &self.pod,
            object: self.object,
            containers: &self.containers,
            health: &self.health,
            running: &self.running,
            volumes_ready: self.volumes,
            images_ready: &self.images,
            held: &self.held,
            rejected: self.rejected.as_ref(),
            published: self.published,
            released: self.released,
        };
        let (state, effects) = step(self.state.clone(), &world, at(second));
        self.state = state;
        effects
    }

    fn running(mut self) -> Self {
        self.containers = vec![sandbox(&self.pod, 0, running()), container(&self.pod, "a", 0, running())];
        self.volumes = true;
        self.images = ["a".to_owned()].into();
        self
    }

    fn is(&self, stage: &str) -> bool {
        format!("{:?}", self.state.stage).starts_with(stage)
    }
}

fn one() -> Value {
    json!({"containers": [{"name": "a"}]})
}

fn deleting(grace: i64) -> Object {
    Object::Deleting { since: at(0), grace: SignedDuration::from_secs(grace) }
}

#[test]
fn everything_a_new_pod_needs_is_begun_at_once() {
    let mut case = Case::new(one());
    let image = || Effect::EnsureImage { container: "a".into() };
    assert_eq!(case.step(0), [Effect::PrepareVolumes, Effect::EnsureSandbox { attempt: 0 }, image()]);
    case.running = [Op::Volumes, Op::Sandbox, Op::Image("a".into())].into();
    assert_eq!(case.step(0), [], "nothing is begun twice");
    case.containers = vec![sandbox(&case.pod, 0, running())];
    case.running = [].into();
    case.images = ["a".to_owned()].into();
    assert_eq!(case.step(0), [Effect::PrepareVolumes], "no start without volumes");
    case.volumes = true;
    assert_eq!(case.step(0), [Effect::StartContainer { container: "a".into(), attempt: 0 }]);
    case.held.insert(Op::Start("a".into()), at(5));
    assert_eq!(case.step(0), [Effect::WakeAt(at(5))]);
    assert_eq!(case.step(5), [Effect::StartContainer { container: "a".into(), attempt: 0 }]);
}

#[test]
fn restarts_count_for_the_back_off_once_they_are_begun() {
    let mut case = Case::new(one()).running();
    case.containers[1].state = exited(1, 0);
    assert_eq!(case.step(1), [Effect::StartContainer { container: "a".into(), attempt: 1 }]);
    assert_eq!(case.state.backoff.delay("a").as_secs(), 10);
    case.running.insert(Op::Start("a".into()));
    assert_eq!(case.step(1), []);
    assert_eq!(case.state.backoff.delay("a").as_secs(), 10);
    assert!(case.state.backing_off.is_empty(), "it is being started");
    case.running.clear();
    case.containers.push(container(&case.pod, "a", 1, exited(1, 2)));
    assert_eq!(case.step(3), [Effect::WakeAt(at(12))]);
    assert_eq!(case.state.backing_off["a"], at(12));
}

#[test]
fn a_deleted_pod_is_killed_then_its_object_deleted() {
    let mut case = Case::new(one()).running();
    case.object = deleting(30);
    let kill = |deadline: i64| Effect::KillContainer {
        id: "a-0".into(),
        name: "a".into(),
        deadline: at(deadline),
        why: KillReason::Terminating,
    };
    assert_eq!(case.step(1), [kill(30)]);
    case.running.insert(Op::Kill { id: "a-0".into(), deadline: at(30) });
    assert_eq!(case.step(2), []);
    case.object = deleting(5);
    assert_eq!(case.step(3), [kill(5)], "grace shrinks");
    case.object = deleting(60);
    case.running.insert(Op::Kill { id: "a-0".into(), deadline: at(5) });
    assert_eq!(case.step(3), [], "and never grows");
    case.running.clear();
    case.containers[1].state = exited(0, 4);
    assert_eq!(case.step(4), [Effect::RemoveContainer { id: "box".into() }]);
    case.containers.remove(0);
    case.published = false;
    assert_eq!(case.step(5), [], "the final status comes first");
    assert!(case.is("Terminated"));
    case.published = true;
    assert_eq!(case.step(5), [Effect::DeleteObject]);
    case.object = Object::Vanished;
    assert_eq!(case.step(6), [Effect::RemoveContainer { id: "a-0".into() }]);
    case.containers.clear();
    assert_eq!(case.step(6), [Effect::Release]);
    case.released = true;
    assert_eq!(case.step(6), []);
    assert_eq!(case.state.stage, Stage::Gone);
}

#[test]
fn a_pod_removed_by_force_is_killed_within_a_second() {
    let mut case = Case::new(one()).running();
    case.object = Object::Vanished;
    let effects = case.step(10);
    assert!(
        matches!(&effects[..], [Effect::KillContainer { deadline, .. }] if *deadline == at(11)),
        "{effects:?}"
    );
}

#[test]
fn a_pod_deleted_while_starting_is_stopped_after_the_start() {
    let mut case = Case::new(one());
    case.containers = vec![sandbox(&case.pod, 0, running())];
    case.running.insert(Op::Start("a".into()));
    case.object = deleting(1);
    assert_eq!(case.step(1), []);
    case.running.clear();
    case.containers.push(container(&case.pod, "a", 0, running()));
    assert!(matches!(&case.step(2)[..], [Effect::KillContainer { .. }]));
}

#[test]
fn sidecars_stop_last_and_backwards() {
    let spec = json!({"initContainers": [{"name": "s", "restartPolicy": "Always"}, {"name": "t", "restartPolicy": "Always"}],
        "containers": [{"name": "a"}]});
    let mut case = Case::new(spec).running();
    for name in ["s", "t"] {
        case.containers.push(container(&case.pod, name, 0, running()));
    }
    case.object = deleting(30);
    for expected in ["a-0", "t-0", "s-0"] {
        let effects = case.step(1);
        assert!(matches!(&effects[..], [Effect::KillContainer { id, .. }] if id == expected), "{effects:?}");
        case.containers.iter_mut().find(|c| c.id == expected).unwrap().state = exited(0, 1);
    }
    assert_eq!(case.step(1), [Effect::RemoveContainer { id: "box".into() }]);
}

#[test]
fn a_finished_pod_loses_its_sandbox_and_keeps_its_containers() {
    let mut case = Case::new(json!({"restartPolicy": "Never", "containers": [{"name": "a"}]})).running();
    case.containers[1].state = exited(0, 1);
    assert_eq!(case.step(2), [Effect::RemoveContainer { id: "box".into() }]);
    case.containers.remove(0);
    assert_eq!(case.step(3), []);
    assert_eq!(case.state.stage, Stage::Terminated { why: Why::Finished(Outcome::Succeeded) });
    // It is not started again, not even by a restarted kubelet that finds its containers gone.
    let mut case = Case::new(one());
    case.pod.status = serde_json::from_value(json!({"phase": "Failed"})).unwrap();
    assert_eq!(case.step(0), []);
    assert_eq!(case.state.stage, Stage::Terminated { why: Why::Finished(Outcome::Failed) });
}

#[test]
fn the_active_deadline_ends_a_pod() {
    let mut case = Case::new(json!({"activeDeadlineSeconds": 50, "containers": [{"name": "a"}]})).running();
    case.pod.status = serde_json::from_value(json!({"startTime": at(0).to_string()})).unwrap();
    assert_eq!(case.step(10), [Effect::WakeAt(at(50))]);
    assert!(matches!(&case.step(50)[..], [Effect::KillContainer { .. }]));
    assert_eq!(case.state.stage.why(), Some(&Why::DeadlineExceeded));
}

#[test]
fn a_refused_pod_starts_nothing() {
    let mut case = Case::new(one());
    case.rejected = Some(("NodePorts".into(), "taken".into()));
    assert_eq!(case.step(0), []);
    assert!(case.is("Terminated"));
    case.object = deleting(0);
    assert_eq!(case.step(0), [Effect::DeleteObject]);
}

#[test]
fn old_instances_go() {
    let mut case = Case::new(one()).running();
    for attempt in 1..4 {
        case.containers.push(container(
            &case.pod,
            "a",
            attempt,
            if attempt == 3 { running() } else { exited(1, 1) },
        ));
    }
    case.containers[1].state = exited(1, 0);
    assert_eq!(
        case.step(5),
        [Effect::RemoveContainer { id: "a-1".into() }, Effect::RemoveContainer { id: "a-0".into() }]
    );
}

fn any_state() -> impl Strategy<Value = runtime::State> {
    prop_oneof![
        Just(runtime::State::Created),
        Just(running()),
        (0..3i32, 0..100i64).prop_map(|(code, time)| exited(code, time))
    ]
}

fn any_object() -> impl Strategy<Value = Object> {
    prop_oneof![Just(Object::Present), (0..90i64).prop_map(deleting), Just(Object::Vanished)]
}

proptest! {
    /// Over any history of worlds: stages never go back, deadlines never move away, a stopping pod starts nothing, the
    /// object is deleted only when nothing of the pod runs and its status is told.
    #[test]
    fn laws(worlds in prop::collection::vec(
        (any_object(), prop::collection::vec((0..2usize, 0..3u32, any_state()), 0..4), any::<bool>(), any::<bool>()),
        1..12,
    )) {
        let rank = |stage: &Stage| match stage {
            Stage::Syncing => 0, Stage::Terminating { .. } => 1, Stage::Terminated { .. } => 2, Stage::Gone => 3,
        };
        let mut case = Case::new(one());
        let mut end: Option<Timestamp> = None;
        for (second, (object, found, ready, published)) in worlds.into_iter().enumerate() {
            case.object = object;
            case.containers.clear();
            for (which, attempt, state) in found {
                let one = if which == 0 { sandbox(&case.pod, attempt, state) } else { container(&case.pod, "a", attempt, state) };
                if !case.containers.iter().any(|c| c.id == one.id) { case.containers.push(one); }
            }
            case.volumes = ready;
            case.images = if ready { ["a".to_owned()].into() } else { BTreeSet::new() };
            (case.published, case.released) = (published, ready);
            let before = rank(&case.state.stage);
            let effects = case.step(second as i64);
            let after = rank(&case.state.stage);
            prop_assert!(after >= before);
            let starts = effects.iter().any(|e| matches!(e, Effect::EnsureSandbox { .. } | Effect::StartContainer { .. } | Effect::EnsureImage { .. }));
            prop_assert!(!(starts && after > 0));
            if let Stage::Terminating { deadline, .. } = case.state.stage {
                prop_assert!(end.is_none_or(|end| deadline <= end));
                end = Some(deadline);
            }
            if effects.contains(&Effect::DeleteObject) {
                prop_assert!(published && !case.containers.iter().any(|c| c.is_running() && before < 2));
            }
            for (i, effect) in effects.iter().enumerate() {
                prop_assert!(!effects[..i].contains(effect) || matches!(effect, Effect::WakeAt(_)), "{effects:?}");
            }
        }
    }
}
