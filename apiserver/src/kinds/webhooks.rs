//! Webhooks of admission: ValidatingWebhookConfiguration and MutatingWebhookConfiguration. Stored and served; nobody is
//! called yet, and a warning says so.

use super::shared::{cells, label_selector, pod_spec, repeats};
use super::{Column, Kind};
use api::field::{Errors, Path};
use api::names;
use jiff::Timestamp;
use k8s_openapi::api::admissionregistration::v1::{
    MatchCondition, MutatingWebhookConfiguration, RuleWithOperations, ValidatingWebhookConfiguration,
    WebhookClientConfig,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use serde_json::Value;
use std::collections::HashSet;

const TIMEOUT_SECONDS: i32 = 10;
const TIMEOUT_RANGE: std::ops::RangeInclusive<i32> = 1..=30;
const HTTPS: i32 = 443;
const OPERATIONS: [&str; 5] = ["*", "CONNECT", "CREATE", "DELETE", "UPDATE"];
const MAX_MATCH_CONDITIONS: usize = 64;
const COLUMNS: &[Column] = &[
    Column::name(),
    Column::new(
        "Webhooks",
        "integer",
        0,
        "Webhooks indicates the number of webhooks registered in this configuration",
    ),
    Column::age(),
];

/// What the two kinds of webhooks have in common.
struct Hook<'a> {
    name: &'a str,
    rules: &'a [RuleWithOperations],
    failure_policy: Option<&'a String>,
    match_policy: Option<&'a String>,
    side_effects: &'a str,
    timeout: Option<i32>,
    selectors: [(&'a str, Option<&'a LabelSelector>); 2],
    client: &'a WebhookClientConfig,
    versions: &'a [String],
    conditions: &'a [MatchCondition],
}

/// A webhook of either kind.
macro_rules! hook {
    ($hook:expr) => {
        Hook {
            name: &$hook.name,
            rules: $hook.rules.as_deref().unwrap_or_default(),
            failure_policy: $hook.failure_policy.as_ref(),
            match_policy: $hook.match_policy.as_ref(),
            side_effects: &$hook.side_effects,
            timeout: $hook.timeout_seconds,
            selectors: [
                ("namespaceSelector", $hook.namespace_selector.as_ref()),
                ("objectSelector", $hook.object_selector.as_ref()),
            ],
            client: &$hook.client_config,
            versions: &$hook.admission_review_versions,
            conditions: $hook.match_conditions.as_deref().unwrap_or_default(),
        }
    };
}

macro_rules! default_hook {
    ($hook:expr) => {
        $hook.failure_policy.get_or_insert_with(|| "Fail".to_owned());
        $hook.match_policy.get_or_insert_with(|| "Equivalent".to_owned());
        $hook.namespace_selector.get_or_insert_default();
        $hook.object_selector.get_or_insert_default();
        $hook.timeout_seconds.get_or_insert(TIMEOUT_SECONDS);
        for rule in $hook.rules.iter_mut().flatten() {
            rule.scope.get_or_insert_with(|| "*".to_owned());
        }
        if let Some(service) = &mut $hook.client_config.service {
            service.port.get_or_insert(HTTPS);
        }
    };
}

pub(super) struct ValidatingWebhooks;

