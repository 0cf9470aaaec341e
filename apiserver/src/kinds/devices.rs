//! Dynamic resource allocation: DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice. Stored and served;
//! nothing allocates devices yet.

use super::shared::{cells, object_meta};
use super::{Column, Kind, Subresource};
use api::field::{Errors, Path};
use api::names;
use jiff::Timestamp;
use k8s_openapi::api::resource::v1::{
    DeviceClaim, DeviceClass, ResourceClaim, ResourceClaimTemplate, ResourceSlice,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use serde_json::Value;
use std::collections::BTreeSet;
use std::collections::HashSet;

/// Kubernetes' limits: what a scheduler can look through.
const SELECTORS_MAX: usize = 32;
const REQUESTS_MAX: usize = 32;
const CONSTRAINTS_MAX: usize = 32;
const CONFIGS_MAX: usize = 32;
const DEVICES_MAX: usize = 128;
const RESERVED_MAX: usize = 256;

fn at_most(count: Option<usize>, max: usize, path: &Path, errors: &mut Errors) {
    if let Some(count) = count.filter(|c| *c > max) {
        errors.too_many(path, count, max);
    }
}

pub(super) struct DeviceClasses;

impl Kind for DeviceClasses {
    type Object = DeviceClass;
    const PLURAL: &'static str = "deviceclasses";
    const SINGULAR: &'static str = "deviceclass";
    const RETURNS_DELETED: bool = true;
    const NAMESPACED: bool = false;

    fn validate(object: &DeviceClass) -> Errors {
        let (mut errors, path, spec) = (Errors::default(), Path::new("spec"), &object.spec);
        at_most(spec.selectors.as_ref().map(Vec::len), SELECTORS_MAX, &path.child("selectors"), &mut errors);
        at_most(spec.config.as_ref().map(Vec::len), CONFIGS_MAX, &path.child("config"), &mut errors);
        if let Some(name) = &spec.extended_resource_name {
            errors.invalid_each(&path.child("extendedResourceName"), name, names::qualified_name(name));
        }
        errors
    }

    fn validate_update(new: &DeviceClass, _: &DeviceClass) -> Errors {
        Self::validate(new)
    }

    fn generation_changed(new: &DeviceClass, old: &DeviceClass) -> Option<bool> {
        Some(new.spec != old.spec)
    }

    fn row(object: &DeviceClass, now: Timestamp) -> Vec<Value> {
        vec![cells::name(&object.metadata), cells::age(&object.metadata, now)]
    }
}

/// What is asked for: requests by name, constraints over them.
fn default_claim(claim: Option<&mut DeviceClaim>) {
    for request in claim.into_iter().flat_map(|c| c.requests.iter_mut().flatten()) {
        if let Some(exactly) = &mut request.exactly {
            exactly.allocation_mode.get_or_insert_with(|| "ExactCount".to_owned());
            if exactly.allocation_mode.as_deref() == Some("ExactCount") && exactly.count.unwrap_or(0) == 0 {
                exactly.count = Some(1);
            }
        }
        for sub in request.first_available.iter_mut().flatten() {
            sub.allocation_mode.get_or_insert_with(|| "ExactCount".to_owned());
            if sub.allocation_mode.as_deref() == Some("ExactCount") && sub.count.unwrap_or(0) == 0 {
                sub.count = Some(1);
            }
        }
    }
}

fn validate_claim(claim: Option<&DeviceClaim>, path: &Path, errors: &mut Errors) {
    let Some(claim) = claim else { return };
    let requests = claim.requests.as_deref().unwrap_or_default();
    at_most(Some(requests.len()), REQUESTS_MAX, &path.child("requests"), errors);
    at_most(claim.constraints.as_ref().map(Vec::len), CONSTRAINTS_MAX, &path.child("constraints"), errors);
    at_most(claim.config.as_ref().map(Vec::len), CONFIGS_MAX, &path.child("config"), errors);
    let mut seen = BTreeSet::new();
    for (i, request) in requests.iter().enumerate() {
        let path = path.child("requests").index(i);
        errors.invalid_each(&path.child("name"), &request.name, names::dns_label(&request.name));
        if !seen.insert(&request.name) {
            errors.duplicate(&path.child("name"), &request.name);
        }
        let alternatives = request.first_available.as_ref().is_some_and(|a| !a.is_empty());
        match (&request.exactly, alternatives) {
            (Some(_), true) => {
                errors.invalid(
                    &path,
                    request,
                    "exactly one of `exactly` or `firstAvailable` is required, but multiple fields are set",
                );
            }
            (None, false) => {
                errors.required(&path, "exactly one of `exactly` or `firstAvailable` is required");
            }
            (Some(exactly), false) => {
                let path = path.child("exactly");
                match exactly.device_class_name.as_str() {
                    "" => errors.required(&path.child("deviceClassName"), ""),
                    name => {
                        errors.invalid_each(&path.child("deviceClassName"), name, names::dns_subdomain(name))
                    }
                }
                match exactly.allocation_mode.as_deref() {
                    Some("ExactCount") if exactly.count.unwrap_or(0) <= 0 => {
                        errors.invalid(&path.child("count"), exactly.count, "must be greater than zero");
                    }
                    Some("ExactCount") => {}
                    Some("All") if exactly.count.unwrap_or(0) != 0 => {
                        let detail = "must not be specified when allocationMode is 'All'";
                        errors.invalid(&path.child("count"), exactly.count, detail);
                    }
                    Some("All") => {}
                    other => {
                        let mode = other.unwrap_or("");
                        errors.not_supported(&path.child("allocationMode"), mode, &["All", "ExactCount"]);
                    }
                }
            }
            (None, true) => {}
        }
    }
    let names: HashSet<&str> = requests.iter().map(|r| r.name.as_str()).collect();
    for (i, constraint) in claim.constraints.iter().flatten().enumerate() {
        let path = path.child("constraints").index(i).child("requests");
        for (i, name) in constraint.requests.iter().flatten().enumerate() {
            let main = name.split_once('/').map_or(name.as_str(), |(main, _)| main);
            if !names.contains(main) {
                errors.invalid(&path.index(i), name, "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'");
            }
        }
    }
}

pub(super) struct ResourceClaims;

impl Kind for ResourceClaims {
    type Object = ResourceClaim;
    const PLURAL: &'static str = "resourceclaims";
    const SINGULAR: &'static str = "resourceclaim";
    const RETURNS_DELETED: bool = true;
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status];
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new(
            "State",
            "string",
            0,
            "A summary of the current state (allocated, pending, reserved, etc.).",
        ),
        Column::age(),
    ];

    fn default(object: &mut ResourceClaim) {
        default_claim(object.spec.devices.as_mut());
    }

    fn prepare_create(object: &mut ResourceClaim) {
        object.status = Some(Default::default());
    }
    fn prepare_update(new: &mut ResourceClaim, old: &ResourceClaim) {
        new.status = old.status.clone();
    }
    fn prepare_status_update(new: &mut ResourceClaim, old: &ResourceClaim) {
        new.spec = old.spec.clone();
        object_meta::keep(&mut new.metadata, &old.metadata);
    }

    fn validate(object: &ResourceClaim) -> Errors {
        let mut errors = Errors::default();
        let path = Path::new("spec").child("devices");
        validate_claim(object.spec.devices.as_ref(), &path, &mut errors);
        errors
    }

    fn validate_update(new: &ResourceClaim, old: &ResourceClaim) -> Errors {
        let mut errors = Self::validate(new);
        object_meta::immutable(&new.spec, &old.spec, &Path::new("spec"), &mut errors);
        errors
    }

    fn validate_status_update(new: &ResourceClaim, old: &ResourceClaim) -> Errors {
        let (mut errors, path) = (Errors::default(), Path::new("status"));
        let status = new.status.clone().unwrap_or_default();
        let before = old.status.clone().unwrap_or_default();
        let reserved = status.reserved_for.unwrap_or_default();
        at_most(Some(reserved.len()), RESERVED_MAX, &path.child("reservedFor"), &mut errors);
        if !reserved.is_empty() && status.allocation.is_none() {
            let detail = "may not be specified when `allocated` is not set";
            errors.forbidden(&path.child("reservedFor"), detail);
        }
        if before.allocation.is_some() && status.allocation.is_some() {
            let path = path.child("allocation");
            object_meta::immutable(&status.allocation, &before.allocation, &path, &mut errors);
        }
        errors
    }

    fn row(object: &ResourceClaim, now: Timestamp) -> Vec<Value> {
        let status = object.status.clone().unwrap_or_default();
        let deleted = object.metadata.deletion_timestamp.is_some();
        let allocated = status.allocation.is_some();
        let states = [
            (deleted, "deleted"),
            (!deleted && !allocated, "pending"),
            (allocated, "allocated"),
            (allocated && status.reserved_for.is_some_and(|r| !r.is_empty()), "reserved"),
        ];
        let states: Vec<&str> = states.into_iter().filter(|s| s.0).map(|s| s.1).collect();
        vec![cells::name(&object.metadata), states.join(",").into(), cells::age(&object.metadata, now)]
    }
}

