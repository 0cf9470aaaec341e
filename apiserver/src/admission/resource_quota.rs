//! ResourceQuota: what a namespace may have in all. Refuses what would be too much, and says how much each quota has
//! used once the object is there: `registry::charge` writes both together, or neither.
//!
//! It comes last, after all other admission: only what is really going to be written is counted. What goes again is
//! the controller's to take off; a write never makes a count smaller.

use super::{Attributes, Operation};
use crate::{
    error::Result,
    kinds::{AnyObject, Subresource},
};
use api::{
    pod::Resources,
    quantity::Quantity,
    quota::{self, Counted},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{PersistentVolumeClaim, Pod, ResourceQuota, ResourceQuotaSpec, Service};
use std::collections::BTreeSet;

/// Kept by the hour and made by the thousand: not counted, as in Kubernetes.
const EVENTS: &str = "events";

/// The object as quotas see it; `None` if this write can change no count.
pub(crate) fn counted<'o>(
    a: &Attributes<'_>,
    new: &'o dyn AnyObject,
    old: Option<&dyn AnyObject>,
) -> Option<Counted<'o>> {
    let r = a.kind.resource();
    if a.namespace.is_empty() || !r.namespaced || r.plural == EVENTS {
        return None;
    }
    let counted = as_counted(a, new);
    match (a.operation, a.subresource, &counted) {
        (Operation::Create, None, _) => Some(counted),
        (Operation::Update, None, Counted::Service(_) | Counted::Claim(_)) => Some(counted),
        // All else that an update may change of a pod is not counted.
        (Operation::Update, None, Counted::Pod(pod)) => {
            let old = old?.as_any().downcast_ref::<Pod>()?;
            (quota::is_bounded(pod) != quota::is_bounded(old)).then_some(counted)
        }
        (Operation::Update, Some(Subresource::Resize), Counted::Pod(_)) => Some(counted),
        _ => None,
    }
}

fn as_counted<'o>(a: &Attributes<'_>, object: &'o dyn AnyObject) -> Counted<'o> {
    let r = a.kind.resource();
    let any = object.as_any();
    if let Some(pod) = any.downcast_ref::<Pod>() {
        Counted::Pod(pod)
    } else if let Some(service) = any.downcast_ref::<Service>() {
        Counted::Service(service)
    } else if let Some(claim) = any.downcast_ref::<PersistentVolumeClaim>() {
        Counted::Claim(claim)
    } else {
        Counted::Other { group: r.group, plural: r.plural }
    }
}

/// Which of `quotas` (by index) the write changes, and what they have used after it.
///
/// # Errors
/// `Forbidden` by the first quota that it is too much for.
pub(crate) fn decide(
    a: &Attributes<'_>,
    quotas: &[ResourceQuota],
    new: &Counted<'_>,
    old: Option<&dyn AnyObject>,
    now: Timestamp,
) -> Result<Vec<(usize, Resources)>> {
    let mut concerned = Vec::new();
    for (index, quota) in quotas.iter().enumerate() {
        let state = State::of(quota);
        let names: BTreeSet<&str> =
            state.hard.keys().map(String::as_str).filter(|name| new.is_counted_as(name)).collect();
        if names.is_empty() || !new.is_in_scopes_of(state.spec) {
            continue;
        }
        if let Some(why) = new.undemanded(names.iter().copied()) {
            return Err(a.forbidden(format!("failed quota: {}: {why}", state.name)));
        }
        if names.iter().any(|name| !state.used.contains_key(*name)) {
            let names = names.into_iter().collect::<Vec<_>>().join(",");
            return Err(a.forbidden(format!("status unknown for quota: {}, resources: {names}", state.name)));
        }
        concerned.push((index, state));
    }
    let usage = new.usage(now);
    let negative: Vec<&str> =
        usage.iter().filter(|(_, amount)| amount.is_negative()).map(|(name, _)| name.as_str()).collect();
    if !negative.is_empty() {
        let names = negative.join(",");
        return Err(a.forbidden(format!("quota usage is negative for resource(s): {names}")));
    }
    let before = old.map(|old| as_counted(a, old));
    let mut changed = Vec::new();
    for (index, state) in concerned {
        let mut more = usage.clone();
        if let Some(before) = before.filter(|before| before.is_in_scopes_of(state.spec)) {
            for (name, amount) in before.usage(now) {
                if let Some(more) = more.get_mut(&name) {
                    *more = (*more - amount).max(Quantity::ZERO);
                }
            }
        }
        more.retain(|name, amount| !amount.is_zero() && state.hard.contains_key(name));
        if more.is_empty() {
            continue;
        }
        let mut used = state.used.clone();
        for (name, amount) in &more {
            *used.entry(name.clone()).or_default() += *amount;
        }
        let exceeded: Vec<&String> = more.keys().filter(|name| used[*name] > state.hard[*name]).collect();
        if !exceeded.is_empty() {
            let list = |of: &Resources| {
                let each = exceeded
                    .iter()
                    .map(|name| format!("{name}={}", of.get(*name).copied().unwrap_or_default()));
                each.collect::<Vec<_>>().join(",")
            };
            return Err(a.forbidden(format!(
                "exceeded quota: {}, requested: {}, used: {}, limited: {}",
                state.name,
                list(&more),
                list(&state.used),
                list(&state.hard)
            )));
        }
        changed.push((index, used));
    }
    Ok(changed)
}

