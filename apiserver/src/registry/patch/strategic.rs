//! Strategic merge patch: a merge patch that knows which lists merge by a key.
//!
//! A patch is the partial object plus directives: `$patch: delete|replace` in a map or a list element,
//! `$retainKeys`, `$deleteFromPrimitiveList/<list>` and `$setElementOrder/<list>`. The rules are those of
//! <https://git.k8s.io/community/contributors/devel/sig-api-machinery/strategic-merge-patch.md>; order of merged
//! lists: `$setElementOrder`, else new elements first and each list's own order kept. Where a directive is malformed
//! we answer 400, also in the few places where Kubernetes answers 500.

use crate::{
    error::{ApiError, Result},
    openapi::markers::{Field, Shape, TypeId},
};
use serde_json::{Map, Value};
use std::{
    collections::{HashMap, HashSet},
    hash::{Hash, Hasher},
};

const DIRECTIVE: &str = "$patch";
const RETAIN_KEYS: &str = "$retainKeys";
const DELETE_FROM: &str = "$deleteFromPrimitiveList/";
const ELEMENT_ORDER: &str = "$setElementOrder/";

/// Merges `patch` into `current`, both whole objects of type `schema`.
///
/// # Errors
/// 400 for a malformed patch.
pub fn merge(current: Value, patch: Value, schema: Option<TypeId>) -> Result<Value> {
    let (Value::Object(current), Value::Object(patch)) = (current, patch) else {
        return bad("invalid JSON document");
    };
    Ok(Value::Object(merge_map(current, patch, schema)?))
}

fn bad<T>(text: impl Into<String>) -> Result<T> {
    Err(ApiError::BadRequest(text.into()))
}

fn merge_map(
    mut original: Map<String, Value>,
    mut patch: Map<String, Value>,
    schema: Option<TypeId>,
) -> Result<Map<String, Value>> {
    if let Some(directive) = patch.remove(DIRECTIVE) {
        return match directive.as_str() {
            Some("replace") => Ok(without_directives_map(patch)),
            Some("delete") => Ok(Map::new()),
            _ => bad(format!("unknown patch type: {directive} in map")),
        };
    }
    retain_keys(&mut original, &mut patch)?;
    order_elements(&mut original, &mut patch, schema)?;
    for (key, value) in patch {
        if let Some(list) = key.strip_prefix(DELETE_FROM) {
            delete_from(&mut original, list, &value)?;
            continue;
        }
        if value.is_null() {
            original.remove(&key);
            continue;
        }
        let field = schema.and_then(|s| s.get().field(&key));
        let merged = match (original.remove(&key), value) {
            (Some(Value::Object(old)), Value::Object(new)) => {
                let replace = field.is_some_and(|f| f.replace);
                Some(Value::Object(if replace { new } else { merge_map(old, new, element(field))? }))
            }
            (Some(Value::Array(old)), Value::Array(new)) => Some(Value::Array(merge_field(old, new, field)?)),
            (_, new) => without_directives(new),
        };
        if let Some(merged) = merged {
            original.insert(key, merged);
        }
    }
    Ok(original)
}

/// The struct inside a field, whatever the container.
fn element(field: Option<&Field>) -> Option<TypeId> {
    match field?.shape {
        Shape::Struct(id) | Shape::List(Some(id)) | Shape::Map(Some(id)) => Some(id),
        _ => None,
    }
}

/// `$retainKeys`: what the list does not name goes, as the members of a union do when another is set.
fn retain_keys(original: &mut Map<String, Value>, patch: &mut Map<String, Value>) -> Result<()> {
    const MALFORMED: &str = "invalid patch format of retainKeys";
    let Some(retained) = patch.remove(RETAIN_KEYS) else { return Ok(()) };
    let Value::Array(retained) = retained else { return bad(MALFORMED) };
    let retained: HashSet<&str> = retained.iter().filter_map(Value::as_str).collect();
    let retains = |key: &str| retained.contains(key);
    let unlisted = patch.iter().any(|(key, value)| {
        !value.is_null() && !key.starts_with(DELETE_FROM) && !key.starts_with(ELEMENT_ORDER) && !retains(key)
    });
    if unlisted {
        return bad(MALFORMED);
    }
    original.retain(|key, _| retains(key));
    Ok(())
}

fn delete_from(original: &mut Map<String, Value>, list: &str, gone: &Value) -> Result<()> {
    let Some(gone) = gone.as_array() else { return bad("invalid patch format of primitive list") };
    if let Some(Value::Array(live)) = original.get_mut(list) {
        let gone = Positions::of(gone, None);
        live.retain(|item| gone.get(item).is_none());
    }
    Ok(())
}