pub(super) struct ResourceClaimTemplates;

impl Kind for ResourceClaimTemplates {
    type Object = ResourceClaimTemplate;
    const PLURAL: &'static str = "resourceclaimtemplates";
    const SINGULAR: &'static str = "resourceclaimtemplate";
    const RETURNS_DELETED: bool = true;

    fn default(object: &mut ResourceClaimTemplate) {
        default_claim(object.spec.spec.devices.as_mut());
    }

    fn validate(object: &ResourceClaimTemplate) -> Errors {
        let mut errors = Errors::default();
        let path = Path::new("spec");
        let meta = object.spec.metadata.clone().unwrap_or_default();
        object_meta::labels(meta.labels.as_ref(), &path.child("metadata").child("labels"), &mut errors);
        let devices = path.child("spec").child("devices");
        validate_claim(object.spec.spec.devices.as_ref(), &devices, &mut errors);
        errors
    }

    fn validate_update(new: &ResourceClaimTemplate, old: &ResourceClaimTemplate) -> Errors {
        let mut errors = Self::validate(new);
        object_meta::immutable(&new.spec, &old.spec, &Path::new("spec"), &mut errors);
        errors
    }

    fn row(object: &ResourceClaimTemplate, now: Timestamp) -> Vec<Value> {
        vec![cells::name(&object.metadata), cells::age(&object.metadata, now)]
    }
}

