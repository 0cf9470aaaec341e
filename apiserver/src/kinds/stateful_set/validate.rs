//! Rules of StatefulSets.

use crate::kinds::persistent_volume_claim;
use crate::kinds::shared::int_or_percent;
use crate::kinds::shared::pod_template::{self, NEGATIVE};
use api::field::{Errors, Path};
use api::names;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetStatus};
use k8s_openapi::api::core::v1::{PersistentVolumeClaimVolumeSource, PodSpec, Volume};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

const FORBIDDEN: &str = "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', \
                         'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and \
                         'minReadySeconds' are forbidden";

pub(super) fn validate(set: &StatefulSet) -> Errors {
    let mut errors = Errors::default();
    let path = Path::new("spec");
    let Some(spec) = &set.spec else {
        errors.required(&path, "");
        return errors;
    };
    for (i, claim) in spec.volume_claim_templates.iter().flatten().enumerate() {
        let none = Default::default();
        let path = path.child("volumeClaimTemplates").index(i).child("spec");
        persistent_volume_claim::validate_spec(claim.spec.as_ref().unwrap_or(&none), &path, &mut errors);
    }
    if let Some(name) = spec.service_name.as_deref().filter(|n| !n.is_empty()) {
        errors.invalid_each(&path.child("serviceName"), name, names::dns_label(name));
    }
    validate_spec(spec, &path, &mut errors);
    errors
}

pub(super) fn validate_update(new: &StatefulSet, old: &StatefulSet) -> Errors {
    let mut errors = Errors::default();
    let none = (StatefulSetSpec::default(), StatefulSetSpec::default());
    let (new, old) = (new.spec.as_ref().unwrap_or(&none.0), old.spec.as_ref().unwrap_or(&none.1));
    validate_spec(new, &Path::new("spec"), &mut errors);
    let rest = StatefulSetSpec {
        replicas: old.replicas,
        template: old.template.clone(),
        update_strategy: old.update_strategy.clone(),
        min_ready_seconds: old.min_ready_seconds,
        ordinals: old.ordinals.clone(),
        revision_history_limit: old.revision_history_limit,
        persistent_volume_claim_retention_policy: old.persistent_volume_claim_retention_policy.clone(),
        ..new.clone()
    };
    if rest != *old {
        errors.forbidden(&Path::new("spec"), FORBIDDEN);
    }
    errors
}

fn validate_spec(spec: &StatefulSetSpec, path: &Path, errors: &mut Errors) {
    match spec.pod_management_policy.as_deref().unwrap_or("") {
        "" => errors.required(&path.child("podManagementPolicy"), ""),
        "OrderedReady" | "Parallel" => {}
        other => {
            let detail = "must be 'OrderedReady' or 'Parallel'";
            errors.invalid(&path.child("podManagementPolicy"), other, detail);
        }
    }
    validate_strategy(spec, &path.child("updateStrategy"), errors);
    if let Some(policy) = &spec.persistent_volume_claim_retention_policy {
        let path = path.child("persistentVolumeClaimRetentionPolicy");
        for (field, value) in [("whenDeleted", &policy.when_deleted), ("whenScaled", &policy.when_scaled)] {
            let value = value.as_deref().unwrap_or("");
            if !["Retain", "Delete"].contains(&value) {
                errors.not_supported(&path.child(field), value, &["Retain", "Delete"]);
            }
        }
    }
    for (field, number) in [
        ("replicas", spec.replicas),
        ("minReadySeconds", spec.min_ready_seconds),
        ("ordinals.start", spec.ordinals.as_ref().and_then(|o| o.start)),
    ] {
        if let Some(number) = number.filter(|n| *n < 0) {
            errors.invalid(&path.child(field), number, NEGATIVE);
        }
    }
    validate_template(spec, path, errors);
}

