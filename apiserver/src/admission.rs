//! What is decided about an object beyond its kind's own rules: things that need other objects, or the user.
//!
//! Order of one write: decode, default, `Chain::mutate`, kind's `prepare_*` and `validate*`, `Chain::validate`, what it has
//! to say (`Chain::remark`), `resource_quota`, store. The chain is a fixed, visible list; quotas come after it because
//! what they count is written together with the object.

mod certificate_approval;
mod certificate_requester;
mod default_ingress_class;
mod default_storage_class;
mod default_toleration_seconds;
mod limit_ranger;
mod namespace_lifecycle;
mod node_restriction;
mod pod_security;
mod priority;
mod rbac_escalation;
pub(crate) mod resource_quota;
mod runtime_class;
mod service_account;
mod storage_object_in_use_protection;
mod taint_nodes_by_condition;
mod volume_resize;

use crate::{
    auth::{Authorizer, User},
    config::Config,
    error::{ApiError, Result},
    kinds::{AnyKind, AnyObject, Subresource},
};
use async_trait::async_trait;
use bytes::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::{cmp::Reverse, sync::Arc};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    Create,
    Update,
    Delete,
    Connect,
}

/// What is being asked for, apart from the objects.
#[derive(Clone, Copy)]
pub struct Attributes<'a> {
    pub kind: &'a dyn AnyKind,
    pub operation: Operation,
    pub subresource: Option<Subresource>,
    /// Empty for cluster-scoped kinds.
    pub namespace: &'a str,
    /// Empty where `generateName` has not been resolved yet.
    pub name: &'a str,
    pub user: &'a User,
    pub dry_run: bool,
}

impl Attributes<'_> {
    /// `Forbidden`, about this request's object.
    pub fn forbidden(&self, detail: impl Into<String>) -> ApiError {
        let resource = self.kind.resource();
        ApiError::Forbidden {
            group: resource.group.to_owned(),
            resource: resource.qualified(),
            name: self.name.to_owned(),
            detail: detail.into(),
        }
    }

    /// Is it this kind's main endpoint? `plural` within `group`.
    pub fn is(&self, group: &str, plural: &str) -> bool {
        let r = self.kind.resource();
        self.subresource.is_none() && r.plural == plural && r.group == group
    }
}

/// Reads other objects, newest state, past authorization: decisions are the server's own.
#[async_trait]
pub trait Lookup: Send + Sync {
    /// `plural` as `resource::Resource` spells it; `namespace` is empty for cluster-scoped kinds.
    /// A kind that is not served has no objects.
    async fn get(&self, plural: &str, namespace: &str, name: &str) -> Result<Option<Box<dyn AnyObject>>>;
    /// The object as it is stored: JSON, for what each write needs a field or two of.
    async fn stored(&self, plural: &str, namespace: &str, name: &str) -> Result<Option<Bytes>>;
    /// An empty `namespace` lists all of them.
    async fn list(&self, plural: &str, namespace: &str) -> Result<Vec<Box<dyn AnyObject>>>;
}

/// One rule set. Plugins hold no objects and no state of the cluster: they ask `lookup`, and RBAC its authorizer.
#[async_trait]
pub trait Plugin: Send + Sync {
    fn name(&self) -> &'static str;
    /// Cheap: is this request any of the plugin's business? Nothing else is called if not.
    fn handles(&self, attributes: &Attributes<'_>) -> bool;
    /// Changes the object. Never called for Delete and Connect.
    async fn mutate(
        &self,
        attributes: &Attributes<'_>,
        object: &mut dyn AnyObject,
        old: Option<&dyn AnyObject>,
        lookup: &dyn Lookup,
    ) -> Result<()> {
        let _ = (attributes, object, old, lookup);
        Ok(())
    }
    /// Says no. `object` is `None` for Delete and Connect; `old` is `None` for Create (and for Connect).
    async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&dyn AnyObject>,
        old: Option<&dyn AnyObject>,
        lookup: &dyn Lookup,
    ) -> Result<()> {
        let _ = (attributes, object, old, lookup);
        Ok(())
    }
    /// Warnings about a write that is let pass. Not called for Delete and Connect.
    async fn remark(
        &self,
        attributes: &Attributes<'_>,
        object: &dyn AnyObject,
        old: Option<&dyn AnyObject>,
        lookup: &dyn Lookup,
    ) -> Result<Vec<String>> {
        let _ = (attributes, object, old, lookup);
        Ok(Vec::new())
    }
}

/// The plugins, in their order.
pub struct Chain {
    plugins: Vec<Box<dyn Plugin>>,
}

