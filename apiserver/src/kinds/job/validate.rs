//! Rules of Jobs and of the job templates of CronJobs.

use super::{NAME_LABELS, UID_LABELS};
use crate::kinds::shared::object_meta::immutable;
use crate::kinds::shared::{label_selector, pod_template};
use api::field::{Errors, Path};
use api::selector::Selector;
use api::{conditions, names};
use k8s_openapi::api::batch::v1::{
    Job, JobCondition, JobSpec, JobStatus, JobTemplateSpec, PodFailurePolicyRule, SuccessPolicyRule,
};
use k8s_openapi::api::core::v1::PodTemplateSpec;
use std::collections::{BTreeMap, BTreeSet};

// Kubernetes' limits: what a controller can count and write into a status in reasonable time.
const MAX_PARALLELISM_INDEXED: i32 = 100_000;
const MAX_FAILED_INDEXES: i32 = 100_000;
const COMPLETIONS_SOFT_LIMIT: i32 = 100_000;
const HIGH_COMPLETIONS_PARALLELISM: i32 = 10_000;
const HIGH_COMPLETIONS_FAILED_INDEXES: i32 = 10_000;
const MAX_RULES: usize = 20;
const MAX_EXIT_CODES: usize = 255;
const MAX_PATTERNS: usize = 20;
const MAX_MANAGED_BY: usize = 63;
const MAX_INDEXES_BYTES: usize = 64 * 1024;
const ACTIONS: [&str; 4] = ["Count", "FailIndex", "FailJob", "Ignore"];

pub(super) fn validate(job: &Job) -> Errors {
    let mut errors = Errors::default();
    let none = JobSpec::default();
    let spec = job.spec.as_ref().unwrap_or(&none);
    let path = Path::new("spec");
    validate_generated(job, spec, &mut errors);
    validate_spec(spec, &path, &mut errors);
    let selector_path = path.child("selector");
    match &spec.selector {
        None => errors.required(&selector_path, ""),
        Some(selector) => label_selector::validate(selector, &selector_path, &mut errors),
    }
    if let Ok(selector) = Selector::from_label_selector(spec.selector.as_ref()) {
        let labels = labels_of(&spec.template);
        if !selector.matches(&labels) {
            let path = path.child("template").child("metadata").child("labels");
            errors.invalid(&path, labels, "`selector` does not match template `labels`");
        }
    }
    if let (Some("Indexed"), Some(completions)) = (spec.completion_mode.as_deref(), spec.completions)
        && completions > 0
    {
        let name = job.metadata.name.as_deref().unwrap_or_default();
        let last = format!("{name}-{}", completions - 1);
        if !names::dns_label(&last).is_empty() {
            let detail = format!("will not able to create pod with invalid DNS label: {last}");
            errors.invalid(&Path::new("metadata").child("name"), name, detail);
        }
    }
    errors
}

fn labels_of(template: &PodTemplateSpec) -> BTreeMap<String, String> {
    template.metadata.as_ref().and_then(|m| m.labels.clone()).unwrap_or_default()
}

/// The labels that the server gives must be those it gave.
fn validate_generated(job: &Job, spec: &JobSpec, errors: &mut Errors) {
    let Some(selector) = spec.selector.as_ref().filter(|_| spec.manual_selector != Some(true)) else {
        return;
    };
    let uid = job.metadata.uid.as_deref().unwrap_or_default();
    let name = job.metadata.name.as_deref().unwrap_or_default();
    let path = Path::new("spec").child("template").child("metadata").child("labels");
    let labels = labels_of(&spec.template);
    let mut expected = BTreeMap::new();
    for (keys, value) in [(UID_LABELS, uid), (NAME_LABELS, name)] {
        for key in keys {
            expected.insert(key.to_owned(), value.to_owned());
            match labels.get(key) {
                None => errors.required(&path.key(key), format!("must be '{value}'")),
                Some(has) if has != value => {
                    errors.invalid(&path.key(key), &labels, format!("must be '{value}'"));
                }
                Some(_) => {}
            }
        }
    }
    if Selector::from_label_selector(Some(selector)).is_ok_and(|s| !s.matches(&expected)) {
        errors.invalid(&Path::new("spec").child("selector"), selector, "`selector` not auto-generated");
    }
}

