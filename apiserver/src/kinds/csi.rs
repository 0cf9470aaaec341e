//! What CSI drivers say about themselves: CSIDriver, CSINode, CSIStorageCapacity. Stored and served for drivers and
//! tools that keep them; volumes here are directories.

use super::shared::{cells, label_selector, object_meta, pod_template, repeats};
use super::{Column, Kind};
use api::field::{Errors, Path};
use api::names;
use api::quantity;
use jiff::Timestamp;
use k8s_openapi::api::storage::v1::{CSIDriver, CSIDriverSpec, CSINode, CSIStorageCapacity};
use serde_json::Value;
use std::collections::BTreeSet;

const DRIVER_NAME_MAX: usize = 63;
const NODE_ID_MAX: usize = 192;
/// Shortest and longest life of a token, in seconds.
const TOKEN_SECONDS: (i64, i64) = (600, 1 << 32);
/// More often than this nobody may ask a driver for its limits.
const MIN_UPDATE_SECONDS: i64 = 10;

fn driver_name(name: &str, path: &Path, errors: &mut Errors) {
    if name.is_empty() {
        return errors.required(path, "");
    }
    if name.len() > DRIVER_NAME_MAX {
        errors.too_long(path, DRIVER_NAME_MAX);
    }
    errors.invalid_each(path, name, names::dns_subdomain(&name.to_lowercase()));
}

pub(super) struct CsiDrivers;

impl Kind for CsiDrivers {
    type Object = CSIDriver;
    const PLURAL: &'static str = "csidrivers";
    const SINGULAR: &'static str = "csidriver";
    const UNCONDITIONAL_UPDATE: bool = false;
    const NAMESPACED: bool = false;
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("AttachRequired", "boolean", 0, "Whether volumes are attached before they are mounted."),
        Column::new("PodInfoOnMount", "boolean", 0, "Whether the driver is told about the pod."),
        Column::new("StorageCapacity", "boolean", 0, "Whether pods are scheduled by reported capacity."),
        Column::new("TokenRequests", "string", 0, "Audiences of the tokens the driver is given."),
        Column::new("RequiresRepublish", "boolean", 0, "Whether volumes are published again and again."),
        Column::new("Modes", "string", 0, "How long volumes live."),
        Column::age(),
    ];
    const RETURNS_DELETED: bool = true;

    fn default(object: &mut CSIDriver) {
        let spec = &mut object.spec;
        spec.attach_required.get_or_insert(true);
        for flag in [
            &mut spec.pod_info_on_mount,
            &mut spec.storage_capacity,
            &mut spec.requires_republish,
            &mut spec.se_linux_mount,
        ] {
            flag.get_or_insert(false);
        }
        spec.fs_group_policy.get_or_insert_with(|| "ReadWriteOnceWithFSType".to_owned());
        if spec.volume_lifecycle_modes.as_ref().is_none_or(|m| m.is_empty()) {
            spec.volume_lifecycle_modes = Some(vec!["Persistent".to_owned()]);
        }
    }

    fn warnings(object: &CSIDriver) -> Vec<String> {
        let spec = &object.spec;
        let asks = spec.token_requests.as_ref().is_some_and(|r| !r.is_empty());
        let unset = asks && spec.service_account_token_in_secrets.is_none();
        let text = "spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent \
                    possible logging of tokens in volume attributes";
        unset.then(|| text.to_owned()).into_iter().collect()
    }

    fn validate(object: &CSIDriver) -> Errors {
        let mut errors = Errors::default();
        validate_driver(&object.spec, &Path::new("spec"), &mut errors);
        errors
    }

    fn validate_update(new: &CSIDriver, old: &CSIDriver) -> Errors {
        let mut errors = Self::validate(new);
        let (new, old, path) = (&new.spec, &old.spec, Path::new("spec"));
        let attach = path.child("attachedRequired");
        object_meta::immutable(new.attach_required, old.attach_required, &attach, &mut errors);
        let modes = path.child("volumeLifecycleModes");
        object_meta::immutable(&new.volume_lifecycle_modes, &old.volume_lifecycle_modes, &modes, &mut errors);
        errors
    }

    fn row(object: &CSIDriver, now: Timestamp) -> Vec<Value> {
        let spec = &object.spec;
        let audiences = spec
            .token_requests
            .as_ref()
            .map(|all| all.iter().map(|t| t.audience.as_str()).collect::<Vec<_>>().join(","));
        let modes = spec.volume_lifecycle_modes.as_deref().unwrap_or_default().join(",");
        vec![
            cells::name(&object.metadata),
            spec.attach_required.unwrap_or(true).into(),
            spec.pod_info_on_mount.unwrap_or(false).into(),
            spec.storage_capacity.unwrap_or(false).into(),
            audiences.unwrap_or_else(|| "<unset>".to_owned()).into(),
            spec.requires_republish.unwrap_or(false).into(),
            cells::text_or(Some(&modes), "<none>").into(),
            cells::age(&object.metadata, now),
        ]
    }
}

