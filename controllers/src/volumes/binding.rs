//! Which volume suits which claim, and what each should look like: pure.
//!
//! The rules are those of Kubernetes' persistent volume controller: a claim and a volume are bound when each names
//! the other, the volume first; a volume is bound to one claim for good (its UID), and never handed to a second.

use api::{quantity, selector::Selector};
use client::Guard;
use k8s_openapi::api::{
    core::v1::{ObjectReference, PersistentVolume, PersistentVolumeClaim},
    storage::v1::StorageClass,
};
use std::sync::Arc;

/// What the built-in provisioner is called in storage classes.
pub const PROVISIONER: &str = "minik8s.io/host-path";
pub const DEFAULT_CLASS: &str = "storageclass.kubernetes.io/is-default-class";
pub const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
pub const BOUND_BY_CONTROLLER: &str = "pv.kubernetes.io/bound-by-controller";
pub const PROVISIONED_BY: &str = "pv.kubernetes.io/provisioned-by";
pub const CLAIM_PROVISIONER: &str = "volume.kubernetes.io/storage-provisioner";

/// What must happen to a claim next.
#[derive(Debug, Clone, PartialEq)]
pub enum ClaimPlan {
    /// Each names the other already, or will when both have been written: make it so.
    Bind { volume: String },
    /// Make a volume for it.
    Provision { class: Arc<StorageClass> },
    /// Nothing to do but say why, once per reason (`Normal` or `Warning`, reason, message).
    Wait { event: Option<(&'static str, &'static str, String)> },
    /// Its volume is gone or another's: the data is lost to it.
    Lost { reason: &'static str, message: String },
}

/// What must happen to a volume next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VolumePlan {
    /// Only the phase may need writing.
    Phase(&'static str),
    /// Its claim is gone: remove the data and the object.
    Reclaim,
    /// We reserved it for a claim that got another one: it is free again.
    GiveBack,
}

/// What a claim sees of the cluster.
pub struct View<'a> {
    pub volumes: &'a [Arc<PersistentVolume>],
    pub class: Option<Arc<StorageClass>>,
    /// Whether some pod uses the claim (`WaitForFirstConsumer` waits for one).
    pub in_use: bool,
}

