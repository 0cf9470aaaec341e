//! Counts what a namespace uses of its quotas: anew whenever something goes or ends, when a quota changes, and now and
//! then in any case.
//!
//! Admission counts up, with each write; only this controller counts down. It reads what there is from the API server after
//! it saw the quota, and writes at the revision it saw: were anything made meanwhile, the quota would have changed too,
//! and the count is made again. So it never forgets an object that admission let in.

use crate::{
    context::{Ctx, find_at, namespace},
    error::{Error, Result, is_not_found},
    run::{Controller, Next, ObjectKey},
};
use api::{
    clock::Clock,
    pod,
    pod::Resources,
    quantity::Quantity,
    quota::{self, Counted},
};
use async_trait::async_trait;
use client::{Change, PartialObject, Queue, Store};
use k8s_openapi::{
    api::core::v1::{
        PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaSpec, ResourceQuotaStatus, Service,
    },
    apimachinery::pkg::apis::meta::v1::APIGroup,
};
use kube::api::{ListParams, PostParams};
use serde::Deserialize;
use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

/// As often everything is counted that nothing was heard of: Kubernetes' own.
const RESYNC: Duration = Duration::from_secs(300);
/// Things go by the dozen: one count after this long serves them all.
const GATHER: Duration = Duration::from_millis(100);

pub struct ResourceQuotas {
    ctx: Arc<Ctx>,
    quotas: Store<ResourceQuota>,
    pods: Store<Pod>,
    services: Store<Service>,
    claims: Store<PersistentVolumeClaim>,
    /// Collections of which only the number counts, and which are followed already.
    followed: Mutex<BTreeSet<String>>,
    queue: OnceLock<Queue<ObjectKey>>,
}

/// A namespace's objects, as far as its quota is about them.
#[derive(Default)]
struct Present {
    pods: Vec<Pod>,
    services: Vec<Service>,
    claims: Vec<PersistentVolumeClaim>,
    /// By the quota's name for them.
    others: Vec<(String, i64)>,
}

impl ResourceQuotas {
    pub fn new(ctx: Arc<Ctx>) -> Self {
        Self {
            quotas: ctx.informers.store(),
            pods: ctx.informers.store(),
            services: ctx.informers.store(),
            claims: ctx.informers.store(),
            followed: Mutex::default(),
            queue: OnceLock::new(),
            ctx,
        }
    }

    async fn present(&self, ns: &str, spec: &ResourceQuotaSpec) -> Result<Present> {
        let names: Vec<&str> = spec.hard.iter().flatten().map(|(name, _)| name.as_str()).collect();
        let about = |sort: Counted<'_>| names.iter().any(|name| sort.is_counted_as(name));
        let (pod, service, claim) = (Pod::default(), Service::default(), PersistentVolumeClaim::default());
        let all = ListParams::default();
        let mut present = Present::default();
        if about(Counted::Pod(&pod)) {
            present.pods = self.ctx.api::<Pod>(ns).list(&all).await?.items;
        }
        if about(Counted::Service(&service)) {
            present.services = self.ctx.api::<Service>(ns).list(&all).await?.items;
        }
        if about(Counted::Claim(&claim)) {
            present.claims = self.ctx.api::<PersistentVolumeClaim>(ns).list(&all).await?.items;
        }
        for name in names {
            let Some((group, plural)) = quota::counted_kind(name) else { continue };
            if group.is_empty() && matches!(plural, "pods" | "services" | "persistentvolumeclaims") {
                continue;
            }
            // A kind that is not served has no objects, and none can be made.
            let Some(root) = self.root(group).await? else { continue };
            if let Some(count) = self.count(&root, ns, plural).await? {
                self.follow(&format!("{root}/{plural}"));
                present.others.push((name.to_owned(), count));
            }
        }
        Ok(present)
    }

    /// `/apis/apps/v1`, at the version that the group prefers.
    async fn root(&self, group: &str) -> Result<Option<String>> {
        if group.is_empty() {
            return Ok(Some("/api/v1".to_owned()));
        }
        let group: Option<APIGroup> = find_at(&self.ctx.client, &format!("/apis/{group}")).await?;
        let version = group.and_then(|g| {
            let first = g.versions.first().cloned();
            g.preferred_version.or(first)
        });
        Ok(version.map(|v| format!("/apis/{}", v.group_version)))
    }

