//! Priority: a pod's class becomes its number; one class at most is everybody's.

use super::{Attributes, Lookup, Operation, Plugin, find, find_all, typed, typed_mut};
use crate::{error::Result, kinds::AnyObject};
use async_trait::async_trait;
use k8s_openapi::api::{core::v1::Pod, scheduling::v1::PriorityClass};

/// The classes every cluster has, also before their objects are made.
const SYSTEM: [(&str, i32); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];
const DEFAULT_POLICY: &str = "PreemptLowerPriority";

#[derive(Clone, Copy)]
pub(super) struct Priority;

struct Class {
    name: String,
    value: i32,
    policy: String,
}

#[async_trait]
impl Plugin for Priority {
    fn name(&self) -> &'static str {
        "Priority"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        match a.operation {
            Operation::Create | Operation::Update => {
                a.is("", "pods") || a.is("scheduling.k8s.io", "priorityclasses")
            }
            Operation::Delete => a.is("scheduling.k8s.io", "priorityclasses"),
            Operation::Connect => false,
        }
    }

    async fn validate(
        &self,
        a: &Attributes<'_>,
        object: Option<&dyn AnyObject>,
        _old: Option<&dyn AnyObject>,
        lookup: &dyn Lookup,
    ) -> Result<()> {
        if a.operation == Operation::Delete && SYSTEM.iter().any(|(name, _)| *name == a.name) {
            return Err(a.forbidden("this is a system priority class and cannot be deleted"));
        }
        let Some(class) = object.and_then(|o| o.as_any().downcast_ref::<PriorityClass>()) else {
            return Ok(());
        };
        if class.global_default != Some(true) {
            return Ok(());
        }
        let others = find_all::<PriorityClass>(lookup, "priorityclasses", "").await?;
        let mut others = others.iter().filter(|o| o.metadata.name != class.metadata.name);
        match others.find(|o| o.global_default == Some(true)) {
            Some(other) => Err(a.forbidden(format!(
                "PriorityClass {} is already marked as default. Only one default can exist",
                other.metadata.name.as_deref().unwrap_or_default()
            ))),
            None => Ok(()),
        }
    }

    async fn mutate(
        &self,
        a: &Attributes<'_>,
        object: &mut dyn AnyObject,
        old: Option<&dyn AnyObject>,
        lookup: &dyn Lookup,
    ) -> Result<()> {
        if !a.is("", "pods") {
            return Ok(());
        }
        let pod = typed_mut::<Pod>(object)?;
        let Some(spec) = pod.spec.as_mut() else { return Ok(()) };
        if a.operation == Operation::Update {
            // What was decided at creation stays, also for a client that does not send it back.
            if let Some(old) = old.map(typed::<Pod>).transpose()?.and_then(|p| p.spec.as_ref()) {
                spec.priority = spec.priority.or(old.priority);
                spec.preemption_policy =
                    spec.preemption_policy.take().or_else(|| old.preemption_policy.clone());
            }
            return Ok(());
        }
        let class = match spec.priority_class_name.as_deref().filter(|n| !n.is_empty()) {
            Some(name) => match named(lookup, name).await? {
                Some(class) => class,
                None => return Err(a.forbidden(format!("no PriorityClass with name {name} was found"))),
            },
            None => global_default(lookup).await?,
        };
        if let Some(given) = spec.priority.filter(|p| *p != class.value) {
            return Err(a.forbidden(format!(
                "the integer value of priority ({given}) must not be provided in pod spec; priority admission \
                 controller computed {} from the given PriorityClass name",
                class.value
            )));
        }
        if let Some(given) = spec.preemption_policy.as_ref().filter(|p| **p != class.policy) {
            return Err(a.forbidden(format!(
                "the string value of PreemptionPolicy ({given}) must not be provided in pod spec; priority \
                 admission controller computed {} from the given PriorityClass name",
                class.policy
            )));
        }
        spec.priority = Some(class.value);
        spec.preemption_policy = Some(class.policy);
        if !class.name.is_empty() {
            spec.priority_class_name = Some(class.name);
        }
        Ok(())
    }
}

