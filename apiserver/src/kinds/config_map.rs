//! ConfigMap: configuration as keys and values.

use super::shared::cells;
use super::{Column, Kind};
use api::field::{Errors, Path};
use api::names;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ConfigMap;
use serde_json::Value;

/// All values of a ConfigMap or Secret together; Kubernetes' limit.
pub(super) const DATA_MAX_BYTES: usize = 1024 * 1024;
pub(super) const IMMUTABLE: &str = "field is immutable when `immutable` is set";

pub(super) struct ConfigMaps;

impl Kind for ConfigMaps {
    type Object = ConfigMap;
    const PLURAL: &'static str = "configmaps";
    const SINGULAR: &'static str = "configmap";
    const SHORT_NAMES: &'static [&'static str] = &["cm"];
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("Data", "string", 0, "Number of keys the ConfigMap holds"),
        Column::age(),
    ];

    fn validate(object: &ConfigMap) -> Errors {
        let mut errors = Errors::default();
        let (data, binary) = (Path::new("data"), Path::new("binaryData"));
        let mut bytes = 0;
        for (key, value) in object.data.iter().flatten() {
            errors.invalid_each(&data.key(key), key, names::config_map_key(key));
            if object.binary_data.as_ref().is_some_and(|b| b.contains_key(key)) {
                errors.invalid(&data.key(key), key, "duplicate of key present in binaryData");
            }
            bytes += value.len();
        }
        for (key, value) in object.binary_data.iter().flatten() {
            errors.invalid_each(&binary.key(key), key, names::config_map_key(key));
            bytes += value.0.len();
        }
        if bytes > DATA_MAX_BYTES {
            errors.too_long(&Path::new("[]"), DATA_MAX_BYTES);
        }
        errors
    }

    fn validate_update(new: &ConfigMap, old: &ConfigMap) -> Errors {
        let mut errors = Errors::default();
        if old.immutable == Some(true) {
            if new.immutable != Some(true) {
                errors.forbidden(&Path::new("immutable"), IMMUTABLE);
            }
            if new.data != old.data {
                errors.forbidden(&Path::new("data"), IMMUTABLE);
            }
            if new.binary_data != old.binary_data {
                errors.forbidden(&Path::new("binaryData"), IMMUTABLE);
            }
        }
        errors.extend(Self::validate(new));
        errors
    }

    fn row(object: &ConfigMap, now: Timestamp) -> Vec<Value> {
        let count =
            object.data.as_ref().map_or(0, |d| d.len()) + object.binary_data.as_ref().map_or(0, |d| d.len());
        vec![cells::name(&object.metadata), count.into(), cells::age(&object.metadata, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{object, texts};
    use serde_json::json;

    #[test]
    fn keys_size_and_immutable() {
        let valid = object::<ConfigMap>(json!({"data": {"a.b": "x"}, "binaryData": {"c": "AA=="}}));
        assert!(ConfigMaps::validate(&valid).is_empty());
        let wrong = object::<ConfigMap>(json!({"data": {"a": "", "": "x"}, "binaryData": {"a": ""}}));
        assert_eq!(
            texts(ConfigMaps::validate(&wrong)),
            [
                "data[]: Invalid value: \"\": a valid config key must consist of alphanumeric characters, '-', '_' or \
                 '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
                "data[a]: Invalid value: \"a\": duplicate of key present in binaryData",
            ]
        );
        let old = object::<ConfigMap>(json!({"immutable": true, "data": {"a": "1"}}));
        let new = object::<ConfigMap>(json!({"data": {"a": "2"}}));
        assert_eq!(
            texts(ConfigMaps::validate_update(&new, &old)),
            [
                "immutable: Forbidden: field is immutable when `immutable` is set",
                "data: Forbidden: field is immutable when `immutable` is set",
            ]
        );
        let big = object::<ConfigMap>(json!({"data": {"a": "x".repeat(DATA_MAX_BYTES + 1)}}));
        assert_eq!(texts(ConfigMaps::validate(&big)), ["[]: Too long: may not be more than 1048576 bytes"]);
    }
}
