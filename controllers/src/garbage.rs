//! Garbage collection: an object goes when none of its owners lives (API reference: metadata.ownerReferences).
//!
//! Follows the metadata of every collection that discovery names, and asks discovery again when a custom resource
//! definition changes. What the graph says is only a hint: before anything
//! is deleted or changed the object is read afresh from the API server, and the write carries what was read.

pub mod graph;

use crate::{
    context::{Ctx, find_at, get_at},
    error::{Error, Result, ignore_not_found},
    run::{Controller, Next},
};
use async_trait::async_trait;
use client::{Change, PartialObject, Queue, Store};
use graph::{Action, Graph, Identity, Node, Owner};
use http::Request;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{APIGroupList, APIResourceList, ObjectMeta};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{
    collections::{HashMap, HashSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};
use tokio::sync::Notify;

/// A collection as discovery names it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Collection {
    /// `/api/v1` or `/apis/apps/v1`
    root: String,
    plural: String,
    namespaced: bool,
}

impl Collection {
    fn path(&self) -> String {
        format!("{}/{}", self.root, self.plural)
    }
    fn object(&self, namespace: &str, name: &str) -> String {
        if self.namespaced {
            format!("{}/namespaces/{namespace}/{}/{name}", self.root, self.plural)
        } else {
            format!("{}/{}/{name}", self.root, self.plural)
        }
    }
}

pub struct Garbage {
    ctx: Arc<Ctx>,
    collections: Arc<RwLock<Collections>>,
    graph: Arc<Mutex<Graph>>,
    /// A definition of a custom resource changed.
    definitions: Arc<Notify>,
}

/// By (apiVersion, kind).
type Collections = HashMap<(String, String), Collection>;

/// How long to wait before asking discovery again, when it did not answer.
const DISCOVERY_RETRY: Duration = Duration::from_millis(200);
/// The kind whose objects define kinds.
const DEFINITION: &str = "CustomResourceDefinition";

/// Runs the collector once discovery has said what there is to follow.
pub async fn run(ctx: Arc<Ctx>) {
    let token = ctx.token.clone();
    let discovered = token.run_until_cancelled(async {
        loop {
            match Garbage::new(Arc::clone(&ctx)).await {
                Ok(garbage) => return garbage,
                Err(error) => {
                    tracing::debug!(error = error.chain(), "discovery did not answer, asking again")
                }
            }
            tokio::time::sleep(DISCOVERY_RETRY).await;
        }
    });
    if let Some(garbage) = discovered.await {
        crate::run::run(ctx, garbage).await;
    }
}

/// The live state of an object, as the API server has it now.
#[derive(Debug, Deserialize)]
struct Live {
    metadata: ObjectMeta,
}

impl Garbage {
    /// Asks discovery which collections there are.
    pub async fn new(ctx: Arc<Ctx>) -> Result<Self> {
        let collections = discover(&ctx.client).await?;
        Ok(Self {
            ctx,
            collections: Arc::new(RwLock::new(collections)),
            graph: Arc::default(),
            definitions: Arc::default(),
        })
    }

    fn collection(&self, api_version: &str, kind: &str) -> Option<Collection> {
        let collections = self.collections.read().unwrap_or_else(PoisonError::into_inner);
        collections.get(&(api_version.to_owned(), kind.to_owned())).cloned()
    }

    async fn live(&self, node: &Node) -> Result<Option<Live>> {
        let identity = &node.identity;
        let Some(collection) = self.collection(&identity.api_version, &identity.kind) else {
            return Ok(None);
        };
        let found: Option<Live> =
            find_at(&self.ctx.client, &collection.object(&identity.namespace, &identity.name)).await?;
        Ok(found.filter(|live| live.metadata.uid.as_deref() == Some(node.uid.as_str())))
    }

    /// Whether an owner that the graph does not know lives: asked of the API server.
    async fn owner_lives(&self, owner: &Owner, namespace: &str) -> Result<bool> {
        let Some(collection) = self.collection(&owner.api_version, &owner.kind) else {
            // A kind we do not serve: nothing can be said, so nothing is deleted.
            return Ok(true);
        };
        let found: Option<Live> =
            find_at(&self.ctx.client, &collection.object(namespace, &owner.name)).await?;
        Ok(found.is_some_and(|live| live.metadata.uid.as_deref() == Some(owner.uid.as_str())))
    }

