//! Cuts a chunked body into lines. A line that lies in one chunk is not copied.

use bytes::{Bytes, BytesMut};

/// Longest line of a watch: the API server takes bodies of 3 MiB, and an object in an event is stored JSON of
/// at most that much; more means a server that is none.
const MAX_LINE: usize = 8 << 20;

#[derive(Debug, thiserror::Error, PartialEq)]
#[error("a line of the watch is longer than {MAX_LINE} bytes")]
pub(super) struct TooLong;

#[derive(Default)]
pub(super) struct Lines {
    /// Start of a line whose end has not come yet.
    partial: BytesMut,
    /// What is left of the newest chunk.
    chunk: Bytes,
}

impl Lines {
    /// Takes a chunk; `next` must have returned `None` since the last one.
    pub(super) fn push(&mut self, chunk: Bytes) {
        self.chunk = chunk;
    }

    /// The next complete, non-empty line without its end.
    pub(super) fn next(&mut self) -> Result<Option<Bytes>, TooLong> {
        while !self.chunk.is_empty() {
            let end = self.chunk.iter().position(|b| *b == b'\n');
            let length = self.partial.len() + end.unwrap_or(self.chunk.len());
            if length > MAX_LINE {
                return Err(TooLong);
            }
            let Some(end) = end else {
                self.partial.extend_from_slice(&std::mem::take(&mut self.chunk));
                return Ok(None);
            };
            let head = self.chunk.split_to(end);
            let _newline = self.chunk.split_to(1);
            let line = if self.partial.is_empty() {
                head
            } else {
                self.partial.extend_from_slice(&head);
                self.partial.split().freeze()
            };
            if !line.trim_ascii().is_empty() {
                return Ok(Some(line));
            }
        }
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut(chunks: &[&'static str]) -> Vec<String> {
        let mut lines = Lines::default();
        let mut out = Vec::new();
        for chunk in chunks {
            lines.push(Bytes::from_static(chunk.as_bytes()));
            while let Some(line) = lines.next().unwrap() {
                out.push(String::from_utf8(line.to_vec()).unwrap());
            }
        }
        out
    }

    #[test]
    fn lines_are_the_same_however_they_are_chunked() {
        let expected = ["one", "two", "three"];
        assert_eq!(cut(&["one\ntwo\nthree\n"]), expected);
        assert_eq!(cut(&["o", "ne\nt", "w", "o\n", "\n", "three", "\n", "unfinished"]), expected);
        assert_eq!(cut(&["\n\r\none\n", "two\nthr", "ee\n"]), expected);
    }

    #[test]
    fn an_endless_line_is_refused() {
        let mut lines = Lines::default();
        let chunk = Bytes::from(vec![b'x'; 1 << 20]);
        let mut refused = false;
        for _ in 0..9 {
            lines.push(chunk.clone());
            refused |= lines.next() == Err(TooLong);
        }
        assert!(refused);
    }
}