    /// How many there are, without reading them.
    async fn count(&self, root: &str, ns: &str, plural: &str) -> Result<Option<i64>> {
        #[derive(Deserialize)]
        struct List {
            metadata: Meta,
            items: Vec<serde::de::IgnoredAny>,
        }
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Meta {
            #[serde(default)]
            remaining_item_count: i64,
        }
        let list: Option<List> =
            find_at(&self.ctx.client, &format!("{root}/namespaces/{ns}/{plural}?limit=1")).await?;
        Ok(list.map(|l| i64::try_from(l.items.len()).unwrap_or(i64::MAX) + l.metadata.remaining_item_count))
    }

    /// Hears of what goes from a collection; once for all quotas.
    fn follow(&self, path: &str) {
        let Some(queue) = self.queue.get() else { return };
        let mut followed = self.followed.lock().unwrap_or_else(PoisonError::into_inner);
        if followed.insert(path.to_owned()) {
            let store: Store<PartialObject> = self.ctx.informers.metadata(path);
            let touched = self.touched(queue);
            store.on_change(move |change| {
                if let Change::Deleted(gone) = change {
                    touched(namespace(&gone.metadata));
                }
            });
        }
    }

    /// To be told of a namespace in which less may be used now.
    fn touched(&self, queue: &Queue<ObjectKey>) -> impl Fn(&str) + Send + Sync + use<> {
        let (quotas, queue) = (self.quotas.clone(), queue.clone());
        move |ns| {
            for quota in quotas.in_namespace(ns) {
                queue.add_after(ObjectKey::of(&quota.metadata), GATHER);
            }
        }
    }
}

/// What the quota's status should say. Pure.
fn recount(spec: &ResourceQuotaSpec, present: &Present, clock: &dyn Clock) -> ResourceQuotaStatus {
    let (hard, now) = (spec.hard.clone().unwrap_or_default(), clock.now());
    let mut used = Resources::new();
    let mut add = |sort: Counted<'_>, object: Option<Counted<'_>>| {
        let usage = object.filter(|o| o.is_in_scopes_of(spec)).map(|o| o.usage(now)).unwrap_or_default();
        for name in hard.keys().filter(|name| sort.is_counted_as(name)) {
            *used.entry(name.clone()).or_default() += usage.get(name).copied().unwrap_or_default();
        }
    };
    // Each sort once for the zeros: what is counted and not there is said to be none.
    let (pod, service, claim) = (Pod::default(), Service::default(), PersistentVolumeClaim::default());
    for sort in [Counted::Pod(&pod), Counted::Service(&service), Counted::Claim(&claim)] {
        add(sort, None);
    }
    present.pods.iter().map(Counted::Pod).for_each(|c| add(c, Some(c)));
    present.services.iter().map(Counted::Service).for_each(|c| add(c, Some(c)));
    present.claims.iter().map(Counted::Claim).for_each(|c| add(c, Some(c)));
    let unscoped = spec.scopes.as_ref().is_none_or(Vec::is_empty) && spec.scope_selector.is_none();
    for (name, count) in present.others.iter().filter(|(name, _)| hard.contains_key(name)) {
        used.insert(name.clone(), Quantity::from_units(if unscoped { *count } else { 0 }));
    }
    ResourceQuotaStatus { hard: Some(hard), used: Some(quota::texts(&used)) }
}

/// Whether both say the same, in whatever words.
fn same(have: Option<&ResourceQuotaStatus>, want: &ResourceQuotaStatus) -> bool {
    have.is_some_and(|have| {
        have.hard == want.hard && quota::amounts(have.used.as_ref()) == quota::amounts(want.used.as_ref())
    })
}

#[async_trait]
impl Controller for ResourceQuotas {
    type Key = ObjectKey;
    const NAME: &'static str = "resource-quota";

