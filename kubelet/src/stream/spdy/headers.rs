//! Header blocks: names and values, deflated with one state for the whole connection and the protocol's dictionary.

use super::{
    dictionary::{ADLER, DICTIONARY},
    frame::BadFrame,
};
use bytes::{BufMut, BytesMut};
use flate2::{Compress, Compression, Decompress, FlushCompress, FlushDecompress, Status};

/// A block when inflated. A client's headers are some hundred bytes; this stops a bomb.
const MAX_BLOCK: usize = 64 << 10;
/// What most blocks need.
const BLOCK: usize = 1 << 10;

/// Header names in lower case, each with its (first) value.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Headers(Vec<(String, String)>);

impl Headers {
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    #[cfg(test)]
    pub(crate) fn of(pairs: &[(&str, &str)]) -> Self {
        Self(pairs.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect())
    }

    fn parse(mut block: &[u8]) -> Result<Self, BadFrame> {
        let count = number(&mut block)?;
        let mut headers = Vec::new();
        for _ in 0..count {
            let name = String::from_utf8_lossy(text(&mut block)?).to_ascii_lowercase();
            let value = text(&mut block)?;
            // Several values of one name are separated by NUL.
            let first = value.split(|byte| *byte == 0).next().unwrap_or_default();
            headers.push((name, String::from_utf8_lossy(first).into_owned()));
        }
        Ok(Self(headers))
    }

    fn serialize(&self) -> BytesMut {
        let mut out = BytesMut::new();
        out.put_u32(self.0.len() as u32);
        for text in self.0.iter().flat_map(|(name, value)| [name, value]) {
            out.put_u32(text.len() as u32);
            out.put_slice(text.as_bytes());
        }
        out
    }
}

fn number(block: &mut &[u8]) -> Result<u32, BadFrame> {
    let (head, rest) = block.split_first_chunk::<4>().ok_or(BadFrame::Headers("cut short"))?;
    *block = rest;
    Ok(u32::from_be_bytes(*head))
}

fn text<'a>(block: &mut &'a [u8]) -> Result<&'a [u8], BadFrame> {
    let length = number(block)? as usize;
    let (head, rest) = block.split_at_checked(length).ok_or(BadFrame::Headers("cut short"))?;
    *block = rest;
    Ok(head)
}

/// Reads the blocks of one direction of a connection, every one and in order.
pub(super) struct Inflater(Decompress);

impl Inflater {
    pub(super) fn new() -> Self {
        Self(Decompress::new(true))
    }

    pub(super) fn read(&mut self, block: &[u8]) -> Result<Headers, BadFrame> {
        let mut out = Vec::with_capacity(BLOCK);
        let mut input = block;
        loop {
            if out.len() == out.capacity() {
                if out.len() >= MAX_BLOCK {
                    return Err(BadFrame::Headers("larger than 64 KiB"));
                }
                out.reserve(out.len());
            }
            let (read, written) = (self.0.total_in(), out.len());
            let result = self.0.decompress_vec(input, &mut out, FlushDecompress::Sync);
            let read = (self.0.total_in() - read) as usize;
            input = input.get(read..).unwrap_or_default();
            match result {
                Err(error) if error.needs_dictionary() == Some(ADLER) => {
                    self.0
                        .set_dictionary(&DICTIONARY)
                        .map_err(|_| BadFrame::Headers("the dictionary does not fit"))?;
                }
                Err(_) => return Err(BadFrame::Headers("not what deflate makes")),
                // Room left over means that nothing more is held back.
                Ok(_) if input.is_empty() && out.len() < out.capacity() => return Headers::parse(&out),
                Ok(Status::StreamEnd) => {
                    return Err(BadFrame::Headers("bytes after the end of the deflate stream"));
                }
                Ok(_) if read == 0 && out.len() == written => return Err(BadFrame::Headers("cut short")),
                Ok(_) => {}
            }
        }
    }
}

/// Writes the blocks of the other direction.
pub(super) struct Deflater(Compress);

impl Deflater {
    pub(super) fn new() -> Self {
        let mut compress = Compress::new(Compression::fast(), true);
        // Refused only in the middle of a stream.
        let primed = compress.set_dictionary(&DICTIONARY);
        debug_assert_eq!(primed.ok(), Some(ADLER));
        Self(compress)
    }

    pub(super) fn write(&mut self, headers: &Headers) -> Vec<u8> {
        let block = headers.serialize();
        let mut input: &[u8] = &block;
        let mut out = Vec::with_capacity(BLOCK);
        loop {
            let read = self.0.total_in();
            // In memory, with room: there is nothing that can fail.
            let _ = self.0.compress_vec(input, &mut out, FlushCompress::Sync);
            input = input.get((self.0.total_in() - read) as usize..).unwrap_or_default();
            if input.is_empty() && out.len() < out.capacity() {
                return out;
            }
            out.reserve(BLOCK);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        // Deflate is slow without optimisation.
        #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
        #[test]
        fn blocks_survive_the_wire_in_order(
            blocks in prop::collection::vec(prop::collection::vec(("[a-z-]{1,20}", "[ -~]{0,300}"), 0..6), 1..5),
        ) {
            let (mut deflater, mut inflater) = (Deflater::new(), Inflater::new());
            for block in blocks {
                let headers = Headers(block);
                prop_assert_eq!(inflater.read(&deflater.write(&headers)), Ok(headers));
            }
        }

        #[test]
        fn no_block_panics(block: Vec<u8>) {
            let _ = Inflater::new().read(&block);
            let _ = Headers::parse(&block);
        }
    }

    #[test]
    fn a_bomb_is_stopped() {
        let block = Deflater::new().write(&Headers::of(&[("x", &"a".repeat(1 << 20))]));
        assert!(block.len() < MAX_BLOCK);
        assert_eq!(Inflater::new().read(&block), Err(BadFrame::Headers("larger than 64 KiB")));
    }

    #[test]
    fn names_are_found_in_any_case_and_the_first_value_counts() {
        let headers = Headers::of(&[("StreamType", "stdin\0stdout")]);
        let headers = Headers::parse(&headers.serialize()).unwrap();
        assert_eq!(headers.get("streamType"), Some("stdin"));
        assert_eq!(headers.get("port"), None);
    }

    #[test]
    fn a_block_that_lies_about_its_lengths_is_refused() {
        for block in [&b"\0\0"[..], b"\0\0\0\x01", b"\0\0\0\x01\0\0\0\x09abc", b"\xff\xff\xff\xff\0\0\0\0"] {
            assert_eq!(Headers::parse(block), Err(BadFrame::Headers("cut short")), "{block:?}");
        }
    }
}
