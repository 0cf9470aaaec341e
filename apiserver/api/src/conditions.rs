//! Status conditions: one per type; `lastTransitionTime` moves only when `status` does.

use jiff::Timestamp;
use k8s_openapi::api::{apps, batch, core};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};

/// What the many condition types of the API have in common.
pub trait AnyCondition: PartialEq {
    fn type_(&self) -> &str;
    fn status(&self) -> &str;
    fn reason(&self) -> &str;
    fn transition_time(&self) -> Option<&Time>;
    fn set_transition_time(&mut self, time: Time);
}

macro_rules! optional_fields {
    ($($type:path),* $(,)?) => {$(
        impl AnyCondition for $type {
            fn type_(&self) -> &str { &self.type_ }
            fn status(&self) -> &str { &self.status }
            fn reason(&self) -> &str { self.reason.as_deref().unwrap_or("") }
            fn transition_time(&self) -> Option<&Time> { self.last_transition_time.as_ref() }
            fn set_transition_time(&mut self, time: Time) { self.last_transition_time = Some(time); }
        }
    )*};
}

optional_fields!(
    core::v1::PodCondition,
    core::v1::NodeCondition,
    core::v1::NamespaceCondition,
    core::v1::PersistentVolumeClaimCondition,
    apps::v1::StatefulSetCondition,
    apps::v1::DeploymentCondition,
    apps::v1::ReplicaSetCondition,
    apps::v1::DaemonSetCondition,
    batch::v1::JobCondition,
    apiextensions::v1::CustomResourceDefinitionCondition,
);

impl AnyCondition for Condition {
    fn type_(&self) -> &str {
        &self.type_
    }
    fn status(&self) -> &str {
        &self.status
    }
    fn reason(&self) -> &str {
        &self.reason
    }
    fn transition_time(&self) -> Option<&Time> {
        Some(&self.last_transition_time)
    }
    fn set_transition_time(&mut self, time: Time) {
        self.last_transition_time = time;
    }
}

/// Puts `condition` in place of the one of its type, or at the end. Its transition time is the old one's while the status
/// stays, else `now` (whatever the caller filled in). Returns whether anything changed.
pub fn set<C: AnyCondition>(conditions: &mut Vec<C>, mut condition: C, now: Timestamp) -> bool {
    let Some(old) = conditions.iter_mut().find(|c| c.type_() == condition.type_()) else {
        condition.set_transition_time(Time(now));
        conditions.push(condition);
        return true;
    };
    let since = if old.status() == condition.status() { old.transition_time().cloned() } else { None };
    condition.set_transition_time(since.unwrap_or(Time(now)));
    if *old == condition {
        return false;
    }
    *old = condition;
    true
}

pub fn find<'a, C: AnyCondition>(conditions: &'a [C], type_: &str) -> Option<&'a C> {
    conditions.iter().find(|c| c.type_() == type_)
}

pub fn is_true<C: AnyCondition>(conditions: &[C], type_: &str) -> bool {
    find(conditions, type_).is_some_and(|c| c.status() == "True")
}

/// Removes the condition of this type; returns whether there was one.
pub fn remove<C: AnyCondition>(conditions: &mut Vec<C>, type_: &str) -> bool {
    let before = conditions.len();
    conditions.retain(|c| c.type_() != type_);
    conditions.len() != before
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::api::core::v1::PodCondition;

    #[test]
    fn transition_time_moves_only_with_the_status() {
        let ready = |status: &str, reason: &str| PodCondition {
            type_: "Ready".into(),
            status: status.into(),
            reason: Some(reason.into()),
            ..Default::default()
        };
        let at = |s| Timestamp::from_second(s).unwrap();
        let mut list = Vec::new();
        assert!(set(&mut list, ready("False", "a"), at(1)));
        assert!(!set(&mut list, ready("False", "a"), at(2)));
        assert!(set(&mut list, ready("False", "b"), at(3)));
        assert_eq!(list[0].last_transition_time, Some(Time(at(1))));
        assert!(set(&mut list, ready("True", "b"), at(4)));
        assert_eq!(list[0].last_transition_time, Some(Time(at(4))));
        assert_eq!(list.len(), 1);
        assert!(is_true(&list, "Ready"));
        assert!(remove(&mut list, "Ready") && !remove(&mut list, "Ready"));
    }
}