impl Kind for ValidatingWebhooks {
    type Object = ValidatingWebhookConfiguration;
    const PLURAL: &'static str = "validatingwebhookconfigurations";
    const SINGULAR: &'static str = "validatingwebhookconfiguration";
    const UNCONDITIONAL_UPDATE: bool = false;
    const CATEGORIES: &'static [&'static str] = &["api-extensions"];
    const NAMESPACED: bool = false;
    const COLUMNS: &'static [Column] = COLUMNS;

    fn default(object: &mut ValidatingWebhookConfiguration) {
        for hook in object.webhooks.iter_mut().flatten() {
            default_hook!(hook);
        }
    }

    fn validate(object: &ValidatingWebhookConfiguration) -> Errors {
        validate(object.webhooks.iter().flatten().map(|h| hook!(h)))
    }

    fn validate_update(new: &ValidatingWebhookConfiguration, _: &ValidatingWebhookConfiguration) -> Errors {
        Self::validate(new)
    }

    fn generation_changed(
        new: &ValidatingWebhookConfiguration,
        old: &ValidatingWebhookConfiguration,
    ) -> Option<bool> {
        Some(new.webhooks != old.webhooks)
    }

    fn warnings(object: &ValidatingWebhookConfiguration) -> Vec<String> {
        warnings(object.webhooks.as_ref().map_or(0, Vec::len))
    }

    fn row(object: &ValidatingWebhookConfiguration, now: Timestamp) -> Vec<Value> {
        row(&object.metadata, object.webhooks.as_ref().map_or(0, Vec::len), now)
    }
}

pub(super) struct MutatingWebhooks;

impl Kind for MutatingWebhooks {
    type Object = MutatingWebhookConfiguration;
    const PLURAL: &'static str = "mutatingwebhookconfigurations";
    const SINGULAR: &'static str = "mutatingwebhookconfiguration";
    const UNCONDITIONAL_UPDATE: bool = false;
    const CATEGORIES: &'static [&'static str] = &["api-extensions"];
    const NAMESPACED: bool = false;
    const COLUMNS: &'static [Column] = COLUMNS;

    fn default(object: &mut MutatingWebhookConfiguration) {
        for hook in object.webhooks.iter_mut().flatten() {
            default_hook!(hook);
            hook.reinvocation_policy.get_or_insert_with(|| "Never".to_owned());
        }
    }

    fn validate(object: &MutatingWebhookConfiguration) -> Errors {
        let mut errors = validate(object.webhooks.iter().flatten().map(|h| hook!(h)));
        for (i, hook) in object.webhooks.iter().flatten().enumerate() {
            let path = Path::new("webhooks").index(i).child("reinvocationPolicy");
            let allowed = ["IfNeeded", "Never"];
            if let Some(other) = hook.reinvocation_policy.as_deref().filter(|p| !allowed.contains(p)) {
                errors.not_supported(&path, other, &allowed);
            }
        }
        errors
    }

    fn validate_update(new: &MutatingWebhookConfiguration, _: &MutatingWebhookConfiguration) -> Errors {
        Self::validate(new)
    }

    fn generation_changed(
        new: &MutatingWebhookConfiguration,
        old: &MutatingWebhookConfiguration,
    ) -> Option<bool> {
        Some(new.webhooks != old.webhooks)
    }

    fn warnings(object: &MutatingWebhookConfiguration) -> Vec<String> {
        warnings(object.webhooks.as_ref().map_or(0, Vec::len))
    }

    fn row(object: &MutatingWebhookConfiguration, now: Timestamp) -> Vec<Value> {
        row(&object.metadata, object.webhooks.as_ref().map_or(0, Vec::len), now)
    }
}

fn warnings(hooks: usize) -> Vec<String> {
    let text = "webhooks: stored, but not called: this server has no webhook admission yet";
    (hooks > 0).then(|| text.to_owned()).into_iter().collect()
}

fn row(meta: &ObjectMeta, hooks: usize, now: Timestamp) -> Vec<Value> {
    vec![cells::name(meta), hooks.into(), cells::age(meta, now)]
}

fn validate<'a>(hooks: impl Iterator<Item = Hook<'a>>) -> Errors {
    let (mut errors, mut names) = (Errors::default(), HashSet::new());
    for (i, hook) in hooks.enumerate() {
        let path = Path::new("webhooks").index(i);
        validate_hook(&hook, &path, &mut errors);
        if !names.insert(hook.name) {
            errors.duplicate(&path.child("name"), hook.name);
        }
    }
    errors
}

