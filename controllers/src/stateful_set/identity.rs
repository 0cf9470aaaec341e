//! Who a pod of a set is: name, ordinal, labels, host name, volumes and claims. Pure.
//!
//! <https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#pod-identity>

use api::owner;
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{PersistentVolumeClaim, PersistentVolumeClaimVolumeSource, Pod, PodTemplateSpec, Volume},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use std::collections::BTreeMap;

use crate::context::{name, namespace, uid};

pub const POD_NAME_LABEL: &str = "statefulset.kubernetes.io/pod-name";
pub const POD_INDEX_LABEL: &str = "apps.kubernetes.io/pod-index";
pub const REVISION_LABEL: &str = "controller-revision-hash";

/// The ordinal of a pod if its name is one that `set` gives: `kubia-0`, but not `kubia-00` or `other-0`.
pub fn ordinal_of(set: &StatefulSet, pod: &Pod) -> Option<i32> {
    let (parent, ordinal) = api::pod::parent_and_ordinal(name(&pod.metadata))?;
    (parent == name(&set.metadata) && pod_name(set, ordinal) == name(&pod.metadata)).then_some(ordinal)
}

pub fn pod_name(set: &StatefulSet, ordinal: i32) -> String {
    format!("{}-{ordinal}", name(&set.metadata))
}

/// The first ordinal: `spec.ordinals.start`.
pub fn start(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.ordinals.as_ref()?.start).unwrap_or(0)
}

/// The name of the revision a pod was made from.
pub fn revision_of(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|l| l.get(REVISION_LABEL)).map_or("", String::as_str)
}

fn templates(set: &StatefulSet) -> &[PersistentVolumeClaim] {
    set.spec.as_ref().and_then(|s| s.volume_claim_templates.as_deref()).unwrap_or_default()
}

pub fn claim_name(set: &StatefulSet, template: &str, ordinal: i32) -> String {
    format!("{template}-{}-{ordinal}", name(&set.metadata))
}

/// Names of the claims of one identity, in the order of the templates.
pub fn claim_names(set: &StatefulSet, ordinal: i32) -> Vec<String> {
    templates(set).iter().map(|t| claim_name(set, name(&t.metadata), ordinal)).collect()
}

/// The claims of one identity as they are created: the template with the set's `matchLabels` added.
pub fn claims(set: &StatefulSet, ordinal: i32) -> Vec<PersistentVolumeClaim> {
    let selected = set.spec.as_ref().and_then(|s| s.selector.match_labels.clone()).unwrap_or_default();
    templates(set)
        .iter()
        .map(|template| {
            let mut labels = template.metadata.labels.clone().unwrap_or_default();
            labels.extend(selected.clone());
            PersistentVolumeClaim {
                metadata: ObjectMeta {
                    name: Some(claim_name(set, name(&template.metadata), ordinal)),
                    namespace: set.metadata.namespace.clone(),
                    labels: (!labels.is_empty()).then_some(labels),
                    annotations: template.metadata.annotations.clone(),
                    ..ObjectMeta::default()
                },
                spec: template.spec.clone(),
                status: None,
            }
        })
        .collect()
}

/// A new pod with the identity of `ordinal`, from the template of `revision`.
pub fn new_pod(set: &StatefulSet, template: &PodTemplateSpec, revision: &str, ordinal: i32) -> Pod {
    let pod_name = pod_name(set, ordinal);
    let of_template = template.metadata.clone().unwrap_or_default();
    let mut labels = of_template.labels.unwrap_or_default();
    labels.extend(identity_labels(&pod_name, ordinal));
    labels.insert(REVISION_LABEL.to_owned(), revision.to_owned());
    let mut spec = template.spec.clone().unwrap_or_default();
    spec.hostname = Some(pod_name.clone());
    spec.subdomain = set.spec.as_ref().and_then(|s| s.service_name.clone()).filter(|s| !s.is_empty());
    let volumes = volumes(set, ordinal, spec.volumes.take().unwrap_or_default());
    spec.volumes = (!volumes.is_empty()).then_some(volumes);
    Pod {
        metadata: ObjectMeta {
            name: Some(pod_name),
            generate_name: Some(format!("{}-", name(&set.metadata))),
            namespace: set.metadata.namespace.clone(),
            labels: Some(labels),
            annotations: of_template.annotations,
            finalizers: of_template.finalizers,
            owner_references: Some(vec![owner::controller_ref(set)]),
            ..ObjectMeta::default()
        },
        spec: Some(spec),
        status: None,
    }
}

/// The labels that belong to an identity and are put back when they are lost.
pub fn identity_labels(pod_name: &str, ordinal: i32) -> BTreeMap<String, String> {
    BTreeMap::from([
        (POD_NAME_LABEL.to_owned(), pod_name.to_owned()),
        (POD_INDEX_LABEL.to_owned(), ordinal.to_string()),
    ])
}

