//! A WebSocket as a byte stream: `SPDY/3.1+portforward.k8s.io` carries SPDY in its binary messages (KEP-4006).

use bytes::{Buf, Bytes};
use futures::{SinkExt, StreamExt};
use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        Error, Message,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

pub(crate) struct Tunnel<IO> {
    socket: WebSocketStream<IO>,
    /// What is left of the last message.
    read: Bytes,
    closing: bool,
}

impl<IO> Tunnel<IO> {
    pub(crate) fn new(socket: WebSocketStream<IO>) -> Self {
        Self { socket, read: Bytes::new(), closing: false }
    }
}

/// The client's close is the stream's end, however it closed.
fn is_end(error: &Error) -> bool {
    matches!(error, Error::ConnectionClosed | Error::AlreadyClosed | Error::Protocol(_))
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for Tunnel<IO> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        loop {
            if !self.read.is_empty() {
                let length = self.read.len().min(out.remaining());
                out.put_slice(&self.read[..length]);
                self.read.advance(length);
                return Poll::Ready(Ok(()));
            }
            match ready!(self.socket.poll_next_unpin(cx)) {
                Some(Ok(Message::Binary(bytes))) => self.read = bytes,
                Some(Ok(Message::Text(_))) => {
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "a text message in a tunnel",
                    )));
                }
                // The library answers pings and closes by itself.
                Some(Ok(_)) => {}
                None => return Poll::Ready(Ok(())),
                Some(Err(error)) if is_end(&error) => return Poll::Ready(Ok(())),
                Some(Err(error)) => return Poll::Ready(Err(io::Error::other(error))),
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Tunnel<IO> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.socket.poll_ready_unpin(cx)).map_err(io::Error::other)?;
        let message = Message::Binary(Bytes::copy_from_slice(bytes));
        self.socket.start_send_unpin(message).map_err(io::Error::other)?;
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.socket.poll_flush_unpin(cx).map_err(io::Error::other)
    }

    /// Sends Close (1000); the client's answer is read like data.
    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if !self.closing {
            match ready!(self.socket.poll_ready_unpin(cx)) {
                Ok(()) => {}
                Err(error) if is_end(&error) => return Poll::Ready(Ok(())),
                Err(error) => return Poll::Ready(Err(io::Error::other(error))),
            }
            let close = Message::Close(Some(CloseFrame { code: CloseCode::Normal, reason: "".into() }));
            self.closing = true;
            match self.socket.start_send_unpin(close) {
                Err(error) if !is_end(&error) => return Poll::Ready(Err(io::Error::other(error))),
                _ => {}
            }
        }
        match ready!(self.socket.poll_flush_unpin(cx)) {
            Err(error) if !is_end(&error) => Poll::Ready(Err(io::Error::other(error))),
            _ => Poll::Ready(Ok(())),
        }
    }
}