/// The template of a CronJob's jobs: no selector yet.
pub(in crate::kinds) fn validate_template(template: &JobTemplateSpec, path: &Path, errors: &mut Errors) {
    let none = JobSpec::default();
    let (spec, path) = (template.spec.as_ref().unwrap_or(&none), path.child("spec"));
    validate_spec(spec, &path, errors);
    if let Some(selector) = &spec.selector {
        errors.invalid(&path.child("selector"), selector, "`selector` will be auto-generated");
    }
    if spec.manual_selector == Some(true) {
        errors.not_supported(&path.child("manualSelector"), "true", &["nil", "false"]);
    }
}

fn validate_spec(spec: &JobSpec, path: &Path, errors: &mut Errors) {
    let first = [("parallelism", spec.parallelism), ("completions", spec.completions)];
    pod_template::not_negative(first, path, errors);
    pod_template::not_negative([("activeDeadlineSeconds", spec.active_deadline_seconds)], path, errors);
    let counts = [
        ("backoffLimit", spec.backoff_limit),
        ("ttlSecondsAfterFinished", spec.ttl_seconds_after_finished),
        ("backoffLimitPerIndex", spec.backoff_limit_per_index),
        ("maxFailedIndexes", spec.max_failed_indexes),
    ];
    pod_template::not_negative(counts, path, errors);
    if spec.max_failed_indexes.is_some() && spec.backoff_limit_per_index.is_none() {
        errors.required(&path.child("backoffLimitPerIndex"), "when maxFailedIndexes is specified");
    }
    if let Some(manager) = &spec.managed_by {
        let path = path.child("managedBy");
        if !manager.contains('/') {
            errors.invalid(&path, manager, "must be a domain-prefixed path (such as \"acme.io/foo\")");
        } else {
            errors.invalid_each(&path, manager, names::qualified_name(manager));
        }
        if manager.len() > MAX_MANAGED_BY {
            errors.too_long(&path, MAX_MANAGED_BY);
        }
    }
    let indexed = match spec.completion_mode.as_deref() {
        Some("Indexed") => {
            validate_indexed(spec, path, errors);
            true
        }
        None | Some("NonIndexed") => {
            for (field, value) in [
                ("backoffLimitPerIndex", spec.backoff_limit_per_index),
                ("maxFailedIndexes", spec.max_failed_indexes),
            ] {
                if let Some(value) = value {
                    errors.invalid(&path.child(field), value, "requires indexed completion mode");
                }
            }
            false
        }
        Some(other) => {
            errors.not_supported(&path.child("completionMode"), other, &["NonIndexed", "Indexed"]);
            false
        }
    };
    validate_policies(spec, indexed, path, errors);
    let template_path = path.child("template");
    pod_template::validate(&spec.template, &template_path, errors);
    let path = template_path.child("spec").child("restartPolicy");
    match spec.template.spec.as_ref().and_then(|s| s.restart_policy.as_deref()).unwrap_or("") {
        "" | "Always" => errors.required(&path, "valid values: \"OnFailure\", \"Never\""),
        "Never" => {}
        "OnFailure" if spec.pod_failure_policy.is_some() => {
            let detail = "only \"Never\" is supported when podFailurePolicy is specified";
            errors.invalid(&path, "OnFailure", detail);
        }
        "OnFailure" => {}
        other => errors.not_supported(&path, other, &["OnFailure", "Never"]),
    }
}

fn validate_indexed(spec: &JobSpec, path: &Path, errors: &mut Errors) {
    if spec.completions.is_none() {
        errors.required(&path.child("completions"), "when completion mode is Indexed");
    }
    let mut at_most = |field: &str, value: Option<i32>, max: i32, when: &str| {
        if let Some(value) = value.filter(|v| *v > max) {
            errors.invalid(&path.child(field), value, format!("must be less than or equal to {max}{when}"));
        }
    };
    let (parallelism, failed) = (spec.parallelism, spec.max_failed_indexes);
    at_most("parallelism", parallelism, MAX_PARALLELISM_INDEXED, " when completion mode is Indexed");
    at_most("maxFailedIndexes", failed, MAX_FAILED_INDEXES, "");
    let high = spec.completions.is_some_and(|c| c > COMPLETIONS_SOFT_LIMIT);
    if high && spec.backoff_limit_per_index.is_some() {
        let when = format!(
            " when completions are above {COMPLETIONS_SOFT_LIMIT} and used with backoff limit per index"
        );
        at_most("parallelism", parallelism, HIGH_COMPLETIONS_PARALLELISM, &when);
        at_most("maxFailedIndexes", failed, HIGH_COMPLETIONS_FAILED_INDEXES, &when);
        if failed.is_none() {
            let detail = format!("must be specified when completions is above {COMPLETIONS_SOFT_LIMIT}");
            errors.required(&path.child("maxFailedIndexes"), detail);
        }
    }
    if let (Some(failed), Some(completions)) = (failed, spec.completions)
        && failed > completions
    {
        errors.invalid(&path.child("maxFailedIndexes"), failed, "must be less than or equal to completions");
    }
}

