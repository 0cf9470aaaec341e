//! An object of a custom kind: metadata by its type, the rest as a JSON tree.

use crate::kinds::AnyObject;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Map, Value};
use std::any::Any;

#[derive(Debug, Clone)]
pub(crate) struct CustomObject {
    pub(super) api_version: String,
    pub(super) kind: &'static str,
    pub(super) meta: ObjectMeta,
    /// All members but `apiVersion`, `kind` and `metadata`.
    pub(super) body: Map<String, Value>,
}

impl CustomObject {
    /// The tree as rules and validation see it: of the metadata what a schema may speak of.
    pub(super) fn judged(&self, whole_metadata: bool) -> Value {
        let mut tree = self.body.clone();
        tree.insert("apiVersion".to_owned(), self.api_version.clone().into());
        tree.insert("kind".to_owned(), self.kind.into());
        let metadata = if whole_metadata {
            serde_json::to_value(&self.meta).unwrap_or_default()
        } else {
            let mut names = Map::new();
            for (key, value) in [("name", &self.meta.name), ("generateName", &self.meta.generate_name)] {
                if let Some(value) = value.as_ref().filter(|v| !v.is_empty()) {
                    names.insert(key.to_owned(), value.clone().into());
                }
            }
            Value::Object(names)
        };
        tree.insert("metadata".to_owned(), metadata);
        Value::Object(tree)
    }
}

impl Serialize for CustomObject {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.body.len() + 3))?;
        map.serialize_entry("apiVersion", &self.api_version)?;
        map.serialize_entry("kind", self.kind)?;
        map.serialize_entry("metadata", &self.meta)?;
        for (key, value) in &self.body {
            map.serialize_entry(key, value)?;
        }
        map.end()
    }
}

impl AnyObject for CustomObject {
    fn meta(&self) -> &ObjectMeta {
        &self.meta
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        &mut self.meta
    }
    fn as_any(&self) -> &dyn Any {
        self
    }
    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
    fn clone_box(&self) -> Box<dyn AnyObject> {
        Box::new(self.clone())
    }
    fn to_value(&self) -> Value {
        // Strings, numbers and trees of them: they cannot fail to serialise.
        serde_json::to_value(self).unwrap_or(Value::Null)
    }
    fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}
