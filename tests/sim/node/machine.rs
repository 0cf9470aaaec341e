//! A machine: containers, which live on whatever becomes of the kubelet.

use super::BAD;
use crate::{
    oracle::{name, uid},
    server::NS,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use kubelet::{
    pure::plan::{Health, spec_hash},
    runtime::{Container, PodRef, State},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

/// What runs on a node. It outlives kubelets.
#[derive(Default, Clone)]
pub(crate) struct Machine {
    pub(crate) containers: Vec<Container>,
    pub(super) ready: BTreeSet<String>,
    pub(super) counter: u64,
    pub(super) changes: u64,
}

impl Machine {
    pub(super) fn of(&self, uid: &str) -> Vec<Container> {
        self.containers.iter().filter(|c| c.pod.uid == uid).rev().cloned().collect()
    }

    pub(super) fn main(&self) -> impl Iterator<Item = &Container> {
        self.containers.iter().filter(|c| !c.is_sandbox() && c.is_running())
    }

    pub(super) fn health(&self, containers: &[Container]) -> BTreeMap<String, Health> {
        let one = |c: &Container| Health { started: true, ready: self.ready.contains(&c.id), failed: None };
        containers.iter().filter(|c| c.is_running()).map(|c| (c.id.clone(), one(c))).collect()
    }

    pub(super) fn set_ready(&mut self, id: &str, ready: bool) {
        self.changes += 1;
        let good = self.containers.iter().any(|c| c.id == id && c.image != BAD);
        if ready && good {
            self.ready.insert(id.to_owned());
        } else {
            self.ready.remove(id);
        }
    }

    /// Makes and starts a container; `None` if it was there already.
    pub(super) fn run(
        &mut self,
        pod: &Pod,
        container: &str,
        attempt: u32,
        sandbox: &str,
        now: Timestamp,
    ) -> Option<String> {
        if self
            .containers
            .iter()
            .any(|c| c.pod.uid == uid(pod) && c.name == container && c.attempt == attempt)
        {
            return None;
        }
        self.counter += 1;
        self.changes += 1;
        let spec = api::pod::container(pod.spec.as_ref()?, container);
        let id = format!("{}/{container}-{}", uid(pod), self.counter);
        self.containers.push(Container {
            id: id.clone(),
            pod: PodRef { namespace: NS.to_owned(), name: name(pod).to_owned(), uid: uid(pod).to_owned() },
            name: container.to_owned(),
            sandbox_id: sandbox.to_owned(),
            state: State::Running { started: now },
            created: now,
            attempt,
            hash: spec.map(spec_hash).unwrap_or_default(),
            image: spec.and_then(|s| s.image.clone()).unwrap_or_default(),
            image_id: String::new(),
            pid: None,
            ip: None,
            tty: false,
            stdin: false,
            resources: None,
            made_with: String::new(),
            grace: Duration::from_secs(10),
        });
        Some(id)
    }

    pub(super) fn stop(&mut self, id: &str, remove: bool, now: Timestamp) {
        self.ready.remove(id);
        self.changes += 1;
        if remove {
            self.containers.retain(|c| c.id != id);
        } else if let Some(container) = self.containers.iter_mut().find(|c| c.id == id) {
            end(container, 137, now);
        }
    }
}

pub(super) fn end(container: &mut Container, code: i32, now: Timestamp) {
    if let State::Running { started } = container.state {
        let finished = now.max(started);
        container.state =
            State::Exited { code, oom_killed: false, started: Some(started), finished, error: None };
    }
}