fn validate_policies(spec: &JobSpec, indexed: bool, path: &Path, errors: &mut Errors) {
    if let Some(policy) = &spec.pod_failure_policy {
        let path = path.child("podFailurePolicy").child("rules");
        if policy.rules.len() > MAX_RULES {
            errors.too_many(&path, policy.rules.len(), MAX_RULES);
        }
        for (i, rule) in policy.rules.iter().enumerate() {
            validate_failure_rule(spec, rule, &path.index(i), errors);
        }
    }
    if let Some(policy) = &spec.success_policy {
        let path = path.child("successPolicy");
        let rules = path.child("rules");
        if !indexed {
            errors.invalid(&path, policy, "requires indexed completion mode");
        } else if policy.rules.is_empty() {
            let detail = "at least one rules must be specified when the successPolicy is specified";
            errors.required(&rules, detail);
        } else if policy.rules.len() > MAX_RULES {
            errors.too_many(&rules, policy.rules.len(), MAX_RULES);
        }
        for (i, rule) in policy.rules.iter().enumerate().filter(|_| indexed) {
            validate_success_rule(rule, spec.completions.unwrap_or(0), &rules.index(i), errors);
        }
    }
    if let Some(policy) = &spec.pod_replacement_policy {
        let allowed: &[&str] =
            if spec.pod_failure_policy.is_some() { &["Failed"] } else { &["Failed", "TerminatingOrFailed"] };
        if !allowed.contains(&policy.as_str()) {
            errors.not_supported(&path.child("podReplacementPolicy"), policy, allowed);
        }
    }
}

fn validate_failure_rule(spec: &JobSpec, rule: &PodFailurePolicyRule, path: &Path, errors: &mut Errors) {
    let action = path.child("action");
    match rule.action.as_str() {
        "" => {
            errors.required(&action, "valid values: [\"Count\" \"FailIndex\" \"FailJob\" \"Ignore\"]");
        }
        "FailIndex" if spec.backoff_limit_per_index.is_none() => {
            errors.invalid(&action, "FailIndex", "requires the backoffLimitPerIndex to be set");
        }
        known if ACTIONS.contains(&known) => {}
        other => errors.not_supported(&action, other, &ACTIONS),
    }
    let patterns = rule.on_pod_conditions.as_deref().unwrap_or_default();
    let neither_or_both = match (&rule.on_exit_codes, patterns.is_empty()) {
        (Some(_), false) => Some("specifying both OnExitCodes and OnPodConditions is not supported"),
        (None, true) => Some("specifying one of OnExitCodes and OnPodConditions is required"),
        _ => None,
    };
    if let Some(detail) = neither_or_both {
        errors.invalid_unshown(path, detail);
    }
    if let Some(codes) = &rule.on_exit_codes {
        let path = path.child("onExitCodes");
        if codes.operator.is_empty() {
            errors.required(&path.child("operator"), "valid values: [\"In\" \"NotIn\"]");
        } else if !["In", "NotIn"].contains(&codes.operator.as_str()) {
            errors.not_supported(&path.child("operator"), &codes.operator, &["In", "NotIn"]);
        }
        let pod = spec.template.spec.as_ref();
        let known = |name: &str| {
            pod.is_some_and(|p| {
                p.containers.iter().chain(p.init_containers.iter().flatten()).any(|c| c.name == name)
            })
        };
        if let Some(name) = codes.container_name.as_deref().filter(|n| !known(n)) {
            let detail = "must be one of the container or initContainer names in the pod template";
            errors.invalid(&path.child("containerName"), name, detail);
        }
        let path = path.child("values");
        if codes.values.is_empty() {
            errors.invalid(&path, (), "at least one value is required");
        } else if codes.values.len() > MAX_EXIT_CODES {
            errors.too_many(&path, codes.values.len(), MAX_EXIT_CODES);
        }
        let mut seen = BTreeSet::new();
        for (i, code) in codes.values.iter().enumerate() {
            if codes.operator == "In" && *code == 0 {
                errors.invalid(&path.index(i), code, "must not be 0 for the In operator");
            }
            if !seen.insert(code) {
                errors.duplicate(&path.index(i), code);
            }
        }
        if !codes.values.is_sorted() {
            errors.invalid(&path, &codes.values, "must be ordered");
        }
    }
    let path = path.child("onPodConditions");
    if patterns.len() > MAX_PATTERNS {
        errors.too_many(&path, patterns.len(), MAX_PATTERNS);
    }
    for (i, pattern) in patterns.iter().enumerate() {
        let path = path.index(i);
        errors.invalid_each(&path.child("type"), &pattern.type_, names::qualified_name(&pattern.type_));
        let status = pattern.status.as_deref().unwrap_or("");
        if !["False", "True", "Unknown"].contains(&status) {
            errors.not_supported(&path.child("status"), status, &["False", "True", "Unknown"]);
        }
    }
}

