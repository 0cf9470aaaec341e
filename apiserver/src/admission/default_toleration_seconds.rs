//! DefaultTolerationSeconds: how long a pod stays bound to a node that is lost, where the pod itself says nothing.

use super::{Attributes, Lookup, Operation, Plugin, typed_mut};
use crate::{error::Result, kinds::AnyObject};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Pod, Toleration};

const LOST: [&str; 2] = ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"];
const NO_EXECUTE: &str = "NoExecute";

#[derive(Clone, Copy)]
pub(super) struct DefaultTolerationSeconds {
    pub(super) seconds: i64,
}

#[async_trait]
impl Plugin for DefaultTolerationSeconds {
    fn name(&self) -> &'static str {
        "DefaultTolerationSeconds"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        matches!(a.operation, Operation::Create | Operation::Update) && a.is("", "pods")
    }

    async fn mutate(
        &self,
        _a: &Attributes<'_>,
        object: &mut dyn AnyObject,
        _old: Option<&dyn AnyObject>,
        _lookup: &dyn Lookup,
    ) -> Result<()> {
        let pod = typed_mut::<Pod>(object)?;
        let Some(spec) = pod.spec.as_mut() else { return Ok(()) };
        let tolerations = spec.tolerations.get_or_insert_default();
        for taint in LOST {
            if !tolerations.iter().any(|t| speaks_of(t, taint)) {
                tolerations.push(Toleration {
                    key: Some(taint.to_owned()),
                    operator: Some("Exists".to_owned()),
                    effect: Some(NO_EXECUTE.to_owned()),
                    toleration_seconds: Some(self.seconds),
                    ..Toleration::default()
                });
            }
        }
        Ok(())
    }
}

/// Whether a toleration is about this taint's eviction: no key means every key, no effect every effect.
fn speaks_of(toleration: &Toleration, taint: &str) -> bool {
    let is = |field: &Option<String>, value: &str| {
        field.as_deref().is_none_or(|text| text.is_empty() || text == value)
    };
    is(&toleration.key, taint) && is(&toleration.effect, NO_EXECUTE)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::{Case, object};
    use serde_json::{Value, json};

    fn added(taint: &str) -> Value {
        json!({"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 42})
    }

    #[tokio::test]
    async fn each_kind_of_loss_is_tolerated_for_a_while_unless_the_pod_says_otherwise() {
        let own =
            json!({"key": LOST[0], "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 5});
        let all = json!({"operator": "Exists"});
        let other = json!({"key": LOST[1], "operator": "Exists", "effect": "NoSchedule"});
        let table = [
            (json!([]), json!([added(LOST[0]), added(LOST[1])])),
            (json!([own]), json!([own, added(LOST[1])])),
            (json!([all]), json!([all])),
            (json!([other]), json!([other, added(LOST[0]), added(LOST[1])])),
        ];
        let case = Case::new("pods", Operation::Create);
        for (given, expected) in table {
            let spec = json!({"spec": {"containers": [{"name": "a"}], "tolerations": given}});
            let pod = object("v1", "Pod", "default", "web", spec);
            let pod = case.mutate(&DefaultTolerationSeconds { seconds: 42 }, &pod).await.unwrap();
            assert_eq!(pod["spec"]["tolerations"], expected);
        }
    }
}
