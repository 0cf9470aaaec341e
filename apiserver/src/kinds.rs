//! What the generic path asks of a kind, and the one table of kinds.
//!
//! A kind answers questions about its objects and does nothing: no I/O, no clock, no knowledge of HTTP. Discovery, routes,
//! tables, OpenAPI and the tests iterate over [`all`]. Adding a kind is one file here and one line there. Kinds that people
//! define join them at run time (`crate::custom`) and are asked the same questions.

use crate::custom::CustomKind;
use api::{field, resource::Resource};
use bytes::Bytes;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{any::Any, borrow::Cow, ops::Deref, sync::Arc};

mod admission_policies;
mod api_service;
mod certificate_signing_request;
mod cluster_role;
mod cluster_role_binding;
mod component_status;
mod config_map;
mod controller_revision;
mod cron_job;
mod csi;
pub(crate) mod custom_resource_definition;
mod daemon_set;
mod decode;
mod deployment;
mod devices;
mod endpoint_slice;
mod endpoints;
mod event;
mod flow_control;
mod horizontal_pod_autoscaler;
mod ingress;
mod ingress_class;
mod job;
mod lease;
mod limit_range;
mod namespace;
mod network_policy;
mod node;
mod persistent_volume;
mod persistent_volume_claim;
mod pod;
mod pod_disruption_budget;
mod pod_templates;
mod priority_class;
mod replica_set;
mod replication_controller;
mod resource_quota;
mod role;
mod role_binding;
mod runtime_class;
mod secret;
mod service;
mod service_account;
mod service_cidr;
pub mod shared;
mod stateful_set;
mod storage_class;
mod typed;
mod volume_attachment;
mod webhooks;

use typed::Typed;

/// Every kind that is served. Adding a kind is one file and one line here.
static ALL: [&dyn AnyKind; 60] = [
    &Typed::<config_map::ConfigMaps>::NEW,
    &Typed::<endpoints::EndpointsKind>::NEW,
    &Typed::<event::Events>::NEW,
    &Typed::<limit_range::LimitRanges>::NEW,
    &Typed::<namespace::Namespaces>::NEW,
    &Typed::<node::Nodes>::NEW,
    &Typed::<persistent_volume::PersistentVolumes>::NEW,
    &Typed::<persistent_volume_claim::PersistentVolumeClaims>::NEW,
    &Typed::<pod::Pods>::NEW,
    &Typed::<pod_templates::PodTemplates>::NEW,
    &Typed::<replication_controller::ReplicationControllers>::NEW,
    &Typed::<resource_quota::ResourceQuotas>::NEW,
    &Typed::<secret::Secrets>::NEW,
    &Typed::<service::Services>::NEW,
    &Typed::<service_account::ServiceAccounts>::NEW,
    &Typed::<api_service::ApiServices>::NEW,
    &Typed::<controller_revision::ControllerRevisions>::NEW,
    &Typed::<daemon_set::DaemonSets>::NEW,
    &Typed::<deployment::Deployments>::NEW,
    &Typed::<replica_set::ReplicaSets>::NEW,
    &Typed::<stateful_set::StatefulSets>::NEW,
    &Typed::<horizontal_pod_autoscaler::Autoscalers>::NEW,
    &Typed::<horizontal_pod_autoscaler::AutoscalersV1>::NEW,
    &Typed::<cron_job::CronJobs>::NEW,
    &Typed::<job::Jobs>::NEW,
    &Typed::<certificate_signing_request::CertificateSigningRequests>::NEW,
    &Typed::<ingress::Ingresses>::NEW,
    &Typed::<ingress_class::IngressClasses>::NEW,
    &Typed::<service_cidr::IpAddresses>::NEW,
    &Typed::<network_policy::NetworkPolicies>::NEW,
    &Typed::<service_cidr::ServiceCidrs>::NEW,
    &Typed::<pod_disruption_budget::PodDisruptionBudgets>::NEW,
    &Typed::<csi::CsiDrivers>::NEW,
    &Typed::<csi::CsiNodes>::NEW,
    &Typed::<csi::CsiStorageCapacities>::NEW,
    &Typed::<cluster_role::ClusterRoles>::NEW,
    &Typed::<cluster_role_binding::ClusterRoleBindings>::NEW,
    &Typed::<role::Roles>::NEW,
    &Typed::<role_binding::RoleBindings>::NEW,
    &Typed::<storage_class::StorageClasses>::NEW,
    &Typed::<volume_attachment::VolumeAttachments>::NEW,
    &Typed::<volume_attachment::VolumeAttributesClasses>::NEW,
    &Typed::<webhooks::MutatingWebhooks>::NEW,
    &Typed::<webhooks::ValidatingWebhooks>::NEW,
    &Typed::<admission_policies::MutatingPolicies>::NEW,
    &Typed::<admission_policies::MutatingBindings>::NEW,
    &Typed::<admission_policies::ValidatingPolicies>::NEW,
    &Typed::<admission_policies::ValidatingBindings>::NEW,
    &Typed::<custom_resource_definition::CustomResourceDefinitions>::NEW,
    &Typed::<priority_class::PriorityClasses>::NEW,
    &Typed::<lease::Leases>::NEW,
    &Typed::<runtime_class::RuntimeClasses>::NEW,
    &Typed::<endpoint_slice::EndpointSlices>::NEW,
    &Typed::<event::EventsV1>::NEW,
    &Typed::<flow_control::FlowSchemas>::NEW,
    &Typed::<flow_control::PriorityLevels>::NEW,
    &Typed::<devices::DeviceClasses>::NEW,
    &Typed::<devices::ResourceClaims>::NEW,
    &Typed::<devices::ResourceClaimTemplates>::NEW,
    &Typed::<devices::ResourceSlices>::NEW,
];

