//! The streams of exec, attach and port-forward, whatever carries them.
//!
//! A client comes by WebSocket ([`channel`]: one byte says which stream a message belongs to) or by SPDY/3.1
//! ([`spdy`]), or by SPDY inside a WebSocket ([`tunnel`]). Each of them gives the same two things, [`Incoming`] and
//! [`Outgoing`], and [`remote_command`] and [`forward`] join those to a container. Every queue is bounded: who does
//! not read is not read from.

pub(crate) mod channel;
pub(crate) mod forward;
pub(crate) mod remote_command;
pub(crate) mod resize;
pub(crate) mod spdy;
pub(crate) mod status;
pub(crate) mod tunnel;
pub(crate) mod websocket;

use bytes::Bytes;
use futures::stream::BoxStream;
use tokio::sync::mpsc;

/// Bytes from the client; ends when the client closed its half.
pub(crate) type Incoming = BoxStream<'static, Bytes>;

/// The client is gone, or does not want this stream any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the client closed the stream")]
pub(crate) struct Gone;

/// Where bytes for the client go.
pub(crate) enum Outgoing {
    /// A channel of a WebSocket; has no end of its own, the connection's close is its end.
    Channel {
        number: u8,
        queue: mpsc::Sender<(u8, Bytes)>,
    },
    Spdy(spdy::Writer),
}

impl Outgoing {
    pub(crate) async fn send(&mut self, bytes: Bytes) -> Result<(), Gone> {
        match self {
            Outgoing::Channel { number, queue } => queue.send((*number, bytes)).await.map_err(|_| Gone),
            Outgoing::Spdy(writer) => writer.send(bytes).await,
        }
    }

    /// Nothing more will come on this stream.
    pub(crate) async fn finish(self) {
        if let Outgoing::Spdy(writer) = self {
            writer.finish().await;
        }
    }

    /// As `finish`, after a failure: both halves end.
    pub(crate) async fn reset(self) {
        if let Outgoing::Spdy(writer) = self {
            writer.reset().await;
        }
    }

    /// Resolves when the client gave this one stream up while others may live on.
    pub(crate) async fn given_up(&self) {
        match self {
            Outgoing::Channel { queue, .. } => queue.closed().await,
            Outgoing::Spdy(writer) => writer.given_up().await,
        }
    }
}
