//! What a single rule allows, and whether some rules allow all that others do. Pure.

use crate::auth::authz::Attributes;
use k8s_openapi::api::rbac::v1::PolicyRule;
use std::collections::BTreeMap;

const ALL: &str = "*";

/// Whether the rule allows what is asked.
pub(crate) fn allows(rule: &PolicyRule, what: &Attributes<'_>) -> bool {
    if !has(&rule.verbs, what.verb) {
        return false;
    }
    if what.resource.is_empty() {
        return list(&rule.non_resource_urls).iter().any(|pattern| url_matches(pattern, what.path));
    }
    let names = list(&rule.resource_names);
    has(list(&rule.api_groups), what.group)
        && list(&rule.resources).iter().any(|r| resource_matches(r, what.resource, what.subresource))
        && (names.is_empty() || names.iter().any(|n| n == what.name))
}

/// The parts of `wanted` that `owned` does not allow, each about one verb of one resource or path.
pub(crate) fn missing(owned: &[PolicyRule], wanted: &[PolicyRule]) -> Vec<PolicyRule> {
    wanted.iter().flat_map(atoms).filter(|atom| !owned.iter().any(|rule| covers(rule, atom))).collect()
}

/// Atoms that differ by nothing but the verb, as one rule.
pub(crate) fn joined(atoms: Vec<PolicyRule>) -> Vec<PolicyRule> {
    let mut by_target: BTreeMap<_, PolicyRule> = BTreeMap::new();
    let mut rest = Vec::new();
    for atom in atoms {
        if !list(&atom.non_resource_urls).is_empty() {
            rest.push(atom);
            continue;
        }
        let target = (atom.api_groups.clone(), atom.resources.clone(), atom.resource_names.clone());
        match by_target.get_mut(&target) {
            Some(rule) => rule.verbs.extend(atom.verbs),
            None => {
                by_target.insert(target, atom);
            }
        }
    }
    rest.extend(by_target.into_values());
    rest
}

/// As Kubernetes prints it in refusals: `{APIGroups:[""], Resources:["pods"], Verbs:["get" "list"]}`.
pub(crate) fn printed(rule: &PolicyRule) -> String {
    let quoted = |items: &[String]| {
        let items: Vec<String> = items.iter().map(|i| format!("{i:?}")).collect();
        format!("[{}]", items.join(" "))
    };
    let fields = [
        ("APIGroups", list(&rule.api_groups)),
        ("Resources", list(&rule.resources)),
        ("NonResourceURLs", list(&rule.non_resource_urls)),
        ("ResourceNames", list(&rule.resource_names)),
        ("Verbs", rule.verbs.as_slice()),
    ];
    let fields: Vec<String> = fields
        .iter()
        .filter(|(_, items)| !items.is_empty())
        .map(|(name, items)| format!("{name}:{}", quoted(items)))
        .collect();
    format!("{{{}}}", fields.join(", "))
}

fn list(items: &Option<Vec<String>>) -> &[String] {
    items.as_deref().unwrap_or_default()
}

fn has(items: &[String], item: &str) -> bool {
    items.iter().any(|i| i == ALL || i == item)
}

/// `pods`, `pods/log`, `*`, `*/scale`.
fn resource_matches(pattern: &str, resource: &str, subresource: &str) -> bool {
    match (pattern.split_once('/'), subresource) {
        _ if pattern == ALL => true,
        (None, "") => pattern == resource,
        (None, _) | (Some(_), "") => false,
        (Some((of, sub)), _) => sub == subresource && (of == ALL || of == resource),
    }
}

fn url_matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix.trim_end_matches('*')),
        None => pattern == path,
    }
}

/// One rule for each verb of each resource (or path, or name) of `rule`.
fn atoms(rule: &PolicyRule) -> Vec<PolicyRule> {
    let one = |text: &String| Some(vec![text.clone()]);
    let mut found = Vec::new();
    for url in list(&rule.non_resource_urls) {
        for verb in &rule.verbs {
            let verbs = vec![verb.clone()];
            found.push(PolicyRule { non_resource_urls: one(url), verbs, ..PolicyRule::default() });
        }
    }
    let names: Vec<_> = match list(&rule.resource_names) {
        [] => vec![None],
        names => names.iter().map(one).collect(),
    };
    for group in list(&rule.api_groups) {
        for resource in list(&rule.resources) {
            for verb in &rule.verbs {
                for name in &names {
                    found.push(PolicyRule {
                        api_groups: one(group),
                        resources: one(resource),
                        resource_names: name.clone(),
                        verbs: vec![verb.clone()],
                        non_resource_urls: None,
                    });
                }
            }
        }
    }
    found
}

