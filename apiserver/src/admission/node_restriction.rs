//! NodeRestriction: a kubelet writes about its own node and about the pods on it, and about nothing else.

use super::{Attributes, Lookup, Operation, Plugin, typed};
use crate::{
    auth::node,
    error::Result,
    kinds::{AnyObject, Subresource, shared::diff::diff},
};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{Node, PersistentVolumeClaim, Pod};

/// Labels of this domain are for people to keep pods away from nodes: a node must not give itself one.
const RESTRICTED_LABELS: &str = "node-restriction.kubernetes.io/";

#[derive(Clone, Copy)]
pub(super) struct NodeRestriction;

#[async_trait]
impl Plugin for NodeRestriction {
    fn name(&self) -> &'static str {
        "NodeRestriction"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        let r = a.kind.resource();
        matches!(
            (r.group, r.plural),
            ("", "pods" | "nodes" | "persistentvolumeclaims") | ("storage.k8s.io", "csinodes")
        ) && node::name_of(a.user).is_some()
    }

    async fn validate(
        &self,
        a: &Attributes<'_>,
        object: Option<&dyn AnyObject>,
        old: Option<&dyn AnyObject>,
        _lookup: &dyn Lookup,
    ) -> Result<()> {
        let Some(me) = node::name_of(a.user) else { return Ok(()) };
        match a.kind.resource().plural {
            "pods" => pods(a, me, old.map(typed::<Pod>).transpose()?),
            "persistentvolumeclaims" => match (object, old) {
                (Some(new), Some(old)) => claims(a, me, typed(new)?, typed(old)?),
                _ => Err(a.forbidden("may only update PVC status")),
            },
            "csinodes" => {
                let name = object.or(old).and_then(|o| o.meta().name.as_deref()).unwrap_or(a.name);
                if name == me {
                    return Ok(());
                }
                Err(a.forbidden("can only access CSINode with the same name as the requesting node"))
            }
            _ => nodes(a, me, object.map(typed::<Node>).transpose()?, old.map(typed::<Node>).transpose()?),
        }
    }
}

fn pods(a: &Attributes<'_>, me: &str, old: Option<&Pod>) -> Result<()> {
    let own = old.is_some_and(|pod| api::pod::node_name(pod) == Some(me));
    match (a.operation, a.subresource) {
        (Operation::Create, None) => Err(a.forbidden(format!("node {me:?} can only create mirror pods"))),
        (Operation::Delete, None) if !own => {
            Err(a.forbidden(format!("node {me:?} can only delete pods with spec.nodeName set to itself")))
        }
        (Operation::Delete, Some(Subresource::Eviction)) if !own => {
            Err(a.forbidden(format!("node {me} can only evict pods with spec.nodeName set to itself")))
        }
        (Operation::Create | Operation::Update, Some(part))
            if !matches!(part, Subresource::Status | Subresource::Eviction) =>
        {
            let name = crate::handlers::discovery::subresource_spelt(part);
            let text =
                format!("unexpected pod subresource {name:?}, only 'status' and 'eviction' are allowed");
            Err(a.forbidden(text))
        }
        (Operation::Update, Some(Subresource::Status)) if !own => Err(a.forbidden(format!(
            "node {me:?} can only update pod status for pods with spec.nodeName set to itself"
        ))),
        _ => Ok(()),
    }
}

/// A node tells how a volume grew, and nothing else of a claim.
fn claims(
    a: &Attributes<'_>,
    me: &str,
    new: &PersistentVolumeClaim,
    old: &PersistentVolumeClaim,
) -> Result<()> {
    if a.subresource != Some(Subresource::Status) {
        return Err(a.forbidden("may only update PVC status"));
    }
    let rest = |claim: &PersistentVolumeClaim| {
        let mut claim = claim.clone();
        (claim.metadata.resource_version, claim.metadata.managed_fields) = (None, None);
        let status = claim.status.get_or_insert_default();
        (status.capacity, status.conditions) = (None, None);
        (status.allocated_resources, status.allocated_resource_statuses) = (None, None);
        claim
    };
    let (was, is) = (rest(old), rest(new));
    if was == is {
        return Ok(());
    }
    let changes = diff(&was, &is);
    Err(a.forbidden(format!(
        "node {me:?} is not allowed to update fields other than status.quantity and status.conditions: {changes}"
    )))
}

