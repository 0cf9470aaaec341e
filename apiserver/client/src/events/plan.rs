//! What becomes of an event, as plain data: what it is about, the queue of those not yet written, and which
//! written ones a repeat belongs to.

use k8s_openapi::{
    api::core::v1::{Event, EventSource, ObjectReference},
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
    jiff::{SignedDuration, Timestamp},
};
use serde_json::{Value, json};
use std::collections::{HashMap, VecDeque};

/// Distinct events that wait to be written. A node's worth of pods at start makes some hundreds.
const MAX_PENDING: usize = 1000;
/// Written events that repeats are counted in (client-go: 4096).
const MAX_SERIES: usize = 4096;
/// A repeat after this long is a new event (client-go: 10 minutes).
const SERIES_AGE: SignedDuration = SignedDuration::from_mins(10);
/// Longest message, in bytes (the API's own limit).
const MAX_MESSAGE: usize = 1024;
/// Longest name of an object.
const MAX_NAME: usize = 253;

/// Events with the same subject are repeats of one another.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Subject {
    api_version: String,
    kind: String,
    namespace: String,
    name: String,
    uid: String,
    field_path: String,
    type_: String,
    reason: String,
    message: String,
}

/// How often and when.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Occurrence {
    pub(super) first: Timestamp,
    pub(super) last: Timestamp,
    pub(super) count: i32,
}

impl Subject {
    pub(super) fn new(object: &ObjectReference, type_: &str, reason: &str, message: &str) -> Self {
        let text = |field: &Option<String>| field.clone().unwrap_or_default();
        Self {
            api_version: text(&object.api_version),
            kind: text(&object.kind),
            namespace: text(&object.namespace),
            name: text(&object.name),
            uid: text(&object.uid),
            field_path: text(&object.field_path),
            type_: type_.to_owned(),
            reason: reason.to_owned(),
            message: cut(message, MAX_MESSAGE).to_owned(),
        }
    }

    pub(super) fn reason(&self) -> &str {
        &self.reason
    }

    /// Where the event lives: events of cluster-scoped objects are in `default`.
    pub(super) fn namespace(&self) -> &str {
        if self.namespace.is_empty() { "default" } else { &self.namespace }
    }

    pub(super) fn event(&self, occurrence: &Occurrence, component: &str, host: &str, unique: u64) -> Event {
        let some = |text: &str| (!text.is_empty()).then(|| text.to_owned());
        let suffix = format!(".{unique:016x}");
        let name = cut(&self.name, MAX_NAME - suffix.len()).trim_end_matches(['.', '-']);
        Event {
            metadata: ObjectMeta {
                name: Some(format!("{name}{suffix}")),
                namespace: Some(self.namespace().to_owned()),
                ..Default::default()
            },
            involved_object: ObjectReference {
                api_version: some(&self.api_version),
                kind: some(&self.kind),
                namespace: some(&self.namespace),
                name: some(&self.name),
                uid: some(&self.uid),
                field_path: some(&self.field_path),
                resource_version: None,
            },
            type_: some(&self.type_),
            reason: some(&self.reason),
            message: some(&self.message),
            source: Some(EventSource { component: some(component), host: some(host) }),
            first_timestamp: Some(Time(occurrence.first)),
            last_timestamp: Some(Time(occurrence.last)),
            count: Some(occurrence.count),
            reporting_component: some(component),
            reporting_instance: some(host),
            ..Default::default()
        }
    }
}

/// The longest prefix of at most `max` bytes.
fn cut(text: &str, max: usize) -> &str {
    let end = (0..=max.min(text.len())).rev().find(|i| text.is_char_boundary(*i)).unwrap_or(0);
    &text[..end]
}

/// Events not yet written, oldest first; repeats of one that waits are counted in it.
#[derive(Default)]
pub(super) struct Pending {
    order: VecDeque<Subject>,
    occurrences: HashMap<Subject, Occurrence>,
    dropped: u64,
}

impl Pending {
    pub(super) fn add(&mut self, subject: Subject, now: Timestamp) {
        if let Some(known) = self.occurrences.get_mut(&subject) {
            known.last = now;
            known.count = known.count.saturating_add(1);
            return;
        }
        if self.order.len() >= MAX_PENDING
            && let Some(oldest) = self.order.pop_front()
        {
            self.occurrences.remove(&oldest);
            self.dropped += 1;
        }
        self.occurrences.insert(subject.clone(), Occurrence { first: now, last: now, count: 1 });
        self.order.push_back(subject);
    }

