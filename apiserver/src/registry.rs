//! The generic path of every kind: what happens between a decoded request and the store. The order of the steps is
//! fixed here and in the verbs' files; a kind only answers questions.
//!
//! Copies on the hot path: a body is parsed once, typed once and serialised once; the bytes written are the bytes
//! every reader and watcher is sent. A read copies nothing but a reference count.

pub mod addresses;
pub mod allocate;
pub mod apply;
mod charge;
pub mod create;
pub mod delete;
pub mod expire;
pub mod facts;
pub mod list;
pub mod managed_fields;
pub mod patch;
pub mod selection;
pub mod table;
pub mod update;
pub mod watch;

use crate::{
    admission::{Attributes, Chain, Lookup, Operation},
    auth::User,
    custom::Catalog,
    error::{ApiError, Result},
    kinds::{AnyKind, AnyObject, KindRef, Subresource},
    request::info::check_segment,
};
use allocate::Allocator;
use api::field;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use std::{collections::HashMap, sync::Arc};
use storage::{Key, KeyValue, ListOptions, Payload, Prefix, Revision, Store};

pub use list::{Page, PageOptions};
pub use selection::Selection;

/// All objects of all kinds. Cheap to clone.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    kinds: &'static [&'static dyn AnyKind],
    /// The same by plural, in the order of the table: asked for with every request.
    by_plural: HashMap<&'static str, Vec<&'static dyn AnyKind>>,
    /// What people defined, and the documents that tell of all kinds.
    catalog: ArcSwap<Catalog>,
    chain: Chain,
    allocator: Allocator,
    /// Stands where the revision will be while an object is serialised. Random, so that no client's text equals it.
    marker: String,
    facts: Arc<facts::FactsCache>,
    turns: charge::Turns,
    address_turns: charge::Turns,
}

/// One request for one kind: who asks, for what.
#[derive(Clone, Copy)]
pub struct Call<'a> {
    pub kind: &'a dyn AnyKind,
    pub subresource: Option<Subresource>,
    /// Empty for cluster-scoped kinds and, in lists, for all namespaces.
    pub namespace: &'a str,
    /// Empty for collections.
    pub name: &'a str,
    pub user: &'a User,
    /// Who `metadata.managedFields` names for a write.
    pub writer: managed_fields::Writer<'a>,
    pub dry_run: bool,
}

/// What a write has to say to its client.
#[derive(Debug)]
pub struct Outcome {
    /// The object as it is now (for a dry run: as it would be).
    pub object: Bytes,
    pub created: bool,
    /// Texts for `Warning:` headers.
    pub warnings: Vec<String>,
}

/// A decoded stored object.
pub struct Stored {
    pub object: Box<dyn AnyObject>,
    pub bytes: Bytes,
    pub revision: Revision,
}

impl Call<'_> {
    pub fn not_found(&self) -> ApiError {
        let r = self.kind.resource();
        ApiError::NotFound { group: r.group.to_owned(), resource: r.qualified(), name: self.name.to_owned() }
    }
    pub(crate) fn conflict(&self, detail: impl Into<String>) -> ApiError {
        let r = self.kind.resource();
        ApiError::Conflict {
            group: r.group.to_owned(),
            resource: r.qualified(),
            name: self.name.to_owned(),
            detail: detail.into(),
        }
    }
    pub(crate) fn already_exists(&self, name: &str) -> ApiError {
        let r = self.kind.resource();
        ApiError::AlreadyExists {
            group: r.group.to_owned(),
            resource: r.qualified(),
            name: name.to_owned(),
            deleting: false,
        }
    }
    pub(crate) fn invalid(&self, name: &str, errors: field::Errors) -> Result<()> {
        if errors.is_empty() {
            return Ok(());
        }
        let r = self.kind.resource();
        Err(ApiError::Invalid {
            group: r.group.to_owned(),
            kind: r.kind.to_owned(),
            name: name.to_owned(),
            errors,
        })
    }
    pub(crate) fn attributes<'b>(&'b self, operation: Operation, name: &'b str) -> Attributes<'b> {
        Attributes {
            kind: self.kind,
            operation,
            subresource: self.subresource,
            namespace: self.namespace,
            name,
            user: self.user,
            dry_run: self.dry_run,
        }
    }
    /// A storage error in the words of the API.
    pub(crate) fn storage(&self, error: storage::Error) -> ApiError {
        match error {
            storage::Error::NotFound(_) => self.not_found(),
            storage::Error::AlreadyExists(_) => self.already_exists(self.name),
            storage::Error::Conflict { .. } => self.conflict(MODIFIED),
            other => storage_error(other),
        }
    }
}

