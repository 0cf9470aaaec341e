//! A small world of one StatefulSet: an API server that keeps its promises, kubelets that make progress when they
//! like, people who scale, update, delete and force, and a controller with a cache that lags. The controller's real
//! `plan` decides; what it does is checked against the world as it truly is at that moment.
//!
//! A seed reproduces a run. Each guard of the controller can be taken away, and then a run is found that goes wrong.

use super::{
    identity,
    plan::{Ownership, Plan, Step, View, Why, plan},
    plan_tests::{now, set},
    revisions, status,
};
use crate::context::{name, uid};
use k8s_openapi::{
    api::{
        apps::v1::{ControllerRevision, StatefulSet},
        core::v1::{PersistentVolumeClaim, Pod},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use serde_json::json;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// What the controller has that this test can take away.
#[derive(Debug, Clone, Copy)]
struct Guards {
    /// Reads the set, pods and revisions afresh before it changes anything.
    live_read: bool,
    /// Deletes only the pod exactly as it was seen.
    preconditions: bool,
    /// Deletes gracefully: the object stays until the kubelet is done.
    graceful: bool,
}

const ALL: Guards = Guards { live_read: true, preconditions: true, graceful: true };

/// A template that never becomes Ready.
const BAD: &str = "bad";

type Violation = String;

/// What the API server holds: the truth, and at earlier times what the cache shows.
#[derive(Clone)]
struct Objects {
    set: Arc<StatefulSet>,
    pods: BTreeMap<String, Arc<Pod>>,
    claims: BTreeMap<String, Arc<PersistentVolumeClaim>>,
    revisions: BTreeMap<String, Arc<ControllerRevision>>,
}

impl Objects {
    fn plan(&self) -> Plan {
        let pods: Vec<_> = self.pods.values().cloned().collect();
        let claims: Vec<_> = self.claims.values().cloned().collect();
        let revisions: Vec<_> = self.revisions.values().cloned().collect();
        plan(&View { set: &self.set, pods: &pods, claims: &claims, revisions: &revisions }, now()).unwrap()
    }

    fn ordinals(&self) -> std::ops::Range<i32> {
        let start = identity::start(&self.set);
        start..start + self.set.spec.as_ref().unwrap().replicas.unwrap()
    }
}

struct World {
    rng: fastrand::Rng,
    guards: Guards,
    ordered: bool,
    objects: Objects,
    /// Every state there was; the cache is at one of them and moves forward.
    history: Vec<Objects>,
    cache: usize,
    counter: u64,
    /// Containers that run, by the UID of their pod, with the identity they run as.
    alive: BTreeMap<String, String>,
    /// Pods that a person forced away while their containers may run: all bets are off for these.
    forced: BTreeSet<String>,
    log: Vec<String>,
}

impl World {
    fn new(seed: u64, guards: Guards) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed);
        let ordered = rng.u8(..4) > 0;
        let policy = if ordered { "OrderedReady" } else { "Parallel" };
        let partition = if rng.u8(..4) == 0 { rng.i32(0..3) } else { 0 };
        let set = set(
            "v0",
            json!({
                "replicas": rng.i32(1..5), "podManagementPolicy": policy,
                "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": partition}},
                "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}]
            }),
        );
        let (pods, claims, revisions) = Default::default();
        let objects = Objects { set: Arc::new(set), pods, claims, revisions };
        let history = vec![objects.clone()];
        Self {
            rng,
            guards,
            ordered,
            objects,
            history,
            cache: 0,
            counter: 1,
            alive: BTreeMap::new(),
            forced: BTreeSet::new(),
            log: Vec::new(),
        }
    }

    fn say(&mut self, what: String) {
        self.log.push(what);
    }

    /// Every write goes into the history.
    fn written(&mut self) {
        self.history.push(self.objects.clone());
    }

    fn next(&mut self) -> String {
        self.counter += 1;
        self.counter.to_string()
    }

    fn any_pod(&mut self) -> Option<Arc<Pod>> {
        let pods: Vec<_> = self.objects.pods.values().cloned().collect();
        self.rng.choice(pods)
    }

    fn change_pod(&mut self, pod: &Pod, change: impl FnOnce(&mut Pod)) {
        let mut pod = pod.clone();
        change(&mut pod);
        pod.metadata.resource_version = Some(self.next());
        self.objects.pods.insert(name(&pod.metadata).to_owned(), Arc::new(pod));
        self.written();
    }

    fn change_set(&mut self, change: impl FnOnce(&mut StatefulSet)) {
        let mut set = StatefulSet::clone(&self.objects.set);
        change(&mut set);
        set.metadata.resource_version = Some(self.next());
        self.objects.set = Arc::new(set);
        self.written();
    }

    // The API server and the kubelets.

    fn mark_deleted(&mut self, pod: &Pod) {
        let ended = api::pod::is_terminal(pod);
        if ended || !self.guards.graceful {
            self.objects.pods.remove(name(&pod.metadata));
            self.written();
        } else if pod.metadata.deletion_timestamp.is_none() {
            self.change_pod(pod, |p| p.metadata.deletion_timestamp = Some(Time(now())));
        }
    }

    fn start(&mut self, pod: &Pod) -> Result<(), Violation> {
        if api::pod::phase(pod) != "Pending" || api::pod::is_terminating(pod) {
            return Ok(());
        }
        let identity = name(&pod.metadata).to_owned();
        let twin =
            self.alive.iter().find(|(uid, runs_as)| **runs_as == identity && !self.forced.contains(*uid));
        if let Some((twin, _)) = twin {
            return Err(format!("{identity} runs twice: {twin} and {}", uid(&pod.metadata)));
        }
        self.alive.insert(uid(&pod.metadata).to_owned(), identity);
        self.change_pod(pod, |p| set_status(p, "Running", false));
        Ok(())
    }

    fn set_ready(&mut self, pod: &Pod, ready: bool) {
        if api::pod::phase(pod) == "Running" && api::pod::is_ready(pod) != ready {
            self.change_pod(pod, |p| set_status(p, "Running", ready));
        }
    }

    fn end(&mut self, pod: &Pod) {
        if !api::pod::is_terminal(pod) {
            self.alive.remove(uid(&pod.metadata));
            self.change_pod(pod, |p| set_status(p, "Failed", false));
        }
    }

    /// The kubelet has killed the containers and lets the object go.
    fn finish(&mut self, pod: &Pod) {
        if api::pod::is_terminating(pod) {
            self.alive.remove(uid(&pod.metadata));
            self.objects.pods.remove(name(&pod.metadata));
            self.written();
        }
    }

    // The controller, step by step as in `reconcile`.

    fn reconcile(&mut self, racing: bool) -> Result<(), Violation> {
        let mut seen = self.history[self.cache].clone();
        let mut plan = seen.plan();
        if plan.acts() && self.guards.live_read {
            seen = self.objects.clone();
            plan = seen.plan();
        }
        for change in &plan.ownership {
            assert!(!matches!(change, Ownership::AdoptPod(_)), "nobody orphans pods here");
        }
        self.check_decision(&plan)?;
        if racing {
            self.something()?;
        }
        match &plan.revision {
            revisions::Step::Keep => {}
            revisions::Step::Create(new) => {
                let mut new = ControllerRevision::clone(new);
                new.metadata.uid = Some(self.next());
                self.objects.revisions.entry(name(&new.metadata).to_owned()).or_insert(Arc::new(new));
                self.written();
            }
            revisions::Step::Renumber { revision, number } => {
                let renumbered =
                    ControllerRevision { revision: *number, ..ControllerRevision::clone(revision) };
                self.objects.revisions.insert(name(&revision.metadata).to_owned(), Arc::new(renumbered));
                self.written();
            }
        }
        for steps in &plan.pods {
            for step in steps {
                if !self.perform(step)? {
                    return Ok(());
                }
            }
        }
        for revision in &plan.expired {
            self.objects.revisions.remove(name(&revision.metadata));
            self.written();
        }
        let unchanged = seen.set.metadata.resource_version == self.objects.set.metadata.resource_version;
        if unchanged && status::differs(self.objects.set.status.as_ref(), &plan.status) {
            self.change_set(|set| set.status = Some(plan.status.clone()));
        }
        Ok(())
    }

    /// `false` if the API server refused and the run ends.
    fn perform(&mut self, step: &Step) -> Result<bool, Violation> {
        match step {
            Step::CreateClaim { claim, .. } => {
                self.objects
                    .claims
                    .entry(name(&claim.metadata).to_owned())
                    .or_insert_with(|| Arc::new((**claim).clone()));
            }
            Step::CreatePod(pod) => {
                if self.objects.pods.contains_key(name(&pod.metadata)) {
                    return Ok(false);
                }
                let ordinal = identity::ordinal_of(&self.objects.set, pod).unwrap();
                if !identity::storage_matches(&self.objects.set, pod, ordinal) {
                    return Err(format!("{} is on the wrong volume", name(&pod.metadata)));
                }
                self.say(format!("create {}", name(&pod.metadata)));
                let mut pod = Pod::clone(pod);
                pod.metadata.uid = Some(format!("u{}", self.next()));
                set_status(&mut pod, "Pending", false);
                self.change_pod(&pod, |_| {});
            }
            Step::DeletePod { pod: seen, why } => {
                let Some(now) = self.objects.pods.get(name(&seen.metadata)).cloned() else { return Ok(true) };
                let same = |a: &ObjectMeta, b: &ObjectMeta| {
                    a.uid == b.uid && a.resource_version == b.resource_version
                };
                if self.guards.preconditions && !same(&now.metadata, &seen.metadata) {
                    return Ok(false);
                }
                self.say(format!("delete {} {why:?}", name(&now.metadata)));
                let was_down = !status::is_running_and_ready(seen);
                if *why != Why::ScaledDown && was_down && status::is_running_and_ready(&now) {
                    return Err(format!("{} was deleted as broken, and is not", name(&now.metadata)));
                }
                self.mark_deleted(&now);
            }
            Step::SetClaimOwners { .. } | Step::Label { .. } | Step::Refuse { .. } => {}
        }
        self.written();
        Ok(true)
    }

    /// What order promises, against the world as it is.
    fn check_decision(&self, plan: &Plan) -> Result<(), Violation> {
        if !self.ordered {
            return Ok(());
        }
        let truth = &self.objects;
        let healthy = |ordinal: i32| {
            truth
                .pods
                .get(&identity::pod_name(&truth.set, ordinal))
                .is_some_and(|p| status::is_healthy(p, 0, now()))
        };
        let deleted: Vec<_> =
            plan.pods.iter().flatten().filter(|s| matches!(s, Step::DeletePod { .. })).collect();
        if deleted.len() > 1 {
            return Err("more than one pod deleted in one step".to_owned());
        }
        for step in plan.pods.iter().flatten() {
            match step {
                Step::CreatePod(pod) => {
                    let ordinal = identity::ordinal_of(&truth.set, pod).unwrap();
                    if let Some(low) = (truth.ordinals().start..ordinal).find(|o| !healthy(*o)) {
                        return Err(format!("{ordinal} created although {low} is not healthy"));
                    }
                }
                Step::DeletePod { pod, why: Why::ScaledDown } if !api::pod::is_terminal(pod) => {
                    let ordinal = identity::ordinal_of(&truth.set, pod).unwrap();
                    for (other, p) in
                        truth.pods.values().filter_map(|p| Some((identity::ordinal_of(&truth.set, p)?, p)))
                    {
                        if other > ordinal && !api::pod::is_terminal(p) {
                            return Err(format!("scaled down {ordinal} before {other}"));
                        }
                        if other < ordinal && !status::is_healthy(p, 0, now()) {
                            return Err(format!("scaled down {ordinal} past the unhealthy {other}"));
                        }
                    }
                    if truth.ordinals().contains(&ordinal) {
                        return Err(format!("scaled down {ordinal}, which is wanted"));
                    }
                }
                Step::DeletePod { pod, why: Why::Outdated } if status::is_running_and_ready(pod) => {
                    let ordinal = identity::ordinal_of(&truth.set, pod).unwrap();
                    if let Some(down) = truth.ordinals().find(|o| !healthy(*o)) {
                        return Err(format!("updated the healthy {ordinal} while {down} is not healthy"));
                    }
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// One random thing that is not the controller's.
    fn something(&mut self) -> Result<(), Violation> {
        let pod = self.any_pod();
        match (self.rng.u8(..100), pod) {
            (0..22, Some(pod)) => self.start(&pod)?,
            (22..50, Some(pod)) => self.set_ready(&pod, image(&pod) != BAD),
            (50..58, Some(pod)) => self.set_ready(&pod, false),
            (58..62, Some(pod)) => self.end(&pod),
            (62..78, Some(pod)) => self.finish(&pod),
            (78..82, Some(pod)) => self.mark_deleted(&pod),
            (82, Some(pod)) => {
                // kubectl delete --force --grace-period 0, while the node may be out of reach.
                self.forced.insert(uid(&pod.metadata).to_owned());
                self.objects.pods.remove(name(&pod.metadata));
                self.written();
            }
            (83..87, _) => {
                let replicas = self.rng.i32(0..5);
                self.say(format!("scale to {replicas}"));
                self.change_set(|set| set.spec.as_mut().unwrap().replicas = Some(replicas));
            }
            (87..91, _) => {
                let image = self.rng.choice(["v0", "v1", "v2", BAD]).unwrap();
                self.say(format!("update to {image}"));
                self.update(image);
            }
            _ => {}
        }
        Ok(())
    }

    fn update(&mut self, image: &str) {
        self.change_set(|set| {
            let spec = set.spec.as_mut().unwrap();
            spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.to_owned());
            *set.metadata.generation.get_or_insert(0) += 1;
        });
    }

    fn turn(&mut self) -> Result<(), Violation> {
        match self.rng.u8(..10) {
            0..3 => {
                let racing = self.rng.bool();
                self.reconcile(racing)
            }
            3..5 => {
                let newest = self.history.len() - 1;
                self.cache = self.rng.usize(self.cache..=newest);
                Ok(())
            }
            _ => self.something(),
        }
    }

    /// Everybody does their work and nothing else happens: it must come to rest where the set wants it.
    fn settle(&mut self) -> Result<(), Violation> {
        self.update("v9");
        let partition = self.objects.set.spec.as_ref().unwrap().update_strategy.as_ref().unwrap();
        let partition = partition.rolling_update.as_ref().unwrap().partition.unwrap();
        for _ in 0..200 {
            let before = self.history.len();
            for pod in self.objects.pods.values().cloned().collect::<Vec<_>>() {
                let wanted = self.objects.ordinals();
                let ordinal = identity::ordinal_of(&self.objects.set, &pod).unwrap();
                self.finish(&pod);
                if let Some(pod) = self.objects.pods.get(name(&pod.metadata)).cloned() {
                    self.start(&pod)?;
                }
                // Bad pods that no update will reach are repaired by hand.
                let beyond_update = !wanted.contains(&ordinal) || ordinal < partition;
                if let Some(pod) = self.objects.pods.get(name(&pod.metadata)).cloned() {
                    self.set_ready(&pod, image(&pod) != BAD || beyond_update);
                }
            }
            self.cache = self.history.len() - 1;
            self.reconcile(false)?;
            if self.history.len() == before {
                break;
            }
        }
        let truth = &self.objects;
        let expected: BTreeSet<String> =
            truth.ordinals().map(|o| identity::pod_name(&truth.set, o)).collect();
        let there: BTreeSet<String> = truth.pods.keys().cloned().collect();
        if there != expected {
            return Err(format!("came to rest with {there:?} instead of {expected:?}"));
        }
        let late = |p: &&Arc<Pod>| {
            let updated = identity::ordinal_of(&truth.set, p).unwrap() < partition || image(p) == "v9";
            !status::is_healthy(p, 0, now()) || !updated
        };
        if let Some(pod) = truth.pods.values().find(late) {
            return Err(format!("{} is not healthy or not updated at rest", name(&pod.metadata)));
        }
        if truth.plan().acts() {
            return Err("never comes to rest".to_owned());
        }
        let status = truth.set.status.as_ref().unwrap();
        if status.replicas != i32::try_from(expected.len()).unwrap()
            || status.observed_generation != truth.set.metadata.generation
        {
            return Err(format!("status at rest: {status:?}"));
        }
        Ok(())
    }
}

fn set_status(pod: &mut Pod, phase: &str, ready: bool) {
    let ready = if ready { "True" } else { "False" };
    let status = json!({"phase": phase, "conditions": [{"type": "Ready", "status": ready}]});
    pod.status = Some(serde_json::from_value(status).unwrap());
}

fn image(pod: &Pod) -> &str {
    pod.spec.as_ref().unwrap().containers[0].image.as_deref().unwrap()
}

fn simulate(seed: u64, guards: Guards) -> Result<(), Violation> {
    let mut world = World::new(seed, guards);
    let run = (|| {
        (0..120).try_for_each(|_| world.turn())?;
        world.settle()
    })();
    run.map_err(|violation| format!("seed {seed}: {violation}\n  {}", world.log.join("\n  ")))
}

#[test]
fn no_schedule_breaks_a_promise() {
    for seed in 0..400 {
        simulate(seed, ALL).unwrap();
    }
}

#[track_caller]
fn is_needed(without: Guards) {
    assert!((0..400).any(|seed| simulate(seed, without).is_err()), "nothing goes wrong with {without:?}");
}

#[test]
fn the_live_read_is_needed() {
    is_needed(Guards { live_read: false, ..ALL });
}

#[test]
fn preconditions_are_needed() {
    is_needed(Guards { preconditions: false, ..ALL });
}

#[test]
fn graceful_deletion_is_needed() {
    is_needed(Guards { graceful: false, ..ALL });
}
