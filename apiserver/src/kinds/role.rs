//! Role: what may be done within one namespace.

use super::{Column, Kind};
use crate::kinds::shared::{cells, rbac};
use api::{field::Errors, names};
use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::Role;
use serde_json::Value;

pub(super) struct Roles;

impl Kind for Roles {
    type Object = Role;
    const PLURAL: &'static str = "roles";
    const SINGULAR: &'static str = "role";
    const COLUMNS: &'static [Column] = &[Column::name(), Column::created_at()];
    const CREATE_ON_UPDATE: bool = true;

    fn check_name(name: &str) -> Vec<String> {
        names::path_segment(name)
    }
    fn validate(object: &Role) -> Errors {
        let mut errors = Errors::default();
        rbac::validate_rules(object.rules.as_deref(), true, &mut errors);
        errors
    }
    fn validate_update(new: &Role, _old: &Role) -> Errors {
        Self::validate(new)
    }
    fn row(object: &Role, _now: Timestamp) -> Vec<Value> {
        vec![cells::name(&object.metadata), cells::created_at(&object.metadata)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{at, object, texts};
    use serde_json::json;

    #[test]
    fn rules_are_for_resources_of_the_namespace() {
        let role = object::<Role>(json!({
            "metadata": {"name": "a", "creationTimestamp": at(0)},
            "rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}],
        }));
        assert!(Roles::validate(&role).is_empty());
        assert_eq!(json!(Roles::row(&role, Timestamp::UNIX_EPOCH)), json!(["a", "1970-01-01T00:00:00Z"]));
        let wrong = object::<Role>(json!({"rules": [
            {"verbs": [], "resources": ["pods"]},
            {"verbs": ["get"], "apiGroups": [""]},
            {"verbs": ["get"], "nonResourceURLs": ["/x"], "resources": ["pods"]},
        ]}));
        assert_eq!(
            texts(Roles::validate(&wrong)),
            [
                "rules[0].verbs: Required value: verbs must contain at least one value",
                "rules[0].apiGroups: Required value: resource rules must supply at least one api group",
                "rules[1].resources: Required value: resource rules must supply at least one resource",
                "rules[2].nonResourceURLs: Invalid value: [\"/x\"]: namespaced rules cannot apply to non-resource URLs",
                "rules[2].nonResourceURLs: Invalid value: [\"/x\"]: rules cannot apply to both regular resources and \
                 non-resource URLs",
            ]
        );
    }
}
