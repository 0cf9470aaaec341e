//! What every controller is given: the door to the cluster, the shared caches, the clock, and a few calls that all
//! of them make in the same careful way.

use crate::{
    Config,
    error::{Error, Result, is_not_found},
    run::Metrics,
};
use api::clock::Clock;
use client::{Api, Guard, Informers, Recorder};
use http::Request;
use k8s_openapi::{
    ClusterResourceScope, Metadata, NamespaceResourceScope, Resource, api::core::v1::ObjectReference,
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::api::{DeleteParams, Patch, PatchParams, Preconditions};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::Value;
use std::{fmt::Debug, sync::Arc};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// Shared by all controllers of a server.
pub struct Ctx {
    pub client: kube::Client,
    pub informers: Informers,
    pub clock: Arc<dyn Clock>,
    pub config: Config,
    pub metrics: Arc<Metrics>,
    /// Owns every task of this server.
    pub tracker: TaskTracker,
    /// Ends every task of this server.
    pub token: CancellationToken,
}

impl Ctx {
    /// An event recorder that speaks as `component`.
    pub fn recorder(&self, component: &str) -> Recorder {
        Recorder::new(self.client.clone(), component, &self.config.host, &self.tracker, self.token.clone())
    }

    /// Typed access to one namespace.
    #[allow(clippy::useless_conversion, reason = "in tests it is one")]
    pub fn api<K>(&self, namespace: &str) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        kube::Api::namespaced(self.client.clone(), namespace).into()
    }

    /// Typed access to a kind without namespaces.
    #[allow(clippy::useless_conversion, reason = "in tests it is one")]
    pub fn all<K>(&self) -> Api<K>
    where
        K: kube::Resource<DynamicType = (), Scope = ClusterResourceScope>,
    {
        kube::Api::all(self.client.clone()).into()
    }
}

/// What is at a path of the API, for kinds that only discovery knows.
pub(crate) async fn get_at<T: DeserializeOwned>(client: &kube::Client, path: &str) -> Result<T> {
    let request = Request::get(path).body(Vec::new()).map_err(|e| Error::Object(e.to_string()))?;
    Ok(client.request(request).await?)
}

/// The same; `None` if there is nothing.
pub(crate) async fn find_at<T: DeserializeOwned>(client: &kube::Client, path: &str) -> Result<Option<T>> {
    match get_at(client, path).await {
        Ok(found) => Ok(Some(found)),
        Err(Error::Api(error)) if is_not_found(&error) => Ok(None),
        Err(error) => Err(error),
    }
}

pub(crate) fn name(meta: &ObjectMeta) -> &str {
    meta.name.as_deref().unwrap_or_default()
}

pub(crate) fn namespace(meta: &ObjectMeta) -> &str {
    meta.namespace.as_deref().unwrap_or_default()
}

pub(crate) fn uid(meta: &ObjectMeta) -> &str {
    meta.uid.as_deref().unwrap_or_default()
}

/// What an event is about.
pub(crate) fn reference<K: Resource + Metadata<Ty = ObjectMeta>>(object: &K) -> ObjectReference {
    let meta = object.metadata();
    ObjectReference {
        api_version: Some(K::API_VERSION.to_owned()),
        kind: Some(K::KIND.to_owned()),
        name: meta.name.clone(),
        namespace: meta.namespace.clone(),
        uid: meta.uid.clone(),
        resource_version: meta.resource_version.clone(),
        field_path: None,
    }
}

/// Index values: the UID of the controller, or `orphan/NAMESPACE` for an object without one.
pub(crate) fn by_controller<K: Metadata<Ty = ObjectMeta>>(object: &K) -> Vec<String> {
    let meta = object.metadata();
    vec![match api::owner::controller_of(meta) {
        Some(owner) => owner.uid.clone(),
        None => orphans_of(namespace(meta)),
    }]
}

/// Name of the index that [`by_controller`] fills.
pub(crate) const BY_CONTROLLER: &str = "controller";

pub(crate) fn orphans_of(namespace: &str) -> String {
    format!("orphan/{namespace}")
}

/// Deletes exactly the object that was looked at: if it changed meanwhile, the decision has to be made again.
pub(crate) async fn delete_as_seen<K>(api: &Api<K>, seen: &ObjectMeta) -> Result<(), kube::Error>
where
    K: Resource + Clone + Serialize + DeserializeOwned + Debug + Send + Sync + 'static,
{
    let as_seen = Preconditions { uid: seen.uid.clone(), resource_version: seen.resource_version.clone() };
    let preconditions = Guard::AsSeen.holds().then_some(as_seen);
    let params = DeleteParams { preconditions, ..DeleteParams::default() };
    api.delete(name(seen), &params).await.map(|_| ())
}

/// Changes metadata of exactly the object that was looked at (a merge patch with its UID and resourceVersion).
pub(crate) async fn patch_metadata_as_seen<K>(
    api: &Api<K>,
    seen: &ObjectMeta,
    mut fields: Value,
) -> Result<K, kube::Error>
where
    K: Resource + Clone + Serialize + DeserializeOwned + Debug + Send + Sync + 'static,
{
    if let Value::Object(fields) = &mut fields
        && Guard::AsSeen.holds()
    {
        fields.insert("uid".into(), uid(seen).into());
        fields.insert("resourceVersion".into(), seen.resource_version.clone().unwrap_or_default().into());
    }
    let patch = Patch::Merge(serde_json::json!({ "metadata": fields }));
    api.patch(name(seen), &PatchParams::default(), &patch).await
}
