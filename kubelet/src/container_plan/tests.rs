use super::*;
use crate::testing::{at, container, exited, pod, running, sandbox};
use proptest::prelude::*;
use serde_json::{Value, json};

/// A plan in one line: `box0` (create sandbox 0), `+name#attempt` (start), `-id` (kill), `name..` (backs off), `=Succeeded`.
fn show(plan: &Plan) -> String {
    let mut words = Vec::new();
    words.extend(plan.create_sandbox.map(|attempt| format!("box{attempt}")));
    words.extend(plan.start.iter().map(|start| format!("+{}#{}", start.name, start.attempt)));
    words.extend(plan.kill.iter().map(|kill| format!("-{}", kill.id)));
    words.extend(plan.backing_off.keys().map(|name| format!("{name}..")));
    words.extend(plan.finished.map(|outcome| format!("={outcome:?}")));
    words.join(" ")
}

struct Case {
    pod: Pod,
    containers: Vec<Container>,
    health: BTreeMap<String, Health>,
    backoff: Backoff,
    replacing: BTreeSet<String>,
}

impl Case {
    fn new(spec: Value, containers: impl Fn(&Pod) -> Vec<Container>) -> Self {
        let pod = pod(spec);
        Self {
            containers: containers(&pod),
            pod,
            health: BTreeMap::new(),
            backoff: Backoff::default(),
            replacing: BTreeSet::new(),
        }
    }
    fn plan(&self) -> Plan {
        plan(&Inputs {
            pod: &self.pod,
            containers: &self.containers,
            health: &self.health,
            backoff: &self.backoff,
            replacing: &self.replacing,
            now: at(100),
        })
    }
}

fn check(spec: Value, containers: impl Fn(&Pod) -> Vec<Container>, expected: &str) {
    let case = Case::new(spec.clone(), containers);
    assert_eq!(show(&case.plan()), expected, "{spec}");
}

fn two(policy: &str) -> Value {
    json!({"restartPolicy": policy, "containers": [{"name": "a"}, {"name": "b"}]})
}

#[test]
fn a_new_pod_gets_a_sandbox_then_its_containers() {
    for policy in ["Always", "OnFailure", "Never"] {
        check(two(policy), |_| vec![], "box0");
        check(two(policy), |p| vec![sandbox(p, 0, running())], "+a#0 +b#0");
        check(two(policy), |p| vec![sandbox(p, 0, running()), container(p, "a", 0, running())], "+b#0");
        check(
            two(policy),
            |p| {
                vec![
                    sandbox(p, 0, running()),
                    container(p, "a", 0, State::Created),
                    container(p, "b", 0, running()),
                ]
            },
            "+a#0",
        );
        check(
            two(policy),
            |p| {
                vec![
                    sandbox(p, 0, running()),
                    container(p, "a", 0, running()),
                    container(p, "b", 0, running()),
                ]
            },
            "",
        );
    }
}

#[test]
fn restart_policies() {
    let both = |a: i32, b: i32| {
        move |p: &Pod| {
            vec![
                sandbox(p, 0, running()),
                container(p, "a", 0, exited(a, 50)),
                container(p, "b", 2, exited(b, 50)),
            ]
        }
    };
    check(two("Always"), both(0, 1), "+a#1 +b#3");
    check(two("OnFailure"), both(0, 1), "+b#3");
    check(two("OnFailure"), both(0, 0), "=Succeeded");
    check(two("Never"), both(0, 1), "=Failed");
    check(two("Never"), both(0, 0), "=Succeeded");
    let one = |p: &Pod| {
        vec![sandbox(p, 0, running()), container(p, "a", 0, exited(1, 50)), container(p, "b", 0, running())]
    };
    check(two("Never"), one, "");
}

