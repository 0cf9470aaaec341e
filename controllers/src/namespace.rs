//! Deletes what is in a namespace that is going, then lets it go: pods first, everything else only once no pod
//! remains (KEP-5080), the finalizer `kubernetes` last. What there is to delete comes from discovery.

use crate::{
    context::{Ctx, name, namespace},
    error::{Error, Result, api_message, ignore_not_found, is_not_found},
    run::{Controller, Next, ObjectKey},
};
use api::conditions;
use async_trait::async_trait;
use client::{Change, Queue, Store};
use http::Request;
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{Namespace, NamespaceCondition, NamespaceStatus, Pod},
    apimachinery::pkg::apis::meta::v1::{APIResource, ListMeta, ObjectMeta},
};
use kube::{Api, api::PostParams};
use serde::Deserialize;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

const FINALIZER: &str = "kubernetes";

/// How soon to look again at a namespace whose content is not gone yet: a quarter of the time it has been waited for,
/// within these bounds. Pods wake it by themselves; other kinds may be held by anybody's finalizer.
const SOONEST: Duration = Duration::from_millis(50);
const LATEST: Duration = Duration::from_secs(5);

/// Objects counted for the message about what remains; beyond this the server's own count is taken.
const COUNT_LIMIT: u32 = 500;

/// A namespaced collection that can be listed and deleted.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Collection {
    /// `pods.` or `statefulsets.apps`, as the conditions name it.
    label: String,
    /// `/api/v1` or `/apis/apps/v1`.
    root: String,
    plural: String,
    /// Whether it can be deleted as a whole.
    as_a_whole: bool,
}

impl Collection {
    fn path(&self, namespace: &str) -> String {
        format!("{}/namespaces/{namespace}/{}", self.root, self.plural)
    }
}

/// What one pass over a namespace found out.
#[derive(Debug, Default)]
struct Findings {
    /// Why discovery is not complete.
    discovery: Vec<String>,
    /// Why something could not be deleted.
    failures: Vec<String>,
    /// How many objects are left, by collection, and held by which finalizers.
    remaining: BTreeMap<String, i64>,
    finalizers: BTreeMap<String, i64>,
}

pub struct Namespaces {
    ctx: Arc<Ctx>,
    namespaces: Store<Namespace>,
    pods: Store<Pod>,
}

impl Namespaces {
    pub fn new(ctx: Arc<Ctx>) -> Self {
        Self { namespaces: ctx.informers.store(), pods: ctx.informers.store(), ctx }
    }

    /// Asks for every pass, so that kinds that came or went meanwhile are seen.
    async fn discover(&self, findings: &mut Findings) -> Vec<Collection> {
        let client = &self.ctx.client;
        let mut roots = vec![(String::new(), "/api/v1".to_owned())];
        match client.list_api_groups().await {
            Ok(groups) => roots.extend(groups.groups.into_iter().filter_map(|group| {
                let version = group.preferred_version.or_else(|| group.versions.first().cloned())?;
                Some((group.name, format!("/apis/{}", version.group_version)))
            })),
            Err(error) => findings.discovery.push(api_message(&error)),
        }
        let mut collections = Vec::new();
        for (group, root) in roots {
            let resources = match root.strip_prefix("/apis/") {
                Some(group_version) => client.list_api_group_resources(group_version).await,
                None => client.list_core_api_resources("v1").await,
            };
            match resources {
                Ok(list) => collections
                    .extend(list.resources.into_iter().filter_map(|r| collection(&group, &root, r))),
                Err(error) => findings.discovery.push(format!("{root}: {}", api_message(&error))),
            }
        }
        collections
    }

    /// Deletes a collection and counts what is left of it.
    async fn empty(&self, collection: &Collection, ns: &str, findings: &mut Findings) {
        if let Err(error) = self.try_empty(collection, ns, findings).await {
            findings.failures.push(format!("{}: {}", collection.label, error.chain()));
        }
    }

    async fn try_empty(&self, collection: &Collection, ns: &str, findings: &mut Findings) -> Result<()> {
        let path = collection.path(ns);
        if self.list(&path).await?.items.is_empty() {
            return Ok(());
        }
        if collection.as_a_whole {
            self.delete(&path).await?;
        } else {
            for item in self.list(&path).await?.items {
                self.delete(&format!("{path}/{}", name(&item.metadata))).await?;
            }
        }
        let left = self.list(&path).await?;
        if left.items.is_empty() {
            return Ok(());
        }
        let count = i64::try_from(left.items.len()).unwrap_or(i64::MAX);
        let more = left.metadata.remaining_item_count.unwrap_or(0);
        findings.remaining.insert(collection.label.clone(), count.saturating_add(more));
        for finalizer in left.items.iter().flat_map(|i| i.metadata.finalizers.iter().flatten()) {
            *findings.finalizers.entry(finalizer.clone()).or_default() += 1;
        }
        Ok(())
    }

