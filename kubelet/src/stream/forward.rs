//! Port-forward: joins one stream of the client to one TCP connection in the pod.

use super::{Incoming, Outgoing};
use crate::runtime::{BoxStreamIo, Error};
use bytes::{Bytes, BytesMut};
use futures::{StreamExt, future::BoxFuture};
use std::{io, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

/// Read from the pod at a time.
const CHUNK: usize = 16 << 10;
/// How long the client's half may stay open after the pod has closed its own. kubectl closes the local connection only
/// when the error stream has ended, so this holds up who waits for its end; containerd gives the same second.
const LINGER: Duration = Duration::from_secs(1);

/// The client's end of one forwarded connection.
pub(crate) struct Leg {
    pub(crate) incoming: Incoming,
    pub(crate) data: Outgoing,
    pub(crate) error: Outgoing,
    /// Cancelled when the client is gone.
    pub(crate) gone: CancellationToken,
}

/// For messages: which port of which pod.
#[derive(Debug, Clone)]
pub(crate) struct Target {
    pub(crate) pod: String,
    pub(crate) uid: String,
    pub(crate) port: u16,
}

impl Target {
    fn failed(&self, error: impl std::fmt::Display) -> Bytes {
        format!("error forwarding port {} to pod {}, uid {}: {error}", self.port, self.pod, self.uid).into()
    }
}

/// Until both halves have ended, the client gave up or is gone, or `stop` is cancelled.
pub(crate) async fn run(
    leg: Leg,
    target: Target,
    dial: impl Future<Output = Result<BoxStreamIo, Error>>,
    stop: &CancellationToken,
) {
    let Leg { incoming, mut data, error, gone } = leg;
    let result = tokio::select! {
        () = gone.cancelled() => return,
        () = stop.cancelled() => Err("the node is shutting down".to_owned()),
        result = join(incoming, &mut data, dial) => result.map_err(|error| error.to_string()),
    };
    let mut error = error;
    match result {
        Ok(rest) => {
            data.finish().await;
            if let Some(mut rest) = rest {
                // Gone or not, a second is no loss.
                let _ = timeout(LINGER, rest.as_mut()).await;
            }
        }
        Err(message) => {
            let _ = error.send(target.failed(message)).await;
            data.reset().await;
        }
    }
    error.finish().await;
}

#[derive(Debug, thiserror::Error)]
enum Failed {
    #[error(transparent)]
    Dial(#[from] Error),
    #[error(transparent)]
    Copy(#[from] io::Error),
}

/// The half towards the pod, still open.
type Rest = BoxFuture<'static, io::Result<()>>;

/// Returns when the pod has said all it had to say; with the other half if that is not through yet.
async fn join(
    incoming: Incoming,
    data: &mut Outgoing,
    dial: impl Future<Output = Result<BoxStreamIo, Error>>,
) -> Result<Option<Rest>, Failed> {
    let connection = tokio::select! {
        connection = dial => connection?,
        () = data.given_up() => return Ok(None),
    };
    let (reading, writing) = tokio::io::split(connection);
    let mut to_pod: Rest = Box::pin(to_pod(incoming, writing));
    let mut from_pod = std::pin::pin!(from_pod(reading, data));
    tokio::select! {
        result = &mut from_pod => {
            result?;
            Ok(Some(to_pod))
        }
        result = &mut to_pod => {
            // The client has said all, or the pod takes no more: what the pod still says counts.
            from_pod.await?;
            result?;
            Ok(None)
        }
    }
}

async fn to_pod(mut incoming: Incoming, mut pod: impl AsyncWrite + Unpin) -> io::Result<()> {
    while let Some(bytes) = incoming.next().await {
        pod.write_all(&bytes).await?;
        pod.flush().await?;
    }
    pod.shutdown().await
}

async fn from_pod(mut pod: impl AsyncRead + Unpin, data: &mut Outgoing) -> io::Result<()> {
    let mut buffer = BytesMut::with_capacity(CHUNK);
    loop {
        buffer.reserve(CHUNK);
        let read = tokio::select! {
            read = pod.read_buf(&mut buffer) => read?,
            () = data.given_up() => return Ok(()),
        };
        if read == 0 || data.send(buffer.split().freeze()).await.is_err() {
            return Ok(());
        }
    }
}
