//! Server-side apply: a manager says what it wants of an object, and owns what it said.
//!
//! The configuration is merged into the live object by the rules of its types; fields the manager applied before and
//! left out now go, unless someone else has them; a change to another manager's field is a conflict, unless forced.
//! See <https://kubernetes.io/docs/reference/using-api/server-side-apply/> and KEP-555.

use super::managed_fields::{
    self, Entry, Operation, Writer,
    set::Set,
    walk::{self, Merge},
};
use crate::{
    error::{ApiError, Result},
    kinds::{AnyKind, Subresource},
    request::body,
};
use serde_json::{Value, json};
use std::collections::HashMap;

/// Owner of what was there before an object was first applied.
const BEFORE_FIRST_APPLY: &str = "before-first-apply";
/// kubectl's manager name, and where its client-side apply keeps what it applied.
const KUBECTL: &str = "kubectl";
const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";

/// The object after `writer` applied `config` to `live` (`None`: to nothing), `metadata.managedFields` included, still
/// to be validated. When nothing changed it is `live` itself.
///
/// Live objects and wanted ones are compared after defaulting: a list that is one value and a quantity written in another
/// way (`cpu: 1`) are no conflict when nothing would change. Kubernetes compares before and reports some.
///
/// # Errors
/// 400 for a configuration that is not one of this kind, [`ApiError::NotTyped`] if it does not fit the kind's types;
/// [`ApiError::ApplyConflict`] with every conflict.
pub fn apply(
    kind: &dyn AnyKind,
    live: Option<&Value>,
    mut config: Value,
    writer: &Writer<'_>,
    force: bool,
    now: jiff::Timestamp,
) -> Result<Value> {
    let (manager, subresource) = (&*writer.name(), writer.part());
    let merge = managed_fields::whole_object(kind);
    check(kind, &config, merge)?;
    confine(kind, &mut config, subresource);
    let api_version = kind.resource().api_version();
    let applied = walk::fields(&config, merge);
    let mut own = Entry::new(manager, Operation::Apply, &api_version, subresource);
    own.fields = managed_fields::owned(kind, applied.clone(), subresource);
    own.time = Some(managed_fields::rfc3339(now));
    let Some(live) = live else {
        let mut made = settled(kind, config)?;
        managed_fields::store(&mut made, &[own]);
        return Ok(made);
    };

    let mut others = managed_fields::entries(live).unwrap_or_default();
    let mut bare = live.clone();
    managed_fields::store(&mut bare, &[]);
    if others.is_empty() {
        let mut before = Entry::new(BEFORE_FIRST_APPLY, Operation::Update, &api_version, None);
        let fields = walk::compare(&json!({}), &bare, merge).added;
        before.fields = managed_fields::owned(kind, fields, None);
        before.time.clone_from(&own.time);
        others.push(before);
    }
    let last = others.iter().position(|e| e.same(&own)).map(|i| others.remove(i));

    let mut wanted = merged(bare.clone(), &config, merge);
    if let Some(last) = &last {
        let held = others.iter().fold(applied, |held, entry| held.union(&entry.fields));
        prune(&mut wanted, &last.fields, &held, merge);
    }
    let mut wanted = settled(kind, wanted)?;
    let changes = walk::compare(&bare, &wanted, merge);
    let changed = managed_fields::owned(kind, changes.modified.union(&changes.added), subresource);
    let mut conflicts: Vec<(&Entry, Set)> =
        others.iter().map(|e| (e, e.fields.intersection(&changed))).collect();
    conflicts.retain(|(_, fields)| !fields.is_empty());
    if !force && manager == KUBECTL && !conflicts.is_empty() {
        // What kubectl set by client-side apply and nobody changed since was its own all along.
        let allowed = last_applied_fields(kind, &bare, merge);
        for (_, fields) in &mut conflicts {
            *fields = std::mem::take(fields).difference(&allowed);
        }
        conflicts.retain(|(_, fields)| !fields.is_empty());
    }
    if !force && !conflicts.is_empty() {
        return Err(conflict(&conflicts));
    }
    let unchanged = wanted == bare
        && last.as_ref().is_some_and(|l| l.fields == own.fields && l.api_version == own.api_version);
    if unchanged {
        return Ok(live.clone());
    }
    for entry in &mut others {
        entry.fields = std::mem::take(&mut entry.fields).difference(&changed).difference(&changes.removed);
    }
    others.push(own);
    if manager == KUBECTL {
        renew_last_applied(&mut wanted, &config);
    }
    managed_fields::store(&mut wanted, &others);
    Ok(wanted)
}

