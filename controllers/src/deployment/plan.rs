//! What must change so that a deployment's pods come to be of its template. Pure: no clock, no client.
//!
//! ```text
//!  paused, or scaled since ─► all sets in proportion
//!  RollingUpdate ─► a set for the template ─► up, else down, else tidy up
//!  Recreate ─► old sets to nothing ─► their pods gone ─► a set for the template, in full size ─► tidy up
//! ```

use super::{
    conditions,
    rollout::{self, Limits, sum},
    sets::{self, Set, by_age},
};
use crate::context::{name, namespace, uid};
use api::{owner, pod, selector::Selector};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    apps::v1::{Deployment, DeploymentStatus, ReplicaSet},
    core::v1::Pod,
};
use std::sync::Arc;

/// What is known of a deployment.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub deployment: &'a Deployment,
    /// Sets of its namespace that it controls or that have no controller.
    pub sets: &'a [Arc<ReplicaSet>],
    /// Pods that those sets control.
    pub pods: &'a [Arc<Pod>],
}

#[derive(Debug, Clone)]
pub struct Plan {
    /// If there is any, it is all that is planned: the next run sees which sets there are.
    pub ownership: Vec<Ownership>,
    /// In this order, up to the first that fails.
    pub steps: Vec<Step>,
    pub status: DeploymentStatus,
    /// The number of the newest template, for the deployment's annotation.
    pub revision: Option<String>,
    /// When to look again although nothing changed: the progress deadline.
    pub check_after: Option<SignedDuration>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Ownership {
    Adopt(Arc<ReplicaSet>),
    Release(Arc<ReplicaSet>),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    Create(Box<ReplicaSet>),
    Update { seen: Arc<ReplicaSet>, wanted: Box<ReplicaSet> },
    Delete(Arc<ReplicaSet>),
}

/// # Errors
/// A selector that cannot be read, or that selects everything.
pub fn plan(view: &View<'_>, now: Timestamp) -> Result<Plan, String> {
    let deployment = view.deployment;
    let selector = selector(deployment)?;
    let ownership = ownership(view, &selector);
    let old_status = deployment.status.clone().unwrap_or_default();
    if !ownership.is_empty() {
        let (steps, status) = (Vec::new(), old_status);
        return Ok(Plan { ownership, steps, status, revision: None, check_after: None });
    }
    let mut own: Vec<Set> = view
        .sets
        .iter()
        .filter(|s| owner::is_controlled_by(&s.metadata, &deployment.metadata))
        .map(Set::of)
        .collect();
    by_age(&mut own);
    let new = own.iter().position(|s| sets::is_of(deployment, &s.set)).map(|i| own.remove(i));
    Planner {
        view,
        limits: Limits::of(deployment),
        status: old_status.clone(),
        old_status,
        new,
        old: own,
        expired: Vec::new(),
        now,
    }
    .run()
}

pub(super) fn selector(deployment: &Deployment) -> Result<Selector, String> {
    let selector = Selector::from_label_selector(deployment.spec.as_ref().map(|s| &s.selector))
        .map_err(|e| format!("the selector is not valid: {e}"))?;
    if selector.is_everything() {
        return Err("the selector is empty".to_owned());
    }
    Ok(selector)
}

fn ownership(view: &View<'_>, selector: &Selector) -> Vec<Ownership> {
    let own = &view.deployment.metadata;
    if own.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let here = view.sets.iter().filter(|s| namespace(&s.metadata) == namespace(own));
    here.filter_map(|set| {
        let selected = selector.matches_labels(set.metadata.labels.as_ref());
        match owner::controller_of(&set.metadata) {
            Some(owner) if owner.uid == uid(own) && !selected => Some(Ownership::Release(set.clone())),
            None if selected && set.metadata.deletion_timestamp.is_none() => {
                Some(Ownership::Adopt(set.clone()))
            }
            _ => None,
        }
    })
    .collect()
}

struct Planner<'a> {
    view: &'a View<'a>,
    limits: Limits,
    old_status: DeploymentStatus,
    status: DeploymentStatus,
    /// The set of the template.
    new: Option<Set>,
    old: Vec<Set>,
    expired: Vec<Arc<ReplicaSet>>,
    now: Timestamp,
}

