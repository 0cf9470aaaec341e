//! Job: pods that run to completion.

use super::shared::{cells, pod_template};
use super::{Column, Kind, Subresource};
use api::field::{Errors, Path};
use api::{age, conditions};
use jiff::Timestamp;
use k8s_openapi::api::batch::v1::{Job, JobCondition, JobSpec, JobStatus};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use serde_json::Value;

mod validate;

pub(super) use validate::validate_template as validate_job_template;

const BACKOFF_LIMIT: i32 = 6;
/// Labels that tell a job's pods from all others: names of today, and of before labels had prefixes.
const NAME_LABELS: [&str; 2] = ["job-name", "batch.kubernetes.io/job-name"];
const UID_LABELS: [&str; 2] = ["controller-uid", UID_LABEL];
const UID_LABEL: &str = "batch.kubernetes.io/controller-uid";

pub(super) struct Jobs;

impl Kind for Jobs {
    type Object = Job;
    const PLURAL: &'static str = "jobs";
    const SINGULAR: &'static str = "job";
    const CATEGORIES: &'static [&'static str] = &["all"];
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status];
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("Status", "string", 0, "Status of the job."),
        Column::new("Completions", "string", 0, "Number of pods that have succeeded, of those wanted."),
        Column::new("Duration", "string", 0, "Time required to complete the job."),
        Column::age(),
        Column::new("Containers", "string", 1, "Names of each container in the template."),
        Column::new("Images", "string", 1, "Images referenced by each container in the template."),
        Column::new("Selector", "string", 1, "Label query that the pods match."),
    ];
    const SELECTABLE: &'static [&'static str] = &["status.successful"];
    const ORPHANS_BY_DEFAULT: bool = true;

    fn default(object: &mut Job) {
        let spec = object.spec.get_or_insert_default();
        if spec.completions.is_none() && spec.parallelism.is_none() {
            spec.completions = Some(1);
        }
        spec.parallelism.get_or_insert(1);
        let backoff = if spec.backoff_limit_per_index.is_some() { i32::MAX } else { BACKOFF_LIMIT };
        spec.backoff_limit.get_or_insert(backoff);
        spec.completion_mode.get_or_insert_with(|| "NonIndexed".to_owned());
        spec.suspend.get_or_insert(false);
        spec.manual_selector.get_or_insert(false);
        let replacement = if spec.pod_failure_policy.is_some() { "Failed" } else { "TerminatingOrFailed" };
        spec.pod_replacement_policy.get_or_insert_with(|| replacement.to_owned());
        default_rules(spec);
        pod_template::default(&mut spec.template);
        let labels = spec.template.metadata.as_ref().and_then(|m| m.labels.as_ref());
        if let Some(labels) = labels.filter(|_| object.metadata.labels.as_ref().is_none_or(|l| l.is_empty()))
        {
            object.metadata.labels = Some(labels.clone());
        }
    }

    fn prepare_create(object: &mut Job) {
        object.status = Some(JobStatus::default());
        generate_selector(object);
        // A Job without labels gets those of its pods.
        let labels = object.spec.as_ref().and_then(|s| s.template.metadata.as_ref()?.labels.clone());
        if object.metadata.labels.as_ref().is_none_or(|l| l.is_empty()) {
            object.metadata.labels = labels;
        }
    }

    fn prepare_update(new: &mut Job, old: &Job) {
        new.status = old.status.clone();
    }

    fn prepare_status_update(new: &mut Job, old: &Job) {
        new.spec = old.spec.clone();
    }

    fn generation_changed(new: &Job, old: &Job) -> Option<bool> {
        Some(new.spec != old.spec)
    }

    fn validate(object: &Job) -> Errors {
        validate::validate(object)
    }

    fn validate_update(new: &Job, old: &Job) -> Errors {
        validate::validate_update(new, old)
    }

    fn validate_status_update(new: &Job, old: &Job) -> Errors {
        validate::validate_status(new, old)
    }

    fn warnings(object: &Job) -> Vec<String> {
        let template = object.spec.as_ref().map(|s| &s.template);
        let mut texts = pod_template::warnings(template, &Path::new("spec").child("template"));
        texts.extend(pod_template::name_warning(&object.metadata));
        texts
    }

    fn row(object: &Job, now: Timestamp) -> Vec<Value> {
        let none = (JobSpec::default(), JobStatus::default());
        let (spec, status) =
            (object.spec.as_ref().unwrap_or(&none.0), object.status.as_ref().unwrap_or(&none.1));
        let [containers, images] = pod_template::container_cells(Some(&spec.template));
        let done = status.succeeded.unwrap_or(0);
        let completions = match (spec.completions, spec.parallelism.unwrap_or(0)) {
            (Some(wanted), _) => format!("{done}/{wanted}"),
            (None, many) if many > 1 => format!("{done}/1 of {many}"),
            (None, _) => format!("{done}/1"),
        };
        let duration = match (&status.start_time, &status.completion_time) {
            (None, _) => String::new(),
            (Some(start), None) => age::since(Some(start.0), now),
            (Some(start), Some(end)) => age::since(Some(start.0), end.0),
        };
        vec![
            cells::name(&object.metadata),
            state(object).into(),
            completions.into(),
            duration.into(),
            cells::age(&object.metadata, now),
            containers,
            images,
            spec.selector.as_ref().map_or("<none>".into(), pod_template::selector_cell),
        ]
    }

    fn selectable_fields(object: &Job) -> Vec<(&'static str, String)> {
        let succeeded = object.status.as_ref().and_then(|s| s.succeeded).unwrap_or(0);
        vec![("status.successful", succeeded.to_string())]
    }
}

