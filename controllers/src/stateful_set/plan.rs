//! What must change so that the pods a set has become the pods it wants. Pure: no clock, no client.
//!
//! At most one pod per identity, ever, rests on three things, none of which this plan can break: a pod's name is its
//! identity and the API server holds one object per name; the plan never asks for a deletion that does not wait for
//! the kubelet; and it creates a pod only where none of that name is left.
//!
//! Order under `OrderedReady`, ordinals ascending for the wanted replicas, then descending:
//!
//! ```text
//!  ended pod ─► delete, stop      missing ─► claims, pod, stop      terminating, not Ready, not available ─► stop
//!      └── all wanted replicas available ──► surplus: the highest, if all below it are available; stop
//!                                        └──► old revision: the highest at or above the partition; stop
//! ```
//!
//! `Parallel` does the same for all ordinals at once, but a roll-out still goes step by step.
//!
//! In one point this is better than Kubernetes' own controller: a pod of an old revision that is not Ready is replaced
//! by one of the new revision without waiting for it to become Ready, which it may never do
//! (<https://kubernetes.io/docs/concepts/workloads/controllers/statefulset/#forced-rollback>). It serves nobody while
//! it waits, and a roll-out whose own new pods are not Ready still stops.
//! In another it is stricter: a healthy surplus pod stays while any instance below it is unhealthy, surplus or not.

use super::{identity, revisions, revisions::Resolved, status};
use crate::context::{name, namespace, uid};
use api::{owner, pod, selector::Selector};
use client::Guard;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        apps::v1::{ControllerRevision, RollingUpdateStatefulSetStrategy, StatefulSet, StatefulSetStatus},
        core::v1::{PersistentVolumeClaim, Pod},
    },
    apimachinery::pkg::{apis::meta::v1::OwnerReference, util::intstr::IntOrString},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// Most pods acted upon in one run, so that a set of any size is worked on in pieces (Kubernetes' figure).
pub const MAX_PODS_PER_RUN: usize = 500;

/// What is known of a set. Pods and revisions: those of its namespace that it controls or that match its selector
/// and have no controller (others are ignored).
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    pub set: &'a StatefulSet,
    pub pods: &'a [Arc<Pod>],
    pub claims: &'a [Arc<PersistentVolumeClaim>],
    pub revisions: &'a [Arc<ControllerRevision>],
}

/// What to do, in this order: ownership; the revision; the pods; old revisions; the status.
#[derive(Debug, Clone)]
pub struct Plan {
    /// If there is any, it is all that is planned: the next run sees who belongs to the set.
    pub ownership: Vec<Ownership>,
    pub revision: revisions::Step,
    /// The steps for each pod. Steps of one pod are done in order and end at the first that fails; under
    /// `parallel`, different pods are independent of each other.
    pub pods: Vec<Vec<Step>>,
    pub parallel: bool,
    pub expired: Vec<Arc<ControllerRevision>>,
    pub status: StatefulSetStatus,
    /// When to look again although nothing changed: a Ready pod becomes available.
    pub check_after: Option<SignedDuration>,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Ownership {
    AdoptPod(Arc<Pod>),
    ReleasePod(Arc<Pod>),
    AdoptRevision(Arc<ControllerRevision>),
}

#[derive(Debug, Clone, PartialEq)]
pub enum Step {
    CreateClaim {
        claim: Box<PersistentVolumeClaim>,
        pod: String,
    },
    CreatePod(Box<Pod>),
    /// A graceful deletion, valid for the pod exactly as it was seen.
    DeletePod {
        pod: Arc<Pod>,
        why: Why,
    },
    /// Puts the labels of its identity back.
    Label {
        pod: Arc<Pod>,
        ordinal: i32,
    },
    SetClaimOwners {
        claim: Arc<PersistentVolumeClaim>,
        owners: Vec<OwnerReference>,
    },
    /// Nothing can be done for this pod until something else changes.
    Refuse {
        verb: Verb,
        pod: String,
        why: String,
    },
}

/// Why a pod is deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// It has ended; pods of a set always run.
    Ended,
    /// Its ordinal is beyond the replicas.
    ScaledDown,
    /// It is of an old revision.
    Outdated,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Create,
    Update,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    #[error("the selector is not valid: {0}")]
    Selector(String),
    #[error("the template cannot be recorded: {0}")]
    Template(String),
    #[error("revision {name} cannot be read: {why}")]
    Revision { name: String, why: String },
}

