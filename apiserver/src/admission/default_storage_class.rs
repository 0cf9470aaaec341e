//! DefaultStorageClass: a claim that names no class gets the cluster's default one.

use super::{Attributes, Lookup, Operation, Plugin, default_class, find_all, typed_mut};
use crate::{error::Result, kinds::AnyObject};
use async_trait::async_trait;
use k8s_openapi::api::{core::v1::PersistentVolumeClaim, storage::v1::StorageClass};

const IS_DEFAULT: [&str; 2] =
    ["storageclass.kubernetes.io/is-default-class", "storageclass.beta.kubernetes.io/is-default-class"];
/// How claims named their class before there was a field.
const OLD_CLASS: &str = "volume.beta.kubernetes.io/storage-class";

#[derive(Clone, Copy)]
pub(super) struct DefaultStorageClass;

#[async_trait]
impl Plugin for DefaultStorageClass {
    fn name(&self) -> &'static str {
        "DefaultStorageClass"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.operation == Operation::Create && a.is("", "persistentvolumeclaims")
    }

    async fn mutate(
        &self,
        _a: &Attributes<'_>,
        object: &mut dyn AnyObject,
        _old: Option<&dyn AnyObject>,
        lookup: &dyn Lookup,
    ) -> Result<()> {
        let claim = typed_mut::<PersistentVolumeClaim>(object)?;
        let annotated = claim.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(OLD_CLASS));
        let spec = claim.spec.get_or_insert_default();
        // An empty name is a choice: no class, only volumes made by hand.
        if spec.storage_class_name.is_some() || annotated {
            return Ok(());
        }
        let classes = find_all::<StorageClass>(lookup, "storageclasses", "").await?;
        spec.storage_class_name = default_class(&classes, &IS_DEFAULT);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::{Case, object};
    use serde_json::{Value, json};

    fn class(name: &str, created: &str, default: bool) -> Value {
        let mut class = object("storage.k8s.io/v1", "StorageClass", "", name, json!({"provisioner": "p"}));
        class["metadata"]["creationTimestamp"] = json!(created);
        class["metadata"]["annotations"] = json!({IS_DEFAULT[0]: default.to_string()});
        class
    }

    async fn chosen(classes: Vec<Value>, claim: Value) -> Value {
        let case = Case::new("persistentvolumeclaims", Operation::Create).lookup(classes);
        let claim = object("v1", "PersistentVolumeClaim", "default", "data", claim);
        case.mutate(&DefaultStorageClass, &claim).await.unwrap()["spec"]["storageClassName"].clone()
    }

    #[tokio::test]
    async fn the_newest_default_class_is_taken() {
        let old = class("b", "2026-01-01T00:00:00Z", true);
        let new = class("z", "2026-02-01T00:00:00Z", true);
        let twin = class("c", "2026-02-01T00:00:00Z", true);
        let other = class("a", "2026-03-01T00:00:00Z", false);
        assert_eq!(chosen(vec![old.clone(), new, twin, other.clone()], json!({"spec": {}})).await, "c");
        assert_eq!(chosen(vec![old.clone()], json!({"spec": {"storageClassName": ""}})).await, "");
        assert_eq!(chosen(vec![old], json!({"spec": {"storageClassName": "x"}})).await, "x");
        assert_eq!(chosen(vec![other], json!({"spec": {}})).await, Value::Null);
    }

    #[tokio::test]
    async fn the_old_annotation_counts_as_a_choice() {
        let case = Case::new("persistentvolumeclaims", Operation::Create).lookup([class(
            "a",
            "2026-01-01T00:00:00Z",
            true,
        )]);
        let mut claim = object("v1", "PersistentVolumeClaim", "default", "data", json!({"spec": {}}));
        claim["metadata"]["annotations"] = json!({OLD_CLASS: "mine"});
        let claim = case.mutate(&DefaultStorageClass, &claim).await.unwrap();
        assert_eq!(claim["spec"].get("storageClassName"), None);
    }
}