async fn named(lookup: &dyn Lookup, name: &str) -> Result<Option<Class>> {
    if let Some(class) = find::<PriorityClass>(lookup, "priorityclasses", "", name).await? {
        return Ok(Some(Class::from(&class)));
    }
    let system = SYSTEM.iter().find(|(n, _)| *n == name);
    Ok(system.map(|(_, value)| Class {
        name: name.to_owned(),
        value: *value,
        policy: DEFAULT_POLICY.to_owned(),
    }))
}

/// Of several marked as the default, the one with the lowest value.
async fn global_default(lookup: &dyn Lookup) -> Result<Class> {
    let classes = find_all::<PriorityClass>(lookup, "priorityclasses", "").await?;
    let marked =
        classes.iter().filter(|c| c.global_default == Some(true)).min_by_key(|c| c.value.unwrap_or_default());
    Ok(marked.map_or_else(
        || Class { name: String::new(), value: 0, policy: DEFAULT_POLICY.to_owned() },
        Class::from,
    ))
}

impl From<&PriorityClass> for Class {
    fn from(class: &PriorityClass) -> Self {
        Self {
            name: class.metadata.name.clone().unwrap_or_default(),
            value: class.value.unwrap_or_default(),
            policy: class.preemption_policy.clone().unwrap_or_else(|| DEFAULT_POLICY.to_owned()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::{Case, object};
    use serde_json::{Value, json};

    async fn admitted(mut spec: Value) -> Result<Value> {
        spec["containers"] = json!([{"name": "a"}]);
        let pod = object("v1", "Pod", "default", "web", json!({"spec": spec}));
        Case::new("pods", Operation::Create).mutate(&Priority, &pod).await.map(|p| p["spec"].clone())
    }

    #[tokio::test]
    async fn a_class_becomes_a_number() {
        let plain = admitted(json!({})).await.unwrap();
        assert_eq!((&plain["priority"], &plain["preemptionPolicy"]), (&json!(0), &json!(DEFAULT_POLICY)));
        assert_eq!(plain.get("priorityClassName"), None);
        for (name, value) in SYSTEM {
            let spec = admitted(json!({"priorityClassName": name})).await.unwrap();
            assert_eq!(spec["priority"], value);
        }
        let error = admitted(json!({"priorityClassName": "ghost"})).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "pods \"web\" is forbidden: no PriorityClass with name ghost was found"
        );
        assert!(admitted(json!({"priority": 7})).await.unwrap_err().to_string().contains("computed 0 from"));
        assert!(admitted(json!({"preemptionPolicy": "Never"})).await.is_err());
        assert!(admitted(json!({"priority": 0})).await.is_ok());
    }

    #[tokio::test]
    async fn an_update_keeps_what_was_decided() {
        let spec = |rest: Value| object("v1", "Pod", "default", "web", json!({"spec": rest}));
        let old = spec(json!({"containers": [], "priority": 9, "preemptionPolicy": "Never"}));
        let case = Case::new("pods", Operation::Update).old(old);
        let new = case.mutate(&Priority, &spec(json!({"containers": []}))).await.unwrap();
        assert_eq!(
            (&new["spec"]["priority"], &new["spec"]["preemptionPolicy"]),
            (&json!(9), &json!("Never"))
        );
    }

    #[tokio::test]
    async fn one_class_is_everybodys() {
        let class = |name: &str, default: bool| {
            let rest = json!({"value": 1, "globalDefault": default});
            object("scheduling.k8s.io/v1", "PriorityClass", "", name, rest)
        };
        let case =
            Case::new("priorityclasses", Operation::Create).lookup([class("a", true), class("b", false)]);
        case.validate(&Priority, Some(&class("a", true)), None).await.unwrap();
        case.validate(&Priority, Some(&class("c", false)), None).await.unwrap();
        let refused = case.validate(&Priority, Some(&class("c", true)), None).await.unwrap_err();
        assert_eq!(
            refused.to_string(),
            "priorityclasses.scheduling.k8s.io \"c\" is forbidden: PriorityClass a is already marked as default. Only one default can exist"
        );
    }
}