    async fn patch(&self, node: &Node, live: &Live, mut metadata: Value) -> Result<()> {
        let Some(collection) = self.collection(&node.identity.api_version, &node.identity.kind) else {
            return Ok(());
        };
        metadata["uid"] = json!(node.uid);
        metadata["resourceVersion"] = json!(live.metadata.resource_version);
        let path = collection.object(&node.identity.namespace, &node.identity.name);
        let body = json!({ "metadata": metadata }).to_string().into_bytes();
        let request = Request::patch(path)
            .header(http::header::CONTENT_TYPE, "application/merge-patch+json")
            .body(body)
            .map_err(|e| Error::Object(e.to_string()))?;
        Ok(ignore_not_found(self.ctx.client.request::<Value>(request).await)?)
    }

    async fn delete(&self, node: &Node, live: &Live, propagation: &str) -> Result<()> {
        let Some(collection) = self.collection(&node.identity.api_version, &node.identity.kind) else {
            return Ok(());
        };
        let path = collection.object(&node.identity.namespace, &node.identity.name);
        let options = json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": propagation,
            "preconditions": {"uid": node.uid, "resourceVersion": live.metadata.resource_version},
        });
        let request = Request::delete(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(options.to_string().into_bytes())
            .map_err(|e| Error::Object(e.to_string()))?;
        Ok(ignore_not_found(self.ctx.client.request::<Value>(request).await)?)
    }

    /// Takes a finalizer off the object as it was read.
    async fn drop_finalizer(&self, node: &Node, live: &Live, finalizer: &str) -> Result<()> {
        let rest: Vec<&String> =
            live.metadata.finalizers.iter().flatten().filter(|f| f.as_str() != finalizer).collect();
        self.patch(node, live, json!({ "finalizers": rest })).await
    }

    /// Takes the references to `owners` off the object as it was read.
    async fn drop_owners(&self, node: &Node, live: &Live, owners: &[String]) -> Result<()> {
        let rest: Vec<_> =
            live.metadata.owner_references.iter().flatten().filter(|o| !owners.contains(&o.uid)).collect();
        self.patch(node, live, json!({ "ownerReferences": rest })).await
    }

    fn lock(&self) -> MutexGuard<'_, Graph> {
        lock(&self.graph)
    }
}

#[async_trait]
impl Controller for Garbage {
    /// An object's UID.
    type Key = String;
    const NAME: &'static str = "garbage-collector";
    const WORKERS: usize = 4;

    fn watch(&self, queue: &Queue<String>) {
        let follower = Follower {
            ctx: Arc::clone(&self.ctx),
            collections: Arc::clone(&self.collections),
            graph: Arc::clone(&self.graph),
            definitions: Arc::clone(&self.definitions),
            queue: queue.clone(),
        };
        for ((api_version, kind), collection) in
            &*self.collections.read().unwrap_or_else(PoisonError::into_inner)
        {
            follower.follow(api_version, kind, collection);
        }
        let token = self.ctx.token.clone();
        self.ctx.tracker.spawn(token.run_until_cancelled_owned(follower.run()));
    }

    async fn reconcile(&self, uid: &String) -> Result<Next> {
        let Some(hint) = self.lock().get(uid).cloned() else { return Ok(Next::Wait) };
        if self.lock().decide(&hint, &HashSet::new()) == Action::Nothing {
            return Ok(Next::Wait);
        }
        let Some(live) = self.live(&hint).await? else { return Ok(Next::Wait) };
        let node = node(&hint.identity.api_version, &hint.identity.kind, &live.metadata);
        let mut gone = HashSet::new();
        let mut action = self.lock().decide(&node, &gone);
        if let Action::Ask(owners) = &action {
            for owner in owners {
                if self.owner_lives(owner, &node.identity.namespace).await? {
                    // It lives but has not reached the graph (or is of a kind we do not follow).
                    return Ok(Next::Wait);
                }
                gone.insert(owner.uid.clone());
            }
            action = self.lock().decide(&node, &gone);
        }
        match action {
            // Owners that came to be unknown in between: look again.
            Action::Ask(_) => {
                return Err(Error::NotYet(format!("owners of {} changed meanwhile", node.identity.name)));
            }
            Action::Nothing => {}
            Action::DropOwners(owners) => self.drop_owners(&node, &live, &owners).await?,
            Action::Delete { propagation } => {
                tracing::debug!(
                    kind = node.identity.kind,
                    name = node.identity.name,
                    "no owner lives: deleting"
                );
                self.delete(&node, &live, propagation).await?;
            }
            Action::Unblock => {
                let mut owners = live.metadata.owner_references.clone().unwrap_or_default();
                owners.iter_mut().for_each(|o| o.block_owner_deletion = Some(false));
                self.patch(&node, &live, json!({ "ownerReferences": owners })).await?;
            }
            Action::FinishForeground => self.drop_finalizer(&node, &live, graph::FOREGROUND).await?,
            Action::Orphan { dependents } => {
                for uid in dependents {
                    let dependent = self.lock().get(&uid).cloned();
                    let Some(dependent) = dependent else { continue };
                    if let Some(live) = self.live(&dependent).await? {
                        self.drop_owners(&dependent, &live, std::slice::from_ref(&node.uid)).await?;
                    }
                }
                self.drop_finalizer(&node, &live, graph::ORPHAN).await?;
            }
        }
        Ok(Next::Wait)
    }
}

