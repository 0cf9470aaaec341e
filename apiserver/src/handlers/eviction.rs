//! `pods/NAME/eviction`: a delete that a disruption budget may refuse.
//!
//! A budget's status says how many evictions it allows now (`controllers::disruption`); one that is let in takes its place
//! in it, in a write at the revision that was read, so that no two take the last.

use super::{call, respond};
use crate::{
    error::{ApiError, Result},
    kinds::{AnyKind, AnyObject, Subresource},
    registry::{self, Call, Stored, create::now, update::Change},
    request::{Incoming, body, options::DeleteOptions, options::WriteOptions},
    state::App,
};
use api::{conditions, pod, selector::Selector};
use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use k8s_openapi::{
    api::{
        core::v1::{Pod, PodCondition},
        policy::v1::PodDisruptionBudget,
    },
    apimachinery::pkg::apis::meta::v1::{Condition, Time},
};
use serde_json::{Value, json};

/// Evictions that the controller has not confirmed yet; more than this and the map grows beyond reason. Kubernetes' own.
const MAX_DISRUPTED: usize = 2000;
/// How long a client should wait where the budget was not counted yet.
const SOON: u32 = 10;

pub async fn create(app: &App, pods: &dyn AnyKind, mut incoming: Incoming) -> Result<Response> {
    let accepted = incoming.accepted()?;
    let options = WriteOptions::parse(&incoming.query, "CreateOptions")?;
    let bytes = incoming.body(app.limits.body_bytes).await?;
    let parsed = body::parse(incoming.content_type(), &bytes, "Eviction")?;
    // policy/v1beta1 is what kubectl before 1.22 may send; it says the same.
    let beta = parsed.value["apiVersion"] == "policy/v1beta1";
    super::check_type(&parsed.value, "Eviction", if beta { "policy/v1beta1" } else { "policy/v1" })?;
    let name = parsed.value.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
    if !name.is_empty() && name != incoming.info.name {
        return Err(ApiError::BadRequest("name in URL does not match name in Eviction object".to_owned()));
    }
    let mut delete = DeleteOptions::parse(&incoming.query, parsed.value.get("deleteOptions").cloned())?;
    delete.dry_run |= options.dry_run;
    let call = call(pods, Some(Subresource::Eviction), &incoming, delete.dry_run);
    let stored = app.registry.get(&call).await?;
    let object = registry::decode(pods, &stored)?;
    let pod = of::<Pod>(&*object)?;
    if !needs_no_budget(pod) {
        ask_budget(app, &call, pod).await?;
    }
    if !delete.dry_run {
        mark(app, &call, &mut delete).await?;
    }
    app.registry.delete(&call, &delete).await?;
    let status =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(respond::json(accepted, StatusCode::CREATED, status.to_string().into()))
}

fn of<K: 'static>(object: &dyn AnyObject) -> Result<&K> {
    object.as_any().downcast_ref().ok_or_else(|| ApiError::Internal("an object of another kind".to_owned()))
}

/// One that does no work cannot be disrupted.
fn needs_no_budget(pod: &Pod) -> bool {
    matches!(pod::phase(pod), "Succeeded" | "Failed" | "Pending" | "")
        || pod.metadata.deletion_timestamp.is_some()
}

/// Takes a place in the budget that covers the pod.
async fn ask_budget(app: &App, call: &Call<'_>, pod: &Pod) -> Result<()> {
    let Some(kind) = app.registry.kind_named("poddisruptionbudgets") else { return Ok(()) };
    let prefix = registry::prefix(kind, call.namespace)?;
    let list = app.registry.store().list(&prefix, storage::ListOptions::default()).await;
    let list = list.map_err(registry::storage_error)?;
    let mut covering = Vec::new();
    for kv in &list.items {
        let object = registry::decode(kind, kv)?;
        let budget = of::<PodDisruptionBudget>(&*object)?;
        if covers(budget, pod) {
            covering.push(budget.clone());
        }
    }
    let budget = match covering.as_slice() {
        [] => return Ok(()),
        [one] => one,
        _ => return Err(ApiError::SeveralBudgets),
    };
    if !is_guarded(budget, pod) {
        return Ok(());
    }
    let name = budget.metadata.name.clone().unwrap_or_default();
    let taking = Call { kind, subresource: Some(Subresource::Status), name: &name, ..*call };
    let mut make = |stored: Option<&Stored>| {
        let stored = stored.ok_or_else(|| taking.not_found())?;
        let mut object = stored.object.clone_box();
        let budget = object.as_any_mut().downcast_mut::<PodDisruptionBudget>();
        take(budget.ok_or_else(|| taking.not_found())?, call.name, now())?;
        Ok(object)
    };
    app.registry.update(&taking, Change { apply: false, retry: true, make: &mut make }).await?;
    Ok(())
}

