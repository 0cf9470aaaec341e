//! The nf_tables messages and expressions we use. Names and numbers are those of
//! `linux/netfilter/nf_tables.h`; data in registers is in network order where it is a packet's, in the machine's
//! where it is a mark, an index or a state.

use super::batch::{APPEND, Batch, CREATE, IPV4};

const SUBSYSTEM: u16 = 10 << 8;
pub(crate) const NEW_TABLE: u16 = SUBSYSTEM;
pub(crate) const DELETE_TABLE: u16 = SUBSYSTEM | 2;
const NEW_CHAIN: u16 = SUBSYSTEM | 3;
pub(crate) const NEW_RULE: u16 = SUBSYSTEM | 6;
pub(crate) const GET_RULE: u16 = SUBSYSTEM | 7;
pub(crate) const DELETE_RULE: u16 = SUBSYSTEM | 8;
const NEW_SET: u16 = SUBSYSTEM | 9;
const NEW_ELEMENT: u16 = SUBSYSTEM | 12;
const DELETE_ELEMENT: u16 = SUBSYSTEM | 14;
pub(crate) const GET_GENERATION: u16 = SUBSYSTEM | 16;
pub(crate) const GENERATION_ID: u16 = 1;

pub(crate) const RULE_TABLE: u16 = 1;
pub(crate) const RULE_CHAIN: u16 = 2;
pub(crate) const RULE_HANDLE: u16 = 3;
const RULE_EXPRESSIONS: u16 = 4;
pub(crate) const RULE_USERDATA: u16 = 7;

/// Elements in one message: an attribute's length has 16 bits and an element takes up to 100 bytes.
const ELEMENTS_PER_MESSAGE: usize = 400;

/// Types of set keys and data as the nft program prints them: it packs the parts' types, 6 bits each.
pub(crate) mod kind {
    pub(crate) const ADDRESS: u32 = 7;
    pub(crate) const PROTOCOL: u32 = 12;
    pub(crate) const SERVICE: u32 = 13;
    /// nft's type for a 32-bit number in the machine's order.
    pub(crate) const MARK: u32 = 19;
    pub(crate) const VERDICT: u32 = 0xffff_ff00;

    pub(crate) const fn concat(parts: &[u32]) -> u32 {
        let (mut packed, mut i) = (0, 0);
        while i < parts.len() {
            packed = packed << 6 | parts[i];
            i += 1;
        }
        packed
    }
}

/// 32-bit registers.
#[derive(Clone, Copy)]
pub(crate) struct Register(pub(crate) u32);

impl Register {
    pub(crate) fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

pub(crate) const R0: Register = Register(8);
pub(crate) const R1: Register = Register(9);
pub(crate) const R2: Register = Register(10);
pub(crate) const R3: Register = Register(11);
pub(crate) const R4: Register = Register(12);
/// Beyond the five that keys take.
const SCRATCH: Register = Register(13);
/// Where a verdict goes.
const VERDICT_REGISTER: u32 = 0;

#[derive(Clone, Copy)]
pub(crate) enum Verdict<'a> {
    Accept,
    Drop,
    Jump(&'a str),
    Goto(&'a str),
}

#[derive(Clone, Copy, PartialEq)]
pub(crate) enum Hook {
    Prerouting = 0,
    Input = 1,
    Forward = 2,
    Output = 3,
    Postrouting = 4,
}

/// Writes objects of one table (of family ip).
pub(crate) struct Table<'a> {
    pub(crate) batch: &'a mut Batch,
    pub(crate) name: &'a str,
}

impl Table<'_> {
    pub(crate) fn create(&mut self) {
        self.batch.message(NEW_TABLE, CREATE, IPV4, 0, |b| b.string(1, self.name));
    }

    pub(crate) fn delete(&mut self) {
        self.batch.message(DELETE_TABLE, 0, IPV4, 0, |b| b.string(1, self.name));
    }

    pub(crate) fn chain(&mut self, name: &str) {
        self.batch.message(NEW_CHAIN, CREATE, IPV4, 0, |b| {
            b.string(1, self.name);
            b.string(3, name);
        });
    }

    /// A chain that the kernel calls; what falls through it is accepted.
    pub(crate) fn base_chain(&mut self, name: &str, kind: &str, hook: Hook, priority: i32) {
        self.batch.message(NEW_CHAIN, CREATE, IPV4, 0, |b| {
            b.string(1, self.name);
            b.string(3, name);
            b.nest(4, |b| {
                b.u32(1, hook as u32);
                b.bytes(2, &priority.to_be_bytes());
            });
            b.u32(5, 1);
            b.string(7, kind);
        });
    }

