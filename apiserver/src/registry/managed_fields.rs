//! `metadata.managedFields`: which manager set which field, so that server-side apply can tell a conflict.
//!
//! Only objects that were applied are tracked. The first apply gives the fields that were there before it to a manager
//! `before-first-apply`, as Kubernetes does for objects older than the feature; from then on every write is tracked.
//! An object nobody applies costs a look at an absent field per write: the trees are not even built. What Kubernetes
//! differs in: it also tracks objects never applied, so `--show-managed-fields` shows more there.

pub mod set;
pub mod walk;

use crate::{
    kinds::{AnyKind, Subresource},
    openapi::markers,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use serde_json::{Value, json};
use set::Set;
use walk::Merge;

/// Update entries kept apart; the oldest beyond are merged into one, so that managers that come and go (a manager per
/// pod name, say) do not make the object grow for ever. Kubernetes' number.
const MAX_UPDATE_MANAGERS: usize = 10;
const OLD_UPDATES: &str = "ancient-changes";
/// Longest name of a manager; Kubernetes' limit for `fieldManager`.
const MAX_MANAGER_BYTES: usize = 128;
/// Set by the server or naming the object: nobody's fields.
const NOBODYS: [&str; 8] = [
    "name",
    "namespace",
    "creationTimestamp",
    "selfLink",
    "uid",
    "generation",
    "managedFields",
    "resourceVersion",
];

/// What the subresources of pods can write; `*` stands for any element.
const EPHEMERAL_CONTAINERS: [&str; 2] = ["f:spec", "f:ephemeralContainers"];
const RESIZED: [[&str; 4]; 4] = [
    ["f:spec", "f:containers", "*", "f:resources"],
    ["f:spec", "f:containers", "*", "f:resizePolicy"],
    ["f:spec", "f:initContainers", "*", "f:resources"],
    ["f:spec", "f:initContainers", "*", "f:resizePolicy"],
];

/// How a manager wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Operation {
    Apply,
    Update,
}

/// One entry of `managedFields`.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub operation: Operation,
    /// RFC 3339.
    pub time: Option<String>,
    pub manager: String,
    pub api_version: String,
    pub subresource: String,
    pub fields: Set,
}

impl Entry {
    pub fn new(manager: &str, operation: Operation, api_version: &str, subresource: Option<&str>) -> Self {
        Self {
            operation,
            time: None,
            manager: manager.to_owned(),
            api_version: api_version.to_owned(),
            subresource: subresource.unwrap_or_default().to_owned(),
            fields: Set::default(),
        }
    }

    /// Whether both are the same manager doing the same thing: an applier is one whatever version it speaks.
    pub fn same(&self, other: &Self) -> bool {
        (self.operation, &self.manager, &self.subresource)
            == (other.operation, &other.manager, &other.subresource)
            && (self.operation == Operation::Apply || self.api_version == other.api_version)
    }

    fn decode(entry: &Value) -> Result<Self, String> {
        let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
        let operation = match entry["operation"].as_str() {
            Some("Apply") => Operation::Apply,
            Some("Update") => Operation::Update,
            _ => return Err("operation must be `Apply` or `Update`".to_owned()),
        };
        if text("apiVersion").is_empty() {
            return Err("apiVersion must not be empty".to_owned());
        }
        if text("fieldsType") != "FieldsV1" {
            return Err("fieldsType must be `FieldsV1`".to_owned());
        }
        let fields = match &entry["fieldsV1"] {
            Value::Null => Set::default(),
            fields => Set::from_json(fields)?,
        };
        Ok(Self {
            operation,
            time: entry["time"].as_str().map(str::to_owned),
            manager: text("manager"),
            api_version: text("apiVersion"),
            subresource: text("subresource"),
            fields,
        })
    }