pub(super) struct ResourceSlices;

impl Kind for ResourceSlices {
    type Object = ResourceSlice;
    const PLURAL: &'static str = "resourceslices";
    const SINGULAR: &'static str = "resourceslice";
    const RETURNS_DELETED: bool = true;
    const NAMESPACED: bool = false;
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("Node", "string", 0, "The node whose devices these are."),
        Column::new("Driver", "string", 0, "Who manages the devices."),
        Column::new("Pool", "string", 0, "The pool the slice is part of."),
        Column::age(),
    ];
    const SELECTABLE: &'static [&'static str] = &["spec.driver", "spec.nodeName"];

    fn default(object: &mut ResourceSlice) {
        let now = || Time(crate::registry::create::now());
        for taint in object.spec.devices.iter_mut().flatten().flat_map(|d| d.taints.iter_mut().flatten()) {
            taint.time_added.get_or_insert_with(now);
        }
    }

    fn validate(object: &ResourceSlice) -> Errors {
        let (mut errors, path, spec) = (Errors::default(), Path::new("spec"), &object.spec);
        match spec.driver.as_str() {
            "" => errors.required(&path.child("driver"), ""),
            name => errors.invalid_each(&path.child("driver"), name, names::dns_subdomain(name)),
        }
        let pool = path.child("pool");
        if spec.pool.name.is_empty() {
            errors.required(&pool.child("name"), "");
        }
        if spec.pool.resource_slice_count <= 0 {
            let count = spec.pool.resource_slice_count;
            errors.invalid(&pool.child("resourceSliceCount"), count, "must be greater than zero");
        }
        if spec.pool.generation < 0 {
            errors.invalid(
                &pool.child("generation"),
                spec.pool.generation,
                "must be greater than or equal to zero",
            );
        }
        let places = [
            spec.node_name.as_ref().is_some_and(|n| !n.is_empty()),
            spec.node_selector.is_some(),
            spec.all_nodes == Some(true),
            spec.per_device_node_selection == Some(true),
        ];
        let shared = spec.shared_counters.as_ref().is_some_and(|c| !c.is_empty());
        match places.into_iter().filter(|p| *p).count() {
            0 if shared => {}
            0 => errors.required(&path, "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"),
            1 => {}
            _ => errors.invalid(&path, "", "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required, but multiple fields are set"),
        }
        let devices = spec.devices.as_deref().unwrap_or_default();
        at_most(Some(devices.len()), DEVICES_MAX, &path.child("devices"), &mut errors);
        let mut seen = BTreeSet::new();
        for (i, device) in devices.iter().enumerate() {
            let path = path.child("devices").index(i).child("name");
            errors.invalid_each(&path, &device.name, names::dns_label(&device.name));
            if !seen.insert(&device.name) {
                errors.duplicate(&path, &device.name);
            }
        }
        errors
    }

    fn validate_update(new: &ResourceSlice, old: &ResourceSlice) -> Errors {
        let mut errors = Self::validate(new);
        let path = Path::new("spec");
        object_meta::immutable(&new.spec.driver, &old.spec.driver, &path.child("driver"), &mut errors);
        let pool = path.child("pool").child("name");
        object_meta::immutable(&new.spec.pool.name, &old.spec.pool.name, &pool, &mut errors);
        object_meta::immutable(
            &new.spec.node_name,
            &old.spec.node_name,
            &path.child("nodeName"),
            &mut errors,
        );
        errors
    }

    fn generation_changed(new: &ResourceSlice, old: &ResourceSlice) -> Option<bool> {
        Some(new.spec != old.spec)
    }

    fn row(object: &ResourceSlice, now: Timestamp) -> Vec<Value> {
        vec![
            cells::name(&object.metadata),
            cells::text(object.spec.node_name.as_ref()),
            object.spec.driver.clone().into(),
            object.spec.pool.name.clone().into(),
            cells::age(&object.metadata, now),
        ]
    }

    fn selectable_fields(object: &ResourceSlice) -> Vec<(&'static str, String)> {
        let node = object.spec.node_name.clone().unwrap_or_default();
        vec![("spec.driver", object.spec.driver.clone()), ("spec.nodeName", node)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{object, texts};
    use serde_json::json;

    #[test]
    fn claims_and_slices() {
        let claim = |requests: Value| -> ResourceClaim {
            let mut claim =
                object(json!({"metadata": {"name": "c"}, "spec": {"devices": {"requests": requests}}}));
            ResourceClaims::default(&mut claim);
            claim
        };
        let fine = claim(json!([{"name": "gpu", "exactly": {"deviceClassName": "gpu.io"}}]));
        assert!(texts(ResourceClaims::validate(&fine)).is_empty());
        assert_eq!(json!(fine)["spec"]["devices"]["requests"][0]["exactly"]["count"], 1);
        assert_eq!(ResourceClaims::row(&fine, Timestamp::UNIX_EPOCH)[1], "pending");
        assert_eq!(
            texts(ResourceClaims::validate(&claim(json!([{"name": "gpu"}, {"name": "gpu"}])))).len(),
            3
        );
        let slice =
            |spec: Value| -> ResourceSlice { object(json!({"metadata": {"name": "s"}, "spec": spec})) };
        let pool = json!({"name": "p", "generation": 1, "resourceSliceCount": 1});
        let fine = slice(json!({"driver": "d.io", "nodeName": "n", "pool": pool}));
        assert!(texts(ResourceSlices::validate(&fine)).is_empty());
        let time = "2026-11-23T01:00:00Z";
        let taints = json!([{"effect": "NoExecute", "key": "a"}, {"effect": "NoExecute", "key": "b", "timeAdded": time}]);
        let mut tainted = slice(json!({"driver": "d.io", "nodeName": "n", "pool": pool,
                                       "devices": [{"name": "d", "taints": taints}]}));
        ResourceSlices::default(&mut tainted);
        let taints = &json!(tainted)["spec"]["devices"][0]["taints"];
        assert!(taints[0]["timeAdded"].is_string());
        assert_eq!(taints[1]["timeAdded"], time);
        assert_eq!(texts(ResourceSlices::validate(&slice(json!({"driver": "d.io", "pool": pool})))).len(), 1);
    }
}