    /// `data`: type and length of what keys map to; `None` makes a set.
    pub(crate) fn set(&mut self, name: &str, id: u32, key: (u32, u32), data: Option<(u32, u32)>) {
        const MAP: u32 = 8;
        self.batch.message(NEW_SET, CREATE, IPV4, 0, |b| {
            b.string(1, self.name);
            b.string(2, name);
            b.u32(3, if data.is_some() { MAP } else { 0 });
            b.u32(4, key.0);
            b.u32(5, key.1);
            if let Some((kind, length)) = data {
                b.u32(6, kind);
                // The kernel knows the length of a verdict.
                if kind != kind::VERDICT {
                    b.u32(7, length);
                }
            }
            b.u32(10, id);
        });
    }

    pub(crate) fn rule(&mut self, chain: &str, expressions: impl FnOnce(&mut Rule<'_>)) {
        self.batch.message(NEW_RULE, CREATE | APPEND, IPV4, 0, |b| {
            b.string(RULE_TABLE, self.name);
            b.string(RULE_CHAIN, chain);
            b.nest(RULE_EXPRESSIONS, |b| expressions(&mut Rule(b)));
        });
    }

    /// Puts a rule with a comment at the head of a chain.
    pub(crate) fn insert_rule(
        &mut self,
        chain: &str,
        comment: &str,
        expressions: impl FnOnce(&mut Rule<'_>),
    ) {
        self.batch.message(NEW_RULE, CREATE, IPV4, 0, |b| {
            b.string(RULE_TABLE, self.name);
            b.string(RULE_CHAIN, chain);
            b.nest(RULE_EXPRESSIONS, |b| expressions(&mut Rule(b)));
            b.bytes(RULE_USERDATA, &userdata(comment));
        });
    }

    pub(crate) fn delete_rule(&mut self, chain: &str, handle: u64) {
        self.batch.message(DELETE_RULE, 0, IPV4, 0, |b| {
            b.string(RULE_TABLE, self.name);
            b.string(RULE_CHAIN, chain);
            b.bytes(RULE_HANDLE, &handle.to_be_bytes());
        });
    }

    /// `write` is called for each item with a function that takes its element.
    pub(crate) fn add_elements<T>(
        &mut self,
        set: &str,
        items: &[T],
        write: impl Fn(&T, &mut dyn FnMut(&Element<'_>)),
    ) {
        self.elements(NEW_ELEMENT, CREATE, set, items, write);
    }

    /// Only the elements' keys count.
    pub(crate) fn delete_elements<T>(
        &mut self,
        set: &str,
        items: &[T],
        write: impl Fn(&T, &mut dyn FnMut(&Element<'_>)),
    ) {
        self.elements(DELETE_ELEMENT, 0, set, items, write);
    }

    fn elements<T>(
        &mut self,
        kind: u16,
        flags: u16,
        set: &str,
        items: &[T],
        write: impl Fn(&T, &mut dyn FnMut(&Element<'_>)),
    ) {
        for chunk in items.chunks(ELEMENTS_PER_MESSAGE) {
            self.batch.message(kind, flags, IPV4, 0, |b| {
                b.string(1, self.name);
                b.string(2, set);
                b.nest(3, |b| {
                    for item in chunk {
                        write(item, &mut |element| b.nest(1, |b| element.write(b)));
                    }
                });
            });
        }
    }
}

/// A comment as nft and iptables store it: type, length with the final zero, text.
pub(crate) fn userdata(comment: &str) -> Vec<u8> {
    let text = &comment.as_bytes()[..comment.len().min(127)];
    let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    [&[0, length][..], text, &[0]].concat()
}

pub(crate) struct Element<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) data: Data<'a>,
}

pub(crate) enum Data<'a> {
    None,
    Value(&'a [u8]),
    Verdict(Verdict<'a>),
}

impl Element<'_> {
    fn write(&self, b: &mut Batch) {
        b.nest(1, |b| b.bytes(1, self.key));
        match &self.data {
            Data::None => {}
            Data::Value(value) => b.nest(2, |b| b.bytes(1, value)),
            Data::Verdict(verdict) => b.nest(2, |b| verdict.write(b)),
        }
    }
}

impl Verdict<'_> {
    fn write(&self, b: &mut Batch) {
        let (code, chain) = match self {
            Verdict::Drop => (0, None),
            Verdict::Accept => (1, None),
            Verdict::Jump(chain) => (-3i32, Some(chain)),
            Verdict::Goto(chain) => (-4, Some(chain)),
        };
        b.nest(2, |b| {
            b.bytes(1, &code.to_be_bytes());
            if let Some(chain) = chain {
                b.string(2, chain);
            }
        });
    }
}

/// Writes a rule's expressions, in the order in which they work.
pub(crate) struct Rule<'a>(&'a mut Batch);

const NETWORK_HEADER: u32 = 1;
const TRANSPORT_HEADER: u32 = 2;
const SOURCE: u32 = 12;
const DESTINATION: u32 = 16;

impl Rule<'_> {
    fn expression(&mut self, name: &str, attributes: impl FnOnce(&mut Batch)) {
        self.0.nest(1, |b| {
            b.string(1, name);
            b.nest(2, attributes);
        });
    }

    fn payload(&mut self, to: Register, base: u32, offset: u32, length: u32) {
        self.expression("payload", |b| {
            b.u32(1, to.0);
            b.u32(2, base);
            b.u32(3, offset);
            b.u32(4, length);
        });
    }

    pub(crate) fn load_source(&mut self, to: Register) {
        self.payload(to, NETWORK_HEADER, SOURCE, 4);
    }

    pub(crate) fn load_destination(&mut self, to: Register) {
        self.payload(to, NETWORK_HEADER, DESTINATION, 4);
    }

    pub(crate) fn load_destination_port(&mut self, to: Register) {
        self.payload(to, TRANSPORT_HEADER, 2, 2);
    }

    fn load_meta(&mut self, key: u32, to: Register) {
        self.expression("meta", |b| {
            b.u32(1, to.0);
            b.u32(2, key);
        });
    }

    pub(crate) fn load_protocol(&mut self, to: Register) {
        self.load_meta(16, to);
    }

    pub(crate) fn compare(&mut self, register: Register, equal: bool, data: &[u8]) {
        self.expression("cmp", |b| {
            b.u32(1, register.0);
            b.u32(2, u32::from(!equal));
            b.nest(3, |b| b.bytes(1, data));
        });
    }

    /// `register = register & mask ^ xor`, four bytes.
    fn bitwise(&mut self, register: Register, mask: [u8; 4], xor: [u8; 4]) {
        self.expression("bitwise", |b| {
            b.u32(1, register.0);
            b.u32(2, register.0);
            b.u32(3, 4);
            b.nest(4, |b| b.bytes(1, &mask));
            b.nest(5, |b| b.bytes(1, &xor));
        });
    }

    /// Leaves those bits of the register that the mask has.
    pub(crate) fn mask(&mut self, register: Register, mask: std::net::Ipv4Addr) {
        self.bitwise(register, mask.octets(), [0; 4]);
    }

    pub(crate) fn constant(&mut self, to: Register, address: std::net::Ipv4Addr) {
        self.expression("immediate", |b| {
            b.u32(1, to.0);
            b.nest(2, |b| b.bytes(1, &address.octets()));
        });
    }

    /// Whether what is in the register is in the network.
    pub(crate) fn compare_network(&mut self, register: Register, equal: bool, network: api::Cidr) {
        let (address, mask) = network.address_and_mask();
        self.bitwise(register, mask.octets(), [0; 4]);
        self.compare(register, equal, &address.octets());
    }

    pub(crate) fn source_in(&mut self, equal: bool, network: api::Cidr) {
        self.load_source(R0);
        self.compare_network(R0, equal, network);
    }

    pub(crate) fn destination_in(&mut self, equal: bool, network: api::Cidr) {
        self.load_destination(R0);
        self.compare_network(R0, equal, network);
    }

    fn interface_is(&mut self, key: u32, equal: bool, name: &str) {
        let mut padded = [0; 16];
        let length = name.len().min(15);
        padded[..length].copy_from_slice(&name.as_bytes()[..length]);
        self.load_meta(key, R0);
        self.compare(R0, equal, &padded);
    }

    pub(crate) fn input_interface_is(&mut self, equal: bool, name: &str) {
        self.interface_is(6, equal, name);
    }

    pub(crate) fn output_interface_is(&mut self, equal: bool, name: &str) {
        self.interface_is(7, equal, name);
    }

    /// The address is one of this machine's own.
    pub(crate) fn is_local(&mut self, source: bool) {
        const LOCAL: u32 = 2;
        self.expression("fib", |b| {
            b.u32(1, R0.0);
            b.u32(2, 3);
            b.u32(3, if source { 1 } else { 2 });
        });
        self.compare(R0, true, &LOCAL.to_ne_bytes());
    }

    /// The packet begins a connection.
    pub(crate) fn is_new(&mut self) {
        const NEW: u32 = 8;
        self.conntrack_bits(0, NEW);
    }

    /// The connection's destination was rewritten.
    pub(crate) fn is_redirected(&mut self) {
        const DNAT: u32 = 0x20;
        self.conntrack_bits(2, DNAT);
    }

    fn conntrack_bits(&mut self, key: u32, bits: u32) {
        self.expression("ct", |b| {
            b.u32(1, R0.0);
            b.u32(2, key);
        });
        self.bitwise(R0, bits.to_ne_bytes(), [0; 4]);
        self.compare(R0, false, &[0; 4]);
    }

    const MARK: u32 = 3;

    pub(crate) fn set_mark_bit(&mut self, bit: u32) {
        self.write_mark(!bit, bit);
    }

    pub(crate) fn clear_mark_bit(&mut self, bit: u32) {
        self.write_mark(!bit, 0);
    }

    fn write_mark(&mut self, mask: u32, xor: u32) {
        self.load_meta(Self::MARK, R0);
        self.bitwise(R0, mask.to_ne_bytes(), xor.to_ne_bytes());
        self.expression("meta", |b| {
            b.u32(2, Self::MARK);
            b.u32(3, R0.0);
        });
    }

    pub(crate) fn has_mark_bit(&mut self, bit: u32) {
        self.load_meta(Self::MARK, R0);
        self.bitwise(R0, bit.to_ne_bytes(), [0; 4]);
        self.compare(R0, true, &bit.to_ne_bytes());
    }

    /// A random index below `modulus`.
    pub(crate) fn random(&mut self, to: Register, modulus: u32) {
        self.expression("numgen", |b| {
            b.u32(1, to.0);
            b.u32(2, modulus);
            b.u32(3, 1);
        });
    }

    /// An index below `modulus` that depends on the client's address only.
    pub(crate) fn hash_source(&mut self, to: Register, modulus: u32, seed: u32) {
        self.load_source(SCRATCH);
        self.expression("hash", |b| {
            b.u32(1, SCRATCH.0);
            b.u32(2, to.0);
            b.u32(3, 4);
            b.u32(4, modulus);
            b.u32(5, seed);
            b.u32(7, 0);
        });
    }

    /// Goes on only if the key, from R0 on, is in the set.
    pub(crate) fn is_in(&mut self, set: &str) {
        self.expression("lookup", |b| {
            b.string(1, set);
            b.u32(2, R0.0);
        });
    }

    /// Puts what the key, from R0 on, maps to into R0 and the following.
    pub(crate) fn map(&mut self, map: &str) {
        self.expression("lookup", |b| {
            b.string(1, map);
            b.u32(2, R0.0);
            b.u32(3, R0.0);
        });
    }

    /// Does what the key, from R0 on, maps to.
    pub(crate) fn verdict_map(&mut self, map: &str) {
        self.expression("lookup", |b| {
            b.string(1, map);
            b.u32(2, R0.0);
            b.u32(3, VERDICT_REGISTER);
        });
    }

    pub(crate) fn verdict(&mut self, verdict: Verdict<'_>) {
        self.expression("immediate", |b| {
            b.u32(1, VERDICT_REGISTER);
            b.nest(2, |b| verdict.write(b));
        });
    }

    pub(crate) fn counter(&mut self) {
        self.expression("counter", |_| {});
    }

    /// Rewrites the destination to the address in R0 and the port in R1.
    pub(crate) fn destination_nat(&mut self) {
        self.expression("nat", |b| {
            b.u32(1, 1);
            b.u32(2, u32::from(IPV4));
            b.u32(3, R0.0);
            b.u32(5, R1.0);
        });
    }

    /// Rewrites the source to the outgoing interface's, with a random port.
    pub(crate) fn masquerade(&mut self) {
        const FULLY_RANDOM: u32 = 0x10;
        self.expression("masq", |b| b.u32(1, FULLY_RANDOM));
    }

    /// ICMP port unreachable: TCP and UDP clients see "connection refused".
    pub(crate) fn reject(&mut self) {
        self.expression("reject", |b| {
            b.u32(1, 0);
            b.bytes(2, &[3]);
        });
    }
}
