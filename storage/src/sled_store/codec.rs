//! The bytes of a record.
//!
//! ```text
//! kind u8 │ created u64 │ superseded u64 │ time u64, ms │ key length u32 │ key │ value │ crc32 u32     (little endian)
//! ```
//! The checksum also covers the record's revision, so a record in the wrong place is found too.

use crate::{
    history::Entry,
    types::{EventKind, Revision},
};

/// Written once into a new store. A change of the layout raises the number.
pub(super) const FORMAT: &[u8] = b"minik8s-storage 1";
pub(super) const FORMAT_KEY: &[u8] = b"mformat";
pub(super) const FLOOR_KEY: &[u8] = b"mfloor";
pub(super) const RECORD_PREFIX: u8 = b'r';

const HEADER: usize = 1 + 3 * 8 + 4;
const CHECKSUM: usize = 4;

pub(super) fn record_key(revision: Revision) -> [u8; 9] {
    let mut key = [RECORD_PREFIX; 9];
    key[1..].copy_from_slice(&revision.0.to_be_bytes());
    key
}

pub(super) fn record_revision(key: &[u8]) -> Option<Revision> {
    let digits = key.strip_prefix(&[RECORD_PREFIX])?;
    Some(Revision(u64::from_be_bytes(digits.try_into().ok()?)))
}

pub(super) fn encode(entry: &Entry) -> Vec<u8> {
    let event = &entry.event;
    let key = event.key.as_str().as_bytes();
    let mut out = Vec::with_capacity(HEADER + key.len() + event.value.len() + CHECKSUM);
    out.push(match event.kind {
        EventKind::Created => 1,
        EventKind::Updated => 2,
        EventKind::Deleted => 3,
    });
    out.extend_from_slice(&entry.created.0.to_le_bytes());
    out.extend_from_slice(&entry.previous.0.to_le_bytes());
    out.extend_from_slice(&entry.time_ms.to_le_bytes());
    // Keys are names of at most some hundred bytes; a key of 4 GiB could not have been sent here.
    out.extend_from_slice(&(key.len() as u32).to_le_bytes());
    out.extend_from_slice(key);
    out.extend_from_slice(&event.value);
    let checksum = checksum(event.revision, &out);
    out.extend_from_slice(&checksum.to_le_bytes());
    out
}

fn checksum(revision: Revision, body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(&revision.0.to_be_bytes());
    hasher.update(body);
    hasher.finalize()
}

/// A record as it lies on disk.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Record<'a> {
    pub(super) kind: EventKind,
    pub(super) created: Revision,
    pub(super) previous: Revision,
    pub(super) time_ms: u64,
    pub(super) key: &'a str,
    pub(super) value: &'a [u8],
}

/// The record of `revision`, or what is wrong with it.
pub(super) fn decode(revision: Revision, bytes: &[u8]) -> Result<Record<'_>, String> {
    let Some((body, sum)) = bytes.split_last_chunk::<CHECKSUM>() else {
        return Err(format!("it is cut short: {} bytes", bytes.len()));
    };
    if checksum(revision, body) != u32::from_le_bytes(*sum) {
        return Err(format!("the checksum of its {} bytes is wrong", bytes.len()));
    }
    let mut rest = body;
    let kind = match take::<1>(&mut rest)? {
        [1] => EventKind::Created,
        [2] => EventKind::Updated,
        [3] => EventKind::Deleted,
        [other] => return Err(format!("unknown kind of write {other}")),
    };
    let created = Revision(u64::from_le_bytes(take(&mut rest)?));
    let previous = Revision(u64::from_le_bytes(take(&mut rest)?));
    let time_ms = u64::from_le_bytes(take(&mut rest)?);
    let length = u32::from_le_bytes(take(&mut rest)?) as usize;
    let (key, value) = rest.split_at_checked(length).ok_or("its key is longer than the record")?;
    let key = std::str::from_utf8(key).map_err(|error| format!("its key is not UTF-8: {error}"))?;
    Ok(Record { kind, created, previous, time_ms, key, value })
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], String> {
    let (head, tail) = rest.split_first_chunk::<N>().ok_or("it is cut short")?;
    *rest = tail;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::{Event, Key};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn entry(kind: EventKind, key: &str, value: &[u8], numbers: [u64; 4]) -> Entry {
        let [revision, created, previous, time_ms] = numbers;
        let (key, value) = (Key::new(key), value.to_vec().into());
        let event = Event { revision: Revision(revision), kind, key, value, previous: None };
        Entry { event: Arc::new(event), created: Revision(created), previous: Revision(previous), time_ms }
    }

    proptest! {
        #[test]
        fn what_is_encoded_is_decoded(key in ".{0,40}", value: Vec<u8>, numbers: [u64; 4], kind in 0..3usize) {
            let kind = [EventKind::Created, EventKind::Updated, EventKind::Deleted][kind];
            let entry = entry(kind, &key, &value, numbers);
            let bytes = encode(&entry);
            let record = decode(Revision(numbers[0]), &bytes).unwrap();
            let expected = Record {
                kind, created: Revision(numbers[1]), previous: Revision(numbers[2]), time_ms: numbers[3],
                key: &key, value: &value,
            };
            prop_assert_eq!(record, expected);
        }

        #[test]
        fn any_changed_or_missing_byte_is_found(value: Vec<u8>, at: prop::sample::Index, flip in 1..=255u8) {
            let mut bytes = encode(&entry(EventKind::Updated, "/pods/a", &value, [7, 1, 6, 99]));
            let at = at.index(bytes.len());
            prop_assert!(decode(Revision(7), &bytes[..at]).is_err());
            prop_assert!(decode(Revision(8), &bytes).is_err());
            bytes[at] ^= flip;
            prop_assert!(decode(Revision(7), &bytes).is_err());
        }

        #[test]
        fn garbage_never_panics(bytes: Vec<u8>, revision: u64) {
            let _ = decode(Revision(revision), &bytes);
        }
    }

    #[test]
    fn record_keys_sort_by_revision() {
        let mut keys: Vec<_> = [0, 1, 255, 256, u64::MAX].map(|r| record_key(Revision(r))).into();
        let sorted = keys.clone();
        keys.sort();
        assert_eq!(keys, sorted);
        assert_eq!(record_revision(&keys[3]), Some(Revision(256)));
        assert_eq!(record_revision(FLOOR_KEY), None);
    }
}
