//! RBAC's own guard: nobody grants what they do not have. A role may hold only rules that its writer holds (or the
//! writer may `escalate`); a binding may refer only to a role whose rules its writer holds (or the writer may `bind`).

use super::{Attributes, Lookup, Operation, Plugin, typed};
use crate::{
    auth::{
        Authorizer, MASTERS, authz,
        rbac::rules::{joined, missing, printed},
    },
    error::{ApiError, Result},
    kinds::AnyObject,
};
use async_trait::async_trait;
use k8s_openapi::api::rbac::v1::{ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef};
use std::sync::Arc;

const GROUP: &str = "rbac.authorization.k8s.io";

#[derive(Clone)]
pub(super) struct RbacEscalation {
    pub(super) authorizer: Arc<Authorizer>,
}

#[async_trait]
impl Plugin for RbacEscalation {
    fn name(&self) -> &'static str {
        "RBACEscalation"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        matches!(a.operation, Operation::Create | Operation::Update)
            && a.kind.resource().group == GROUP
            && !a.user.is_in(MASTERS)
    }

    async fn validate(
        &self,
        a: &Attributes<'_>,
        object: Option<&dyn AnyObject>,
        old: Option<&dyn AnyObject>,
        _lookup: &dyn Lookup,
    ) -> Result<()> {
        let Some(object) = object else { return Ok(()) };
        if old.is_some_and(|old| only_collected(object, old)) {
            return Ok(());
        }
        match a.kind.resource().plural {
            "roles" => self.may_write(a, typed::<Role>(object)?.rules.as_deref()),
            "clusterroles" => {
                let role = typed::<ClusterRole>(object)?;
                self.may_write(a, role.rules.as_deref())?;
                let held = || missing(&self.authorizer.rules_for(a.user, ""), &everything()).is_empty();
                if role.aggregation_rule.is_some()
                    && !self.may(a, "escalate", "clusterroles", a.name)
                    && !held()
                {
                    // Whatever anyone labels comes to be part of it.
                    return Err(a.forbidden("must have cluster-admin privileges to use the aggregationRule"));
                }
                Ok(())
            }
            "rolebindings" => self.may_bind(a, &typed::<RoleBinding>(object)?.role_ref),
            "clusterrolebindings" => self.may_bind(a, &typed::<ClusterRoleBinding>(object)?.role_ref),
            _ => Ok(()),
        }
    }
}

impl RbacEscalation {
    fn may(&self, a: &Attributes<'_>, verb: &str, resource: &str, name: &str) -> bool {
        let namespace = a.namespace;
        let what = authz::Attributes {
            verb,
            group: GROUP,
            version: "*",
            resource,
            namespace,
            name,
            ..Default::default()
        };
        self.authorizer.allowed(a.user, &what)
    }

    fn may_write(&self, a: &Attributes<'_>, rules: Option<&[PolicyRule]>) -> Result<()> {
        let name = if a.operation == Operation::Create { "" } else { a.name };
        if self.may(a, "escalate", a.kind.resource().plural, name) {
            return Ok(());
        }
        self.holds(a, rules.unwrap_or_default())
    }

    fn may_bind(&self, a: &Attributes<'_>, reference: &RoleRef) -> Result<()> {
        let resource = if reference.kind == "Role" { "roles" } else { "clusterroles" };
        if self.may(a, "bind", resource, &reference.name) {
            return Ok(());
        }
        let rules = self.authorizer.rules_of(reference, a.namespace).ok_or_else(|| ApiError::NotFound {
            group: GROUP.to_owned(),
            resource: format!("{resource}.{GROUP}"),
            name: reference.name.clone(),
        })?;
        self.holds(a, &rules)
    }

    fn holds(&self, a: &Attributes<'_>, rules: &[PolicyRule]) -> Result<()> {
        let lacking = joined(missing(&self.authorizer.rules_for(a.user, a.namespace), rules));
        if lacking.is_empty() {
            return Ok(());
        }
        let mut lacking: Vec<String> = lacking.iter().map(printed).collect();
        lacking.sort();
        lacking.dedup();
        let groups: Vec<String> = a.user.groups.iter().map(|g| format!("{g:?}")).collect();
        Err(a.forbidden(format!(
            "user {:?} (groups=[{}]) is attempting to grant RBAC permissions not currently held:\n{}",
            a.user.name,
            groups.join(" "),
            lacking.join("\n")
        )))
    }
}

