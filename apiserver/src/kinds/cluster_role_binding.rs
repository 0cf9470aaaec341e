//! ClusterRoleBinding: who may do, everywhere, what a cluster role says.

use super::{Column, Kind};
use crate::kinds::shared::{cells, rbac};
use api::{field::Errors, names};
use jiff::Timestamp;
use k8s_openapi::api::rbac::v1::ClusterRoleBinding;
use serde_json::Value;

pub(super) struct ClusterRoleBindings;

impl Kind for ClusterRoleBindings {
    type Object = ClusterRoleBinding;
    const PLURAL: &'static str = "clusterrolebindings";
    const SINGULAR: &'static str = "clusterrolebinding";
    const NAMESPACED: bool = false;
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("Role", "string", 0, "What is granted"),
        Column::age(),
        Column::new("Users", "string", 1, "Users it is granted to"),
        Column::new("Groups", "string", 1, "Groups it is granted to"),
        Column::new("ServiceAccounts", "string", 1, "Service accounts it is granted to"),
    ];
    const CREATE_ON_UPDATE: bool = true;

    fn check_name(name: &str) -> Vec<String> {
        names::path_segment(name)
    }
    fn default(object: &mut ClusterRoleBinding) {
        rbac::default_role_ref(&mut object.role_ref);
        rbac::default_subjects(&mut object.subjects);
    }
    fn validate(object: &ClusterRoleBinding) -> Errors {
        let mut errors = Errors::default();
        rbac::validate_role_ref(&object.role_ref, &[rbac::CLUSTER_ROLE], &mut errors);
        rbac::validate_subjects(object.subjects.as_deref(), false, &mut errors);
        errors
    }
    fn validate_update(new: &ClusterRoleBinding, old: &ClusterRoleBinding) -> Errors {
        let mut errors = Self::validate(new);
        rbac::same_role_ref(&new.role_ref, &old.role_ref, &mut errors);
        errors
    }
    fn row(object: &ClusterRoleBinding, now: Timestamp) -> Vec<Value> {
        let (role, who) = rbac::binding_cells(&object.role_ref, object.subjects.as_deref());
        let mut row = vec![cells::name(&object.metadata), role.into(), cells::age(&object.metadata, now)];
        row.extend(who.map(Value::from));
        row
    }
}