fn validate_success_rule(rule: &SuccessPolicyRule, completions: i32, path: &Path, errors: &mut Errors) {
    if rule.succeeded_count.is_none() && rule.succeeded_indexes.is_none() {
        errors.required(path, "at least one of succeededCount or succeededIndexes must be specified");
    }
    let mut total = None;
    if let Some(indexes) = &rule.succeeded_indexes {
        let path = path.child("succeededIndexes");
        if indexes.len() > MAX_INDEXES_BYTES {
            errors.too_long(&path, MAX_INDEXES_BYTES);
        }
        match count_indexes(indexes, completions) {
            Ok(n) => total = Some(n),
            Err(why) => errors.invalid(&path, indexes, format!("error parsing succeededIndexes: {why}")),
        }
    }
    pod_template::not_negative([("succeededCount", rule.succeeded_count)], path, errors);
    if let Some(count) = rule.succeeded_count {
        for (max, what) in [
            (Some(completions), "the number of specified completions"),
            (total, "the number of indexes in the specified succeededIndexes field"),
        ] {
            if let Some(max) = max.filter(|m| count > *m) {
                let detail = format!("must be less than or equal to {max} ({what})");
                errors.invalid(&path.child("succeededCount"), count, detail);
            }
        }
    }
}

/// How many indexes `1,3-5,7` names; they ascend and stay below `completions`.
fn count_indexes(text: &str, completions: i32) -> Result<i32, String> {
    let number = |text: &str| {
        let parsed: Result<i32, _> = text.parse();
        parsed.map_err(|_| format!("cannot convert string to integer for index: {text:?}"))
    };
    let (mut total, mut last) = (0, -1);
    for part in text.split(',').filter(|_| !text.is_empty()) {
        let (from, to) = match part.split_once('-') {
            Some((from, to)) => (number(from)?, number(to)?),
            None => (number(part)?, number(part)?),
        };
        if from <= last || (part.contains('-') && from >= to) {
            return Err(format!("non-increasing order, previous: {last}, current: {from}"));
        }
        if to >= completions {
            return Err(format!("too large index: {part:?}"));
        }
        total += to - from + 1;
        last = to;
    }
    Ok(total)
}

pub(super) fn validate_update(new: &Job, old: &Job) -> Errors {
    let mut errors = validate(new);
    let none = (JobSpec::default(), JobSpec::default());
    let (spec, before) = (new.spec.as_ref().unwrap_or(&none.0), old.spec.as_ref().unwrap_or(&none.1));
    let path = Path::new("spec");
    let completions = path.child("completions");
    if spec.completion_mode.as_deref() != Some("Indexed") {
        immutable(spec.completions, before.completions, &completions, &mut errors);
    } else if spec.completions != before.completions
        && spec.completions.is_some_and(|_| spec.completions != spec.parallelism)
    {
        let detail = "can only be modified in tandem with spec.parallelism";
        errors.invalid(&completions, spec.completions, detail);
    }
    immutable(&spec.selector, &before.selector, &path.child("selector"), &mut errors);
    let template = changeable(spec, old);
    immutable(&spec.template, &template, &path.child("template"), &mut errors);
    immutable(&spec.completion_mode, &before.completion_mode, &path.child("completionMode"), &mut errors);
    immutable(
        &spec.pod_failure_policy,
        &before.pod_failure_policy,
        &path.child("podFailurePolicy"),
        &mut errors,
    );
    let per_index = path.child("backoffLimitPerIndex");
    immutable(spec.backoff_limit_per_index, before.backoff_limit_per_index, &per_index, &mut errors);
    immutable(&spec.managed_by, &before.managed_by, &path.child("managedBy"), &mut errors);
    immutable(&spec.success_policy, &before.success_policy, &path.child("successPolicy"), &mut errors);
    errors
}

