//! Secret: as a ConfigMap, for what should not be read aloud. `stringData` is write-only and ends up in `data`.

use super::config_map::{DATA_MAX_BYTES, IMMUTABLE};
use super::shared::{cells, object_meta};
use super::{Column, Kind};
use api::field::{Errors, Path};
use api::names;
use jiff::Timestamp;
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use serde_json::Value;

pub(super) struct Secrets;

impl Kind for Secrets {
    type Object = Secret;
    const PLURAL: &'static str = "secrets";
    const SINGULAR: &'static str = "secret";
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("Type", "string", 0, "What the keys of the Secret mean"),
        Column::new("Data", "string", 0, "Number of keys the Secret holds"),
        Column::age(),
    ];
    const SELECTABLE: &'static [&'static str] = &["type"];

    fn default(object: &mut Secret) {
        if object.type_.as_deref().unwrap_or("").is_empty() {
            object.type_ = Some("Opaque".to_owned());
        }
        if let Some(strings) = object.string_data.take() {
            let data = object.data.get_or_insert_default();
            data.extend(strings.into_iter().map(|(key, text)| (key, ByteString(text.into_bytes()))));
        }
    }

    fn validate(object: &Secret) -> Errors {
        let mut errors = Errors::default();
        let path = Path::new("data");
        let none = Default::default();
        let data = object.data.as_ref().unwrap_or(&none);
        for key in data.keys() {
            errors.invalid_each(&path.key(key), key, names::config_map_key(key));
        }
        if data.values().map(|v| v.0.len()).sum::<usize>() > DATA_MAX_BYTES {
            errors.too_long(&path, DATA_MAX_BYTES);
        }
        let mut require = |key: &str| {
            if !data.contains_key(key) {
                errors.required(&path.key(key), "");
            }
        };
        match object.type_.as_deref().unwrap_or("") {
            "kubernetes.io/service-account-token" => {
                const NAME: &str = "kubernetes.io/service-account.name";
                let name = object.metadata.annotations.as_ref().and_then(|a| a.get(NAME));
                if name.is_none_or(String::is_empty) {
                    errors.required(&Path::new("metadata.annotations").key(NAME), "");
                }
            }
            "kubernetes.io/dockercfg" => docker_config(object, ".dockercfg", &mut errors),
            "kubernetes.io/dockerconfigjson" => docker_config(object, ".dockerconfigjson", &mut errors),
            "kubernetes.io/basic-auth"
                if !data.contains_key("username") && !data.contains_key("password") =>
            {
                require("username");
                require("password");
            }
            "kubernetes.io/ssh-auth" if data.get("ssh-privatekey").is_none_or(|v| v.0.is_empty()) => {
                errors.required(&path.key("ssh-privatekey"), "");
            }
            "kubernetes.io/tls" => {
                require("tls.crt");
                require("tls.key");
            }
            _ => {}
        }
        errors
    }

    fn validate_update(new: &Secret, old: &Secret) -> Errors {
        let mut errors = Errors::default();
        object_meta::immutable(new.type_.as_ref(), old.type_.as_ref(), &Path::new("type"), &mut errors);
        if old.immutable == Some(true) {
            if new.immutable != Some(true) {
                errors.forbidden(&Path::new("immutable"), IMMUTABLE);
            }
            if new.data != old.data {
                errors.forbidden(&Path::new("data"), IMMUTABLE);
            }
        }
        errors.extend(Self::validate(new));
        errors
    }

    fn row(object: &Secret, now: Timestamp) -> Vec<Value> {
        vec![
            cells::name(&object.metadata),
            cells::text(object.type_.as_ref()),
            object.data.as_ref().map_or(0, |d| d.len()).into(),
            cells::age(&object.metadata, now),
        ]
    }

    fn selectable_fields(object: &Secret) -> Vec<(&'static str, String)> {
        vec![("type", object.type_.clone().unwrap_or_default())]
    }
}

fn docker_config(object: &Secret, key: &str, errors: &mut Errors) {
    let path = Path::new("data").key(key);
    match object.data.as_ref().and_then(|d| d.get(key)) {
        None => errors.required(&path, ""),
        Some(bytes) => {
            if let Err(e) = serde_json::from_slice::<serde_json::Map<String, Value>>(&bytes.0) {
                errors.invalid(&path, "<secret contents redacted>", e.to_string());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{object, texts};
    use serde_json::json;

    #[test]
    fn string_data_becomes_data() {
        let mut secret = object::<Secret>(json!({"data": {"a": "MQ=="}, "stringData": {"a": "2", "b": "3"}}));
        Secrets::default(&mut secret);
        let value = serde_json::to_value(&secret).unwrap();
        assert_eq!(value["data"], json!({"a": "Mg==", "b": "Mw=="}));
        assert_eq!(value["type"], "Opaque");
        assert!(value.get("stringData").is_none());
    }

    #[test]
    fn types_require_keys() {
        for (type_, data, expected) in [
            (
                "kubernetes.io/tls",
                json!({}),
                vec!["data[tls.crt]: Required value", "data[tls.key]: Required value"],
            ),
            ("kubernetes.io/basic-auth", json!({"username": ""}), vec![]),
            ("kubernetes.io/ssh-auth", json!({}), vec!["data[ssh-privatekey]: Required value"]),
            ("kubernetes.io/dockerconfigjson", json!({".dockerconfigjson": "e30="}), vec![]),
            ("kubernetes.io/dockerconfigjson", json!({}), vec!["data[.dockerconfigjson]: Required value"]),
            ("mine", json!({}), vec![]),
        ] {
            let secret = object::<Secret>(json!({"type": type_, "data": data}));
            assert_eq!(texts(Secrets::validate(&secret)), expected, "{type_}");
        }
    }

    #[test]
    fn type_stays() {
        let old = object::<Secret>(json!({"type": "Opaque"}));
        let new = object::<Secret>(json!({"type": "other"}));
        let errors = texts(Secrets::validate_update(&new, &old));
        assert_eq!(errors, ["type: Invalid value: \"other\": field is immutable"]);
    }
}
