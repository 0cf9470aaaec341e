//! Cells of tables.

use jiff::Timestamp;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta};
use serde_json::Value;
use std::collections::BTreeMap;

pub(in crate::kinds) fn name(meta: &ObjectMeta) -> Value {
    meta.name.as_deref().unwrap_or("").into()
}

pub(in crate::kinds) fn age(meta: &ObjectMeta, now: Timestamp) -> Value {
    api::age::since_time(meta.creation_timestamp.as_ref(), now).into()
}

/// The time itself, to the second.
pub(in crate::kinds) fn created_at(meta: &ObjectMeta) -> Value {
    serde_json::to_value(meta.creation_timestamp.as_ref()).unwrap_or_default()
}

pub(in crate::kinds) fn since_micro(then: Option<&MicroTime>, now: Timestamp) -> String {
    api::age::since(then.map(|t| t.0), now)
}

pub(in crate::kinds) fn text(text: Option<&String>) -> Value {
    text.map_or("", String::as_str).into()
}

/// The text, or `otherwise` where there is none.
pub(in crate::kinds) fn text_or<'a>(text: Option<&'a String>, otherwise: &'a str) -> &'a str {
    text.map(String::as_str).filter(|t| !t.is_empty()).unwrap_or(otherwise)
}

/// At most three of many: `a,b,c + 2 more...`; `<unset>` where there is none.
pub(in crate::kinds) fn some_of(items: &[String]) -> String {
    const SHOWN: usize = 3;
    match items.len() {
        0 => "<unset>".to_owned(),
        n if n <= SHOWN => items.join(","),
        n => format!("{} + {} more...", items[..SHOWN].join(","), n - SHOWN),
    }
}

/// `RWO,ROX`, in Kubernetes' order.
pub(in crate::kinds) fn access_modes(modes: &[String]) -> String {
    const SHORT: [(&str, &str); 4] = [
        ("ReadWriteOnce", "RWO"),
        ("ReadOnlyMany", "ROX"),
        ("ReadWriteMany", "RWX"),
        ("ReadWriteOncePod", "RWOP"),
    ];
    let present = SHORT.iter().filter(|(mode, _)| modes.iter().any(|m| m == mode)).map(|(_, short)| *short);
    present.collect::<Vec<_>>().join(",")
}

/// The class of a volume or claim: an annotation of old comes before the field.
pub(in crate::kinds) fn storage_class(meta: &ObjectMeta, field: Option<&String>) -> String {
    let annotated = meta.annotations.as_ref().and_then(|a| a.get("volume.beta.kubernetes.io/storage-class"));
    annotated.or(field).cloned().unwrap_or_default()
}

/// `a=b,c=d`, or `<none>`.
pub(in crate::kinds) fn labels(labels: Option<&BTreeMap<String, String>>) -> String {
    let all: Vec<_> = labels.into_iter().flatten().map(|(k, v)| format!("{k}={v}")).collect();
    if all.is_empty() { "<none>".to_owned() } else { all.join(",") }
}

/// Names and images of containers, each joined by commas.
pub(in crate::kinds) fn containers(all: &[k8s_openapi::api::core::v1::Container]) -> (String, String) {
    let names: Vec<_> = all.iter().map(|c| c.name.as_str()).collect();
    let images: Vec<_> = all.iter().map(|c| c.image.as_deref().unwrap_or("")).collect();
    (names.join(","), images.join(","))
}
