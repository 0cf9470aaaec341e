//! The roles and bindings that every cluster has, read from a table (`policy.txt`): Kubernetes' own, then ours.
//!
//! `role [NAMESPACE/]NAME` is followed by its rules: `VERBS GROUPS RESOURCES [NAMES]` or `VERBS url PATHS`, each list
//! by comma; `core` is the empty group, `read` and `write` stand for their verbs. `from X` makes the role an aggregate
//! of those labelled `into X`. `bind [NAMESPACE/]NAME [to ROLE]` is followed by its subjects. Each
//! `system:controller:X` is bound to the service account `kube-system/X`: as that the controller X asks.

use super::index::Objects;
use k8s_openapi::{
    api::rbac::v1::{
        AggregationRule, ClusterRole, ClusterRoleBinding, PolicyRule, Role, RoleBinding, RoleRef, Subject,
    },
    apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta},
};
use std::collections::BTreeMap;

const TABLE: &str = include_str!("policy.txt");
const GROUP: &str = "rbac.authorization.k8s.io";
/// Put on all of them; without it (or with `false`) a person keeps an object as it is.
pub(crate) const AUTO_UPDATE: &str = "rbac.authorization.kubernetes.io/autoupdate";
const BOOTSTRAPPING: (&str, &str) = ("kubernetes.io/bootstrapping", "rbac-defaults");
const AGGREGATE: &str = "rbac.authorization.k8s.io/aggregate-to-";
const CONTROLLER: &str = "system:controller:";
const READ: [&str; 3] = ["get", "list", "watch"];
const WRITE: [&str; 5] = ["create", "delete", "deletecollection", "patch", "update"];

/// All of them.
pub(crate) fn objects() -> Objects {
    let mut objects = Objects::default();
    let mut lines = TABLE.lines().filter(|l| !l.is_empty() && !l.starts_with('#')).peekable();
    while let Some(head) = lines.next() {
        let mut body = Vec::new();
        while let Some(line) = lines.next_if(|l| l.starts_with(' ')) {
            body.push(line.trim_start());
        }
        let words: Vec<&str> = head.split(' ').collect();
        match words.as_slice() {
            ["role", name] => role(&mut objects, name, &body),
            ["bind", name] => bind(&mut objects, name, place(name).1, &subjects(&body)),
            ["bind", name, "to", role] => bind(&mut objects, name, role, &subjects(&body)),
            // None in the table: `the_table_is_read_whole` would find it.
            _ => {}
        }
    }
    objects
}

/// Namespace (empty for none) and name. Names hold `:` and `.`, never `/`.
fn place(text: &str) -> (&str, &str) {
    text.split_once('/').unwrap_or(("", text))
}

fn metadata(namespace: &str, name: &str) -> ObjectMeta {
    let pair = |(key, value): (&str, &str)| Some(BTreeMap::from([(key.to_owned(), value.to_owned())]));
    ObjectMeta {
        name: Some(name.to_owned()),
        namespace: Some(namespace.to_owned()).filter(|n| !n.is_empty()),
        labels: pair(BOOTSTRAPPING),
        annotations: pair((AUTO_UPDATE, "true")),
        ..ObjectMeta::default()
    }
}

fn role(objects: &mut Objects, place_and_name: &str, body: &[&str]) {
    let (namespace, name) = place(place_and_name);
    let mut metadata = metadata(namespace, name);
    let (mut rules, mut aggregation) = (Vec::new(), None);
    for line in body {
        if let Some(target) = line.strip_prefix("into ") {
            let labels = metadata.labels.get_or_insert_default();
            labels.insert(format!("{AGGREGATE}{target}"), "true".to_owned());
        } else if let Some(source) = line.strip_prefix("from ") {
            let labels = BTreeMap::from([(format!("{AGGREGATE}{source}"), "true".to_owned())]);
            let selector = LabelSelector { match_labels: Some(labels), match_expressions: None };
            aggregation = Some(AggregationRule { cluster_role_selectors: Some(vec![selector]) });
        } else {
            rules.extend(rule(line));
        }
    }
    let rules = Some(rules).filter(|r| !r.is_empty());
    if !namespace.is_empty() {
        let key = (namespace.to_owned(), name.to_owned());
        objects.roles.insert(key, Role { metadata, rules });
        return;
    }
    objects
        .cluster_roles
        .insert(name.to_owned(), ClusterRole { metadata, rules, aggregation_rule: aggregation });
    if let Some(account) = name.strip_prefix(CONTROLLER) {
        bind(objects, name, name, &[subject("ServiceAccount", account, Some("kube-system"))]);
    }
}

