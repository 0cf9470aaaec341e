//! What selectors look at, read from stored bytes: labels, and the kind's selectable fields.
//!
//! A thousand kubelets watch pods, each its own: every one of them asks of every event which node it is about. Each
//! value is read once for all of them.

use crate::kinds::AnyKind;
use bytes::Bytes;
use serde::Deserialize;
use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap, VecDeque},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};

/// Values whose facts are kept: watchers that keep up are within a few events of one another, and each entry keeps a
/// value of some KiB alive.
const CAPACITY: usize = 1024;

/// The facts of one value, each read when first asked for.
#[derive(Debug)]
pub struct Facts {
    bytes: Bytes,
    /// `None`: the value cannot be read.
    labels: OnceLock<Option<BTreeMap<String, String>>>,
    fields: OnceLock<Option<Vec<(&'static str, String)>>>,
    /// The same as a view names them.
    view: OnceLock<Option<Vec<(&'static str, String)>>>,
}

#[derive(Deserialize)]
struct Light {
    #[serde(default)]
    metadata: LightMeta,
}

#[derive(Deserialize, Default)]
struct LightMeta {
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

impl Facts {
    pub fn of(bytes: &Bytes) -> Self {
        Self { bytes: bytes.clone(), labels: OnceLock::new(), fields: OnceLock::new(), view: OnceLock::new() }
    }

    /// Read by a light parse that skips everything but the metadata.
    pub fn labels(&self) -> Option<&BTreeMap<String, String>> {
        let read = || {
            let light = serde_json::from_slice::<Light>(&self.bytes).ok()?;
            Some(light.metadata.labels.unwrap_or_default())
        };
        self.labels.get_or_init(read).as_ref()
    }

    /// Read by decoding the object. Each version of a custom kind has fields of its own: nothing is kept of those.
    pub fn fields(&self, kind: &dyn AnyKind) -> Option<Cow<'_, [(&'static str, String)]>> {
        let read =
            || kind.decode_stored(&self.bytes).ok().map(|object| kind.selectable_fields(object.as_ref()));
        if kind.custom().is_some() {
            return read().map(Cow::Owned);
        }
        let known = if kind.is_view() { &self.view } else { &self.fields };
        known.get_or_init(read).as_deref().map(Cow::Borrowed)
    }
}

/// Facts of the latest values that somebody asked about.
#[derive(Debug, Default)]
pub struct FactsCache(Mutex<Recent>);

#[derive(Debug, Default)]
struct Recent {
    /// By the address of the value: entries keep their value alive, so no two values share one.
    facts: HashMap<(usize, usize), Arc<Facts>>,
    order: VecDeque<(usize, usize)>,
}

impl FactsCache {
    pub fn of(&self, bytes: &Bytes) -> Arc<Facts> {
        let place = (bytes.as_ptr() as usize, bytes.len());
        let mut recent = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(facts) = recent.facts.get(&place) {
            return facts.clone();
        }
        if recent.order.len() >= CAPACITY
            && let Some(oldest) = recent.order.pop_front()
        {
            recent.facts.remove(&oldest);
        }
        let facts = Arc::new(Facts::of(bytes));
        recent.facts.insert(place, facts.clone());
        recent.order.push_back(place);
        facts
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_once_and_the_oldest_is_forgotten() {
        let cache = FactsCache::default();
        let value = Bytes::from(r#"{"metadata":{"labels":{"a":"b"}}}"#.to_owned());
        let facts = cache.of(&value);
        assert_eq!(facts.labels().unwrap()["a"], "b");
        assert!(Arc::ptr_eq(&facts, &cache.of(&value.clone())));
        // Equal bytes in another place are another value.
        assert!(!Arc::ptr_eq(&facts, &cache.of(&Bytes::from(value.to_vec()))));
        let others: Vec<Bytes> = (0..CAPACITY).map(|i| Bytes::from(format!("{{\"i\":{i}}}"))).collect();
        for other in &others {
            cache.of(other);
        }
        assert!(!Arc::ptr_eq(&facts, &cache.of(&value)));
        assert_eq!(cache.0.lock().unwrap().facts.len(), CAPACITY);
    }

    #[test]
    fn what_cannot_be_read_has_no_facts() {
        assert!(Facts::of(&Bytes::from_static(b"nonsense")).labels().is_none());
        assert!(Facts::of(&Bytes::from_static(b"{}")).labels().unwrap().is_empty());
    }
}