/// Handles every `$setElementOrder/<list>` together with the patch of that list, and takes both out of the patch.
fn order_elements(
    original: &mut Map<String, Value>,
    patch: &mut Map<String, Value>,
    schema: Option<TypeId>,
) -> Result<()> {
    const MALFORMED: &str = "invalid patch format of setElementOrder list";
    let directives: Vec<String> = patch.keys().filter(|k| k.starts_with(ELEMENT_ORDER)).cloned().collect();
    for directive in directives {
        let Some(Value::Array(order)) = patch.remove(&directive) else { return bad(MALFORMED) };
        let name = &directive[ELEMENT_ORDER.len()..];
        let field = schema.and_then(|s| s.get().field(name));
        let key = field.and_then(|f| f.merge_key);
        let list = |value: Option<Value>| match value {
            None => Ok(None),
            Some(Value::Array(list)) => Ok(Some(list)),
            Some(_) => bad(MALFORMED),
        };
        let patched = list(patch.remove(name))?;
        let live = list(original.remove(name))?;
        if let Some(patched) = &patched {
            follows(patched, &order, key)?;
        }
        let merged = match (&live, patched) {
            (Some(live), None) => live.clone(),
            (None, Some(patched)) => without_directives_list(patched),
            (Some(live), Some(patched)) => merge_field(live.clone(), patched, field)?,
            (None, None) => continue,
        };
        let listed = Positions::of(&order, key);
        let (ordered, rest) = merged.into_iter().partition(|item| listed.get(item).is_some());
        let merged = interleave(ordered, rest, &order, &live.unwrap_or_default(), key);
        original.insert(name.to_owned(), Value::Array(merged));
    }
    Ok(())
}

/// Checks that the patch's elements stand in the list of their order, in that order.
fn follows(patched: &[Value], order: &[Value], key: Option<&str>) -> Result<()> {
    if order.is_empty() {
        return Ok(());
    }
    let mut rest = order.iter();
    for item in patched.iter().filter(|item| item.get(DIRECTIVE).is_none()) {
        if let Some(key) = key {
            merge_key(item, key)?;
        }
        if !rest.any(|o| same(o, item, key)) {
            let show = |list: &[Value]| serde_json::to_string(list).unwrap_or_default();
            return bad(format!(
                "The order in patch list:\n{}\n doesn't match $setElementOrder list:\n{}\n",
                show(patched),
                show(order)
            ));
        }
    }
    Ok(())
}

fn merge_field(original: Vec<Value>, patch: Vec<Value>, field: Option<&Field>) -> Result<Vec<Value>> {
    match field {
        Some(f) if f.merge => merge_list(original, patch, element(field), f.merge_key),
        _ => Ok(without_directives_list(patch)),
    }
}

fn merge_list(
    original: Vec<Value>,
    patch: Vec<Value>,
    schema: Option<TypeId>,
    key: Option<&str>,
) -> Result<Vec<Value>> {
    if patch.is_empty() {
        return Ok(original);
    }
    check_elements(&original, &patch)?;
    let Some(key) = key.filter(|_| patch[0].is_object()) else {
        if patch[0].is_object() {
            return bad("cannot merge lists without merge key");
        }
        let mut seen = HashSet::with_capacity(original.len() + patch.len());
        let merged = original.iter().chain(&patch).filter(|item| seen.insert(Key((*item).clone())));
        let named = Positions::of(&patch, None);
        let (patched, rest) = merged.cloned().partition(|item| named.get(item).is_some());
        return Ok(interleave(patched, rest, &patch, &original, None));
    };
    let (live, patch) = element_directives(original, patch, key)?;
    let mut merged = live.clone();
    let mut places = Positions::of(&live, Some(key));
    let mut order = Vec::with_capacity(patch.len());
    for item in patch {
        let wanted = merge_key(&item, key)?.clone();
        order.push(Value::Object(Map::from_iter([(key.to_owned(), wanted)])));
        match (places.get(&item), item) {
            (Some(at), Value::Object(new)) => {
                if let Value::Object(old) = merged[at].take() {
                    merged[at] = Value::Object(merge_map(old, new, schema)?);
                }
            }
            (_, item) => {
                if let Some(item) = without_directives(item) {
                    places.add(&item, merged.len());
                    merged.push(item);
                }
            }
        }
    }
    let named = Positions::of(&order, Some(key));
    let (patched, rest) = merged.into_iter().partition(|item| named.get(item).is_some());
    Ok(interleave(patched, rest, &order, &live, Some(key)))
}

/// Carries out `$patch` in list elements: what is left of the original and of the patch.
fn element_directives(
    mut original: Vec<Value>,
    patch: Vec<Value>,
    key: &str,
) -> Result<(Vec<Value>, Vec<Value>)> {
    let mut plain = Vec::with_capacity(patch.len());
    let mut replace = false;
    let mut gone = HashSet::new();
    for item in patch {
        match item.get(DIRECTIVE).map(Value::as_str) {
            None => plain.push(item),
            Some(Some("replace")) => replace = true,
            Some(Some("delete")) => {
                gone.insert(Key(merge_key(&item, key)?.clone()));
            }
            Some(Some("merge")) => return bad("merging lists cannot yet be specified in the patch"),
            Some(_) => return bad(format!("unknown patch type: {} in map", item[DIRECTIVE])),
        }
    }
    if !gone.is_empty() {
        original.retain(|o| o.get(key).is_none_or(|value| !gone.contains(&Key(value.clone()))));
    }
    Ok(if replace { (Vec::new(), plain) } else { (original, plain) })
}

