//! What the two subresources let through, and what they say to the rest.

use super::*;
use crate::kinds::{
    Kind, Subresource,
    pod::Pods,
    shared::testing::{object, texts},
};
use serde_json::{Value, json};

fn pod(spec: Value) -> Pod {
    let mut pod = object(
        json!({"metadata": {"name": "p", "namespace": "default", "labels": {"a": "b"}}, "spec": spec}),
    );
    Pods::default(&mut pod);
    Pods::prepare_create(&mut pod);
    pod
}

/// What the endpoint makes of `change`, and what it says to it.
fn changed(part: Subresource, old: &Pod, change: impl FnOnce(&mut Value)) -> (Pod, Vec<String>) {
    let mut value = serde_json::to_value(old).unwrap();
    change(&mut value);
    let mut new: Pod = object(value);
    Pods::default(&mut new);
    Pods::prepare_part_update(part, &mut new, old);
    let errors = texts(Pods::validate_part_update(part, &new, old));
    (new, errors)
}

fn debugger(rest: Value) -> Value {
    let mut container = json!({"name": "debugger", "image": "busybox:1"});
    container.as_object_mut().unwrap().extend(rest.as_object().unwrap().clone());
    container
}

#[test]
fn ephemeral_containers_come_and_stay() {
    let part = Subresource::EphemeralContainers;
    let old = pod(json!({"containers": [{"name": "c", "image": "nginx:1"}]}));
    let add =
        |container: Value| move |pod: &mut Value| pod["spec"]["ephemeralContainers"] = json!([container]);
    let (with, errors) = changed(part, &old, |pod| {
        add(debugger(json!({"targetContainerName": "c", "tty": true, "stdin": true})))(pod);
        pod["spec"]["containers"][0]["image"] = json!("other");
        pod["metadata"]["labels"] = json!({});
        pod["status"]["phase"] = json!("Failed");
    });
    assert_eq!(errors, [""; 0]);
    assert_eq!(Pods::generation_changed(&with, &old), Some(true));
    assert_eq!((&with.status, &with.metadata.labels), (&old.status, &old.metadata.labels));
    let spec = with.spec.clone().unwrap();
    assert_eq!(spec.containers, old.spec.as_ref().unwrap().containers);
    let container = &spec.ephemeral_containers.unwrap()[0];
    assert_eq!(container.image_pull_policy.as_deref(), Some("IfNotPresent"));
    assert_eq!(container.termination_message_policy.as_deref(), Some("File"));

    let refused = |container: Value, expected: &[&str]| {
        let (_, errors) = changed(part, &old, add(container));
        assert_eq!(errors, expected);
    };
    refused(debugger(json!({"name": "c"})), &["spec.ephemeralContainers[0].name: Duplicate value: \"c\""]);
    refused(debugger(json!({"name": ""})), &["spec.ephemeralContainers[0].name: Required value"]);
    refused(
        debugger(json!({"targetContainerName": "x"})),
        &["spec.ephemeralContainers[0].targetContainerName: Not found: \"x\""],
    );
    let no = "Forbidden: cannot be set for an Ephemeral Container";
    for (field, value) in [
        ("ports", json!([{"containerPort": 80}])),
        ("resources", json!({"limits": {"cpu": "1"}})),
        ("livenessProbe", json!({"exec": {"command": ["a"]}})),
        ("readinessProbe", json!({"exec": {"command": ["a"]}})),
        ("startupProbe", json!({"exec": {"command": ["a"]}})),
        ("lifecycle", json!({"preStop": {"exec": {"command": ["a"]}}})),
        ("restartPolicy", json!("Always")),
    ] {
        refused(debugger(json!({field: value})), &[&format!("spec.ephemeralContainers[0].{field}: {no}")]);
    }

    // One more is fine, in whatever order; what is there is as it was.
    let (both, errors) = changed(part, &with, |pod| {
        let all = pod["spec"]["ephemeralContainers"].as_array_mut().unwrap();
        all.insert(0, json!({"name": "second", "image": "busybox:1"}));
    });
    assert_eq!((errors, both.spec.unwrap().ephemeral_containers.unwrap().len()), (vec![], 2));
    let (_, errors) = changed(part, &with, |pod| pod["spec"]["ephemeralContainers"] = json!([]));
    assert_eq!(
        errors,
        [
            "spec.ephemeralContainers: Forbidden: existing ephemeral containers \"debugger\" may not be removed\n"
        ]
    );
    let (_, errors) =
        changed(part, &with, |pod| pod["spec"]["ephemeralContainers"][0]["image"] = json!("other:2"));
    assert!(
        errors[0].contains("existing ephemeral containers \"debugger\" may not be changed"),
        "{errors:?}"
    );
    // The pod's own endpoint does not add any.
    let mut new = with.clone();
    Pods::prepare_update(&mut new, &old);
    assert!(!Pods::validate_update(&new, &old).is_empty());
}

fn resources(requests: Value, limits: Value) -> Value {
    json!({"requests": requests, "limits": limits})
}

