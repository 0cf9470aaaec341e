//! Keeps the index as the store has the objects: four watches, and the whole index anew after each change.

use super::{
    Authorizer,
    index::{Index, Objects},
};
use crate::{
    error::Result,
    kinds::AnyObject,
    registry::{Registry, decode, prefix, selection::names, storage_error},
};
use futures::{StreamExt, stream::SelectAll};
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, Role, RoleBinding};
use std::{sync::Arc, time::Duration};
use storage::{Event, EventKind, ListOptions, Watch};

const PLURALS: [&str; 4] = ["clusterroles", "clusterrolebindings", "roles", "rolebindings"];
/// After a watch was cut (too slow, compacted): a moment, then all anew.
const PAUSE: Duration = Duration::from_millis(200);

impl Objects {
    fn put(&mut self, object: &dyn AnyObject) {
        let meta = object.meta();
        let name = meta.name.clone().unwrap_or_default();
        let key = || (meta.namespace.clone().unwrap_or_default(), name.clone());
        let any = object.as_any();
        if let Some(role) = any.downcast_ref::<ClusterRole>() {
            self.cluster_roles.insert(name.clone(), role.clone());
        } else if let Some(binding) = any.downcast_ref::<ClusterRoleBinding>() {
            self.cluster_role_bindings.insert(name.clone(), binding.clone());
        } else if let Some(role) = any.downcast_ref::<Role>() {
            self.roles.insert(key(), role.clone());
        } else if let Some(binding) = any.downcast_ref::<RoleBinding>() {
            self.role_bindings.insert(key(), binding.clone());
        }
    }

    fn remove(&mut self, plural: &str, namespace: &str, name: &str) {
        let key = (namespace.to_owned(), name.to_owned());
        match plural {
            "clusterroles" => drop(self.cluster_roles.remove(name)),
            "clusterrolebindings" => drop(self.cluster_role_bindings.remove(name)),
            "roles" => drop(self.roles.remove(&key)),
            _ => drop(self.role_bindings.remove(&key)),
        }
    }
}

/// Everything stored, added to `objects`; and the watches that go on from there.
async fn load(registry: &Registry, objects: &mut Objects) -> Result<Vec<(&'static str, Watch)>> {
    let mut watches = Vec::new();
    for plural in PLURALS {
        let Some(kind) = registry.kind_named(plural) else { continue };
        let prefix = prefix(kind, "")?;
        let list = registry.store().list(&prefix, ListOptions::default()).await.map_err(storage_error)?;
        for kv in &list.items {
            objects.put(&*decode(kind, kv)?);
        }
        let watch = registry.store().watch(prefix, list.revision).await.map_err(storage_error)?;
        watches.push((plural, watch));
    }
    Ok(watches)
}

/// Before the first request: what is stored, over what every cluster has. So a first start, whose bootstrap has not
/// written anything yet, already knows its own components.
pub(crate) async fn prime(authorizer: &Authorizer, registry: &Registry) -> Result<()> {
    let mut objects = super::policy::objects();
    load(registry, &mut objects).await?;
    authorizer.set(Index::build(&objects));
    Ok(())
}

/// Never returns; drop it to stop. To be begun once the bootstrap has written its objects.
pub(crate) async fn run(authorizer: Arc<Authorizer>, registry: Registry) {
    loop {
        match follow(&authorizer, &registry).await {
            Ok(()) => tracing::debug!("a watch of roles ended; listing them again"),
            Err(error) => {
                tracing::warn!(%error, "roles cannot be read; what was known of them stays in force")
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

async fn follow(authorizer: &Authorizer, registry: &Registry) -> Result<()> {
    let mut objects = Objects::default();
    let watches = load(registry, &mut objects).await?;
    authorizer.set(Index::build(&objects));
    let mut events: SelectAll<_> = watches
        .into_iter()
        .map(|(plural, watch)| {
            Box::pin(futures::stream::unfold(watch, move |mut watch| async move {
                Some(((plural, watch.next().await), watch))
            }))
        })
        .collect();
    // What is queued already is taken in before the index is built: a burst costs one build.
    let mut next = events.next().await;
    while let Some((plural, event)) = next {
        let Some(event) = event else { return Ok(()) };
        let event = event.map_err(storage_error)?;
        apply(&mut objects, registry, plural, &event)?;
        next = match futures::FutureExt::now_or_never(events.next()) {
            Some(more) => more,
            None => {
                authorizer.set(Index::build(&objects));
                events.next().await
            }
        };
    }
    Ok(())
}

fn apply(objects: &mut Objects, registry: &Registry, plural: &str, event: &Event) -> Result<()> {
    let Some(kind) = registry.kind_named(plural) else { return Ok(()) };
    if event.kind == EventKind::Deleted {
        let (namespace, name) = names(kind, &event.key);
        objects.remove(plural, namespace, name);
        return Ok(());
    }
    let object = kind.decode_stored(&event.value).map_err(crate::error::ApiError::Internal)?;
    objects.put(&*object);
    Ok(())
}