fn validate_hook(hook: &Hook<'_>, path: &Path, errors: &mut Errors) {
    let at = path.child("name");
    match hook.name {
        "" => errors.required(&at, ""),
        name => {
            errors.invalid_each(&at, name, names::dns_subdomain(name));
            if name.split('.').count() < 3 {
                errors.invalid(
                    &at,
                    name,
                    "should be a domain with at least three segments separated by dots",
                );
            }
        }
    }
    for (i, rule) in hook.rules.iter().enumerate() {
        validate_rule(rule, &path.child("rules").index(i), errors);
    }
    let side_effects: &[&str] = &["None", "NoneOnDryRun"];
    let fields: [(&str, Option<&String>, &[&str]); 2] = [
        ("failurePolicy", hook.failure_policy, &["Fail", "Ignore"]),
        ("matchPolicy", hook.match_policy, &["Equivalent", "Exact"]),
    ];
    for (field, value, allowed) in fields {
        if let Some(value) = value.filter(|v| !allowed.contains(&v.as_str())) {
            errors.not_supported(&path.child(field), value, allowed);
        }
    }
    match hook.side_effects {
        "" => errors.required(&path.child("sideEffects"), "must specify one of None, NoneOnDryRun"),
        known if side_effects.contains(&known) => {}
        other => errors.not_supported(&path.child("sideEffects"), other, side_effects),
    }
    if let Some(seconds) = hook.timeout.filter(|t| !TIMEOUT_RANGE.contains(t)) {
        let detail = "the timeout value must be between 1 and 30 seconds";
        errors.invalid(&path.child("timeoutSeconds"), seconds, detail);
    }
    for (field, selector) in hook.selectors {
        if let Some(selector) = selector {
            label_selector::validate(selector, &path.child(field), errors);
        }
    }
    validate_client(hook.client, &path.child("clientConfig"), errors);
    let versions = path.child("admissionReviewVersions");
    if hook.versions.is_empty() {
        errors.required(&versions, "must specify one of v1, v1beta1");
    } else if !hook.versions.iter().any(|v| ["v1", "v1beta1"].contains(&v.as_str())) {
        errors.invalid(&versions, hook.versions, "must include at least one of v1, v1beta1");
    }
    for (i, (version, again)) in hook.versions.iter().zip(repeats(hook.versions)).enumerate() {
        if again {
            errors.invalid(&versions.index(i), version, "duplicate version");
        }
    }
    validate_conditions(hook.conditions, &path.child("matchConditions"), errors);
}

/// Named expressions, each once.
pub(super) fn validate_conditions(conditions: &[MatchCondition], path: &Path, errors: &mut Errors) {
    if conditions.len() > MAX_MATCH_CONDITIONS {
        errors.too_many(path, conditions.len(), MAX_MATCH_CONDITIONS);
    }
    let repeated = repeats(conditions.iter().map(|c| &c.name));
    for (i, condition) in conditions.iter().enumerate() {
        let path = path.index(i);
        if condition.expression.trim().is_empty() {
            errors.required(&path.child("expression"), "");
        }
        match condition.name.as_str() {
            "" => errors.required(&path.child("name"), ""),
            name => errors.invalid_each(&path.child("name"), name, names::qualified_name(name)),
        }
        if repeated[i] {
            errors.duplicate(&path.child("name"), &condition.name);
        }
    }
}

fn validate_client(client: &WebhookClientConfig, path: &Path, errors: &mut Errors) {
    match (&client.url, &client.service) {
        (None, None) | (Some(_), Some(_)) => {
            errors.required(path, "exactly one of url or service is required");
        }
        (Some(url), None) => {
            if !url.strip_prefix("https://").is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/')) {
                let detail = "'https' is the only allowed URL scheme; desired format: https://host[/path]";
                errors.invalid(&path.child("url"), url, detail);
            } else if url.contains(['?', '#', '@']) {
                let detail = "user information, query and fragment are not permitted in the URL";
                errors.invalid(&path.child("url"), url, detail);
            }
        }
        (None, Some(service)) => {
            let path = path.child("service");
            for (field, text) in [("name", &service.name), ("namespace", &service.namespace)] {
                if text.is_empty() {
                    errors.required(&path.child(field), format!("service {field} is required"));
                }
            }
            if service.port.is_some_and(|p| !(1..=65535).contains(&p)) {
                let detail = "port is not valid: must be between 1 and 65535, inclusive";
                errors.invalid(&path.child("port"), service.port, detail);
            }
            if let Some(text) = service.path.as_deref().filter(|p| !p.starts_with('/')) {
                errors.invalid(&path.child("path"), text, "must start with a '/'");
            }
        }
    }
}

