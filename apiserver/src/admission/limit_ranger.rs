//! LimitRanger: what one pod, container or claim of a namespace asks for where it says nothing, and how little or much
//! it may ask for.

use super::{Attributes, Lookup, Operation, Plugin, find_all, typed, typed_mut};
use crate::{
    error::Result,
    kinds::{AnyObject, Subresource},
};
use api::{pod, pod::Resources, quantity::Quantity, quota::amounts};
use async_trait::async_trait;
use k8s_openapi::{
    api::core::v1::{Container, LimitRange, LimitRangeItem, PersistentVolumeClaim, Pod, PodSpec},
    apimachinery::pkg::api::resource::Quantity as Text,
};
use std::collections::BTreeMap;

/// Tells people where a container's amounts come from.
const ANNOTATION: &str = "kubernetes.io/limit-ranger";
const CONTAINER: &str = "Container";

#[derive(Clone, Copy)]
pub(super) struct LimitRanger;

#[async_trait]
impl Plugin for LimitRanger {
    fn name(&self) -> &'static str {
        "LimitRanger"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        let r = a.kind.resource();
        let (pods, claims) = (r.plural == "pods", r.plural == "persistentvolumeclaims");
        r.group.is_empty()
            && match (a.operation, a.subresource) {
                (Operation::Create, None) => pods || claims,
                // What a pod asks for changes only by a resize.
                (Operation::Update, None) => claims,
                (Operation::Update, Some(Subresource::Resize)) => pods,
                _ => false,
            }
    }

    async fn mutate(
        &self,
        a: &Attributes<'_>,
        object: &mut dyn AnyObject,
        old: Option<&dyn AnyObject>,
        lookup: &dyn Lookup,
    ) -> Result<()> {
        if !a.is("", "pods") || is_deleted(old) {
            return Ok(());
        }
        let ranges = find_all::<LimitRange>(lookup, "limitranges", a.namespace).await?;
        let pod = typed_mut::<Pod>(object)?;
        for range in &ranges {
            fill(range, pod);
        }
        Ok(())
    }

    async fn validate(
        &self,
        a: &Attributes<'_>,
        object: Option<&dyn AnyObject>,
        old: Option<&dyn AnyObject>,
        lookup: &dyn Lookup,
    ) -> Result<()> {
        let Some(object) = object.filter(|_| !is_deleted(old)) else { return Ok(()) };
        for range in find_all::<LimitRange>(lookup, "limitranges", a.namespace).await? {
            let faults = match a.kind.resource().plural {
                "pods" => pod_faults(&range, typed(object)?),
                _ => claim_faults(&range, typed(object)?),
            };
            match faults.as_slice() {
                [] => {}
                [one] => return Err(a.forbidden(one)),
                many => return Err(a.forbidden(format!("[{}]", many.join(", ")))),
            }
        }
        Ok(())
    }
}

fn is_deleted(old: Option<&dyn AnyObject>) -> bool {
    old.is_some_and(|o| o.meta().deletion_timestamp.is_some())
}

fn items<'r>(range: &'r LimitRange, of: &'static str) -> impl Iterator<Item = &'r LimitRangeItem> {
    range.spec.iter().flat_map(|s| &s.limits).filter(move |item| item.type_ == of)
}

/// Gives each container what it does not say itself.
fn fill(range: &LimitRange, pod: &mut Pod) {
    let (mut requests, mut limits) = (BTreeMap::new(), BTreeMap::new());
    for item in items(range, CONTAINER) {
        requests.extend(item.default_request.clone().unwrap_or_default());
        limits.extend(item.default.clone().unwrap_or_default());
    }
    let Some(spec) = pod.spec.as_mut() else { return };
    let mut said = Vec::new();
    for container in &mut spec.containers {
        fill_container(container, "container", &requests, &limits, &mut said);
    }
    for container in spec.init_containers.iter_mut().flatten() {
        fill_container(container, "init container", &requests, &limits, &mut said);
    }
    if !said.is_empty() {
        let text = format!("LimitRanger plugin set: {}", said.join("; "));
        pod.metadata.annotations.get_or_insert_default().insert(ANNOTATION.to_owned(), text);
    }
}

type Amounts = BTreeMap<String, Text>;

fn fill_container(
    container: &mut Container,
    sort: &str,
    requests: &Amounts,
    limits: &Amounts,
    said: &mut Vec<String>,
) {
    let name = container.name.clone();
    let mut set = |into: &mut Option<Amounts>, from: &Amounts, what: &str| {
        let has = |key: &String| into.as_ref().is_some_and(|i| i.contains_key(key));
        let new: Amounts =
            from.iter().filter(|(key, _)| !has(key)).map(|(k, v)| (k.clone(), v.clone())).collect();
        if !new.is_empty() {
            let names: Vec<&str> = new.keys().map(String::as_str).collect();
            said.push(format!("{} {what} for {sort} {name}", names.join(", ")));
            into.get_or_insert_default().extend(new);
        }
    };
    if requests.is_empty() && limits.is_empty() {
        return;
    }
    let resources = container.resources.get_or_insert_default();
    set(&mut resources.requests, requests, "request");
    set(&mut resources.limits, limits, "limit");
}

