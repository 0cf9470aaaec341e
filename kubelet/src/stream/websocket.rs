//! A WebSocket with channels: one loop reads messages into the channels' queues, one writes what they give.

use super::{
    Incoming, Outgoing,
    channel::{BadMessage, Framing, Received},
};
use bytes::Bytes;
use futures::{Sink, SinkExt, Stream, StreamExt};
use std::time::Duration;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc::{self, error::SendTimeoutError},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        protocol::{CloseFrame, WebSocketConfig, frame::coding::CloseCode},
    },
};
use tokio_util::sync::CancellationToken;

/// Some client libraries send a whole file as one message of stdin.
const MAX_MESSAGE: usize = 16 << 20;
/// Messages a channel holds for a reader that is behind. Small, because of their size.
const IN_QUEUE: usize = 2;
/// Pieces of output that wait for the client.
const OUT_QUEUE: usize = 8;
/// How long a channel may stay full, and with it the connection unread (see `spdy`).
const STALL: Duration = Duration::from_secs(15 * 60);
/// How long the client may take to answer our Close.
const LINGER: Duration = Duration::from_secs(2);

pub(crate) fn config() -> WebSocketConfig {
    WebSocketConfig::default().max_message_size(Some(MAX_MESSAGE)).max_frame_size(Some(MAX_MESSAGE))
}

/// The channels, before the connection is driven.
pub(crate) struct Channels {
    incoming: Vec<Option<mpsc::Sender<Bytes>>>,
    out: mpsc::Sender<(u8, Bytes)>,
    queue: mpsc::Receiver<(u8, Bytes)>,
}

impl Channels {
    pub(crate) fn new() -> Self {
        let (out, queue) = mpsc::channel(OUT_QUEUE);
        Self { incoming: Vec::new(), out, queue }
    }

    /// What the client sends on this channel. What comes on others is dropped.
    pub(crate) fn incoming(&mut self, channel: u8) -> Incoming {
        let (sender, receiver) = mpsc::channel(IN_QUEUE);
        let at = usize::from(channel);
        if self.incoming.len() <= at {
            self.incoming.resize(at + 1, None);
        }
        self.incoming[at] = Some(sender);
        Box::pin(ReceiverStream::new(receiver))
    }

    pub(crate) fn outgoing(&self, channel: u8) -> Outgoing {
        Outgoing::Channel { number: channel, queue: self.out.clone() }
    }

    /// Moves the messages. Closes with code 1000 when every `Outgoing` is dropped and all they gave is sent. Cancels
    /// `gone` when the client is gone; must be polled along with whoever uses the channels.
    pub(crate) async fn drive<IO>(
        self,
        socket: WebSocketStream<IO>,
        framing: Framing,
        gone: CancellationToken,
    ) where
        IO: AsyncRead + AsyncWrite + Unpin,
    {
        let Channels { incoming, out, queue } = self;
        drop(out);
        let _gone = gone.drop_guard();
        let (writing, reading) = socket.split();
        let mut read = std::pin::pin!(read_loop(reading, framing, incoming));
        let mut write = std::pin::pin!(write_loop(writing, framing, queue));
        tokio::select! {
            result = &mut read => {
                if let Err(error) = result {
                    tracing::debug!(%error, "a WebSocket client broke off");
                }
            }
            result = &mut write => match result {
                // The client answers with its own Close, which reading shows as the end.
                Ok(()) => drop(timeout(LINGER, &mut read).await),
                Err(error) => tracing::debug!(%error, "writing to a WebSocket client failed"),
            },
        }
    }
}

#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error(transparent)]
    Socket(#[from] Error),
    #[error(transparent)]
    Message(#[from] BadMessage),
    #[error("nobody took the data of channel {channel} for {} s", STALL.as_secs())]
    Stalled { channel: u8 },
}

/// Until the client closes or is gone. Pings are answered by the library.
async fn read_loop<S>(
    mut socket: S,
    framing: Framing,
    mut channels: Vec<Option<mpsc::Sender<Bytes>>>,
) -> Result<(), Broken>
where
    S: Stream<Item = Result<Message, Error>> + Unpin,
{
    while let Some(message) = socket.next().await {
        let bytes = match message? {
            Message::Binary(bytes) => bytes,
            Message::Text(text) => text.into(),
            Message::Close(_) => return Ok(()),
            _ => continue,
        };
        match framing.decode(bytes)? {
            Some(Received::Data(number, data)) => {
                let Some(Some(channel)) = channels.get(usize::from(number)) else { continue };
                match channel.send_timeout(data, STALL).await {
                    Ok(()) | Err(SendTimeoutError::Closed(_)) => {}
                    Err(SendTimeoutError::Timeout(_)) => return Err(Broken::Stalled { channel: number }),
                }
            }
            Some(Received::Close(number)) => {
                if let Some(channel) = channels.get_mut(usize::from(number)) {
                    *channel = None;
                }
            }
            None => {}
        }
    }
    Ok(())
}

/// Until nobody can send any more; then Close. An empty Close would make kubectl fail with "close 1005".
async fn write_loop<S>(
    mut socket: S,
    framing: Framing,
    mut queue: mpsc::Receiver<(u8, Bytes)>,
) -> Result<(), Error>
where
    S: Sink<Message, Error = Error> + Unpin,
{
    while let Some((channel, data)) = queue.recv().await {
        let message = framing.encode(channel, &data);
        if queue.is_empty() { socket.send(message).await? } else { socket.feed(message).await? }
    }
    let close = CloseFrame { code: CloseCode::Normal, reason: "".into() };
    socket.send(Message::Close(Some(close))).await
}