#[test]
fn cpu_and_memory_can_be_resized() {
    let part = Subresource::Resize;
    let old = pod(json!({
        "initContainers": [
            {"name": "i", "image": "i:1"},
            {"name": "s", "image": "i:1", "restartPolicy": "Always", "resources": {"requests": {"cpu": "1m"}}},
        ],
        "containers": [{
            "name": "c", "image": "nginx:1",
            "resources": resources(json!({"cpu": "100m", "memory": "64Mi"}), json!({"cpu": "200m"})),
        }],
    }));
    let set = |change: Value| move |pod: &mut Value| pod["spec"]["containers"][0]["resources"] = change;
    let (new, errors) = changed(part, &old, |pod| {
        set(resources(json!({"cpu": "150m", "memory": "64Mi"}), json!({"cpu": "300m", "memory": "1Gi"})))(
            pod,
        );
        pod["spec"]["initContainers"][1]["resources"] = json!({"requests": {"cpu": "2m", "memory": "1Mi"}});
        pod["spec"]["containers"][0]["image"] = json!("other");
    });
    assert_eq!(errors, [""; 0]);
    let spec = new.spec.clone().unwrap();
    assert_eq!(spec.containers[0].image.as_deref(), Some("nginx:1"));
    assert_eq!(limits_of(&spec.containers[0])["cpu"].0, "300m");
    assert_eq!(Pods::generation_changed(&new, &old), Some(true));

    let (_, errors) = changed(part, &old, |pod| pod["spec"]["containers"][0]["name"] = json!("d"));
    assert_eq!(
        errors,
        ["spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize"]
    );
    let refused = |expected: &[&str], change: &dyn Fn(&mut Value)| {
        let (_, errors) = changed(part, &old, change);
        assert_eq!(errors, expected);
    };
    let first =
        |change: Value| move |pod: &mut Value| pod["spec"]["containers"][0]["resources"] = change.clone();
    refused(
        &["spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed"],
        &first(resources(json!({"cpu": "100m"}), json!({"cpu": "200m"}))),
    );
    refused(
        &["spec: Forbidden: only cpu and memory resources are mutable"],
        &first(resources(
            json!({"cpu": "1m", "memory": "1", "example.com/x": "1"}),
            json!({"cpu": "1m", "example.com/x": "1"}),
        )),
    );
    refused(
        &[
            "spec.containers[0].resources.requests: Invalid value: \"300m\": must be less than or equal to cpu limit of 200m",
        ],
        &first(resources(json!({"cpu": "300m", "memory": "64Mi"}), json!({"cpu": "200m"}))),
    );
    refused(&["spec: Forbidden: resources for non-sidecar init containers are immutable"], &|pod| {
        pod["spec"]["initContainers"][0]["resources"] = json!({"requests": {"cpu": "1m"}});
    });
    refused(&["spec.containers: Forbidden: containers may not be added or removed on resize"], &|pod| {
        let one = pod["spec"]["containers"][0].clone();
        let all = pod["spec"]["containers"].as_array_mut().unwrap();
        all.push(one);
        all[1]["name"] = json!("d");
    });

    let plain = pod(json!({"containers": [{"name": "c", "image": "nginx:1"}]}));
    let (_, errors) = changed(part, &plain, set(json!({"requests": {"cpu": "1m"}})));
    assert_eq!(
        errors,
        ["spec: Invalid value: \"BestEffort\": Pod QOS Class may not change as a result of resizing"]
    );
    let mut windows = plain.clone();
    windows.spec.as_mut().unwrap().os = object(json!({"name": "windows"}));
    assert_eq!(changed(part, &windows, |_| {}).1, ["<nil>: Forbidden: windows pods cannot be resized"]);
}

#[test]
fn policies_of_resizing() {
    let check = |restart: &str, policies: Value, expected: &[&str]| {
        let pod = pod(json!({
            "restartPolicy": restart,
            "containers": [{"name": "c", "image": "nginx:1", "resizePolicy": policies}],
        }));
        assert_eq!(texts(Pods::validate(&pod)), expected);
    };
    let policy = |resource: &str, restart: &str| json!({"resourceName": resource, "restartPolicy": restart});
    check("Always", json!([policy("cpu", "NotRequired"), policy("memory", "RestartContainer")]), &[]);
    check(
        "Never",
        json!([policy("memory", "RestartContainer")]),
        &[
            "spec.containers[0].resizePolicy: Invalid value: \"RestartContainer\": must be 'NotRequired' when pod \
           `restartPolicy` is 'Never'",
        ],
    );
    check(
        "Always",
        json!([policy("cpu", "NotRequired"), policy("cpu", "NotRequired")]),
        &["spec.containers[0].resizePolicy[1]: Duplicate value: \"cpu\""],
    );
    check(
        "Always",
        json!([policy("disk", "Sometimes")]),
        &[
            "spec.containers[0].resizePolicy: Unsupported value: \"disk\": supported values: \"cpu\", \"memory\"",
            "spec.containers[0].resizePolicy: Unsupported value: \"Sometimes\": supported values: \"NotRequired\", \
             \"RestartContainer\"",
        ],
    );
}
