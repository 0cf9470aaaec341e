//! Walks objects by the rules of their types: which fields an object sets, and how two objects differ.

use super::set::Set;
use crate::{
    custom::schema::{self, Schema},
    openapi::markers::{self, Field, ListType, Shape, TypeId},
};
use serde_json::{Map, Value};
use std::collections::{HashMap, HashSet};

/// How a value merges.
#[derive(Debug, Clone, Copy)]
pub enum Merge<'s> {
    /// As one value.
    Whole,
    /// Field by field.
    Struct(TypeId),
    /// Key by key; the keys are data. Values are structs of the type, or whole.
    Map(Option<TypeId>),
    /// Element by element, elements told apart by value.
    Set,
    /// Element by element, elements told apart by these fields.
    Keyed { keys: &'static [&'static str], element: Option<TypeId> },
    /// As a custom kind's schema says, which takes it apart.
    Schema(&'s Schema),
    /// A custom object: its schema, and metadata by their type.
    Root(&'s Schema),
    /// No schema knows it: objects key by key all the way down, anything else as one value.
    Free,
}

const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

impl<'s> Merge<'s> {
    pub fn of_type(id: TypeId) -> Self {
        if id.get().atomic { Self::Whole } else { Self::Struct(id) }
    }

    fn of_schema(schema: &'s Schema) -> Self {
        let object = schema.kind == schema::Type::Object || !schema.properties.is_empty();
        match schema.kind {
            schema::Type::Array if schema.list_type != schema::ListType::Atomic => Self::Schema(schema),
            _ if object && !schema.atomic_map => Self::Schema(schema),
            schema::Type::Any if schema.preserve_unknown => Self::Free,
            _ => Self::Whole,
        }
    }

    fn of_metadata() -> Self {
        markers::of_definition(OBJECT_META).map_or(Self::Whole, Self::of_type)
    }

    fn of_field(field: Option<&'static Field>) -> Self {
        let Some(field) = field else { return Self::Whole };
        match (field.shape, field.list_type) {
            (Shape::List(_), Some(ListType::Set)) => Self::Set,
            (Shape::List(element), Some(ListType::Map)) => Self::Keyed { keys: &field.keys, element },
            (Shape::List(_) | Shape::Scalar | Shape::Opaque, _) => Self::Whole,
            (Shape::Struct(_) | Shape::Map(_), _) if field.atomic => Self::Whole,
            (Shape::Struct(id), _) if field.granular => Self::Struct(id),
            (Shape::Struct(id), _) => Self::of_type(id),
            (Shape::Map(value), _) => Self::Map(value),
        }
    }

    /// How the member `key` of an object of this sort merges.
    pub fn member(self, key: &str) -> Self {
        match self {
            Self::Struct(id) => Self::of_field(id.get().field(key)),
            Self::Map(Some(id)) | Self::Keyed { element: Some(id), .. } => Self::of_type(id),
            Self::Root(_) if key == "metadata" => Self::of_metadata(),
            Self::Schema(schema) if schema.embedded && key == "metadata" => Self::of_metadata(),
            Self::Schema(schema) if schema.kind == schema::Type::Array => {
                schema.items.as_deref().map_or(Self::Whole, Self::of_schema)
            }
            Self::Root(schema) | Self::Schema(schema) => match schema.member(key) {
                Some(member) => Self::of_schema(member),
                None if schema.preserve_unknown => Self::Free,
                None => Self::Whole,
            },
            Self::Free => Self::Free,
            _ => Self::Whole,
        }
    }

    /// How the elements of a list of this sort merge.
    pub fn element(self) -> Self {
        self.member("")
    }

    pub fn is_struct(self) -> bool {
        match self {
            Self::Struct(_) | Self::Root(_) => true,
            Self::Schema(schema) => !schema.properties.is_empty(),
            _ => false,
        }
    }

    /// Whether objects are taken apart.
    pub fn splits_objects(self) -> bool {
        match self {
            Self::Schema(schema) => schema.kind != schema::Type::Array,
            Self::Struct(_) | Self::Map(_) | Self::Root(_) | Self::Free => true,
            _ => false,
        }
    }

    /// Whether lists are taken apart.
    pub fn splits_lists(self) -> bool {
        match self {
            Self::Schema(schema) => schema.kind == schema::Type::Array,
            Self::Set | Self::Keyed { .. } => true,
            _ => false,
        }
    }

    /// The step that names an element of a list of this sort.
    ///
    /// # Errors
    /// An element that lacks a key which has no default.
    pub fn step(self, item: &Value) -> Result<String, String> {
        let keys: Vec<(&str, Option<Value>)> = match self {
            Self::Keyed { keys, element } => {
                let default = |key: &str| serde_json::from_str(element?.get().field(key)?.default?).ok();
                keys.iter().map(|key| (*key, default(key))).collect()
            }
            Self::Schema(schema) if schema.list_type == schema::ListType::Map => {
                let default = |key: &String| schema.items.as_ref()?.properties.get(key)?.default.clone();
                schema.list_map_keys.iter().map(|key| (key.as_str(), default(key))).collect()
            }
            _ => return Ok(format!("v:{item}")),
        };
        let Value::Object(item) = item else {
            let sort = if item.is_null() { "a null element" } else { "non-map elements" };
            return Err(format!("associative list with keys may not have {sort}"));
        };
        // An element that has some of its keys and lacks others is another than one that has them all.
        let mut found = Map::new();
        for (key, default) in &keys {
            if let Some(value) = item.get(*key).filter(|v| !v.is_null()).or(default.as_ref()) {
                found.insert((*key).to_owned(), value.clone());
            }
        }
        if found.is_empty() {
            let keys = keys.iter().map(|(key, _)| format!("{key:?}")).collect::<Vec<_>>().join(" ");
            return Err(format!(
                "associative list with keys has an element that omits all key fields [{keys}] (and doesn't have default \
                 values for any key fields)"
            ));
        }
        Ok(format!("k:{}", Value::Object(found)))
    }

    /// The members of an object, or the elements of a list, each with the step that leads to it. `None` when the value is
    /// taken whole: by its type, or because it is of another sort than its type says.
    ///
    /// Elements without their keys are left out: an object that is stored may have some, an applied one may not.
    fn parts(self, value: &Value) -> Option<Vec<(String, &Value)>> {
        match (self, value) {
            (_, Value::Object(map)) if self.splits_objects() => {
                Some(map.iter().filter(|(_, v)| !v.is_null()).map(|(k, v)| (format!("f:{k}"), v)).collect())
            }
            (_, Value::Array(list)) if self.splits_lists() => {
                let mut parts: Vec<(String, &Value)> = Vec::with_capacity(list.len());
                let mut seen = HashSet::with_capacity(list.len());
                for item in list {
                    match self.step(item) {
                        Ok(step) if seen.insert(step.clone()) => parts.push((step, item)),
                        _ => {}
                    }
                }
                Some(parts)
            }
            _ => None,
        }
    }

    fn below(self, step: &str) -> Self {
        self.member(step.strip_prefix("f:").unwrap_or_default())
    }
}

/// The fields that `value` sets, as an applier owns them.
pub fn fields(value: &Value, merge: Merge<'_>) -> Set {
    let mut set = Set::default();
    let mut path = Vec::new();
    add_fields(value, merge, &mut path, &mut set);
    set
}

fn add_fields(value: &Value, merge: Merge<'_>, path: &mut Vec<String>, set: &mut Set) {
    let Some(parts) = merge.parts(value) else {
        set.insert(path);
        return;
    };
    for (step, part) in parts {
        let below = merge.below(&step);
        // Data keys and elements exist by being named, structs only by what they hold.
        let exists = !merge.is_struct() || part.as_object().is_some_and(Map::is_empty);
        path.push(step);
        if exists {
            set.insert(path);
        }
        add_fields(part, below, path, set);
        path.pop();
    }
}

/// What a write changed.
#[derive(Debug, Default, PartialEq)]
pub struct Comparison {
    pub added: Set,
    pub modified: Set,
    pub removed: Set,
}

/// Compares two states of an object.
pub fn compare(old: &Value, new: &Value, merge: Merge<'_>) -> Comparison {
    let mut comparison = Comparison::default();
    compare_at(Some(old), Some(new), merge, &mut Vec::new(), &mut comparison);
    comparison
}

fn by_step<'a>(parts: &'a [(String, &'a Value)]) -> HashMap<&'a str, &'a Value> {
    parts.iter().map(|(step, value)| (step.as_str(), *value)).collect()
}

fn compare_at(
    old: Option<&Value>,
    new: Option<&Value>,
    merge: Merge<'_>,
    path: &mut Vec<String>,
    out: &mut Comparison,
) {
    let parts = |value: Option<&'_ Value>| value.map(|v| merge.parts(v).is_some());
    // A value of another sort than before is a change of the whole.
    if parts(old).unwrap_or(true) && parts(new).unwrap_or(true) {
        let olds = old.and_then(|v| merge.parts(v)).unwrap_or_default();
        let news = new.and_then(|v| merge.parts(v)).unwrap_or_default();
        let (old_places, new_places) = (by_step(&olds), by_step(&news));
        for (step, value) in &olds {
            let other = new_places.get(step.as_str()).copied();
            path.push(step.clone());
            compare_at(Some(value), other, merge.below(step), path, out);
            path.pop();
        }
        for (step, value) in news.iter().filter(|(step, _)| !old_places.contains_key(step.as_str())) {
            path.push(step.clone());
            compare_at(None, Some(value), merge.below(step), path, out);
            path.pop();
        }
        // The object's own sections (metadata, spec, status) always exist.
        if path.len() < 2 && merge.is_struct() {
            return;
        }
    }
    match (old, new) {
        (None, Some(_)) => out.added.insert(path),
        (Some(_), None) => out.removed.insert(path),
        (Some(a), Some(b)) if a != b && (parts(old) != Some(true) || parts(new) != Some(true)) => {
            out.modified.insert(path);
        }
        _ => {}
    }
}

/// Finds what an applied configuration may not have: the same element twice and, where `keys` are asked for, elements
/// without theirs.
pub fn check(value: &Value, merge: Merge<'_>, keys: bool) -> Vec<String> {
    let mut faults = Vec::new();
    check_at(value, merge, keys, "", &mut faults);
    faults
}

fn check_at(value: &Value, merge: Merge<'_>, keys: bool, path: &str, faults: &mut Vec<String>) {
    match (merge, value) {
        (_, Value::Object(map)) if merge.splits_objects() => {
            for (key, value) in map {
                check_at(value, merge.member(key), keys, &format!("{path}.{key}"), faults);
            }
        }
        (_, Value::Array(list)) if merge.splits_lists() => {
            let mut seen = Set::default();
            for (i, item) in list.iter().enumerate() {
                match merge.step(item) {
                    Err(fault) if keys => faults.push(format!("{path}: element {i}: {fault}")),
                    Err(_) => {}
                    Ok(step) => {
                        let mut one = Set::default();
                        one.insert(&[&step]);
                        let printed = one.paths().concat();
                        if seen.get(&step).is_some() {
                            faults.push(format!("{path}: duplicate entries for key {printed}"));
                        }
                        check_at(item, merge.element(), keys, &format!("{path}{printed}"), faults);
                        seen.insert(&[step]);
                    }
                }
            }
        }
        _ => {}
    }
}