/// Every collection that can be followed and deleted from.
async fn discover(client: &kube::Client) -> Result<Collections> {
    let mut roots = vec![("v1".to_owned(), "/api/v1".to_owned())];
    let groups: APIGroupList = get_at(client, "/apis").await?;
    for version in groups.groups.into_iter().flat_map(|g| g.versions) {
        roots.push((version.group_version.clone(), format!("/apis/{}", version.group_version)));
    }
    let mut collections = HashMap::new();
    for (api_version, root) in roots {
        let list: APIResourceList = get_at(client, &root).await?;
        for resource in list.resources {
            let can = |verb: &str| resource.verbs.iter().any(|v| v == verb);
            // Events own nothing and are owned by nothing, and there are many of them.
            if resource.name.contains('/') || resource.kind == "Event" || !can("watch") || !can("delete") {
                continue;
            }
            let collection =
                Collection { root: root.clone(), plural: resource.name, namespaced: resource.namespaced };
            collections.insert((api_version.clone(), resource.kind), collection);
        }
    }
    Ok(collections)
}

/// Keeps what is followed in step with what is served.
struct Follower {
    ctx: Arc<Ctx>,
    collections: Arc<RwLock<Collections>>,
    graph: Arc<Mutex<Graph>>,
    definitions: Arc<Notify>,
    queue: Queue<String>,
}

impl Follower {
    fn follow(&self, api_version: &str, kind: &str, collection: &Collection) {
        let store: Store<PartialObject> = self.ctx.informers.metadata(&collection.path());
        let (graph, queue) = (Arc::clone(&self.graph), self.queue.clone());
        let definitions = (kind == DEFINITION).then(|| Arc::clone(&self.definitions));
        let (api_version, kind) = (api_version.to_owned(), kind.to_owned());
        store.on_change(move |change| {
            let again = match change {
                Change::Applied { new, .. } => lock(&graph).apply(node(&api_version, &kind, &new.metadata)),
                Change::Deleted(last) => {
                    lock(&graph).remove(last.metadata.uid.as_deref().unwrap_or_default())
                }
            };
            again.into_iter().for_each(|uid| queue.add(uid));
            if let Some(definitions) = &definitions {
                definitions.notify_one();
            }
        });
    }

    /// Never returns; drop it to stop.
    async fn run(self) {
        loop {
            self.definitions.notified().await;
            let found = loop {
                match discover(&self.ctx.client).await {
                    Ok(found) => break found,
                    Err(error) => {
                        tracing::debug!(error = error.chain(), "discovery did not answer, asking again");
                    }
                }
                tokio::time::sleep(DISCOVERY_RETRY).await;
            };
            let known = {
                let mut known = self.collections.write().unwrap_or_else(PoisonError::into_inner);
                std::mem::replace(&mut *known, found.clone())
            };
            for (name, gone) in known.iter().filter(|(name, c)| found.get(*name) != Some(*c)) {
                tracing::debug!(kind = name.1, "no longer served: no longer followed");
                self.ctx.informers.forget_metadata(&gone.path());
            }
            for ((api_version, kind), new) in found.iter().filter(|(name, c)| known.get(*name) != Some(*c)) {
                self.follow(api_version, kind, new);
            }
        }
    }
}

fn lock(graph: &Mutex<Graph>) -> MutexGuard<'_, Graph> {
    graph.lock().unwrap_or_else(PoisonError::into_inner)
}

fn node(api_version: &str, kind: &str, meta: &ObjectMeta) -> Node {
    let owner = |o: &k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference| Owner {
        api_version: o.api_version.clone(),
        kind: o.kind.clone(),
        name: o.name.clone(),
        uid: o.uid.clone(),
        blocks: o.block_owner_deletion == Some(true),
    };
    Node {
        uid: meta.uid.clone().unwrap_or_default(),
        identity: Identity {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            namespace: meta.namespace.clone().unwrap_or_default(),
            name: meta.name.clone().unwrap_or_default(),
        },
        owners: meta.owner_references.iter().flatten().map(owner).collect(),
        deleting: meta.deletion_timestamp.is_some(),
        finalizers: meta.finalizers.clone().unwrap_or_default(),
    }
}
