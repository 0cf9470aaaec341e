//! Lease: a heartbeat or a leader's claim.

use super::shared::cells;
use super::{Column, Kind};
use api::field::{Errors, Path};
use jiff::Timestamp;
use k8s_openapi::api::coordination::v1::Lease;
use serde_json::Value;

pub(super) struct Leases;

impl Kind for Leases {
    type Object = Lease;
    const PLURAL: &'static str = "leases";
    const SINGULAR: &'static str = "lease";
    const COLUMNS: &'static [Column] =
        &[Column::name(), Column::new("Holder", "string", 0, "Who holds the lease"), Column::age()];
    const UNCONDITIONAL_UPDATE: bool = false;
    const CREATE_ON_UPDATE: bool = true;

    fn validate(object: &Lease) -> Errors {
        let mut errors = Errors::default();
        let (Some(spec), path) = (&object.spec, Path::new("spec")) else { return errors };
        if spec.lease_duration_seconds.is_some_and(|s| s <= 0) {
            let detail = "must be greater than 0";
            errors.invalid(&path.child("leaseDurationSeconds"), spec.lease_duration_seconds, detail);
        }
        if spec.lease_transitions.is_some_and(|n| n < 0) {
            let detail = "must be greater than or equal to 0";
            errors.invalid(&path.child("leaseTransitions"), spec.lease_transitions, detail);
        }
        let strategy = spec.strategy.as_deref().unwrap_or("");
        if strategy.is_empty() && spec.preferred_holder.as_deref().is_some_and(|h| !h.is_empty()) {
            errors
                .forbidden(&path.child("preferredHolder"), "may only be specified if `strategy` is defined");
        }
        errors
    }

    fn validate_update(new: &Lease, _old: &Lease) -> Errors {
        Self::validate(new)
    }

    fn row(object: &Lease, now: Timestamp) -> Vec<Value> {
        let holder = object.spec.as_ref().and_then(|s| s.holder_identity.as_ref());
        vec![cells::name(&object.metadata), cells::text(holder), cells::age(&object.metadata, now)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{object, texts};
    use serde_json::json;

    #[test]
    fn durations_are_positive() {
        let lease = object::<Lease>(
            json!({"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1, "preferredHolder": "x"}}),
        );
        assert_eq!(
            texts(Leases::validate(&lease)),
            [
                "spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
                "spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
                "spec.preferredHolder: Forbidden: may only be specified if `strategy` is defined",
            ]
        );
    }

    #[test]
    fn micro_times_round_trip() {
        let time = "0001-01-01T00:00:02.000000Z";
        let lease = object::<Lease>(json!({"spec": {"acquireTime": time}}));
        assert_eq!(serde_json::to_value(lease).unwrap()["spec"]["acquireTime"], time);
    }
}
