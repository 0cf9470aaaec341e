//! What the kinds' tests have in common.

use api::field::Errors;
use serde::de::DeserializeOwned;
use serde_json::Value;

pub(in crate::kinds) fn object<T: DeserializeOwned>(value: Value) -> T {
    serde_json::from_value(value).unwrap()
}

pub(in crate::kinds) fn texts(errors: Errors) -> Vec<String> {
    errors.0.iter().map(ToString::to_string).collect()
}

/// Seconds after the epoch, as a timestamp of the API.
pub(in crate::kinds) fn at(seconds: i64) -> String {
    jiff::Timestamp::from_second(seconds).unwrap().to_string()
}