/// Largest object that is stored: what a body may measure. Else patches could let one grow, a little at a time, beyond what
/// any client could send or the history hold.
const MAX_OBJECT_BYTES: usize = 3 * 1024 * 1024;

/// What Kubernetes says to a writer that lost a race.
pub(crate) const MODIFIED: &str =
    "the object has been modified; please apply your changes to the latest version and try again";

/// Storage errors that name no object.
pub(crate) fn storage_error(error: storage::Error) -> ApiError {
    match error {
        storage::Error::Compacted { requested, oldest } => ApiError::Expired {
            message: format!("too old resource version: {requested} ({oldest})"),
            fresh: None,
        },
        storage::Error::Future { requested, newest } => {
            ApiError::TooLargeResourceVersion { requested: requested.0, current: newest.0 }
        }
        storage::Error::Closed => ApiError::Unavailable("the server is shutting down".to_owned()),
        storage::Error::TooSlow => ApiError::Unavailable(error.to_string()),
        other => ApiError::Internal(other.to_string()),
    }
}

/// `/core/pods/default/web-0`, from names that were checked.
fn prefix_of(kind: &dyn AnyKind, namespace: &str) -> Result<String> {
    let r = kind.resource();
    let group = if kind.stored_group().is_empty() { "core" } else { kind.stored_group() };
    let mut prefix = format!("/{group}/{}/", r.plural);
    if r.namespaced && !namespace.is_empty() {
        check_segment("Namespace", namespace)?;
        prefix.push_str(namespace);
        prefix.push('/');
    }
    Ok(prefix)
}

/// The prefix of all objects of a kind, or of those in one namespace.
pub(crate) fn prefix(kind: &dyn AnyKind, namespace: &str) -> Result<Prefix> {
    prefix_of(kind, namespace).map(Prefix::new)
}

/// The key of one object; the names are checked here, so that nothing unchecked ever becomes a key.
pub(crate) fn key(kind: &dyn AnyKind, namespace: &str, name: &str) -> Result<Key> {
    if kind.resource().namespaced && namespace.is_empty() {
        return Err(ApiError::BadRequest(
            "an empty namespace may not be set when a resource name is provided".into(),
        ));
    }
    check_segment("Name", name)?;
    if name.is_empty() {
        return Err(ApiError::BadRequest("resource name may not be empty".to_owned()));
    }
    let mut key = prefix_of(kind, namespace)?;
    key.push_str(name);
    Ok(Key::new(key))
}