/// A quota as its controller last found it.
struct State<'q> {
    name: &'q str,
    spec: &'q ResourceQuotaSpec,
    hard: Resources,
    used: Resources,
}

impl<'q> State<'q> {
    fn of(quota: &'q ResourceQuota) -> Self {
        const NONE: &ResourceQuotaSpec =
            &ResourceQuotaSpec { hard: None, scope_selector: None, scopes: None };
        let status = quota.status.as_ref();
        Self {
            name: quota.metadata.name.as_deref().unwrap_or_default(),
            spec: quota.spec.as_ref().unwrap_or(NONE),
            hard: quota::amounts(status.and_then(|s| s.hard.as_ref())),
            used: quota::amounts(status.and_then(|s| s.used.as_ref())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::testing::{decoded, kind, object},
        auth::User,
    };
    use serde_json::{Value, json};

    fn quota(name: &str, spec: Value, used: Value) -> ResourceQuota {
        let status = json!({"hard": spec["hard"], "used": used});
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec, "status": status})).unwrap()
    }

    /// The texts of what is used afterwards by quota, or the refusal.
    fn decided(
        plural: &str,
        operation: Operation,
        quotas: &[ResourceQuota],
        new: &Value,
        old: Option<&Value>,
    ) -> std::result::Result<Value, String> {
        let (kind, user) = (kind(plural), User::component("test"));
        let a = Attributes {
            kind,
            operation,
            subresource: None,
            namespace: "default",
            name: new["metadata"]["name"].as_str().unwrap(),
            user: &user,
            dry_run: false,
        };
        let (new, old) = (decoded(kind, new), old.map(|o| decoded(kind, o)));
        let Some(counted) = counted(&a, &*new, old.as_deref()) else { return Ok(Value::Null) };
        let now = "2026-01-01T00:00:00Z".parse().unwrap();
        match decide(&a, quotas, &counted, old.as_deref(), now) {
            Ok(changed) => Ok(json!(
                changed
                    .into_iter()
                    .map(|(i, used)| (quotas[i].metadata.name.clone().unwrap(), quota::texts(&used)))
                    .collect::<std::collections::BTreeMap<_, _>>()
            )),
            Err(error) => Err(error.to_string()),
        }
    }

    fn pod(spec: Value) -> Value {
        object("v1", "Pod", "default", "web", json!({"spec": spec}))
    }

    #[test]
    fn what_fits_is_added_and_what_does_not_is_refused() {
        use Operation::Create;
        let asks =
            |cpu: &str| pod(json!({"containers": [{"name": "a", "resources": {"requests": {"cpu": cpu}}}]}));
        let hard = json!({"hard": {"pods": "3", "requests.cpu": "1", "secrets": "1"}});
        let quotas = |pods: &str, cpu: &str| {
            [quota("all", hard.clone(), json!({"pods": pods, "requests.cpu": cpu, "secrets": "1"}))]
        };
        assert_eq!(
            decided("pods", Create, &quotas("1", "500m"), &asks("250m"), None).unwrap(),
            json!({"all": {"pods": "2", "requests.cpu": "750m", "secrets": "1"}})
        );
        assert_eq!(
            decided("pods", Create, &quotas("1", "500m"), &asks("501m"), None).unwrap_err(),
            r#"pods "web" is forbidden: exceeded quota: all, requested: requests.cpu=501m, used: requests.cpu=500m, limited: requests.cpu=1"#
        );
        assert_eq!(
            decided("pods", Create, &quotas("3", "1"), &asks("1"), None).unwrap_err(),
            r#"pods "web" is forbidden: exceeded quota: all, requested: pods=1,requests.cpu=1, used: pods=3,requests.cpu=1, limited: pods=3,requests.cpu=1"#
        );
        assert_eq!(
            decided("pods", Create, &quotas("0", "0"), &pod(json!({"containers": [{"name": "a"}]})), None)
                .unwrap_err(),
            r#"pods "web" is forbidden: failed quota: all: must specify requests.cpu for: a"#
        );
        let secret = object("v1", "Secret", "default", "s", json!({}));
        assert_eq!(
            decided("secrets", Create, &quotas("0", "0"), &secret, None).unwrap_err(),
            r#"secrets "s" is forbidden: exceeded quota: all, requested: secrets=1, used: secrets=1, limited: secrets=1"#
        );
        // Nothing of this quota's: neither counted nor refused. Events never are.
        let map = object("v1", "ConfigMap", "default", "c", json!({}));
        assert_eq!(decided("configmaps", Create, &quotas("9", "9"), &map, None).unwrap(), json!({}));
        let event = object("v1", "Event", "default", "e", json!({"involvedObject": {}}));
        let events = [quota("e", json!({"hard": {"count/events": "0"}}), json!({"count/events": "0"}))];
        assert_eq!(decided("events", Create, &events, &event, None).unwrap(), Value::Null);
        // Not counted yet: nobody can say whether it fits.
        let fresh = [quota("new", json!({"hard": {"pods": "3"}}), json!({}))];
        assert_eq!(
            decided("pods", Create, &fresh, &asks("1"), None).unwrap_err(),
            r#"pods "web" is forbidden: status unknown for quota: new, resources: pods"#
        );
    }

    #[test]
    fn every_quota_has_its_say() {
        let quotas = [
            quota("a", json!({"hard": {"pods": "3"}}), json!({"pods": "0"})),
            quota("b", json!({"hard": {"pods": "1"}, "scopes": ["BestEffort"]}), json!({"pods": "1"})),
            quota("c", json!({"hard": {"count/pods": "9"}}), json!({"count/pods": "1"})),
        ];
        let plain = pod(json!({"containers": [{"name": "a"}]}));
        assert_eq!(
            decided("pods", Operation::Create, &quotas, &plain, None).unwrap_err(),
            r#"pods "web" is forbidden: exceeded quota: b, requested: pods=1, used: pods=1, limited: pods=1"#
        );
        let asks = pod(json!({"containers": [{"name": "a", "resources": {"limits": {"cpu": "1"}}}]}));
        assert_eq!(
            decided("pods", Operation::Create, &quotas, &asks, None).unwrap(),
            json!({"a": {"pods": "1"}, "c": {"count/pods": "2"}})
        );
    }

    #[test]
    fn an_update_counts_for_the_difference() {
        use Operation::Update;
        let service = |kind: &str, ports: usize| {
            let ports: Vec<Value> = (1..=ports).map(|p| json!({"port": p})).collect();
            object("v1", "Service", "default", "s", json!({"spec": {"type": kind, "ports": ports}}))
        };
        let hard = json!({"hard": {"services": "1", "services.nodeports": "2"}});
        let quotas = [quota("q", hard, json!({"services": "1", "services.nodeports": "1"}))];
        let (old, more) = (service("NodePort", 1), service("NodePort", 2));
        assert_eq!(
            decided("services", Update, &quotas, &more, Some(&old)).unwrap(),
            json!({"q": {"services": "1", "services.nodeports": "2"}})
        );
        assert!(decided("services", Update, &quotas, &service("NodePort", 3), Some(&old)).is_err());
        // Less is the controller's to count.
        let less = service("ClusterIP", 1);
        assert_eq!(decided("services", Update, &quotas, &less, Some(&old)).unwrap(), json!({}));
        // A pod that gets a deadline moves from one scope into another.
        let short = json!({"hard": {"pods": "0"}, "scopes": ["Terminating"]});
        let quotas = [quota("short", short, json!({"pods": "0"}))];
        let old = pod(json!({"containers": []}));
        let new = pod(json!({"containers": [], "activeDeadlineSeconds": 5}));
        assert!(
            decided("pods", Update, &quotas, &new, Some(&old)).unwrap_err().contains("exceeded quota: short")
        );
        assert_eq!(decided("pods", Update, &quotas, &old, Some(&old)).unwrap(), Value::Null);
    }
}