/// Decides what becomes of `claim`.
pub fn plan_claim(claim: &PersistentVolumeClaim, view: &View<'_>) -> ClaimPlan {
    let spec = claim.spec.clone().unwrap_or_default();
    if let Some(name) = spec.volume_name.as_deref().filter(|n| !n.is_empty()) {
        return plan_named(claim, name, view);
    }
    let class_name = spec.storage_class_name.as_deref().unwrap_or("");
    let waits_for_pod =
        view.class.as_ref().is_some_and(|c| c.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"));
    if waits_for_pod && !view.in_use && reserved_for(claim, view.volumes).is_none() {
        let text = "waiting for first consumer to be created before binding".to_owned();
        return ClaimPlan::Wait { event: Some(("Normal", "WaitForFirstConsumer", text)) };
    }
    if let Some(volume) = find(claim, view.volumes) {
        return ClaimPlan::Bind { volume };
    }
    if class_name.is_empty() {
        let text = "no persistent volumes available for this claim and no storage class is set".to_owned();
        return ClaimPlan::Wait { event: Some(("Normal", "FailedBinding", text)) };
    }
    let failed = |text: String| ClaimPlan::Wait { event: Some(("Warning", "ProvisioningFailed", text)) };
    match &view.class {
        None => failed(format!("storageclass.storage.k8s.io {class_name:?} not found")),
        Some(class) if class.provisioner == "kubernetes.io/no-provisioner" => {
            let text =
                "no persistent volumes available for this claim and its storage class makes none".to_owned();
            ClaimPlan::Wait { event: Some(("Normal", "FailedBinding", text)) }
        }
        Some(class) if class.provisioner != PROVISIONER => {
            let text = format!(
                "Waiting for a volume to be created either by the external provisioner '{}' or manually by the system \
                 administrator. If volume creation is delayed, please verify that the provisioner is running and \
                 correctly registered.",
                class.provisioner
            );
            ClaimPlan::Wait { event: Some(("Normal", "ExternalProvisioning", text)) }
        }
        Some(_) if spec.selector.is_some() => {
            failed("claim.Spec.Selector is not supported by the provisioner".into())
        }
        Some(_) if spec.volume_mode.as_deref() == Some("Block") => {
            failed("volumeMode Block is not supported: the provisioner makes directories".into())
        }
        Some(_) if spec.data_source.is_some() || spec.data_source_ref.is_some() => {
            failed("dataSource is not supported by the provisioner".into())
        }
        Some(class) => ClaimPlan::Provision { class: Arc::clone(class) },
    }
}

/// A claim that names its volume: by a person, or because it was bound before.
fn plan_named(claim: &PersistentVolumeClaim, name: &str, view: &View<'_>) -> ClaimPlan {
    let completed = annotation(claim.metadata.annotations.as_ref(), BIND_COMPLETED).is_some();
    let Some(volume) = view.volumes.iter().find(|v| v.metadata.name.as_deref() == Some(name)) else {
        if completed {
            let message = "Bound claim has lost its PersistentVolume. Data on the volume is lost!".to_owned();
            return ClaimPlan::Lost { reason: "ClaimLost", message };
        }
        return ClaimPlan::Wait { event: None };
    };
    match volume.spec.as_ref().and_then(|s| s.claim_ref.as_ref()) {
        None if completed => {
            let message =
                "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!".to_owned();
            ClaimPlan::Lost { reason: "ClaimLost", message }
        }
        None => match mismatch(claim, volume) {
            Some(why) => {
                let text = format!("Cannot bind to requested volume {name:?}: {why}");
                ClaimPlan::Wait { event: Some(("Warning", "VolumeMismatch", text)) }
            }
            None => ClaimPlan::Bind { volume: name.to_owned() },
        },
        Some(reference) if names(reference, claim) => ClaimPlan::Bind { volume: name.to_owned() },
        Some(_) if completed => {
            let message = "Two claims are bound to the same volume, this one is bound incorrectly".to_owned();
            ClaimPlan::Lost { reason: "ClaimMisbound", message }
        }
        Some(_) => {
            let text = format!("volume {name:?} already bound to a different claim.");
            ClaimPlan::Wait { event: Some(("Warning", "FailedBinding", text)) }
        }
    }
}

/// Decides the phase of `volume`, or that it is to be reclaimed. `claim` is the object its `claimRef` names, if it lives.
pub fn plan_volume(volume: &PersistentVolume, claim: Option<&PersistentVolumeClaim>) -> VolumePlan {
    let spec = volume.spec.clone().unwrap_or_default();
    let Some(reference) = &spec.claim_ref else { return VolumePlan::Phase("Available") };
    if reference.uid.as_deref().unwrap_or("").is_empty() {
        // Reserved by a person for a claim that has not come for it yet.
        return VolumePlan::Phase("Available");
    }
    if let Some(claim) = claim.filter(|c| names(reference, c)) {
        // What a claim names once it names for good.
        let named =
            claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).filter(|name| !name.is_empty());
        let elsewhere = named.is_some_and(|name| volume.metadata.name.as_deref() != Some(name));
        let annotations = volume.metadata.annotations.as_ref();
        let reserved_by_us = annotation(annotations, BOUND_BY_CONTROLLER).is_some()
            && annotation(annotations, PROVISIONED_BY).is_none();
        let give_back = elsewhere && reserved_by_us && Guard::GiveBack.holds();
        return if give_back { VolumePlan::GiveBack } else { VolumePlan::Phase("Bound") };
    }
    match spec.persistent_volume_reclaim_policy.as_deref() {
        Some("Delete") => VolumePlan::Reclaim,
        _ => VolumePlan::Phase("Released"),
    }
}

/// Whether the reference means this very claim; a reference without UID means any of that name.
pub fn names(reference: &ObjectReference, claim: &PersistentVolumeClaim) -> bool {
    let same_uid = match reference.uid.as_deref() {
        None | Some("") => true,
        uid => uid == claim.metadata.uid.as_deref(),
    };
    same_uid && reference.name == claim.metadata.name && reference.namespace == claim.metadata.namespace
}

fn reserved_for(claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>]) -> Option<String> {
    volumes
        .iter()
        .find(|v| v.spec.as_ref().and_then(|s| s.claim_ref.as_ref()).is_some_and(|r| names(r, claim)))
        .and_then(|v| v.metadata.name.clone())
}

/// The volume reserved for the claim, else the smallest free one that suits it.
fn find(claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>]) -> Option<String> {
    reserved_for(claim, volumes).or_else(|| {
        volumes
            .iter()
            .filter(|v| v.spec.as_ref().is_some_and(|s| s.claim_ref.is_none()))
            .filter(|v| v.metadata.deletion_timestamp.is_none())
            .filter(|v| mismatch(claim, v).is_none() && selected(claim, v))
            .min_by_key(|v| (capacity(v), v.metadata.name.clone()))
            .and_then(|v| v.metadata.name.clone())
    })
}

