//! Start-up: reads every record, checks it, and builds the state in memory.

use super::{codec, place, sled_error};
use crate::{
    error::{Error, Result},
    history::Entry,
    limits::Limits,
    state::{Slot, State},
    types::{Event, EventKind, Key, Revision},
};
use bytes::Bytes;
use std::{path::Path, sync::Arc};

pub(super) struct Loaded {
    pub(super) state: State,
    /// Records that a crash kept from being cleared away, oldest first.
    pub(super) garbage: Vec<Revision>,
}

/// Marks a new database with our format, or checks the mark.
pub(super) fn prepare(db: &sled::Db, path: &Path) -> Result<()> {
    let corrupt = |what: String| Error::Corrupt { place: path.join("db").display().to_string(), what };
    let format = db.get(codec::FORMAT_KEY).map_err(|error| sled_error(path, error))?;
    match format.as_deref() {
        Some(codec::FORMAT) => Ok(()),
        Some(other) if other.starts_with(b"minik8s-storage ") => Err(Error::Backend(format!(
            "{} has the format \"{}\", this version knows \"{}\": use the minik8s version that wrote it",
            path.display(),
            other.escape_ascii(),
            codec::FORMAT.escape_ascii(),
        ))),
        Some(other) => Err(corrupt(format!("the format mark reads \"{}\"", other.escape_ascii()))),
        None if db.is_empty() => {
            db.insert(codec::FORMAT_KEY, codec::FORMAT).map_err(|error| sled_error(path, error))?;
            Ok(())
        }
        None => Err(corrupt("it holds data but no format mark; it is not a minik8s store".into())),
    }
}

pub(super) fn load(db: &sled::Db, path: &Path, limits: Limits) -> Result<Loaded> {
    let corrupt = |revision, what| Error::Corrupt { place: place(path, revision), what };
    let floor = match db.get(codec::FLOOR_KEY).map_err(|error| sled_error(path, error))?.as_deref() {
        None => Revision(0),
        Some(bytes) => {
            let number: Option<[u8; 8]> = bytes.try_into().ok();
            let wrong =
                || corrupt(Revision(0), format!("the mark of the oldest revision has {} bytes", bytes.len()));
            Revision(u64::from_be_bytes(number.ok_or_else(wrong)?))
        }
    };
    let (mut state, mut garbage) = (State::new(limits, floor), Vec::new());
    let mut newest = Revision(0);
    for pair in db.scan_prefix([codec::RECORD_PREFIX]) {
        let (key, bytes) = pair.map_err(|error| sled_error(path, error))?;
        let revision = codec::record_revision(&key).ok_or_else(|| {
            let what = format!("a key reads \"{}\"", key.escape_ascii());
            Error::Corrupt { place: path.join("db").display().to_string(), what }
        })?;
        let record = codec::decode(revision, &bytes).map_err(|what| corrupt(revision, what))?;
        newest = revision;
        let current = state.live.get_key_value(record.key);
        let key = current.map_or_else(|| Key::new(record.key), |(key, _)| key.clone());
        let (value, created) = (Bytes::copy_from_slice(record.value), record.created);
        if revision <= floor {
            // Before the history: only what still lives matters.
            garbage.extend(current.map(|(_, slot)| slot.modified));
            if record.kind == EventKind::Deleted {
                garbage.push(revision);
                state.set(&key, None);
            } else {
                state.set(&key, Some(Slot { value, created, modified: revision }));
            }
            continue;
        }
        let expected = Revision(state.revision.0 + 1);
        if revision != expected {
            return Err(corrupt(expected, format!("it is missing; the next one there is {revision}")));
        }
        let replaced = current.map_or(Revision(0), |(_, slot)| slot.modified);
        if replaced != record.previous {
            let what = format!("it replaces revision {} of {key}, but found {replaced}", record.previous);
            return Err(corrupt(revision, what));
        }
        let previous = current.map(|(_, slot)| slot.value.clone());
        let event = Event { revision, kind: record.kind, key, value, previous };
        state.apply(Entry { event: Arc::new(event), created, previous: replaced, time_ms: record.time_ms });
    }
    if newest < floor {
        return Err(corrupt(floor, format!("it is missing; the newest one there is {newest}")));
    }
    garbage.sort_unstable();
    Ok(Loaded { state, garbage })
}
