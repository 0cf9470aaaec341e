//! Tables for single steps, and whole roll-outs in a small world: ReplicaSets that make and lose pods when they like,
//! and people who change the template and the size meanwhile.

use super::plan::{Plan, Step, View, plan};
use crate::context::name;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    api::{
        apps::v1::{Deployment, ReplicaSet},
        core::v1::Pod,
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

fn now() -> Timestamp {
    Timestamp::from_second(1_000_000).unwrap()
}

fn deployment(replicas: i32, image: &str, change: impl FnOnce(&mut Value)) -> Deployment {
    let mut value = json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "d", "generation": 1, "annotations": {"team": "a"}},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                 "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"}},
                 "revisionHistoryLimit": 2, "progressDeadlineSeconds": 600,
                 "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}}}
    });
    change(&mut value);
    serde_json::from_value(value).unwrap()
}

/// The API server and the ReplicaSet controller, as far as they matter.
struct World {
    deployment: Deployment,
    sets: BTreeMap<String, Arc<ReplicaSet>>,
    /// Pods that are going away, by the UID of their set: they run, but no set counts them.
    leaving: Vec<String>,
    made: i64,
}

impl World {
    fn new(deployment: Deployment) -> Self {
        Self { deployment, sets: BTreeMap::new(), leaving: Vec::new(), made: 0 }
    }

    fn plan(&self) -> Plan {
        let sets: Vec<_> = self.sets.values().cloned().collect();
        let counted = sets.iter().flat_map(|s| {
            let n = s.status.as_ref().map_or(0, |s| s.replicas);
            std::iter::repeat_n(s.metadata.uid.clone().unwrap(), usize::try_from(n).unwrap())
        });
        let pods: Vec<_> = counted.chain(self.leaving.iter().cloned()).map(|uid| pod(&uid)).collect();
        plan(&View { deployment: &self.deployment, sets: &sets, pods: &pods }, now()).unwrap()
    }

    fn run(&mut self) -> Plan {
        let plan = self.plan();
        for step in &plan.steps {
            match step {
                Step::Create(set) => {
                    self.made += 1;
                    let mut set = ReplicaSet::clone(set);
                    set.metadata.uid = Some(format!("s{}", self.made));
                    set.metadata.creation_timestamp =
                        Some(Time(now() + SignedDuration::from_secs(self.made)));
                    set.status = Some(Default::default());
                    self.sets.insert(name(&set.metadata).to_owned(), Arc::new(set));
                }
                Step::Update { wanted, .. } => {
                    self.sets.insert(name(&wanted.metadata).to_owned(), Arc::new(ReplicaSet::clone(wanted)));
                }
                Step::Delete(set) => {
                    self.sets.remove(name(&set.metadata));
                }
            }
        }
        self.deployment.status = Some(plan.status.clone());
        if let Some(revision) = &plan.revision {
            let annotations = self.deployment.metadata.annotations.get_or_insert_default();
            annotations.insert("deployment.kubernetes.io/revision".to_owned(), revision.clone());
        }
        plan
    }

    /// Set number `i` does what it can: makes its pods, deletes its surplus, and `ready` of them serve.
    fn work(&mut self, i: usize, ready: bool) {
        let Some(set) = self.sets.values_mut().nth(i) else { return };
        let set = Arc::make_mut(set);
        let wanted = set.spec.as_ref().unwrap().replicas.unwrap();
        let status = set.status.get_or_insert_default();
        for _ in wanted..status.replicas {
            self.leaving.push(set.metadata.uid.clone().unwrap());
        }
        status.replicas = wanted;
        let before = status.available_replicas.unwrap_or(0);
        let serving = if ready { wanted } else { before.min(wanted) };
        status.ready_replicas = Some(serving);
        status.available_replicas = Some(serving);
    }

    fn settle(&mut self) {
        for _ in 0..60 {
            self.run();
            for i in 0..self.sets.len() {
                self.work(i, true);
            }
            self.leaving.clear();
        }
    }

    fn wanted(&self) -> i32 {
        self.deployment.spec.as_ref().unwrap().replicas.unwrap()
    }

    /// Replicas by image, those that are none left out.
    fn sizes(&self) -> BTreeMap<String, i32> {
        let spec = |s: &ReplicaSet| s.spec.clone().unwrap();
        let image =
            |s: &ReplicaSet| spec(s).template.unwrap().spec.unwrap().containers[0].image.clone().unwrap();
        self.sets.values().map(|s| (image(s), spec(s).replicas.unwrap())).filter(|(_, n)| *n > 0).collect()
    }

    fn set_image(&mut self, image: &str) {
        let spec = self.deployment.spec.as_mut().unwrap();
        spec.template.spec.as_mut().unwrap().containers[0].image = Some(image.to_owned());
    }

    fn condition(&self, type_: &str) -> String {
        let status = self.deployment.status.as_ref().unwrap();
        let found = status.conditions.iter().flatten().find(|c| c.type_ == type_);
        found.map_or_else(String::new, |c| format!("{} {}", c.status, c.reason.as_deref().unwrap_or("")))
    }
}