fn covers(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let selector = budget.spec.as_ref().and_then(|s| s.selector.as_ref());
    Selector::from_label_selector(selector).is_ok_and(|s| s.matches_labels(pod.metadata.labels.as_ref()))
}

/// A pod that is not ready is of no use to the budget: it may go while the others are enough, or always if the budget says
/// so.
fn is_guarded(budget: &PodDisruptionBudget, pod: &Pod) -> bool {
    let policy = budget.spec.as_ref().and_then(|s| s.unhealthy_pod_eviction_policy.as_deref());
    let status = budget.status.clone().unwrap_or_default();
    let (healthy, desired) = (status.current_healthy.unwrap_or(0), status.desired_healthy.unwrap_or(0));
    pod::is_ready(pod) || !(policy == Some("AlwaysAllow") || healthy >= desired && desired > 0)
}

/// Counts one eviction more in the budget's status, if there is room for it. Pure.
fn take(budget: &mut PodDisruptionBudget, pod: &str, now: Timestamp) -> Result<()> {
    let name = budget.metadata.name.clone().unwrap_or_default();
    let generation = budget.metadata.generation.unwrap_or(0);
    let status = budget.status.get_or_insert_default();
    let refused = |cause: String, retry_after| Err(ApiError::Disruption { cause, retry_after });
    if status.observed_generation.unwrap_or(0) < generation {
        let cause = format!("The disruption budget {name} is still being processed by the server.");
        return refused(cause, SOON);
    }
    let forbidden = |detail: &str| ApiError::Forbidden {
        group: "policy".to_owned(),
        resource: "poddisruptionbudget.policy".to_owned(),
        name: name.clone(),
        detail: detail.to_owned(),
    };
    let allowed = status.disruptions_allowed.unwrap_or(0);
    if allowed < 0 {
        return Err(forbidden("pdb disruptions allowed is negative"));
    }
    if status.disrupted_pods.as_ref().is_some_and(|d| d.len() > MAX_DISRUPTED) {
        return Err(forbidden(
            "DisruptedPods map too big - too many evictions not confirmed by PDB controller",
        ));
    }
    let (healthy, desired) = (status.current_healthy.unwrap_or(0), status.desired_healthy.unwrap_or(0));
    if allowed == 0 {
        let condition =
            conditions::find(status.conditions.as_deref().unwrap_or_default(), "DisruptionAllowed")
                .filter(|c| c.status == "False" && !c.message.is_empty());
        let head = format!("The disruption budget {name}");
        let cause = match condition {
            Some(c) if c.reason == "SyncFailed" => {
                format!("{head} does not allow evicting pods currently because it failed sync: {}", c.message)
            }
            _ if healthy <= desired => {
                format!("{head} needs {desired} healthy pods and has {healthy} currently")
            }
            Some(c) => format!("{head} does not allow evicting pods currently ({}): {}", c.reason, c.message),
            None => format!("{head} does not allow evicting pods currently"),
        };
        return refused(cause, 0);
    }
    status.disruptions_allowed = Some(allowed - 1);
    if allowed == 1 {
        let condition = Condition {
            type_: "DisruptionAllowed".to_owned(),
            status: "False".to_owned(),
            reason: "InsufficientPods".to_owned(),
            message: String::new(),
            observed_generation: status.observed_generation,
            last_transition_time: Time(now),
        };
        conditions::set(status.conditions.get_or_insert_default(), condition, now);
    }
    status.disrupted_pods.get_or_insert_default().insert(pod.to_owned(), Time(now));
    Ok(())
}

