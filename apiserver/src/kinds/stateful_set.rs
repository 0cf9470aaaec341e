//! StatefulSet: pods with names, order and storage of their own.

use super::shared::cells;
use super::shared::pod_spec;
use super::{Column, Kind, Subresource, persistent_volume_claim};
use api::field::{Errors, Path};
use api::names;
use jiff::Timestamp;
use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetStatus};
use serde_json::Value;

mod validate;

const REVISION_HISTORY_LIMIT: i32 = 10;

pub(super) struct StatefulSets;

impl Kind for StatefulSets {
    type Object = StatefulSet;
    const PLURAL: &'static str = "statefulsets";
    const SINGULAR: &'static str = "statefulset";
    const SHORT_NAMES: &'static [&'static str] = &["sts"];
    const CATEGORIES: &'static [&'static str] = &["all"];
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status, Subresource::Scale];
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("Ready", "string", 0, "Number of the pod with ready state"),
        Column::age(),
        Column::new("Containers", "string", 1, "Names of each container in the template."),
        Column::new("Images", "string", 1, "Images referenced by each container in the template."),
    ];

    fn check_name(name: &str) -> Vec<String> {
        names::dns_label(name)
    }

    fn default(object: &mut StatefulSet) {
        let spec = object.spec.get_or_insert_default();
        spec.pod_management_policy.get_or_insert_with(|| "OrderedReady".to_owned());
        spec.replicas.get_or_insert(1);
        spec.revision_history_limit.get_or_insert(REVISION_HISTORY_LIMIT);
        let strategy = spec.update_strategy.get_or_insert_default();
        if strategy.type_.is_none() {
            strategy.type_ = Some("RollingUpdate".to_owned());
            strategy.rolling_update.get_or_insert_default();
        }
        if strategy.type_.as_deref() == Some("RollingUpdate")
            && let Some(rolling) = &mut strategy.rolling_update
        {
            rolling.partition.get_or_insert(0);
        }
        let retention = spec.persistent_volume_claim_retention_policy.get_or_insert_default();
        retention.when_deleted.get_or_insert_with(|| "Retain".to_owned());
        retention.when_scaled.get_or_insert_with(|| "Retain".to_owned());
        pod_spec::default_spec(spec.template.spec.get_or_insert_default());
        for claim in spec.volume_claim_templates.iter_mut().flatten() {
            persistent_volume_claim::default_spec(claim.spec.get_or_insert_default());
            claim.status.get_or_insert_default().phase.get_or_insert_with(|| "Pending".to_owned());
        }
    }

    fn prepare_create(object: &mut StatefulSet) {
        object.status = Some(StatefulSetStatus { available_replicas: Some(0), ..Default::default() });
    }

    fn prepare_update(new: &mut StatefulSet, old: &StatefulSet) {
        new.status = old.status.clone();
    }

    fn prepare_status_update(new: &mut StatefulSet, old: &StatefulSet) {
        new.spec = old.spec.clone();
    }

    fn validate(object: &StatefulSet) -> Errors {
        validate::validate(object)
    }

    fn validate_update(new: &StatefulSet, old: &StatefulSet) -> Errors {
        validate::validate_update(new, old)
    }

    fn validate_status_update(new: &StatefulSet, old: &StatefulSet) -> Errors {
        validate::validate_status(new, old)
    }

    fn warnings(object: &StatefulSet) -> Vec<String> {
        let Some(spec) = &object.spec else { return Vec::new() };
        let path = Path::new("spec");
        let template = spec.template.spec.as_ref();
        let mut texts = template
            .map(|s| pod_spec::warnings(s, &path.child("template").child("spec")))
            .unwrap_or_default();
        for (i, claim) in spec.volume_claim_templates.iter().flatten().enumerate() {
            let path = path.child("volumeClaimTemplates").index(i).child("spec");
            texts.extend(claim.spec.iter().flat_map(|s| persistent_volume_claim::warnings(s, &path)));
        }
        texts
    }

    fn generation_changed(new: &StatefulSet, old: &StatefulSet) -> Option<bool> {
        Some(new.spec != old.spec)
    }

    fn row(object: &StatefulSet, now: Timestamp) -> Vec<Value> {
        let none = Default::default();
        let spec = object.spec.as_ref().unwrap_or(&none);
        let ready = object.status.as_ref().and_then(|s| s.ready_replicas).unwrap_or(0);
        let containers = spec.template.spec.as_ref().map_or(&[][..], |s| &s.containers);
        let (names, images) = cells::containers(containers);
        vec![
            cells::name(&object.metadata),
            format!("{ready}/{}", spec.replicas.unwrap_or(0)).into(),
            cells::age(&object.metadata, now),
            names.into(),
            images.into(),
        ]
    }

    fn scale(object: &StatefulSet) -> Option<(i32, i32, String)> {
        let spec = object.spec.as_ref()?;
        let selector = api::selector::Selector::from_label_selector(Some(&spec.selector)).unwrap_or_default();
        let current = object.status.as_ref().map_or(0, |s| s.replicas);
        Some((spec.replicas.unwrap_or(0), current, selector.to_string()))
    }

    fn set_scale(object: &mut StatefulSet, replicas: i32) {
        object.spec.get_or_insert_default().replicas = Some(replicas);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{at, object};
    use serde_json::json;

    #[test]
    fn defaults_row_and_scale() {
        let mut set = object::<StatefulSet>(json!({
            "metadata": {"name": "kubia", "creationTimestamp": at(0)},
            "spec": {"serviceName": "kubia", "selector": {"matchLabels": {"app": "kubia"}},
                     "template": {"metadata": {"labels": {"app": "kubia"}}, "spec": {"containers": [{"name": "c", "image": "i:v1"}]}},
                     "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"],
                                               "resources": {"requests": {"storage": "1Mi"}}}}]}
        }));
        StatefulSets::default(&mut set);
        StatefulSets::prepare_create(&mut set);
        let value = serde_json::to_value(&set).unwrap();
        let spec = &value["spec"];
        assert_eq!(spec["podManagementPolicy"], "OrderedReady");
        assert_eq!(
            spec["updateStrategy"],
            json!({"type": "RollingUpdate", "rollingUpdate": {"partition": 0}})
        );
        assert_eq!(
            spec["persistentVolumeClaimRetentionPolicy"],
            json!({"whenDeleted": "Retain", "whenScaled": "Retain"})
        );
        assert_eq!((&spec["replicas"], &spec["revisionHistoryLimit"]), (&json!(1), &json!(10)));
        let claim = &spec["volumeClaimTemplates"][0];
        assert_eq!((&claim["kind"], &claim["apiVersion"]), (&json!("PersistentVolumeClaim"), &json!("v1")));
        assert_eq!(
            (&claim["spec"]["volumeMode"], &claim["status"]["phase"]),
            (&json!("Filesystem"), &json!("Pending"))
        );
        assert_eq!(
            spec["template"]["spec"],
            json!({"containers": [{"name": "c", "image": "i:v1", "imagePullPolicy": "IfNotPresent", "resources": {},
                                   "terminationMessagePath": "/dev/termination-log", "terminationMessagePolicy": "File"}],
                   "dnsPolicy": "ClusterFirst", "restartPolicy": "Always", "schedulerName": "default-scheduler",
                   "securityContext": {}, "terminationGracePeriodSeconds": 30}),
            "no requests from limits and no service links in templates"
        );
        assert_eq!(value["status"], json!({"availableReplicas": 0, "replicas": 0}));
        let row = StatefulSets::row(&set, "1970-01-01T00:00:07Z".parse().unwrap());
        assert_eq!(json!(row), json!(["kubia", "0/1", "7s", "c", "i:v1"]));
        StatefulSets::set_scale(&mut set, 3);
        assert_eq!(StatefulSets::scale(&set), Some((3, 0, "app=kubia".to_owned())));
    }

    #[test]
    fn on_delete_has_no_rolling_update() {
        let mut set = object::<StatefulSet>(json!({"spec": {"updateStrategy": {"type": "OnDelete"}}}));
        StatefulSets::default(&mut set);
        let value = serde_json::to_value(&set).unwrap();
        assert_eq!(value["spec"]["updateStrategy"], json!({"type": "OnDelete"}));
    }
}