/// One rule of the table.
pub(super) fn rule(line: &str) -> Option<PolicyRule> {
    let split = |text: &str| -> Vec<String> { text.split(',').map(str::to_owned).collect() };
    let mut words = line.split(' ');
    let mut verbs = Vec::new();
    for verb in words.next()?.split(',') {
        match verb {
            "read" => verbs.extend(READ.map(str::to_owned)),
            "write" => verbs.extend(WRITE.map(str::to_owned)),
            verb => verbs.push(verb.to_owned()),
        }
    }
    let (groups, targets, names) = (words.next()?, words.next()?, words.next());
    if groups == "url" {
        return Some(PolicyRule { verbs, non_resource_urls: Some(split(targets)), ..PolicyRule::default() });
    }
    let groups = groups.split(',').map(|g| if g == "core" { "" } else { g }.to_owned()).collect();
    Some(PolicyRule {
        verbs,
        api_groups: Some(groups),
        resources: Some(split(targets)),
        resource_names: names.map(split),
        non_resource_urls: None,
    })
}

fn bind(objects: &mut Objects, place_and_name: &str, role: &str, subjects: &[Subject]) {
    let (namespace, name) = place(place_and_name);
    let reference = |kind: &str| RoleRef {
        api_group: Some(GROUP.to_owned()),
        kind: kind.to_owned(),
        name: role.to_owned(),
    };
    let subjects = Some(subjects.to_vec()).filter(|s| !s.is_empty());
    let metadata = metadata(namespace, name);
    if namespace.is_empty() {
        let binding = ClusterRoleBinding { metadata, role_ref: reference("ClusterRole"), subjects };
        objects.cluster_role_bindings.insert(name.to_owned(), binding);
    } else {
        let binding = RoleBinding { metadata, role_ref: reference("Role"), subjects };
        objects.role_bindings.insert((namespace.to_owned(), name.to_owned()), binding);
    }
}

fn subjects(body: &[&str]) -> Vec<Subject> {
    let read = |line: &&str| {
        let (kind, name) = line.split_once(' ')?;
        Some(match kind {
            "user" => subject("User", name, None),
            "group" => subject("Group", name, None),
            "account" => subject("ServiceAccount", place(name).1, Some(place(name).0)),
            _ => return None,
        })
    };
    body.iter().filter_map(read).collect()
}