fn validate_driver(spec: &CSIDriverSpec, path: &Path, errors: &mut Errors) {
    let policies = ["File", "None", "ReadWriteOnceWithFSType"];
    if let Some(policy) = spec.fs_group_policy.as_deref().filter(|p| !policies.contains(p)) {
        errors.not_supported(&path.child("fsGroupPolicy"), policy, &policies);
    }
    let mut audiences = BTreeSet::new();
    for (i, token) in spec.token_requests.iter().flatten().enumerate() {
        let path = path.child("tokenRequests").index(i);
        if !audiences.insert(&token.audience) {
            errors.duplicate(&path.child("audience"), &token.audience);
        }
        match token.expiration_seconds {
            Some(seconds) if seconds < TOKEN_SECONDS.0 => {
                let detail = "may not specify a duration less than 10 minutes";
                errors.invalid(&path.child("expirationSeconds"), seconds, detail);
            }
            Some(seconds) if seconds > TOKEN_SECONDS.1 => {
                let detail = "may not specify a duration larger than 2^32 seconds";
                errors.invalid(&path.child("expirationSeconds"), seconds, detail);
            }
            _ => {}
        }
    }
    for mode in spec.volume_lifecycle_modes.iter().flatten() {
        if !["Persistent", "Ephemeral"].contains(&mode.as_str()) {
            errors.not_supported(&path.child("volumeLifecycleModes"), mode, &["Persistent", "Ephemeral"]);
        }
    }
    if let Some(seconds) = spec.node_allocatable_update_period_seconds.filter(|s| *s < MIN_UPDATE_SECONDS) {
        let detail = format!("must be greater than or equal to {MIN_UPDATE_SECONDS} seconds");
        errors.invalid(&path.child("nodeAllocatableUpdatePeriodSeconds"), seconds, detail);
    }
    if spec.service_account_token_in_secrets.is_some() && audiences.is_empty() {
        let detail = "serviceAccountTokenInSecrets is set but no tokenRequests are specified";
        errors.invalid(&path.child("serviceAccountTokenInSecrets"), true, detail);
    }
}

pub(super) struct CsiNodes;

impl Kind for CsiNodes {
    type Object = CSINode;
    const PLURAL: &'static str = "csinodes";
    const SINGULAR: &'static str = "csinode";
    const UNCONDITIONAL_UPDATE: bool = false;
    const NAMESPACED: bool = false;
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new(
            "Drivers",
            "integer",
            0,
            "Drivers indicates the number of CSI drivers registered on the node",
        ),
        Column::age(),
    ];
    const RETURNS_DELETED: bool = true;

    fn validate(object: &CSINode) -> Errors {
        let (mut errors, mut seen) = (Errors::default(), BTreeSet::new());
        for (i, driver) in object.spec.drivers.iter().enumerate() {
            let path = Path::new("spec").child("drivers").index(i);
            driver_name(&driver.name, &path.child("name"), &mut errors);
            if !seen.insert(&driver.name) {
                errors.duplicate(&path.child("name"), &driver.name);
            }
            if driver.node_id.is_empty() {
                errors.required(&path.child("nodeID"), "");
            } else if driver.node_id.len() > NODE_ID_MAX {
                let detail = format!("must be {NODE_ID_MAX} characters or less");
                errors.invalid(&path.child("nodeID"), &driver.node_id, detail);
            }
            let count = driver.allocatable.as_ref().and_then(|a| a.count);
            pod_template::not_negative([("count", count)], &path.child("allocatable"), &mut errors);
            let keys = driver.topology_keys.as_deref().unwrap_or_default();
            for (key, again) in keys.iter().zip(repeats(keys)) {
                if again {
                    errors.duplicate(&path, key);
                }
                errors.invalid_each(&path, key, names::qualified_name(key));
            }
        }
        errors
    }

    fn validate_update(new: &CSINode, old: &CSINode) -> Errors {
        let mut errors = Self::validate(new);
        for before in &old.spec.drivers {
            for driver in new.spec.drivers.iter().filter(|d| d.name == before.name) {
                // What a node can hold may change; who it is may not.
                let mut wanted = before.clone();
                wanted.allocatable = driver.allocatable.clone();
                let path = Path::new("spec").child("drivers");
                object_meta::immutable(driver, &wanted, &path, &mut errors);
            }
        }
        errors
    }

    fn row(object: &CSINode, now: Timestamp) -> Vec<Value> {
        vec![
            cells::name(&object.metadata),
            object.spec.drivers.len().into(),
            cells::age(&object.metadata, now),
        ]
    }
}

