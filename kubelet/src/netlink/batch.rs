//! Encodes netlink messages with nested attributes (`struct nlmsghdr`, `nfgenmsg`, `nlattr`) and reads them back.

/// Flags of `nlmsghdr`.
pub(crate) const REQUEST: u16 = 0x1;
pub(crate) const ACK: u16 = 0x4;
pub(crate) const DUMP: u16 = 0x300;
pub(crate) const CREATE: u16 = 0x400;
pub(crate) const APPEND: u16 = 0x800;

/// `nlmsghdr` and `nfgenmsg` together.
pub(crate) const HEADER: usize = 20;
const NESTED: u16 = 0x8000;
const TYPE_MASK: u16 = 0x3fff;
const ALIGN: usize = 4;

/// Address family of all our messages.
pub(crate) const IPV4: u8 = 2;

/// Messages one after the other. Attributes belong to the message being written.
#[derive(Default)]
pub(crate) struct Batch {
    bytes: Vec<u8>,
    /// Sequence number of the newest message, relative to the batch.
    sequence: u32,
    /// Where the newest message starts.
    newest: usize,
    /// A nest grew beyond what its 16-bit length can say.
    overflow: bool,
}

impl Batch {
    /// Appends a message of netfilter's `kind` (subsystem << 8 | message).
    pub(crate) fn message(
        &mut self,
        kind: u16,
        flags: u16,
        family: u8,
        resource: u16,
        body: impl FnOnce(&mut Self),
    ) {
        self.sequence += 1;
        self.newest = self.bytes.len();
        self.bytes.extend_from_slice(&[0; 4]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        self.bytes.extend_from_slice(&(flags | REQUEST).to_ne_bytes());
        self.bytes.extend_from_slice(&self.sequence.to_ne_bytes());
        // The port id is the kernel's business; version is 0; the resource is in network order.
        self.bytes.extend_from_slice(&[0, 0, 0, 0, family, 0]);
        self.bytes.extend_from_slice(&resource.to_be_bytes());
        let start = self.newest;
        body(self);
        let length = self.bytes.len() - start;
        match u32::try_from(length) {
            Ok(length) => self.bytes[start..start + 4].copy_from_slice(&length.to_ne_bytes()),
            Err(_) => self.overflow = true,
        }
    }

    pub(crate) fn bytes(&mut self, kind: u16, data: &[u8]) {
        self.nest_as(kind, |b| b.bytes.extend_from_slice(data));
    }

    /// A number in network order, as netfilter has them.
    pub(crate) fn u32(&mut self, kind: u16, value: u32) {
        self.bytes(kind, &value.to_be_bytes());
    }

    /// A string with its terminating zero.
    pub(crate) fn string(&mut self, kind: u16, text: &str) {
        self.nest_as(kind, |b| {
            b.bytes.extend_from_slice(text.as_bytes());
            b.bytes.push(0);
        });
    }

    pub(crate) fn nest(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        self.nest_as(kind | NESTED, body);
    }

    fn nest_as(&mut self, kind: u16, body: impl FnOnce(&mut Self)) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(&[0, 0]);
        self.bytes.extend_from_slice(&kind.to_ne_bytes());
        body(self);
        match u16::try_from(self.bytes.len() - start) {
            Ok(length) => self.bytes[start..start + 2].copy_from_slice(&length.to_ne_bytes()),
            Err(_) => self.overflow = true,
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
    }

    /// Asks for an acknowledgement of the newest message.
    pub(crate) fn acknowledge(&mut self) {
        if let Some([low, high]) = self.bytes.get_mut(self.newest + 6..self.newest + 8) {
            let flags = u16::from_ne_bytes([*low, *high]) | ACK;
            [*low, *high] = flags.to_ne_bytes();
        }
    }

    /// The sequence number of the newest message.
    pub(crate) fn sequence(&self) -> u32 {
        self.sequence
    }

    /// The finished messages with `base` added to their sequence numbers; `None` if one grew too long.
    pub(crate) fn finish(mut self, base: u32) -> Option<Vec<u8>> {
        let mut at = 0;
        while at + HEADER <= self.bytes.len() {
            let length = read_u32(&self.bytes[at..]) as usize;
            let sequence = read_u32(&self.bytes[at + 8..]).wrapping_add(base);
            self.bytes[at + 8..at + 12].copy_from_slice(&sequence.to_ne_bytes());
            at += length.max(HEADER).next_multiple_of(ALIGN);
        }
        (!self.overflow).then_some(self.bytes)
    }
}

fn read_u32(bytes: &[u8]) -> u32 {
    bytes.first_chunk().copied().map_or(0, u32::from_ne_bytes)
}

/// A received message.
pub(crate) struct Received<'a> {
    pub(crate) kind: u16,
    pub(crate) sequence: u32,
    /// All that follows `nlmsghdr`.
    pub(crate) payload: &'a [u8],
}