fn selected(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> bool {
    let Some(wanted) = claim.spec.as_ref().and_then(|s| s.selector.as_ref()) else { return true };
    let labels = volume.metadata.labels.clone().unwrap_or_default();
    Selector::from_label_selector(Some(wanted)).is_ok_and(|s| s.matches(&labels))
}

/// Why the volume cannot serve the claim; `None` if it can.
fn mismatch(claim: &PersistentVolumeClaim, volume: &PersistentVolume) -> Option<&'static str> {
    let want = claim.spec.as_ref()?;
    let Some(have) = volume.spec.as_ref() else { return Some("the volume has no spec") };
    let class = |c: &Option<String>| c.clone().unwrap_or_default();
    if class(&want.storage_class_name) != class(&have.storage_class_name) {
        return Some("storageClassName does not match");
    }
    let mode = |m: &Option<String>| m.clone().unwrap_or_else(|| "Filesystem".to_owned());
    if mode(&want.volume_mode) != mode(&have.volume_mode) {
        return Some("incompatible volumeMode");
    }
    let offered = have.access_modes.as_deref().unwrap_or_default();
    if !want.access_modes.as_deref().unwrap_or_default().iter().all(|m| offered.contains(m)) {
        return Some("incompatible accessMode");
    }
    if requested(claim) > capacity(volume) {
        return Some("requested PV is too small");
    }
    None
}

/// What the claim asks for, in bytes rounded up.
pub fn requested(claim: &PersistentVolumeClaim) -> i64 {
    let requests = claim.spec.as_ref().and_then(|s| s.resources.as_ref()).and_then(|r| r.requests.as_ref());
    quantity::of(requests.and_then(|r| r.get("storage"))).value()
}

fn capacity(volume: &PersistentVolume) -> i64 {
    quantity::of(volume.spec.as_ref().and_then(|s| s.capacity.as_ref()).and_then(|c| c.get("storage")))
        .value()
}