/// Every kind of our own, in the order discovery lists them.
pub fn all() -> &'static [&'static dyn AnyKind] {
    &ALL
}

/// The one kind that is drawn but not stored.
pub(crate) fn component_status() -> &'static dyn AnyKind {
    &Typed::<component_status::ComponentStatuses>::NEW
}

/// The kind that a path names: `/apis/{group}/{version}/…/{plural}`.
pub fn by_plural(group: &str, version: &str, plural: &str) -> Option<&'static dyn AnyKind> {
    ALL.into_iter().find(|k| {
        let r = k.resource();
        r.plural == plural && r.group == group && r.version == version
    })
}

/// The kind that an object names by `apiVersion` and `kind`.
pub fn by_kind(group: &str, version: &str, kind: &str) -> Option<&'static dyn AnyKind> {
    ALL.into_iter().find(|k| {
        let r = k.resource();
        r.kind == kind && r.group == group && r.version == version
    })
}

/// The kind people mean by `sts`, `statefulset`, `statefulsets`, `statefulsets.apps`, `StatefulSet`.
pub fn by_alias(name: &str) -> Option<&'static dyn AnyKind> {
    let name = name.to_ascii_lowercase();
    ALL.into_iter().find(|k| {
        let r = k.resource();
        [r.plural, r.singular].contains(&name.as_str())
            || k.short_names().contains(&name.as_str())
            || name == r.qualified()
    })
}

/// Kinds that are kept, but that no controller and no admission of this server acts upon yet: whoever makes one is told.
const NOT_ACTED_UPON: [(&str, &str); 9] = [
    ("apps", "daemonsets"),
    ("autoscaling", "horizontalpodautoscalers"),
    ("batch", "cronjobs"),
    ("batch", "jobs"),
    ("flowcontrol.apiserver.k8s.io", "flowschemas"),
    ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations"),
    ("networking.k8s.io", "ingresses"),
    ("networking.k8s.io", "networkpolicies"),
    ("resource.k8s.io", "resourceclaims"),
];