/// Says in the pod's status why it goes, before it does.
async fn mark(app: &App, call: &Call<'_>, delete: &mut DeleteOptions) -> Result<()> {
    let (uid, revision) = (delete.uid.clone(), delete.resource_version.clone());
    let mut make = |stored: Option<&Stored>| {
        let stored = stored.ok_or_else(|| call.not_found())?;
        let options = DeleteOptions {
            uid: uid.clone(),
            resource_version: revision.clone(),
            ..DeleteOptions::default()
        };
        registry::delete::check_preconditions(call, &options, stored)?;
        let mut object = stored.object.clone_box();
        let pod = object.as_any_mut().downcast_mut::<Pod>().ok_or_else(|| call.not_found())?;
        let condition = PodCondition {
            type_: "DisruptionTarget".to_owned(),
            status: "True".to_owned(),
            reason: Some("EvictionByEvictionAPI".to_owned()),
            message: Some("Eviction API: evicting".to_owned()),
            observed_generation: pod.metadata.generation,
            ..PodCondition::default()
        };
        let conditions = pod.status.get_or_insert_default().conditions.get_or_insert_default();
        conditions::set(conditions, condition, now());
        Ok(object)
    };
    app.registry.update(call, Change { apply: false, retry: true, make: &mut make }).await?;
    // The revision asked for was there; now it is ours.
    delete.resource_version = None;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn budget(status: Value) -> PodDisruptionBudget {
        let value = json!({"metadata": {"name": "b", "generation": 2}, "status": status});
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn the_last_place_is_taken_once() {
        let mut budget =
            budget(json!({"observedGeneration": 2, "disruptionsAllowed": 1, "currentHealthy": 2,
            "desiredHealthy": 1}));
        let now: Timestamp = "2026-01-01T00:00:00Z".parse().unwrap();
        take(&mut budget, "p", now).unwrap();
        let status = budget.status.clone().unwrap();
        assert_eq!(status.disruptions_allowed, Some(0));
        assert_eq!(status.disrupted_pods.unwrap()["p"].0, now);
        assert_eq!(status.conditions.unwrap()[0].reason, "InsufficientPods");
        assert!(take(&mut budget, "q", now).is_err());
    }

    #[test]
    fn why_an_eviction_is_refused() {
        for (status, expected) in [
            (
                json!({"observedGeneration": 1}),
                "The disruption budget b is still being processed by the server.",
            ),
            (
                json!({"observedGeneration": 2, "currentHealthy": 1, "desiredHealthy": 2}),
                "The disruption budget b needs 2 healthy pods and has 1 currently",
            ),
            (
                json!({"observedGeneration": 2, "currentHealthy": 3, "desiredHealthy": 2}),
                "The disruption budget b does not allow evicting pods currently",
            ),
        ] {
            let error = take(&mut budget(status), "p", Timestamp::UNIX_EPOCH).unwrap_err();
            let told = error.status();
            assert_eq!(told["code"], 429);
            assert_eq!(
                told["details"]["causes"],
                json!([{"reason": "DisruptionBudget", "message": expected}]),
                "{told}"
            );
        }
    }

    #[test]
    fn pods_that_are_not_ready_may_go_where_the_others_are_enough() {
        let pod: Pod = serde_json::from_value(json!({"metadata": {}})).unwrap();
        let mut budget = budget(json!({"currentHealthy": 2, "desiredHealthy": 2}));
        assert!(!is_guarded(&budget, &pod));
        budget.status.as_mut().unwrap().current_healthy = Some(1);
        assert!(is_guarded(&budget, &pod));
        budget.spec.get_or_insert_default().unhealthy_pod_eviction_policy = Some("AlwaysAllow".to_owned());
        assert!(!is_guarded(&budget, &pod));
    }
}
