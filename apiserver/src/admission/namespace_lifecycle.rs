//! NamespaceLifecycle: things are made only in namespaces that exist and stay; the system's namespaces stay.

use super::{Attributes, Lookup, Operation, Plugin};
use crate::{
    error::{ApiError, Result},
    kinds::AnyObject,
};
use async_trait::async_trait;
use serde::{Deserialize, de::IgnoredAny};

/// Kubernetes refuses to delete the first three; `kube-node-lease` would come back with the next heartbeat,
/// and until then every node would look dead.
const IMMORTAL: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
/// A question about access is asked of a namespace, not put into it.
const REVIEWS: &str = "localsubjectaccessreviews";

#[derive(Clone, Copy)]
pub(super) struct NamespaceLifecycle;

#[async_trait]
impl Plugin for NamespaceLifecycle {
    fn name(&self) -> &'static str {
        "NamespaceLifecycle"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        match a.operation {
            Operation::Create => a.kind.resource().namespaced && a.kind.resource().plural != REVIEWS,
            Operation::Delete => a.is("", "namespaces"),
            Operation::Update | Operation::Connect => false,
        }
    }

    /// Before any other plugin looks for things in the namespace: "no such namespace" is the better answer.
    async fn mutate(
        &self,
        a: &Attributes<'_>,
        _object: &mut dyn AnyObject,
        _old: Option<&dyn AnyObject>,
        lookup: &dyn Lookup,
    ) -> Result<()> {
        let Some(namespace) = lookup.stored("namespaces", "", a.namespace).await? else {
            return Err(ApiError::NotFound {
                group: String::new(),
                resource: "namespaces".to_owned(),
                name: a.namespace.to_owned(),
            });
        };
        if !is_terminating(&namespace)? {
            return Ok(());
        }
        let resource = a.kind.resource();
        Err(ApiError::NamespaceTerminating {
            group: resource.group.to_owned(),
            resource: resource.qualified(),
            name: a.name.to_owned(),
            namespace: a.namespace.to_owned(),
        })
    }

    async fn validate(
        &self,
        a: &Attributes<'_>,
        _object: Option<&dyn AnyObject>,
        _old: Option<&dyn AnyObject>,
        _lookup: &dyn Lookup,
    ) -> Result<()> {
        if a.operation == Operation::Delete && IMMORTAL.contains(&a.name) {
            return Err(a.forbidden("this namespace may not be deleted"));
        }
        Ok(())
    }
}

/// Every create asks this, so only what matters is decoded.
fn is_terminating(namespace: &[u8]) -> Result<bool> {
    #[derive(Deserialize)]
    struct Namespace {
        metadata: Metadata,
        status: Option<Status>,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Metadata {
        deletion_timestamp: Option<IgnoredAny>,
    }
    #[derive(Deserialize)]
    struct Status {
        phase: Option<String>,
    }
    let Namespace { metadata, status } = serde_json::from_slice(namespace)
        .map_err(|e| ApiError::Internal(format!("a stored namespace: {e}")))?;
    let phase = status.and_then(|status| status.phase);
    Ok(metadata.deletion_timestamp.is_some() || phase.as_deref() == Some("Terminating"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::{Case, namespace, object};
    use serde_json::json;

    #[tokio::test]
    async fn creation_needs_a_living_namespace() {
        let mut dying = namespace("dying");
        dying["status"] = json!({"phase": "Terminating"});
        let mut deleted = namespace("deleted");
        deleted["metadata"]["deletionTimestamp"] = json!("2026-11-23T12:00:00Z");
        let case = Case::new("configmaps", Operation::Create).lookup([namespace("default"), dying, deleted]);
        let map = |ns: &str| object("v1", "ConfigMap", ns, "c", json!({}));

        case.mutate(&NamespaceLifecycle, &map("default")).await.unwrap();
        let missing = case.mutate(&NamespaceLifecycle, &map("nowhere")).await.unwrap_err();
        assert_eq!(missing.to_string(), "namespaces \"nowhere\" not found");
        case.mutate(&NamespaceLifecycle, &map("deleted")).await.unwrap_err();
        let refused = case.mutate(&NamespaceLifecycle, &map("dying")).await.unwrap_err();
        let status = refused.status();
        assert_eq!(
            status["message"],
            "configmaps \"c\" is forbidden: unable to create new content in namespace dying because it is being terminated"
        );
        assert_eq!((&status["reason"], &status["code"]), (&json!("Forbidden"), &json!(403)));
        assert_eq!(status["details"]["causes"][0]["reason"], "NamespaceTerminating");
    }

    #[tokio::test]
    async fn the_systems_namespaces_stay() {
        for name in IMMORTAL {
            let case = Case::new("namespaces", Operation::Delete).lookup([namespace(name)]);
            let error = case.validate(&NamespaceLifecycle, None, Some(&namespace(name))).await.unwrap_err();
            assert_eq!(
                error.to_string(),
                format!("namespaces {name:?} is forbidden: this namespace may not be deleted")
            );
        }
        let case = Case::new("namespaces", Operation::Delete);
        case.validate(&NamespaceLifecycle, None, Some(&namespace("mine"))).await.unwrap();
        // The immortal names are nothing special for other kinds.
        let case = Case::new("configmaps", Operation::Delete);
        let map = object("v1", "ConfigMap", "x", "default", json!({}));
        case.validate(&NamespaceLifecycle, None, Some(&map)).await.unwrap();
    }
}
