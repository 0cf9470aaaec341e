//! Objects as clients like to print them: `Table`, and `PartialObjectMetadata` for those who want metadata only.
//!
//! Written straight into bytes: an object's metadata (or the whole object) is copied from its stored JSON, never
//! decoded and serialised again. The shapes are `meta.k8s.io/v1`'s.

use crate::kinds::{AnyKind, AnyObject};
use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// How much of each object a table's row carries (query parameter `includeObject`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Include {
    None,
    #[default]
    Metadata,
    Object,
}

impl Include {
    /// From the query parameter; `None` for a value that Kubernetes does not know.
    pub fn parse(value: Option<&str>) -> Option<Self> {
        match value.unwrap_or_default() {
            "" | "Metadata" => Some(Self::Metadata),
            "None" => Some(Self::None),
            "Object" => Some(Self::Object),
            _ => None,
        }
    }
}

/// The `metadata` of a list, of a table or of a list of partial metadata.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct ListMeta {
    #[serde(rename = "resourceVersion", skip_serializing_if = "String::is_empty")]
    pub resource_version: String,
    #[serde(rename = "continue", skip_serializing_if = "Option::is_none")]
    pub continue_: Option<String>,
    #[serde(rename = "remainingItemCount", skip_serializing_if = "Option::is_none")]
    pub remaining: Option<i64>,
}