#[test]
fn back_off_holds_a_restart_until_it_is_over() {
    let mut case = Case::new(two("Always"), |p| {
        vec![sandbox(p, 0, running()), container(p, "a", 1, exited(1, 95)), container(p, "b", 0, running())]
    });
    let hash = spec_hash(&case.pod.spec.as_ref().unwrap().containers[0]);
    case.backoff.next("a", &hash, at(80), at(85));
    assert_eq!(show(&case.plan()), "a..");
    assert_eq!(case.plan().backing_off["a"], at(105));
    case.containers[1].state = exited(1, 90);
    assert_eq!(show(&case.plan()), "+a#2");
    assert_eq!(case.plan().start[0].after, Some((hash, at(90))));
}

#[test]
fn init_containers_run_one_after_another() {
    let spec = |policy: &str| json!({"restartPolicy": policy, "initContainers": [{"name": "i"}, {"name": "j"}], "containers": [{"name": "a"}]});
    let with = |more: fn(&Pod) -> Vec<Container>| {
        move |p: &Pod| {
            let mut all = vec![sandbox(p, 0, running())];
            all.extend(more(p));
            all
        }
    };
    check(spec("Always"), with(|_| vec![]), "+i#0");
    check(spec("Always"), with(|p| vec![container(p, "i", 0, running())]), "");
    check(spec("Always"), with(|p| vec![container(p, "i", 0, exited(0, 9))]), "+j#0");
    check(spec("Always"), with(|p| vec![container(p, "i", 0, exited(1, 9))]), "+i#1");
    check(spec("Never"), with(|p| vec![container(p, "i", 0, exited(1, 9))]), "=Failed");
    check(
        spec("Never"),
        with(|p| vec![container(p, "i", 0, exited(0, 9)), container(p, "j", 0, exited(0, 9))]),
        "+a#0",
    );
    // Once a regular container exists the init containers are over, even if they are no longer to be seen.
    check(spec("Always"), with(|p| vec![container(p, "a", 0, running())]), "");
    check(spec("Always"), with(|p| vec![container(p, "a", 0, exited(3, 9))]), "+a#1");
}

#[test]
fn sidecars_start_first_and_do_not_hold_the_end() {
    let spec = |policy: &str| {
        json!({"restartPolicy": policy, "initContainers": [{"name": "s", "restartPolicy": "Always",
            "startupProbe": {"exec": {"command": ["x"]}}}], "containers": [{"name": "a"}]})
    };
    let mut case =
        Case::new(spec("Never"), |p| vec![sandbox(p, 0, running()), container(p, "s", 0, running())]);
    assert_eq!(show(&case.plan()), "", "not started yet");
    case.health.insert("s-0".into(), Health { started: true, ready: true, failed: None });
    assert_eq!(show(&case.plan()), "+a#0");
    case.containers.push(container(&case.pod, "a", 0, running()));
    case.containers[1].state = exited(1, 9);
    assert_eq!(show(&case.plan()), "+s#1", "restarted although the policy is Never");
    case.containers[2].state = exited(0, 9);
    assert_eq!(show(&case.plan()), "=Succeeded");
}

#[test]
fn probes_and_new_images_kill_first() {
    let mut case = Case::new(two("Always"), |p| {
        vec![sandbox(p, 0, running()), container(p, "a", 0, running()), container(p, "b", 0, running())]
    });
    case.health.insert("b-0".into(), Health { started: true, ready: false, failed: Some("liveness".into()) });
    case.containers[1].hash = "other".into();
    let plan = case.plan();
    assert_eq!(show(&plan), "-a-0 -b-0");
    assert_eq!(plan.kill[0].why, KillReason::Changed);
    assert_eq!(plan.kill[1].why, KillReason::Unhealthy("liveness".into()));
    // Replaced because of its image: it comes back even under Never.
    let mut case = Case::new(two("Never"), |p| {
        vec![sandbox(p, 0, running()), container(p, "a", 0, exited(137, 99)), container(p, "b", 0, running())]
    });
    case.replacing.insert("a-0".into());
    assert_eq!(show(&case.plan()), "+a#1");
}

