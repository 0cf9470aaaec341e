//! TaintNodesByCondition: a node is not ready until it has said that it is; its controller takes the taint off.

use super::{Attributes, Lookup, Operation, Plugin, typed_mut};
use crate::{error::Result, kinds::AnyObject};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, Taint};

const NOT_READY: &str = "node.kubernetes.io/not-ready";
const NO_SCHEDULE: &str = "NoSchedule";

#[derive(Clone, Copy)]
pub(super) struct TaintNodesByCondition;

#[async_trait]
impl Plugin for TaintNodesByCondition {
    fn name(&self) -> &'static str {
        "TaintNodesByCondition"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.operation == Operation::Create && a.is("", "nodes")
    }

    async fn mutate(
        &self,
        _a: &Attributes<'_>,
        object: &mut dyn AnyObject,
        _old: Option<&dyn AnyObject>,
        _lookup: &dyn Lookup,
    ) -> Result<()> {
        let spec = typed_mut::<Node>(object)?.spec.get_or_insert_default();
        let taints = spec.taints.get_or_insert_default();
        if !taints.iter().any(|t| t.key == NOT_READY && t.effect == NO_SCHEDULE) {
            let (key, effect) = (NOT_READY.to_owned(), NO_SCHEDULE.to_owned());
            taints.push(Taint { key, effect, ..Taint::default() });
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
    async fn a_new_node_is_tainted_once() {
        let case = Case::new("nodes", Operation::Create);
        let node = object(
            "v1",
            "Node",
            "",
            "n",
            json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}}),
        );
        let once = case.mutate(&TaintNodesByCondition, &node).await.unwrap();
        assert_eq!(
            once["spec"]["taints"],
            json!([{"key": "a", "effect": NO_SCHEDULE}, {"key": NOT_READY, "effect": NO_SCHEDULE}])
        );
        assert_eq!(case.mutate(&TaintNodesByCondition, &once).await.unwrap(), once);
    }
}