/// What `cluster-admin` holds.
fn everything() -> [PolicyRule; 2] {
    let all = || Some(vec!["*".to_owned()]);
    let rule = || PolicyRule { verbs: vec!["*".to_owned()], ..PolicyRule::default() };
    [
        PolicyRule { api_groups: all(), resources: all(), ..rule() },
        PolicyRule { non_resource_urls: all(), ..rule() },
    ]
}

/// Whether nothing differs but what the garbage collector has to be able to change.
fn only_collected(new: &dyn AnyObject, old: &dyn AnyObject) -> bool {
    let mut same = new.clone_box();
    let (meta, before) = (same.meta_mut(), old.meta());
    meta.owner_references.clone_from(&before.owner_references);
    meta.finalizers.clone_from(&before.finalizers);
    meta.managed_fields.clone_from(&before.managed_fields);
    meta.resource_version.clone_from(&before.resource_version);
    same.to_value() == old.to_value()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::testing::{Case, object},
        auth::{
            AUTHENTICATED, User,
            rbac::{index::Index, policy},
        },
    };
    use serde_json::{Value, json};

    /// Jane is `admin` of namespace `a` and may bind `view` everywhere.
    fn plugin() -> RbacEscalation {
        let mut objects = policy::objects();
        let bind = |name: &str, role: &str| {
            let role_ref = json!({"apiGroup": GROUP, "kind": "ClusterRole", "name": role});
            object(
                &format!("{GROUP}/v1"),
                "RoleBinding",
                "a",
                name,
                json!({"roleRef": role_ref,
                "subjects": [{"kind": "User", "name": "jane"}]}),
            )
        };
        // As the aggregation controller would have it, but for one rule.
        let edit = objects.cluster_roles["system:aggregate-to-admin"].rules.clone();
        if let Some(role) = objects.cluster_roles.get_mut("admin") {
            role.rules = edit;
        }
        let key = ("a".to_owned(), "jane".to_owned());
        objects.role_bindings.insert(key, serde_json::from_value(bind("jane", "admin")).unwrap());
        let authorizer = Authorizer::default();
        authorizer.set(Index::build(&objects));
        RbacEscalation { authorizer: Arc::new(authorizer) }
    }

    async fn tried(plural: &str, object: &Value) -> Result<()> {
        let jane = User { name: "jane".into(), groups: vec![AUTHENTICATED.into()], ..User::default() };
        Case::new(plural, Operation::Create).user(jane).validate(&plugin(), Some(object), None).await
    }

    fn role(kind: &str, verb: &str, resource: &str) -> Value {
        let rules = json!([{"verbs": [verb], "apiGroups": [GROUP], "resources": [resource]}]);
        object(
            &format!("{GROUP}/v1"),
            kind,
            if kind == "Role" { "a" } else { "" },
            "r",
            json!({"rules": rules}),
        )
    }

    #[tokio::test]
    async fn nobody_grants_what_they_do_not_have() {
        assert!(tried("roles", &role("Role", "get", "roles")).await.is_ok());
        let error = tried("roles", &role("Role", "get", "clusterroles")).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "roles.rbac.authorization.k8s.io \"r\" is forbidden: user \"jane\" (groups=[\"system:authenticated\"]) is \
             attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"rbac.authorization.k8s.io\"], \
             Resources:[\"clusterroles\"], Verbs:[\"get\"]}"
        );
        // What is held in one namespace is not held everywhere.
        assert!(tried("clusterroles", &role("ClusterRole", "get", "roles")).await.is_err());
        let binding = |role: &str| {
            let role_ref = json!({"apiGroup": GROUP, "kind": "ClusterRole", "name": role});
            object(&format!("{GROUP}/v1"), "RoleBinding", "a", "b", json!({ "roleRef": role_ref }))
        };
        assert!(tried("rolebindings", &binding("admin")).await.is_ok());
        assert_eq!(tried("rolebindings", &binding("cluster-admin")).await.unwrap_err().reason(), "Forbidden");
        assert_eq!(tried("rolebindings", &binding("nonsense")).await.unwrap_err().reason(), "NotFound");
    }

    #[test]
    fn the_collector_may_finish_what_it_may_not_grant() {
        let decoded = |value: &Value| {
            crate::admission::testing::decoded(crate::admission::testing::kind("roles"), value)
        };
        let old = role("Role", "get", "x");
        let mut new = old.clone();
        new["metadata"]["finalizers"] = json!(["a.b/c"]);
        assert!(only_collected(&*decoded(&new), &*decoded(&old)));
        new["rules"] = json!([]);
        assert!(!only_collected(&*decoded(&new), &*decoded(&old)));
    }
}