#[test]
fn a_dead_sandbox_takes_everything_with_it() {
    let dead = |p: &Pod| vec![sandbox(p, 0, exited(137, 50)), container(p, "a", 4, running())];
    check(two("Always"), dead, "-a-4");
    let stopped = |p: &Pod| {
        vec![
            sandbox(p, 0, exited(137, 50)),
            container(p, "a", 4, exited(0, 51)),
            container(p, "b", 0, exited(1, 51)),
        ]
    };
    check(two("Always"), stopped, "box1");
    check(two("OnFailure"), stopped, "box1");
    check(two("Never"), stopped, "=Failed");
    // In the new sandbox what had succeeded under OnFailure is not run again, the rest is, with its count going on.
    let anew = |p: &Pod| {
        let mut all = stopped(p);
        all.push(sandbox(p, 1, running()));
        all
    };
    check(two("Always"), anew, "+a#5 +b#1");
    check(two("OnFailure"), anew, "+b#1");
    // Init containers belong to a sandbox: they run again.
    let init = json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]});
    check(
        init,
        |p| {
            vec![
                sandbox(p, 0, exited(1, 5)),
                container(p, "i", 0, exited(0, 5)),
                container(p, "a", 0, exited(1, 6)),
                sandbox(p, 1, running()),
            ]
        },
        "+i#1",
    );
}

#[test]
fn containers_removed_by_others_are_not_started_from_nought() {
    let mut case =
        Case::new(two("Always"), |p| vec![sandbox(p, 0, running()), container(p, "b", 0, running())]);
    let status = json!({"containerStatuses": [{"name": "a", "containerID": "docker://x", "restartCount": 6,
        "image": "", "imageID": "", "ready": true, "state": {"running": {}}}]});
    case.pod.status = serde_json::from_value(status).unwrap();
    assert_eq!(show(&case.plan()), "+a#7");
    case.pod.spec.as_mut().unwrap().restart_policy = Some("Never".into());
    assert_eq!(show(&case.plan()), "", "it has ended; b still runs");
}

#[test]
fn the_hash_sees_name_and_image_only() {
    let spec = |value: Value| spec_hash(&serde_json::from_value::<Spec>(value).unwrap());
    let base = spec(json!({"name": "a", "image": "i:1"}));
    assert_eq!(base, spec(json!({"name": "a", "image": "i:1", "env": [{"name": "X"}]})));
    assert_ne!(base, spec(json!({"name": "a", "image": "i:2"})));
    assert_ne!(base, spec(json!({"name": "ai", "image": ":1"})));
}

fn any_state() -> impl Strategy<Value = State> {
    prop_oneof![
        Just(State::Created),
        Just(running()),
        (0..3i32, 0..100i64).prop_map(|(code, time)| exited(code, time))
    ]
}