/// The old template, with what may change taken from the new: a suspended job that has no pods may still be told where
/// they are to run and what they ask for.
fn changeable(new: &JobSpec, old: &Job) -> PodTemplateSpec {
    let mut template = old.spec.as_ref().map(|s| s.template.clone()).unwrap_or_default();
    let status = old.status.clone().unwrap_or_default();
    let suspended = old.spec.as_ref().is_some_and(|s| s.suspend == Some(true));
    let at_rest = status.start_time.is_none() || is_true(&status, "Suspended");
    if !suspended || !at_rest || status.active.unwrap_or(0) > 0 {
        return template;
    }
    if let (Some(meta), Some(wanted)) = (&mut template.metadata, &new.template.metadata) {
        meta.labels = wanted.labels.clone();
        meta.annotations = wanted.annotations.clone();
    }
    if let (Some(spec), Some(wanted)) = (&mut template.spec, &new.template.spec) {
        spec.node_selector = wanted.node_selector.clone();
        spec.tolerations = wanted.tolerations.clone();
        spec.scheduling_gates = wanted.scheduling_gates.clone();
        let node = wanted.affinity.as_ref().and_then(|a| a.node_affinity.clone());
        let mut affinity = spec.affinity.take().unwrap_or_default();
        affinity.node_affinity = node;
        spec.affinity = (wanted.affinity.is_some() || affinity != Default::default()).then_some(affinity);
        let old_init = spec.init_containers.iter_mut().flatten();
        let new_init = wanted.init_containers.iter().flatten();
        for (container, wanted) in
            spec.containers.iter_mut().zip(&wanted.containers).chain(old_init.zip(new_init))
        {
            if container.name == wanted.name {
                container.resources = wanted.resources.clone();
            }
        }
    }
    template
}

fn is_true(status: &JobStatus, type_: &str) -> bool {
    let all: &[JobCondition] = status.conditions.as_deref().unwrap_or_default();
    conditions::is_true(all, type_)
}

pub(super) fn validate_status(new: &Job, old: &Job) -> Errors {
    let mut errors = Errors::default();
    let none = (JobStatus::default(), JobStatus::default());
    let (status, before) = (new.status.as_ref().unwrap_or(&none.0), old.status.as_ref().unwrap_or(&none.1));
    let path = Path::new("status");
    let counts = [
        ("active", status.active),
        ("succeeded", status.succeeded),
        ("failed", status.failed),
        ("ready", status.ready),
        ("terminating", status.terminating),
    ];
    pod_template::not_negative(counts, &path, &mut errors);
    let conditions = path.child("conditions");
    let is = |type_: &str| is_true(status, type_);
    let (complete, failed) = (is("Complete"), is("Failed"));
    for (first, second) in
        [("Complete", "Failed"), ("Complete", "FailureTarget"), ("SuccessCriteriaMet", "Failed")]
    {
        if is(first) && is(second) {
            let detail = format!("cannot set {first}=True and {second}=true conditions");
            errors.invalid(&conditions, &status.conditions, detail);
        }
    }
    for (done, needed) in [("Failed", "FailureTarget"), ("Complete", "SuccessCriteriaMet")] {
        if is(done) && !is(needed) {
            let detail = format!("cannot set {done}=True condition without the {needed}=true condition");
            errors.invalid(&conditions, &status.conditions, detail);
        }
    }
    let completion = path.child("completionTime");
    match &status.completion_time {
        Some(_) if !complete => {
            let detail = "cannot set completionTime when there is no Complete=True condition";
            errors.invalid(&completion, &status.completion_time, detail);
        }
        None if complete => errors.required(&completion, "completionTime is required for Complete jobs"),
        Some(end) if status.start_time.as_ref().is_some_and(|start| end.0 < start.0) => {
            errors.invalid(&completion, &status.completion_time, "must be equal to or after `startTime`");
        }
        _ => {}
    }
    if complete || failed {
        for (field, count) in [("active", status.active), ("terminating", status.terminating)] {
            if let Some(count) = count.filter(|c| *c > 0) {
                errors.invalid(&path.child(field), count, format!("{field}>0 is invalid for finished job"));
            }
        }
        if status.start_time.is_none() {
            errors.required(&path.child("startTime"), "startTime is required for finished job");
        }
    }
    if status.ready.unwrap_or(0) > status.active.unwrap_or(0) {
        errors.invalid(&path.child("ready"), status.ready, "cannot set more ready pods than active");
    }
    for type_ in ["Failed", "Complete", "FailureTarget", "SuccessCriteriaMet"] {
        if is_true(before, type_) && !is(type_) {
            let detail = format!("cannot disable the terminal {type_}=True condition");
            errors.invalid(&conditions, &status.conditions, detail);
        }
    }
    for (field, now, then) in
        [("failed", status.failed, before.failed), ("succeeded", status.succeeded, before.succeeded)]
    {
        if now.unwrap_or(0) < then.unwrap_or(0) {
            let detail = format!("cannot decrease the {field} counter");
            errors.invalid(&path.child(field), now.unwrap_or(0), detail);
        }
    }
    errors
}