impl Plan {
    /// Whether it changes anything but the set's status.
    pub fn acts(&self) -> bool {
        !self.ownership.is_empty()
            || self.revision != revisions::Step::Keep
            || !self.pods.is_empty()
            || !self.expired.is_empty()
    }
}

pub fn plan(view: &View<'_>, now: Timestamp) -> Result<Plan, PlanError> {
    let set = view.set;
    let selector = selector(set)?;
    let ownership = ownership(view, &selector);
    let own_revisions: Vec<Arc<ControllerRevision>> = view
        .revisions
        .iter()
        .filter(|r| owner::is_controlled_by(&r.metadata, &set.metadata))
        .cloned()
        .collect();
    let resolved = revisions::resolve(set, &own_revisions)?;
    let members: Vec<&Arc<Pod>> = view.pods.iter().filter(|p| is_member(set, &selector, p)).collect();
    let status = status::compute(set, &resolved, &members, now);
    let mut plan = Plan {
        ownership,
        revision: revisions::Step::Keep,
        pods: Vec::new(),
        parallel: is_parallel(set),
        expired: Vec::new(),
        status,
        check_after: status::next_available(&members, min_ready_seconds(set), now),
    };
    if !plan.ownership.is_empty() {
        return Ok(plan);
    }
    plan.revision = resolved.step.clone();
    let mut live: BTreeSet<&str> = members.iter().map(|p| identity::revision_of(p)).collect();
    live.extend([resolved.current.revision.as_str(), resolved.update.revision.as_str()]);
    plan.expired = revisions::expired(set, &own_revisions, &live);
    if set.metadata.deletion_timestamp.is_none() {
        plan.pods = Planner::new(view, &resolved, &members, now).run();
    }
    Ok(plan)
}

pub(super) fn selector(set: &StatefulSet) -> Result<Selector, PlanError> {
    Selector::from_label_selector(set.spec.as_ref().map(|s| &s.selector)).map_err(PlanError::Selector)
}

fn is_parallel(set: &StatefulSet) -> bool {
    set.spec.as_ref().and_then(|s| s.pod_management_policy.as_deref()) == Some("Parallel")
}

fn min_ready_seconds(set: &StatefulSet) -> i32 {
    set.spec.as_ref().and_then(|s| s.min_ready_seconds).unwrap_or(0)
}

fn is_member(set: &StatefulSet, selector: &Selector, pod: &Pod) -> bool {
    owner::is_controlled_by(&pod.metadata, &set.metadata)
        && selector.matches_labels(pod.metadata.labels.as_ref())
        && identity::is_member(set, pod)
}

/// Who is to be taken in or let go. A set that is being deleted does neither.
fn ownership(view: &View<'_>, selector: &Selector) -> Vec<Ownership> {
    let set = view.set;
    if set.metadata.deletion_timestamp.is_some() {
        return Vec::new();
    }
    let here = |ns: &str| ns == namespace(&set.metadata);
    let mut changes = Vec::new();
    for pod in view.pods.iter().filter(|p| here(namespace(&p.metadata))) {
        let selected = selector.matches_labels(pod.metadata.labels.as_ref()) && identity::is_member(set, pod);
        match owner::controller_of(&pod.metadata) {
            Some(owner) if owner.uid == uid(&set.metadata) && !selected => {
                changes.push(Ownership::ReleasePod(Arc::clone(pod)));
            }
            Some(_) => {}
            None if selected && !pod::is_terminating(pod) => {
                changes.push(Ownership::AdoptPod(Arc::clone(pod)))
            }
            None => {}
        }
    }
    for revision in view.revisions.iter().filter(|r| here(namespace(&r.metadata))) {
        let orphan = owner::controller_of(&revision.metadata).is_none();
        if orphan
            && revision.metadata.deletion_timestamp.is_none()
            && selector.matches_labels(revision.metadata.labels.as_ref())
        {
            changes.push(Ownership::AdoptRevision(Arc::clone(revision)));
        }
    }
    changes
}