fn covers(owned: &PolicyRule, atom: &PolicyRule) -> bool {
    if !atom.verbs.iter().all(|verb| has(&owned.verbs, verb)) {
        return false;
    }
    if let Some(url) = list(&atom.non_resource_urls).first() {
        // A pattern is covered by itself and by a wider one, which is how a path is matched too.
        return list(&owned.non_resource_urls).iter().any(|pattern| url_matches(pattern, url));
    }
    let names = list(&owned.resource_names);
    let resource_covered = |wanted: &String| {
        let (of, sub) = wanted.split_once('/').unwrap_or((wanted, ""));
        list(&owned.resources).iter().any(|r| r == wanted || resource_matches(r, of, sub))
    };
    list(&atom.api_groups).iter().all(|group| has(list(&owned.api_groups), group))
        && list(&atom.resources).iter().all(resource_covered)
        && match list(&atom.resource_names) {
            [] => names.is_empty(),
            wanted => names.is_empty() || wanted.iter().all(|w| names.contains(w)),
        }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `verbs groups resources [names]`, or `verbs url paths`; lists by comma, `core` is the empty group.
    fn rule(text: &str) -> PolicyRule {
        crate::auth::rbac::policy::rule(text).unwrap()
    }

    #[test]
    fn what_a_rule_allows() {
        let on = |verb, group, resource, subresource, name| Attributes {
            verb,
            group,
            resource,
            subresource,
            name,
            ..Attributes::default()
        };
        let path = |verb, path| Attributes { verb, path, ..Attributes::default() };
        for (text, what, expected) in [
            ("get core pods", on("get", "", "pods", "", "a"), true),
            ("get core pods", on("list", "", "pods", "", ""), false),
            ("get core pods", on("get", "apps", "pods", "", ""), false),
            ("get core pods", on("get", "", "pods", "log", "a"), false),
            ("get core pods/log", on("get", "", "pods", "log", "a"), true),
            ("get core pods/log", on("get", "", "pods", "", "a"), false),
            ("* * *", on("frob", "x", "y", "z", "a"), true),
            ("get * */scale", on("get", "apps", "deployments", "scale", "a"), true),
            ("get * */scale", on("get", "apps", "deployments", "status", "a"), false),
            ("get * */scale", on("get", "apps", "deployments", "", "a"), false),
            ("get core secrets a,b", on("get", "", "secrets", "", "b"), true),
            ("get core secrets a,b", on("get", "", "secrets", "", "c"), false),
            ("list core secrets a", on("list", "", "secrets", "", ""), false),
            ("* * *", path("get", "/metrics"), false),
            ("get url /metrics", path("get", "/metrics"), true),
            ("get url /metrics", path("post", "/metrics"), false),
            ("get url /api/*", path("get", "/api/v1"), true),
            ("get url /api/*", path("get", "/api"), false),
            ("* url *", path("delete", "/anything"), true),
            ("* url *", on("get", "", "pods", "", ""), false),
        ] {
            assert_eq!(allows(&rule(text), &what), expected, "{text}: {what:?}");
        }
    }

    #[test]
    fn what_is_missing() {
        for (owned, wanted, expected) in [
            (vec!["* * *"], "get core secrets", ""),
            (
                vec!["get core pods"],
                "get,list core pods",
                r#"{APIGroups:[""], Resources:["pods"], Verbs:["list"]}"#,
            ),
            (vec!["get core pods", "list core pods"], "get,list core pods", ""),
            (
                vec!["get core secrets a"],
                "get core secrets",
                r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get"]}"#,
            ),
            (vec!["get core secrets"], "get core secrets a", ""),
            (
                vec!["get core secrets a"],
                "get core secrets a,b",
                r#"{APIGroups:[""], Resources:["secrets"], ResourceNames:["b"], Verbs:["get"]}"#,
            ),
            (vec!["get * */scale"], "get apps deployments/scale", ""),
            (vec!["get core pods"], "* core pods", r#"{APIGroups:[""], Resources:["pods"], Verbs:["*"]}"#),
            (
                vec!["get core pods"],
                "get,list,watch core secrets",
                r#"{APIGroups:[""], Resources:["secrets"], Verbs:["get" "list" "watch"]}"#,
            ),
            (vec!["get url /api/*"], "get url /api/v1,/api/*", ""),
            (vec!["get url /api"], "get url /api/*", r#"{NonResourceURLs:["/api/*"], Verbs:["get"]}"#),
        ] {
            let owned: Vec<PolicyRule> = owned.into_iter().map(rule).collect();
            let lacking = joined(missing(&owned, &[rule(wanted)]));
            let lacking: Vec<String> = lacking.iter().map(printed).collect();
            assert_eq!(lacking.join("\n"), expected, "{wanted}");
        }
    }
}