/// An annotation's value.
pub fn annotation<'a>(
    annotations: Option<&'a std::collections::BTreeMap<String, String>>,
    key: &str,
) -> Option<&'a str> {
    annotations.and_then(|a| a.get(key)).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, from_value, json};

    fn claim(extra: Value) -> PersistentVolumeClaim {
        let mut object = json!({
            "metadata": {"name": "data", "namespace": "ns", "uid": "claim-1"},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "standard",
                     "resources": {"requests": {"storage": "1Gi"}}},
        });
        json_patch::merge(&mut object, &extra);
        from_value(object).unwrap()
    }

    fn volume(name: &str, size: &str, extra: Value) -> Arc<PersistentVolume> {
        let mut object = json!({
            "metadata": {"name": name, "labels": {"disk": name}},
            "spec": {"accessModes": ["ReadWriteOnce"], "storageClassName": "standard", "capacity": {"storage": size}},
        });
        json_patch::merge(&mut object, &extra);
        Arc::new(from_value(object).unwrap())
    }

    fn class(provisioner: &str, mode: &str) -> Option<Arc<StorageClass>> {
        Some(Arc::new(from_value(json!({"provisioner": provisioner, "volumeBindingMode": mode})).unwrap()))
    }

    fn plan(claim: &PersistentVolumeClaim, volumes: &[Arc<PersistentVolume>]) -> ClaimPlan {
        plan_claim(claim, &View { volumes, class: class(PROVISIONER, "Immediate"), in_use: false })
    }

    fn bind(name: &str) -> ClaimPlan {
        ClaimPlan::Bind { volume: name.to_owned() }
    }

    #[test]
    fn the_smallest_suitable_free_volume_is_taken() {
        let volumes = [
            volume("small", "500Mi", json!({})),
            volume("big", "5Gi", json!({})),
            volume("fits", "1Gi", json!({})),
            volume("block", "1Gi", json!({"spec": {"volumeMode": "Block"}})),
            volume("other-class", "1Gi", json!({"spec": {"storageClassName": "fast"}})),
            volume("read-only", "1Gi", json!({"spec": {"accessModes": ["ReadOnlyMany"]}})),
            volume(
                "taken",
                "1Gi",
                json!({"spec": {"claimRef": {"name": "x", "namespace": "ns", "uid": "u"}}}),
            ),
        ];
        assert_eq!(plan(&claim(json!({})), &volumes), bind("fits"));
        let selects_big = claim(json!({"spec": {"selector": {"matchLabels": {"disk": "big"}}}}));
        assert_eq!(plan(&selects_big, &volumes), bind("big"));
    }

    #[test]
    fn a_reserved_volume_comes_first_and_a_stranger_does_not_get_it() {
        let reserved =
            volume("mine", "5Gi", json!({"spec": {"claimRef": {"name": "data", "namespace": "ns"}}}));
        let free = volume("free", "1Gi", json!({}));
        assert_eq!(plan(&claim(json!({})), &[free.clone(), reserved.clone()]), bind("mine"));
        let stranger = claim(json!({"metadata": {"name": "other", "uid": "claim-2"}}));
        assert_eq!(plan(&stranger, &[free, reserved]), bind("free"));
    }

    #[test]
    fn without_a_volume_the_class_decides() {
        assert!(matches!(plan(&claim(json!({})), &[]), ClaimPlan::Provision { .. }));
        let why = |claim: PersistentVolumeClaim, class, in_use| match plan_claim(
            &claim,
            &View { volumes: &[], class, in_use },
        ) {
            ClaimPlan::Wait { event: Some((_, reason, _)) } => reason,
            other => panic!("{other:?}"),
        };
        assert_eq!(why(claim(json!({"spec": {"storageClassName": ""}})), None, true), "FailedBinding");
        assert_eq!(why(claim(json!({})), None, true), "ProvisioningFailed");
        assert_eq!(
            why(claim(json!({})), class("ebs.csi.aws.com", "Immediate"), true),
            "ExternalProvisioning"
        );
        assert_eq!(
            why(claim(json!({})), class(PROVISIONER, "WaitForFirstConsumer"), false),
            "WaitForFirstConsumer"
        );
        assert_eq!(
            why(claim(json!({"spec": {"volumeMode": "Block"}})), class(PROVISIONER, "Immediate"), true),
            "ProvisioningFailed"
        );
    }

    #[test]
    fn a_bound_claim_stays_with_its_volume_and_is_lost_without_it() {
        let bound =
            claim(json!({"metadata": {"annotations": {BIND_COMPLETED: "yes"}}, "spec": {"volumeName": "v"}}));
        let reference =
            |uid: &str| json!({"spec": {"claimRef": {"name": "data", "namespace": "ns", "uid": uid}}});
        assert_eq!(plan(&bound, &[volume("v", "1Gi", reference("claim-1"))]), bind("v"));
        assert!(matches!(plan(&bound, &[]), ClaimPlan::Lost { reason: "ClaimLost", .. }));
        let stolen = volume("v", "1Gi", reference("other"));
        assert!(matches!(plan(&bound, &[stolen]), ClaimPlan::Lost { reason: "ClaimMisbound", .. }));
    }

    #[test]
    fn a_volume_is_reclaimed_only_when_its_own_claim_is_gone() {
        let with = |policy: &str, uid: &str| {
            volume(
                "v",
                "1Gi",
                json!({"spec": {"persistentVolumeReclaimPolicy": policy,
                "claimRef": {"name": "data", "namespace": "ns", "uid": uid}}}),
            )
        };
        let live = claim(json!({}));
        assert_eq!(plan_volume(&volume("v", "1Gi", json!({})), None), VolumePlan::Phase("Available"));
        assert_eq!(plan_volume(&with("Delete", ""), None), VolumePlan::Phase("Available"));
        assert_eq!(plan_volume(&with("Delete", "claim-1"), Some(&live)), VolumePlan::Phase("Bound"));
        assert_eq!(plan_volume(&with("Delete", "claim-1"), None), VolumePlan::Reclaim);
        assert_eq!(
            plan_volume(&with("Delete", "older"), Some(&live)),
            VolumePlan::Reclaim,
            "a new claim of the name"
        );
        assert_eq!(plan_volume(&with("Retain", "claim-1"), None), VolumePlan::Phase("Released"));
    }

    #[test]
    fn a_volume_reserved_for_a_claim_that_got_another_is_given_back() {
        let check = |annotations: serde_json::Value, volume_name: Option<&str>, expected: VolumePlan| {
            let held = volume(
                "v",
                "1Gi",
                json!({"metadata": {"annotations": annotations},
                "spec": {"claimRef": {"name": "data", "namespace": "ns", "uid": "claim-1"}}}),
            );
            let mut claim = claim(json!({}));
            claim.spec.get_or_insert_default().volume_name = volume_name.map(str::to_owned);
            assert_eq!(plan_volume(&held, Some(&claim)), expected, "{annotations} {volume_name:?}");
        };
        let ours = json!({BOUND_BY_CONTROLLER: "yes"});
        check(ours.clone(), None, VolumePlan::Phase("Bound"));
        check(ours.clone(), Some(""), VolumePlan::Phase("Bound"));
        check(ours.clone(), Some("v"), VolumePlan::Phase("Bound"));
        check(ours, Some("other"), VolumePlan::GiveBack);
        check(json!({}), Some("other"), VolumePlan::Phase("Bound")); // A person's doing.
        let made = json!({BOUND_BY_CONTROLLER: "yes", PROVISIONED_BY: PROVISIONER});
        check(made, Some("other"), VolumePlan::Phase("Bound"));
    }
}
