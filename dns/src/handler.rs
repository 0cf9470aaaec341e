//! From a packet to its reply: decodes, asks `answer`, follows aliases, encodes within the size the client can
//! take. What we know is answered at once; only names of others wait (`Pending`).
//!
//! | packet | reply |
//! |---|---|
//! | shorter than a header, or a response | silence |
//! | not decodable, or not one question | FORMERR |
//! | other opcode than QUERY | NOTIMP |
//! | other class than IN, or a zone transfer | REFUSED |
//! | newer EDNS | BADVERS |
//! | ours, before the first sync | SERVFAIL |

use crate::{
    answer::{self, Answer, Zone},
    forward::{Forward, Outcome},
    index::Index,
    name::{self, Question},
};
use arc_swap::ArcSwap;
use hickory_proto::{
    op::{Edns, Message, MessageType, Metadata, ResponseCode},
    rr::{DNSClass, Name, RecordType},
};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Aliases followed within the zone before giving up.
const MAX_ALIASES: usize = 8;
/// Largest UDP packet we send: passes every path without fragments (DNS flag day 2020).
const MAX_UDP: u16 = 1232;
/// Largest UDP packet to a client without EDNS (RFC 1035).
const PLAIN_UDP: u16 = 512;
const HEADER: usize = 12;

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Transport {
    Udp,
    Tcp,
}

pub(crate) enum Reply {
    Silence,
    Now(Vec<u8>),
    Later(Box<Pending>),
}

/// A reply that waits for an upstream server.
pub(crate) struct Pending {
    response: Message,
    target: Name,
    kind: RecordType,
    limit: usize,
}

pub(crate) struct Handler {
    pub(crate) zone: Zone,
    pub(crate) index: Arc<ArcSwap<Index>>,
    pub(crate) forward: Forward,
    spin: AtomicUsize,
}

impl Handler {
    pub(crate) fn new(zone: Zone, index: Arc<ArcSwap<Index>>, forward: Forward) -> Self {
        Self { zone, index, forward, spin: AtomicUsize::new(0) }
    }

    pub(crate) fn reply(&self, packet: &[u8], transport: Transport) -> Reply {
        let [id0, id1, flags, ..] = *packet else { return Reply::Silence };
        if packet.len() < HEADER || flags & 0x80 != 0 {
            return Reply::Silence;
        }
        // Response, the opcode and "recursion desired" of the query; all counts are zero.
        let bare = |code: ResponseCode| {
            Reply::Now(vec![id0, id1, 0x80 | flags & 0x79, code.low(), 0, 0, 0, 0, 0, 0, 0, 0])
        };
        if flags & 0x78 != 0 {
            return bare(ResponseCode::NotImp);
        }
        let Ok(request) = Message::from_vec(packet) else { return bare(ResponseCode::FormErr) };
        if request.queries.len() != 1 || request.metadata.message_type != MessageType::Query {
            return bare(ResponseCode::FormErr);
        }
        self.query(request, transport)
    }

    fn query(&self, mut request: Message, transport: Transport) -> Reply {
        let mut response = Message::new(0, MessageType::Response, request.metadata.op_code);
        response.metadata = Metadata::response_from_request(&request.metadata);
        response.metadata.recursion_available = self.forward.is_enabled();
        let mut limit = PLAIN_UDP;
        let mut version = 0;
        if let Some(edns) = &request.edns {
            limit = edns.max_payload().clamp(PLAIN_UDP, MAX_UDP);
            version = edns.version();
            let mut own = Edns::new();
            own.set_max_payload(MAX_UDP).set_version(0);
            response.edns = Some(own);
        }
        let limit = match transport {
            Transport::Udp => usize::from(limit),
            Transport::Tcp => usize::from(u16::MAX),
        };
        let Some(query) = request.queries.pop() else { return Reply::Silence };
        let (name, kind, class) = (query.name.clone(), query.query_type, query.query_class);
        response.queries.push(query);
        let refusal = match (version, class, kind) {
            (1.., _, _) => Some(ResponseCode::BADVERS),
            (_, DNSClass::IN, RecordType::AXFR | RecordType::IXFR | RecordType::OPT) => {
                Some(ResponseCode::Refused)
            }
            (_, DNSClass::IN, _) => None,
            _ => Some(ResponseCode::Refused),
        };
        if let Some(code) = refusal {
            response.metadata.response_code = code;
            return Reply::Now(encode(response, limit));
        }
        match self.resolve(&mut response, name, kind) {
            Some(target) => Reply::Later(Box::new(Pending { response, target, kind, limit })),
            None => Reply::Now(encode(response, limit)),
        }
    }

