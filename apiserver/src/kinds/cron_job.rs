//! CronJob: jobs at times.

use super::job::{self, validate_job_template};
use super::shared::spec_and_status::spec_and_status;
use super::shared::{cells, pod_template};
use super::{Column, Kind, Subresource};
use api::field::{Errors, Path};
use api::schedule::Schedule;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use k8s_openapi::api::batch::v1::{CronJob, CronJobSpec, CronJobStatus};
use serde_json::Value;

const SUCCESSFUL_JOBS: i32 = 3;
const FAILED_JOBS: i32 = 1;
/// The controller adds eleven characters to name a job, whose name may have 63.
const NAME_MAX: usize = 52;
/// Longest part between the slashes of a time zone's name.
const ZONE_PART_MAX: usize = 14;

pub(super) struct CronJobs;

impl Kind for CronJobs {
    type Object = CronJob;
    const PLURAL: &'static str = "cronjobs";
    const SINGULAR: &'static str = "cronjob";
    const SHORT_NAMES: &'static [&'static str] = &["cj"];
    const CATEGORIES: &'static [&'static str] = &["all"];
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status];
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("Schedule", "string", 0, "When jobs are made, in cron's format."),
        Column::new("Timezone", "string", 0, "The time zone of the schedule."),
        Column::new("Suspend", "boolean", 0, "Whether no more jobs are made."),
        Column::new("Active", "integer", 0, "Number of jobs that run."),
        Column::new("Last Schedule", "string", 0, "Time since a job was last made."),
        Column::age(),
        Column::new("Containers", "string", 1, "Names of each container in the template."),
        Column::new("Images", "string", 1, "Images referenced by each container in the template."),
        Column::new("Selector", "string", 1, "Label query that the pods match."),
    ];

    fn default(object: &mut CronJob) {
        let spec = &mut object.spec;
        spec.concurrency_policy.get_or_insert_with(|| "Allow".to_owned());
        spec.suspend.get_or_insert(false);
        spec.successful_jobs_history_limit.get_or_insert(SUCCESSFUL_JOBS);
        spec.failed_jobs_history_limit.get_or_insert(FAILED_JOBS);
        let template = spec.job_template.spec.get_or_insert_default();
        job::default_rules(template);
        pod_template::default(&mut template.template);
    }

    spec_and_status!(CronJob);

    fn validate(object: &CronJob) -> Errors {
        let mut errors = validate(object, None);
        let name = object.metadata.name.as_deref().unwrap_or_default();
        if name.len() > NAME_MAX {
            let detail = format!("must be no more than {NAME_MAX} characters");
            errors.invalid(&Path::new("metadata").child("name"), name, detail);
        }
        errors
    }

    fn validate_update(new: &CronJob, old: &CronJob) -> Errors {
        validate(new, Some(&old.spec))
    }

    fn warnings(object: &CronJob) -> Vec<String> {
        let template = object.spec.job_template.spec.as_ref().map(|s| &s.template);
        let path = Path::new("spec").child("jobTemplate").child("spec").child("template");
        let mut texts = pod_template::warnings(template, &path);
        texts.extend(pod_template::name_warning(&object.metadata));
        texts
    }

    fn row(object: &CronJob, now: Timestamp) -> Vec<Value> {
        let none = CronJobStatus::default();
        let (spec, status) = (&object.spec, object.status.as_ref().unwrap_or(&none));
        let job = spec.job_template.spec.as_ref();
        let [containers, images] = pod_template::container_cells(job.map(|j| &j.template));
        let last = status.last_schedule_time.as_ref().map(|t| api::age::since(Some(t.0), now));
        vec![
            cells::name(&object.metadata),
            spec.schedule.clone().into(),
            cells::text_or(spec.time_zone.as_ref(), "<none>").into(),
            if spec.suspend == Some(true) { "True" } else { "False" }.into(),
            status.active.as_ref().map_or(0, Vec::len).into(),
            last.unwrap_or_else(|| "<none>".to_owned()).into(),
            cells::age(&object.metadata, now),
            containers,
            images,
            job.and_then(|j| j.selector.as_ref()).map_or("<none>".into(), pod_template::selector_cell),
        ]
    }
}

fn validate(object: &CronJob, old: Option<&CronJobSpec>) -> Errors {
    let (mut errors, spec, path) = (Errors::default(), &object.spec, Path::new("spec"));
    validate_schedule(spec, old, &path.child("schedule"), &mut errors);
    pod_template::not_negative(
        [("startingDeadlineSeconds", spec.starting_deadline_seconds)],
        &path,
        &mut errors,
    );
    if let Some(zone) = spec.time_zone.as_ref().filter(|_| old.is_none_or(|o| o.time_zone != spec.time_zone))
    {
        validate_zone(zone, &path.child("timeZone"), &mut errors);
    }
    let policies = ["Allow", "Forbid", "Replace"];
    let policy = spec.concurrency_policy.as_deref();
    super::shared::pod_spec::enumerated(policy, &policies, &path.child("concurrencyPolicy"), &mut errors);
    validate_job_template(&spec.job_template, &path.child("jobTemplate"), &mut errors);
    let limits = [
        ("successfulJobsHistoryLimit", spec.successful_jobs_history_limit),
        ("failedJobsHistoryLimit", spec.failed_jobs_history_limit),
    ];
    pod_template::not_negative(limits, &path, &mut errors);
    errors
}