/// A `Table` of `objects`, each given decoded (for its cells) and as stored (for what the row embeds).
///
/// For one object, `list_meta.resource_version` is the object's own. A watch sends one-row tables and names the
/// columns only in its first (`with_columns`). `now` is for ages.
pub fn render(
    kind: &dyn AnyKind,
    objects: &[(Box<dyn AnyObject>, Bytes)],
    include: Include,
    list_meta: &ListMeta,
    with_columns: bool,
    now: jiff::Timestamp,
) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024 + objects.len() * 512);
    out.extend_from_slice(br#"{"kind":"Table","apiVersion":"meta.k8s.io/v1","metadata":"#);
    json(&mut out, list_meta);
    out.extend_from_slice(br#","columnDefinitions":"#);
    match with_columns {
        true => columns(&mut out, kind),
        false => out.extend_from_slice(b"null"),
    }
    out.extend_from_slice(br#","rows":["#);
    for (i, (object, bytes)) in objects.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(br#"{"cells":"#);
        json(&mut out, &kind.row(object.as_ref(), now));
        out.extend_from_slice(br#","object":"#);
        match include {
            Include::None => out.extend_from_slice(b"null"),
            Include::Metadata => push_partial(&mut out, bytes),
            Include::Object => out.extend_from_slice(bytes),
        }
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
    out
}

/// A stored object as `PartialObjectMetadata`.
pub fn partial(bytes: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    push_partial(&mut out, bytes);
    out
}

/// Stored objects as a `PartialObjectMetadataList`.
pub fn partial_list<'a>(objects: impl IntoIterator<Item = &'a Bytes>, list_meta: &ListMeta) -> Vec<u8> {
    let mut out = Vec::with_capacity(1024);
    out.extend_from_slice(
        br#"{"kind":"PartialObjectMetadataList","apiVersion":"meta.k8s.io/v1","metadata":"#,
    );
    json(&mut out, list_meta);
    out.extend_from_slice(br#","items":["#);
    for (i, bytes) in objects.into_iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        push_partial(&mut out, bytes);
    }
    out.extend_from_slice(b"]}");
    out
}

fn columns(out: &mut Vec<u8>, kind: &dyn AnyKind) {
    #[derive(Serialize)]
    struct Definition<'a> {
        name: &'a str,
        #[serde(rename = "type")]
        kind: &'a str,
        format: &'a str,
        description: &'a str,
        priority: i32,
    }
    let definitions = kind.columns().iter().map(|c| Definition {
        name: &c.name,
        kind: &c.kind,
        format: &c.format,
        description: &c.description,
        priority: c.priority,
    });
    json(out, &definitions.collect::<Vec<_>>());
}

fn push_partial(out: &mut Vec<u8>, object: &[u8]) {
    #[derive(Deserialize)]
    struct Head<'a> {
        #[serde(borrow)]
        metadata: Option<&'a RawValue>,
    }
    // Stored bytes are our own serialisation; were they not JSON, the row would say so by empty metadata.
    let head = serde_json::from_slice::<Head<'_>>(object).ok();
    let metadata = head.and_then(|h| h.metadata).map_or("{}", RawValue::get);
    out.extend_from_slice(br#"{"kind":"PartialObjectMetadata","apiVersion":"meta.k8s.io/v1","metadata":"#);
    out.extend_from_slice(metadata.as_bytes());
    out.push(b'}');
}

/// Appends `value` as JSON. Our own plain structs and values always serialise.
fn json(out: &mut Vec<u8>, value: &impl Serialize) {
    let start = out.len();
    if serde_json::to_writer(&mut *out, value).is_err() {
        out.truncate(start);
        out.extend_from_slice(b"null");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds;
    use serde_json::{Value, json};

    fn stored(name: &str) -> (Box<dyn AnyObject>, Bytes) {
        let object = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": name, "resourceVersion": "7", "creationTimestamp": "2027-01-15T08:00:00Z"},
            "data": {"a": "1", "b": "2"},
        });
        let bytes = Bytes::from(object.to_string());
        (kind().decode_stored(&bytes).unwrap(), bytes)
    }
    fn kind() -> &'static dyn AnyKind {
        kinds::by_plural("", "v1", "configmaps").unwrap()
    }
    fn table(names: &[&str], include: Include, meta: ListMeta, with_columns: bool) -> Value {
        let objects: Vec<_> = names.iter().map(|n| stored(n)).collect();
        let now = "2027-01-15T08:05:00Z".parse().unwrap();
        serde_json::from_slice(&render(kind(), &objects, include, &meta, with_columns, now)).unwrap()
    }

    #[test]
    fn a_table_names_its_columns_and_embeds_metadata() {
        let meta = ListMeta { resource_version: "9".into(), continue_: Some("t".into()), remaining: Some(3) };
        let table = table(&["x", "y"], Include::Metadata, meta, true);
        assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
        assert_eq!(
            table["metadata"],
            json!({"resourceVersion": "9", "continue": "t", "remainingItemCount": 3})
        );
        let first = &table["columnDefinitions"][0];
        assert_eq!(
            (&first["name"], &first["type"], &first["format"], &first["priority"]),
            (&json!("Name"), &json!("string"), &json!("name"), &json!(0))
        );
        assert_eq!(table["rows"].as_array().unwrap().len(), 2);
        let columns = table["columnDefinitions"].as_array().unwrap().len();
        assert_eq!(table["rows"][0]["cells"].as_array().unwrap().len(), columns);
        assert_eq!(table["rows"][1]["cells"], json!(["y", 2, "5m"]));
        assert_eq!(
            table["rows"][0]["object"],
            json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
                   "metadata": {"name": "x", "resourceVersion": "7", "creationTimestamp": "2027-01-15T08:00:00Z"}})
        );
    }

    #[test]
    fn rows_carry_as_much_of_the_object_as_was_asked_for() {
        let row = |include| table(&["x"], include, ListMeta::default(), false)["rows"][0]["object"].clone();
        assert_eq!(row(Include::None), Value::Null);
        assert_eq!(row(Include::Object)["data"], json!({"a": "1", "b": "2"}));
        let later = table(&[], Include::None, ListMeta::default(), false);
        assert_eq!(later["columnDefinitions"], Value::Null);
        assert_eq!((&later["rows"], &later["metadata"]), (&json!([]), &json!({})));
        assert_eq!(Include::parse(Some("Object")), Some(Include::Object));
        assert_eq!(Include::parse(None), Some(Include::Metadata));
        assert_eq!(Include::parse(Some("All")), None);
    }

    #[test]
    fn partial_metadata() {
        let (_, bytes) = stored("x");
        let one: Value = serde_json::from_slice(&partial(&bytes)).unwrap();
        assert_eq!(one["metadata"]["name"], "x");
        assert!(one.get("data").is_none());
        let meta = ListMeta { resource_version: "9".into(), ..ListMeta::default() };
        let list: Value = serde_json::from_slice(&partial_list([&bytes, &bytes], &meta)).unwrap();
        assert_eq!(list["kind"], "PartialObjectMetadataList");
        assert_eq!(list["items"], json!([one, one]));
    }
}