    /// Fills in what we know; returns the name that somebody else has to be asked for.
    fn resolve(&self, response: &mut Message, mut name: Name, kind: RecordType) -> Option<Name> {
        let index = self.index.load();
        let spin = self.spin.fetch_add(1, Ordering::Relaxed);
        for _ in 0..=MAX_ALIASES {
            let question = name::parse(&name, &self.zone.name);
            let answer = answer::answer(&self.zone, &index, &question, &name, kind, spin);
            if !index.synced && !matches!(question, Question::Foreign) {
                // What is missing may only not have arrived yet; a client asks again after SERVFAIL.
                response.metadata.response_code = ResponseCode::ServFail;
                return None;
            }
            if answer == Answer::NotOurs {
                return Some(name);
            }
            response.metadata.authoritative = true;
            match answer {
                Answer::Records { answers, additionals } => {
                    response.answers.extend(answers);
                    response.additionals = additionals;
                    return None;
                }
                Answer::Alias { record, target } => {
                    response.answers.push(*record);
                    name = target;
                    continue;
                }
                Answer::NxDomain => response.metadata.response_code = ResponseCode::NXDomain,
                Answer::NoData | Answer::NotOurs => {}
            }
            response.authorities.push(answer::soa(&self.zone, &question, index.serial));
            return None;
        }
        response.answers.clear();
        response.metadata.response_code = ResponseCode::ServFail;
        None
    }

    /// Asks upstream and finishes the reply. Bounded in time by `Forward`.
    pub(crate) async fn finish(&self, pending: Pending) -> Vec<u8> {
        let Pending { mut response, target, kind, limit } = pending;
        match self.forward.resolve(target, kind).await {
            Outcome::Records { answers } => response.answers.extend(answers),
            Outcome::Negative { code, authorities } => {
                response.metadata.response_code = code;
                response.authorities.extend(authorities);
            }
            Outcome::Failed => {
                // Half an alias chain would be taken for a whole one.
                response.answers.clear();
                response.metadata.authoritative = false;
                response.metadata.response_code = ResponseCode::ServFail;
            }
        }
        encode(response, limit)
    }
}

/// Encodes within `limit` bytes: as many additionals as fit; if not even the answers do, none and TC, so that the
/// client asks again over TCP. (The encoder's own truncation leaves half a record behind the last one, and takes
/// missing additionals for truncation.)
fn encode(mut message: Message, limit: usize) -> Vec<u8> {
    if let Some(bytes) = whole(&message, limit) {
        return bytes;
    }
    let additionals = std::mem::take(&mut message.additionals);
    if let Some(bytes) = whole(&message, limit) {
        let mut room = limit - bytes.len();
        for record in additionals {
            // Uncompressed name, type, class, TTL, length, address.
            let size = record.name.len() + 1 + 10 + 16;
            let Some(rest) = room.checked_sub(size) else { break };
            room = rest;
            message.additionals.push(record);
        }
        return whole(&message, limit).unwrap_or(bytes);
    }
    message.answers.clear();
    message.authorities.clear();
    message.additionals.clear();
    message.metadata.truncation = true;
    // A header, one question and an OPT: at most 12 + 259 + 11 bytes.
    message.to_vec().unwrap_or_default()
}

fn whole(message: &Message, limit: usize) -> Option<Vec<u8>> {
    let bytes = message.to_vec().ok()?;
    let truncated = bytes.get(2).is_none_or(|flags| flags & 0x02 != 0);
    (bytes.len() <= limit && !truncated).then_some(bytes)
}