struct Planner<'a> {
    set: &'a StatefulSet,
    resolved: &'a Resolved,
    now: Timestamp,
    min_ready: i32,
    parallel: bool,
    start: i32,
    /// One past the last wanted ordinal.
    end: i32,
    /// Wanted replicas that exist, by ordinal.
    replicas: BTreeMap<i32, &'a Arc<Pod>>,
    /// Pods beyond the replicas, by ordinal.
    surplus: BTreeMap<i32, &'a Arc<Pod>>,
    claims: BTreeMap<&'a str, &'a Arc<PersistentVolumeClaim>>,
    steps: Vec<Vec<Step>>,
}

/// Whether the ordered work ends here until something changes.
#[derive(PartialEq, Eq)]
enum Flow {
    Go,
    Stop,
}

impl<'a> Planner<'a> {
    fn new(view: &View<'a>, resolved: &'a Resolved, members: &[&'a Arc<Pod>], now: Timestamp) -> Self {
        let set = view.set;
        let start = identity::start(set);
        let replicas = set.spec.as_ref().and_then(|s| s.replicas).unwrap_or(1).max(0);
        let end = start.saturating_add(replicas);
        let by_ordinal = members.iter().filter_map(|p| Some((identity::ordinal_of(set, p)?, *p)));
        let (replicas, surplus) = by_ordinal.partition(|(ordinal, _)| (start..end).contains(ordinal));
        Self {
            set,
            resolved,
            now,
            min_ready: min_ready_seconds(set),
            parallel: is_parallel(set),
            start,
            end,
            replicas,
            surplus,
            claims: view.claims.iter().map(|c| (name(&c.metadata), c)).collect(),
            steps: Vec::new(),
        }
    }

    fn run(mut self) -> Vec<Vec<Step>> {
        if self.tend_replicas() == Flow::Go && self.tend_surplus() == Flow::Go {
            for pod in self.outdated() {
                self.delete(pod, Why::Outdated);
            }
        }
        self.steps.retain(|steps| !steps.is_empty());
        self.steps
    }

    fn healthy(&self, pod: &Pod) -> bool {
        status::is_healthy(pod, self.min_ready, self.now)
    }

    fn delete(&mut self, pod: &Arc<Pod>, why: Why) {
        self.steps.push(vec![Step::DeletePod { pod: Arc::clone(pod), why }]);
    }

    fn tend_replicas(&mut self) -> Flow {
        for ordinal in self.start..self.end {
            if self.steps.len() >= MAX_PODS_PER_RUN {
                return Flow::Stop;
            }
            let (steps, flow) = match self.replicas.get(&ordinal).copied() {
                None => (self.create(ordinal), Flow::Stop),
                Some(pod) => self.tend(pod, ordinal),
            };
            if !steps.is_empty() {
                self.steps.push(steps);
            }
            if flow == Flow::Stop && !self.parallel {
                return Flow::Stop;
            }
        }
        Flow::Go
    }

    /// Claims first, then the pod: a pod whose claims do not exist could not be scheduled.
    fn create(&self, ordinal: i32) -> Vec<Step> {
        let pod_name = identity::pod_name(self.set, ordinal);
        let names = identity::claim_names(self.set, ordinal);
        let existing = || {
            let names = names.iter().filter(|_| Guard::ClaimStays.holds());
            names.filter_map(|n| self.claims.get(n.as_str()))
        };
        if existing().any(|c| identity::is_stale(self.set, c, &pod_name)) {
            // It goes with the earlier pod of this name; its deletion starts the next run.
            return Vec::new();
        }
        if let Some(claim) = existing().find(|c| c.metadata.deletion_timestamp.is_some()) {
            let why = format!("pvc {} is being deleted", name(&claim.metadata));
            return vec![Step::Refuse { verb: Verb::Create, pod: pod_name, why }];
        }
        let template = self.template_for(ordinal);
        let pod = identity::new_pod(self.set, &template.template, &template.revision, ordinal);
        let mut steps = self.missing_claims(ordinal, &pod_name);
        steps.push(Step::CreatePod(Box::new(pod)));
        steps
    }

    fn missing_claims(&self, ordinal: i32, pod_name: &str) -> Vec<Step> {
        identity::claims(self.set, ordinal)
            .into_iter()
            .filter(|claim| !self.claims.contains_key(name(&claim.metadata)))
            .map(|claim| Step::CreateClaim { claim: Box::new(claim), pod: pod_name.to_owned() })
            .collect()
    }

    /// A roll-out goes down from the highest ordinal, so what a lost pod below the partition comes back as is its old self.
    fn template_for(&self, ordinal: i32) -> &'a revisions::Template {
        let strategy = self.set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
        let rolling = strategy.and_then(|s| s.type_.as_deref()).is_none_or(|t| t == "RollingUpdate");
        let old = match strategy.and_then(|s| s.rolling_update.as_ref()) {
            Some(rolling) => i64::from(rolling.partition.unwrap_or(0)),
            None if rolling => {
                i64::from(self.set.status.as_ref().and_then(|s| s.current_replicas).unwrap_or(0))
            }
            None => 0,
        };
        if i64::from(ordinal) < i64::from(self.start) + old {
            &self.resolved.current
        } else {
            &self.resolved.update
        }
    }

