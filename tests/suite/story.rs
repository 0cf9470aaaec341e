//! The scenario the project started from: a StatefulSet with storage, reached through the API server's proxy.

use std::process::Command;
use tests::{Background, DEADLINE, TestCluster, Version, kubectl, wait_for};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/kubia/kubia.yaml");
/// Each line of the watch: name, image, whether Ready.
const WATCHED: &str = r#"jsonpath={.metadata.name} {.spec.containers[0].image} {.status.conditions[?(@.type=="Ready")].status}{"\n"}"#;
const V1: &str = "minik8s-example/kubia:v1";
const V2: &str = "minik8s-example/kubia:v2";

fn curl(args: &[&str]) -> tests::Output {
    let mut command = Command::new("curl");
    command.args(["-sS", "--fail-with-body", "--max-time", "20"]).args(args);
    kubectl::run(command, b"", DEADLINE)
}

/// Every line of the watch that holds `first` comes before every line that holds `then`.
#[track_caller]
fn assert_order(watch: &mut Background, first: &str, then: &str) {
    let seen = watch.wait_output(DEADLINE, |out| out.contains(first) && out.contains(then));
    assert!(seen.find(first) < seen.find(then), "{first:?} must come before {then:?}:\n{seen}");
}

struct Story {
    cluster: TestCluster,
    /// Where `kubectl proxy` shows the namespace.
    namespace: String,
}

impl Story {
    fn pod(&self, name: &str) -> String {
        format!("{}/pods/{name}/proxy/", self.namespace)
    }

    #[track_caller]
    fn post(&self, pod: &str, data: &str) {
        let answer = curl(&["-X", "POST", "-d", data, &self.pod(pod)]).ok();
        assert_eq!(answer.trim(), format!("Data stored on pod {pod}"));
    }

    /// What the pod keeps.
    #[track_caller]
    fn kept(&self, pod: &str) -> String {
        curl(&[&format!("{}?local", self.pod(pod))]).ok().trim().to_owned()
    }

    fn volume(&self, claim: &str) -> String {
        self.cluster.field(&format!("pvc/{claim}"), ".spec.volumeName")
    }

    #[track_caller]
    fn wait_pods(&self, expected: &str) {
        self.cluster.wait_get(&["pods", "-l=app=kubia", "-o=name"], DEADLINE, |names| {
            names.split_whitespace().map(|n| n.trim_start_matches("pod/")).collect::<Vec<_>>().join(" ")
                == expected
        });
    }

    /// Waits until there is another pod under this name, and it is Ready.
    #[track_caller]
    fn wait_replaced(&self, pod: &str, old_uid: &str) {
        self.cluster
            .wait_field(&format!("pod/{pod}"), ".metadata.uid", |uid| !uid.is_empty() && uid != old_uid);
        self.cluster.wait_ready(pod);
    }

    #[track_caller]
    fn rolled_out(&self) {
        let status = self.cluster.kubectl(&["rollout", "status", "statefulset/kubia", "--timeout=110s"]);
        assert!(
            status.contains("partitioned roll out complete") || status.contains("rolling update complete"),
            "{status}"
        );
    }
}

#[test]
fn stateful_set_keeps_names_volumes_and_data() {
    let cluster = TestCluster::start();
    cluster.kubectl(&["create", "namespace", "story"]);
    cluster.kubectl(&["config", "set-context", "--current", "--namespace=story"]);
    let mut watch = cluster.background(Version::V1_33, &["get", "pods", "-w", "-o", WATCHED]);
    cluster.kubectl(&["apply", "-f", EXAMPLE]);

    // In order, each Ready before the next is created.
    cluster.wait_ready("kubia-0");
    cluster.wait_ready("kubia-1");
    assert_order(&mut watch, &format!("kubia-0 {V1} True"), "kubia-1 ");
    let host = cluster.kubectl(&["exec", "kubia-1", "--", "hostname"]);
    assert_eq!(host.trim(), "kubia-1");
    for claim in ["data-kubia-0", "data-kubia-1"] {
        assert_eq!(cluster.field(&format!("pvc/{claim}"), ".status.phase"), "Bound");
    }

    // Reached through the API server's proxy, each pod by its name and all by the service.
    let (_proxy, url) = cluster.proxy();
    let story = Story { namespace: format!("{url}/api/v1/namespaces/story"), cluster };
    story.post("kubia-0", "the first pod's data");
    story.post("kubia-1", "the second pod's data");
    assert_eq!(story.kept("kubia-0"), "the first pod's data");
    let service = format!("{}/services/kubia-public/proxy/", story.namespace);
    wait_for("every peer's data through the service", DEADLINE, || {
        let seen = curl(&[&service]);
        let all = seen.stdout.contains("- kubia-0: the first pod's data")
            && seen.stdout.contains("- kubia-1: the second pod's data");
        if all { Ok(()) } else { Err(seen) }
    });

    deleted_pod_comes_back(&story);
    scaled_down_and_up_again(&story);
    rolls_from_the_highest_ordinal(&story, &mut watch);
    forced_deletion(&story);
    everything_goes(&story);
}