fn validate_schedule(spec: &CronJobSpec, old: Option<&CronJobSpec>, path: &Path, errors: &mut Errors) {
    let text = &spec.schedule;
    if text.is_empty() {
        return errors.required(path, "");
    }
    if let Err(why) = Schedule::parse(text) {
        errors.invalid(path, text, why);
    }
    // One that had its zone in the schedule may keep it.
    let had_zone = old.is_some_and(|o| o.schedule.contains("TZ"));
    match (text.contains("TZ"), had_zone) {
        (true, false) => {
            let detail = "cannot use TZ or CRON_TZ in schedule, use timeZone field instead";
            errors.invalid(path, text, detail);
        }
        (true, true) if spec.time_zone.is_some() => {
            let detail = "cannot use both timeZone field and TZ or CRON_TZ in schedule";
            errors.invalid(path, text, detail);
        }
        _ => {}
    }
}

fn validate_zone(zone: &str, path: &Path, errors: &mut Errors) {
    if zone.is_empty() {
        return errors.invalid(path, zone, "timeZone must be nil or non-empty string");
    }
    let allowed = |c: char| c.is_ascii_alphanumeric() || ".-_+".contains(c);
    let sound = |part: &str| {
        !matches!(part, "" | "." | "..")
            && part.len() <= ZONE_PART_MAX
            && !part.starts_with('-')
            && part.chars().all(allowed)
    };
    if !zone.split('/').all(sound) {
        errors.invalid(path, zone, format!("unknown time zone {zone}"));
    } else if zone.eq_ignore_ascii_case("local") {
        let detail = "timeZone must be an explicit time zone as defined in https://www.iana.org/time-zones";
        errors.invalid(path, zone, detail);
    } else if TimeZone::get(zone).is_err() {
        errors.invalid(path, zone, format!("unknown time zone {zone}"));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{at, object, texts};
    use serde_json::json;

    fn cron(change: impl FnOnce(&mut Value)) -> CronJob {
        let mut spec = json!({"schedule": "*/5 * * * *", "jobTemplate": {"spec": {"template": {
            "spec": {"restartPolicy": "OnFailure", "containers": [{"name": "c", "image": "i"}]}}}}});
        change(&mut spec);
        let mut cron =
            object(json!({"metadata": {"name": "tick", "creationTimestamp": at(0)}, "spec": spec}));
        CronJobs::default(&mut cron);
        CronJobs::prepare_create(&mut cron);
        cron
    }

    #[test]
    fn defaults_and_row() {
        let made = cron(|_| {});
        let value = serde_json::to_value(&made).unwrap();
        assert_eq!(value["spec"]["concurrencyPolicy"], "Allow");
        assert_eq!(value["spec"]["successfulJobsHistoryLimit"], 3);
        assert_eq!(value["spec"]["jobTemplate"]["spec"]["template"]["spec"]["dnsPolicy"], "ClusterFirst");
        let row = CronJobs::row(&made, "1970-01-01T00:00:07Z".parse().unwrap());
        assert_eq!(
            json!(row),
            json!(["tick", "*/5 * * * *", "<none>", "False", 0, "<none>", "7s", "c", "i", "<none>"])
        );
    }

    #[test]
    fn rules() {
        assert_eq!(
            texts(CronJobs::validate(&cron(|s| s["timeZone"] = json!("Europe/Berlin")))),
            Vec::<String>::new()
        );
        type Change = fn(&mut Value);
        let cases: [(Change, &str); 6] = [
            (|s| s["schedule"] = json!(""), "spec.schedule: Required value"),
            (
                |s| s["schedule"] = json!("* * *"),
                "spec.schedule: Invalid value: \"* * *\": expected exactly 5 fields, found 3: [* * *]",
            ),
            (
                |s| s["schedule"] = json!("TZ=UTC * * * * *"),
                "spec.schedule: Invalid value: \"TZ=UTC * * * * *\": cannot use TZ or CRON_TZ in schedule, use timeZone \
                 field instead",
            ),
            (
                |s| s["timeZone"] = json!("Mars/Base"),
                "spec.timeZone: Invalid value: \"Mars/Base\": unknown time zone Mars/Base",
            ),
            (
                |s| s["concurrencyPolicy"] = json!("Maybe"),
                "spec.concurrencyPolicy: Unsupported value: \"Maybe\": supported values: \"Allow\", \"Forbid\", \"Replace\"",
            ),
            (
                |s| s["jobTemplate"]["spec"]["selector"] = json!({"matchLabels": {"a": "b"}}),
                "spec.jobTemplate.spec.selector: Invalid value: {\"matchLabels\":{\"a\":\"b\"}}: `selector` will be \
                 auto-generated",
            ),
        ];
        for (change, expected) in cases {
            assert_eq!(texts(CronJobs::validate(&cron(change))), [expected]);
        }
    }
}
