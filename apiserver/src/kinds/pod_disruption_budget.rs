//! PodDisruptionBudget: how many of some pods may be away at a time by choice.

use super::shared::spec_and_status::spec_and_status;
use super::shared::{cells, int_or_percent, label_selector, pod_template};
use super::{Column, Kind, Subresource};
use api::field::{Errors, Path};
use jiff::Timestamp;
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec, PodDisruptionBudgetStatus};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use serde_json::Value;

pub(super) struct PodDisruptionBudgets;

impl Kind for PodDisruptionBudgets {
    type Object = PodDisruptionBudget;
    const PLURAL: &'static str = "poddisruptionbudgets";
    const SINGULAR: &'static str = "poddisruptionbudget";
    const SHORT_NAMES: &'static [&'static str] = &["pdb"];
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status];
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("Min Available", "string", 0, "The minimum number of pods that must be available."),
        Column::new("Max Unavailable", "string", 0, "The maximum number of pods that may be unavailable."),
        Column::new(
            "Allowed Disruptions",
            "integer",
            0,
            "Calculated number of pods that may be disrupted at this time.",
        ),
        Column::age(),
    ];
    const UNCONDITIONAL_UPDATE: bool = false;

    fn default(object: &mut PodDisruptionBudget) {
        object.spec.get_or_insert_default();
    }

    spec_and_status!(PodDisruptionBudget);

    fn validate(object: &PodDisruptionBudget) -> Errors {
        let (mut errors, none) = (Errors::default(), PodDisruptionBudgetSpec::default());
        let (spec, path) = (object.spec.as_ref().unwrap_or(&none), Path::new("spec"));
        if spec.min_available.is_some() && spec.max_unavailable.is_some() {
            errors.invalid(&path, spec, "minAvailable and maxUnavailable cannot be both set");
        }
        for (field, value) in
            [("minAvailable", &spec.min_available), ("maxUnavailable", &spec.max_unavailable)]
        {
            if let Some(value) = value {
                int_or_percent::validate_share(value, &path.child(field), &mut errors);
            }
        }
        if let Some(selector) = &spec.selector {
            label_selector::validate(selector, &path.child("selector"), &mut errors);
        }
        match spec.unhealthy_pod_eviction_policy.as_deref() {
            None | Some("AlwaysAllow" | "IfHealthyBudget") => {}
            Some(other) => {
                let path = path.child("unhealthyPodEvictionPolicy");
                errors.not_supported(&path, other, &["AlwaysAllow", "IfHealthyBudget"]);
            }
        }
        errors
    }

    fn validate_update(new: &PodDisruptionBudget, _: &PodDisruptionBudget) -> Errors {
        Self::validate(new)
    }

    fn validate_status_update(new: &PodDisruptionBudget, _: &PodDisruptionBudget) -> Errors {
        let (mut errors, none) = (Errors::default(), PodDisruptionBudgetStatus::default());
        let status = new.status.as_ref().unwrap_or(&none);
        let counts = [
            ("disruptionsAllowed", status.disruptions_allowed),
            ("currentHealthy", status.current_healthy),
            ("desiredHealthy", status.desired_healthy),
            ("expectedPods", status.expected_pods),
        ];
        pod_template::not_negative(counts, &Path::new("status"), &mut errors);
        errors
    }

    fn row(object: &PodDisruptionBudget, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let allowed = object.status.as_ref().and_then(|s| s.disruptions_allowed).unwrap_or(0);
        let text = |value: Option<IntOrString>| -> Value {
            match value {
                None => "N/A".into(),
                Some(IntOrString::Int(number)) => number.to_string().into(),
                Some(IntOrString::String(text)) => text.into(),
            }
        };
        vec![
            cells::name(&object.metadata),
            text(spec.min_available),
            text(spec.max_unavailable),
            allowed.into(),
            cells::age(&object.metadata, now),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{at, object, texts};
    use serde_json::json;

    #[test]
    fn rules_and_row() {
        let budget = |spec: Value| -> PodDisruptionBudget {
            object(json!({"metadata": {"name": "a", "creationTimestamp": at(0)}, "spec": spec}))
        };
        let faults = |spec| texts(PodDisruptionBudgets::validate(&budget(spec)));
        assert!(faults(json!({"minAvailable": "50%", "selector": {}})).is_empty());
        assert_eq!(
            faults(json!({"minAvailable": 1, "maxUnavailable": "101%"})),
            [
                "spec: Invalid value: {\"maxUnavailable\":\"101%\",\"minAvailable\":1}: minAvailable and maxUnavailable cannot \
                 be both set",
                "spec.maxUnavailable: Invalid value: \"101%\": must not be greater than 100%",
            ]
        );
        let row = PodDisruptionBudgets::row(
            &budget(json!({"minAvailable": 2})),
            "1970-01-01T00:00:07Z".parse().unwrap(),
        );
        assert_eq!(json!(row), json!(["a", "2", "N/A", 0, "7s"]));
    }
}