    fn encode(&self) -> Value {
        let operation = if self.operation == Operation::Apply { "Apply" } else { "Update" };
        let mut entry = json!({
            "manager": self.manager, "operation": operation, "apiVersion": self.api_version,
            "fieldsType": "FieldsV1", "fieldsV1": self.fields.to_json(),
        });
        if let Some(time) = &self.time {
            entry["time"] = time.clone().into();
        }
        if !self.subresource.is_empty() {
            entry["subresource"] = self.subresource.clone().into();
        }
        entry
    }
}

/// Whether a write of this object has to be tracked: whether [`update`] has anything to do.
pub fn tracked(meta: &ObjectMeta) -> bool {
    meta.managed_fields.as_ref().is_some_and(|f| !f.is_empty())
}

/// Who writes, as far as the request says it. Costs nothing until someone asks for the name.
#[derive(Debug, Clone, Copy, Default)]
pub struct Writer<'a> {
    /// The query parameter `fieldManager`; may be empty.
    pub field_manager: &'a str,
    pub user_agent: &'a str,
    /// As the path spells it; empty for the object itself.
    pub subresource: &'a str,
}

impl<'a> Writer<'a> {
    /// The manager's name: the one it gives itself, else the product of its user agent.
    pub fn name(&self) -> String {
        let product = self.user_agent.split('/').next().unwrap_or_default();
        let given = [self.field_manager, product].into_iter().find(|n| !n.is_empty()).unwrap_or("unknown");
        let mut name = String::new();
        for c in given.chars().filter(|c| !c.is_control()) {
            if name.len() + c.len_utf8() > MAX_MANAGER_BYTES {
                break;
            }
            name.push(c);
        }
        name
    }
    pub fn part(&self) -> Option<&'a str> {
        Some(self.subresource).filter(|s| !s.is_empty())
    }
}

/// Records in `new` what a create, update or patch by `writer` changed against `old`. Runs last before the object is
/// stored, on what will be stored. Does nothing for objects that are not tracked.
///
/// `new` may carry the client's copy of `managedFields`: none or a broken one keeps `old`'s, an empty one ends tracking.
pub fn update(
    kind: &dyn AnyKind,
    old: Option<&Value>,
    new: &mut Value,
    writer: &Writer<'_>,
    now: jiff::Timestamp,
) {
    let subresource = writer.part();
    let live = old.and_then(entries).unwrap_or_default();
    let given = &new["metadata"]["managedFields"];
    let reset =
        given.as_array().is_some_and(|list| list.iter().all(|e| e.as_object().is_some_and(|e| e.is_empty())));
    let mut all = if reset { Vec::new() } else { entries(new).unwrap_or_else(|| live.clone()) };
    if all.is_empty() {
        store(new, &[]);
        return;
    }
    let empty = json!({});
    let comparison = walk::compare(old.unwrap_or(&empty), new, whole_object(kind));
    let changed = comparison.modified.union(&comparison.added);
    let mut own = Entry::new(&writer.name(), Operation::Update, &kind.resource().api_version(), subresource);
    let taken = owned(kind, changed.clone(), subresource);
    for entry in &mut all {
        entry.fields = std::mem::take(&mut entry.fields).difference(&comparison.removed);
        if !entry.same(&own) {
            entry.fields = std::mem::take(&mut entry.fields).difference(&taken);
        }
    }
    if !taken.is_empty() {
        own.time = Some(rfc3339(now));
        match all.iter_mut().find(|e| e.same(&own)) {
            Some(entry) => {
                entry.fields = std::mem::take(&mut entry.fields).union(&taken);
                entry.time = own.time;
            }
            None => {
                own.fields = taken;
                all.push(own);
            }
        }
    }
    cap(&mut all);
    store(new, &all);
}

/// The sort of a kind's objects.
pub(super) fn whole_object(kind: &dyn AnyKind) -> Merge<'_> {
    if let Some(custom) = kind.custom() {
        return Merge::Root(custom.schema());
    }
    markers::of_kind(kind.resource()).map_or(Merge::Map(None), Merge::of_type)
}

