//! StorageObjectInUseProtection: volumes and claims carry a finalizer from birth, so that none goes while it is used.

use super::{Attributes, Lookup, Operation, Plugin};
use crate::{error::Result, kinds::AnyObject};
use async_trait::async_trait;

#[derive(Clone, Copy)]
pub(super) struct StorageObjectInUseProtection;

fn finalizer(a: &Attributes<'_>) -> Option<&'static str> {
    if a.operation != Operation::Create {
        None
    } else if a.is("", "persistentvolumeclaims") {
        Some("kubernetes.io/pvc-protection")
    } else if a.is("", "persistentvolumes") {
        Some("kubernetes.io/pv-protection")
    } else {
        None
    }
}

#[async_trait]
impl Plugin for StorageObjectInUseProtection {
    fn name(&self) -> &'static str {
        "StorageObjectInUseProtection"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        finalizer(a).is_some()
    }

    async fn mutate(
        &self,
        a: &Attributes<'_>,
        object: &mut dyn AnyObject,
        _old: Option<&dyn AnyObject>,
        _lookup: &dyn Lookup,
    ) -> Result<()> {
        if let Some(finalizer) = finalizer(a) {
            let finalizers = object.meta_mut().finalizers.get_or_insert_default();
            if !finalizers.iter().any(|f| f == finalizer) {
                finalizers.push(finalizer.to_owned());
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::{Case, object};
    use serde_json::json;

    #[tokio::test]
    async fn each_gets_its_finalizer_once() {
        let table = [
            ("persistentvolumeclaims", "PersistentVolumeClaim", "default", "kubernetes.io/pvc-protection"),
            ("persistentvolumes", "PersistentVolume", "", "kubernetes.io/pv-protection"),
        ];
        for (plural, kind, namespace, finalizer) in table {
            let case = Case::new(plural, Operation::Create);
            let bare = object("v1", kind, namespace, "v", json!({"spec": {}}));
            let once = case.mutate(&StorageObjectInUseProtection, &bare).await.unwrap();
            assert_eq!(once["metadata"]["finalizers"], json!([finalizer]));
            let twice = case.mutate(&StorageObjectInUseProtection, &once).await.unwrap();
            assert_eq!(twice["metadata"]["finalizers"], json!([finalizer]));
        }
    }
}