/// What a client that makes an object of this kind should know.
pub fn caveat(kind: &dyn AnyKind) -> Option<String> {
    let r = kind.resource();
    NOT_ACTED_UPON.contains(&(r.group, r.plural)).then(|| {
        format!("{}: kept and served, but this server has nothing yet that acts upon it", r.qualified())
    })
}

/// What everyone who asks for a kind that is on its way out should know.
pub fn deprecation(kind: &dyn AnyKind) -> Option<&'static str> {
    let r = kind.resource();
    let text = "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice";
    ((r.group, r.plural) == ("", "endpoints")).then_some(text)
}

/// The metadata of an object whose kind has no type.
pub(crate) fn decode_metadata(value: Value) -> Result<(ObjectMeta, Vec<String>), String> {
    decode::decode(value)
}

/// An object of any kind, decoded once at the door and passed along typed.
pub trait AnyObject: Any + Send + Sync {
    fn meta(&self) -> &ObjectMeta;
    fn meta_mut(&mut self) -> &mut ObjectMeta;
    fn as_any(&self) -> &dyn Any;
    fn as_any_mut(&mut self) -> &mut dyn Any;
    fn clone_box(&self) -> Box<dyn AnyObject>;
    fn to_value(&self) -> Value;
    /// The JSON form, with `kind` and `apiVersion`.
    fn to_json(&self) -> Vec<u8>;
}

/// Typed body plus what strict decoding has to say about it.
pub struct Decoded {
    pub object: Box<dyn AnyObject>,
    /// Paths of fields the kind does not know: `spec.replicaz`, `spec.containers[0].imagePulPolicy`.
    pub unknown: Vec<String>,
}

/// One column of the server-drawn table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Column {
    pub name: Cow<'static, str>,
    /// OpenAPI type: `string`, `integer`, `date`.
    pub kind: Cow<'static, str>,
    /// `name` for the name column, else empty.
    pub format: Cow<'static, str>,
    /// 0 is always shown, 1 only with `-o wide`.
    pub priority: i32,
    pub description: Cow<'static, str>,
}

impl Column {
    pub const fn new(
        name: &'static str,
        kind: &'static str,
        priority: i32,
        description: &'static str,
    ) -> Self {
        Self::formatted(name, kind, "", priority, description)
    }
    pub const fn name() -> Self {
        Self::formatted("Name", "string", "name", 0, "Name of the object")
    }
    /// For kinds whose age is of no interest.
    pub const fn created_at() -> Self {
        Self::new("Created At", "date", 0, "Time of creation")
    }
    pub const fn age() -> Self {
        Self::new("Age", "string", 0, "Time since creation")
    }
    pub const fn formatted(
        name: &'static str,
        kind: &'static str,
        format: &'static str,
        priority: i32,
        description: &'static str,
    ) -> Self {
        Self {
            name: Cow::Borrowed(name),
            kind: Cow::Borrowed(kind),
            format: Cow::Borrowed(format),
            priority,
            description: Cow::Borrowed(description),
        }
    }
}

/// What a delete without finalizers does to the object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Deletion {
    /// Removed at once.
    Immediate,
    /// Marked, with this many seconds of grace; whoever runs it removes it with grace 0. With none left it goes at
    /// once, and its last state says when.
    Graceful { seconds: i64 },
}

/// Subresources a kind may have. Connect subresources (log, exec, …) belong to pods, nodes and services.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Subresource {
    Status,
    /// Of requests for certificates: whether they are granted.
    Approval,
    Scale,
    Binding,
    Eviction,
    EphemeralContainers,
    Resize,
    Finalize,
    Token,
    Log,
    Exec,
    Attach,
    PortForward,
    Proxy,
    /// Of nodes, and ours alone: the failure of a node, to be seen.
    Stop,
    Kill,
    Start,
}