/// Whether the pod carries the label by which services select one instance.
pub fn identity_matches(pod: &Pod) -> bool {
    pod.metadata.labels.as_ref().and_then(|l| l.get(POD_NAME_LABEL)).map(String::as_str)
        == pod.metadata.name.as_deref()
}

/// The volumes of an identity: one for each claim template, which replaces a volume of the same name in the template.
fn volumes(set: &StatefulSet, ordinal: i32, of_template: Vec<Volume>) -> Vec<Volume> {
    let of_claims = templates(set).iter().map(|template| Volume {
        name: name(&template.metadata).to_owned(),
        persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
            claim_name: claim_name(set, name(&template.metadata), ordinal),
            read_only: None,
        }),
        ..Volume::default()
    });
    let claimed = |volume: &Volume| templates(set).iter().any(|t| name(&t.metadata) == volume.name);
    of_claims.chain(of_template.into_iter().filter(|v| !claimed(v))).collect()
}

/// Whether the pod mounts the claims of its own identity and no others in their place.
pub fn storage_matches(set: &StatefulSet, pod: &Pod, ordinal: i32) -> bool {
    let volumes = pod.spec.as_ref().and_then(|s| s.volumes.as_deref()).unwrap_or_default();
    templates(set).iter().all(|template| {
        let template = name(&template.metadata);
        volumes.iter().any(|v| {
            v.name == template
                && v.persistent_volume_claim
                    .as_ref()
                    .is_some_and(|c| c.claim_name == claim_name(set, template, ordinal))
        })
    })
}

/// When a set deletes its claims: `spec.persistentVolumeClaimRetentionPolicy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Retention {
    pub delete_with_set: bool,
    pub delete_when_scaled: bool,
}

pub fn retention(set: &StatefulSet) -> Retention {
    let policy = set.spec.as_ref().and_then(|s| s.persistent_volume_claim_retention_policy.as_ref());
    let deletes = |value: Option<&String>| value.is_some_and(|v| v == "Delete");
    Retention {
        delete_with_set: deletes(policy.and_then(|p| p.when_deleted.as_ref())),
        delete_when_scaled: deletes(policy.and_then(|p| p.when_scaled.as_ref())),
    }
}

/// A claim is stale if it still waits to be deleted with an earlier pod of this name.
pub fn is_stale(set: &StatefulSet, claim: &PersistentVolumeClaim, pod_name: &str) -> bool {
    retention(set).delete_when_scaled
        && claim.metadata.owner_references.iter().flatten().any(|o| o.kind == "Pod" && o.name == pod_name)
}

/// The owner references a claim should have by the retention policy (KEP-1847), if they differ from those it has.
/// `scaled_down` says that the pod's ordinal is beyond the set's replicas.
///
/// | whenScaled | whenDeleted | owner |
/// |---|---|---|
/// | Retain | Retain | none |
/// | Retain | Delete | the set |
/// | Delete | Retain | the pod, once it is scaled down |
/// | Delete | Delete | the set; the pod, once it is scaled down |
pub fn claim_owners(
    set: &StatefulSet,
    pod: &Pod,
    claim: &PersistentVolumeClaim,
    scaled_down: bool,
) -> Option<Vec<OwnerReference>> {
    let refs = claim.metadata.owner_references.as_deref().unwrap_or_default();
    let names = |r: &OwnerReference, kind: &str, meta: &ObjectMeta| r.kind == kind && r.name == name(meta);
    let ours = |r: &OwnerReference| names(r, "StatefulSet", &set.metadata) || names(r, "Pod", &pod.metadata);
    let stale = refs.iter().any(|r| ours(r) && r.uid != uid(&set.metadata) && r.uid != uid(&pod.metadata));
    if stale {
        // It belongs to an earlier set or pod of this name; the garbage collector decides about it.
        return None;
    }
    let policy = retention(set);
    let foreign_controller = refs.iter().any(|r| r.controller == Some(true) && !ours(r))
        && (policy.delete_when_scaled || policy.delete_with_set);
    let wanted = if foreign_controller {
        None
    } else if policy.delete_when_scaled && scaled_down {
        Some(owner::controller_ref(pod))
    } else if policy.delete_with_set && !(policy.delete_when_scaled && scaled_down) {
        Some(owner::controller_ref(set))
    } else {
        None
    };
    let mut new: Vec<OwnerReference> = refs.iter().filter(|r| !ours(r)).cloned().collect();
    new.extend(wanted);
    let same = new.len() == refs.len() && new.iter().all(|r| refs.contains(r));
    (!same).then_some(new)
}

/// Whether `pod` can be a member: it has a name of the set and is in its namespace.
pub fn is_member(set: &StatefulSet, pod: &Pod) -> bool {
    namespace(&set.metadata) == namespace(&pod.metadata) && ordinal_of(set, pod).is_some()
}