impl<'a> Received<'a> {
    /// The attributes after `nfgenmsg`.
    pub(crate) fn attributes(&self) -> Attributes<'a> {
        Attributes(self.payload.get(4..).unwrap_or_default())
    }
}

/// The messages in a packet; what is cut short ends them.
pub(crate) fn messages(mut packet: &[u8]) -> impl Iterator<Item = Received<'_>> {
    std::iter::from_fn(move || {
        let header = packet.get(..16)?;
        let length = read_u32(header) as usize;
        let payload = packet.get(16..length)?;
        let message = Received {
            kind: u16::from_ne_bytes([header[4], header[5]]),
            sequence: read_u32(&header[8..]),
            payload,
        };
        packet = packet.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
        Some(message)
    })
}

/// Attributes one after the other: type and content.
#[derive(Clone)]
pub(crate) struct Attributes<'a>(pub(crate) &'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = (u16, &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        let [l0, l1, k0, k1, ..] = *self.0 else { return None };
        let length = usize::from(u16::from_ne_bytes([l0, l1]));
        let content = self.0.get(4..length)?;
        self.0 = self.0.get(length.next_multiple_of(ALIGN)..).unwrap_or_default();
        Some((u16::from_ne_bytes([k0, k1]) & TYPE_MASK, content))
    }
}

impl<'a> Attributes<'a> {
    pub(crate) fn get(&self, kind: u16) -> Option<&'a [u8]> {
        self.clone().find(|(k, _)| *k == kind).map(|(_, content)| content)
    }

    pub(crate) fn nested(&self, kind: u16) -> Option<Attributes<'a>> {
        self.get(kind).map(Attributes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_laid_out_as_the_kernel_reads_them() {
        let mut batch = Batch::default();
        batch.message(0xa02, CREATE, IPV4, 7, |b| {
            b.string(1, "ab");
            b.nest(3, |b| b.u32(2, 0x0102_0304));
        });
        batch.acknowledge();
        let expected = [
            &40u32.to_ne_bytes()[..],
            &0xa02u16.to_ne_bytes(),
            &(CREATE | REQUEST | ACK).to_ne_bytes(),
            &101u32.to_ne_bytes(),
            &[0; 4],
            &[2, 0, 0, 7],
            &7u16.to_ne_bytes(),
            &1u16.to_ne_bytes(),
            b"ab\0\0",
            &12u16.to_ne_bytes(),
            &0x8003u16.to_ne_bytes(),
            &8u16.to_ne_bytes(),
            &2u16.to_ne_bytes(),
            &[1, 2, 3, 4],
        ]
        .concat();
        assert_eq!(batch.finish(100).unwrap(), expected);
    }

    #[test]
    fn what_is_written_can_be_read() {
        let mut batch = Batch::default();
        for n in 0..3 {
            batch.message(n, 0, IPV4, 0, |b| {
                b.nest(1, |b| b.string(2, "x"));
                b.bytes(3, &[9; 5]);
            });
        }
        let bytes = batch.finish(10).unwrap();
        let read: Vec<_> = messages(&bytes).map(|m| (m.kind, m.sequence)).collect();
        assert_eq!(read, [(0, 11), (1, 12), (2, 13)]);
        let first = messages(&bytes).next().unwrap().attributes();
        assert_eq!(first.nested(1).unwrap().get(2), Some(&b"x\0"[..]));
        assert_eq!(first.get(3), Some(&[9; 5][..]));
        assert_eq!(first.get(4), None);
        // Cut anywhere, nothing but less is read.
        for end in 0..bytes.len() {
            assert!(messages(&bytes[..end]).count() <= 3);
        }
    }

    #[test]
    fn a_nest_that_is_too_long_is_refused() {
        let mut batch = Batch::default();
        batch.message(1, 0, IPV4, 0, |b| b.nest(1, |b| (0..9000).for_each(|_| b.u32(1, 0))));
        assert!(batch.finish(0).is_none());
    }
}