    async fn list(&self, path: &str) -> Result<Left> {
        let request = Request::get(format!("{path}?limit={COUNT_LIMIT}"))
            .header(
                http::header::ACCEPT,
                "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1,application/json",
            )
            .body(Vec::new())
            .map_err(|e| Error::Object(e.to_string()))?;
        match self.ctx.client.request::<Left>(request).await {
            Ok(left) => Ok(left),
            // The kind has just gone, and everything of it.
            Err(error) if is_not_found(&error) => Ok(Left::default()),
            Err(error) => Err(error.into()),
        }
    }

    async fn delete(&self, path: &str) -> Result<()> {
        let options = serde_json::json!({"apiVersion": "v1", "kind": "DeleteOptions", "propagationPolicy": "Background"});
        let request = Request::delete(path)
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(options.to_string().into_bytes())
            .map_err(|e| Error::Object(e.to_string()))?;
        // The body is a Status or the deleted objects; neither is needed.
        Ok(ignore_not_found(self.ctx.client.request_text(request).await)?)
    }

    async fn write_status(&self, seen: &Namespace, findings: &Findings) -> Result<()> {
        let mut ns = seen.clone();
        if update_status(ns.status.get_or_insert_default(), findings, self.ctx.clock.now()) {
            let api: Api<Namespace> = Api::all(self.ctx.client.clone());
            ignore_not_found(api.replace_status(name(&seen.metadata), &PostParams::default(), &ns).await)?;
        }
        Ok(())
    }

    /// Lets it go. The namespace is read again: only its finalizers count, and others may have changed it meanwhile.
    async fn finalize(&self, seen: &Namespace) -> Result<()> {
        let api: Api<Namespace> = Api::all(self.ctx.client.clone());
        let Some(mut fresh) = api.get_opt(name(&seen.metadata)).await? else { return Ok(()) };
        if fresh.metadata.uid != seen.metadata.uid || fresh.metadata.deletion_timestamp.is_none() {
            return Ok(());
        }
        if let Some(finalizers) = fresh.spec.as_mut().and_then(|s| s.finalizers.as_mut()) {
            finalizers.retain(|f| f != FINALIZER);
        }
        let done =
            api.replace_subresource("finalize", name(&seen.metadata), &PostParams::default(), &fresh).await;
        Ok(ignore_not_found(done)?)
    }
}

#[derive(Debug, Default, Deserialize)]
struct Left {
    #[serde(default)]
    metadata: ListMeta,
    #[serde(default)]
    items: Vec<LeftItem>,
}

#[derive(Debug, Deserialize)]
struct LeftItem {
    metadata: ObjectMeta,
}

fn collection(group: &str, root: &str, resource: APIResource) -> Option<Collection> {
    let can = |verb: &str| resource.verbs.iter().any(|v| v == verb);
    let content = resource.namespaced && !resource.name.contains('/') && can("list") && can("delete");
    content.then(|| Collection {
        label: format!("{}.{group}", resource.name),
        root: root.to_owned(),
        as_a_whole: can("deletecollection"),
        plural: resource.name,
    })
}

/// Sets Kubernetes' five conditions; returns whether anything changed.
fn update_status(status: &mut NamespaceStatus, findings: &Findings, now: Timestamp) -> bool {
    let list = |counts: &BTreeMap<String, i64>, text: fn(&String, &i64) -> String| {
        counts
            .iter()
            .map(|(k, n)| text(k, n))
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect::<Vec<_>>()
            .join(", ")
    };
    let failed = &findings.failures;
    let five = [
        (
            "NamespaceDeletionDiscoveryFailure",
            (!findings.discovery.is_empty()).then(|| ("DiscoveryFailed", findings.discovery.join(", "))),
            ("ResourcesDiscovered", "All resources successfully discovered"),
        ),
        (
            "NamespaceDeletionGroupVersionParsingFailure",
            None,
            ("ParsedGroupVersions", "All legacy kube types successfully parsed"),
        ),
        (
            "NamespaceDeletionContentFailure",
            (!failed.is_empty()).then(|| {
                let text = failed.join(", ");
                (
                    "ContentDeletionFailed",
                    format!("Failed to delete all resource types, {} remaining: {text}", failed.len()),
                )
            }),
            ("ContentDeleted", "All content successfully deleted, may be waiting on finalization"),
        ),
        (
            "NamespaceContentRemaining",
            (!findings.remaining.is_empty()).then(|| {
                let kinds = list(&findings.remaining, |kind, n| format!("{kind} has {n} resource instances"));
                ("SomeResourcesRemain", format!("Some resources are remaining: {kinds}"))
            }),
            ("ContentRemoved", "All content successfully removed"),
        ),
        (
            "NamespaceFinalizersRemaining",
            (!findings.finalizers.is_empty()).then(|| {
                let held = list(&findings.finalizers, |f, n| format!("{f} in {n} resource instances"));
                (
                    "SomeFinalizersRemain",
                    format!("Some content in the namespace has finalizers remaining: {held}"),
                )
            }),
            ("ContentHasNoFinalizers", "All content-preserving finalizers finished"),
        ),
    ];
    let all = status.conditions.get_or_insert_default();
    let mut changed = false;
    for (type_, problem, (fine_reason, fine_text)) in five {
        let (status, reason, message) = match problem {
            Some((reason, message)) => ("True", reason, message),
            None => ("False", fine_reason, fine_text.to_owned()),
        };
        let condition = NamespaceCondition {
            type_: type_.to_owned(),
            status: status.to_owned(),
            reason: Some(reason.to_owned()),
            message: Some(message),
            last_transition_time: None,
        };
        changed |= conditions::set(all, condition, now);
    }
    changed
}

