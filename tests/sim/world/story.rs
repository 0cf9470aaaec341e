//! What a schedule is about: the set, its storage class and volumes.

use crate::{
    node::MAIN,
    oracle::{SET, TOLERATION},
    server::{NS, Server, Typed},
};
use controllers::{node_lifecycle::monitor, volumes::binding};
use k8s_openapi::{
    api::{
        apps::v1::StatefulSet,
        core::v1::{Namespace, PersistentVolume},
        storage::v1::StorageClass,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use serde_json::{Value, json};

/// What a schedule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Story {
    /// Volumes are people's, not a provisioner's.
    pub(super) static_volumes: bool,
    pub(super) wait_for_consumer: bool,
    pub(super) ordered: bool,
    pub(super) delete_when_scaled: bool,
    pub(super) min_ready_seconds: i32,
    pub(super) start: i32,
    pub(super) replicas: i32,
}

impl Story {
    pub(super) fn of(rng: &mut fastrand::Rng) -> Self {
        let static_volumes = rng.u8(..4) == 0;
        Self {
            static_volumes,
            wait_for_consumer: !static_volumes && rng.u8(..3) == 0,
            ordered: rng.u8(..4) > 0,
            delete_when_scaled: rng.u8(..3) == 0,
            min_ready_seconds: if rng.u8(..6) == 0 { 5 } else { 0 },
            start: if rng.u8(..6) == 0 { 2 } else { 0 },
            replicas: rng.i32(1..5),
        }
    }
}

/// Volumes made by people, for schedules without a provisioner.
const STATIC_VOLUMES: usize = 12;

fn typed<K: serde::de::DeserializeOwned>(value: Value) -> K {
    serde_json::from_value(value).unwrap()
}

pub(super) fn populate(server: &mut Server, story: Story) {
    let namespace = Namespace {
        metadata: ObjectMeta { name: Some(NS.into()), ..ObjectMeta::default() },
        ..Namespace::default()
    };
    let _ = server.create(namespace.wrap());
    let class: StorageClass = typed(json!({
        "metadata": {"name": "standard"},
        "provisioner": if story.static_volumes { "kubernetes.io/no-provisioner" } else { binding::PROVISIONER },
        "volumeBindingMode": if story.wait_for_consumer { "WaitForFirstConsumer" } else { "Immediate" },
        "reclaimPolicy": "Delete",
    }));
    let _ = server.create(class.wrap());
    if story.static_volumes {
        for n in 0..STATIC_VOLUMES {
            let path = format!("/disks/{n}");
            server.oracle.directories.insert(path.clone());
            let volume: PersistentVolume = typed(json!({
                "metadata": {"name": format!("disk-{n:02}")},
                "spec": {"storageClassName": "standard", "accessModes": ["ReadWriteOnce"], "hostPath": {"path": path},
                    "capacity": {"storage": "1Gi"}, "persistentVolumeReclaimPolicy": "Retain"},
            }));
            let _ = server.create(volume.wrap());
        }
    }
    let retention = if story.delete_when_scaled { "Delete" } else { "Retain" };
    let tolerate = |key: &str| json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": TOLERATION});
    let set: StatefulSet = typed(json!({
        "metadata": {"name": SET},
        "spec": {
            "serviceName": SET,
            "replicas": story.replicas,
            "ordinals": {"start": story.start},
            "podManagementPolicy": if story.ordered { "OrderedReady" } else { "Parallel" },
            "minReadySeconds": story.min_ready_seconds,
            "revisionHistoryLimit": 2,
            "updateStrategy": {"type": "RollingUpdate", "rollingUpdate": {"partition": 0}},
            "persistentVolumeClaimRetentionPolicy": {"whenScaled": retention, "whenDeleted": "Retain"},
            "selector": {"matchLabels": {"app": SET}},
            "template": {
                "metadata": {"labels": {"app": SET}},
                "spec": {
                    "terminationGracePeriodSeconds": 10,
                    "containers": [{"name": MAIN, "image": "v0"}],
                    "tolerations": [tolerate(monitor::NOT_READY), tolerate(monitor::UNREACHABLE)],
                },
            },
            "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {"storageClassName": "standard",
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}],
        },
    }));
    let _ = server.create(set.wrap());
}