fn pod(owner: &str) -> Arc<Pod> {
    let owners = json!([{"apiVersion": "apps/v1", "kind": "ReplicaSet", "name": "x", "uid": owner, "controller": true}]);
    Arc::new(
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "ownerReferences": owners}, "status": {"phase": "Running"}}))
            .unwrap(),
    )
}

fn sizes(all: &[(&str, i32)]) -> BTreeMap<String, i32> {
    all.iter().map(|(image, n)| ((*image).to_owned(), *n)).collect()
}

#[test]
fn a_set_is_made_and_named_after_its_template() {
    let mut world = World::new(deployment(3, "v1", |_| {}));
    world.run();
    let set = world.sets.values().next().unwrap();
    let hash = set.metadata.labels.as_ref().unwrap()["pod-template-hash"].clone();
    assert_eq!(name(&set.metadata), format!("web-{hash}"));
    let spec = set.spec.as_ref().unwrap();
    assert_eq!(spec.replicas, Some(3));
    assert_eq!(spec.selector.match_labels.as_ref().unwrap()["pod-template-hash"], hash);
    let annotations = set.metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations["team"], "a");
    assert_eq!(annotations["deployment.kubernetes.io/revision"], "1");
    assert_eq!(annotations["deployment.kubernetes.io/desired-replicas"], "3");
    assert_eq!(annotations["deployment.kubernetes.io/max-replicas"], "4");
    assert_eq!(world.condition("Progressing"), "True NewReplicaSetCreated");
    assert_eq!(world.condition("Available"), "False MinimumReplicasUnavailable");
    world.settle();
    assert_eq!(world.condition("Progressing"), "True NewReplicaSetAvailable");
    assert_eq!(world.condition("Available"), "True MinimumReplicasAvailable");
    assert!(world.plan().steps.is_empty());
}

#[test]
fn a_template_that_never_serves_stops_and_is_told() {
    let mut world = World::new(deployment(4, "v1", |_| {}));
    world.settle();
    world.set_image("bad");
    for _ in 0..20 {
        world.run();
        for i in 0..world.sets.len() {
            world.work(i, false);
        }
    }
    assert_eq!(world.sizes(), sizes(&[("v1", 3), ("bad", 2)]));
    let plan = world.plan();
    assert!(
        plan.check_after.is_some_and(|wait| wait > SignedDuration::from_secs(500)),
        "{:?}",
        plan.check_after
    );
    let later = now() + SignedDuration::from_secs(601);
    let sets: Vec<_> = world.sets.values().cloned().collect();
    let plan = plan_at(&world.deployment, &sets, later);
    let progressing = plan.status.conditions.unwrap().into_iter().find(|c| c.type_ == "Progressing").unwrap();
    assert_eq!(progressing.reason.as_deref(), Some("ProgressDeadlineExceeded"));
    assert_eq!(progressing.status, "False");

    // Back to what works: the old set gets the next number, and remembers the one it had.
    world.set_image("v1");
    world.settle();
    assert_eq!(world.sizes(), sizes(&[("v1", 4)]));
    let first = world.sets.values().find(|s| s.metadata.uid.as_deref() == Some("s1")).unwrap();
    let annotations = first.metadata.annotations.as_ref().unwrap();
    assert_eq!(annotations["deployment.kubernetes.io/revision"], "3");
    assert_eq!(annotations["deployment.kubernetes.io/revision-history"], "1");
}

fn plan_at(deployment: &Deployment, sets: &[Arc<ReplicaSet>], at: Timestamp) -> Plan {
    plan(&View { deployment, sets, pods: &[] }, at).unwrap()
}

#[test]
fn history_is_kept_as_long_as_asked() {
    let mut world = World::new(deployment(1, "v1", |_| {}));
    for image in ["v1", "v2", "v3", "v4", "v5"] {
        world.set_image(image);
        world.settle();
    }
    assert_eq!(world.sets.len(), 3, "the newest and two old ones");
}

#[test]
fn a_paused_deployment_scales_but_does_not_roll() {
    let mut world = World::new(deployment(2, "v1", |_| {}));
    world.settle();
    world.deployment.spec.as_mut().unwrap().paused = Some(true);
    world.set_image("v2");
    world.deployment.spec.as_mut().unwrap().replicas = Some(5);
    world.settle();
    assert_eq!(world.sizes(), sizes(&[("v1", 5)]));
    assert_eq!(world.condition("Progressing"), "Unknown DeploymentPaused");
    world.deployment.spec.as_mut().unwrap().paused = None;
    world.settle();
    assert_eq!(world.sizes(), sizes(&[("v2", 5)]));
}

#[test]
fn scaling_during_a_roll_out_keeps_the_proportions() {
    let mut world = World::new(deployment(10, "v1", |d| {
        d["spec"]["strategy"]["rollingUpdate"] = json!({"maxSurge": 3, "maxUnavailable": 2});
    }));
    world.settle();
    world.set_image("v2");
    for _ in 0..20 {
        world.run();
        for i in 0..world.sets.len() {
            world.work(i, false);
        }
    }
    assert_eq!(world.sizes(), sizes(&[("v1", 8), ("v2", 5)]));
    world.deployment.spec.as_mut().unwrap().replicas = Some(15);
    world.run();
    assert_eq!(world.sizes(), sizes(&[("v1", 11), ("v2", 7)]), "18 in all");
}