fn nodes(a: &Attributes<'_>, me: &str, new: Option<&Node>, old: Option<&Node>) -> Result<()> {
    let name = new.and_then(|n| n.metadata.name.as_deref()).unwrap_or(a.name);
    if name != me {
        return Err(a.forbidden(format!("node {me:?} is not allowed to modify node {name:?}")));
    }
    let (Some(new), Some(old)) = (new, old) else { return Ok(()) };
    let taints = |node: &Node| node.spec.as_ref().and_then(|s| s.taints.clone()).unwrap_or_default();
    if taints(new) != taints(old) {
        return Err(a.forbidden(format!("node {me:?} is not allowed to modify taints")));
    }
    let restricted = |node: &Node| -> Vec<(String, String)> {
        let labels = node.metadata.labels.clone().unwrap_or_default();
        labels.into_iter().filter(|(key, _)| key.contains(RESTRICTED_LABELS)).collect()
    };
    if restricted(new) != restricted(old) {
        return Err(a.forbidden(format!(
            "is not allowed to modify labels: {}",
            restricted(new).into_iter().map(|(key, _)| key).collect::<Vec<_>>().join(", ")
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::testing::{Case, object},
        auth::User,
    };
    use serde_json::{Value, json};

    async fn tried(plural: &str, operation: Operation, new: Option<Value>, old: Option<Value>) -> bool {
        tried_at(plural, None, operation, new, old).await
    }

    async fn tried_at(
        plural: &str,
        subresource: Option<Subresource>,
        operation: Operation,
        new: Option<Value>,
        old: Option<Value>,
    ) -> bool {
        let n1 = User::of("system:node:n1", &[node::NODES]);
        let case = Case::new(plural, operation).user(n1).subresource(subresource);
        case.validate(&NodeRestriction, new.as_ref(), old.as_ref()).await.is_ok()
    }

    #[tokio::test]
    async fn a_kubelet_minds_its_own_node() {
        use Operation::{Create, Delete, Update};
        let pod = |node: &str| {
            object("v1", "Pod", "default", "p", json!({"spec": {"nodeName": node, "containers": []}}))
        };
        let node = |name: &str, rest: Value| object("v1", "Node", "", name, rest);
        let taints = json!({"spec": {"taints": [{"key": "a", "effect": "NoSchedule"}]}});
        let mut labelled = node("n1", json!({}));
        labelled["metadata"]["labels"] = json!({"node-restriction.kubernetes.io/x": "y"});
        for (what, allowed, good) in [
            ("pods", tried("pods", Delete, None, Some(pod("n1"))).await, true),
            ("others' pods", tried("pods", Delete, None, Some(pod("n2"))).await, false),
            ("new pods", tried("pods", Create, Some(pod("n1")), None).await, false),
            ("itself", tried("nodes", Create, Some(node("n1", json!({}))), None).await, true),
            ("others", tried("nodes", Create, Some(node("n2", json!({}))), None).await, false),
            (
                "taints",
                tried("nodes", Update, Some(node("n1", taints)), Some(node("n1", json!({})))).await,
                false,
            ),
            ("labels", tried("nodes", Update, Some(labelled), Some(node("n1", json!({})))).await, false),
        ] {
            assert_eq!(allowed, good, "{what}");
        }
    }

    #[tokio::test]
    async fn evictions_and_claims() {
        use Operation::{Create, Delete, Update};
        let pod = |node: &str| {
            object("v1", "Pod", "default", "p", json!({"spec": {"nodeName": node, "containers": []}}))
        };
        let claim = |labels: Value, spec: Value, status: Value| {
            let mut claim = object(
                "v1",
                "PersistentVolumeClaim",
                "default",
                "c",
                json!({"spec": spec, "status": status}),
            );
            claim["metadata"]["labels"] = labels;
            claim
        };
        let old = || Some(claim(json!({}), json!({}), json!({"phase": "Bound"})));
        let grown =
            || Some(claim(json!({}), json!({}), json!({"phase": "Bound", "capacity": {"storage": "2Gi"}})));
        let (status, eviction) = (Some(Subresource::Status), Some(Subresource::Eviction));
        let csi =
            |name: &str| object("storage.k8s.io/v1", "CSINode", "", name, json!({"spec": {"drivers": []}}));
        for (what, allowed, good) in [
            ("its pods", tried_at("pods", eviction, Delete, None, Some(pod("n1"))).await, true),
            ("others' pods", tried_at("pods", eviction, Delete, None, Some(pod("n2"))).await, false),
            ("growth", tried_at("persistentvolumeclaims", status, Update, grown(), old()).await, true),
            (
                "phase",
                tried_at(
                    "persistentvolumeclaims",
                    status,
                    Update,
                    Some(claim(json!({}), json!({}), json!({"phase": "Lost"}))),
                    old(),
                )
                .await,
                false,
            ),
            (
                "labels",
                tried_at(
                    "persistentvolumeclaims",
                    status,
                    Update,
                    Some(claim(json!({"a": "b"}), json!({}), json!({"phase": "Bound"}))),
                    old(),
                )
                .await,
                false,
            ),
            ("spec", tried("persistentvolumeclaims", Update, grown(), old()).await, false),
            ("new claims", tried("persistentvolumeclaims", Create, grown(), None).await, false),
            ("own CSI node", tried("csinodes", Create, Some(csi("n1")), None).await, true),
            ("others' CSI node", tried("csinodes", Create, Some(csi("n2")), None).await, false),
        ] {
            assert_eq!(allowed, good, "{what}");
        }
    }
}