/// What a container, a pod or a claim asks for.
struct Asked<'a> {
    of: &'a str,
    requests: Resources,
    limits: Resources,
}

fn pod_faults(range: &LimitRange, pod: &Pod) -> Vec<String> {
    let Some(spec) = &pod.spec else { return Vec::new() };
    let mut faults = Vec::new();
    for item in range.spec.iter().flat_map(|s| &s.limits) {
        match item.type_.as_str() {
            CONTAINER => {
                for container in spec.containers.iter().chain(spec.init_containers.iter().flatten()) {
                    let resources = container.resources.as_ref();
                    let asked = Asked {
                        of: CONTAINER,
                        requests: amounts(resources.and_then(|r| r.requests.as_ref())),
                        limits: amounts(resources.and_then(|r| r.limits.as_ref())),
                    };
                    judge(item, &asked, &mut faults);
                }
            }
            "Pod" => {
                // What the pod's runtime adds is not what it asks for.
                let bare = PodSpec { overhead: None, ..spec.clone() };
                let asked = Asked { of: "Pod", requests: pod::requests(&bare), limits: pod::limits(&bare) };
                judge(item, &asked, &mut faults);
            }
            _ => {}
        }
    }
    let mut seen = Vec::new();
    faults.retain(|fault| {
        !seen.contains(fault) && {
            seen.push(fault.clone());
            true
        }
    });
    faults
}

fn claim_faults(range: &LimitRange, claim: &PersistentVolumeClaim) -> Vec<String> {
    let of = "PersistentVolumeClaim";
    let resources = claim.spec.as_ref().and_then(|s| s.resources.as_ref());
    let requests = amounts(resources.and_then(|r| r.requests.as_ref()));
    let asked = Asked { of, requests, limits: Resources::new() };
    let mut faults = Vec::new();
    for item in items(range, of) {
        faults
            .extend(amounts(item.min.as_ref()).iter().filter_map(|(name, min)| asked.too_little(name, *min)));
        for (name, max) in amounts(item.max.as_ref()) {
            let start = format!("maximum {name} usage per {of} is {max}");
            match asked.requests.get(&name) {
                None => faults.push(format!("{start}.  No request is specified")),
                Some(asked) if *asked > max => faults.push(format!("{start}, but request is {asked}")),
                Some(_) => {}
            }
        }
    }
    faults
}

fn judge(item: &LimitRangeItem, asked: &Asked<'_>, faults: &mut Vec<String>) {
    faults.extend(amounts(item.min.as_ref()).iter().filter_map(|(name, min)| asked.too_little(name, *min)));
    faults.extend(amounts(item.max.as_ref()).iter().filter_map(|(name, max)| asked.too_much(name, *max)));
    let ratios = amounts(item.max_limit_request_ratio.as_ref());
    faults.extend(ratios.iter().filter_map(|(name, most)| asked.too_far_apart(name, *most)));
}

