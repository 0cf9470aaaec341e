//! Admission tests without a store: objects are JSON, the cluster is a list of them.

use super::{Attributes, Chain, Lookup, Operation, Plugin};
use crate::{
    auth::User,
    error::Result,
    kinds::{self, AnyKind, AnyObject, Subresource},
};
use async_trait::async_trait;
use bytes::Bytes;
use serde_json::{Value, json};

pub(crate) fn object(api_version: &str, kind: &str, namespace: &str, name: &str, rest: Value) -> Value {
    let mut object = json!({"apiVersion": api_version, "kind": kind, "metadata": {"name": name}});
    if !namespace.is_empty() {
        object["metadata"]["namespace"] = json!(namespace);
    }
    for (key, value) in rest.as_object().unwrap() {
        object[key] = value.clone();
    }
    object
}

pub(crate) fn namespace(name: &str) -> Value {
    object("v1", "Namespace", "", name, json!({"status": {"phase": "Active"}}))
}

pub(crate) fn kind(plural: &str) -> &'static dyn AnyKind {
    kinds::all().iter().copied().find(|k| k.resource().plural == plural).unwrap()
}

pub(crate) fn decoded(kind: &dyn AnyKind, object: &Value) -> Box<dyn AnyObject> {
    kind.decode_stored(&serde_json::to_vec(object).unwrap()).unwrap()
}

/// A cluster that holds these objects.
#[derive(Default)]
pub(crate) struct Objects(Vec<Value>);

impl Objects {
    pub(crate) fn new(objects: impl IntoIterator<Item = Value>) -> Self {
        Self(objects.into_iter().collect())
    }

    fn of<'a>(
        &'a self,
        plural: &'a str,
        namespace: &'a str,
    ) -> impl Iterator<Item = Box<dyn AnyObject>> + 'a {
        let kind = kinds::all().iter().copied().find(|k| k.resource().plural == plural);
        self.0.iter().filter_map(move |object| {
            let kind = kind.filter(|k| object["kind"] == k.resource().kind)?;
            let here = object["metadata"]["namespace"].as_str().unwrap_or_default();
            (namespace.is_empty() || here == namespace).then(|| decoded(kind, object))
        })
    }
}

#[async_trait]
impl Lookup for Objects {
    async fn get(&self, plural: &str, namespace: &str, name: &str) -> Result<Option<Box<dyn AnyObject>>> {
        Ok(self.of(plural, namespace).find(|o| o.meta().name.as_deref() == Some(name)))
    }
    async fn stored(&self, plural: &str, namespace: &str, name: &str) -> Result<Option<Bytes>> {
        let object = self.get(plural, namespace, name).await?;
        Ok(object.map(|object| kind(plural).to_stored(&*object).into()))
    }
    async fn list(&self, plural: &str, namespace: &str) -> Result<Vec<Box<dyn AnyObject>>> {
        Ok(self.of(plural, namespace).collect())
    }
}

/// One request, to be shown to a plugin.
pub(crate) struct Case {
    kind: &'static dyn AnyKind,
    operation: Operation,
    subresource: Option<Subresource>,
    objects: Objects,
    old: Option<Value>,
    user: User,
}

impl Case {
    pub(crate) fn new(plural: &str, operation: Operation) -> Self {
        Self {
            kind: kind(plural),
            operation,
            subresource: None,
            objects: Objects::default(),
            old: None,
            user: User::component("test"),
        }
    }

    pub(crate) fn lookup(mut self, objects: impl IntoIterator<Item = Value>) -> Self {
        self.objects = Objects::new(objects);
        self
    }

    pub(crate) fn old(mut self, old: Value) -> Self {
        self.old = Some(old);
        self
    }

    pub(crate) fn subresource(mut self, subresource: Option<Subresource>) -> Self {
        self.subresource = subresource;
        self
    }

    pub(crate) fn user(mut self, user: User) -> Self {
        self.user = user;
        self
    }

    fn attributes<'a>(&'a self, object: &'a Value) -> Attributes<'a> {
        Attributes {
            kind: self.kind,
            operation: self.operation,
            subresource: self.subresource,
            namespace: object["metadata"]["namespace"].as_str().unwrap_or_default(),
            name: object["metadata"]["name"].as_str().unwrap_or_default(),
            user: &self.user,
            dry_run: false,
        }
    }

    /// The object as the plugin leaves it.
    pub(crate) async fn mutate(
        &self,
        plugin: &(impl Plugin + Copy + 'static),
        object: &Value,
    ) -> Result<Value> {
        let mut typed = decoded(self.kind, object);
        let old = self.old.as_ref().map(|o| decoded(self.kind, o));
        let chain = Chain::new(vec![Box::new(*plugin)]);
        chain.mutate(&self.attributes(object), &mut *typed, old.as_deref(), &self.objects).await?;
        Ok(typed.to_value())
    }

    pub(crate) async fn validate(
        &self,
        plugin: &(impl Plugin + Clone + 'static),
        object: Option<&Value>,
        old: Option<&Value>,
    ) -> Result<()> {
        let typed = object.map(|o| decoded(self.kind, o));
        let typed_old = old.map(|o| decoded(self.kind, o));
        let chain = Chain::new(vec![Box::new(plugin.clone())]);
        let attributes = self.attributes(object.or(old).unwrap());
        chain.validate(&attributes, typed.as_deref(), typed_old.as_deref(), &self.objects).await
    }

    /// What the plugin warns of.
    pub(crate) async fn remark(
        &self,
        plugin: &(impl Plugin + Copy + 'static),
        object: &Value,
        old: Option<&Value>,
    ) -> Result<Vec<String>> {
        let typed = decoded(self.kind, object);
        let typed_old = old.map(|o| decoded(self.kind, o));
        let chain = Chain::new(vec![Box::new(*plugin)]);
        chain.remark(&self.attributes(object), &*typed, typed_old.as_deref(), &self.objects).await
    }
}