impl Chain {
    /// The plugins of a server, in Kubernetes' order.
    pub fn standard(config: &Config, authorizer: &Arc<Authorizer>) -> Self {
        Self::new(vec![
            Box::new(namespace_lifecycle::NamespaceLifecycle),
            Box::new(limit_ranger::LimitRanger),
            Box::new(service_account::ServiceAccount),
            Box::new(node_restriction::NodeRestriction),
            Box::new(taint_nodes_by_condition::TaintNodesByCondition),
            Box::new(certificate_requester::CertificateRequester),
            Box::new(pod_security::PodSecurity),
            Box::new(priority::Priority),
            Box::new(default_toleration_seconds::DefaultTolerationSeconds {
                seconds: config.toleration_seconds,
            }),
            Box::new(default_storage_class::DefaultStorageClass),
            Box::new(storage_object_in_use_protection::StorageObjectInUseProtection),
            Box::new(volume_resize::PersistentVolumeClaimResize),
            Box::new(runtime_class::RuntimeClass),
            Box::new(certificate_approval::CertificateApproval { authorizer: authorizer.clone() }),
            Box::new(default_ingress_class::DefaultIngressClass),
            Box::new(rbac_escalation::RbacEscalation { authorizer: authorizer.clone() }),
        ])
    }

    /// Other plugins, for tests.
    pub fn new(plugins: Vec<Box<dyn Plugin>>) -> Self {
        Self { plugins }
    }

    pub async fn mutate(
        &self,
        attributes: &Attributes<'_>,
        object: &mut dyn AnyObject,
        old: Option<&dyn AnyObject>,
        lookup: &dyn Lookup,
    ) -> Result<()> {
        for plugin in self.plugins.iter().filter(|p| p.handles(attributes)) {
            plugin.mutate(attributes, object, old, lookup).await?;
        }
        Ok(())
    }

    pub async fn remark(
        &self,
        attributes: &Attributes<'_>,
        object: &dyn AnyObject,
        old: Option<&dyn AnyObject>,
        lookup: &dyn Lookup,
    ) -> Result<Vec<String>> {
        let mut remarks = Vec::new();
        for plugin in self.plugins.iter().filter(|p| p.handles(attributes)) {
            remarks.extend(plugin.remark(attributes, object, old, lookup).await?);
        }
        Ok(remarks)
    }

    pub async fn validate(
        &self,
        attributes: &Attributes<'_>,
        object: Option<&dyn AnyObject>,
        old: Option<&dyn AnyObject>,
        lookup: &dyn Lookup,
    ) -> Result<()> {
        for plugin in self.plugins.iter().filter(|p| p.handles(attributes)) {
            plugin.validate(attributes, object, old, lookup).await?;
        }
        Ok(())
    }
}

/// The object as its own type. Failing would be our own mistake, not the client's.
pub(crate) fn typed<T: 'static>(object: &dyn AnyObject) -> Result<&T> {
    object.as_any().downcast_ref().ok_or_else(wrong_type::<T>)
}

pub(crate) fn typed_mut<T: 'static>(object: &mut dyn AnyObject) -> Result<&mut T> {
    object.as_any_mut().downcast_mut().ok_or_else(wrong_type::<T>)
}

fn wrong_type<T>() -> ApiError {
    ApiError::Internal(format!("an object is no {}", std::any::type_name::<T>()))
}

/// Looks up an object of a known type.
pub(crate) async fn find<T: Clone + 'static>(
    lookup: &dyn Lookup,
    plural: &str,
    namespace: &str,
    name: &str,
) -> Result<Option<T>> {
    match lookup.get(plural, namespace, name).await? {
        Some(object) => typed::<T>(&*object).map(|t| Some(t.clone())),
        None => Ok(None),
    }
}

/// Lists the objects of a known type.
pub(crate) async fn find_all<T: Clone + 'static>(
    lookup: &dyn Lookup,
    plural: &str,
    namespace: &str,
) -> Result<Vec<T>> {
    lookup.list(plural, namespace).await?.iter().map(|o| typed::<T>(&**o).cloned()).collect()
}

/// The newest of the classes marked as default by one of these annotations; of equally new ones the first by name.
pub(crate) fn default_class<T>(classes: &[T], marks: &[&str]) -> Option<String>
where
    T: k8s_openapi::Metadata<Ty = ObjectMeta>,
{
    let metas = classes.iter().map(k8s_openapi::Metadata::metadata);
    let marked = metas.filter(|meta| {
        let annotation = |key: &str| meta.annotations.as_ref().and_then(|a| a.get(key));
        marks.iter().any(|key| annotation(key).is_some_and(|value| value == "true"))
    });
    let name = |meta: &ObjectMeta| meta.name.clone().unwrap_or_default();
    marked.min_by_key(|m| (Reverse(m.creation_timestamp.as_ref().map(|t| t.0)), name(m))).map(name)
}

#[cfg(test)]
pub(crate) mod testing;