impl Asked<'_> {
    fn too_little(&self, name: &str, min: Quantity) -> Option<String> {
        let start = format!("minimum {name} usage per {} is {min}", self.of);
        match (self.requests.get(name), self.limits.get(name)) {
            (None, _) => Some(format!("{start}.  No request is specified")),
            (Some(request), _) if *request < min => Some(format!("{start}, but request is {request}")),
            (_, Some(limit)) if *limit < min => Some(format!("{start}, but limit is {limit}")),
            _ => None,
        }
    }

    fn too_much(&self, name: &str, max: Quantity) -> Option<String> {
        let start = format!("maximum {name} usage per {} is {max}", self.of);
        match (self.requests.get(name), self.limits.get(name)) {
            (_, None) => Some(format!("{start}.  No limit is specified")),
            (_, Some(limit)) if *limit > max => Some(format!("{start}, but limit is {limit}")),
            (Some(request), _) if *request > max => Some(format!("{start}, but request is {request}")),
            _ => None,
        }
    }

    fn too_far_apart(&self, name: &str, most: Quantity) -> Option<String> {
        let start = format!("{name} max limit to request ratio per {} is {most}, but", self.of);
        let some = |list: &Resources| list.get(name).copied().filter(|amount| !amount.is_zero());
        let Some(request) = some(&self.requests) else {
            return Some(format!("{start} no request is specified or request is 0"));
        };
        let Some(limit) = some(&self.limits) else {
            return Some(format!("{start} no limit is specified or limit is 0"));
        };
        let ratio = limit.as_f64() / request.as_f64();
        (ratio > most.as_f64()).then(|| format!("{start} provided ratio is {ratio:.6}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::{Case, object};
    use serde_json::{Value, json};

    fn range(name: &str, limits: Value) -> Value {
        object("v1", "LimitRange", "default", name, json!({"spec": {"limits": limits}}))
    }

    fn pod(resources: Value) -> Value {
        let containers = json!([{"name": "a", "resources": resources}]);
        object("v1", "Pod", "default", "web", json!({"spec": {"containers": containers}}))
    }

    async fn refusal(limits: Value, plural: &str, object: &Value) -> String {
        let case = Case::new(plural, Operation::Create).lookup([range("l", limits)]);
        case.validate(&LimitRanger, Some(object), None)
            .await
            .map_or_else(|e| e.to_string(), |()| String::new())
    }

    #[tokio::test]
    async fn what_a_container_does_not_say_comes_from_the_range() {
        let item = json!({"type": "Container", "default": {"cpu": "500m", "memory": "1Gi"},
                          "defaultRequest": {"cpu": "100m"}});
        let case = || {
            let elsewhere = object(
                "v1",
                "LimitRange",
                "other",
                "x",
                json!({"spec": {"limits": [
                {"type": "Container", "defaultRequest": {"example.com/a": "1"}}]}}),
            );
            Case::new("pods", Operation::Create).lookup([range("l", json!([item])), elsewhere])
        };
        let filled = case().mutate(&LimitRanger, &pod(json!({"limits": {"memory": "2Gi"}}))).await.unwrap();
        assert_eq!(
            filled["spec"]["containers"][0]["resources"],
            json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "500m", "memory": "2Gi"}})
        );
        assert_eq!(
            filled["metadata"]["annotations"][ANNOTATION],
            "LimitRanger plugin set: cpu request for container a; cpu limit for container a"
        );
        let own = pod(json!({"requests": {"cpu": "1"}, "limits": {"cpu": "1", "memory": "1"}}));
        let filled = case().mutate(&LimitRanger, &own).await.unwrap();
        assert_eq!(filled["spec"], own["spec"]);
        assert_eq!(filled["metadata"].get("annotations"), None);
    }

    #[tokio::test]
    async fn bounds_of_containers() {
        let item = json!([{"type": "Container", "min": {"cpu": "50m"}, "max": {"cpu": "1"},
                           "maxLimitRequestRatio": {"cpu": "4"}}]);
        for (resources, expected) in [
            (json!({"requests": {"cpu": "250m"}, "limits": {"cpu": "1"}}), ""),
            (
                json!({"requests": {"cpu": "10m"}, "limits": {"cpu": "20m"}}),
                "minimum cpu usage per Container is 50m, but request is 10m",
            ),
            (
                json!({"requests": {"cpu": "1"}, "limits": {"cpu": "2"}}),
                "maximum cpu usage per Container is 1, but limit is 2",
            ),
            (
                json!({"requests": {"cpu": "100m"}, "limits": {"cpu": "1"}}),
                "cpu max limit to request ratio per Container is 4, but provided ratio is 10.000000",
            ),
            (
                json!({}),
                "[minimum cpu usage per Container is 50m.  No request is specified, \
                 maximum cpu usage per Container is 1.  No limit is specified, \
                 cpu max limit to request ratio per Container is 4, but no request is specified or request is 0]",
            ),
        ] {
            let said = refusal(item.clone(), "pods", &pod(resources.clone())).await;
            let expected = if expected.is_empty() {
                String::new()
            } else {
                format!("pods \"web\" is forbidden: {expected}")
            };
            assert_eq!(said, expected, "{resources}");
        }
    }

    #[tokio::test]
    async fn bounds_of_pods_and_claims() {
        let item = json!([{"type": "Pod", "max": {"memory": "1Gi"}}]);
        let two = json!({"containers": [
            {"name": "a", "resources": {"limits": {"memory": "600Mi"}}},
            {"name": "b", "resources": {"limits": {"memory": "600Mi"}}}]});
        let said = refusal(item, "pods", &object("v1", "Pod", "default", "web", json!({"spec": two}))).await;
        assert_eq!(
            said,
            "pods \"web\" is forbidden: maximum memory usage per Pod is 1Gi, but limit is 1200Mi"
        );

        let item =
            json!([{"type": "PersistentVolumeClaim", "min": {"storage": "1Gi"}, "max": {"storage": "2Gi"}}]);
        for (size, expected) in [
            ("1Gi", ""),
            ("3Gi", "maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"),
            ("1Mi", "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi"),
        ] {
            let spec = json!({"spec": {"resources": {"requests": {"storage": size}}}});
            let claim = object("v1", "PersistentVolumeClaim", "default", "c", spec);
            let said = refusal(item.clone(), "persistentvolumeclaims", &claim).await;
            assert!(said.ends_with(expected) && said.is_empty() == expected.is_empty(), "{size}: {said}");
        }
    }
}