fn subject(kind: &str, name: &str, namespace: Option<&str>) -> Subject {
    Subject {
        api_group: namespace.is_none().then(|| GROUP.to_owned()),
        kind: kind.to_owned(),
        name: name.to_owned(),
        namespace: namespace.map(str::to_owned),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        auth::{AUTHENTICATED, MASTERS, User, authz::Attributes, rbac::index::Index},
        kinds,
    };

    #[test]
    fn the_table_is_read_whole() {
        for line in TABLE.lines().filter(|l| !l.starts_with([' ', '#']) && !l.is_empty()) {
            let words: Vec<&str> = line.split(' ').collect();
            assert!(matches!(words.as_slice(), ["role" | "bind", _] | ["bind", _, "to", _]), "{line:?}");
        }
        for line in TABLE.lines().filter(|l| l.starts_with(' ')) {
            let words: Vec<&str> = line.trim_start().split(' ').collect();
            match words.as_slice() {
                ["into" | "from" | "user" | "group" | "account", _] => {}
                [_, _, _] | [_, _, _, _] => assert!(rule(line.trim_start()).is_some(), "{line}"),
                _ => panic!("{line:?} is neither rule nor subject"),
            }
        }
        let all = objects();
        assert!(all.cluster_roles.len() > 60, "{}", all.cluster_roles.len());
        for (name, binding) in &all.cluster_role_bindings {
            assert!(all.cluster_roles.contains_key(&binding.role_ref.name), "{name} binds no role");
        }
        for ((namespace, name), binding) in &all.role_bindings {
            let key = (namespace.clone(), binding.role_ref.name.clone());
            assert!(all.roles.contains_key(&key), "{namespace}/{name} binds no role");
        }
        // What is served is what is checked: every object passes its kind's own rules.
        let check = |plural: &str, object: serde_json::Value| {
            let kind = kinds::by_plural(GROUP, "v1", plural).unwrap();
            let mut object = kind.decode(object).unwrap().object;
            kind.default(&mut *object);
            assert!(kind.validate(&*object).is_empty(), "{:?}", object.meta().name);
        };
        for role in all.cluster_roles.values() {
            check("clusterroles", serde_json::to_value(role).unwrap());
        }
        for binding in all.cluster_role_bindings.values() {
            check("clusterrolebindings", serde_json::to_value(binding).unwrap());
        }
        for role in all.roles.values() {
            check("roles", serde_json::to_value(role).unwrap());
        }
        for binding in all.role_bindings.values() {
            check("rolebindings", serde_json::to_value(binding).unwrap());
        }
    }

    #[test]
    fn who_may_what_in_a_new_cluster() {
        let index = Index::build(&objects());
        let user = |name: &str, groups: &[&str]| User {
            name: name.to_owned(),
            groups: groups.iter().map(|g| (*g).to_owned()).collect(),
            ..User::default()
        };
        let on = |verb, group, resource| Attributes { verb, group, resource, ..Attributes::default() };
        let path = |path| Attributes { verb: "get", path, ..Attributes::default() };
        let (admin, jane) = (user("admin", &[MASTERS, AUTHENTICATED]), user("jane", &[AUTHENTICATED]));
        let nobody = User::anonymous();
        let scheduler = user("system:kube-scheduler", &[AUTHENTICATED]);
        let controller = |name| User::service_account("kube-system", name);
        let sets = controller("statefulset-controller");
        let volumes = controller("persistent-volume-binder");
        let aggregation = controller("clusterrole-aggregation-controller");
        let quotas = controller("resourcequota-controller");
        let manager = user("system:kube-controller-manager", &[AUTHENTICATED]);
        let informers = user("system:minik8s-informers", &[AUTHENTICATED]);
        let node = user("system:node:n1", &["system:nodes", AUTHENTICATED]);
        let collector = controller("generic-garbage-collector");
        for (user, what, expected) in [
            (&admin, on("delete", "", "nodes"), true),
            (&admin, path("/metrics"), true),
            (&jane, on("list", "", "pods"), false),
            (&jane, on("create", "authorization.k8s.io", "selfsubjectaccessreviews"), true),
            (&jane, path("/apis/apps/v1"), true),
            (&jane, path("/openapi/v3"), true),
            (&jane, path("/metrics"), false),
            (&nobody, path("/version"), true),
            (&nobody, path("/livez"), true),
            (&nobody, path("/livez/ping"), false),
            (&nobody, path("/api"), false),
            (&nobody, on("create", "authorization.k8s.io", "selfsubjectaccessreviews"), false),
            (&scheduler, on("list", "", "nodes"), true),
            (&scheduler, Attributes { subresource: "binding", ..on("create", "", "pods") }, true),
            (&scheduler, on("create", "", "pods"), false),
            (&collector, on("delete", "apps", "statefulsets"), true),
            (&collector, on("create", "apps", "statefulsets"), false),
            // Nobody holds what all controllers together need.
            (&manager, on("create", "", "pods"), false),
            (&manager, on("list", "", "pods"), true),
            (&sets, on("create", "", "pods"), true),
            (&sets, on("patch", "", "persistentvolumeclaims"), true),
            (&sets, on("delete", "", "persistentvolumes"), false),
            (&sets, on("update", "apps", "statefulsets"), false),
            (&sets, on("get", "", "secrets"), false),
            (&volumes, on("patch", "", "persistentvolumes"), true),
            (&volumes, on("create", "apps", "statefulsets"), false),
            (&aggregation, on("escalate", GROUP, "clusterroles"), true),
            (&aggregation, on("list", "", "pods"), false),
            (&quotas, on("list", "", "secrets"), true),
            (&quotas, Attributes { subresource: "status", ..on("update", "", "resourcequotas") }, true),
            (&quotas, on("update", "", "resourcequotas"), false),
            (&informers, on("watch", "", "secrets"), true),
            (&informers, on("get", "", "secrets"), false),
            // Nodes are not granted by binding: see `auth::node`.
            (&node, on("create", "", "nodes"), false),
        ] {
            assert_eq!(index.allows(user, &what).is_some(), expected, "{} {what:?}", user.name);
        }
    }
}
