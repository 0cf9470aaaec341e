use super::*;
use crate::testing::{at, container, exited, pod, running, sandbox};
use serde_json::{Value, json};

struct Case {
    pod: Pod,
    containers: Vec<Container>,
    health: BTreeMap<String, Health>,
    stage: Stage,
    waiting: BTreeMap<String, (String, String)>,
    messages: BTreeMap<String, String>,
}

impl Case {
    fn new(spec: Value, containers: impl Fn(&Pod) -> Vec<Container>) -> Self {
        let pod = pod(spec);
        Self {
            containers: containers(&pod),
            pod,
            health: BTreeMap::new(),
            stage: Stage::Syncing,
            waiting: BTreeMap::new(),
            messages: BTreeMap::new(),
        }
    }
    fn status(&self) -> PodStatus {
        compute(&Facts {
            pod: &self.pod,
            containers: &self.containers,
            health: &self.health,
            stage: &self.stage,
            waiting: &self.waiting,
            messages: &self.messages,
            hooking: &BTreeSet::new(),
            resize: None,
            resize_error: None,
            pod_ip: live_sandbox(&self.containers).and_then(|s| s.ip),
            host_ip: Some([192, 168, 0, 1].into()),
            now: at(100),
        })
    }
    /// `phase Ready,ContainersReady,Initialized | name:state …`
    fn show(&self) -> String {
        let status = self.status();
        let conditions = status.conditions.clone().unwrap_or_default();
        let flag = |type_: &str| if api::conditions::is_true(&conditions, type_) { 'T' } else { 'F' };
        let one = |s: &ContainerStatus| {
            let state = s.state.clone().unwrap_or_default();
            let what = match (state.waiting, state.running, state.terminated) {
                (Some(w), ..) => w.reason.unwrap_or_default(),
                (_, Some(_), _) => "Running".to_owned(),
                (_, _, Some(t)) => t.reason.unwrap_or_default(),
                _ => "?".to_owned(),
            };
            format!("{}:{what}{}#{}", s.name, if s.ready { "+" } else { "" }, s.restart_count)
        };
        let statuses =
            status.init_container_statuses.iter().flatten().chain(status.container_statuses.iter().flatten());
        let words: Vec<String> = statuses.map(one).collect();
        format!(
            "{} {}{}{} {}",
            status.phase.unwrap_or_default(),
            flag("Ready"),
            flag("ContainersReady"),
            flag("Initialized"),
            words.join(" ")
        )
    }
}

fn one(policy: &str) -> Value {
    json!({"restartPolicy": policy, "containers": [{"name": "a"}]})
}

#[test]
fn phases_and_conditions() {
    let check = |spec: Value, containers: &dyn Fn(&Pod) -> Vec<Container>, stage: Stage, expected: &str| {
        let mut case = Case::new(spec.clone(), containers);
        case.stage = stage;
        assert_eq!(case.show(), expected, "{spec}");
    };
    let finished = |outcome| Stage::Terminated { why: Why::Finished(outcome) };
    let boxed = |p: &Pod| sandbox(p, 0, running());
    check(one("Always"), &|_| vec![], Stage::Syncing, "Pending FFT a:ContainerCreating#0");
    check(one("Always"), &|p| vec![boxed(p)], Stage::Syncing, "Pending FFT a:ContainerCreating#0");
    check(
        one("Always"),
        &|p| vec![boxed(p), container(p, "a", 0, running())],
        Stage::Syncing,
        "Running TTT a:Running+#0",
    );
    check(
        one("Always"),
        &|p| vec![boxed(p), container(p, "a", 3, running())],
        Stage::Syncing,
        "Running TTT a:Running+#3",
    );
    check(
        one("Always"),
        &|p| vec![boxed(p), container(p, "a", 0, exited(1, 9))],
        Stage::Syncing,
        "Running FFT a:Error#0",
    );
    check(
        one("Never"),
        &|p| vec![container(p, "a", 0, exited(0, 9))],
        finished(Outcome::Succeeded),
        "Succeeded FFT a:Completed#0",
    );
    check(
        one("Never"),
        &|p| vec![container(p, "a", 0, exited(2, 9))],
        finished(Outcome::Failed),
        "Failed FFT a:Error#0",
    );
    let init = json!({"initContainers": [{"name": "i"}], "containers": [{"name": "a"}]});
    check(
        init.clone(),
        &|p| vec![boxed(p)],
        Stage::Syncing,
        "Pending FFF i:PodInitializing#0 a:PodInitializing#0",
    );
    check(
        init.clone(),
        &|p| vec![boxed(p), container(p, "i", 0, running())],
        Stage::Syncing,
        "Pending FFF i:Running+#0 a:PodInitializing#0",
    );
    check(
        init.clone(),
        &|p| vec![boxed(p), container(p, "i", 0, exited(0, 9))],
        Stage::Syncing,
        "Pending FFT i:Completed+#0 a:PodInitializing#0",
    );
    check(
        init,
        &|p| vec![boxed(p), container(p, "i", 2, exited(1, 9))],
        Stage::Syncing,
        "Pending FFF i:Error#2 a:PodInitializing#0",
    );
    // A deleted pod ends Succeeded or Failed by its exit codes.
    let deleted = Stage::Terminated { why: Why::Deleted };
    check(
        one("Always"),
        &|p| vec![container(p, "a", 0, exited(0, 9))],
        deleted.clone(),
        "Succeeded FFT a:Completed#0",
    );
    check(one("Always"), &|p| vec![container(p, "a", 0, exited(137, 9))], deleted, "Failed FFT a:Error#0");
}

