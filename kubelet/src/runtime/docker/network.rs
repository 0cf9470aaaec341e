//! The node's pod network, in one of two ways, chosen once.
//!
//! With the privileges for it (root) we make the bridge and each pod's port on it ourselves: `bridge`. The Engine then
//! sees its sandboxes on the host's network, and the sandbox's program leaves that as its first act. This is what makes
//! pods start fast: for a container on one of its networks the Engine runs itself twice more, a quarter of a second
//! each time. It is also out of reach of `docker network prune`. Without privileges the Engine makes both: `engine`.

mod bridge;
mod engine;

pub(super) use bridge::{Port, is_plugged, reset};

use super::{READ, Result, container::Limits, within};
use crate::config::Config;
use bridge::Bridge;
use std::{
    collections::HashMap,
    fs,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
};

pub(super) struct Network {
    engine: engine::Network,
    bridge: Bridge,
    /// What this process may do.
    allowed: bool,
    /// The way that was chosen: ports are made by us. Until [`Network::ensure`] has looked, the Engine's way.
    ours: AtomicBool,
}

impl Network {
    pub(super) fn new(config: &Config, limits: Limits) -> Self {
        Self {
            engine: engine::Network::new(config),
            bridge: Bridge::new(config),
            allowed: limits.network,
            ours: AtomicBool::new(false),
        }
    }

    /// Whether sandboxes are started without a network of the Engine's, and then given theirs by [`Network::plug`].
    pub(super) fn is_ours(&self) -> bool {
        self.ours.load(Ordering::Relaxed)
    }

    /// The Engine's name of the network that sandboxes are started on, where they are.
    pub(super) fn name(&self) -> &str {
        &self.engine.name
    }

    /// Makes what is missing of the network.
    pub(super) async fn ensure(
        &self,
        docker: &bollard::Docker,
        labels: HashMap<String, String>,
    ) -> Result<()> {
        if !self.allowed || remaps_users(docker).await? {
            return self.engine.ensure(docker, labels).await;
        }
        self.bridge.ensure().await?;
        self.ours.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// Gives a sandbox that runs its address. Asked twice, it finds what the first call made.
    pub(super) async fn plug(&self, port: Port) -> Result<()> {
        self.bridge.plug(port).await
    }

    /// After the Engine has started a sandbox on its network.
    pub(super) async fn allow_hairpin(&self) {
        self.engine.allow_hairpin().await;
    }
}

/// Lets a pod reach itself through a service address: the bridge must send a frame back to the port it came from
/// (network.md §2). Best effort: without the privilege that one path is missing. `port` is the port's directory in sysfs.
fn allow_hairpin(port: &Path) {
    let flag = port.join("hairpin_mode");
    if fs::read(&flag).is_ok_and(|value| value.starts_with(b"0"))
        && let Err(error) = fs::write(&flag, b"1")
    {
        tracing::debug!(%error, flag = %flag.display(), "cannot let a pod reach itself through its service");
    }
}

/// An Engine that maps containers' users to others refuses them the host's network.
async fn remaps_users(docker: &bollard::Docker) -> Result<bool> {
    let info = within("info", READ, docker.info()).await?;
    let options = info.security_options.unwrap_or_default();
    Ok(options.iter().any(|option| option.contains("name=userns") || option.contains("name=rootless")))
}
