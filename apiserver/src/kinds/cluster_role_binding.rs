//! ClusterRoleBinding: who may do, everywhere, what a cluster role says.

use super::{Column, Kind};
use crate::kinds::shared::rbac;
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
    const COLUMNS: &'static [Column] = rbac::BINDING_COLUMNS;
    const CREATE_ON_UPDATE: bool = true;

    fn check_name(name: &str) -> Vec<String> {
        names::path_segment(name)
    }
    fn default(object: &mut ClusterRoleBinding) {
        rbac::default_binding(&mut object.role_ref, &mut object.subjects);
    }
    fn validate(object: &ClusterRoleBinding) -> Errors {
        rbac::validate_binding(&object.role_ref, &[rbac::CLUSTER_ROLE], object.subjects.as_deref(), false)
    }
    fn validate_update(new: &ClusterRoleBinding, old: &ClusterRoleBinding) -> Errors {
        let mut errors = Self::validate(new);
        rbac::same_role_ref(&new.role_ref, &old.role_ref, &mut errors);
        errors
    }
    fn row(object: &ClusterRoleBinding, now: Timestamp) -> Vec<Value> {
        rbac::binding_row(&object.metadata, &object.role_ref, object.subjects.as_deref(), now)
    }
}