fn validate_strategy(spec: &StatefulSetSpec, path: &Path, errors: &mut Errors) {
    let none = Default::default();
    let strategy = spec.update_strategy.as_ref().unwrap_or(&none);
    let rolling_path = path.child("rollingUpdate");
    match (strategy.type_.as_deref().unwrap_or(""), &strategy.rolling_update) {
        ("", _) => errors.required(path, ""),
        ("OnDelete", Some(rolling)) => {
            errors.invalid(&rolling_path, rolling, "only allowed for updateStrategy 'RollingUpdate'");
        }
        ("OnDelete", None) | ("RollingUpdate", None) => {}
        ("RollingUpdate", Some(rolling)) => {
            if let Some(partition) = rolling.partition.filter(|p| *p < 0) {
                errors.invalid(&rolling_path.child("partition"), partition, NEGATIVE);
            }
            if let Some(max) = &rolling.max_unavailable {
                validate_max_unavailable(max, &rolling_path.child("maxUnavailable"), errors);
            }
        }
        (_, _) => errors.invalid(path, strategy, "must be 'RollingUpdate' or 'OnDelete'"),
    }
}

fn validate_max_unavailable(max: &IntOrString, path: &Path, errors: &mut Errors) {
    int_or_percent::validate_share(max, path, errors);
    if int_or_percent::is_zero(max) {
        errors.invalid(path, max, "cannot be 0");
    }
}

fn validate_template(spec: &StatefulSetSpec, path: &Path, errors: &mut Errors) {
    let mut template = spec.template.clone();
    let pod = template.spec.get_or_insert_default();
    // Host name and subdomain are set per pod; a claim template stands in for the volume of its name.
    pod.hostname = None;
    pod.subdomain = None;
    add_claims(pod, spec);
    pod_template::validate_with_selector(&spec.selector, "", &template, "StatefulSet", path, errors);
}

fn add_claims(pod: &mut PodSpec, spec: &StatefulSetSpec) {
    for claim in spec.volume_claim_templates.iter().flatten() {
        let name = claim.metadata.name.clone().unwrap_or_default();
        let volumes = pod.volumes.get_or_insert_default();
        volumes.retain(|v| v.name != name);
        volumes.push(Volume {
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: name.clone(),
                read_only: None,
            }),
            name,
            ..Default::default()
        });
    }
}

