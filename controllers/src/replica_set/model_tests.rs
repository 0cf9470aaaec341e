//! A small world of one set: an API server, kubelets that make progress when they like, people who scale, delete and
//! relabel, and a controller whose cache lags. The controller's real `plan` decides, as the loop has it: on the cache
//! first, and on the truth before it acts. Whatever happens, a run never makes more pods than are wanted, and when the
//! world comes to rest there are exactly as many.

use super::{
    plan::{Ownership, Plan, View, new_pod, plan},
    plan_tests::{now, set},
};
use api::{owner, pod};
use k8s_openapi::{
    api::{apps::v1::ReplicaSet, core::v1::Pod},
    apimachinery::pkg::apis::meta::v1::Time,
};
use proptest::prelude::*;
use std::sync::Arc;

#[derive(Clone)]
struct World {
    set: ReplicaSet,
    pods: Vec<Arc<Pod>>,
    made: usize,
}

#[derive(Debug, Clone, Copy)]
enum Act {
    /// The controller runs with the world as it was this many steps ago in its cache.
    Reconcile {
        lag: usize,
    },
    Scale(i32),
    /// To the pod of this index, modulo their number.
    Start(usize),
    Fail(usize),
    Delete(usize),
    /// The kubelet has ended it, or nobody ever ran it.
    Remove(usize),
    Relabel(usize),
    LabelBack(usize),
}

fn act() -> impl Strategy<Value = Act> {
    prop_oneof![
        4 => (0..6usize).prop_map(|lag| Act::Reconcile { lag }),
        1 => (0..6i32).prop_map(Act::Scale),
        2 => any::<usize>().prop_map(Act::Start),
        1 => any::<usize>().prop_map(Act::Fail),
        1 => any::<usize>().prop_map(Act::Delete),
        1 => any::<usize>().prop_map(Act::Remove),
        1 => any::<usize>().prop_map(Act::Relabel),
        1 => any::<usize>().prop_map(Act::LabelBack),
    ]
}

impl World {
    fn plan(&self) -> Plan {
        plan(&View { set: &self.set, pods: &self.pods, related: &[], counts_terminating: true }, now())
            .unwrap()
    }

    fn wanted(&self) -> usize {
        usize::try_from(self.set.spec.as_ref().unwrap().replicas.unwrap()).unwrap()
    }

    /// What counts: active, owned by the set, with its labels.
    fn members(&self) -> usize {
        let members = self.pods.iter().filter(|p| pod::is_active(p) && label(p) == "kubia");
        members.filter(|p| owner::is_controlled_by(&p.metadata, &self.set.metadata)).count()
    }

    fn change(&mut self, index: usize, change: impl FnOnce(&mut Pod)) {
        let n = self.pods.len();
        if let Some(pod) = (n > 0).then(|| &mut self.pods[index % n]) {
            change(Arc::make_mut(pod));
        }
    }

    fn reconcile(&mut self, cache: &World, live_read: bool) {
        let mut plan = cache.plan();
        if plan.ownership.is_empty() && plan.acts() && live_read {
            plan = self.plan();
        }
        let set = self.set.clone();
        for change in &plan.ownership {
            let (Ownership::Adopt(seen) | Ownership::Release(seen)) = change;
            // Guarded by UID and resourceVersion: only what is still as it was seen.
            if let Some(pod) = self.pods.iter_mut().find(|p| p == &seen) {
                Arc::make_mut(pod).metadata.owner_references =
                    matches!(change, Ownership::Adopt(_)).then(|| vec![owner::controller_ref(&set)]);
            }
        }
        for _ in 0..plan.create {
            self.made += 1;
            let mut pod = new_pod(&set, owner::controller_ref(&set));
            pod.metadata.name = Some(format!("p{}", self.made));
            pod.metadata.uid = pod.metadata.name.clone();
            self.pods.push(Arc::new(pod));
        }
        for seen in &plan.delete {
            if let Some(pod) = self.pods.iter_mut().find(|p| p == &seen) {
                Arc::make_mut(pod).metadata.deletion_timestamp = Some(Time(now()));
            }
        }
    }
}

fn label(pod: &Pod) -> &str {
    pod.metadata.labels.as_ref().and_then(|l| l.get("app")).map_or("", String::as_str)
}

fn run(acts: &[Act], live_read: bool) -> Result<(), String> {
    let mut history = vec![World { set: set(3, |_| {}), pods: Vec::new(), made: 0 }];
    for act in acts {
        let mut world = history.last().unwrap().clone();
        match *act {
            Act::Reconcile { lag } => {
                let before = world.members();
                world.reconcile(&history[history.len().saturating_sub(1 + lag)].clone(), live_read);
                let (after, wanted) = (world.members(), world.wanted());
                // Adoption may bring one more than are wanted; making pods never.
                if world.made > history.last().unwrap().made && after > wanted {
                    return Err(format!("made pods up to {after}, {wanted} are wanted"));
                }
                if after < before
                    && after < wanted.min(before)
                    && world.pods.iter().all(|p| label(p) == "kubia")
                {
                    return Err(format!("deleted from {before} down to {after}, {wanted} are wanted"));
                }
            }
            Act::Scale(n) => world.set.spec.as_mut().unwrap().replicas = Some(n),
            Act::Start(i) => world.change(i, |p| {
                p.status.get_or_insert_default().phase = Some("Running".to_owned());
            }),
            Act::Fail(i) => world.change(i, |p| {
                p.status.get_or_insert_default().phase = Some("Failed".to_owned());
            }),
            Act::Delete(i) => world.change(i, |p| {
                p.metadata.deletion_timestamp = Some(Time(now()));
            }),
            Act::Remove(i) => {
                let n = world.pods.len();
                if n > 0 && pod::is_terminating(&world.pods[i % n]) {
                    world.pods.remove(i % n);
                }
            }
            Act::Relabel(i) => world.change(i, |p| {
                p.metadata.labels = Some([("app".to_owned(), "other".to_owned())].into());
            }),
            Act::LabelBack(i) => world.change(i, |p| {
                p.metadata.labels = Some([("app".to_owned(), "kubia".to_owned())].into());
            }),
        }
        history.push(world);
    }
    let mut world = history.pop().unwrap();
    for _ in 0..world.pods.len() + 10 {
        let cache = world.clone();
        world.reconcile(&cache, live_read);
    }
    if world.members() != world.wanted() {
        return Err(format!("at rest {} pods, {} are wanted", world.members(), world.wanted()));
    }
    Ok(())
}

proptest! {
    #[test]
    fn a_lagging_cache_does_no_harm(acts in proptest::collection::vec(act(), 0..60)) {
        prop_assert_eq!(run(&acts, true), Ok(()));
    }
}

/// The guard is worth something: without it, the same cache makes the same pods twice.
#[test]
fn without_the_live_read_it_would() {
    let twice = [Act::Reconcile { lag: 0 }, Act::Reconcile { lag: 1 }];
    assert!(run(&twice, false).is_err());
    assert_eq!(run(&twice, true), Ok(()));
}