#[test]
fn waiting_reasons_keep_the_last_end() {
    let mut case = Case::new(one("Always"), |p| {
        vec![sandbox(p, 0, running()), container(p, "a", 2, exited(3, 9)), container(p, "a", 1, exited(4, 8))]
    });
    case.waiting.insert("a".into(), ("CrashLoopBackOff".into(), "back-off 20s".into()));
    case.messages.insert("a-2".into(), "bye".into());
    assert_eq!(case.show(), "Running FFT a:CrashLoopBackOff#2");
    let status = case.status().container_statuses.unwrap().remove(0);
    let last = status.last_state.unwrap().terminated.unwrap();
    assert_eq!((last.exit_code, last.message.as_deref()), (3, Some("bye")));
    assert_eq!(status.state.unwrap().waiting.unwrap().message.as_deref(), Some("back-off 20s"));
    case.waiting.clear();
    let status = case.status().container_statuses.unwrap().remove(0);
    assert_eq!(status.last_state.unwrap().terminated.unwrap().exit_code, 4);
    assert_eq!(status.container_id.as_deref(), Some("docker://a-2"));
}

#[test]
fn readiness_probes_and_gates() {
    let spec = json!({"readinessGates": [{"conditionType": "x.io/up"}],
        "containers": [{"name": "a", "readinessProbe": {"exec": {}}}]});
    let mut case = Case::new(spec, |p| vec![sandbox(p, 0, running()), container(p, "a", 0, running())]);
    assert_eq!(case.show(), "Running FFT a:Running#0");
    case.health.insert("a-0".into(), Health { started: true, ready: true, failed: None });
    assert_eq!(case.show(), "Running FTT a:Running+#0");
    let gate = json!({"conditions": [{"type": "x.io/up", "status": "True"}]});
    case.pod.status = serde_json::from_value(gate).unwrap();
    assert_eq!(case.show(), "Running TTT a:Running+#0");
    let status = case.status();
    assert!(status.conditions.unwrap().iter().any(|c| c.type_ == "x.io/up"), "foreign conditions stay");
    assert_eq!(
        (status.pod_ip.as_deref(), status.host_ip.as_deref()),
        (Some("10.1.1.2"), Some("192.168.0.1"))
    );
    assert_eq!(status.observed_generation, Some(1));
}

#[test]
fn refused_pods_fail_with_the_reason() {
    let mut case = Case::new(one("Always"), |_| vec![]);
    case.stage = Stage::Terminated { why: Why::Rejected("NodePorts".into(), "taken".into()) };
    let status = case.status();
    assert_eq!((status.phase.as_deref(), status.reason.as_deref()), (Some("Failed"), Some("NodePorts")));
}

#[test]
fn oom_and_start_errors_have_names() {
    let ended = |state: State| {
        let case =
            Case::new(one("Never"), |p| vec![sandbox(p, 0, running()), container(p, "a", 0, state.clone())]);
        let status = case.status().container_statuses.unwrap().remove(0);
        let t = status.state.unwrap().terminated.unwrap();
        (t.reason.unwrap(), t.message)
    };
    let state = |oom_killed, error: Option<&str>| State::Exited {
        code: 137,
        oom_killed,
        started: None,
        finished: at(1),
        error: error.map(str::to_owned),
    };
    assert_eq!(ended(state(true, None)), ("OOMKilled".into(), None));
    assert_eq!(
        ended(state(false, Some("no such file"))),
        ("ContainerCannotRun".into(), Some("no such file".into()))
    );
}

#[test]
fn patches_hold_only_what_changed() {
    let case = Case::new(one("Always"), |p| vec![sandbox(p, 0, running())]);
    let old = case.status();
    assert_eq!(patch("u", &old, &old), None);
    let mut next =
        Case::new(one("Always"), |p| vec![sandbox(p, 0, running()), container(p, "a", 0, running())]);
    next.pod.status = Some(old.clone());
    let new = next.status();
    let patch = patch("u", &old, &new).unwrap();
    assert_eq!(patch["metadata"], json!({"uid": "u"}));
    let mut keys: Vec<&String> = patch["status"].as_object().unwrap().keys().collect();
    keys.sort();
    assert_eq!(keys, ["conditions", "containerStatuses", "phase"]);
    let types: Vec<&str> = patch["status"]["conditions"]
        .as_array()
        .unwrap()
        .iter()
        .map(|c| c["type"].as_str().unwrap())
        .collect();
    assert_eq!(types, ["ContainersReady", "Ready"]);
    assert_eq!(patch["status"]["conditions"][0]["reason"], Value::Null, "a reason that is over is removed");
}

#[test]
fn ephemeral_containers_are_shown_and_not_waited_for() {
    let spec = json!({
        "restartPolicy": "Never", "containers": [{"name": "a"}],
        "ephemeralContainers": [{"name": "e", "image": "i", "resources": {}}],
    });
    let case = Case::new(spec, |p| {
        vec![sandbox(p, 0, running()), container(p, "a", 0, running()), container(p, "e", 0, running())]
    });
    let status = case.status();
    assert!(api::conditions::is_true(status.conditions.as_ref().unwrap(), "Ready"));
    let told = &status.ephemeral_container_statuses.unwrap()[0];
    assert!(told.state.as_ref().unwrap().running.is_some() && told.container_id.is_some());
    assert_eq!((told.ready, told.started, told.resources.is_none()), (false, None, true));
}
