//! SPDY/3.1 frames, as bytes and back (draft-mbelshe-httpbis-spdy-00, section 2.2 and 2.6). Pure.

use super::headers::{Deflater, Headers, Inflater};
use bytes::{BufMut, BytesMut};

pub(super) const HEAD: usize = 8;
/// A control frame of a client is some hundred bytes.
pub(super) const MAX_CONTROL: usize = 64 << 10;
const VERSION: u16 = 3;

const FLAG_FIN: u8 = 1;
const FLAG_UNIDIRECTIONAL: u8 = 2;

const SYN_STREAM: u16 = 1;
const SYN_REPLY: u16 = 2;
const RST_STREAM: u16 = 3;
const PING: u16 = 6;
const GOAWAY: u16 = 7;
const HEADERS: u16 = 8;
const WINDOW_UPDATE: u16 = 9;

/// What a client must not send; ends the connection.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum BadFrame {
    #[error("SPDY version {0}, expected 3")]
    Version(u16),
    #[error("a control frame of {0} bytes")]
    TooLarge(usize),
    #[error("control frame {kind} is cut short: {length} bytes")]
    Short { kind: u16, length: usize },
    #[error("headers: {0}")]
    Headers(&'static str),
    #[error("stream id {0} is not a new odd number")]
    StreamId(u32),
}

/// The first 8 bytes of a frame.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Head {
    Control { kind: u16, flags: u8, length: usize },
    Data { stream: u32, fin: bool, length: usize },
}

impl Head {
    pub(super) fn parse(bytes: [u8; HEAD]) -> Result<Self, BadFrame> {
        let [a, b, c, d, flags, x, y, z] = bytes;
        let length = u32::from_be_bytes([0, x, y, z]) as usize;
        if a & 0x80 == 0 {
            return Ok(Head::Data {
                stream: u32::from_be_bytes([a, b, c, d]),
                fin: flags & FLAG_FIN != 0,
                length,
            });
        }
        let version = u16::from_be_bytes([a & 0x7f, b]);
        if version != VERSION {
            return Err(BadFrame::Version(version));
        }
        if length > MAX_CONTROL {
            return Err(BadFrame::TooLarge(length));
        }
        Ok(Head::Control { kind: u16::from_be_bytes([c, d]), flags, length })
    }
}

/// A control frame that means something to a server.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Control {
    Open {
        stream: u32,
        fin: bool,
        unidirectional: bool,
        headers: Headers,
    },
    Reset {
        stream: u32,
    },
    Ping {
        id: u32,
    },
    GoAway,
    /// SETTINGS, WINDOW_UPDATE, CREDENTIAL, or what a later version may add.
    Other,
}

impl Control {
    /// `inflater` must see every frame of the connection.
    pub(super) fn parse(
        kind: u16,
        flags: u8,
        payload: &[u8],
        inflater: &mut Inflater,
    ) -> Result<Self, BadFrame> {
        let short = BadFrame::Short { kind, length: payload.len() };
        let word = |at: usize| -> Result<u32, BadFrame> {
            let bytes = payload.get(at..).and_then(|rest| rest.first_chunk::<4>()).ok_or(short.clone())?;
            Ok(u32::from_be_bytes(*bytes))
        };
        // The highest bit of an id is reserved.
        let id = |at: usize| Ok(word(at)? & 0x7fff_ffff);
        match kind {
            SYN_STREAM => {
                let stream = id(0)?;
                // Then the associated stream, priority and slot: 6 bytes of no use here.
                let headers = inflater.read(payload.get(10..).ok_or(short.clone())?)?;
                let unidirectional = flags & FLAG_UNIDIRECTIONAL != 0;
                Ok(Control::Open { stream, fin: flags & FLAG_FIN != 0, unidirectional, headers })
            }
            SYN_REPLY | HEADERS => {
                inflater.read(payload.get(4..).ok_or(short.clone())?)?;
                Ok(Control::Other)
            }
            RST_STREAM => Ok(Control::Reset { stream: id(0)? }),
            PING => Ok(Control::Ping { id: word(0)? }),
            GOAWAY => Ok(Control::GoAway),
            _ => Ok(Control::Other),
        }
    }
}

/// Why a stream is reset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum ResetCode {
    RefusedStream = 3,
    Cancel = 5,
}

/// Why a connection ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub(super) enum GoAwayCode {
    Ok = 0,
    ProtocolError = 1,
}

fn control(out: &mut BytesMut, kind: u16, flags: u8, length: usize) {
    out.put_u16(0x8000 | VERSION);
    out.put_u16(kind);
    // Ours are small: the 24 bits of the length never overflow.
    out.put_u32(u32::from(flags) << 24 | length as u32);
}

pub(super) fn data_head(stream: u32, fin: bool, length: usize) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..4].copy_from_slice(&stream.to_be_bytes());
    head[4..].copy_from_slice(&(u32::from(fin as u8 * FLAG_FIN) << 24 | length as u32).to_be_bytes());
    head
}

pub(super) fn reply(out: &mut BytesMut, stream: u32, deflater: &mut Deflater) {
    let block = deflater.write(&Headers::default());
    control(out, SYN_REPLY, 0, 4 + block.len());
    out.put_u32(stream);
    out.put_slice(&block);
}

