//! What people do.

use super::{World, pick, temper::Act};
use crate::{
    node::{BAD, Kubelet},
    oracle::{SET, name, uid},
    process::lock,
    server::Server,
};
use controllers::{node_lifecycle::monitor, stateful_set::identity};
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{Node, PersistentVolume, PersistentVolumeClaim, Pod, Taint},
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::api::{DeleteParams, Preconditions};
use std::{collections::BTreeSet, sync::Arc};

impl World {
    pub(super) fn person(&mut self) {
        let mut server = lock(&self.server);
        let pods: Vec<Arc<Pod>> = server.all::<Pod>().cloned().collect();
        let pod = self.rng.choice(&pods);
        let Some(act) = pick(&mut self.rng, &self.temper.people) else { return };
        let by_uid = |pod: &Pod, grace: Option<u32>| DeleteParams {
            grace_period_seconds: grace,
            preconditions: Some(Preconditions { uid: pod.metadata.uid.clone(), resource_version: None }),
            ..DeleteParams::default()
        };
        match (act, pod) {
            (Act::Scale, _) => {
                let replicas = self.rng.i32(0..5);
                scale(&mut server, replicas);
            }
            (Act::Update, _) => {
                let image = self.rng.choice(["v0", "v1", "v2", BAD]).unwrap();
                server.say(|| format!("person: update to {image}"));
                update(&mut server, image);
            }
            (Act::Delete, Some(pod)) => {
                let grace = self.rng.choice([None, None, Some(1)]).unwrap();
                server.say(|| format!("person: delete {}", uid(pod)));
                let _ = server.delete("Pod", name(pod), &by_uid(pod, grace));
            }
            (Act::Force, Some(pod)) => {
                server.say(|| format!("person: delete {} --force", uid(pod)));
                server.oracle.released.insert(uid(pod).to_owned());
                let _ = server.delete("Pod", name(pod), &by_uid(pod, Some(0)));
            }
            (Act::DeleteClaim, _) => {
                let claims: Vec<ObjectMeta> =
                    server.all::<PersistentVolumeClaim>().map(|c| c.metadata.clone()).collect();
                if let Some(ObjectMeta { name: Some(name), uid: Some(uid), .. }) = self.rng.choice(&claims) {
                    server.say(|| format!("person: delete claim {name}"));
                    server.oracle.deleted_claims.insert(uid.clone());
                    let _ = server.delete("PersistentVolumeClaim", name, &DeleteParams::default());
                }
            }
            (Act::DeleteNode, _) => {
                if let Some(node) = self.rng.choice(&self.nodes) {
                    server.say(|| format!("person: delete node {}", node.node));
                    let _ = server.delete("Node", &node.node, &DeleteParams::default());
                }
            }
            (Act::OutOfService, _) => {
                let gone: Vec<&Kubelet> = self.nodes.iter().filter(|n| !n.up || !n.linked).collect();
                if let Some(node) = self.rng.choice(gone) {
                    out_of_service(&mut server, &node.node);
                }
            }
            (Act::FreeDisk, _) => free_disk(&mut server, &mut self.rng),
            (Act::Delete | Act::Force, None) => {}
        }
    }
}

/// Names of the pods that the set wants.
pub(super) fn wanted(set: &StatefulSet) -> BTreeSet<String> {
    let (start, replicas) = (identity::start(set), set.spec.as_ref().unwrap().replicas.unwrap());
    (start..start + replicas).map(|o| identity::pod_name(set, o)).collect()
}

pub(super) fn update(server: &mut Server, image: &str) {
    server.change::<StatefulSet>(SET, |set| {
        let spec = set.spec.get_or_insert_default();
        spec.template.spec.get_or_insert_default().containers[0].image = Some(image.to_owned());
        *set.metadata.generation.get_or_insert(0) += 1;
    });
}

/// A person wants another number of pods.
pub(super) fn scale(server: &mut Server, replicas: i32) {
    server.say(|| format!("person: scale to {replicas}"));
    server.change::<StatefulSet>(SET, |set| {
        set.spec.get_or_insert_default().replicas = Some(replicas);
        *set.metadata.generation.get_or_insert(0) += 1;
    });
    let set = server.get::<StatefulSet>(SET).unwrap();
    if identity::retention(set).delete_when_scaled {
        let end = identity::start(set) + replicas;
        let let_go: Vec<String> = server
            .all::<PersistentVolumeClaim>()
            .filter(|c| c.metadata.name.as_deref().and_then(api::pod::ordinal) >= Some(end))
            .filter_map(|c| c.metadata.uid.clone())
            .collect();
        server.oracle.scaled_claims.extend(let_go);
    }
}

/// A person says that a node is off.
pub(super) fn out_of_service(server: &mut Server, node: &str) {
    server.say(|| format!("person: {node} is out of service"));
    server.change::<Node>(node, |node| {
        let taints = node.spec.get_or_insert_default().taints.get_or_insert_default();
        taints.retain(|t| t.key != monitor::OUT_OF_SERVICE);
        taints.push(Taint {
            key: monitor::OUT_OF_SERVICE.into(),
            effect: "NoExecute".into(),
            ..Taint::default()
        });
    });
}

/// A person takes a volume back that a claim holds, while nothing runs on it: by mistake, or for another use.
pub(super) fn free_disk(server: &mut Server, rng: &mut fastrand::Rng) {
    if let Some(volume) = rng.choice(&idle_disks(server)) {
        free(server, volume);
    }
}

pub(super) fn free(server: &mut Server, volume: &str) {
    server.say(|| format!("person: frees {volume}"));
    server.change::<PersistentVolume>(volume, |v| v.spec.get_or_insert_default().claim_ref = None);
}

/// People's volumes that a claim holds while nothing runs on them.
pub(super) fn idle_disks(server: &Server) -> Vec<String> {
    let on_nodes: BTreeSet<String> = server
        .all::<Pod>()
        .filter(|p| api::pod::node_name(p).is_some())
        .map(|p| format!("data-{}", name(p)))
        .collect();
    server
        .all::<PersistentVolume>()
        .filter(|v| {
            let spec = v.spec.as_ref().unwrap();
            let path = spec.host_path.as_ref().map(|h| h.path.as_str()).unwrap_or_default();
            let claim = spec.claim_ref.as_ref().and_then(|r| r.name.as_ref());
            path.starts_with("/disks")
                && claim.is_some_and(|c| !on_nodes.contains(c))
                && !server.oracle.live.values().any(|l| l.path.as_deref() == Some(path))
        })
        .filter_map(|v| v.metadata.name.clone())
        .collect()
}

/// A person gives up claims whose volume was taken away, and the pods that wait for them.
pub(super) fn give_up_lost(server: &mut Server) {
    let lost = |c: &&Arc<PersistentVolumeClaim>| {
        c.status.as_ref().and_then(|s| s.phase.as_deref()) == Some("Lost")
            && c.metadata.deletion_timestamp.is_none()
    };
    let lost: Vec<ObjectMeta> =
        server.all::<PersistentVolumeClaim>().filter(lost).map(|c| c.metadata.clone()).collect();
    for claim in lost {
        let name = claim.name.unwrap_or_default();
        server.say(|| format!("person: gives up {name}"));
        server.oracle.deleted_claims.insert(claim.uid.unwrap_or_default());
        let _ = server.delete("PersistentVolumeClaim", &name, &DeleteParams::default());
        let pod = name.trim_start_matches("data-").to_owned();
        let _ = server.delete("Pod", &pod, &DeleteParams::default());
    }
}
