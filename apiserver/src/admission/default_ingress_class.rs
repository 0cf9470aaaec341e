//! DefaultIngressClass: an Ingress that names no class gets the cluster's default one.

use super::{Attributes, Lookup, Operation, Plugin, default_class, find_all, typed_mut};
use crate::{error::Result, kinds::AnyObject};
use async_trait::async_trait;
use k8s_openapi::api::networking::v1::{Ingress, IngressClass};

const IS_DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";
/// How Ingresses named their class before there was a field.
const OLD_CLASS: &str = "kubernetes.io/ingress.class";

#[derive(Clone, Copy)]
pub(super) struct DefaultIngressClass;

#[async_trait]
impl Plugin for DefaultIngressClass {
    fn name(&self) -> &'static str {
        "DefaultIngressClass"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.operation == Operation::Create && a.is("networking.k8s.io", "ingresses")
    }

    async fn mutate(
        &self,
        _a: &Attributes<'_>,
        object: &mut dyn AnyObject,
        _old: Option<&dyn AnyObject>,
        lookup: &dyn Lookup,
    ) -> Result<()> {
        let ingress = typed_mut::<Ingress>(object)?;
        let annotated = ingress.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(OLD_CLASS));
        let spec = ingress.spec.get_or_insert_default();
        if spec.ingress_class_name.is_some() || annotated {
            return Ok(());
        }
        let classes = find_all::<IngressClass>(lookup, "ingressclasses", "").await?;
        spec.ingress_class_name = default_class(&classes, &[IS_DEFAULT]);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::{Case, object};
    use serde_json::{Value, json};

    #[tokio::test]
    async fn the_default_class_is_for_those_that_name_none() {
        let class = |name: &str, default: &str| {
            let mut class = object("networking.k8s.io/v1", "IngressClass", "", name, json!({"spec": {}}));
            class["metadata"]["annotations"] = json!({IS_DEFAULT: default});
            class
        };
        let mut old = object("networking.k8s.io/v1", "Ingress", "default", "i", json!({"spec": {}}));
        let bare = old.clone();
        old["metadata"]["annotations"] = json!({OLD_CLASS: "x"});
        let mut own = bare.clone();
        own["spec"]["ingressClassName"] = json!("mine");
        for (ingress, expected) in [(bare, json!("b")), (old, Value::Null), (own, json!("mine"))] {
            let case =
                Case::new("ingresses", Operation::Create).lookup([class("a", "false"), class("b", "true")]);
            let made = case.mutate(&DefaultIngressClass, &ingress).await.unwrap();
            assert_eq!(made["spec"]["ingressClassName"], expected);
        }
    }
}