/// Refuses what is not a configuration of this kind. What its types do not have is no `BadRequest` in Kubernetes, whatever
/// `fieldValidation` says.
fn check(kind: &dyn AnyKind, config: &Value, merge: Merge<'_>) -> Result<()> {
    let r = kind.resource();
    let bad = |text: String| Err(ApiError::BadRequest(text));
    let sort = match config {
        Value::Object(_) | Value::Null => None,
        Value::Array(_) => Some("array"),
        Value::String(_) => Some("string"),
        Value::Number(_) => Some("number"),
        Value::Bool(_) => Some("bool"),
    };
    if let Some(sort) = sort {
        return bad(format!(
            "error decoding YAML: error unmarshaling JSON: while decoding JSON: json: cannot unmarshal {sort} into Go value \
             of type map[string]interface {{}}"
        ));
    }
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let (version, named) = (text(&config["apiVersion"]), text(&config["kind"]));
    if version != r.api_version() || named != r.kind {
        return bad(format!("invalid object type: {}", qualified(&version, &named)));
    }
    let meta = &config["metadata"];
    if !meta["managedFields"].is_null() {
        return bad("metadata.managedFields must be nil".to_owned());
    }
    let faults = match kind.decode(config.clone()) {
        Err(why) => vec![why],
        Ok(decoded) => {
            let unknown = decoded.unknown.iter().map(|path| format!(".{path}: field not declared in schema"));
            // The keys of our own kinds' lists default to nothing: validation says that they are missing.
            unknown.chain(walk::check(config, merge, kind.custom().is_some())).collect()
        }
    };
    let faults = match faults.as_slice() {
        [] => return Ok(()),
        [one] => one.clone(),
        many => many.iter().fold("errors:".to_owned(), |text, fault| format!("{text}\n  {fault}")),
    };
    Err(ApiError::NotTyped(format!(
        "failed to create typed patch object ({}/{}; {}): {faults}",
        text(&meta["namespace"]),
        text(&meta["name"]),
        qualified(&version, &named)
    )))
}

/// As Kubernetes prints a type: `apps/v1, Kind=Deployment`; `/v1, Kind=Pod`.
fn qualified(version: &str, kind: &str) -> String {
    let slash = if version.contains('/') { "" } else { "/" };
    format!("{slash}{version}, Kind={kind}")
}

/// Takes out of a configuration what its endpoint cannot write.
fn confine(kind: &dyn AnyKind, config: &mut Value, subresource: Option<&str>) {
    let Some(config) = config.as_object_mut() else { return };
    match subresource {
        Some("status") => {
            config.retain(|key, _| matches!(key.as_str(), "apiVersion" | "kind" | "metadata" | "status"));
        }
        Some(part @ ("ephemeralcontainers" | "resize")) => {
            config.remove("status");
            let kept: &[&str] = match part {
                "resize" => &["containers", "initContainers"],
                _ => &["ephemeralContainers"],
            };
            if let Some(spec) = config.get_mut("spec").and_then(Value::as_object_mut) {
                spec.retain(|key, _| kept.contains(&key.as_str()));
            }
        }
        _ if kind.has(Subresource::Status) => {
            config.remove("status");
        }
        _ => {}
    }
}

/// `live` with everything `config` sets.
fn merged(live: Value, config: &Value, merge: Merge<'_>) -> Value {
    match (merge, live, config) {
        (_, Value::Object(mut live), Value::Object(config)) if merge.splits_objects() => {
            for (key, value) in config.iter().filter(|(_, v)| !v.is_null()) {
                let value = match live.remove(key) {
                    Some(old) => merged(old, value, merge.member(key)),
                    None => value.clone(),
                };
                live.insert(key.clone(), value);
            }
            Value::Object(live)
        }
        (_, Value::Array(live), Value::Array(config)) if merge.splits_lists() => {
            merged_list(live, config, merge)
        }
        (_, _, config) => config.clone(),
    }
}

/// The configuration's elements in its order; elements only the live list has stay where they were among those.
fn merged_list(live: Vec<Value>, config: &[Value], merge: Merge<'_>) -> Value {
    let mut steps: HashMap<String, usize> = HashMap::with_capacity(config.len());
    for (i, item) in config.iter().enumerate() {
        if let Ok(step) = merge.step(item) {
            steps.entry(step).or_insert(i);
        }
    }
    // Where the first live element of each of the configuration's is: a stored list may hold one twice.
    let mut firsts: Vec<Option<usize>> = vec![None; config.len()];
    let mut live: Vec<(Option<usize>, Option<Value>)> = live
        .into_iter()
        .enumerate()
        .map(|(at, item)| {
            let shared = merge.step(&item).ok().and_then(|step| steps.get(&step).copied());
            if let Some(first) = shared.and_then(|i| firsts.get_mut(i)) {
                first.get_or_insert(at);
            }
            (shared, Some(item))
        })
        .collect();
    let mut out = Vec::with_capacity(live.len() + config.len());
    let mut next = 0;
    for (i, item) in config.iter().enumerate() {
        // What only the server has goes out first, up to the next element that the configuration also has.
        while let Some((shared, value)) = live.get_mut(next) {
            match (shared, value.take()) {
                (None, Some(value)) => out.push(value),
                (Some(_), Some(kept)) => {
                    *value = Some(kept);
                    break;
                }
                (_, None) => {}
            }
            next += 1;
        }
        let old = firsts[i].and_then(|at| live.get_mut(at));
        out.push(match old.and_then(|(_, value)| value.take()) {
            Some(old) => merged(old, item, merge.element()),
            None => item.clone(),
        });
    }
    out.extend(
        live.into_iter().skip(next).filter(|(shared, _)| shared.is_none()).filter_map(|(_, value)| value),
    );
    Value::Array(out)
}