impl Planner<'_> {
    fn run(mut self) -> Result<Plan, String> {
        let deployment = self.view.deployment;
        let paused = deployment.spec.as_ref().is_some_and(|s| s.paused == Some(true));
        if deployment.metadata.deletion_timestamp.is_some() {
            self.count();
            return Ok(self.finish(false));
        }
        self.note_pause(paused);
        self.follow();
        let mut rolls_out = false;
        if paused || self.was_scaled() {
            let actual = self.old_status.replicas.unwrap_or(0);
            rollout::resize(self.new.as_mut(), &mut self.old, self.limits, actual);
            if paused {
                self.tidy();
            }
            self.count();
        } else {
            rolls_out = true;
            let moved = if self.limits.rolling { self.roll() } else { self.recreate() };
            if !moved && conditions::is_complete(deployment, &self.old_status, self.limits.wanted) {
                self.tidy();
            }
            self.count();
        }
        Ok(self.finish(rolls_out))
    }

    /// A pause stops the clock of the progress deadline.
    fn note_pause(&mut self, paused: bool) {
        if conditions::deadline(self.view.deployment).is_none() {
            return;
        }
        let current = conditions::find(&self.status, conditions::PROGRESSING);
        let reason = current.and_then(|c| c.reason.as_deref()).unwrap_or_default();
        let noted = reason == conditions::PAUSED;
        if reason == conditions::TIMED_OUT || paused == noted {
            return;
        }
        let (reason, message) = match paused {
            true => (conditions::PAUSED, "Deployment is paused"),
            false => ("DeploymentResumed", "Deployment is resumed"),
        };
        conditions::progressing(&mut self.status, "Unknown", reason, message.to_owned(), self.now);
    }

    /// The number of the newest template: one more than any other has.
    fn next_revision(&self) -> i64 {
        self.old.iter().map(Set::revision).max().unwrap_or(0) + 1
    }

    fn follow(&mut self) {
        let (deployment, revision) = (self.view.deployment, self.next_revision());
        let Some(new) = &mut self.new else { return };
        new.follow(deployment, revision);
        let silent = conditions::find(&self.status, conditions::PROGRESSING).is_none();
        if silent && conditions::deadline(deployment).is_some() {
            let message = format!("Found new replica set {:?}", name(&new.set.metadata));
            conditions::progressing(&mut self.status, "True", "FoundNewReplicaSet", message, self.now);
        }
    }

    /// Whether the deployment's size changed since its sets were last scaled.
    fn was_scaled(&self) -> bool {
        let all = self.old.iter().chain(&self.new).filter(|s| s.replicas() > 0);
        all.filter_map(Set::desired).any(|desired| desired != self.limits.wanted)
    }

    /// A set for the template, of `replicas` pods.
    fn create(&mut self, replicas: impl FnOnce(&Set, &[Set], Limits) -> i32) {
        let (deployment, revision) = (self.view.deployment, self.next_revision());
        let mut new = sets::new(deployment);
        new.follow(deployment, revision);
        let replicas = replicas(&new, &self.old, self.limits);
        new.scale(replicas, self.limits.wanted, self.limits.max());
        if conditions::deadline(deployment).is_some() {
            let message = format!("Created new replica set {:?}", name(&new.set.metadata));
            conditions::progressing(&mut self.status, "True", "NewReplicaSetCreated", message, self.now);
        }
        self.new = Some(new);
    }

    fn roll(&mut self) -> bool {
        if self.new.is_none() {
            self.create(rollout::room_for_new);
            return true;
        }
        match &mut self.new {
            Some(new) => rollout::roll(new, &mut self.old, self.limits),
            None => false,
        }
    }

    fn recreate(&mut self) -> bool {
        if rollout::drain(&mut self.old, self.limits) || self.old_pods_run() {
            return true;
        }
        let limits = self.limits;
        match &mut self.new {
            None => self.create(|_, _, limits| limits.wanted),
            Some(new) if new.replicas() != limits.wanted => {
                new.scale(limits.wanted, limits.wanted, limits.max());
            }
            Some(_) => return false,
        }
        true
    }

    fn old_pods_run(&self) -> bool {
        let new = self.new.as_ref().map(|s| uid(&s.set.metadata).to_owned());
        let of_new = |p: &Pod| owner::controller_of(&p.metadata).map(|o| &o.uid) == new.as_ref();
        sum(&self.old, Set::actual) > 0 || self.view.pods.iter().any(|p| !of_new(p) && !pod::is_terminal(p))
    }

    /// Old sets beyond the history that is kept, if they have no pods.
    fn tidy(&mut self) {
        let limit = self.view.deployment.spec.as_ref().and_then(|s| s.revision_history_limit).unwrap_or(10);
        let Ok(limit) = usize::try_from(limit) else { return };
        let mut alive: Vec<&Set> =
            self.old.iter().filter(|s| s.set.metadata.deletion_timestamp.is_none()).collect();
        alive.sort_by_key(|s| (s.revision(), s.set.metadata.creation_timestamp.as_ref().map(|t| t.0)));
        let surplus = alive.len().saturating_sub(limit);
        for set in alive.into_iter().take(surplus) {
            let observed = set.set.status.as_ref().and_then(|s| s.observed_generation).unwrap_or(0);
            let settled = set.set.metadata.generation.unwrap_or(0) <= observed;
            if let Some(seen) =
                set.seen.as_ref().filter(|_| settled && set.actual() == 0 && set.replicas() == 0)
            {
                self.expired.push(seen.clone());
            }
        }
    }

    /// The numbers of the status, and whether enough pods serve.
    fn count(&mut self) {
        let all = |of: fn(&Set) -> i32| sum(&self.old, of) + self.new.as_ref().map_or(0, of);
        let (replicas, available, wanted) = (all(Set::actual), all(Set::available), all(Set::replicas));
        let terminating = all(|s| s.set.status.as_ref().and_then(|s| s.terminating_replicas).unwrap_or(0));
        let non_zero = |n: i32| (n != 0).then_some(n);
        let counted = DeploymentStatus {
            observed_generation: self.view.deployment.metadata.generation,
            replicas: non_zero(replicas),
            updated_replicas: non_zero(self.new.as_ref().map_or(0, Set::actual)),
            ready_replicas: non_zero(all(Set::ready)),
            available_replicas: non_zero(available),
            unavailable_replicas: non_zero((wanted - available).max(0)),
            terminating_replicas: Some(terminating),
            collision_count: self.status.collision_count,
            conditions: self.status.conditions.take(),
        };
        self.status = counted;
        let enough = available >= self.limits.min_available();
        conditions::availability(&mut self.status, enough, self.now);
    }

    fn finish(mut self, rolls_out: bool) -> Plan {
        let (deployment, wanted) = (self.view.deployment, self.limits.wanted);
        let mut check_after = None;
        if rolls_out {
            let about = (self.new.as_ref(), wanted);
            conditions::progress(deployment, &self.old_status, &mut self.status, about, self.now);
            conditions::failure(&mut self.status, self.new.iter().chain(&self.old));
            check_after = conditions::check_after(deployment, &self.status, wanted, self.now);
        }
        let revision = self.new.as_ref().map(|n| n.revision().to_string());
        // Down before up would be as good: each run does one of them.
        let changed = self.new.into_iter().chain(self.old).filter_map(|set| match set.seen {
            None => Some(Step::Create(Box::new(set.set))),
            Some(seen) if *seen != set.set => Some(Step::Update { seen, wanted: Box::new(set.set) }),
            Some(_) => None,
        });
        let steps = changed.chain(self.expired.into_iter().map(Step::Delete)).collect();
        Plan { ownership: Vec::new(), steps, status: self.status, revision, check_after }
    }
}