fn check_elements(original: &[Value], patch: &[Value]) -> Result<()> {
    let mut sorts = original.iter().chain(patch).map(std::mem::discriminant);
    let first = sorts.next();
    if sorts.any(|sort| Some(sort) != first) {
        return bad("list element types are not identical");
    }
    if patch.iter().any(Value::is_array) {
        return bad("lists of lists are not supported");
    }
    Ok(())
}

fn merge_key<'a>(item: &'a Value, key: &str) -> Result<&'a Value> {
    match item.get(key) {
        Some(value) => Ok(value),
        None => bad(format!("map: {item} does not contain declared merge key: {key}")),
    }
}

fn same(a: &Value, b: &Value, key: Option<&str>) -> bool {
    match key {
        Some(key) => a.get(key).is_some_and(|a| b.get(key) == Some(a)),
        None => a == b,
    }
}

/// A value to look up by. Equal values hash alike: numbers are told apart by sort and, where whole, by value.
#[derive(PartialEq, Eq)]
struct Key(Value);

impl Hash for Key {
    fn hash<H: Hasher>(&self, state: &mut H) {
        std::mem::discriminant(&self.0).hash(state);
        match &self.0 {
            Value::Bool(flag) => flag.hash(state),
            Value::String(text) => text.hash(state),
            Value::Number(number) => (number.as_u64(), number.as_i64()).hash(state),
            // Rare as keys; whether they are equal is decided by comparing.
            Value::Null | Value::Array(_) | Value::Object(_) => {}
        }
    }
}

/// Where the elements of a list are, by key or by value: the first place of each.
struct Positions<'k> {
    key: Option<&'k str>,
    places: HashMap<Key, usize>,
}

impl<'k> Positions<'k> {
    fn of(list: &[Value], key: Option<&'k str>) -> Self {
        let mut positions = Self { key, places: HashMap::with_capacity(list.len()) };
        for (at, item) in list.iter().enumerate() {
            positions.add(item, at);
        }
        positions
    }

    fn add(&mut self, item: &Value, at: usize) {
        if let Some(key) = self.key_of(item) {
            self.places.entry(key).or_insert(at);
        }
    }

    fn get(&self, item: &Value) -> Option<usize> {
        self.places.get(&self.key_of(item)?).copied()
    }

    fn key_of(&self, item: &Value) -> Option<Key> {
        match self.key {
            Some(key) => item.get(key).cloned().map(Key),
            None => Some(Key(item.clone())),
        }
    }
}

/// Joins the elements that the patch orders with those only the server has: each in its own order, and where both
/// were in the live list, as they stood there. Elements new with the patch come before the server's.
fn interleave(
    mut patched: Vec<Value>,
    mut rest: Vec<Value>,
    order: &[Value],
    live: &[Value],
    key: Option<&str>,
) -> Vec<Value> {
    let (order, live) = (Positions::of(order, key), Positions::of(live, key));
    patched.sort_by_cached_key(|item| order.get(item));
    rest.sort_by_cached_key(|item| live.get(item));
    let mut out = Vec::with_capacity(patched.len() + rest.len());
    let mut patched = patched.into_iter().peekable();
    let mut rest = rest.into_iter().peekable();
    loop {
        let server_first = match (rest.peek(), patched.peek()) {
            (Some(server), Some(new)) => match (live.get(server), live.get(new)) {
                (Some(server), Some(new)) => server < new,
                _ => false,
            },
            (server, _) => server.is_some(),
        };
        match if server_first { rest.next() } else { patched.next() } {
            Some(item) => out.push(item),
            None => return out,
        }
    }
}

/// The value to store where the original had none: without directives and, as in a merge patch, without nulls.
/// `None` when the whole value is a directive.
fn without_directives(value: Value) -> Option<Value> {
    match value {
        Value::Object(map) if map.contains_key(DIRECTIVE) => None,
        Value::Object(map) => Some(Value::Object(without_directives_map(map))),
        Value::Array(list) => Some(Value::Array(without_directives_list(list))),
        scalar => Some(scalar),
    }
}

fn without_directives_map(map: Map<String, Value>) -> Map<String, Value> {
    map.into_iter()
        .filter(|(key, value)| {
            let directive =
                key == RETAIN_KEYS || key.starts_with(DELETE_FROM) || key.starts_with(ELEMENT_ORDER);
            !directive && !value.is_null()
        })
        .filter_map(|(key, value)| Some((key, without_directives(value)?)))
        .collect()
}

fn without_directives_list(list: Vec<Value>) -> Vec<Value> {
    list.into_iter().filter_map(without_directives).collect()
}

#[cfg(test)]
mod tests;
