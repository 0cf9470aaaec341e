//! Terminal sizes as the client sends them: JSON objects `{"Width":80,"Height":24}`, one after another.

use serde::Deserialize;

/// An object is some 30 bytes. More without an end is not a size.
const MAX_PENDING: usize = 4096;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Size {
    width: u16,
    height: u16,
}

/// Takes bytes as they come; an object may be split over several.
#[derive(Debug, Default)]
pub(crate) struct Decoder {
    pending: Vec<u8>,
}

impl Decoder {
    /// The sizes (columns, rows) that are complete now. An error is for good: the stream cannot be followed any more.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<(u16, u16)>, serde_json::Error> {
        self.pending.extend_from_slice(bytes);
        let mut sizes = Vec::new();
        let mut objects = serde_json::Deserializer::from_slice(&self.pending).into_iter::<Size>();
        let mut used = 0;
        while let Some(size) = objects.next() {
            match size {
                Ok(size) => sizes.push((size.width, size.height)),
                Err(error) if error.is_eof() && self.pending.len() <= MAX_PENDING => break,
                Err(error) => return Err(error),
            }
            used = objects.byte_offset();
        }
        self.pending.drain(..used);
        Ok(sizes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    #[allow(clippy::type_complexity, reason = "a table")]
    fn sizes_come_whole_split_and_together() {
        let cases: [(&[&str], &[(u16, u16)]); 5] = [
            (&["{\"Width\":80,\"Height\":24}\n"], &[(80, 24)]),
            (&["{\"Width\":80,", "\"Height\":24}", "{\"Width\":1"], &[(80, 24)]),
            (&["{\"Height\":24,\"Width\":80}{\"Width\":2,\"Height\":1}"], &[(80, 24), (2, 1)]),
            (&["", "  \n"], &[]),
            (&["{\"Width\":80,\"Height\":24,\"More\":1}"], &[(80, 24)]),
        ];
        for (chunks, expected) in cases {
            let mut decoder = Decoder::default();
            let sizes: Vec<_> =
                chunks.iter().flat_map(|chunk| decoder.push(chunk.as_bytes()).unwrap()).collect();
            assert_eq!(sizes, expected, "{chunks:?}");
        }
    }

    #[test]
    fn what_is_no_size_is_an_error() {
        for text in
            ["[]", "x", "{\"Width\":80}", "{\"Width\":-1,\"Height\":1}", "{\"Width\":70000,\"Height\":1}"]
        {
            assert!(Decoder::default().push(text.as_bytes()).is_err(), "{text}");
        }
        let endless = format!("{{\"Width\":{}", " ".repeat(MAX_PENDING));
        assert!(Decoder::default().push(endless.as_bytes()).is_err());
    }
}