/// Removes what the manager had applied and nobody holds any more. A struct goes with its last held field; what
/// was named itself (list elements, map keys) goes unless someone else named it as well.
fn prune(value: &mut Value, last: &Set, held: &Set, merge: Merge<'_>) {
    let fate = |step: &str| {
        let node = last.get(step)?;
        let still = held.get(step).filter(|h| h.member || merge.is_struct());
        Some((&node.children, still.map(|h| &h.children)))
    };
    match value {
        Value::Object(map) => {
            for (step, _) in last.iter() {
                let Some(key) = step.strip_prefix("f:") else { continue };
                match fate(step) {
                    Some((_, None)) => {
                        map.remove(key);
                    }
                    Some((last, Some(held))) => {
                        if let Some(value) = map.get_mut(key) {
                            prune(value, last, held, merge.member(key));
                        }
                    }
                    None => {}
                }
            }
        }
        Value::Array(list) => list.retain_mut(|item| {
            let Ok(step) = merge.step(item) else { return true };
            match fate(&step) {
                Some((_, None)) => false,
                Some((last, Some(held))) => {
                    prune(item, last, held, merge.element());
                    true
                }
                None => true,
            }
        }),
        _ => {}
    }
}

fn conflict(conflicts: &[(&Entry, Set)]) -> ApiError {
    let who = |entry: &Entry| {
        let mut who = format!("{:?}", entry.manager);
        if !entry.subresource.is_empty() {
            who += &format!(" with subresource {:?}", entry.subresource);
        }
        if entry.operation == Operation::Update {
            who += &format!(" using {}", entry.api_version);
        }
        who
    };
    let mut causes = Vec::new();
    let mut lines = Vec::new();
    let mut conflicts: Vec<(String, Vec<String>)> =
        conflicts.iter().map(|(entry, fields)| (who(entry), fields.paths())).collect();
    conflicts.sort();
    for (who, paths) in &conflicts {
        lines.push(format!("conflicts with {who}:"));
        for path in paths {
            lines.push(format!("- {path}"));
            causes.push((format!("conflict with {who}"), path.clone()));
        }
    }
    let message = match causes.as_slice() {
        [(text, path)] => format!("Apply failed with 1 conflict: {text}: {path}"),
        many => format!("Apply failed with {} conflicts: {}", many.len(), lines.join("\n")),
    };
    ApiError::ApplyConflict { message, causes }
}

fn last_applied(object: &Value) -> Option<&str> {
    object["metadata"]["annotations"][LAST_APPLIED].as_str().filter(|text| !text.is_empty())
}

/// The fields that client-side apply set and that still have the values it gave them.
fn last_applied_fields(kind: &dyn AnyKind, live: &Value, merge: Merge<'_>) -> Set {
    let config = last_applied(live).and_then(|text| serde_json::from_str::<Value>(text).ok());
    let Some(config) = config.filter(|c| c["apiVersion"] == kind.resource().api_version()) else {
        return Set::default();
    };
    let Ok(again) = settled(kind, merged(live.clone(), &config, merge)) else { return Set::default() };
    let changes = walk::compare(live, &again, merge);
    walk::fields(&config, merge).difference(&changes.modified).difference(&changes.added)
}

/// An object as it would be stored: in its type's form, with defaults.
fn settled(kind: &dyn AnyKind, object: Value) -> Result<Value> {
    let r = kind.resource();
    let decoded =
        kind.decode(object).map_err(|why| body::cannot_be_handled(r.kind, r.version, r.kind, &why))?;
    let mut object = decoded.object;
    kind.default(object.as_mut());
    Ok(object.to_value())
}

/// Keeps client-side apply's annotation in step, for users who go back to it.
fn renew_last_applied(object: &mut Value, config: &Value) {
    if last_applied(object).is_none() {
        return;
    }
    let mut config = config.clone();
    if let Some(annotations) = config.pointer_mut("/metadata/annotations").and_then(Value::as_object_mut) {
        annotations.remove(LAST_APPLIED);
    }
    object["metadata"]["annotations"][LAST_APPLIED] = Value::String(format!("{config}\n"));
}

#[cfg(test)]
mod tests;