/// The word of the column Status.
fn state(job: &Job) -> &'static str {
    let all: &[JobCondition] = job.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
    let is = |type_: &str| conditions::is_true(all, type_);
    match () {
        () if is("Complete") => "Complete",
        () if is("Failed") => "Failed",
        () if job.metadata.deletion_timestamp.is_some() => "Terminating",
        () if is("Suspended") => "Suspended",
        () if is("FailureTarget") => "FailureTarget",
        () if is("SuccessCriteriaMet") => "SuccessCriteriaMet",
        () => "Running",
    }
}

/// Patterns of a failure policy that name no status mean True.
pub(super) fn default_rules(spec: &mut JobSpec) {
    for rule in spec.pod_failure_policy.iter_mut().flat_map(|p| &mut p.rules) {
        for pattern in rule.on_pod_conditions.iter_mut().flatten() {
            pattern.status.get_or_insert_with(|| "True".to_owned());
        }
    }
}

/// Unless the client brings a selector of its own: labels by which no other job's pods are found.
fn generate_selector(job: &mut Job) {
    let Some(spec) = job.spec.as_mut().filter(|s| s.manual_selector != Some(true)) else { return };
    let name = job.metadata.name.clone().unwrap_or_default();
    let uid = job.metadata.uid.clone().unwrap_or_default();
    let labels = spec.template.metadata.get_or_insert_default().labels.get_or_insert_default();
    for (keys, value) in [(NAME_LABELS, &name), (UID_LABELS, &uid)] {
        for key in keys {
            // One that says otherwise is refused when the job is validated.
            labels.entry(key.to_owned()).or_insert_with(|| value.clone());
        }
    }
    let selector: &mut LabelSelector = spec.selector.get_or_insert_default();
    selector.match_labels.get_or_insert_default().entry(UID_LABEL.to_owned()).or_insert(uid);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{at, object};
    use serde_json::json;

    pub(super) fn job(change: impl FnOnce(&mut Value)) -> Job {
        let mut spec = json!({"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}});
        change(&mut spec);
        let mut job = object(
            json!({"metadata": {"name": "pi", "uid": "u", "namespace": "n", "creationTimestamp": at(0)}, "spec": spec}),
        );
        Jobs::default(&mut job);
        Jobs::prepare_create(&mut job);
        job
    }

    #[test]
    fn defaults_and_selector() {
        let value = serde_json::to_value(job(|_| {})).unwrap();
        let spec = &value["spec"];
        for (field, expected) in [
            ("completions", json!(1)),
            ("parallelism", json!(1)),
            ("backoffLimit", json!(6)),
            ("completionMode", json!("NonIndexed")),
            ("suspend", json!(false)),
            ("manualSelector", json!(false)),
            ("podReplacementPolicy", json!("TerminatingOrFailed")),
            ("selector", json!({"matchLabels": {"batch.kubernetes.io/controller-uid": "u"}})),
        ] {
            assert_eq!(spec[field], expected, "{field}");
        }
        assert_eq!(
            spec["template"]["metadata"]["labels"],
            json!({"batch.kubernetes.io/controller-uid": "u", "batch.kubernetes.io/job-name": "pi",
                   "controller-uid": "u", "job-name": "pi"})
        );
        let many = job(|s| s["parallelism"] = json!(2)).spec.unwrap();
        assert_eq!((many.completions, many.parallelism), (None, Some(2)));
        let manual = job(|s| s["manualSelector"] = json!(true)).spec.unwrap();
        assert_eq!(manual.selector, None);
    }

    #[test]
    fn rows() {
        let row = |status: Value| {
            let job = Job { status: object(status), ..job(|_| {}) };
            json!(Jobs::row(&job, "1970-01-01T00:00:30Z".parse().unwrap())[..5])
        };
        assert_eq!(row(json!({})), json!(["pi", "Running", "0/1", "", "30s"]));
        let done = json!({"startTime": at(5), "completionTime": at(15), "succeeded": 1,
                          "conditions": [{"type": "Complete", "status": "True"}]});
        assert_eq!(row(done), json!(["pi", "Complete", "1/1", "10s", "30s"]));
        assert_eq!(row(json!({"startTime": at(5)})), json!(["pi", "Running", "0/1", "25s", "30s"]));
    }
}