#[cfg(test)]
mod tests {
    use super::super::tests::job;
    use super::*;
    use crate::kinds::shared::testing::texts;
    use serde_json::{Value, json};

    #[test]
    fn creating() {
        assert_eq!(texts(validate(&job(|_| {}))), Vec::<String>::new());
        type Change = fn(&mut Value);
        let cases: [(Change, &str); 8] = [
            (
                |s| s["template"]["spec"]["restartPolicy"] = json!("Always"),
                "spec.template.spec.restartPolicy: Required value: valid values: \"OnFailure\", \"Never\"",
            ),
            (|s| s["completionMode"] = json!("Indexed"), ""),
            (
                |s| {
                    s["completionMode"] = json!("Indexed");
                    s["parallelism"] = json!(1);
                },
                "spec.completions: Required value: when completion mode is Indexed",
            ),
            (
                |s| s["selector"] = json!({"matchLabels": {"a": "b"}}),
                "spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\",\"batch.kubernetes.io/controller-uid\":\"u\"}}: \
                 `selector` not auto-generated; spec.template.metadata.labels: Invalid value: \
                 {\"batch.kubernetes.io/controller-uid\":\"u\",\"batch.kubernetes.io/job-name\":\"pi\",\"controller-uid\":\"u\",\
                 \"job-name\":\"pi\"}: `selector` does not match template `labels`",
            ),
            (
                |s| s["backoffLimitPerIndex"] = json!(1),
                "spec.backoffLimitPerIndex: Invalid value: 1: requires indexed completion mode",
            ),
            (
                |s| s["podFailurePolicy"] = json!({"rules": [{"action": "Ignore"}]}),
                "spec.podFailurePolicy.rules[0]: Invalid value: specifying one of OnExitCodes and \
                 OnPodConditions is required",
            ),
            (
                |s| s["podFailurePolicy"] = json!({"rules": [{"action": "Ignore", "onExitCodes": {"operator": "In", "values": [3, 0]}}]}),
                "spec.podFailurePolicy.rules[0].onExitCodes.values[1]: Invalid value: 0: must not be 0 for the In operator; \
                 spec.podFailurePolicy.rules[0].onExitCodes.values: Invalid value: [3,0]: must be ordered",
            ),
            (
                |s| s["parallelism"] = json!(-1),
                "spec.parallelism: Invalid value: -1: must be greater than or equal to 0",
            ),
        ];
        for (change, expected) in cases {
            assert_eq!(texts(validate(&job(change))).join("; "), expected);
        }
    }

    #[test]
    fn updating() {
        let old = job(|_| {});
        let update = |change: fn(&mut Value)| texts(validate_update(&job(change), &old));
        assert!(update(|s| s["suspend"] = json!(true)).is_empty());
        assert_eq!(
            update(|s| s["completions"] = json!(2)),
            ["spec.completions: Invalid value: 2: field is immutable"]
        );
        assert_eq!(update(|s| s["template"]["spec"]["containers"][0]["image"] = json!("j")).len(), 1);
        let sleeping = job(|s| s["suspend"] = json!(true));
        let mut awake = sleeping.clone();
        let spec = awake.spec.as_mut().unwrap();
        spec.suspend = Some(false);
        spec.template.spec.as_mut().unwrap().node_selector = Some([("a".to_owned(), "b".to_owned())].into());
        assert!(texts(validate_update(&awake, &sleeping)).is_empty());
        assert_eq!(texts(validate_update(&awake, &old)).len(), 1);
    }

    #[test]
    fn indexes() {
        assert_eq!(count_indexes("1,3-5,7", 10), Ok(5));
        assert_eq!(count_indexes("", 10), Ok(0));
        for bad in ["5,3", "3-3", "1-10", "x", "1,,2"] {
            assert!(count_indexes(bad, 10).is_err(), "{bad}");
        }
    }
}
