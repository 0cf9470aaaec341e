//! `minik8s reset`: removes what this data directory's cluster made, in Docker, in the kernel and on disk.

use crate::{Exit, cluster::connect_docker, config::Settings, data_dir::DataDir};

pub async fn run(settings: Settings) -> Result<(), Exit> {
    if !settings.data_dir.exists() {
        eprintln!("minik8s: nothing to reset: {} does not exist", settings.data_dir.display());
        return Ok(());
    }
    let data = DataDir::open(&settings.data_dir)?;
    let docker = connect_docker(&settings).await?;
    let removed = match &docker {
        Some(docker) => kubelet::reset(data.cluster_id(), docker)
            .await
            .map_err(|e| Exit::failed(format!("cannot remove the cluster's containers: {e}")))?,
        None => Default::default(),
    };
    match kubelet::proxy::Proxy::cleanup(data.cluster_id()).await {
        Ok(()) => {}
        // Who may not change the kernel's tables has made none: this user's server ran without services.
        Err(error @ kubelet::proxy::Error::NotPermitted) => {
            tracing::warn!(%error, "the cluster's service rules, if root made any, stay");
        }
        Err(error) => {
            return Err(Exit::failed(format!("cannot remove the cluster's service rules: {error}")));
        }
    }
    // Outside the data directory only where the user put it.
    if !settings.kubeconfig.starts_with(&settings.data_dir) && settings.kubeconfig.exists() {
        std::fs::remove_file(&settings.kubeconfig)
            .map_err(|e| Exit::failed(format!("cannot remove {}: {e}", settings.kubeconfig.display())))?;
    }
    data.remove()?;
    eprintln!(
        "minik8s: removed {} containers, {} networks, {} volumes and {}",
        removed.containers,
        removed.networks,
        removed.volumes,
        settings.data_dir.display()
    );
    Ok(())
}