proptest! {
    /// Whatever the engine shows: at most one action per container, nothing started without a sandbox, nothing started
    /// that runs, a finished pod starts nothing.
    #[test]
    fn plans_are_sane(
        policy in prop_oneof![Just("Always"), Just("OnFailure"), Just("Never")],
        sandboxes in prop::collection::vec(any_state(), 0..3),
        found in prop::collection::vec((0usize..4, 0u32..3, any_state(), any::<bool>()), 0..6),
    ) {
        let spec = json!({"restartPolicy": policy, "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}],
            "containers": [{"name": "a"}, {"name": "b"}]});
        let case = Case::new(spec, |p| {
            let mut all: Vec<Container> = Vec::new();
            for (index, state) in sandboxes.iter().enumerate() {
                all.push(sandbox(p, index as u32, state.clone()));
            }
            for (which, attempt, state, changed) in &found {
                let mut one = container(p, ["i", "s", "a", "b"][*which], *attempt, state.clone());
                if *changed { one.hash = "old".into(); }
                if !all.iter().any(|c| c.id == one.id) { all.push(one); }
            }
            all
        });
        let plan = case.plan();
        let live = live_sandbox(&case.containers).is_some();
        prop_assert!(live || plan.start.is_empty());
        prop_assert!(!(live && plan.create_sandbox.is_some()));
        let mut names: Vec<&str> = plan.start.iter().map(|s| s.name.as_str()).chain(plan.kill.iter().map(|k| k.name.as_str())).collect();
        names.sort_unstable();
        let count = names.len();
        names.dedup();
        if live { prop_assert_eq!(count, names.len()); }
        for start in &plan.start {
            let newest = newest(&case.containers, &start.name);
            prop_assert!(newest.is_none_or(|c| !c.is_running() || c.sandbox_id != live_sandbox(&case.containers).unwrap().id));
            prop_assert!(newest.is_none_or(|c| start.attempt >= c.attempt));
        }
        for kill in &plan.kill {
            prop_assert!(case.containers.iter().any(|c| c.id == kill.id && c.is_running()));
        }
        if plan.finished.is_some() { prop_assert!(plan.start.is_empty() && plan.create_sandbox.is_none()); }
    }
}

#[test]
fn ephemeral_containers_are_started_once() {
    let spec = || {
        json!({
            "restartPolicy": "Always", "initContainers": [{"name": "i"}], "containers": [{"name": "a"}],
            "ephemeralContainers": [{"name": "e"}],
        })
    };
    check(spec(), |_| vec![], "box0");
    check(spec(), |p| vec![sandbox(p, 0, running())], "+e#0 +i#0");
    let started = |p: &Pod| {
        vec![sandbox(p, 0, running()), container(p, "i", 0, exited(0, 5)), container(p, "a", 0, running())]
    };
    let with = |state: State| {
        move |p: &Pod| {
            let mut all = started(p);
            all.push(container(p, "e", 0, state.clone()));
            all
        }
    };
    check(spec(), started, "+e#0");
    check(spec(), with(State::Created), "+e#0");
    check(spec(), with(running()), "");
    check(spec(), with(exited(1, 9)), "");
    // Somebody removed it from the engine; the status remembers it.
    let mut case = Case::new(spec(), started);
    case.pod.status = Some(k8s_openapi::api::core::v1::PodStatus {
        ephemeral_container_statuses: Some(vec![k8s_openapi::api::core::v1::ContainerStatus {
            name: "e".to_owned(),
            container_id: Some("docker://gone".to_owned()),
            ..Default::default()
        }]),
        ..Default::default()
    });
    assert_eq!(show(&case.plan()), "");
}

#[test]
fn what_a_container_may_use_changes_in_place_or_by_a_restart() {
    let spec = |policy: &str| {
        json!({"containers": [{
            "name": "a", "resources": {"requests": {"cpu": "100m", "memory": "1Mi"}},
            "resizePolicy": [{"resourceName": "cpu", "restartPolicy": policy}],
        }]})
    };
    let check = |policy: &str, cpu: &str, resized: &[&str], killed: bool| {
        let mut case =
            Case::new(spec(policy), |p| vec![sandbox(p, 0, running()), container(p, "a", 0, running())]);
        let wanted = case.pod.spec.as_mut().unwrap().containers[0].resources.as_mut().unwrap();
        wanted
            .requests
            .as_mut()
            .unwrap()
            .insert("cpu".to_owned(), serde_json::from_value(json!(cpu)).unwrap());
        let plan = case.plan();
        let names: Vec<&str> = plan.resize.iter().map(|(_, name)| name.as_str()).collect();
        assert_eq!(
            (names.as_slice(), plan.kill.first().map(|k| &k.why)),
            (resized, killed.then_some(&KillReason::Resized))
        );
    };
    check("NotRequired", "100m", &[], false);
    check("NotRequired", "200m", &["a"], false);
    check("RestartContainer", "100m", &[], false);
    check("RestartContainer", "200m", &[], true);
}
