//! Who is granted what, ready to be asked: roles and bindings as maps from subjects to rules.
//!
//! Built whole whenever one of the objects changes, which is rare; asked on every request, where it allocates nothing.

use super::rules;
use crate::auth::{User, authn::service_account_name, authz::Attributes};
use k8s_openapi::api::rbac::v1::{
    ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
};
use std::{collections::HashMap, sync::Arc};

/// The objects themselves, by namespace and name.
#[derive(Default, Clone)]
pub(crate) struct Objects {
    pub(crate) roles: HashMap<(String, String), Role>,
    pub(crate) role_bindings: HashMap<(String, String), RoleBinding>,
    pub(crate) cluster_roles: HashMap<String, ClusterRole>,
    pub(crate) cluster_role_bindings: HashMap<String, ClusterRoleBinding>,
}

type Rules = Arc<[PolicyRule]>;

/// What one binding grants to one subject.
struct Grant {
    rules: Rules,
    /// For the reason of an access review.
    source: String,
}

#[derive(Default)]
struct Subjects {
    users: HashMap<String, Vec<Grant>>,
    groups: HashMap<String, Vec<Grant>>,
}

#[derive(Default)]
pub(crate) struct Index {
    everywhere: Subjects,
    namespaces: HashMap<String, Subjects>,
    cluster_roles: HashMap<String, Rules>,
    roles: HashMap<String, HashMap<String, Rules>>,
}

impl Index {
    pub(crate) fn build(objects: &Objects) -> Self {
        let rules =
            |rules: &Option<Vec<PolicyRule>>| -> Rules { rules.as_deref().unwrap_or_default().into() };
        let mut index = Self::default();
        for (name, role) in &objects.cluster_roles {
            index.cluster_roles.insert(name.clone(), rules(&role.rules));
        }
        for ((namespace, name), role) in &objects.roles {
            index.roles.entry(namespace.clone()).or_default().insert(name.clone(), rules(&role.rules));
        }
        for (name, binding) in &objects.cluster_role_bindings {
            let Some(rules) = index.rules_of(&binding.role_ref, "") else { continue };
            let source = format!("ClusterRoleBinding {name:?} of ClusterRole {:?}", binding.role_ref.name);
            index.everywhere.grant(binding.subjects.as_deref(), "", &rules, &source);
        }
        for ((namespace, name), binding) in &objects.role_bindings {
            let Some(rules) = index.rules_of(&binding.role_ref, namespace) else { continue };
            let reference = &binding.role_ref;
            let source = format!(
                "RoleBinding {:?} of {} {:?}",
                format!("{name}/{namespace}"),
                reference.kind,
                reference.name
            );
            let here = index.namespaces.entry(namespace.clone()).or_default();
            here.grant(binding.subjects.as_deref(), namespace, &rules, &source);
        }
        index
    }

    /// The rules of a role that a binding in `namespace` (empty for cluster role bindings) refers to.
    pub(crate) fn rules_of(&self, reference: &RoleRef, namespace: &str) -> Option<Rules> {
        match reference.kind.as_str() {
            "ClusterRole" => self.cluster_roles.get(&reference.name).cloned(),
            "Role" => self.roles.get(namespace)?.get(&reference.name).cloned(),
            _ => None,
        }
    }

    /// By which binding the user may do it.
    pub(crate) fn allows<'a>(&'a self, user: &User, what: &Attributes<'_>) -> Option<&'a str> {
        let mut grants = self.grants(user, what.namespace);
        let grant = grants.find(|grant| grant.rules.iter().any(|rule| rules::allows(rule, what)))?;
        Some(&grant.source)
    }

    /// Whether the rules of this cluster role allow it, whoever holds them.
    pub(crate) fn role_allows(&self, role: &str, what: &Attributes<'_>) -> bool {
        self.cluster_roles.get(role).is_some_and(|rules| rules.iter().any(|rule| rules::allows(rule, what)))
    }

    /// Every rule that holds for the user in the namespace.
    pub(crate) fn rules_for(&self, user: &User, namespace: &str) -> Vec<PolicyRule> {
        self.grants(user, namespace).flat_map(|grant| grant.rules.iter().cloned()).collect()
    }

    fn grants<'a>(&'a self, user: &User, namespace: &str) -> impl Iterator<Item = &'a Grant> {
        let here = if namespace.is_empty() { None } else { self.namespaces.get(namespace) };
        std::iter::once(&self.everywhere).chain(here).flat_map(move |subjects| {
            let by_name = subjects.users.get(&user.name);
            let by_group = user.groups.iter().filter_map(|group| subjects.groups.get(group));
            by_name.into_iter().chain(by_group).flatten()
        })
    }
}

