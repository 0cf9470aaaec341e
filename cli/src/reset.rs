//! `minik8s reset`: removes what this data directory's cluster made, in Docker, in the kernel and on disk.

use crate::{Exit, config::Settings, data_dir::DataDir};

pub async fn run(settings: Settings) -> Result<(), Exit> {
    if !settings.data_dir.exists() {
        eprintln!("minik8s: nothing to reset: {} does not exist", settings.data_dir.display());
        return Ok(());
    }
    let data = DataDir::open(&settings.data_dir)?;
    let docker = kubelet::runtime::docker::Docker::connect(settings.docker_host.as_deref())
        .await
        .map_err(|e| Exit::usage(format!("{e}; reset needs the Docker Engine to remove the cluster's containers")))?;
    let removed = kubelet::reset(&docker, data.cluster_id())
        .await
        .map_err(|e| Exit::failed(format!("cannot remove the cluster's containers: {e}")))?;
    if let Err(error) = kubelet::proxy::Proxy::cleanup(data.cluster_id()).await {
        return Err(Exit::failed(format!("cannot remove the cluster's service rules: {error}")));
    }
    // Outside the data directory only where the user put it.
    if !settings.kubeconfig.starts_with(&settings.data_dir) && settings.kubeconfig.exists() {
        std::fs::remove_file(&settings.kubeconfig)
            .map_err(|e| Exit::failed(format!("cannot remove {}: {e}", settings.kubeconfig.display())))?;
    }
    data.remove()?;
    eprintln!("minik8s: removed {removed} and {}", settings.data_dir.display());
    Ok(())
}
