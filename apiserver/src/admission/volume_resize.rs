//! PersistentVolumeClaimResize: a claim grows only where its class says that its volumes can.

use super::{Attributes, Lookup, Operation, Plugin, find, typed};
use crate::{error::Result, kinds::AnyObject};
use api::quantity::Quantity;
use async_trait::async_trait;
use k8s_openapi::api::{core::v1::PersistentVolumeClaim, storage::v1::StorageClass};

#[derive(Clone, Copy)]
pub(super) struct PersistentVolumeClaimResize;

#[async_trait]
impl Plugin for PersistentVolumeClaimResize {
    fn name(&self) -> &'static str {
        "PersistentVolumeClaimResize"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.operation == Operation::Update && a.is("", "persistentvolumeclaims")
    }

    async fn validate(
        &self,
        a: &Attributes<'_>,
        object: Option<&dyn AnyObject>,
        old: Option<&dyn AnyObject>,
        lookup: &dyn Lookup,
    ) -> Result<()> {
        let (Some(new), Some(old)) = (object, old) else { return Ok(()) };
        let (new, old) = (typed::<PersistentVolumeClaim>(new)?, typed::<PersistentVolumeClaim>(old)?);
        // Shrinking and what cannot be read is for the kind's own validation to refuse.
        let (Some(wanted), Some(had)) = (request(new), request(old)) else { return Ok(()) };
        if wanted <= had {
            return Ok(());
        }
        let phase = old.status.as_ref().and_then(|s| s.phase.as_deref());
        if phase != Some("Bound") {
            return Err(a.forbidden("Only bound persistent volume claims can be expanded"));
        }
        let class = new.spec.as_ref().and_then(|s| s.storage_class_name.as_deref()).unwrap_or_default();
        let expandable = match class {
            "" => false,
            class => find::<StorageClass>(lookup, "storageclasses", "", class)
                .await?
                .is_some_and(|c| c.allow_volume_expansion == Some(true)),
        };
        if expandable {
            Ok(())
        } else {
            Err(a.forbidden(
                "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must \
                 support resize",
            ))
        }
    }
}

fn request(claim: &PersistentVolumeClaim) -> Option<Quantity> {
    let requests = claim.spec.as_ref()?.resources.as_ref()?.requests.as_ref()?;
    requests.get("storage")?.0.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::{Case, object};
    use serde_json::{Value, json};

    fn claim(size: &str, class: &str, phase: &str) -> Value {
        object(
            "v1",
            "PersistentVolumeClaim",
            "default",
            "data",
            json!({
                "spec": {"storageClassName": class, "resources": {"requests": {"storage": size}}},
                "status": {"phase": phase},
            }),
        )
    }

    #[tokio::test]
    async fn growth_needs_a_bound_claim_of_a_class_that_can() {
        let class = |name: &str, can: Option<bool>| {
            let rest = json!({"provisioner": "p", "allowVolumeExpansion": can});
            object("storage.k8s.io/v1", "StorageClass", "", name, rest)
        };
        let table = [
            ("1Gi", "2Gi", "can", "Bound", true),
            ("1Gi", "2Gi", "cannot", "Bound", false),
            ("1Gi", "2Gi", "", "Bound", false),
            ("1Gi", "2Gi", "ghost", "Bound", false),
            ("1Gi", "2Gi", "can", "Pending", false),
            ("1Gi", "1024Mi", "cannot", "Bound", true),
            ("2Gi", "1Gi", "cannot", "Bound", true),
        ];
        for (from, to, name, phase, allowed) in table {
            let case = Case::new("persistentvolumeclaims", Operation::Update)
                .lookup([class("can", Some(true)), class("cannot", None)]);
            let (old, new) = (claim(from, name, phase), claim(to, name, phase));
            let answer = case.validate(&PersistentVolumeClaimResize, Some(&new), Some(&old)).await;
            assert_eq!(answer.is_ok(), allowed, "{from} to {to}, class {name:?}, {phase}");
        }
    }
}