pub(super) fn reset(out: &mut BytesMut, stream: u32, code: ResetCode) {
    control(out, RST_STREAM, 0, 8);
    out.put_u32(stream);
    out.put_u32(code as u32);
}

pub(super) fn ping(out: &mut BytesMut, id: u32) {
    control(out, PING, 0, 4);
    out.put_u32(id);
}

pub(super) fn window_update(out: &mut BytesMut, stream: u32, delta: u32) {
    control(out, WINDOW_UPDATE, 0, 8);
    out.put_u32(stream);
    out.put_u32(delta);
}

pub(super) fn go_away(out: &mut BytesMut, last_stream: u32, code: GoAwayCode) {
    control(out, GOAWAY, 0, 8);
    out.put_u32(last_stream);
    out.put_u32(code as u32);
}

/// What a client writes, for tests.
#[cfg(test)]
pub(super) mod client {
    use super::*;

    pub(in super::super) fn open(stream: u32, headers: &Headers, deflater: &mut Deflater) -> Vec<u8> {
        let block = deflater.write(headers);
        let mut out = BytesMut::new();
        control(&mut out, SYN_STREAM, 0, 10 + block.len());
        out.put_u32(stream);
        out.put_slice(&[0; 6]);
        out.put_slice(&block);
        out.to_vec()
    }

    pub(in super::super) fn data(stream: u32, fin: bool, data: &[u8]) -> Vec<u8> {
        [&data_head(stream, fin, data.len()), data].concat()
    }

    pub(in super::super) fn reset(stream: u32) -> Vec<u8> {
        let mut out = BytesMut::new();
        super::reset(&mut out, stream, ResetCode::Cancel);
        out.to_vec()
    }

    pub(in super::super) fn ping(id: u32) -> Vec<u8> {
        let mut out = BytesMut::new();
        super::ping(&mut out, id);
        out.to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Splits what was written into head and payload.
    fn parse(bytes: &[u8], inflater: &mut Inflater) -> Control {
        let head = Head::parse(*bytes.first_chunk().unwrap()).unwrap();
        let Head::Control { kind, flags, length } = head else { panic!("{head:?}") };
        assert_eq!(length, bytes.len() - HEAD);
        Control::parse(kind, flags, &bytes[HEAD..], inflater).unwrap()
    }

    #[test]
    fn frames_are_as_drawn_in_the_draft() {
        let mut out = BytesMut::new();
        ping(&mut out, 0x01020304);
        reset(&mut out, 5, ResetCode::RefusedStream);
        window_update(&mut out, 7, 0x100);
        go_away(&mut out, 9, GoAwayCode::ProtocolError);
        let expected: &[&[u8]] = &[
            &[0x80, 3, 0, 6, 0, 0, 0, 4, 1, 2, 3, 4],
            &[0x80, 3, 0, 3, 0, 0, 0, 8, 0, 0, 0, 5, 0, 0, 0, 3],
            &[0x80, 3, 0, 9, 0, 0, 0, 8, 0, 0, 0, 7, 0, 0, 1, 0],
            &[0x80, 3, 0, 7, 0, 0, 0, 8, 0, 0, 0, 9, 0, 0, 0, 1],
        ];
        assert_eq!(out, expected.concat());
        assert_eq!(data_head(3, true, 0x010203), [0, 0, 0, 3, 1, 1, 2, 3]);
    }

    #[test]
    fn control_frames_are_read() {
        let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
        let headers = Headers::of(&[("streamtype", "stdin")]);
        for stream in [1, 3] {
            let open = Control::Open { stream, fin: false, unidirectional: false, headers: headers.clone() };
            assert_eq!(parse(&client::open(stream, &headers, &mut deflater), &mut inflater), open);
        }
        let mut out = BytesMut::new();
        reply(&mut out, 1, &mut deflater);
        assert_eq!(parse(&out, &mut inflater), Control::Other);
        assert_eq!(parse(&client::ping(9), &mut inflater), Control::Ping { id: 9 });
        assert_eq!(parse(&client::reset(3), &mut inflater), Control::Reset { stream: 3 });
        // SETTINGS and what nobody knows.
        for kind in [4, 10, 999] {
            assert_eq!(Control::parse(kind, 0, b"", &mut inflater), Ok(Control::Other));
        }
    }

    #[test]
    fn bad_frames_are_refused() {
        assert_eq!(Head::parse([0x80, 2, 0, 1, 0, 0, 0, 0]), Err(BadFrame::Version(2)));
        assert_eq!(
            Head::parse(*b"GET / HT"),
            Ok(Head::Data { stream: 0x47455420, fin: true, length: 0x204854 })
        );
        assert_eq!(Head::parse([0x80, 3, 0, 1, 0, 1, 0, 1]), Err(BadFrame::TooLarge(0x10001)));
        for kind in [SYN_STREAM, SYN_REPLY, RST_STREAM, PING, HEADERS] {
            let result = Control::parse(kind, 0, &[0; 3], &mut Inflater::new());
            assert_eq!(result, Err(BadFrame::Short { kind, length: 3 }));
        }
    }

    proptest! {
        #[test]
        fn no_frame_panics(head: [u8; HEAD], kind in 0..12u16, flags: u8, payload: Vec<u8>) {
            let _ = Head::parse(head);
            let _ = Control::parse(kind, flags, &payload, &mut Inflater::new());
        }
    }
}
