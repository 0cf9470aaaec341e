//! RoleBinding: who may do, within a namespace, what a role says.

use super::{Column, Kind};
use crate::kinds::shared::rbac;
use api::{field::Errors, names};
use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::RoleBinding;
use serde_json::Value;

pub(super) struct RoleBindings;

impl Kind for RoleBindings {
    type Object = RoleBinding;
    const PLURAL: &'static str = "rolebindings";
    const SINGULAR: &'static str = "rolebinding";
    const COLUMNS: &'static [Column] = rbac::BINDING_COLUMNS;
    const CREATE_ON_UPDATE: bool = true;

    fn check_name(name: &str) -> Vec<String> {
        names::path_segment(name)
    }
    fn default(object: &mut RoleBinding) {
        rbac::default_binding(&mut object.role_ref, &mut object.subjects);
    }
    fn validate(object: &RoleBinding) -> Errors {
        rbac::validate_binding(
            &object.role_ref,
            &["Role", rbac::CLUSTER_ROLE],
            object.subjects.as_deref(),
            true,
        )
    }
    fn validate_update(new: &RoleBinding, old: &RoleBinding) -> Errors {
        let mut errors = Self::validate(new);
        rbac::same_role_ref(&new.role_ref, &old.role_ref, &mut errors);
        errors
    }
    fn row(object: &RoleBinding, now: Timestamp) -> Vec<Value> {
        rbac::binding_row(&object.metadata, &object.role_ref, object.subjects.as_deref(), now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{object, texts};
    use serde_json::json;

    #[test]
    fn defaults_rules_and_row() {
        let mut binding = object::<RoleBinding>(json!({
            "metadata": {"name": "b"},
            "roleRef": {"kind": "ClusterRole", "name": "view"},
            "subjects": [
                {"kind": "User", "name": "jane"}, {"kind": "User", "name": "joe"}, {"kind": "Group", "name": "dev"},
                {"kind": "ServiceAccount", "name": "bot", "namespace": "ci"},
            ],
        }));
        RoleBindings::default(&mut binding);
        assert!(RoleBindings::validate(&binding).is_empty());
        assert_eq!(
            json!(RoleBindings::row(&binding, Timestamp::UNIX_EPOCH)),
            json!(["b", "ClusterRole/view", "<unknown>", "jane, joe", "dev", "ci/bot"])
        );
        let mut other = binding.clone();
        other.role_ref.name = "edit".into();
        assert_eq!(
            texts(RoleBindings::validate_update(&other, &binding)),
            ["roleRef: Invalid value: {\"apiGroup\":\"rbac.authorization.k8s.io\",\"kind\":\"ClusterRole\",\
              \"name\":\"edit\"}: cannot change roleRef"]
        );
    }

    #[test]
    fn bad_references() {
        let wrong = object::<RoleBinding>(json!({
            "roleRef": {"apiGroup": "x", "kind": "Pod", "name": "a/b"},
            "subjects": [{"kind": "Robot", "name": ""}, {"kind": "User", "name": "a", "apiGroup": "x"}],
        }));
        assert_eq!(
            texts(RoleBindings::validate(&wrong)),
            [
                "roleRef.apiGroup: Unsupported value: \"x\": supported values: \"rbac.authorization.k8s.io\"",
                "roleRef.kind: Unsupported value: \"Pod\": supported values: \"Role\", \"ClusterRole\"",
                "roleRef.name: Invalid value: \"a/b\": may not contain '/'",
                "subjects[0].name: Required value",
                "subjects[0].kind: Unsupported value: \"Robot\": supported values: \"ServiceAccount\", \"User\", \"Group\"",
                "subjects[1].apiGroup: Unsupported value: \"x\": supported values: \"rbac.authorization.k8s.io\"",
            ]
        );
    }
}
