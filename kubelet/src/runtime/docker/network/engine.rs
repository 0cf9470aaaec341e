//! The pod network that the Engine makes: a bridge with the options that let pods be reached as they are.

use super::{
    super::{CHANGE, Error, READ, Result, within},
    allow_hairpin,
};
use crate::config::Config;
use bollard::models::{Ipam, IpamConfig, NetworkCreateRequest};
use std::{collections::HashMap, path::Path};

pub(super) struct Network {
    pub(super) name: String,
    bridge: String,
    subnet: String,
    gateway: String,
}

impl Network {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            name: config.network_name.clone(),
            bridge: config.bridge_name.clone(),
            subnet: config.pod_cidr.to_string(),
            gateway: config.pod_cidr.gateway().to_string(),
        }
    }

    /// Makes the network if it is missing. One of that name with another subnet is an error in words: it may hold pods.
    pub(super) async fn ensure(
        &self,
        docker: &bollard::Docker,
        labels: HashMap<String, String>,
    ) -> Result<()> {
        match within("inspect network", READ, docker.inspect_network(&self.name, None)).await {
            Ok(found) => {
                let configs = found.ipam.and_then(|ipam| ipam.config).unwrap_or_default();
                let subnets: Vec<String> = configs.into_iter().filter_map(|config| config.subnet).collect();
                if subnets.contains(&self.subnet) {
                    return Ok(());
                }
                return Err(Error::Other(format!(
                    "Docker network {} has subnet {}, not {}: run `minik8s reset` or remove it",
                    self.name,
                    subnets.join(", "),
                    self.subnet
                )));
            }
            Err(Error::NotFound(_)) => {}
            Err(error) => return Err(error),
        }
        let options = [
            ("com.docker.network.bridge.name", self.bridge.as_str()),
            // Pods are seen by their own addresses inside the cluster; the service proxy masquerades what leaves it.
            ("com.docker.network.bridge.enable_ip_masquerade", "false"),
            // Docker 27 and newer: do not drop direct traffic to pods. Older ones ignore it.
            ("com.docker.network.bridge.gateway_mode_ipv4", "nat-unprotected"),
        ];
        let request = NetworkCreateRequest {
            name: self.name.clone(),
            driver: Some("bridge".to_owned()),
            ipam: Some(Ipam {
                config: Some(vec![IpamConfig {
                    subnet: Some(self.subnet.clone()),
                    gateway: Some(self.gateway.clone()),
                    ..IpamConfig::default()
                }]),
                ..Ipam::default()
            }),
            options: Some(options.map(|(key, value)| (key.to_owned(), value.to_owned())).into()),
            labels: Some(labels),
            ..NetworkCreateRequest::default()
        };
        match within("create network", CHANGE, docker.create_network(request)).await {
            Ok(_) | Err(Error::Conflict(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// For all ports: which of them is a pod's only the Engine knows.
    pub(super) async fn allow_hairpin(&self) {
        let ports = Path::new("/sys/class/net").join(&self.bridge).join("brif");
        let set = tokio::task::spawn_blocking(move || {
            for port in std::fs::read_dir(ports).into_iter().flatten().flatten() {
                allow_hairpin(&port.path());
            }
        });
        if let Err(error) = set.await {
            tracing::warn!(%error, "setting hairpin mode failed");
        }
    }
}