    pub(super) fn take(&mut self) -> Option<(Subject, Occurrence)> {
        let subject = self.order.pop_front()?;
        let occurrence = self.occurrences.remove(&subject)?;
        Some((subject, occurrence))
    }

    pub(super) fn dropped(&self) -> u64 {
        self.dropped
    }
}

struct Written {
    name: String,
    count: i32,
    last: Timestamp,
}

/// The events written lately.
#[derive(Default)]
pub(super) struct Series {
    written: HashMap<Subject, Written>,
}

impl Series {
    /// The name of the event that this is a repeat of, and the merge patch that counts it.
    pub(super) fn repeat(&self, subject: &Subject, occurrence: &Occurrence) -> Option<(String, Value)> {
        let known = self.written.get(subject)?;
        if occurrence.last.duration_since(known.last) > SERIES_AGE {
            return None;
        }
        let count = known.count.saturating_add(occurrence.count);
        Some((known.name.clone(), json!({"count": count, "lastTimestamp": Time(occurrence.last)})))
    }

    /// Remembers what was written under `name`.
    pub(super) fn written(&mut self, subject: &Subject, occurrence: &Occurrence, name: String) {
        let last = occurrence.last;
        if let Some(known) = self.written.get_mut(subject).filter(|k| k.name == name) {
            known.count = known.count.saturating_add(occurrence.count);
            known.last = last;
            return;
        }
        if self.written.len() >= MAX_SERIES {
            self.written.retain(|_, w| last.duration_since(w.last) <= SERIES_AGE);
        }
        if self.written.len() >= MAX_SERIES {
            // All are fresh: begin all series anew rather than search for the oldest at each event.
            self.written.clear();
        }
        self.written.insert(subject.clone(), Written { name, count: occurrence.count, last });
    }

    pub(super) fn forget(&mut self, subject: &Subject) {
        self.written.remove(subject);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subject(name: &str, message: &str) -> Subject {
        let object = ObjectReference { name: Some(name.into()), ..Default::default() };
        Subject::new(&object, "Normal", "Tested", message)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    #[test]
    fn waiting_repeats_are_counted_and_the_oldest_make_room() {
        let mut pending = Pending::default();
        pending.add(subject("a", ""), at(1));
        pending.add(subject("b", ""), at(2));
        pending.add(subject("a", ""), at(3));
        assert_eq!(pending.take().map(|p| p.1), Some(Occurrence { first: at(1), last: at(3), count: 2 }));
        for i in 0..MAX_PENDING {
            pending.add(subject(&i.to_string(), ""), at(4));
        }
        assert_eq!(pending.dropped(), 1, "b made room");
        assert_eq!(std::iter::from_fn(|| pending.take()).count(), MAX_PENDING);
    }

    #[test]
    fn repeats_belong_to_the_written_event_until_it_is_old() {
        let (mut series, a) = (Series::default(), subject("a", "x"));
        let once = |second| Occurrence { first: at(second), last: at(second), count: 1 };
        assert!(series.repeat(&a, &once(0)).is_none());
        series.written(&a, &once(0), "a.1".into());
        let three = Occurrence { first: at(1), last: at(5), count: 3 };
        let (name, patch) = series.repeat(&a, &three).unwrap();
        assert_eq!(
            (name.as_str(), patch),
            ("a.1", json!({"count": 4, "lastTimestamp": "2023-11-14T22:13:25Z"}))
        );
        series.written(&a, &three, name);
        assert_eq!(series.repeat(&a, &once(600)).unwrap().1["count"], 5);
        assert!(series.repeat(&a, &once(606)).is_none(), "ten minutes after the last");
        assert!(series.repeat(&subject("a", "y"), &once(6)).is_none(), "another message");
        for i in 0..2 * MAX_SERIES {
            series.written(&subject(&i.to_string(), ""), &once(7), i.to_string());
        }
        assert!(series.written.len() <= MAX_SERIES);
    }

    #[test]
    fn names_and_messages_stay_within_the_api_limits() {
        let long = subject(&"n".repeat(253), &"é".repeat(1000));
        let event = long.event(&Occurrence { first: at(0), last: at(0), count: 1 }, "c", "h", 255);
        let name = event.metadata.name.unwrap();
        assert!(name.len() == 253 && name.ends_with(".00000000000000ff"), "{name}");
        assert_eq!(event.message.unwrap().len(), 1024);
        assert_eq!(event.metadata.namespace.as_deref(), Some("default"));
    }
}
