//! From typed kinds to the untyped path: nothing here knows any kind.
//!
//! Two versions of one kind share a store like this: one of them is what is stored, the other is a view
//! (`Kind::IS_VIEW`), an entry of the table of kinds with names and a type of its own. The generic path treats a view
//! as any kind, with its own type in hand: rules, patches, apply and columns see the version the client speaks. Only
//! what goes into the store and what comes out of it passes through `to_stored` and `from_stored`, and bytes on their way
//! to a client through `show`. Keys name no version, so both find the same objects, and a watch of either sees all
//! changes. What it does not do: fields that managers own under one version are not translated into the other's paths.

use super::{AnyKind, AnyObject, Column, Decoded, Deletion, Kind, Subresource, decode};
use api::{field, resource::Resource};
use bytes::Bytes;
use k8s_openapi::Metadata;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde::Serialize;
use serde_json::Value;
use std::any::Any;
use std::marker::PhantomData;

impl<T> AnyObject for T
where
    T: Metadata<Ty = ObjectMeta> + Serialize + Clone + Send + Sync + 'static,
{
    fn meta(&self) -> &ObjectMeta {
        self.metadata()
    }
    fn meta_mut(&mut self) -> &mut ObjectMeta {
        self.metadata_mut()
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
        // API types hold strings, numbers, maps with string keys: they cannot fail to serialise.
        serde_json::to_value(self).unwrap_or(Value::Null)
    }
    fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }
}

/// A [`Kind`] as an [`AnyKind`].
pub(super) struct Typed<K> {
    resource: Resource,
    kind: PhantomData<fn() -> K>,
}

impl<K: Kind> Typed<K> {
    pub(super) const NEW: Self = Self {
        resource: Resource {
            group: <K::Object as k8s_openapi::Resource>::GROUP,
            version: <K::Object as k8s_openapi::Resource>::VERSION,
            kind: <K::Object as k8s_openapi::Resource>::KIND,
            plural: K::PLURAL,
            singular: K::SINGULAR,
            namespaced: K::NAMESPACED,
        },
        kind: PhantomData,
    };
}

/// The object as its own type. Handing a kind another kind's object is a mistake of the caller's; it is answered by doing
/// nothing, and by an internal error where there is a way to say so.
fn of<K: Kind>(object: &dyn AnyObject) -> Option<&K::Object> {
    let typed = object.as_any().downcast_ref();
    debug_assert!(typed.is_some(), "object of another kind handed to {}", K::PLURAL);
    typed
}

fn of_mut<K: Kind>(object: &mut dyn AnyObject) -> Option<&mut K::Object> {
    let typed = object.as_any_mut().downcast_mut();
    debug_assert!(typed.is_some(), "object of another kind handed to {}", K::PLURAL);
    typed
}

fn judged(errors: Option<field::Errors>) -> field::Errors {
    errors.unwrap_or_else(|| {
        let mut errors = field::Errors::default();
        errors.internal(&field::Path::default(), "object of another kind");
        errors
    })
}

