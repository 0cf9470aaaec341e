//! A SPDY client for tests, as simple as can be.

use super::{
    frame::{self, Control, Head},
    headers::{Deflater, Headers, Inflater},
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// What the server sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Got {
    Reply(u32),
    Data(u32, Vec<u8>),
    Fin(u32),
    Reset(u32),
    Ping(u32),
    GoAway,
    Other(u16),
    Eof,
}

pub(crate) struct TestClient<IO> {
    io: IO,
    deflater: Deflater,
    inflater: Inflater,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> TestClient<IO> {
    pub(crate) fn new(io: IO) -> Self {
        Self { io, deflater: Deflater::new(), inflater: Inflater::new() }
    }

    pub(crate) async fn raw(&mut self, bytes: &[u8]) {
        self.io.write_all(bytes).await.unwrap();
        self.io.flush().await.unwrap();
    }

    pub(crate) async fn open(&mut self, stream: u32, headers: &[(&str, &str)]) {
        let frame = frame::client::open(stream, &Headers::of(headers), &mut self.deflater);
        self.raw(&frame).await;
    }

    /// Opens a stream and takes its reply.
    pub(crate) async fn opened(&mut self, stream: u32, headers: &[(&str, &str)]) {
        self.open(stream, headers).await;
        assert_eq!(self.next().await, Got::Reply(stream));
    }

    pub(crate) async fn data(&mut self, stream: u32, data: &[u8]) {
        self.raw(&frame::client::data(stream, false, data)).await;
    }

    pub(crate) async fn fin(&mut self, stream: u32) {
        self.raw(&frame::client::data(stream, true, b"")).await;
    }

    pub(crate) async fn reset(&mut self, stream: u32) {
        self.raw(&frame::client::reset(stream)).await;
    }

    pub(crate) async fn ping(&mut self, id: u32) {
        self.raw(&frame::client::ping(id)).await;
    }

    pub(crate) async fn next(&mut self) -> Got {
        let mut head = [0; frame::HEAD];
        if self.io.read_exact(&mut head).await.is_err() {
            return Got::Eof;
        }
        match Head::parse(head).unwrap() {
            Head::Data { stream, fin: true, length: 0 } => Got::Fin(stream),
            Head::Data { stream, length, .. } => {
                let mut data = vec![0; length];
                self.io.read_exact(&mut data).await.unwrap();
                Got::Data(stream, data)
            }
            Head::Control { kind, flags, length } => {
                let mut payload = vec![0; length];
                self.io.read_exact(&mut payload).await.unwrap();
                match (kind, Control::parse(kind, flags, &payload, &mut self.inflater).unwrap()) {
                    (2, _) => Got::Reply(u32::from_be_bytes(payload[..4].try_into().unwrap())),
                    (_, Control::Reset { stream }) => Got::Reset(stream),
                    (_, Control::Ping { id }) => Got::Ping(id),
                    (_, Control::GoAway) => Got::GoAway,
                    (kind, _) => Got::Other(kind),
                }
            }
        }
    }

    /// Everything until `end`, data of each stream joined; sorted by stream.
    pub(crate) async fn until(&mut self, end: Got) -> Vec<Got> {
        let mut all: Vec<Got> = Vec::new();
        loop {
            let next = self.next().await;
            if next == end {
                break;
            }
            assert_ne!(next, Got::Eof, "before {end:?}: {all:?}");
            match next {
                Got::Data(stream, data) => {
                    let known = all.iter_mut().find(|got| matches!(got, Got::Data(id, _) if *id == stream));
                    match known {
                        Some(Got::Data(_, known)) => known.extend(data),
                        _ => all.push(Got::Data(stream, data)),
                    }
                }
                other => all.push(other),
            }
        }
        all.sort_by_key(|got| match got {
            Got::Data(id, _) => (*id, 0),
            Got::Reset(id) | Got::Fin(id) | Got::Reply(id) => (*id, 1),
            _ => (u32::MAX, 0),
        });
        all
    }
}