pub(super) fn validate_status(new: &StatefulSet, old: &StatefulSet) -> Errors {
    let mut errors = Errors::default();
    let none = StatefulSetStatus::default();
    let (status, path) = (new.status.as_ref().unwrap_or(&none), Path::new("status"));
    let counts = [
        ("readyReplicas", status.ready_replicas),
        ("currentReplicas", status.current_replicas),
        ("updatedReplicas", status.updated_replicas),
        ("availableReplicas", status.available_replicas),
    ];
    for (field, count) in [("replicas", Some(status.replicas))].into_iter().chain(counts) {
        if let Some(count) = count.filter(|c| *c < 0) {
            errors.invalid(&path.child(field), count, NEGATIVE);
        }
    }
    for (field, count) in counts {
        if let Some(count) = count.filter(|c| *c > status.replicas) {
            errors.invalid(&path.child(field), count, "cannot be greater than status.replicas");
        }
    }
    if status.available_replicas > Some(status.ready_replicas.unwrap_or(0)) {
        let available = status.available_replicas;
        let detail = "cannot be greater than status.readyReplicas";
        errors.invalid(&path.child("availableReplicas"), available, detail);
    }
    let collisions = |set: &StatefulSet| set.status.as_ref().and_then(|s| s.collision_count).unwrap_or(0);
    if collisions(new) < collisions(old) {
        errors.invalid(&path.child("collisionCount"), collisions(new), "cannot be decremented");
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::super::StatefulSets;
    use super::*;
    use crate::kinds::Kind;
    use crate::kinds::shared::testing::{object, texts};
    use serde_json::{Value, json};

    fn set(change: impl FnOnce(&mut Value)) -> StatefulSet {
        let mut spec = json!({
            "serviceName": "kubia", "selector": {"matchLabels": {"app": "kubia"}},
            "template": {"metadata": {"labels": {"app": "kubia"}},
                         "spec": {"containers": [{"name": "c", "image": "i:v1", "volumeMounts": [{"name": "data", "mountPath": "/d"}]}]}},
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
                                      "resources": {"requests": {"storage": "1Mi"}}}}]
        });
        change(&mut spec);
        let mut set = object(json!({"metadata": {"name": "kubia"}, "spec": spec}));
        StatefulSets::default(&mut set);
        set
    }

    #[test]
    fn creating() {
        assert_eq!(texts(validate(&set(|_| {}))), Vec::<String>::new());
        type Change = fn(&mut Value);
        let cases: [(Change, &str); 10] = [
            (
                |s| s["template"]["metadata"]["labels"] = json!({"app": "other"}),
                "spec.template.metadata.labels: Invalid value: {\"app\":\"other\"}: `selector` does not match template `labels`",
            ),
            (
                |s| s["replicas"] = json!(-1),
                "spec.replicas: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                |s| s["podManagementPolicy"] = json!("Any"),
                "spec.podManagementPolicy: Invalid value: \"Any\": must be 'OrderedReady' or 'Parallel'",
            ),
            (
                |s| s["updateStrategy"] = json!({"type": "OnDelete", "rollingUpdate": {"partition": 1}}),
                "spec.updateStrategy.rollingUpdate: Invalid value: {\"partition\":1}: only allowed for updateStrategy \
                 'RollingUpdate'",
            ),
            (
                |s| {
                    s["updateStrategy"] = json!({"type": "RollingUpdate", "rollingUpdate": {"partition": -1}})
                },
                "spec.updateStrategy.rollingUpdate.partition: Invalid value: -1: must be greater than or equal to 0",
            ),
            (
                |s| s["template"]["spec"]["restartPolicy"] = json!("Never"),
                "spec.template.spec.restartPolicy: Unsupported value: \"Never\": supported values: \"Always\"",
            ),
            (
                |s| s["volumeClaimTemplates"][0]["spec"]["resources"] = json!({}),
                "spec.volumeClaimTemplates[0].spec.resources[storage]: Required value",
            ),
            (
                |s| s["volumeClaimTemplates"] = json!([]),
                "spec.template.spec.containers[0].volumeMounts[0].name: Not found: \"data\"",
            ),
            (
                |s| s["template"]["spec"]["containers"] = json!([]),
                "spec.template.spec.containers: Required value",
            ),
            (
                |s| s["persistentVolumeClaimRetentionPolicy"] = json!({"whenScaled": "Keep"}),
                "spec.persistentVolumeClaimRetentionPolicy.whenScaled: Unsupported value: \"Keep\": supported values: \
                 \"Retain\", \"Delete\"",
            ),
        ];
        for (change, expected) in cases {
            assert_eq!(texts(validate(&set(change))), [expected]);
        }
    }

    #[test]
    fn updating() {
        let old = set(|_| {});
        let update = |change: fn(&mut Value)| texts(validate_update(&set(change), &old));
        assert!(update(|s| s["replicas"] = json!(5)).is_empty());
        assert!(update(|s| s["template"]["spec"]["containers"][0]["image"] = json!("i:v2")).is_empty());
        assert!(update(|s| s["updateStrategy"] = json!({"type": "OnDelete"})).is_empty());
        for change in [
            (|s| s["serviceName"] = json!("other")) as fn(&mut Value),
            |s| s["podManagementPolicy"] = json!("Parallel"),
            |s| s["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"] = json!("2Mi"),
        ] {
            assert_eq!(update(change), [format!("spec: Forbidden: {FORBIDDEN}")]);
        }
    }

    #[test]
    fn status_counts_fit() {
        let with = |status: Value| {
            let mut set = set(|_| {});
            set.status = object(status);
            set
        };
        let old = with(json!({"replicas": 3, "collisionCount": 2}));
        let faults = |status: Value| texts(validate_status(&with(status), &old));
        assert!(
            faults(json!({"replicas": 3, "readyReplicas": 3, "availableReplicas": 3, "collisionCount": 2}))
                .is_empty()
        );
        assert_eq!(
            faults(json!({"replicas": 1, "readyReplicas": 2, "availableReplicas": 0, "collisionCount": 1})),
            [
                "status.readyReplicas: Invalid value: 2: cannot be greater than status.replicas",
                "status.collisionCount: Invalid value: 1: cannot be decremented",
            ]
        );
        assert_eq!(
            faults(json!({"replicas": 1, "availableReplicas": 1, "collisionCount": 2})),
            ["status.availableReplicas: Invalid value: 1: cannot be greater than status.readyReplicas"]
        );
    }
}
