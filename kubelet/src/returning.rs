//! What a kubelet that comes (back) to a node must have done before the node may be Ready and anything is started: the
//! containers of pods that were deleted or replaced while it was away are dead. Pure.
//!
//! ```text
//!  containers of this node ─┐
//!                           ├─► to_end ─► … they are being ended … ─► still_alive is empty ─► Ready, and all else
//!  pods as the API has them ┘
//! ```
//! "As the API has them" is taken literally: a cache that lags behind would let a pod live that a person has deleted by
//! force and that runs elsewhere by now. [`caught_up`] says when a cache may be believed.

use crate::runtime::{Container, PodRef};
use client::Guard;
use k8s_openapi::api::core::v1::Pod;
use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

/// Whether a cache of a node's pods is as new as a list that the API server has given at `revision`: it has every listed
/// pod in that state or a later one, and none besides that is older than the list.
pub fn caught_up(cached: &[Arc<Pod>], listed: &[Pod], revision: u64) -> bool {
    if !Guard::CaughtUp.holds() {
        return true;
    }
    let cached: HashMap<&str, u64> = cached.iter().map(|pod| (uid(pod), version(pod))).collect();
    let known: BTreeSet<&str> = listed.iter().map(uid).collect();
    listed.iter().all(|pod| cached.get(uid(pod)).is_some_and(|seen| *seen >= version(pod)))
        && cached.iter().all(|(uid, version)| known.contains(uid) || *version > revision)
}

/// What the API server itself said of a node's pods when its kubelet began.
#[derive(Debug, Default)]
pub struct Looked {
    revision: u64,
    there: BTreeSet<String>,
}

impl Looked {
    pub fn new(listed: &[Pod], revision: u64) -> Self {
        Self { revision, there: listed.iter().map(|pod| uid(pod).to_owned()).collect() }
    }

    /// Whether the pod, as a watch shows it, was gone when the API server was asked: a watch that began earlier shows also
    /// what came and went in between.
    pub fn was_gone(&self, pod: &Pod) -> bool {
        version(pod) <= self.revision && !self.there.contains(uid(pod)) && Guard::GoneBefore.holds()
    }
}

/// Uids of the pods whose containers have to end first: their object is gone (or another pod has its name), or it is marked
/// for deletion, or somebody has declared it ended: such an object goes at once when it is deleted.
pub fn to_end(containers: &[Container], pods: &[Arc<Pod>]) -> BTreeSet<String> {
    let staying: BTreeSet<&str> =
        pods.iter().filter(|pod| api::pod::is_active(pod)).map(|pod| uid(pod)).collect();
    let running = containers.iter().filter(|c| c.is_running() && Guard::ReturnFirst.holds());
    let uids = running.map(|c| c.pod.uid.as_str());
    uids.filter(|uid| !staying.contains(uid)).map(str::to_owned).collect()
}

/// Those of them that still have a living container.
pub fn still_alive(ending: &BTreeSet<String>, containers: &[Container]) -> BTreeSet<PodRef> {
    let alive = containers.iter().filter(|c| c.is_running() && ending.contains(&c.pod.uid));
    alive.map(|c| c.pod.clone()).collect()
}

fn uid(pod: &Pod) -> &str {
    pod.metadata.uid.as_deref().unwrap_or_default()
}

/// Revisions are numbers, and only grow.
fn version(pod: &Pod) -> u64 {
    pod.metadata.resource_version.as_deref().and_then(|version| version.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        runtime::State,
        testing::{container, exited, running},
    };
    use serde_json::json;

    fn pod(uid: &str, version: u64, deleted: bool) -> Pod {
        let end = deleted.then_some("2026-01-01T00:00:00Z");
        serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": uid,
            "resourceVersion": version.to_string(), "deletionTimestamp": end},
            "spec": {"containers": [{"name": "c"}]}}))
        .unwrap()
    }

    fn of(uid: &str, state: State) -> Container {
        let pod_ref = PodRef { namespace: "ns".into(), name: "p".into(), uid: uid.into() };
        Container { pod: pod_ref, ..container(&pod(uid, 1, false), "c", 0, state) }
    }

    #[test]
    fn what_came_and_went_before_it_looked_is_gone() {
        let looked = Looked::new(&[pod("stays", 3, false)], 9);
        assert!(looked.was_gone(&pod("forced", 8, false)));
        assert!(!looked.was_gone(&pod("new", 10, false)));
        assert!(!looked.was_gone(&pod("stays", 3, false)), "a watch may show it as it was");
        assert!(!looked.was_gone(&pod("stays", 12, true)));
    }

    #[test]
    fn a_cache_is_believed_when_it_is_as_new_as_the_list() {
        let check = |cached: &[(&str, u64)], listed: &[(&str, u64)], expected: bool| {
            let cached: Vec<_> = cached.iter().map(|(uid, v)| Arc::new(pod(uid, *v, false))).collect();
            let listed: Vec<_> = listed.iter().map(|(uid, v)| pod(uid, *v, false)).collect();
            assert_eq!(caught_up(&cached, &listed, 20), expected, "{cached:?} {listed:?}");
        };
        check(&[], &[], true);
        check(&[("a", 7)], &[("a", 7)], true);
        check(&[("a", 21)], &[("a", 7)], true);
        check(&[("a", 6)], &[("a", 7)], false); // Not yet marked for deletion, say.
        check(&[], &[("a", 7)], false);
        check(&[("a", 7)], &[], false); // Deleted, and the cache has not heard.
        check(&[("a", 7)], &[("b", 9)], false); // Replaced.
        check(&[("a", 7), ("b", 21)], &[("a", 7)], true); // Made after the list.
    }

    #[test]
    fn what_was_deleted_or_replaced_ends_first() {
        let check = |containers: &[Container], pods: &[Pod], expected: &[&str]| {
            let pods: Vec<_> = pods.iter().cloned().map(Arc::new).collect();
            let ending = to_end(containers, &pods);
            assert_eq!(ending.iter().map(String::as_str).collect::<Vec<_>>(), expected);
            assert_eq!(still_alive(&ending, containers).len(), expected.len());
        };
        check(&[], &[pod("a", 1, true)], &[]);
        check(&[of("a", running())], &[pod("a", 1, false)], &[]);
        check(&[of("a", running())], &[pod("a", 1, true)], &["a"]);
        check(&[of("a", running())], &[], &["a"]);
        let status = json!({"phase": "Failed"});
        let declared = Pod { status: serde_json::from_value(status).ok(), ..pod("a", 1, false) };
        check(&[of("a", running())], &[declared], &["a"]);
        check(&[of("a", running()), of("b", running())], &[pod("b", 1, false)], &["a"]);
        // The dead need not be waited for.
        check(&[of("a", exited(0, 5)), of("b", State::Created)], &[], &[]);
    }

    #[test]
    fn it_is_over_when_the_last_container_is_dead() {
        let ending = BTreeSet::from(["a".to_owned()]);
        let alive = |containers: &[Container]| {
            still_alive(&ending, containers).into_iter().map(|pod| pod.uid).collect::<Vec<_>>()
        };
        assert_eq!(alive(&[of("a", running()), of("a", exited(0, 5)), of("b", running())]), ["a"]);
        assert!(alive(&[of("a", exited(0, 5)), of("b", running())]).is_empty());
    }
}