impl Subjects {
    /// `namespace`: where a service account is that names none.
    fn grant(&mut self, subjects: Option<&[Subject]>, namespace: &str, rules: &Rules, source: &str) {
        for subject in subjects.unwrap_or_default() {
            let (of, name, shown) = match subject.kind.as_str() {
                "User" => (&mut self.users, subject.name.clone(), subject.name.clone()),
                "Group" => (&mut self.groups, subject.name.clone(), subject.name.clone()),
                "ServiceAccount" => {
                    let given = subject.namespace.as_deref().filter(|n| !n.is_empty());
                    let namespace = given.unwrap_or(namespace);
                    if namespace.is_empty() {
                        continue;
                    }
                    let name = service_account_name(namespace, &subject.name);
                    (&mut self.users, name, format!("{}/{namespace}", subject.name))
                }
                _ => continue,
            };
            let source = format!("{source} to {} {shown:?}", subject.kind);
            of.entry(name).or_default().push(Grant { rules: rules.clone(), source });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::AUTHENTICATED;
    use serde_json::{Value, json};

    fn objects(all: &[Value]) -> Objects {
        let mut objects = Objects::default();
        for object in all {
            let name = object["metadata"]["name"].as_str().unwrap().to_owned();
            let namespace = object["metadata"]["namespace"].as_str().unwrap_or_default().to_owned();
            let (key, object) = ((namespace, name.clone()), object.clone());
            match object["kind"].as_str().unwrap() {
                "Role" => drop(objects.roles.insert(key, serde_json::from_value(object).unwrap())),
                "RoleBinding" => {
                    drop(objects.role_bindings.insert(key, serde_json::from_value(object).unwrap()))
                }
                "ClusterRole" => {
                    drop(objects.cluster_roles.insert(name, serde_json::from_value(object).unwrap()))
                }
                _ => {
                    drop(objects.cluster_role_bindings.insert(name, serde_json::from_value(object).unwrap()))
                }
            }
        }
        objects
    }

    fn role(kind: &str, namespace: &str, name: &str, resource: &str) -> Value {
        let rules = json!([{"verbs": ["get"], "apiGroups": [""], "resources": [resource]}]);
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
               "metadata": {"name": name, "namespace": namespace}, "rules": rules})
    }

    fn binding(kind: &str, namespace: &str, name: &str, role: (&str, &str), subjects: Value) -> Value {
        json!({"apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind,
               "metadata": {"name": name, "namespace": namespace},
               "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": role.0, "name": role.1},
               "subjects": subjects})
    }

    #[test]
    fn who_is_granted_what_where() {
        let index = Index::build(&objects(&[
            role("ClusterRole", "", "pods", "pods"),
            role("Role", "a", "secrets", "secrets"),
            role("Role", "b", "secrets", "configmaps"),
            binding(
                "ClusterRoleBinding",
                "",
                "devs",
                ("ClusterRole", "pods"),
                json!([{"kind": "Group", "name": "dev"}]),
            ),
            binding(
                "RoleBinding",
                "a",
                "jane",
                ("Role", "secrets"),
                json!([
                {"kind": "User", "name": "jane"}, {"kind": "ServiceAccount", "name": "bot"}]),
            ),
            binding(
                "RoleBinding",
                "b",
                "bot",
                ("ClusterRole", "pods"),
                json!([
                {"kind": "ServiceAccount", "name": "bot", "namespace": "a"}]),
            ),
            binding(
                "RoleBinding",
                "b",
                "dangling",
                ("Role", "none"),
                json!([{"kind": "User", "name": "jane"}]),
            ),
            // A service account of no namespace is nobody.
            binding(
                "ClusterRoleBinding",
                "",
                "lost",
                ("ClusterRole", "pods"),
                json!([
                {"kind": "ServiceAccount", "name": "bot"}]),
            ),
        ]));
        let user = |name: &str, groups: &[&str]| User {
            name: name.to_owned(),
            groups: groups.iter().map(|g| (*g).to_owned()).chain([AUTHENTICATED.to_owned()]).collect(),
            ..User::default()
        };
        let (jane, dev) = (user("jane", &[]), user("d", &["dev"]));
        let bot = user("system:serviceaccount:a:bot", &["system:serviceaccounts"]);
        let get =
            |namespace, resource| Attributes { verb: "get", namespace, resource, ..Attributes::default() };
        for (user, what, expected) in [
            (
                &dev,
                get("", "pods"),
                Some(r#"ClusterRoleBinding "devs" of ClusterRole "pods" to Group "dev""#),
            ),
            (
                &dev,
                get("b", "pods"),
                Some(r#"ClusterRoleBinding "devs" of ClusterRole "pods" to Group "dev""#),
            ),
            (&dev, get("a", "secrets"), None),
            (&jane, get("a", "secrets"), Some(r#"RoleBinding "jane/a" of Role "secrets" to User "jane""#)),
            (&jane, get("b", "secrets"), None),
            (&jane, get("", "secrets"), None),
            (
                &bot,
                get("a", "secrets"),
                Some(r#"RoleBinding "jane/a" of Role "secrets" to ServiceAccount "bot/a""#),
            ),
            (
                &bot,
                get("b", "pods"),
                Some(r#"RoleBinding "bot/b" of ClusterRole "pods" to ServiceAccount "bot/a""#),
            ),
            (&bot, get("", "pods"), None),
        ] {
            assert_eq!(index.allows(user, &what), expected, "{} {what:?}", user.name);
        }
        assert_eq!(index.rules_for(&bot, "a").len(), 1);
        let reference = RoleRef { kind: "Role".into(), name: "secrets".into(), ..RoleRef::default() };
        assert!(index.rules_of(&reference, "a").is_some() && index.rules_of(&reference, "c").is_none());
    }
}
