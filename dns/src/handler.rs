//! From a question to its reply: asks `answer`, follows aliases, and fits what is known into what the client can take.
//! What we know is answered at once; only names of others wait (`Pending`).
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
    op::{Edns, MessageType, Metadata, OpCode, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType},
    serialize::binary::{BinDecoder, BinEncoder},
};
use hickory_server::{
    net::xfer::Protocol,
    server::Request,
    zone_handler::{MessageResponse, MessageResponseBuilder, Queries},
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
/// Type, class, TTL and length of a record; those of an OPT with its empty name are one more.
const RECORD: usize = 10;

pub(crate) enum Reply {
    Silence,
    Now(Response),
    Later(Box<Pending>),
}

/// A reply before it is encoded. In front of its records goes the question, byte for byte as the client sent it.
#[derive(Debug)]
pub(crate) struct Response {
    metadata: Metadata,
    /// Of a packet that made no sense nothing is repeated.
    repeats: bool,
    answers: Vec<Record>,
    authorities: Vec<Record>,
    additionals: Vec<Record>,
    edns: Option<Edns>,
    limit: usize,
}

/// A reply that waits for an upstream server.
pub(crate) struct Pending {
    response: Response,
    target: Name,
    kind: RecordType,
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

    pub(crate) fn reply(&self, request: &Request) -> Reply {
        if request.metadata.message_type != MessageType::Query {
            return Reply::Silence;
        }
        let refuse = |code| Reply::Now(Response::refusal(&request.metadata, code));
        if request.metadata.op_code != OpCode::Query {
            return refuse(ResponseCode::NotImp);
        }
        let [query] = request.queries.queries() else { return refuse(ResponseCode::FormErr) };
        let query = query.original();
        // A name that refers to bytes before it can only mean the header, and would mean other bytes in the reply.
        if request.queries.as_bytes().len() != on_wire(&query.name) + 4 {
            return refuse(ResponseCode::FormErr);
        }
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.recursion_available = self.forward.is_enabled();
        let mut response = Response::new(metadata);
        let (mut limit, mut version) = (PLAIN_UDP, 0);
        if let Some(edns) = &request.edns {
            limit = edns.max_payload().clamp(PLAIN_UDP, MAX_UDP);
            version = edns.version();
            let mut own = Edns::new();
            own.set_max_payload(MAX_UDP).set_version(0);
            response.edns = Some(own);
        }
        response.limit = match request.protocol() {
            Protocol::Udp => usize::from(limit),
            _ => usize::from(u16::MAX),
        };
        let refusal = match (version, query.query_class, query.query_type) {
            (1.., _, _) => Some(ResponseCode::BADVERS),
            (_, DNSClass::IN, RecordType::AXFR | RecordType::IXFR | RecordType::OPT) => {
                Some(ResponseCode::Refused)
            }
            (_, DNSClass::IN, _) => None,
            _ => Some(ResponseCode::Refused),
        };
        if let Some(code) = refusal {
            response.metadata.response_code = code;
            return Reply::Now(response);
        }
        let kind = query.query_type;
        match self.resolve(&mut response, query.name.clone(), kind) {
            Some(target) => Reply::Later(Box::new(Pending { response, target, kind })),
            None => Reply::Now(response.fitted(&request.queries)),
        }
    }

    /// Fills in what we know; returns the name that somebody else has to be asked for.
    fn resolve(&self, response: &mut Response, mut name: Name, kind: RecordType) -> Option<Name> {
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
    pub(crate) async fn finish(&self, pending: Pending, question: &Queries) -> Response {
        let Pending { mut response, target, kind } = pending;
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
        response.fitted(question)
    }
}

impl Response {
    fn new(metadata: Metadata) -> Self {
        let (answers, authorities, additionals) = (Vec::new(), Vec::new(), Vec::new());
        let limit = usize::from(PLAIN_UDP);
        Self { metadata, repeats: true, answers, authorities, additionals, edns: None, limit }
    }

    fn refusal(request: &Metadata, code: ResponseCode) -> Self {
        let mut metadata = Metadata::response_from_request(request);
        metadata.response_code = code;
        Self { repeats: false, ..Self::new(metadata) }
    }

    /// As hickory's encoder takes it.
    pub(crate) fn message<'a>(
        &'a self,
        question: &'a Queries,
        none: &'a Queries,
    ) -> MessageResponse<
        'a,
        'a,
        impl Iterator<Item = &'a Record> + Send + 'a,
        impl Iterator<Item = &'a Record> + Send + 'a,
        impl Iterator<Item = &'a Record> + Send + 'a,
        impl Iterator<Item = &'a Record> + Send + 'a,
    > {
        let question = if self.repeats { question } else { none };
        MessageResponseBuilder::new(question, self.edns.as_ref()).build(
            self.metadata,
            &self.answers,
            &self.authorities,
            [],
            &self.additionals,
        )
    }

    /// Within the limit: as many additionals as fit; if not even the answers do, none and TC, so that the client asks
    /// again over TCP. (The encoder's own truncation leaves half a record behind the last one, and takes missing
    /// additionals for truncation.)
    fn fitted(mut self, question: &Queries) -> Self {
        let records = [&self.answers, &self.authorities, &self.additionals].into_iter().flatten();
        let around = HEADER + question.as_bytes().len() + RECORD + 1;
        let most = records.map(size_at_most).try_fold(around, |sum, size| Some(sum + size?));
        if most.is_some_and(|most| most <= self.limit) || self.size(question).is_some() {
            return self;
        }
        let additionals = std::mem::take(&mut self.additionals);
        if let Some(size) = self.size(question) {
            let mut room = self.limit - size;
            for record in additionals {
                let Some(rest) = size_at_most(&record).and_then(|size| room.checked_sub(size)) else { break };
                room = rest;
                self.additionals.push(record);
            }
            return self;
        }
        // A header, one question and an OPT: at most 12 + 259 + 11 bytes.
        self.answers.clear();
        self.authorities.clear();
        self.metadata.truncation = true;
        self
    }

    /// Encoded, if that is within the limit.
    fn size(&self, question: &Queries) -> Option<usize> {
        self.encode(question).map(|bytes| bytes.len()).filter(|size| *size <= self.limit)
    }

    /// As hickory's server encodes it; `None` if it cannot be whole.
    pub(crate) fn encode(&self, question: &Queries) -> Option<Vec<u8>> {
        let none = no_question()?;
        let mut bytes = Vec::with_capacity(usize::from(PLAIN_UDP));
        let mut encoder = BinEncoder::new(&mut bytes);
        encoder.set_max_size(u16::MAX);
        let info = self.message(question, &none).destructive_emit(&mut encoder).ok()?;
        (info.truncation == self.metadata.truncation).then_some(bytes)
    }
}

pub(crate) fn no_question() -> Option<Queries> {
    Queries::read(&mut BinDecoder::new(&[]), 0).ok()
}

/// Not compressed; `None` for what we do not make ourselves.
fn size_at_most(record: &Record) -> Option<usize> {
    let data = match &record.data {
        RData::A(_) => 4,
        RData::AAAA(_) => 16,
        RData::CNAME(name) => on_wire(&name.0),
        RData::PTR(name) => on_wire(&name.0),
        RData::NS(name) => on_wire(&name.0),
        RData::SRV(srv) => 6 + on_wire(&srv.target),
        RData::SOA(soa) => 20 + on_wire(&soa.mname) + on_wire(&soa.rname),
        _ => return None,
    };
    Some(on_wire(&record.name) + RECORD + data)
}

/// A name's length, not compressed.
fn on_wire(name: &Name) -> usize {
    if name.is_root() { 1 } else { name.len() + 1 }
}
