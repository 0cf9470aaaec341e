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
/// Messages are handed on in pieces of this size: were they handed on whole, a hundred channels whose readers are behind could
/// hold a hundred of the largest.
const PIECE: usize = 64 << 10;
/// Pieces a channel holds for a reader that is behind.
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
            Some(Received::Data(number, mut data)) => {
                let Some(Some(channel)) = channels.get(usize::from(number)) else { continue };
                loop {
                    let piece = data.split_to(data.len().min(PIECE));
                    match channel.send_timeout(piece, STALL).await {
                        Ok(()) => {}
                        Err(SendTimeoutError::Closed(_)) => break,
                        Err(SendTimeoutError::Timeout(_)) => return Err(Broken::Stalled { channel: number }),
                    }
                    if data.is_empty() {
                        break;
                    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio_tungstenite::tungstenite::protocol::Role;

    /// A client's frame (RFC 6455, section 5.2), masked with zeros, which leave the payload as it is.
    fn frame(opcode: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x80 | opcode];
        match u16::try_from(payload.len()) {
            Ok(short) if short < 126 => frame.push(0x80 | short as u8),
            Ok(length) => {
                frame.push(0x80 | 126);
                frame.extend(length.to_be_bytes());
            }
            Err(_) => {
                frame.push(0x80 | 127);
                frame.extend((payload.len() as u64).to_be_bytes());
            }
        }
        frame.extend([0; 4]);
        frame.extend(payload);
        frame
    }

    /// What a client that sends these bytes, and no more, gives to the channels 0 and 4.
    async fn received(framing: Framing, bytes: &[u8]) -> Vec<Vec<Bytes>> {
        let (mut ours, theirs) = tokio::io::duplex(64 << 20);
        let socket = WebSocketStream::from_raw_socket(theirs, Role::Server, Some(config())).await;
        let mut channels = Channels::new();
        let incoming = [channels.incoming(0), channels.incoming(4)];
        let _open = channels.outgoing(1);
        let take = futures::future::join_all(incoming.map(|channel| channel.collect::<Vec<_>>()));
        let client = async {
            ours.write_all(bytes).await.unwrap();
            ours.shutdown().await.unwrap();
            let mut answer = Vec::new();
            let _ = ours.read_to_end(&mut answer).await;
        };
        let all =
            async { tokio::join!(channels.drive(socket, framing, CancellationToken::new()), take, client) };
        let (_, received, _) = timeout(Duration::from_secs(60), all)
            .await
            .expect("the connection of a client that is gone goes on");
        received
    }

    fn framings() -> Vec<Framing> {
        Framing::REMOTE_COMMAND.iter().chain(Framing::PORT_FORWARD).map(|(_, framing)| *framing).collect()
    }

    #[tokio::test]
    async fn large_messages_come_in_pieces() {
        let text = vec![b'x'; 3 * PIECE + 1];
        let message = frame(2, &[&[0], &text[..]].concat());
        let (_, framing) = Framing::REMOTE_COMMAND[0];
        let received = received(framing, &message).await;
        assert_eq!(received[0].iter().map(Bytes::len).collect::<Vec<_>>(), [PIECE, PIECE, PIECE, 1]);
        assert_eq!(received[0].concat(), text);
    }

    #[test]
    fn fuzz_messages() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let corpus = [
            [frame(2, b"\0hello"), frame(9, b"ping"), frame(2, b"\x04{\"Width\":80,\"Height\":24}")].concat(),
            [frame(1, b"0aGVsbG8="), frame(2, b"\xff\0"), frame(8, &[3, 232])].concat(),
            frame(2, &[0; 200]),
        ];
        let corpus: Vec<&[u8]> = corpus.iter().map(Vec::as_slice).collect();
        for framing in framings() {
            api::fuzz::fuzz(300, &corpus, |input| {
                runtime.block_on(received(framing, input)).iter().any(|channel| !channel.is_empty())
            });
        }
    }
}
