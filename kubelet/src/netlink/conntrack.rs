//! Forgets tracked connections whose destination was rewritten to an endpoint that is gone. TCP notices by
//! itself; a UDP client that keeps its socket would send into the void for as long as it keeps sending.

use super::{
    Error,
    batch::{Attributes, IPV4},
    socket::Socket,
};
use std::net::Ipv4Addr;

const SUBSYSTEM: u16 = 1 << 8;
const GET: u16 = SUBSYSTEM | 1;
const DELETE: u16 = SUBSYSTEM | 2;

const TUPLE_ORIGINAL: u16 = 1;
const TUPLE_REPLY: u16 = 2;
const ID: u16 = 12;

/// One tracked UDP connection, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Flow {
    /// Whom the client wrote to.
    pub(crate) asked: (Ipv4Addr, u16),
    /// Who answers.
    pub(crate) answering: (Ipv4Addr, u16),
}

const UDP: u8 = 17;

/// Deletes the UDP flows for which `stale` is true; says how many.
pub(crate) fn forget_udp(socket: &mut Socket, stale: impl Fn(&Flow) -> bool) -> Result<usize, Error> {
    let mut doomed: Vec<(Vec<u8>, Vec<u8>)> = Vec::new();
    socket.dump(
        "listing tracked connections",
        GET,
        IPV4,
        |_| {},
        |message| {
            let attributes = message.attributes();
            if let (Some(flow), Some(original), Some(id)) =
                (flow(&attributes), attributes.get(TUPLE_ORIGINAL), attributes.get(ID))
                && stale(&flow)
            {
                doomed.push((original.to_vec(), id.to_vec()));
            }
        },
    )?;
    let mut deleted = 0;
    for (original, id) in doomed {
        let result = socket.request("forgetting a tracked connection", DELETE, IPV4, |b| {
            b.bytes(TUPLE_ORIGINAL | 0x8000, &original);
            b.bytes(ID, &id);
        });
        match result {
            Ok(()) => deleted += 1,
            // It ended by itself meanwhile.
            Err(error) if error.is_missing() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(deleted)
}

fn flow(attributes: &Attributes<'_>) -> Option<Flow> {
    let original = attributes.nested(TUPLE_ORIGINAL)?;
    if original.nested(2)?.get(1)? != [UDP] {
        return None;
    }
    Some(Flow { asked: end(&original, 2, 3)?, answering: end(&attributes.nested(TUPLE_REPLY)?, 1, 2)? })
}

/// Address and port of one end of a tuple.
fn end(tuple: &Attributes<'_>, address: u16, port: u16) -> Option<(Ipv4Addr, u16)> {
    let address: [u8; 4] = tuple.nested(1)?.get(address)?.try_into().ok()?;
    let port: [u8; 2] = tuple.nested(2)?.get(port)?.try_into().ok()?;
    Some((address.into(), u16::from_be_bytes(port)))
}
