//! How the API server reaches a node's kubelet.

use async_trait::async_trait;
use std::io;
use tokio::io::{AsyncRead, AsyncWrite};

/// A byte stream, in process or over TLS.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Opens a connection on which the named node's kubelet speaks HTTP/1.1, with upgrades.
/// The caller sets the deadline.
#[async_trait]
pub trait NodeDialer: Send + Sync + 'static {
    async fn dial(&self, node: &str) -> io::Result<Box<dyn Stream>>;
}
