//! The kubelet's own HTTP API: logs, exec, attach, port-forward, health.

use crate::{
    pods::Lookup,
    runtime::{BoxStreamIo, Runtime},
};
use std::sync::Arc;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// What the routes need. Cheap to clone.
#[derive(Clone)]
pub struct State {
    pub lookup: Lookup,
    pub runtime: Arc<dyn Runtime>,
    /// Cancelled when the kubelet stops: open streams end.
    pub token: CancellationToken,
    /// Every task a stream needs is spawned here.
    pub tracker: TaskTracker,
}

/// Speaks HTTP/1.1 (with upgrades) on one connection until it ends.
pub async fn serve(stream: BoxStreamIo, state: State) {
    let _ = (stream, state);
}
