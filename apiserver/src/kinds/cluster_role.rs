//! ClusterRole: what may be done anywhere, or in whatever namespace it is bound in.

use super::{Column, Kind};
use crate::kinds::shared::{cells, rbac};
use api::{field::Errors, names};
use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::ClusterRole;
use serde_json::Value;

pub(super) struct ClusterRoles;

impl Kind for ClusterRoles {
    type Object = ClusterRole;
    const PLURAL: &'static str = "clusterroles";
    const SINGULAR: &'static str = "clusterrole";
    const NAMESPACED: bool = false;
    const COLUMNS: &'static [Column] = &[Column::name(), Column::created_at()];
    const CREATE_ON_UPDATE: bool = true;

    fn check_name(name: &str) -> Vec<String> {
        names::path_segment(name)
    }
    fn validate(object: &ClusterRole) -> Errors {
        let mut errors = Errors::default();
        rbac::validate_rules(object.rules.as_deref(), false, &mut errors);
        rbac::validate_aggregation(object.aggregation_rule.as_ref(), &mut errors);
        errors
    }
    fn validate_update(new: &ClusterRole, _old: &ClusterRole) -> Errors {
        Self::validate(new)
    }
    fn row(object: &ClusterRole, _now: Timestamp) -> Vec<Value> {
        vec![cells::name(&object.metadata), cells::created_at(&object.metadata)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{object, texts};
    use serde_json::json;

    #[test]
    fn paths_are_allowed_and_aggregation_needs_a_selector() {
        let role = object::<ClusterRole>(json!({
            "metadata": {"name": "system:a"},
            "rules": [{"verbs": ["get"], "nonResourceURLs": ["/metrics"]}],
            "aggregationRule": {"clusterRoleSelectors": [{"matchLabels": {"a": "b"}}]},
        }));
        assert!(ClusterRoles::validate(&role).is_empty());
        assert!(
            ClusterRoles::check_name("system:a").is_empty() && !ClusterRoles::check_name("a/b").is_empty()
        );
        let wrong = object::<ClusterRole>(json!({"aggregationRule": {}}));
        assert_eq!(
            texts(ClusterRoles::validate(&wrong)),
            [
                "aggregationRule.clusterRoleSelectors: Required value: at least one clusterRoleSelector required if \
              aggregationRule is non-nil"
            ]
        );
    }
}