pub(super) struct CsiStorageCapacities;

impl Kind for CsiStorageCapacities {
    type Object = CSIStorageCapacity;
    const PLURAL: &'static str = "csistoragecapacities";
    const SINGULAR: &'static str = "csistoragecapacity";
    const UNCONDITIONAL_UPDATE: bool = false;
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("StorageClassName", "string", 0, "The class the capacity is reported for."),
        Column::new("Capacity", "string", 0, "What a driver has left in this part of the topology."),
    ];

    fn validate(object: &CSIStorageCapacity) -> Errors {
        let mut errors = Errors::default();
        if let Some(topology) = &object.node_topology {
            label_selector::validate(topology, &Path::new("nodeTopology"), &mut errors);
        }
        let class = &object.storage_class_name;
        errors.invalid_each(&Path::new("storageClassName"), class, names::dns_subdomain(class));
        if let Some(capacity) = object.capacity.as_ref().filter(|c| quantity::of(Some(c)).is_negative()) {
            errors.invalid(&Path::new("capacity"), &capacity.0, pod_template::NEGATIVE);
        }
        errors
    }

    fn validate_update(new: &CSIStorageCapacity, old: &CSIStorageCapacity) -> Errors {
        let mut errors = Self::validate(new);
        let topology = Path::new("nodeTopology");
        object_meta::immutable(&new.node_topology, &old.node_topology, &topology, &mut errors);
        let class = Path::new("storageClassName");
        object_meta::immutable(&new.storage_class_name, &old.storage_class_name, &class, &mut errors);
        errors
    }

    fn row(object: &CSIStorageCapacity, _: Timestamp) -> Vec<Value> {
        vec![
            cells::name(&object.metadata),
            object.storage_class_name.clone().into(),
            object.capacity.as_ref().map_or("<unset>", |c| c.0.as_str()).into(),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{at, object, texts};
    use serde_json::json;

    #[test]
    fn drivers() {
        let driver = |spec: Value| -> CSIDriver {
            let mut driver =
                object(json!({"metadata": {"name": "d.io", "creationTimestamp": at(0)}, "spec": spec}));
            CsiDrivers::default(&mut driver);
            driver
        };
        let fine = driver(json!({}));
        assert!(texts(CsiDrivers::validate(&fine)).is_empty());
        let row = CsiDrivers::row(&fine, "1970-01-01T00:00:07Z".parse().unwrap());
        assert_eq!(json!(row), json!(["d.io", true, false, false, "<unset>", false, "Persistent", "7s"]));
        let bad = driver(
            json!({"fsGroupPolicy": "Maybe", "tokenRequests": [{"audience": "a", "expirationSeconds": 1}]}),
        );
        assert_eq!(texts(CsiDrivers::validate(&bad)).len(), 2);
        assert_eq!(
            texts(CsiDrivers::validate_update(&driver(json!({"attachRequired": false})), &fine)).len(),
            1
        );
    }

    #[test]
    fn nodes_and_capacities() {
        let node = |drivers: Value| -> CSINode {
            object(json!({"metadata": {"name": "n"}, "spec": {"drivers": drivers}}))
        };
        let one = node(json!([{"name": "d.io", "nodeID": "1"}]));
        assert!(texts(CsiNodes::validate(&one)).is_empty());
        let grown = node(json!([{"name": "d.io", "nodeID": "1", "allocatable": {"count": 3}}]));
        assert!(texts(CsiNodes::validate_update(&grown, &one)).is_empty());
        assert_eq!(
            texts(CsiNodes::validate_update(&node(json!([{"name": "d.io", "nodeID": "2"}])), &one)).len(),
            1
        );
        assert_eq!(texts(CsiNodes::validate(&node(json!([{"name": "", "nodeID": ""}])))).len(), 2);
        let capacity: CSIStorageCapacity = object(json!({"storageClassName": "fast", "capacity": "-1"}));
        assert_eq!(texts(CsiStorageCapacities::validate(&capacity)).len(), 1);
    }
}
