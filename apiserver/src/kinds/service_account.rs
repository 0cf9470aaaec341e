//! ServiceAccount: an identity for pods.

use super::shared::cells;
use super::{Column, Kind, Subresource};
use api::field::Errors;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::ServiceAccount;
use serde_json::Value;

pub(super) struct ServiceAccounts;

impl Kind for ServiceAccounts {
    type Object = ServiceAccount;
    const PLURAL: &'static str = "serviceaccounts";
    const SINGULAR: &'static str = "serviceaccount";
    const SHORT_NAMES: &'static [&'static str] = &["sa"];
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Token];
    const COLUMNS: &'static [Column] = &[Column::name(), Column::age()];
    const RETURNS_DELETED: bool = true;

    fn validate_update(_new: &ServiceAccount, _old: &ServiceAccount) -> Errors {
        Errors::default()
    }

    fn row(object: &ServiceAccount, now: Timestamp) -> Vec<Value> {
        vec![cells::name(&object.metadata), cells::age(&object.metadata, now)]
    }
}
