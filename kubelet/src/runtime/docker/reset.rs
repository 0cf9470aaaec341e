//! Removes everything a cluster has in the Engine, for `minik8s reset`.

use super::{CHANGE, Error, READ, Result, network, within};
use crate::runtime::label;
use bollard::query_parameters as query;
use std::collections::HashMap;

/// What was removed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removed {
    pub containers: usize,
    /// The Engine's, and bridges of our own making.
    pub networks: usize,
    pub volumes: usize,
}

/// Removes every container, network and volume with this cluster's label, on all of its nodes, and nothing else.
/// Images are left alone: users' own are not ours, and the pause image is shared by all clusters.
pub async fn reset(cluster_id: &str, docker: &bollard::Docker) -> Result<Removed> {
    if cluster_id.is_empty() {
        return Err(Error::Other("a cluster id is needed to tell what to remove".to_owned()));
    }
    let filters = HashMap::from([("label", vec![format!("{}={cluster_id}", label::CLUSTER)])]);
    let mut removed = Removed::default();
    let list = query::ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
    let containers = within("list containers", READ, docker.list_containers(Some(list))).await?;
    let force = query::RemoveContainerOptionsBuilder::new().force(true).v(true).build();
    for id in containers.into_iter().filter_map(|container| container.id) {
        gone(within("remove container", CHANGE, docker.remove_container(&id, Some(force.clone()))).await)?;
        removed.containers += 1;
    }
    let list = query::ListNetworksOptionsBuilder::new().filters(&filters).build();
    let networks = within("list networks", READ, docker.list_networks(Some(list))).await?;
    for id in networks.into_iter().filter_map(|network| network.id) {
        gone(within("remove network", CHANGE, docker.remove_network(&id)).await)?;
        removed.networks += 1;
    }
    removed.networks += network::reset(cluster_id).await?;
    let list = query::ListVolumesOptionsBuilder::new().filters(&filters).build();
    let volumes = within("list volumes", READ, docker.list_volumes(Some(list))).await?;
    for volume in volumes.volumes.unwrap_or_default() {
        let options = query::RemoveVolumeOptionsBuilder::new().force(true).build();
        gone(within("remove volume", CHANGE, docker.remove_volume(&volume.name, Some(options))).await)?;
        removed.volumes += 1;
    }
    Ok(removed)
}

fn gone(result: Result<()>) -> Result<()> {
    match result {
        // Being removed by somebody else, or already.
        Err(Error::NotFound(_)) => Ok(()),
        Err(Error::Conflict(message)) if message.contains("already in progress") => Ok(()),
        other => other,
    }
}