    fn tend(&self, pod: &Arc<Pod>, ordinal: i32) -> (Vec<Step>, Flow) {
        let pod_name = name(&pod.metadata);
        if pod::is_terminal(pod) {
            let delete = Step::DeletePod { pod: Arc::clone(pod), why: Why::Ended };
            return (if pod::is_terminating(pod) { vec![] } else { vec![delete] }, Flow::Stop);
        }
        let mut steps = Vec::new();
        if pod::phase(pod) == "Pending" && !pod::is_terminating(pod) {
            // Someone deleted a claim of a pod that is not running yet.
            steps.extend(self.missing_claims(ordinal, pod_name));
        }
        if !self.parallel && !self.healthy(pod) && Guard::PredecessorReady.holds() {
            if !pod::is_terminating(pod) && !status::is_running_and_ready(pod) {
                let broken = self.outdated().into_iter().find(|p| !status::is_running_and_ready(p));
                steps.extend(broken.map(|p| Step::DeletePod { pod: Arc::clone(p), why: Why::Outdated }));
            }
            return (steps, Flow::Stop);
        }
        if pod::is_terminating(pod) {
            return (steps, Flow::Stop);
        }
        if !identity::identity_matches(pod) {
            steps.push(Step::Label { pod: Arc::clone(pod), ordinal });
        }
        if !identity::storage_matches(self.set, pod, ordinal) {
            let why = "it does not mount the claims of its identity, and a pod's volumes cannot be changed"
                .to_owned();
            steps.push(Step::Refuse { verb: Verb::Update, pod: pod_name.to_owned(), why });
            return (steps, Flow::Stop);
        }
        steps.extend(self.claim_owners(pod, ordinal, false));
        (steps, Flow::Go)
    }

    fn claim_owners(&self, pod: &Pod, ordinal: i32, scaled_down: bool) -> Vec<Step> {
        let claims = identity::claim_names(self.set, ordinal);
        claims
            .iter()
            .filter_map(|name| self.claims.get(name.as_str()).copied())
            .filter_map(|claim| {
                let owners = identity::claim_owners(self.set, pod, claim, scaled_down)?;
                Some(Step::SetClaimOwners { claim: Arc::clone(claim), owners })
            })
            .collect()
    }