/// `fields` without what nobody owns and what this endpoint cannot write.
pub(super) fn owned(kind: &dyn AnyKind, fields: Set, subresource: Option<&str>) -> Set {
    let mut nobodys = Set::default();
    for name in ["apiVersion", "kind", "metadata"] {
        nobodys.insert(&[format!("f:{name}")]);
    }
    for name in NOBODYS {
        nobodys.insert(&["f:metadata".to_owned(), format!("f:{name}")]);
    }
    let mut fields = fields.difference(&nobodys);
    match subresource {
        Some("status" | "approval") => fields.retain(|step| matches!(step, "f:metadata" | "f:status")),
        Some("ephemeralcontainers") => fields = fields.below(&EPHEMERAL_CONTAINERS),
        Some("resize") => {
            let all = RESIZED.iter().map(|path| fields.below(path));
            fields = all.fold(Set::default(), |all, one| all.union(&one));
        }
        _ if kind.has(Subresource::Status) => fields.remove("f:status"),
        _ => {}
    }
    fields
}

/// The entries of an object; `None` without any, or with one that cannot be read.
pub(super) fn entries(object: &Value) -> Option<Vec<Entry>> {
    let list = object.pointer("/metadata/managedFields")?.as_array()?;
    list.iter().map(|e| Entry::decode(e).ok()).collect()
}

/// Writes the entries into an object, those without fields left out.
pub(super) fn store(object: &mut Value, entries: &[Entry]) {
    let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) else { return };
    let mut entries: Vec<&Entry> = entries.iter().filter(|e| !e.fields.is_empty()).collect();
    if entries.is_empty() {
        metadata.remove("managedFields");
        return;
    }
    let key = |e: &Entry| {
        (e.operation, e.time.clone(), e.manager.clone(), e.api_version.clone(), e.subresource.clone())
    };
    entries.sort_by_cached_key(|e| key(e));
    metadata.insert("managedFields".to_owned(), entries.into_iter().map(Entry::encode).collect());
}

/// As `Time` is written: whole seconds, UTC.
pub(super) fn rfc3339(now: jiff::Timestamp) -> String {
    now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string()
}

