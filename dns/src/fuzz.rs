//! Packets that nobody meant to send.

use crate::{
    handler::Reply,
    tests::{Bed, query},
};
use api::fuzz::fuzz;
use hickory_proto::{
    op::{Edns, Message},
    rr::RecordType,
};
use hickory_server::{net::xfer::Protocol, server::Request};

#[test]
fn fuzz_packets() {
    let bed = Bed::usual();
    let packets: Vec<Vec<u8>> = [
        ("web.default.svc", RecordType::A),
        ("_http._tcp.kubia.default.svc", RecordType::SRV),
        ("kubia.default.svc", RecordType::ANY),
        ("inside.default.svc", RecordType::AAAA),
    ]
    .map(|(name, kind)| {
        let mut message = query(&format!("{name}.cluster.local."), kind);
        message.edns.insert(Edns::new()).set_max_payload(1400);
        message.to_vec().unwrap()
    })
    .into();
    let corpus: Vec<&[u8]> = packets.iter().map(Vec::as_slice).collect();
    for protocol in [Protocol::Udp, Protocol::Tcp] {
        fuzz(3000, &corpus, |packet| {
            let client = "127.0.0.1:53".parse().unwrap();
            let Ok(request) = Request::from_bytes(packet.to_vec(), client, protocol) else { return false };
            let Reply::Now(response) = bed.handler.reply(&request) else { return false };
            let bytes = response.encode(&request.queries).unwrap();
            let reply = Message::from_vec(&bytes).unwrap();
            assert_eq!(&bytes[..2], &packet[..2], "the reply is the question's");
            assert!(protocol == Protocol::Tcp || bytes.len() <= 1232);
            !reply.queries.is_empty()
        });
    }
}
