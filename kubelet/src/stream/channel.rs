//! Channel framing of Kubernetes' WebSocket subprotocols: the first byte of a message is the channel's number.
//!
//! Source: the kubelet streaming protocol as documented in `k8s.io/streaming/pkg/httpstream/wsstream`; v5 is KEP-4006.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::{BufMut, Bytes, BytesMut};
use tokio_tungstenite::tungstenite::Message;

/// The channels of exec and attach.
pub(crate) const STDIN: u8 = 0;
pub(crate) const STDOUT: u8 = 1;
pub(crate) const STDERR: u8 = 2;
pub(crate) const ERROR: u8 = 3;
pub(crate) const RESIZE: u8 = 4;

/// In v5: "the channel named by the next byte is closed".
const CLOSE: u8 = 255;

/// How a subprotocol writes its messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Framing {
    /// Text messages: channel as a digit, data in base64.
    pub(crate) base64: bool,
    /// The client may close one channel (v5).
    pub(crate) closes: bool,
    /// The error channel carries a `Status` in JSON (v4 and later), not bare text.
    pub(crate) json_status: bool,
}

impl Framing {
    /// The subprotocols of exec and attach; `""` is a client that asked for none.
    pub(crate) const REMOTE_COMMAND: &[(&str, Framing)] = &[
        ("v5.channel.k8s.io", Framing { base64: false, closes: true, json_status: true }),
        ("v4.channel.k8s.io", Framing { base64: false, closes: false, json_status: true }),
        ("v4.base64.channel.k8s.io", Framing { base64: true, closes: false, json_status: true }),
        ("channel.k8s.io", Framing { base64: false, closes: false, json_status: false }),
        ("base64.channel.k8s.io", Framing { base64: true, closes: false, json_status: false }),
        ("", Framing { base64: false, closes: false, json_status: false }),
    ];

    /// The subprotocols of port-forward that are not tunnelled SPDY.
    pub(crate) const PORT_FORWARD: &[(&str, Framing)] = &[
        ("v4.channel.k8s.io", Framing { base64: false, closes: false, json_status: false }),
        ("v4.base64.channel.k8s.io", Framing { base64: true, closes: false, json_status: false }),
        ("portforward.k8s.io", Framing { base64: false, closes: false, json_status: false }),
        ("", Framing { base64: false, closes: false, json_status: false }),
    ];

    pub(crate) fn encode(self, channel: u8, data: &[u8]) -> Message {
        if self.base64 {
            let mut text = String::with_capacity(1 + data.len().div_ceil(3) * 4);
            // More than ten channels go on after '9' in ASCII, as Kubernetes' own server does it.
            text.push(char::from(b'0'.wrapping_add(channel)));
            STANDARD.encode_string(data, &mut text);
            return Message::text(text);
        }
        let mut message = BytesMut::with_capacity(1 + data.len());
        message.put_u8(channel);
        message.put_slice(data);
        Message::Binary(message.freeze())
    }

    /// What a message of the client says; `None` for one without content.
    pub(crate) fn decode(self, message: Bytes) -> Result<Option<Received>, BadMessage> {
        let Some(first) = message.first().copied() else { return Ok(None) };
        if self.closes && first == CLOSE {
            return match message[1..] {
                [channel] => Ok(Some(Received::Close(channel))),
                _ => Err(BadMessage::Close(message.len() - 1)),
            };
        }
        if self.base64 {
            let channel = first.checked_sub(b'0').ok_or(BadMessage::Channel(first))?;
            let data = STANDARD.decode(&message[1..]).map_err(|_| BadMessage::Base64)?;
            return Ok(Some(Received::Data(channel, data.into())));
        }
        Ok(Some(Received::Data(first, message.slice(1..))))
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Received {
    Data(u8, Bytes),
    Close(u8),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadMessage {
    #[error("a close signal names one channel, got {0} bytes")]
    Close(usize),
    #[error("{0:#04x} is not a channel's digit")]
    Channel(u8),
    #[error("the message is not base64")]
    Base64,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn framing(name: &str) -> Framing {
        Framing::REMOTE_COMMAND.iter().find(|(known, _)| *known == name).unwrap().1
    }

    #[test]
    #[allow(clippy::type_complexity, reason = "a table")]
    fn messages_are_read_as_their_protocol_says() {
        let data = |channel, text: &'static str| {
            Ok(Some(Received::Data(channel, Bytes::from_static(text.as_bytes()))))
        };
        let v5 = "v5.channel.k8s.io";
        let v4 = "v4.channel.k8s.io";
        let base64 = "base64.channel.k8s.io";
        let cases: [(&str, &'static [u8], Result<Option<Received>, BadMessage>); 13] = [
            (v5, b"\x00ls\n", data(0, "ls\n")),
            (v5, b"\x00", data(0, "")),
            (v5, b"", Ok(None)),
            (v5, b"\xff\x00", Ok(Some(Received::Close(0)))),
            (v5, b"\xff", Err(BadMessage::Close(0))),
            (v5, b"\xff\x00\x01", Err(BadMessage::Close(2))),
            // Before v5 it is a channel like any other.
            (v4, b"\xff\x00", data(255, "\0")),
            (v4, b"\x04{}", data(4, "{}")),
            ("", b"\x01x", data(1, "x")),
            (base64, b"0Zm9vCg==", data(0, "foo\n")),
            (base64, b"4", data(4, "")),
            (base64, b"0Zm9vCg", Err(BadMessage::Base64)),
            (base64, b"\x00Zm9v", Err(BadMessage::Channel(0))),
        ];
        for (protocol, message, expected) in cases {
            assert_eq!(
                framing(protocol).decode(Bytes::from_static(message)),
                expected,
                "{protocol} {message:?}"
            );
        }
    }

    #[test]
    fn messages_are_written_as_their_protocol_says() {
        assert_eq!(framing("v5.channel.k8s.io").encode(STDOUT, b"hi"), Message::binary(b"\x01hi".as_slice()));
        assert_eq!(framing("base64.channel.k8s.io").encode(STDERR, b"foo\n"), Message::text("2Zm9vCg=="));
        assert_eq!(framing("").encode(ERROR, b""), Message::binary(b"\x03".as_slice()));
    }

    proptest! {
        #[test]
        fn what_is_written_can_be_read(data: Vec<u8>, channel in 0..10u8, protocol in 0..6usize) {
            let framing = Framing::REMOTE_COMMAND[protocol].1;
            let message = framing.encode(channel, &data).into_data();
            prop_assert_eq!(framing.decode(message), Ok(Some(Received::Data(channel, data.into()))));
        }

        #[test]
        fn nothing_a_client_sends_panics(message: Vec<u8>, protocol in 0..6usize) {
            let _ = Framing::REMOTE_COMMAND[protocol].1.decode(message.into());
        }
    }
}