fn validate_rule(rule: &RuleWithOperations, path: &Path, errors: &mut Errors) {
    let mut list = |field: &str, all: &Option<Vec<String>>, what: &str, empty_is_fine: bool| {
        let (path, all) = (path.child(field), all.as_deref().unwrap_or_default());
        if all.is_empty() {
            errors.required(&path, "");
        }
        if all.len() > 1 && all.iter().any(|v| v == "*") && field != "resources" {
            errors.invalid(&path, all, format!("if '*' is present, must not specify other {what}"));
        }
        if field == "resources" && all.len() > 1 && all.iter().any(|v| v == "*/*") {
            errors.invalid(&path, all, "if '*/*' is present, must not specify other resources");
        }
        for (i, _) in all.iter().enumerate().filter(|(_, v)| !empty_is_fine && v.is_empty()) {
            errors.required(&path.index(i), "");
        }
    };
    list("operations", &rule.operations, "operations", false);
    list("apiGroups", &rule.api_groups, "API groups", true);
    list("apiVersions", &rule.api_versions, "API versions", false);
    list("resources", &rule.resources, "resources", false);
    for (i, operation) in rule.operations.iter().flatten().enumerate() {
        if !operation.is_empty() && !OPERATIONS.contains(&operation.as_str()) {
            errors.not_supported(&path.child("operations").index(i), operation, &OPERATIONS);
        }
    }
    if let Some(scope) = &rule.scope {
        pod_spec::enumerated(Some(scope), &["*", "Cluster", "Namespaced"], &path.child("scope"), errors);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{object, texts};
    use serde_json::json;

    #[test]
    fn rules() {
        let configuration = |change: fn(&mut Value)| -> ValidatingWebhookConfiguration {
            let mut hook = json!({"name": "a.b.io", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "clientConfig": {"service": {"name": "s", "namespace": "n"}},
                "rules": [{"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]}]});
            change(&mut hook);
            let mut made = object(json!({"metadata": {"name": "w"}, "webhooks": [hook]}));
            ValidatingWebhooks::default(&mut made);
            made
        };
        let fine = configuration(|_| {});
        assert!(texts(ValidatingWebhooks::validate(&fine)).is_empty());
        let value = serde_json::to_value(&fine).unwrap();
        assert_eq!(value["webhooks"][0]["timeoutSeconds"], 10);
        assert_eq!(value["webhooks"][0]["rules"][0]["scope"], "*");
        assert_eq!(value["webhooks"][0]["clientConfig"]["service"]["port"], 443);
        assert_eq!(ValidatingWebhooks::warnings(&fine).len(), 1);
        type Change = fn(&mut Value);
        let cases: [(Change, &str); 4] = [
            (
                |h| h["name"] = json!("short.io"),
                "webhooks[0].name: Invalid value: \"short.io\": should be a domain with at least three segments separated by dots",
            ),
            (
                |h| h["sideEffects"] = json!("Some"),
                "webhooks[0].sideEffects: Unsupported value: \"Some\": supported values: \"None\", \"NoneOnDryRun\"",
            ),
            (
                |h| h["clientConfig"] = json!({}),
                "webhooks[0].clientConfig: Required value: exactly one of url or service is required",
            ),
            (
                |h| h["rules"][0]["operations"] = json!(["*", "CREATE"]),
                "webhooks[0].rules[0].operations: Invalid value: [\"*\",\"CREATE\"]: if '*' is present, must not specify other operations",
            ),
        ];
        for (change, expected) in cases {
            assert_eq!(texts(ValidatingWebhooks::validate(&configuration(change))), [expected]);
        }
    }
}
