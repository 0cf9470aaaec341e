//! How the API server reaches a node's kubelet, and has it taken away and brought back.

use async_trait::async_trait;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream, in process or over TLS.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// What may be done to a node of this process, to see what becomes of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Power {
    /// The kubelet goes silent, its containers live on: a node that the network has cut off.
    Stop,
    /// The containers die and the kubelet is silent: a node that has lost its power.
    Kill,
    /// A new kubelet takes over what it finds.
    Start,
}

/// Why it was not done.
#[derive(Debug, thiserror::Error)]
pub enum PowerError {
    /// The process that serves the API does not run this node; it runs those.
    #[error("not a node of this server, which runs {}", if .0.is_empty() { "none".to_owned() } else { .0.join(", ") })]
    NotOurs(Vec<String>),
    /// The node is in that state already.
    #[error("{0}")]
    Already(String),
    #[error("{0}")]
    Failed(String),
}

/// The way to the nodes.
#[async_trait]
pub trait NodeDialer: Send + Sync + 'static {
    /// Opens a connection on which the named node's kubelet speaks HTTP/1.1, with upgrades. The caller sets the deadline.
    async fn dial(&self, node: &str) -> io::Result<Box<dyn Stream>>;

    /// Stops, kills or starts a node and says in a sentence what is now; with `dry_run` only whether it could.
    async fn power(&self, _node: &str, _what: Power, _dry_run: bool) -> Result<String, PowerError> {
        Err(PowerError::NotOurs(Vec::new()))
    }
}