/// The rules of one kind, typed. Everything has a default that suits a plain kind (ConfigMap is forty lines).
pub trait Kind: Send + Sync + 'static {
    type Object: k8s_openapi::Metadata<Ty = ObjectMeta>
        + Serialize
        + DeserializeOwned
        + Clone
        + Send
        + Sync
        + 'static;

    const PLURAL: &'static str;
    const SINGULAR: &'static str;
    const NAMESPACED: bool = true;
    const SHORT_NAMES: &'static [&'static str] = &[];
    const CATEGORIES: &'static [&'static str] = &[];
    const SUBRESOURCES: &'static [Subresource] = &[];
    const COLUMNS: &'static [Column] = &[Column::name(), Column::age()];

    /// Why a name is not allowed; empty is fine. Default: DNS subdomain.
    fn check_name(name: &str) -> Vec<String> {
        api::names::dns_subdomain(name)
    }
    /// Fills in what Kubernetes fills in. Runs on create, update and on every patched result, before validation.
    fn default(_object: &mut Self::Object) {}
    /// Before a create is validated: drop what a client may not set (status), set first values (phase).
    fn prepare_create(_object: &mut Self::Object) {}
    /// Before an update is validated: restore what this endpoint may not change (status), carry over allocated fields.
    fn prepare_update(_new: &mut Self::Object, _old: &Self::Object) {}
    /// Before a `/status` update is validated: restore everything but status (metadata: labels, annotations and
    /// finalizers, owner references stay as the generic path decides).
    fn prepare_status_update(_new: &mut Self::Object, _old: &Self::Object) {}
    /// As [`Self::prepare_status_update`], for the other subresources through which a part of the whole object is
    /// changed: `/approval`, `/ephemeralcontainers`, `/resize`.
    fn prepare_part_update(_part: Subresource, _new: &mut Self::Object, _old: &Self::Object) {}
    fn validate(_object: &Self::Object) -> field::Errors {
        field::Errors::default()
    }
    fn validate_update(_new: &Self::Object, _old: &Self::Object) -> field::Errors {
        field::Errors::default()
    }
    fn validate_status_update(_new: &Self::Object, _old: &Self::Object) -> field::Errors {
        field::Errors::default()
    }
    fn validate_part_update(_part: Subresource, _new: &Self::Object, _old: &Self::Object) -> field::Errors {
        field::Errors::default()
    }
    /// Texts for `Warning:` headers.
    fn warnings(_object: &Self::Object) -> Vec<String> {
        Vec::new()
    }
    /// Whether this kind counts `metadata.generation`, and whether the change from old to new raises it.
    fn generation_changed(_new: &Self::Object, _old: &Self::Object) -> Option<bool> {
        None
    }
    /// Cells of one row, in the order of `COLUMNS`. `now` is for ages.
    fn row(object: &Self::Object, now: jiff::Timestamp) -> Vec<Value>;
    /// Fields a field selector may name besides `metadata.name` and `metadata.namespace`.
    fn selectable_fields(_object: &Self::Object) -> Vec<(&'static str, String)> {
        Vec::new()
    }
    /// The names `selectable_fields` knows, to refuse others.
    const SELECTABLE: &'static [&'static str] = &[];
    /// `requested` is the client's `gracePeriodSeconds`.
    fn deletion(_object: &Self::Object, _requested: Option<i64>) -> Deletion {
        Deletion::Immediate
    }
    /// The object has just been marked for deletion (timestamp and grace are set): a namespace's phase.
    fn prepare_deletion(_object: &mut Self::Object) {}
    /// `/scale`: (spec.replicas, status.replicas, label selector as a string).
    fn scale(_object: &Self::Object) -> Option<(i32, i32, String)> {
        None
    }
    fn set_scale(_object: &mut Self::Object, _replicas: i32) {}
    /// Whether a PUT without `metadata.resourceVersion` overwrites whatever is there (false: Lease, PodDisruptionBudget, …).
    const UNCONDITIONAL_UPDATE: bool = true;
    /// Whether a PUT to a missing name creates (true: Lease, Endpoints, Event, Service, RBAC kinds, …).
    const CREATE_ON_UPDATE: bool = false;
    /// Whether DELETE answers with the object (true: Pod, Service, PersistentVolume, …) or with a `Status`.
    const RETURNS_DELETED: bool = false;
    /// Whether dependents are orphaned when the client names no propagation policy (ReplicationController, Job).
    const ORPHANS_BY_DEFAULT: bool = false;
    /// Whether something besides `metadata.finalizers` keeps the object from going (a namespace's `spec.finalizers`).
    fn held(_object: &Self::Object) -> bool {
        false
    }
    /// Whether this is another version of a kind that is stored in a form of its own; see `typed.rs`.
    const IS_VIEW: bool = false;
    /// The group below whose name the objects are stored; a view of another group names that of its stored kind.
    const STORED_GROUP: &'static str = <Self::Object as k8s_openapi::Resource>::GROUP;
    /// To and from the stored form.
    fn to_stored(object: &Self::Object) -> Vec<u8> {
        // API types hold strings, numbers, maps with string keys: they cannot fail to serialise.
        serde_json::to_vec(object).unwrap_or_default()
    }
    fn from_stored(bytes: &[u8]) -> Result<Self::Object, String> {
        serde_json::from_slice(bytes).map_err(|e| e.to_string())
    }
}