    fn watch(&self, queue: &Queue<ObjectKey>) {
        let _ = self.queue.set(queue.clone());
        let q = queue.clone();
        self.quotas.on_change(move |change| {
            if let Change::Applied { old, new } = change {
                let hard = |quota: &ResourceQuota| quota.spec.as_ref().and_then(|s| s.hard.clone());
                let counted = new.status.as_ref().and_then(|s| s.hard.clone());
                // What admission adds needs no second look.
                if old.is_none() || counted != hard(new) {
                    q.add(ObjectKey::of(&new.metadata));
                }
            }
        });
        let touched = self.touched(queue);
        self.pods.on_change(move |change| match change {
            // A resize gives back what it takes away once the node has done so.
            Change::Applied { old: Some(old), new }
                if pod::is_terminal(new) != pod::is_terminal(old)
                    || pod::requests_of(new) != pod::requests_of(old)
                    || pod::limits_of(new) != pod::limits_of(old) =>
            {
                touched(namespace(&new.metadata));
            }
            Change::Deleted(gone) => touched(namespace(&gone.metadata)),
            Change::Applied { .. } => {}
        });
        let touched = self.touched(queue);
        self.services.on_change(move |change| match change {
            Change::Applied { old: Some(old), new } if old.spec != new.spec => {
                touched(namespace(&new.metadata));
            }
            Change::Deleted(gone) => touched(namespace(&gone.metadata)),
            Change::Applied { .. } => {}
        });
        let touched = self.touched(queue);
        self.claims.on_change(move |change| match change {
            Change::Applied { old: Some(old), new } if old.spec != new.spec || old.status != new.status => {
                touched(namespace(&new.metadata));
            }
            Change::Deleted(gone) => touched(namespace(&gone.metadata)),
            Change::Applied { .. } => {}
        });
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(quota) = self.quotas.get(&key.namespace, &key.name) else { return Ok(Next::Wait) };
        let spec = quota.spec.clone().unwrap_or_default();
        let present = self.present(&key.namespace, &spec).await?;
        let status = recount(&spec, &present, &*self.ctx.clock);
        if same(quota.status.as_ref(), &status) {
            return Ok(Next::After(RESYNC));
        }
        let counted = ResourceQuota { status: Some(status), ..(*quota).clone() };
        let api = self.ctx.api::<ResourceQuota>(&key.namespace);
        match api.replace_status(&key.name, &PostParams::default(), &counted).await.map_err(Error::from) {
            Ok(_) => Ok(Next::After(RESYNC)),
            // Something was made meanwhile, or our cache is late. No failure to back off from: somebody else wrote.
            Err(error) if error.is_conflict() => Ok(Next::After(GATHER)),
            Err(Error::Api(error)) if is_not_found(&error) => Ok(Next::Wait),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use api::clock::ManualClock;
    use serde::de::DeserializeOwned;
    use serde_json::{Value, json};

    fn objects<T: DeserializeOwned>(values: &[Value]) -> Vec<T> {
        values.iter().map(|v| serde_json::from_value(v.clone()).unwrap()).collect()
    }

    #[test]
    fn what_there_is_counts_and_what_is_not_counts_as_none() {
        let pod = |cpu: &str, phase: &str| {
            json!({"metadata": {}, "status": {"phase": phase}, "spec": {"containers": [
                {"name": "a", "resources": {"requests": {"cpu": cpu}}}]}})
        };
        let bare = json!({"metadata": {}, "spec": {"containers": [{"name": "a"}]}});
        let present = || Present {
            pods: objects(&[
                pod("250m", "Running"),
                pod("500m", "Pending"),
                pod("1", "Succeeded"),
                bare.clone(),
            ]),
            services: objects(&[
                json!({"metadata": {}, "spec": {"type": "NodePort", "ports": [{"port": 1}]}}),
            ]),
            claims: Vec::new(),
            others: vec![("secrets".to_owned(), 4)],
        };
        let clock = ManualClock::new("2026-01-01T00:00:00Z".parse().unwrap());
        let used = |spec: Value| {
            let spec: ResourceQuotaSpec = serde_json::from_value(spec).unwrap();
            let status = recount(&spec, &present(), &clock);
            assert_eq!(status.hard, spec.hard);
            json!(status.used)
        };
        assert_eq!(
            used(json!({"hard": {"pods": "9", "count/pods": "9", "requests.cpu": "4", "limits.cpu": "1",
                "services.nodeports": "1", "requests.storage": "1Gi", "secrets": "5", "count/widgets.example.com": "1"}})),
            json!({"pods": "3", "count/pods": "4", "requests.cpu": "750m", "limits.cpu": "0",
                   "services.nodeports": "1", "requests.storage": "0", "secrets": "4"})
        );
        assert_eq!(used(json!({"hard": {"pods": "9"}, "scopes": ["BestEffort"]})), json!({"pods": "1"}));
        assert_eq!(used(json!({"hard": {"pods": "9"}, "scopes": ["Terminating"]})), json!({"pods": "0"}));
    }

    #[test]
    fn the_same_in_other_words_is_the_same() {
        let status = |hard: &str, used: &str| -> ResourceQuotaStatus {
            serde_json::from_value(json!({"hard": {"cpu": hard}, "used": {"cpu": used}})).unwrap()
        };
        assert!(same(Some(&status("1", "1000m")), &status("1", "1")));
        assert!(!same(Some(&status("1", "1")), &status("1", "2")));
        // What a person wrote there is put back.
        assert!(!same(Some(&status("9", "1")), &status("1", "1")));
        assert!(!same(None, &status("1", "1")));
    }
}