    fn tend_surplus(&mut self) -> Flow {
        if self.surplus.is_empty() {
            return Flow::Go;
        }
        let surplus: Vec<(i32, &'a Arc<Pod>)> = self.surplus.iter().rev().map(|(o, p)| (*o, *p)).collect();
        for (place, (ordinal, pod)) in surplus.iter().enumerate() {
            let mut steps = self.claim_owners(pod, *ordinal, true);
            let waited_for = place > 0 && !self.parallel && !pod::is_terminating(surplus[0].1);
            if waited_for && pod::phase(pod) == "Pending" && !pod::is_terminating(pod) {
                // Someone deleted its claim: it would never run, and those above it would stay for ever.
                steps.extend(self.missing_claims(*ordinal, name(&pod.metadata)));
            }
            if self.parallel && !pod::is_terminating(pod) {
                steps.push(Step::DeletePod { pod: Arc::clone(pod), why: Why::ScaledDown });
            }
            self.steps.push(steps);
        }
        if self.parallel {
            return Flow::Go;
        }
        // One that has ended is no instance any more: it neither waits for the others nor holds them up.
        let ended = surplus.iter().find(|(_, p)| pod::is_terminal(p) && !pod::is_terminating(p));
        if let Some((_, pod)) = ended {
            self.delete(pod, Why::ScaledDown);
            return Flow::Stop;
        }
        // The wanted replicas are all healthy here.
        if let [(_, highest), below @ ..] = surplus.as_slice()
            && !pod::is_terminating(highest)
            && (below.iter().all(|(_, p)| self.healthy(p)) || !Guard::ScaleDownHealthy.holds())
        {
            self.delete(highest, Why::ScaledDown);
        }
        Flow::Stop
    }

    /// The pods of an old revision that may be deleted now, highest ordinal first.
    fn outdated(&self) -> Vec<&'a Arc<Pod>> {
        let strategy = self.set.spec.as_ref().and_then(|s| s.update_strategy.as_ref());
        if strategy.and_then(|s| s.type_.as_deref()).is_some_and(|t| t != "RollingUpdate") {
            return Vec::new();
        }
        let rolling = strategy.and_then(|s| s.rolling_update.as_ref());
        let partition = rolling.and_then(|r| r.partition).unwrap_or(0);
        let wanted = self.end - self.start;
        let max_unavailable = max_unavailable(rolling, wanted);
        let is_old = |pod: &Pod| identity::revision_of(pod) != self.resolved.update.revision;
        let stuck = self.replicas.values().any(|p| {
            pod::is_terminating(p) || (!is_old(p) && !status::is_available(p, self.min_ready, self.now))
        });
        let healthy = self.replicas.values().filter(|p| self.healthy(p)).count();
        let unavailable = i64::from(wanted) - i64::try_from(healthy).unwrap_or(i64::MAX);
        let mut budget = i64::from(max_unavailable) - unavailable;
        let mut chosen = Vec::new();
        let lowest = self.start.saturating_add(partition);
        for pod in self.replicas.range(lowest.min(self.end)..).rev().map(|(_, p)| *p) {
            if max_unavailable == 1 && !chosen.is_empty() {
                break;
            }
            if !is_old(pod) || !pod::is_active(pod) {
                continue;
            }
            if !status::is_running_and_ready(pod) {
                if !stuck {
                    chosen.push(pod);
                }
            } else if budget > 0 && self.healthy(pod) {
                chosen.push(pod);
                budget -= 1;
            }
        }
        chosen
    }
}

/// At least one, and what a percentage comes to, rounded down.
fn max_unavailable(rolling: Option<&RollingUpdateStatefulSetStrategy>, replicas: i32) -> i32 {
    match rolling.and_then(|r| r.max_unavailable.as_ref()) {
        None => 1,
        Some(IntOrString::Int(n)) => (*n).max(1),
        Some(IntOrString::String(text)) => {
            let percent: i64 = text.strip_suffix('%').and_then(|p| p.parse().ok()).unwrap_or(0);
            i32::try_from(i64::from(replicas) * percent / 100).unwrap_or(1).max(1)
        }
    }
}
