//! What a pod is given, what may change, how it ends.

use super::*;
use crate::kinds::shared::testing::{object, texts};
use serde_json::json;

fn pod(spec: Value) -> Pod {
    let mut pod = object(json!({"metadata": {"name": "p", "namespace": "default"}, "spec": spec}));
    Pods::default(&mut pod);
    pod
}

fn base() -> Value {
    json!({"containers": [{"name": "c", "image": "nginx", "resources": {"limits": {"cpu": "1"}}}]})
}

#[test]
fn a_small_pod_as_people_read_it() {
    let mut small = pod(base());
    Pods::prepare_create(&mut small);
    let value = serde_json::to_value(&small).unwrap();
    assert_eq!(
        value["spec"],
        json!({
            "containers": [{
                "name": "c", "image": "nginx", "imagePullPolicy": "Always",
                "resources": {"limits": {"cpu": "1"}, "requests": {"cpu": "1"}},
                "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File",
            }],
            "dnsPolicy": "ClusterFirst", "enableServiceLinks": true, "restartPolicy": "Always",
            "schedulerName": "default-scheduler", "securityContext": {}, "terminationGracePeriodSeconds": 30,
        })
    );
    assert_eq!(value["status"], json!({"phase": "Pending", "qosClass": "Burstable"}));
    assert_eq!(texts(Pods::validate(&small)), Vec::<String>::new());
    let fields = Pods::selectable_fields(&small);
    assert!(fields.contains(&("status.phase", "Pending".to_owned())));
    assert!(fields.contains(&("spec.hostNetwork", "false".to_owned())));
}

#[test]
fn status_and_spec_stay_apart() {
    let mut old = pod(base());
    Pods::prepare_create(&mut old);
    let mut new = old.clone();
    new.status = object(json!({"phase": "Running"}));
    Pods::prepare_update(&mut new, &old);
    assert_eq!(new.status, old.status);
    let mut new = pod(json!({"containers": []}));
    new.metadata.annotations = Some([("a".to_owned(), "b".to_owned())].into());
    new.status = object(json!({"phase": "Running"}));
    Pods::prepare_status_update(&mut new, &old);
    assert_eq!(new.spec, old.spec);
    assert!(new.metadata.annotations.is_some(), "annotations may be patched through status");
    assert_eq!(new.status.as_ref().and_then(|s| s.qos_class.as_deref()), Some("Burstable"));
    assert!(Pods::validate_status_update(&new, &old).is_empty());
}

#[test]
fn little_may_change() {
    let old = pod(base());
    let update = |change: fn(&mut Value)| {
        let mut spec = base();
        change(&mut spec);
        texts(Pods::validate_update(&pod(spec), &old))
    };
    assert!(
        update(|s| s["containers"][0]["image"] = json!("nginx:1.27@sha256:x")).len() == 1,
        "policy follows no image"
    );
    assert!(update(|s| s["containers"][0]["image"] = json!("busybox")).is_empty());
    assert!(update(|s| s["activeDeadlineSeconds"] = json!(60)).is_empty());
    assert!(update(|s| s["tolerations"] = json!([{"operator": "Exists"}])).is_empty());
    assert_eq!(
        update(|s| s["containers"][0]["command"] = json!(["sh"])),
        ["spec: Forbidden: pod updates may not change fields other than \
          `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only \
          additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was \
          previously negative)\n+ containers[0].command: [\"sh\"]\n"]
    );
    let grown = update(|s| s["containers"].as_array_mut().unwrap().push(json!({"name": "d", "image": "x"})));
    assert_eq!(grown, ["spec.containers: Forbidden: pod updates may not add or remove containers"]);
    let bounded = pod(
        json!({"containers": base()["containers"], "activeDeadlineSeconds": 10, "tolerations": [{"key": "a", "operator": "Exists"}]}),
    );
    let faults = |new: Value| texts(Pods::validate_update(&pod(new), &bounded));
    assert_eq!(
        faults(json!({"containers": base()["containers"], "activeDeadlineSeconds": 20})),
        ["spec.activeDeadlineSeconds: Invalid value: 20: must be less than or equal to previous value"]
    );
    assert_eq!(
        faults(base()),
        [
            "spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value",
            "spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds",
        ]
    );
}