impl Registry {
    pub fn new(
        store: Arc<dyn Store>,
        kinds: &'static [&'static dyn AnyKind],
        chain: Chain,
        allocator: Allocator,
    ) -> Self {
        let marker = uuid::Uuid::new_v4().simple().to_string();
        let catalog = ArcSwap::from_pointee(Catalog::new(kinds, Vec::new()));
        let mut by_plural: HashMap<&'static str, Vec<&'static dyn AnyKind>> = HashMap::new();
        for kind in kinds {
            by_plural.entry(kind.resource().plural).or_default().push(*kind);
        }
        Self(Arc::new(Inner {
            store,
            kinds,
            by_plural,
            catalog,
            chain,
            allocator,
            marker,
            facts: Arc::default(),
            turns: charge::Turns::default(),
            address_turns: charge::Turns::default(),
        }))
    }

    pub fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
    }
    pub fn kinds(&self) -> &'static [&'static dyn AnyKind] {
        self.0.kinds
    }
    pub(crate) fn chain(&self) -> &Chain {
        &self.0.chain
    }
    pub(crate) fn allocator(&self) -> &Allocator {
        &self.0.allocator
    }

    /// All kinds as they are now.
    pub(crate) fn catalog(&self) -> Arc<Catalog> {
        self.0.catalog.load_full()
    }
    pub(crate) fn set_catalog(&self, catalog: Catalog) {
        self.0.catalog.store(Arc::new(catalog));
    }

    /// The kind behind a path.
    pub fn kind(&self, group: &str, version: &str, plural: &str) -> Option<KindRef> {
        let named = self.0.by_plural.get(plural).map_or(&[][..], Vec::as_slice);
        let own = named.iter().find(|k| k.resource().group == group && k.resource().version == version);
        match own {
            Some(own) => Some(KindRef::BuiltIn(*own)),
            None => self.0.catalog.load().find(group, version, plural).map(KindRef::Custom),
        }
    }

    /// A kind of our own by its plural; `None` if we have no such kind.
    pub fn kind_named(&self, plural: &str) -> Option<&'static dyn AnyKind> {
        self.0.by_plural.get(plural)?.first().copied()
    }

    /// The stored bytes of one object.
    pub async fn get(&self, call: &Call<'_>) -> Result<KeyValue> {
        let key = key(call.kind, call.namespace, call.name)?;
        self.0.store.get(&key).await.map_err(|e| call.storage(e))?.ok_or_else(|| call.not_found())
    }

    pub(crate) async fn find(&self, call: &Call<'_>, key: &Key) -> Result<Option<Stored>> {
        let Some(kv) = self.0.store.get(key).await.map_err(|e| call.storage(e))? else { return Ok(None) };
        Ok(Some(Stored { object: decode(call.kind, &kv)?, bytes: kv.value, revision: kv.modified }))
    }

    /// The bytes to write, with the hole for the revision.
    pub(crate) fn encode(&self, kind: &dyn AnyKind, object: &mut dyn AnyObject) -> Result<Payload> {
        let marker = &self.0.marker;
        object.meta_mut().resource_version = Some(marker.clone());
        let mut bytes = kind.to_stored(object);
        let at = std::str::from_utf8(&bytes).ok().and_then(|text| text.find(marker.as_str()));
        let Some(at) = at else {
            return Err(ApiError::Internal(
                "an object lost its resourceVersion while it was serialised".to_owned(),
            ));
        };
        bytes.drain(at..at + marker.len());
        if bytes.len() > MAX_OBJECT_BYTES {
            return Err(ApiError::TooLarge(format!("Request entity too large: limit is {MAX_OBJECT_BYTES}")));
        }
        Ok(Payload::with_revision_at(bytes, at))
    }
}

pub(crate) fn decode(kind: &dyn AnyKind, kv: &KeyValue) -> Result<Box<dyn AnyObject>> {
    kind.decode_stored(&kv.value)
        .map_err(|e| ApiError::Internal(format!("the stored object {} cannot be read: {e}", kv.key)))
}

#[async_trait]
impl Lookup for Registry {
    async fn get(&self, plural: &str, namespace: &str, name: &str) -> Result<Option<Box<dyn AnyObject>>> {
        let Some(kind) = self.kind_named(plural) else { return Ok(None) };
        let kv = self.0.store.get(&key(kind, namespace, name)?).await.map_err(storage_error)?;
        kv.map(|kv| decode(kind, &kv)).transpose()
    }

    async fn stored(&self, plural: &str, namespace: &str, name: &str) -> Result<Option<Bytes>> {
        let Some(kind) = self.kind_named(plural) else { return Ok(None) };
        let kv = self.0.store.get(&key(kind, namespace, name)?).await.map_err(storage_error)?;
        Ok(kv.map(|kv| kv.value))
    }

    async fn list(&self, plural: &str, namespace: &str) -> Result<Vec<Box<dyn AnyObject>>> {
        let Some(kind) = self.kind_named(plural) else { return Ok(Vec::new()) };
        let list = self.0.store.list(&prefix(kind, namespace)?, ListOptions::default()).await;
        list.map_err(storage_error)?.items.iter().map(|kv| decode(kind, kv)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Whatever a client calls its objects, a key stays below its kind and its namespace.
        #[test]
        fn keys_stay_in_their_place(namespace in ".{0,20}", name in ".{0,20}") {
            let pods = crate::kinds::by_plural("", "v1", "pods").unwrap();
            if let Ok(key) = key(pods, &namespace, &name) {
                let segments: Vec<&str> = key.as_str().split('/').collect();
                prop_assert_eq!(segments, ["", "core", "pods", namespace.as_str(), name.as_str()]);
                prop_assert_eq!(selection::names(pods, &key), (namespace.as_str(), name.as_str()));
                prop_assert!(prefix(pods, &namespace).unwrap().covers(&key));
            }
        }
    }
}
