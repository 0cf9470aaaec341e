//! Kills all that runs on a node at once, as a loss of power would. Nothing is removed: the node's next kubelet finds it.

use super::{CHANGE, Error, READ, Result, within};
use crate::runtime::label;
use bollard::query_parameters as query;
use futures::{StreamExt, stream};
use std::collections::{BTreeMap, HashMap};

/// Kills under way at once.
const AT_ONCE: usize = 8;
/// Rounds until a list is empty: what was being started when the first list was made is in the second. More would mean that
/// somebody goes on starting containers.
const ROUNDS: usize = 5;

/// Kills every running container of a node of a cluster, and nothing else; gives how many. Its kubelet must not run.
pub async fn kill_node(cluster_id: &str, node: &str, docker: &bollard::Docker) -> Result<usize> {
    if cluster_id.is_empty() || node.is_empty() {
        return Err(Error::Other("a cluster id and a node are needed to tell what to kill".to_owned()));
    }
    let mut killed = 0;
    for _ in 0..ROUNDS {
        let ids = running(cluster_id, node, docker).await?;
        if ids.is_empty() {
            return Ok(killed);
        }
        killed += ids.len();
        let kills = stream::iter(ids).map(|id| kill(docker, id)).buffer_unordered(AT_ONCE);
        kills.collect::<Vec<_>>().await.into_iter().collect::<Result<Vec<()>>>()?;
    }
    Err(Error::Other(format!("containers of node {node:?} go on being started")))
}

/// Ids of the node's running containers.
pub async fn running(cluster_id: &str, node: &str, docker: &bollard::Docker) -> Result<Vec<String>> {
    let labels = vec![format!("{}={cluster_id}", label::CLUSTER), format!("{}={node}", label::NODE)];
    let filters = HashMap::from([("label".to_owned(), labels)]);
    let options = query::ListContainersOptionsBuilder::new().filters(&filters).build();
    let found = within("list containers", READ, docker.list_containers(Some(options))).await?;
    Ok(found.into_iter().filter_map(|container| container.id).collect())
}

/// How many containers of each node of a cluster are running.
pub async fn running_by_node(cluster_id: &str, docker: &bollard::Docker) -> Result<BTreeMap<String, usize>> {
    let filters = HashMap::from([("label".to_owned(), vec![format!("{}={cluster_id}", label::CLUSTER)])]);
    let options = query::ListContainersOptionsBuilder::new().filters(&filters).build();
    let mut by_node = BTreeMap::new();
    for container in within("list containers", READ, docker.list_containers(Some(options))).await? {
        if let Some(node) = container.labels.and_then(|mut labels| labels.remove(label::NODE)) {
            *by_node.entry(node).or_default() += 1;
        }
    }
    Ok(by_node)
}

async fn kill(docker: &bollard::Docker, id: String) -> Result<()> {
    let options = query::KillContainerOptionsBuilder::new().signal("KILL").build();
    match within("kill container", CHANGE, docker.kill_container(&id, Some(options))).await {
        // Dead or removed by itself meanwhile.
        Ok(()) | Err(Error::NotFound(_) | Error::Conflict(_)) => Ok(()),
        Err(error) => Err(error),
    }
}