#[test]
fn recreate_waits_for_the_last_old_pod() {
    let mut world = World::new(deployment(2, "v1", |d| d["spec"]["strategy"] = json!({"type": "Recreate"})));
    world.settle();
    world.set_image("v2");
    world.run();
    assert_eq!(world.sizes(), sizes(&[]));
    world.work(0, false);
    assert_eq!(world.leaving.len(), 2);
    world.run();
    assert_eq!(world.sizes(), sizes(&[]), "old pods still run");
    world.leaving.clear();
    world.run();
    assert_eq!(world.sizes(), sizes(&[("v2", 2)]));
}

#[test]
fn sets_are_taken_in_and_let_go() {
    let all = deployment(1, "v1", |_| {});
    let mut world = World::new(all.clone());
    world.run();
    let mut orphan = ReplicaSet::clone(world.sets.values().next().unwrap());
    orphan.metadata.owner_references = None;
    assert_eq!(plan_at(&all, &[Arc::new(orphan)], now()).ownership.len(), 1);
    let mut stray = ReplicaSet::clone(world.sets.values().next().unwrap());
    stray.metadata.labels = None;
    assert_eq!(plan_at(&all, &[Arc::new(stray)], now()).ownership.len(), 1);
}

#[derive(Debug, Clone, Copy)]
enum Act {
    Run,
    Work(usize, bool),
    Gone,
    Image(u8),
    Scale(i32),
    Pause(bool),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        6 => Just(Act::Run),
        6 => (0..4usize, any::<bool>()).prop_map(|(i, ready)| Act::Work(i, ready)),
        1 => Just(Act::Gone),
        1 => (0..4u8).prop_map(Act::Image),
        1 => (0..12i32).prop_map(Act::Scale),
        1 => any::<bool>().prop_map(Act::Pause),
    ]
}

proptest! {
    // Each is a whole history of some hundred runs.
    #![proptest_config(ProptestConfig::with_cases(64))]
    /// Whatever people do meanwhile: no run goes above the surge on its own, none takes pods that are needed, and in the
    /// end all pods are of the last template.
    #[test]
    fn roll_outs_keep_their_bounds(
        acts in proptest::collection::vec(act(), 0..80),
        (surge, unavailable) in (0..4i32, 0..4i32).prop_filter("not both", |(s, u)| s + u > 0),
        recreate in any::<bool>(),
    ) {
        let mut world = World::new(deployment(4, "v0", |d| {
            d["spec"]["strategy"]["rollingUpdate"] = json!({"maxSurge": surge, "maxUnavailable": unavailable});
            if recreate {
                d["spec"]["strategy"] = json!({"type": "Recreate"});
            }
        }));
        // Scaling goes by proportion, whoever serves.
        let mut resized = false;
        for act in acts {
            match act {
                Act::Run => {
                    let total = |w: &World| w.sizes().values().sum::<i32>();
                    let serving = |w: &World| w.sets.values().map(|s| {
                        let available = s.status.as_ref().and_then(|s| s.available_replicas).unwrap_or(0);
                        available.min(s.spec.as_ref().unwrap().replicas.unwrap())
                    }).sum::<i32>();
                    let (before, served) = (total(&world), serving(&world));
                    world.run();
                    let max = world.wanted() + if recreate { 0 } else { surge };
                    prop_assert!(total(&world) <= max.max(before), "{} of at most {max}", total(&world));
                    let least = (world.wanted() - unavailable).min(served);
                    let paused = world.deployment.spec.as_ref().unwrap().paused == Some(true);
                    if !recreate && !paused && !resized && before <= max {
                        prop_assert!(serving(&world) >= least, "{} serve, {least} are needed", serving(&world));
                    }
                    resized = false;
                }
                Act::Work(i, ready) => world.work(i, ready),
                Act::Gone => world.leaving.clear(),
                Act::Image(n) => world.set_image(&format!("v{n}")),
                Act::Scale(n) => {
                    resized = true;
                    world.deployment.spec.as_mut().unwrap().replicas = Some(n);
                }
                Act::Pause(paused) => world.deployment.spec.as_mut().unwrap().paused = Some(paused),
            }
        }
        world.deployment.spec.as_mut().unwrap().paused = None;
        world.settle();
        let spec = world.deployment.spec.clone().unwrap();
        let image = spec.template.spec.unwrap().containers[0].image.clone().unwrap();
        let expected = if world.wanted() == 0 { sizes(&[]) } else { sizes(&[(&image, world.wanted())]) };
        prop_assert_eq!(world.sizes(), expected);
        let hashes: std::collections::BTreeSet<_> = world.sets.keys().collect();
        prop_assert_eq!(hashes.len(), world.sets.len());
    }
}
