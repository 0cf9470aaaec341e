//! What a pod's claims mean for its node: they must be bound, and the volumes reachable. Pure.

use crate::context::{name, namespace, uid};
use api::owner;
use k8s_openapi::api::{
    core::v1::{NodeSelector, PersistentVolume, PersistentVolumeClaim, Pod},
    storage::v1::StorageClass,
};
use std::sync::Arc;

/// Set by whoever binds a claim, after both sides are written.
const BIND_COMPLETED: &str = "pv.kubernetes.io/bind-completed";
/// Tells the provisioner of a class with `WaitForFirstConsumer` where the consumer will be.
pub const SELECTED_NODE: &str = "volume.kubernetes.io/selected-node";

/// Where claims, volumes and classes are looked up.
pub trait Lookup {
    fn claim(&self, namespace: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>>;
    fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>>;
    fn class(&self, name: &str) -> Option<Arc<StorageClass>>;
}

#[derive(Debug, Default)]
pub struct Volumes {
    /// All must match the node.
    pub reachable_from: Vec<NodeSelector>,
    /// Claims that are bound only once their consumer has a node, and have not been told of one.
    pub waiting_for_node: Vec<Arc<PersistentVolumeClaim>>,
}

/// Kubernetes' reason why the pod cannot be placed at all now, or what its volumes ask of the node.
pub fn examine(pod: &Pod, lookup: &dyn Lookup) -> Result<Volumes, String> {
    let mut volumes = Volumes::default();
    let ns = namespace(&pod.metadata);
    let mut unbound = false;
    for volume in pod.spec.iter().flat_map(|s| s.volumes.iter().flatten()) {
        let (claim_name, ephemeral) = match (&volume.persistent_volume_claim, &volume.ephemeral) {
            (Some(source), _) => (source.claim_name.clone(), false),
            (None, Some(_)) => (format!("{}-{}", name(&pod.metadata), volume.name), true),
            (None, None) => continue,
        };
        let Some(claim) = lookup.claim(ns, &claim_name) else {
            return Err(if ephemeral {
                format!(
                    "waiting for ephemeral volume controller to create the persistentvolumeclaim \"{claim_name}\""
                )
            } else {
                format!("persistentvolumeclaim \"{claim_name}\" not found")
            });
        };
        if ephemeral && !owner::is_owned_by(&claim.metadata, uid(&pod.metadata)) {
            return Err(format!(
                "PVC {ns}/{claim_name} was not created for pod {ns}/{} (pod is not owner)",
                name(&pod.metadata)
            ));
        }
        if claim.metadata.deletion_timestamp.is_some() {
            return Err(format!("persistentvolumeclaim \"{claim_name}\" is being deleted"));
        }
        let volume_name =
            claim.spec.as_ref().and_then(|s| s.volume_name.as_deref()).filter(|v| !v.is_empty());
        let phase = claim.status.as_ref().and_then(|s| s.phase.as_deref()).unwrap_or_default();
        if phase == "Lost" {
            let volume = volume_name.unwrap_or_default();
            return Err(format!(
                "persistentvolumeclaim \"{claim_name}\" bound to non-existent persistentvolume \"{volume}\""
            ));
        }
        let completed = claim.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(BIND_COMPLETED));
        match volume_name {
            Some(volume) if completed || phase == "Bound" => {
                let Some(volume) = lookup.volume(volume) else {
                    return Err("node(s) unavailable due to one or more pvc(s) bound to non-existent pv(s)"
                        .to_owned());
                };
                let affinity = volume.spec.as_ref().and_then(|s| s.node_affinity.as_ref());
                volumes.reachable_from.extend(affinity.and_then(|a| a.required.clone()));
            }
            None if waits_for_consumer(&claim, lookup) => volumes.waiting_for_node.push(claim),
            _ => unbound = true,
        }
    }
    if unbound {
        return Err("pod has unbound immediate PersistentVolumeClaims".to_owned());
    }
    Ok(volumes)
}

fn waits_for_consumer(claim: &PersistentVolumeClaim, lookup: &dyn Lookup) -> bool {
    let class = claim.spec.as_ref().and_then(|s| s.storage_class_name.as_deref()).unwrap_or_default();
    lookup.class(class).is_some_and(|c| c.volume_binding_mode.as_deref() == Some("WaitForFirstConsumer"))
}

/// The node a claim was told of.
pub fn selected_node(claim: &PersistentVolumeClaim) -> Option<&str> {
    claim.metadata.annotations.as_ref()?.get(SELECTED_NODE).map(String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[derive(Default)]
    struct World {
        claims: Vec<Value>,
        volumes: Vec<Value>,
    }

    fn find<T: serde::de::DeserializeOwned>(list: &[Value], name: &str) -> Option<Arc<T>> {
        let found = list.iter().find(|v| v["metadata"]["name"] == name)?;
        Some(Arc::new(serde_json::from_value(found.clone()).unwrap()))
    }

    impl Lookup for World {
        fn claim(&self, _: &str, name: &str) -> Option<Arc<PersistentVolumeClaim>> {
            find(&self.claims, name)
        }
        fn volume(&self, name: &str) -> Option<Arc<PersistentVolume>> {
            find(&self.volumes, name)
        }
        fn class(&self, name: &str) -> Option<Arc<StorageClass>> {
            let mode = if name == "late" { "WaitForFirstConsumer" } else { "Immediate" };
            let class = json!({"metadata": {"name": name}, "provisioner": "p", "volumeBindingMode": mode});
            Some(Arc::new(serde_json::from_value(class).unwrap()))
        }
    }

    fn examine_claim(claims: Vec<Value>, volumes: Vec<Value>) -> Result<Volumes, String> {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p", "namespace": "ns", "uid": "u"},
            "spec": {"containers": [], "volumes": [
                {"name": "v", "persistentVolumeClaim": {"claimName": "data"}}, {"name": "e", "emptyDir": {}}]}
        }))
        .unwrap();
        examine(&pod, &World { claims, volumes })
    }

    #[test]
    fn claims_must_be_there_and_bound() {
        let claim = |spec: Value, phase: &str| {
            vec![json!({"metadata": {"name": "data"}, "spec": spec, "status": {"phase": phase}})]
        };
        let error = |claims, volumes| examine_claim(claims, volumes).unwrap_err();
        assert_eq!(error(vec![], vec![]), "persistentvolumeclaim \"data\" not found");
        let unbound = "pod has unbound immediate PersistentVolumeClaims";
        assert_eq!(error(claim(json!({"storageClassName": "standard"}), "Pending"), vec![]), unbound);
        assert_eq!(
            error(claim(json!({"storageClassName": "late", "volumeName": "pv"}), "Pending"), vec![]),
            unbound
        );
        assert_eq!(
            error(claim(json!({"volumeName": "pv"}), "Lost"), vec![]),
            "persistentvolumeclaim \"data\" bound to non-existent persistentvolume \"pv\""
        );
        let late = examine_claim(claim(json!({"storageClassName": "late"}), "Pending"), vec![]).unwrap();
        assert_eq!(late.waiting_for_node.len(), 1);
        let affinity = json!({"required": {"nodeSelectorTerms": [{"matchFields": []}]}});
        let volume = json!({"metadata": {"name": "pv"}, "spec": {"nodeAffinity": affinity}});
        let bound = examine_claim(claim(json!({"volumeName": "pv"}), "Bound"), vec![volume]).unwrap();
        assert_eq!((bound.reachable_from.len(), bound.waiting_for_node.len()), (1, 0));
    }
}