#[async_trait]
impl Controller for Namespaces {
    type Key = ObjectKey;
    const NAME: &'static str = "namespace";

    fn watch(&self, queue: &Queue<ObjectKey>) {
        let q = queue.clone();
        self.namespaces.on_change(move |change| {
            if let Change::Applied { new, .. } = change
                && new.metadata.deletion_timestamp.is_some()
            {
                q.add(ObjectKey::of(&new.metadata));
            }
        });
        let (q, namespaces) = (queue.clone(), self.namespaces.clone());
        self.pods.on_change(move |change| {
            if let Change::Deleted(pod) = change
                && let Some(ns) = namespaces.get("", namespace(&pod.metadata))
                && ns.metadata.deletion_timestamp.is_some()
            {
                q.add(ObjectKey::of(&ns.metadata));
            }
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(ns) = self.namespaces.get("", &key.name) else { return Ok(Next::Wait) };
        let ours = ns
            .spec
            .as_ref()
            .and_then(|s| s.finalizers.as_ref())
            .is_some_and(|f| f.iter().any(|f| f == FINALIZER));
        let Some(deleted) = ns.metadata.deletion_timestamp.as_ref().filter(|_| ours) else {
            return Ok(Next::Wait);
        };
        let mut findings = Findings::default();
        let collections = self.discover(&mut findings).await;
        let (pods, others): (Vec<_>, Vec<_>) = collections.iter().partition(|c| c.label == "pods.");
        for pods in &pods {
            self.empty(pods, &key.name, &mut findings).await;
        }
        // With no discovery of pods nothing says that none remain.
        let pods_gone = !pods.is_empty() && findings.remaining.is_empty() && findings.failures.is_empty();
        if pods_gone {
            for other in &others {
                self.empty(other, &key.name, &mut findings).await;
            }
        }
        if pods_gone
            && findings.remaining.is_empty()
            && findings.failures.is_empty()
            && findings.discovery.is_empty()
        {
            self.finalize(&ns).await?;
            return Ok(Next::Wait);
        }
        self.write_status(&ns, &findings).await?;
        let waited = self.ctx.clock.now().duration_since(deleted.0);
        let pause = Duration::try_from(waited).unwrap_or_default() / 4;
        Ok(Next::After(pause.clamp(SOONEST, LATEST)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn resource(name: &str, namespaced: bool, verbs: &[&str]) -> APIResource {
        serde_json::from_value(
            json!({"name": name, "singularName": "", "namespaced": namespaced, "kind": "K", "verbs": verbs}),
        )
        .unwrap()
    }

    #[test]
    fn what_counts_as_content() {
        let all = ["list", "delete", "deletecollection"];
        let apps = |r| collection("apps", "/apis/apps/v1", r);
        let sets = apps(resource("statefulsets", true, &all)).unwrap();
        assert_eq!((sets.label.as_str(), sets.as_a_whole), ("statefulsets.apps", true));
        assert_eq!(sets.path("ns"), "/apis/apps/v1/namespaces/ns/statefulsets");
        assert!(!apps(resource("statefulsets", true, &["list", "delete"])).unwrap().as_a_whole);
        for not in [
            resource("statefulsets/scale", true, &all),
            resource("nodes", false, &all),
            resource("bindings", true, &["create"]),
        ] {
            assert_eq!(apps(not), None);
        }
    }

    #[test]
    fn conditions_say_what_remains_and_settle() {
        let now = Timestamp::from_second(100).unwrap();
        let mut status = NamespaceStatus::default();
        let mut findings = Findings::default();
        findings.remaining.insert("pods.".into(), 2);
        findings.finalizers.insert("example.com/hold".into(), 1);
        assert!(update_status(&mut status, &findings, now));
        assert!(!update_status(&mut status, &findings, now), "nothing new");
        let all = status.conditions.clone().unwrap();
        assert_eq!(all.len(), 5);
        let message = |type_: &str| conditions::find(&all, type_).unwrap().message.clone().unwrap();
        assert_eq!(
            message("NamespaceContentRemaining"),
            "Some resources are remaining: pods. has 2 resource instances"
        );
        assert_eq!(
            message("NamespaceFinalizersRemaining"),
            "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances"
        );
        assert!(!conditions::is_true(&all, "NamespaceDeletionContentFailure"));
        findings.failures.push("pods.: no".into());
        assert!(update_status(&mut status, &findings, now));
        assert!(conditions::is_true(
            status.conditions.as_deref().unwrap(),
            "NamespaceDeletionContentFailure"
        ));
        assert!(update_status(&mut status, &Findings::default(), now));
        assert!(status.conditions.unwrap().iter().all(|c| c.status == "False"));
    }
}