fn deleted_pod_comes_back(story: &Story) {
    let c = &story.cluster;
    let (uid, volume) = (c.field("pod/kubia-0", ".metadata.uid"), story.volume("data-kubia-0"));
    c.kubectl(&["delete", "pod", "kubia-0"]);
    story.wait_replaced("kubia-0", &uid);
    assert_eq!(story.kept("kubia-0"), "the first pod's data");
    assert_eq!(story.volume("data-kubia-0"), volume);
}

fn scaled_down_and_up_again(story: &Story) {
    let c = &story.cluster;
    c.kubectl(&["scale", "statefulset", "kubia", "--replicas=3"]);
    story.wait_pods("kubia-0 kubia-1 kubia-2");
    c.wait_ready("kubia-2");
    c.kubectl(&["scale", "statefulset/kubia", "--replicas=1"]);
    story.wait_pods("kubia-0");
    let claims = c.kubectl(&["get", "pvc", "-o=name"]);
    assert_eq!(claims.lines().count(), 3, "a scale-down keeps the claims: {claims}");
    c.kubectl(&["scale", "statefulset/kubia", "--current-replicas=1", "--replicas=2"]);
    story.wait_pods("kubia-0 kubia-1");
    c.wait_ready("kubia-1");
    assert_eq!(story.kept("kubia-1"), "the second pod's data");
}

fn rolls_from_the_highest_ordinal(story: &Story, watch: &mut Background) {
    let c = &story.cluster;
    let patch = format!(
        r#"{{"spec":{{"template":{{"spec":{{"containers":[{{"name":"kubia","image":"{V2}"}}]}}}}}}}}"#
    );
    c.kubectl(&["patch", "statefulset", "kubia", "-p", &patch]);
    story.rolled_out();
    assert_order(watch, &format!("kubia-1 {V2} True"), &format!("kubia-0 {V2}"));
    c.wait_ready("kubia-0");
    let answer = curl(&[&story.pod("kubia-0")]).ok();
    assert!(answer.contains("kubia v2") && answer.contains("the first pod's data"), "{answer}");

    let history = c.kubectl(&["rollout", "history", "statefulset/kubia"]);
    let revisions: Vec<_> =
        history.lines().filter_map(|l| l.split_whitespace().next()?.parse::<u32>().ok()).collect();
    assert_eq!(revisions, [1, 2], "{history}");
    let second = c.kubectl(&["rollout", "history", "statefulset/kubia", "--revision=2"]);
    assert!(second.contains(V2), "{second}");

    c.kubectl(&["rollout", "undo", "statefulset/kubia"]);
    story.rolled_out();
    for pod in ["pod/kubia-0", "pod/kubia-1"] {
        assert_eq!(c.field(pod, ".spec.containers[0].image"), V1);
    }
    let history = c.kubectl(&["rollout", "history", "statefulset/kubia"]);
    assert!(history.lines().any(|l| l.starts_with('3')), "an undo is a revision of its own: {history}");
}

fn forced_deletion(story: &Story) {
    let c = &story.cluster;
    c.wait_ready("kubia-1");
    let uid = c.field("pod/kubia-1", ".metadata.uid");
    let forced = c.try_kubectl(&["delete", "pod", "kubia-1", "--force", "--grace-period=0"]);
    assert!(forced.stderr.contains("Immediate deletion"), "{forced}");
    assert!(forced.success(), "{forced}");
    story.wait_replaced("kubia-1", &uid);
    assert_eq!(story.kept("kubia-1"), "the second pod's data");
}

fn everything_goes(story: &Story) {
    let c = &story.cluster;
    c.kubectl(&["delete", "statefulset", "kubia"]);
    story.wait_pods("");
    assert_eq!(c.kubectl(&["get", "pvc", "-o=name"]).lines().count(), 3, "claims outlive their StatefulSet");
    c.kubectl(&["delete", "namespace", "story"]);
    let gone = c.try_kubectl(&["get", "namespace", "story"]).fails();
    assert!(gone.contains(r#"namespaces "story" not found"#), "{gone}");
    // The volumes' reclaim policy is Delete.
    c.wait_get(&["pv", "-o=name"], DEADLINE, str::is_empty);
    wait_for("the containers to go", DEADLINE, || {
        let left = c.containers();
        if left.is_empty() { Ok(()) } else { Err(left.join(" ")) }
    });
}