/// [`Kind`] without the type: what the generic path holds. Objects handed in are of the kind's own type.
pub trait AnyKind: Send + Sync {
    fn resource(&self) -> &Resource;
    fn short_names(&self) -> &[&'static str];
    fn categories(&self) -> &[&'static str];
    fn subresources(&self) -> &[Subresource];
    fn columns(&self) -> &[Column];
    fn selectable(&self) -> &[&'static str];
    /// What people defined, if this is no kind of our own: such a kind has a schema in place of a type.
    fn custom(&self) -> Option<&CustomKind> {
        None
    }
    fn list_kind(&self) -> String {
        format!("{}List", self.resource().kind)
    }
    fn has(&self, subresource: Subresource) -> bool {
        self.subresources().contains(&subresource)
    }
    /// From a client's JSON. The error is the decoder's text with the path (`spec.replicas: invalid type: …`).
    fn decode(&self, value: Value) -> Result<Decoded, String>;
    /// From our own stored bytes.
    fn decode_stored(&self, bytes: &[u8]) -> Result<Box<dyn AnyObject>, String>;
    fn check_name(&self, name: &str) -> Vec<String>;
    fn default(&self, object: &mut dyn AnyObject);
    fn prepare_create(&self, object: &mut dyn AnyObject);
    fn prepare_update(&self, new: &mut dyn AnyObject, old: &dyn AnyObject);
    fn prepare_status_update(&self, new: &mut dyn AnyObject, old: &dyn AnyObject);
    fn prepare_part_update(&self, part: Subresource, new: &mut dyn AnyObject, old: &dyn AnyObject);
    fn validate(&self, object: &dyn AnyObject) -> field::Errors;
    fn validate_update(&self, new: &dyn AnyObject, old: &dyn AnyObject) -> field::Errors;
    fn validate_status_update(&self, new: &dyn AnyObject, old: &dyn AnyObject) -> field::Errors;
    fn validate_part_update(
        &self,
        part: Subresource,
        new: &dyn AnyObject,
        old: &dyn AnyObject,
    ) -> field::Errors;
    fn warnings(&self, object: &dyn AnyObject) -> Vec<String>;
    fn generation_changed(&self, new: &dyn AnyObject, old: &dyn AnyObject) -> Option<bool>;
    fn row(&self, object: &dyn AnyObject, now: jiff::Timestamp) -> Vec<Value>;
    fn selectable_fields(&self, object: &dyn AnyObject) -> Vec<(&'static str, String)>;
    fn deletion(&self, object: &dyn AnyObject, requested: Option<i64>) -> Deletion;
    fn scale(&self, object: &dyn AnyObject) -> Option<(i32, i32, String)>;
    fn set_scale(&self, object: &mut dyn AnyObject, replicas: i32);
    fn unconditional_update(&self) -> bool;
    fn create_on_update(&self) -> bool;
    fn returns_deleted(&self) -> bool;
    fn orphans_by_default(&self) -> bool;
    fn held(&self, object: &dyn AnyObject) -> bool;
    fn is_view(&self) -> bool;
    fn stored_group(&self) -> &'static str;
    /// The bytes to store.
    fn to_stored(&self, object: &dyn AnyObject) -> Vec<u8>;
    /// Stored bytes as clients of this version see them: themselves, unless this is a view.
    fn show(&self, stored: &Bytes) -> Bytes;
    fn prepare_deletion(&self, object: &mut dyn AnyObject);
}

/// A kind that is held on to: ours is there for good, a custom one may go while a request is under way.
#[derive(Clone)]
pub enum KindRef {
    BuiltIn(&'static dyn AnyKind),
    Custom(Arc<CustomKind>),
}

impl Deref for KindRef {
    type Target = dyn AnyKind;
    fn deref(&self) -> &Self::Target {
        match self {
            Self::BuiltIn(kind) => *kind,
            Self::Custom(kind) => &**kind,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_table_is_sound() {
        for (i, kind) in all().iter().enumerate() {
            let r = kind.resource();
            assert!(by_plural(r.group, r.version, r.plural).is_some_and(|k| k.resource() == r));
            assert!(by_kind(r.group, r.version, r.kind).is_some_and(|k| k.resource() == r));
            for name in [r.plural, r.singular, r.kind, &r.qualified()]
                .into_iter()
                .chain(kind.short_names().iter().copied())
            {
                // A view goes by the same names; its stored kind comes first in the table.
                let found = by_alias(name).map(AnyKind::resource);
                assert_eq!(found.map(|f| f.plural), Some(r.plural), "{name}");
                assert!(kind.is_view() || found == Some(r), "{name}");
            }
            assert!(all()[..i].iter().all(|k| k.resource() != r));
        }
    }

    #[test]
    fn every_kind_survives_an_empty_object() {
        for kind in all() {
            let r = kind.resource();
            let body = json!({"apiVersion": r.api_version(), "kind": r.kind, "metadata": {"name": "a"}, "nonsense": 1});
            let decoded = kind.decode(body).unwrap_or_else(|e| panic!("{}: {e}", r.kind));
            assert_eq!(decoded.unknown, ["nonsense"]);
            let mut object = decoded.object;
            kind.prepare_create(&mut *object);
            kind.default(&mut *object);
            kind.validate(&*object);
            assert_eq!(kind.row(&*object, jiff::Timestamp::now()).len(), kind.columns().len(), "{}", r.kind);
            let fields: Vec<_> = kind.selectable_fields(&*object).into_iter().map(|(name, _)| name).collect();
            assert_eq!(fields, kind.selectable(), "{}", r.kind);
            let stored = kind.to_stored(&*object);
            let again = kind.decode_stored(&stored).unwrap_or_else(|e| panic!("{}: {e}", r.kind));
            assert_eq!(again.to_json(), object.to_json());
            assert_eq!(kind.to_stored(&*again), stored);
            assert_eq!(kind.show(&stored.into()), object.to_json());
            let mut update = again.clone_box();
            kind.prepare_update(&mut *update, &*object);
            kind.prepare_status_update(&mut *update, &*object);
            kind.default(&mut *update);
            assert_eq!(update.to_value(), object.to_value(), "{}: defaulting is idempotent", r.kind);
            assert_eq!(update.to_value()["kind"], r.kind);
        }
    }
}
