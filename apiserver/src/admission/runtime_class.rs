//! RuntimeClass: what a class of runtimes costs and where it runs is written into the pod that names it.

use super::{Attributes, Lookup, Operation, Plugin, find, typed, typed_mut};
use crate::{error::Result, kinds::AnyObject};
use api::quota::amounts;
use async_trait::async_trait;
use k8s_openapi::api::{
    core::v1::{Pod, PodSpec},
    node::v1::RuntimeClass as Class,
};

const DIFFERS: &str = "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead";

#[derive(Clone, Copy)]
pub(super) struct RuntimeClass;

#[async_trait]
impl Plugin for RuntimeClass {
    fn name(&self) -> &'static str {
        "RuntimeClass"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.operation == Operation::Create && a.is("", "pods")
    }

    async fn mutate(
        &self,
        a: &Attributes<'_>,
        object: &mut dyn AnyObject,
        _old: Option<&dyn AnyObject>,
        lookup: &dyn Lookup,
    ) -> Result<()> {
        let Some(spec) = typed_mut::<Pod>(object)?.spec.as_mut() else { return Ok(()) };
        let Some(class) = class(a, spec, lookup).await? else { return Ok(()) };
        if let Some(overhead) = &class.overhead {
            if spec.overhead.as_ref().is_some_and(|o| !o.is_empty()) && !costs(spec, &class) {
                return Err(a.forbidden(DIFFERS));
            }
            spec.overhead.clone_from(&overhead.pod_fixed);
        }
        let Some(scheduling) = &class.scheduling else { return Ok(()) };
        if let Some(selector) = &scheduling.node_selector {
            let own = spec.node_selector.get_or_insert_default();
            for (key, value) in selector {
                let before = own.insert(key.clone(), value.clone());
                if let Some(before) = before.filter(|before| before != value) {
                    return Err(a.forbidden(format!(
                        "conflict: runtimeClass.scheduling.nodeSelector[{key}] = {value}; \
                         pod.spec.nodeSelector[{key}] = {before}"
                    )));
                }
            }
        }
        for toleration in scheduling.tolerations.iter().flatten() {
            let own = spec.tolerations.get_or_insert_default();
            if !own.contains(toleration) {
                own.push(toleration.clone());
            }
        }
        Ok(())
    }

    async fn validate(
        &self,
        a: &Attributes<'_>,
        object: Option<&dyn AnyObject>,
        _old: Option<&dyn AnyObject>,
        lookup: &dyn Lookup,
    ) -> Result<()> {
        let Some(object) = object else { return Ok(()) };
        let Some(spec) = &typed::<Pod>(object)?.spec else { return Ok(()) };
        match class(a, spec, lookup).await? {
            Some(class) if class.overhead.is_some() => {
                if costs(spec, &class) {
                    Ok(())
                } else {
                    Err(a.forbidden(DIFFERS))
                }
            }
            _ if spec.overhead.is_some() => Err(a.forbidden(
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            )),
            _ => Ok(()),
        }
    }
}

/// The class that the pod names, which must be there.
async fn class(a: &Attributes<'_>, spec: &PodSpec, lookup: &dyn Lookup) -> Result<Option<Class>> {
    let Some(name) = &spec.runtime_class_name else { return Ok(None) };
    match find::<Class>(lookup, "runtimeclasses", "", name).await? {
        None => Err(a.forbidden(format!("pod rejected: RuntimeClass {name:?} not found"))),
        found => Ok(found),
    }
}

/// Whether the pod's overhead is what the class says.
fn costs(spec: &PodSpec, class: &Class) -> bool {
    let wanted = class.overhead.as_ref().and_then(|o| o.pod_fixed.as_ref());
    amounts(spec.overhead.as_ref()) == amounts(wanted)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::{Case, object};
    use serde_json::{Value, json};

    fn class() -> Value {
        let rest = json!({"handler": "h", "overhead": {"podFixed": {"cpu": "250m"}}, "scheduling": {
            "nodeSelector": {"fast": "yes"}, "tolerations": [{"key": "k", "operator": "Exists"}]}});
        object("node.k8s.io/v1", "RuntimeClass", "", "kata", rest)
    }

    async fn admitted(mut spec: Value) -> std::result::Result<Value, String> {
        spec["containers"] = json!([]);
        let bare = object("node.k8s.io/v1", "RuntimeClass", "", "bare", json!({"handler": "h"}));
        let case = Case::new("pods", Operation::Create).lookup([class(), bare]);
        let pod = object("v1", "Pod", "default", "web", json!({"spec": spec}));
        let pod = case.mutate(&RuntimeClass, &pod).await.map_err(|e| e.to_string())?;
        case.validate(&RuntimeClass, Some(&pod), None).await.map_err(|e| e.to_string())?;
        Ok(pod["spec"].clone())
    }

    #[tokio::test]
    async fn a_class_brings_its_overhead_and_its_place() {
        let spec = admitted(json!({"runtimeClassName": "kata", "nodeSelector": {"a": "b"}})).await.unwrap();
        assert_eq!(spec["overhead"], json!({"cpu": "250m"}));
        assert_eq!(spec["nodeSelector"], json!({"a": "b", "fast": "yes"}));
        assert_eq!(spec["tolerations"], json!([{"key": "k", "operator": "Exists"}]));
        admitted(json!({"runtimeClassName": "kata", "overhead": {"cpu": "0.25"}})).await.unwrap();
        admitted(json!({"runtimeClassName": "bare"})).await.unwrap();
        admitted(json!({})).await.unwrap();
    }

    #[tokio::test]
    async fn what_does_not_agree_with_its_class_is_refused() {
        for (spec, expected) in [
            (json!({"runtimeClassName": "none"}), "pod rejected: RuntimeClass \"none\" not found"),
            (json!({"runtimeClassName": "kata", "overhead": {"cpu": "1"}}), DIFFERS),
            (
                json!({"runtimeClassName": "bare", "overhead": {"cpu": "1"}}),
                "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead",
            ),
            (
                json!({"runtimeClassName": "kata", "nodeSelector": {"fast": "no"}}),
                "conflict: runtimeClass.scheduling.nodeSelector[fast] = yes; pod.spec.nodeSelector[fast] = no",
            ),
        ] {
            let said = admitted(spec.clone()).await.unwrap_err();
            assert_eq!(said, format!("pods \"web\" is forbidden: {expected}"), "{spec}");
        }
    }
}