impl<K: Kind> AnyKind for Typed<K> {
    fn resource(&self) -> &Resource {
        &self.resource
    }
    fn short_names(&self) -> &[&'static str] {
        K::SHORT_NAMES
    }
    fn categories(&self) -> &[&'static str] {
        K::CATEGORIES
    }
    fn subresources(&self) -> &[Subresource] {
        K::SUBRESOURCES
    }
    fn columns(&self) -> &[Column] {
        K::COLUMNS
    }
    fn selectable(&self) -> &[&'static str] {
        K::SELECTABLE
    }
    fn decode(&self, value: Value) -> Result<Decoded, String> {
        let (object, unknown) = decode::decode::<K::Object>(value)?;
        Ok(Decoded { object: Box::new(object), unknown })
    }
    fn decode_stored(&self, bytes: &[u8]) -> Result<Box<dyn AnyObject>, String> {
        match K::from_stored(bytes) {
            Ok(object) => Ok(Box::new(object)),
            Err(e) => Err(e),
        }
    }
    fn check_name(&self, name: &str) -> Vec<String> {
        K::check_name(name)
    }
    fn default(&self, object: &mut dyn AnyObject) {
        if let Some(object) = of_mut::<K>(object) {
            K::default(object);
        }
    }
    fn prepare_create(&self, object: &mut dyn AnyObject) {
        if let Some(object) = of_mut::<K>(object) {
            K::prepare_create(object);
        }
    }
    fn prepare_update(&self, new: &mut dyn AnyObject, old: &dyn AnyObject) {
        if let (Some(new), Some(old)) = (of_mut::<K>(new), of::<K>(old)) {
            K::prepare_update(new, old);
        }
    }
    fn prepare_status_update(&self, new: &mut dyn AnyObject, old: &dyn AnyObject) {
        if let (Some(new), Some(old)) = (of_mut::<K>(new), of::<K>(old)) {
            K::prepare_status_update(new, old);
        }
    }
    fn prepare_part_update(&self, part: Subresource, new: &mut dyn AnyObject, old: &dyn AnyObject) {
        if let (Some(new), Some(old)) = (of_mut::<K>(new), of::<K>(old)) {
            K::prepare_part_update(part, new, old);
        }
    }
    fn validate(&self, object: &dyn AnyObject) -> field::Errors {
        judged(of::<K>(object).map(K::validate))
    }
    fn validate_update(&self, new: &dyn AnyObject, old: &dyn AnyObject) -> field::Errors {
        judged(of::<K>(new).zip(of::<K>(old)).map(|(new, old)| K::validate_update(new, old)))
    }
    fn validate_status_update(&self, new: &dyn AnyObject, old: &dyn AnyObject) -> field::Errors {
        judged(of::<K>(new).zip(of::<K>(old)).map(|(new, old)| K::validate_status_update(new, old)))
    }
    fn validate_part_update(
        &self,
        part: Subresource,
        new: &dyn AnyObject,
        old: &dyn AnyObject,
    ) -> field::Errors {
        judged(of::<K>(new).zip(of::<K>(old)).map(|(new, old)| K::validate_part_update(part, new, old)))
    }
    fn warnings(&self, object: &dyn AnyObject) -> Vec<String> {
        of::<K>(object).map(K::warnings).unwrap_or_default()
    }
    fn generation_changed(&self, new: &dyn AnyObject, old: &dyn AnyObject) -> Option<bool> {
        of::<K>(new).zip(of::<K>(old)).and_then(|(new, old)| K::generation_changed(new, old))
    }
    fn row(&self, object: &dyn AnyObject, now: jiff::Timestamp) -> Vec<Value> {
        of::<K>(object).map(|object| K::row(object, now)).unwrap_or_default()
    }
    fn selectable_fields(&self, object: &dyn AnyObject) -> Vec<(&'static str, String)> {
        of::<K>(object).map(K::selectable_fields).unwrap_or_default()
    }
    fn deletion(&self, object: &dyn AnyObject, requested: Option<i64>) -> Deletion {
        of::<K>(object).map_or(Deletion::Immediate, |object| K::deletion(object, requested))
    }
    fn scale(&self, object: &dyn AnyObject) -> Option<(i32, i32, String)> {
        of::<K>(object).and_then(K::scale)
    }
    fn set_scale(&self, object: &mut dyn AnyObject, replicas: i32) {
        if let Some(object) = of_mut::<K>(object) {
            K::set_scale(object, replicas);
        }
    }
    fn unconditional_update(&self) -> bool {
        K::UNCONDITIONAL_UPDATE
    }
    fn create_on_update(&self) -> bool {
        K::CREATE_ON_UPDATE
    }
    fn returns_deleted(&self) -> bool {
        K::RETURNS_DELETED
    }
    fn orphans_by_default(&self) -> bool {
        K::ORPHANS_BY_DEFAULT
    }
    fn held(&self, object: &dyn AnyObject) -> bool {
        of::<K>(object).is_some_and(K::held)
    }
    fn is_view(&self) -> bool {
        K::IS_VIEW
    }
    fn stored_group(&self) -> &'static str {
        K::STORED_GROUP
    }
    fn to_stored(&self, object: &dyn AnyObject) -> Vec<u8> {
        of::<K>(object).map(K::to_stored).unwrap_or_default()
    }
    fn show(&self, stored: &Bytes) -> Bytes {
        if !K::IS_VIEW {
            return stored.clone();
        }
        match K::from_stored(stored) {
            Ok(object) => object.to_json().into(),
            Err(error) => {
                tracing::error!(
                    kind = K::PLURAL,
                    error,
                    "a stored object cannot be shown in another version"
                );
                stored.clone()
            }
        }
    }
    fn prepare_deletion(&self, object: &mut dyn AnyObject) {
        if let Some(object) = of_mut::<K>(object) {
            K::prepare_deletion(object);
        }
    }
}