#[test]
fn ended_containers_stay_ended() {
    let with = |policy: &str, state: Value| -> Pod {
        let mut pod = pod(json!({"containers": base()["containers"], "restartPolicy": policy}));
        pod.status = object(
            json!({"containerStatuses": [{"name": "c", "image": "", "imageID": "", "ready": false, "restartCount": 0,
                                                           "state": state}]}),
        );
        pod
    };
    let running = || json!({"running": {}});
    let ended = |code: i32| json!({"terminated": {"exitCode": code}});
    for (policy, code, allowed) in
        [("Always", 0, true), ("OnFailure", 1, true), ("OnFailure", 0, false), ("Never", 1, false)]
    {
        let errors = Pods::validate_status_update(&with(policy, running()), &with(policy, ended(code)));
        assert_eq!(errors.is_empty(), allowed, "{policy} {code}");
    }
    let errors = Pods::validate_status_update(&with("Never", running()), &with("Never", ended(0)));
    assert_eq!(
        texts(errors),
        ["status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"]
    );
}

#[test]
fn addresses_and_warnings() {
    let mut running = pod(base());
    running.status = object(json!({"podIP": "10.0.0.1", "hostIPs": [{"ip": "10.0.0.2"}]}));
    Pods::default(&mut running);
    let status = serde_json::to_value(&running.status).unwrap();
    assert_eq!((&status["podIPs"], &status["hostIP"]), (&json!([{"ip": "10.0.0.1"}]), &json!("10.0.0.2")));

    let mut odd = pod(json!({
        "nodeSelector": {"beta.kubernetes.io/os": "linux"}, "terminationGracePeriodSeconds": -1,
        "containers": [{"name": "c", "image": "i", "resources": {"limits": {"memory": "100m"}},
            "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "$(A)2"}, {"name": "A", "value": "3"}],
            "ports": [{"containerPort": 80}, {"name": "b", "containerPort": 80}]}]}));
    odd.metadata.name = Some("a.b".to_owned());
    assert_eq!(
        Pods::warnings(&odd),
        [
            "metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is \
             recommended: [must not contain dots]",
            "spec.nodeSelector[beta.kubernetes.io/os]: deprecated since v1.14; use \"kubernetes.io/os\" instead",
            "spec.containers[0].resources.limits[memory]: fractional byte value \"100m\" is invalid, must be an integer",
            "spec.containers[0].resources.requests[memory]: fractional byte value \"100m\" is invalid, must be an integer",
            "spec.containers[0].env[2]: hides previous definition of \"A\", which may be dropped when using apply",
            "spec.containers[0].ports[1]: duplicate port definition with spec.containers[0].ports[0]",
            "spec.terminationGracePeriodSeconds: must be >= 0; negative values are invalid and will be treated as 1",
        ]
    );
    assert!(Pods::warnings(&pod(base())).is_empty());
}

#[test]
fn grace() {
    let scheduled = |seconds: i64, phase: &str| {
        let mut pod =
            pod(json!({"containers": [], "nodeName": "n", "terminationGracePeriodSeconds": seconds}));
        pod.status = object(json!({"phase": phase}));
        pod
    };
    let graceful = |seconds| Deletion::Graceful { seconds };
    for (pod, requested, expected) in [
        (pod(base()), None, graceful(0)),
        (pod(base()), Some(10), graceful(0)),
        (scheduled(30, "Running"), None, graceful(30)),
        (scheduled(30, "Running"), Some(5), graceful(5)),
        (scheduled(30, "Running"), Some(0), graceful(0)),
        (scheduled(0, "Running"), None, graceful(0)),
        (scheduled(-1, "Running"), None, graceful(1)),
        (scheduled(30, "Succeeded"), None, graceful(0)),
        (scheduled(30, "Failed"), Some(9), graceful(0)),
    ] {
        assert_eq!(Pods::deletion(&pod, requested), expected);
    }
}
