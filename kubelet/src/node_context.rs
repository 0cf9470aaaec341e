//! What all pod workers of a node share.

use crate::{Config, addresses::Addresses, pods::Lookup, runtime::Runtime};
use client::{Recorder, Store};
use k8s_openapi::{
    api::core::v1::{ObjectReference, Pod, Service},
    apimachinery::pkg::api::resource::Quantity,
};
use std::{collections::BTreeMap, net::Ipv4Addr, path::PathBuf, sync::Arc};

pub(crate) struct Context {
    pub(crate) config: Config,
    pub(crate) client: kube::Client,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) recorder: Recorder,
    pub(crate) lookup: Lookup,
    pub(crate) addresses: Addresses,
    pub(crate) services: Store<Service>,
    /// What the node found out about itself at start.
    pub(crate) machine: Machine,
}

#[derive(Debug, Clone, Default)]
pub(crate) struct Machine {
    pub(crate) node_ip: Option<Ipv4Addr>,
    pub(crate) memory_bytes: i64,
    /// The machine's.
    pub(crate) capacity: BTreeMap<String, Quantity>,
    /// This node's part of it.
    pub(crate) allocatable: BTreeMap<String, Quantity>,
}

impl Context {
    pub(crate) fn pod_dir(&self, uid: &str) -> PathBuf {
        crate::volume::pod_dir(&self.config.data_dir, uid)
    }

    /// An event about a pod, or about one of its containers.
    pub(crate) fn event(
        &self,
        pod: &Pod,
        container: Option<&str>,
        warning: bool,
        reason: &str,
        message: &str,
    ) {
        let spec = pod.spec.as_ref();
        let init = |name: &str| {
            spec.is_some_and(|spec| {
                spec.init_containers.iter().flatten().any(|container| container.name == name)
            })
        };
        let reference = ObjectReference {
            kind: Some("Pod".to_owned()),
            api_version: Some("v1".to_owned()),
            name: pod.metadata.name.clone(),
            namespace: pod.metadata.namespace.clone(),
            uid: pod.metadata.uid.clone(),
            resource_version: pod.metadata.resource_version.clone(),
            field_path: container.map(|name| {
                let list = if init(name) { "initContainers" } else { "containers" };
                format!("spec.{list}{{{name}}}")
            }),
        };
        self.recorder.event(&reference, if warning { "Warning" } else { "Normal" }, reason, message);
    }

    /// Services a pod's environment tells of: those of its namespace, and the API's.
    pub(crate) fn services_for(&self, namespace: &str) -> Vec<Arc<Service>> {
        let mut services = self.services.in_namespace(namespace);
        if namespace != "default" {
            services.extend(self.services.get("default", "kubernetes"));
        }
        // The order of variables must not depend on that of a hash map.
        services.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        services
    }
}