/// Merges the oldest updates of one version until there are few enough.
fn cap(all: &mut Vec<Entry>) {
    let updates = |all: &[Entry]| all.iter().filter(|e| e.operation == Operation::Update).count();
    while updates(all) > MAX_UPDATE_MANAGERS {
        let mut oldest: Vec<usize> =
            (0..all.len()).filter(|i| all[*i].operation == Operation::Update).collect();
        oldest.sort_by_key(|i| (all[*i].time.clone(), all[*i].manager.clone()));
        let version = |i: usize| all[i].api_version.as_str();
        let pair = oldest
            .iter()
            .enumerate()
            .find_map(|(n, i)| Some((*i, *oldest[n + 1..].iter().find(|j| version(**j) == version(*i))?)));
        let Some((first, second)) = pair else { return };
        let merged = Entry {
            manager: OLD_UPDATES.to_owned(),
            subresource: String::new(),
            fields: all[first].fields.clone().union(&all[second].fields),
            ..all[second].clone()
        };
        all.remove(first.max(second));
        all.remove(first.min(second));
        match all.iter_mut().find(|e| e.same(&merged)) {
            Some(bucket) => {
                bucket.fields = std::mem::take(&mut bucket.fields).union(&merged.fields);
                bucket.time = merged.time;
            }
            None => all.push(merged),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{kinds, registry::apply};

    fn config_maps() -> &'static dyn AnyKind {
        kinds::by_plural("", "v1", "configmaps").unwrap()
    }
    fn at(second: i64) -> jiff::Timestamp {
        jiff::Timestamp::from_second(1_800_000_000 + second).unwrap()
    }
    fn object(data: Value) -> Value {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c", "resourceVersion": "5"}, "data": data})
    }
    fn applied(data: Value) -> Value {
        let writer = Writer { field_manager: "applier", ..Writer::default() };
        apply::apply(config_maps(), None, object(data), &writer, false, at(0)).unwrap()
    }
    /// `old` changed by `change`, and tracked.
    fn updated(old: &Value, change: impl FnOnce(&mut Value), manager: &str, second: i64) -> Value {
        let mut new = old.clone();
        change(&mut new);
        let writer = Writer { field_manager: manager, ..Writer::default() };
        update(config_maps(), Some(old), &mut new, &writer, at(second));
        new
    }
    fn owners(object: &Value) -> Vec<(String, Vec<String>)> {
        entries(object)
            .unwrap_or_default()
            .into_iter()
            .map(|e| (e.manager.clone(), e.fields.paths()))
            .collect()
    }
    fn one(manager: &str, paths: &[&str]) -> (String, Vec<String>) {
        (manager.to_owned(), paths.iter().map(|p| (*p).to_owned()).collect())
    }

    #[test]
    fn objects_never_applied_are_not_tracked() {
        let old = object(json!({"a": "1"}));
        assert_eq!(owners(&updated(&old, |o| o["data"]["a"] = "2".into(), "editor", 1)), []);
    }

    #[test]
    fn a_change_moves_the_field_to_its_writer() {
        let old = applied(json!({"a": "1", "b": "1"}));
        let new = updated(&old, |o| o["data"] = json!({"a": "2", "b": "1", "c": "1"}), "editor", 1);
        assert_eq!(owners(&new), [one("applier", &[".data.b"]), one("editor", &[".data.a", ".data.c"])]);
        assert_eq!(new["metadata"]["managedFields"][1]["time"], "2027-01-15T08:00:01Z");
        let less = updated(&new, |o| o["data"] = json!({"a": "2"}), "remover", 2);
        assert_eq!(owners(&less), [one("editor", &[".data.a"])]);
        let same = updated(&less, |o| o["metadata"]["resourceVersion"] = "9".into(), "editor", 3);
        assert_eq!(same["metadata"]["managedFields"], less["metadata"]["managedFields"]);
    }

    #[test]
    fn clients_may_keep_end_or_break_the_list() {
        let old = applied(json!({"a": "1"}));
        let field = |o: &mut Value, v: Value| o["metadata"]["managedFields"] = v;
        for broken in [Value::Null, json!("x"), json!([{"manager": "x"}])] {
            assert_eq!(owners(&updated(&old, |o| field(o, broken), "x", 1)), owners(&old));
        }
        for empty in [json!([]), json!([{}])] {
            assert!(updated(&old, |o| field(o, empty), "x", 1)["metadata"].get("managedFields").is_none());
        }
    }

    #[test]
    fn managers_by_the_dozen_are_merged() {
        let mut live = applied(json!({"a": "1"}));
        for i in 0..30 {
            live = updated(&live, |o| o["data"][format!("k{i}")] = "x".into(), &format!("m{i}"), i);
        }
        let all = entries(&live).unwrap();
        assert_eq!(all.iter().filter(|e| e.operation == Operation::Update).count(), MAX_UPDATE_MANAGERS);
        let ancient = all.iter().find(|e| e.manager == OLD_UPDATES).unwrap();
        assert!(ancient.fields.paths().contains(&".data.k0".to_owned()));
        let owned: usize = all.iter().map(|e| e.fields.paths().len()).sum();
        assert_eq!(owned, 31, "no field was lost");
    }

    #[test]
    fn names() {
        let name = |field_manager, user_agent| Writer { field_manager, user_agent, subresource: "" }.name();
        assert_eq!(name("me", "kubectl/v1"), "me");
        assert_eq!(name("", "kubectl-edit/v1.33 (linux)"), "kubectl-edit");
        assert_eq!(name("", ""), "unknown");
        assert_eq!(name(&"ä".repeat(200), "").len(), MAX_MANAGER_BYTES);
    }
}
