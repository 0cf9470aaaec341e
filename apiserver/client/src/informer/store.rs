//! The objects of one kind in memory, with indexes, and those who want to hear of changes.

#[cfg(any(test, feature = "testing"))]
mod feed;

use super::{Cached, Change, follow::Sink};
use crate::{Guard, lock};
use std::{
    cmp::Ordering,
    collections::{BTreeMap, BTreeSet, HashMap},
    mem,
    sync::{Arc, Mutex, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard},
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// Namespace and name of an object as they are in its metadata; "" where absent.
fn key<K: Cached>(object: &K) -> (&str, &str) {
    let meta = object.metadata();
    (meta.namespace.as_deref().unwrap_or_default(), meta.name.as_deref().unwrap_or_default())
}

/// An object in an index, ordered by namespace and name.
struct Entry<K>(Arc<K>);

impl<K: Cached> PartialEq for Entry<K> {
    fn eq(&self, other: &Self) -> bool {
        key(&*self.0) == key(&*other.0)
    }
}
impl<K: Cached> Eq for Entry<K> {}
impl<K: Cached> PartialOrd for Entry<K> {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}
impl<K: Cached> Ord for Entry<K> {
    fn cmp(&self, other: &Self) -> Ordering {
        key(&*self.0).cmp(&key(&*other.0))
    }
}

struct Index<K> {
    values: fn(&K) -> Vec<String>,
    objects: HashMap<String, BTreeSet<Entry<K>>>,
}

impl<K: Cached> Index<K> {
    fn insert(&mut self, object: &Arc<K>) {
        for value in (self.values)(object) {
            // `replace`, because an entry equal by name may hold an older object.
            self.objects.entry(value).or_default().replace(Entry(object.clone()));
        }
    }

    fn remove(&mut self, object: &Arc<K>) {
        for value in (self.values)(object) {
            if let Some(set) = self.objects.get_mut(&value) {
                set.remove(&Entry(object.clone()));
                if set.is_empty() {
                    self.objects.remove(&value);
                }
            }
        }
    }
}

/// Revisions are numbers and only grow (KEP-5504). One that is none says nothing.
fn number(revision: Option<&str>) -> Option<u64> {
    revision?.parse().ok()
}

struct State<K> {
    /// The newest revision of a list or an event.
    seen: Option<u64>,
    /// By namespace, then name: ordered, so that whoever iterates does so in the same order each time.
    objects: BTreeMap<String, BTreeMap<String, Arc<K>>>,
    indexes: HashMap<&'static str, Index<K>>,
}

impl<K: Cached> State<K> {
    fn get(&self, namespace: &str, name: &str) -> Option<&Arc<K>> {
        self.objects.get(namespace)?.get(name)
    }

    fn insert(&mut self, object: &Arc<K>) -> Option<Arc<K>> {
        let (namespace, name) = key(&**object);
        let old = match self.objects.get_mut(namespace) {
            Some(objects) => match objects.get_mut(name) {
                Some(slot) => Some(mem::replace(slot, object.clone())),
                None => objects.insert(name.to_owned(), object.clone()),
            },
            None => {
                self.objects
                    .insert(namespace.to_owned(), BTreeMap::from([(name.to_owned(), object.clone())]));
                None
            }
        };
        for index in self.indexes.values_mut() {
            if let Some(old) = &old {
                index.remove(old);
            }
            index.insert(object);
        }
        old
    }

    fn remove(&mut self, namespace: &str, name: &str) -> Option<Arc<K>> {
        let objects = self.objects.get_mut(namespace)?;
        let old = objects.remove(name)?;
        if objects.is_empty() {
            self.objects.remove(namespace);
        }
        for index in self.indexes.values_mut() {
            index.remove(&old);
        }
        Some(old)
    }

    /// Takes in what a watch shows. A watch that begins again somewhat in the past shows what is known already, and would
    /// show in between what is long over: an object that is gone, or the end of one whose successor is here.
    fn take(&mut self, deleted: bool, object: Arc<K>, changes: &mut Vec<Change<K>>) {
        let revision = number(object.metadata().resource_version.as_deref());
        let known = revision.is_some_and(|revision| self.seen.is_some_and(|seen| revision <= seen));
        if known && Guard::SeenOnce.holds() {
            return;
        }
        self.seen = revision.or(self.seen);
        if deleted { self.delete(object, changes) } else { self.apply(object, changes) }
    }

    /// Puts one object in place and says what happened. An object that took the place of another of the same
    /// name (other UID) is a delete and a create: whoever cares for the old one must hear of its end.
    fn apply(&mut self, object: Arc<K>, changes: &mut Vec<Change<K>>) {
        let uid = |o: &K| o.metadata().uid.clone();
        match self.insert(&object) {
            Some(old) if uid(&old) != uid(&object) => {
                changes.push(Change::Deleted(old));
                changes.push(Change::Applied { old: None, new: object });
            }
            old => changes.push(Change::Applied { old, new: object }),
        }
    }

    /// `last` is the object as the server sent it with the event.
    fn delete(&mut self, last: Arc<K>, changes: &mut Vec<Change<K>>) {
        let (namespace, name) = key(&*last);
        if self.remove(namespace, name).is_some() {
            changes.push(Change::Deleted(last));
        }
    }

    /// Makes the listed objects all there are. A list is believed whatever was seen before.
    fn replace(&mut self, listed: Vec<Arc<K>>, revision: Option<u64>, changes: &mut Vec<Change<K>>) {
        self.seen = revision;
        let names: BTreeSet<(&str, &str)> = listed.iter().map(|o| key(&**o)).collect();
        let gone: Vec<Arc<K>> = self.iter().filter(|o| !names.contains(&key(&***o))).cloned().collect();
        drop(names);
        for object in gone {
            let (namespace, name) = key(&*object);
            if let Some(old) = self.remove(namespace, name) {
                changes.push(Change::Deleted(old));
            }
        }
        for object in listed {
            let (namespace, name) = key(&*object);
            let version = |o: &K| (o.metadata().resource_version.clone(), o.metadata().uid.clone());
            match self.get(namespace, name) {
                Some(known) if version(known) == version(&object) => {}
                _ => self.apply(object, changes),
            }
        }
    }

    fn iter(&self) -> impl Iterator<Item = &Arc<K>> {
        self.objects.values().flat_map(BTreeMap::values)
    }
}

/// An event that is decoded and not yet visible: whether it is a deletion, and of what.
type Decoded<K> = (bool, Arc<K>);

type Callback<K> = Box<dyn Fn(&Change<K>) + Send + Sync>;

struct Subscriber<K> {
    callback: Callback<K>,
    /// Cancelled when nobody listens any more.
    until: Option<CancellationToken>,
}

pub(super) struct Inner<K> {
    state: RwLock<State<K>>,
    /// Held while changes are made visible and told, so that a new subscriber neither misses nor repeats one.
    /// Readers never need it.
    subscribers: Mutex<Vec<Subscriber<K>>>,
    /// What is not yet visible. Only the informer's task touches it.
    listing: Mutex<Vec<Arc<K>>>,
    batch: Mutex<Vec<Decoded<K>>>,
    synced: watch::Sender<bool>,
    token: CancellationToken,
}

impl<K: Cached> Inner<K> {
    pub(super) fn new(token: CancellationToken) -> Self {
        Self {
            state: RwLock::new(State { seen: None, objects: BTreeMap::new(), indexes: HashMap::new() }),
            subscribers: Mutex::default(),
            listing: Mutex::default(),
            batch: Mutex::default(),
            synced: watch::Sender::new(false),
            token,
        }
    }

    pub(super) fn subscribe_synced(&self) -> watch::Receiver<bool> {
        self.synced.subscribe()
    }

    fn read(&self) -> RwLockReadGuard<'_, State<K>> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State<K>> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes changes visible under the write lock, then tells them without it.
    fn publish(&self, change: impl FnOnce(&mut State<K>, &mut Vec<Change<K>>)) {
        let mut subscribers = lock(&self.subscribers);
        subscribers.retain(|s| !s.until.as_ref().is_some_and(CancellationToken::is_cancelled));
        let mut changes = Vec::new();
        change(&mut self.write(), &mut changes);
        for change in &changes {
            for subscriber in subscribers.iter() {
                (subscriber.callback)(change);
            }
        }
    }

    /// An object from its JSON, without `managedFields`: they are often half of an object's size, nobody who
    /// reads a cache needs them, and the server keeps its own when an update carries none.
    fn decode(json: &str) -> Option<Arc<K>> {
        match serde_json::from_str::<K>(json) {
            Ok(mut object) => {
                object.metadata_mut().managed_fields = None;
                Some(Arc::new(object))
            }
            Err(error) => {
                tracing::error!(kind = K::KIND, error = %error, "an object of the API server cannot be read and is left out");
                None
            }
        }
    }
}

impl<K: Cached> Sink for Inner<K> {
    fn list_item(&self, json: &str) {
        if let Some(object) = Self::decode(json) {
            lock(&self.listing).push(object);
        }
    }

    fn list_abort(&self) {
        lock(&self.listing).clear();
    }

    fn list_end(&self, revision: Option<&str>) {
        let listed = mem::take(&mut *lock(&self.listing));
        self.publish(|state, changes| state.replace(listed, number(revision), changes));
        self.synced.send_if_modified(|synced| !mem::replace(synced, true));
    }

    fn event(&self, deleted: bool, json: &str) -> Option<String> {
        let object = Self::decode(json)?;
        let version = object.metadata().resource_version.clone();
        lock(&self.batch).push((deleted, object));
        version
    }

    fn flush(&self) {
        let batch = mem::take(&mut *lock(&self.batch));
        if batch.is_empty() {
            return;
        }
        self.publish(|state, changes| {
            for (deleted, object) in batch {
                state.take(deleted, object, changes);
            }
        });
    }
}

/// A read-only, shared, indexed copy of all objects of one kind. Cheap to clone.
///
/// Objects come without `metadata.managedFields`. What is read may lag behind the server; it never goes back.
pub struct Store<K> {
    pub(super) inner: Arc<Inner<K>>,
}

impl<K> Clone for Store<K> {
    fn clone(&self) -> Self {
        Self { inner: self.inner.clone() }
    }
}

impl<K: Cached> Store<K> {
    /// `namespace` is "" for cluster-scoped kinds.
    pub fn get(&self, namespace: &str, name: &str) -> Option<Arc<K>> {
        self.inner.read().get(namespace, name).cloned()
    }

    /// All objects, ordered by namespace and name.
    pub fn list(&self) -> Vec<Arc<K>> {
        self.inner.read().iter().cloned().collect()
    }

    pub fn in_namespace(&self, namespace: &str) -> Vec<Arc<K>> {
        self.inner.read().objects.get(namespace).map(|o| o.values().cloned().collect()).unwrap_or_default()
    }

    /// Adds an index (idempotent by name): `values` says under which values an object is found.
    pub fn add_index(&self, name: &'static str, values: fn(&K) -> Vec<String>) {
        let mut state = self.inner.write();
        if state.indexes.contains_key(name) {
            return;
        }
        let mut index = Index { values, objects: HashMap::new() };
        for object in state.iter() {
            index.insert(object);
        }
        state.indexes.insert(name, index);
    }

    /// The objects an index has under a value, ordered by namespace and name. The index must have been added.
    pub fn by_index(&self, name: &'static str, value: &str) -> Vec<Arc<K>> {
        let state = self.inner.read();
        let Some(index) = state.indexes.get(name) else {
            tracing::error!(kind = K::KIND, index = name, "asked for an index that was never added");
            return Vec::new();
        };
        index.objects.get(value).map(|set| set.iter().map(|e| e.0.clone()).collect()).unwrap_or_default()
    }

    /// Calls `f` for every change, in order, after the store has it; objects already there come first as
    /// `Applied { old: None }`. `f` runs on the informer's task: it must only enqueue, never wait, and not call
    /// `on_change` of the same store. Reading stores is fine.
    pub fn on_change(&self, f: impl Fn(&Change<K>) + Send + Sync + 'static) {
        self.subscribe(None, Box::new(f));
    }

    /// As [`Self::on_change`], for a listener that ends before the process does: `f` is dropped some time after `until`
    /// is cancelled.
    pub fn on_change_until(&self, until: CancellationToken, f: impl Fn(&Change<K>) + Send + Sync + 'static) {
        self.subscribe(Some(until), Box::new(f));
    }

    fn subscribe(&self, until: Option<CancellationToken>, callback: Callback<K>) {
        let mut subscribers = lock(&self.inner.subscribers);
        for new in self.list() {
            callback(&Change::Applied { old: None, new });
        }
        subscribers.push(Subscriber { callback, until });
    }

    /// Waits for the first full list; also returns when the informers were told to end.
    pub async fn synced(&self) {
        let mut synced = self.inner.synced.subscribe();
        tokio::select! {
            // An error means that the sender is gone, and we hold it.
            _ = synced.wait_for(|synced| *synced) => {}
            () = self.inner.token.cancelled() => {}
        }
    }

    pub fn is_synced(&self) -> bool {
        *self.inner.synced.borrow()
    }

    /// Where the kind is served, all namespaces together.
    pub(crate) fn path() -> String {
        if K::GROUP.is_empty() {
            format!("/api/{}/{}", K::VERSION, K::URL_PATH_SEGMENT)
        } else {
            format!("/apis/{}/{}/{}", K::GROUP, K::VERSION, K::URL_PATH_SEGMENT)
        }
    }
}
