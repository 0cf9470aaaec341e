//! FlowSchema and PriorityLevelConfiguration. Stored and served; requests here are limited in another way
//! (`latch.rs`), which these do not change.

use super::shared::spec_and_status::spec_and_status;
use super::shared::{cells, pod_spec, pod_template};
use super::{Column, Kind, Subresource};
use api::field::{Errors, Path};
use api::names;
use jiff::Timestamp;
use k8s_openapi::api::flowcontrol::v1::{
    FlowSchema, LimitedPriorityLevelConfiguration, PriorityLevelConfiguration,
};
use serde_json::Value;

const PRECEDENCE: i32 = 1000;
const PRECEDENCE_MAX: i32 = 10_000;
const SHARES: i32 = 30;
/// Queues, those a request is dealt, and what one holds.
const QUEUES: i32 = 64;
const HAND_SIZE: i32 = 8;
const QUEUE_LENGTH: i32 = 50;
const QUEUES_MAX: i32 = 10_000_000;

pub(super) struct FlowSchemas;

impl Kind for FlowSchemas {
    type Object = FlowSchema;
    const PLURAL: &'static str = "flowschemas";
    const SINGULAR: &'static str = "flowschema";
    const NAMESPACED: bool = false;
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status];
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("PriorityLevel", "string", 0, "The level of the requests that match."),
        Column::new("MatchingPrecedence", "string", 0, "Of several that match, the lowest counts."),
        Column::new("DistinguisherMethod", "string", 0, "How requests are told apart within the level."),
        Column::age(),
        Column::new(
            "MissingPL",
            "string",
            0,
            "references a broken or non-existent PriorityLevelConfiguration",
        ),
    ];

    fn default(object: &mut FlowSchema) {
        let spec = object.spec.get_or_insert_default();
        if spec.matching_precedence.unwrap_or(0) == 0 {
            spec.matching_precedence = Some(PRECEDENCE);
        }
    }

    spec_and_status!(FlowSchema, status alone);
    fn generation_changed(new: &FlowSchema, old: &FlowSchema) -> Option<bool> {
        Some(new.spec != old.spec)
    }

    fn validate(object: &FlowSchema) -> Errors {
        let (mut errors, path) = (Errors::default(), Path::new("spec"));
        let spec = object.spec.clone().unwrap_or_default();
        let precedence = spec.matching_precedence.unwrap_or(0);
        let at = path.child("matchingPrecedence");
        if precedence <= 0 {
            errors.invalid(&at, precedence, "must be a positive value");
        } else if precedence > PRECEDENCE_MAX {
            errors.invalid(&at, precedence, format!("must not be greater than {PRECEDENCE_MAX}"));
        } else if precedence == 1 && object.metadata.name.as_deref() != Some("exempt") {
            errors.invalid(&at, precedence, "only the schema named 'exempt' may have matchingPrecedence 1");
        }
        if let Some(method) = &spec.distinguisher_method {
            let path = path.child("distinguisherMethod").child("type");
            pod_spec::enumerated(Some(&method.type_), &["ByNamespace", "ByUser"], &path, &mut errors);
        }
        let at = path.child("priorityLevelConfiguration").child("name");
        match spec.priority_level_configuration.name.as_str() {
            "" => errors.required(&at, "must reference a priority level"),
            name => errors.invalid_each(&at, name, names::dns_subdomain(name)),
        }
        for (i, rule) in spec.rules.iter().flatten().enumerate() {
            let path = path.child("rules").index(i);
            if rule.subjects.is_empty() {
                errors.required(&path.child("subjects"), "subjects must contain at least one value");
            }
            for (i, subject) in rule.subjects.iter().enumerate() {
                let path = path.child("subjects").index(i).child("kind");
                pod_spec::enumerated(
                    Some(&subject.kind),
                    &["Group", "ServiceAccount", "User"],
                    &path,
                    &mut errors,
                );
            }
            let any = |list: Option<usize>| list.is_some_and(|n| n > 0);
            if !any(rule.resource_rules.as_ref().map(Vec::len))
                && !any(rule.non_resource_rules.as_ref().map(Vec::len))
            {
                errors.required(
                    &path,
                    "at least one of resourceRules and nonResourceRules has to be non-empty",
                );
            }
        }
        errors
    }

    fn validate_update(new: &FlowSchema, _: &FlowSchema) -> Errors {
        Self::validate(new)
    }

    fn row(object: &FlowSchema, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let conditions = object.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        let dangling = conditions.iter().find(|c| c.type_.as_deref() == Some("Dangling"));
        vec![
            cells::name(&object.metadata),
            spec.priority_level_configuration.name.into(),
            spec.matching_precedence.unwrap_or(0).into(),
            spec.distinguisher_method.map_or("<none>".into(), |m| m.type_.into()),
            cells::age(&object.metadata, now),
            dangling.and_then(|c| c.status.clone()).unwrap_or_else(|| "?".to_owned()).into(),
        ]
    }
}

pub(super) struct PriorityLevels;

impl Kind for PriorityLevels {
    type Object = PriorityLevelConfiguration;
    const PLURAL: &'static str = "prioritylevelconfigurations";
    const SINGULAR: &'static str = "prioritylevelconfiguration";
    const NAMESPACED: bool = false;
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status];
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("Type", "string", 0, "Limited or Exempt."),
        Column::new("NominalConcurrencyShares", "string", 0, "The level's share of all seats."),
        Column::new("Queues", "string", 0, "Number of queues."),
        Column::new("HandSize", "string", 0, "Number of queues a request may choose from."),
        Column::new("QueueLengthLimit", "string", 0, "Requests that wait in one queue."),
        Column::age(),
    ];

    fn default(object: &mut PriorityLevelConfiguration) {
        let spec = object.spec.get_or_insert_default();
        if let Some(exempt) = &mut spec.exempt {
            exempt.nominal_concurrency_shares.get_or_insert(0);
            exempt.lendable_percent.get_or_insert(0);
        }
        let Some(limited) = &mut spec.limited else { return };
        limited.nominal_concurrency_shares.get_or_insert(SHARES);
        limited.lendable_percent.get_or_insert(0);
        if let Some(queuing) = limited.limit_response.as_mut().and_then(|r| r.queuing.as_mut()) {
            for (field, value) in [
                (&mut queuing.queues, QUEUES),
                (&mut queuing.hand_size, HAND_SIZE),
                (&mut queuing.queue_length_limit, QUEUE_LENGTH),
            ] {
                if field.unwrap_or(0) == 0 {
                    *field = Some(value);
                }
            }
        }
    }

    spec_and_status!(PriorityLevelConfiguration, status alone);
    fn generation_changed(
        new: &PriorityLevelConfiguration,
        old: &PriorityLevelConfiguration,
    ) -> Option<bool> {
        Some(new.spec != old.spec)
    }

    fn validate(object: &PriorityLevelConfiguration) -> Errors {
        let (mut errors, path) = (Errors::default(), Path::new("spec"));
        let spec = object.spec.clone().unwrap_or_default();
        let (limited, exempt) = (path.child("limited"), path.child("exempt"));
        match (spec.type_.as_str(), &spec.limited, &spec.exempt) {
            ("Exempt", Some(_), _) => errors.forbidden(&limited, "must be nil if the type is not Limited"),
            ("Exempt", None, _) => {}
            ("Limited", None, _) => errors.required(&limited, "must not be empty when type is Limited"),
            ("Limited", Some(level), without) => {
                if without.is_some() {
                    errors.forbidden(&exempt, "must be nil if the type is Limited");
                }
                validate_limited(level, &limited, &mut errors);
            }
            (other, _, _) => {
                pod_spec::enumerated(Some(other), &["Exempt", "Limited"], &path.child("type"), &mut errors)
            }
        }
        errors
    }

    fn validate_update(new: &PriorityLevelConfiguration, _: &PriorityLevelConfiguration) -> Errors {
        Self::validate(new)
    }

    fn row(object: &PriorityLevelConfiguration, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let queuing = spec.limited.as_ref().and_then(|l| l.limit_response.as_ref()?.queuing.clone());
        let number = |n: Option<i32>| -> Value { n.map_or("<none>".into(), Into::into) };
        vec![
            cells::name(&object.metadata),
            spec.type_.into(),
            number(spec.limited.as_ref().map(|l| l.nominal_concurrency_shares.unwrap_or(0))),
            number(queuing.as_ref().map(|q| q.queues.unwrap_or(0))),
            number(queuing.as_ref().map(|q| q.hand_size.unwrap_or(0))),
            number(queuing.as_ref().map(|q| q.queue_length_limit.unwrap_or(0))),
            cells::age(&object.metadata, now),
        ]
    }
}

fn validate_limited(level: &LimitedPriorityLevelConfiguration, path: &Path, errors: &mut Errors) {
    let counts = [
        ("nominalConcurrencyShares", level.nominal_concurrency_shares),
        ("borrowingLimitPercent", level.borrowing_limit_percent),
    ];
    pod_template::not_negative(counts, path, errors);
    if let Some(percent) = level.lendable_percent.filter(|p| !(0..=100).contains(p)) {
        errors.invalid(&path.child("lendablePercent"), percent, "must be between 0 and 100, inclusive");
    }
    let (response, path) = (level.limit_response.clone().unwrap_or_default(), path.child("limitResponse"));
    let queuing = path.child("queuing");
    match (response.type_.as_str(), response.queuing) {
        ("Reject", Some(_)) => {
            errors.forbidden(&queuing, "must be nil if limited.limitResponse.type is not Limited")
        }
        ("Reject", None) => {}
        ("Queue", None) => {
            errors.required(&queuing, "must not be empty if limited.limitResponse.type is Limited")
        }
        ("Queue", Some(all)) => {
            for (field, value) in [
                ("queueLengthLimit", all.queue_length_limit),
                ("queues", all.queues),
                ("handSize", all.hand_size),
            ] {
                if value.unwrap_or(0) <= 0 {
                    errors.invalid(&queuing.child(field), value, "must be positive");
                }
            }
            if all.queues.is_some_and(|q| q > QUEUES_MAX) {
                let detail = format!("must not be greater than {QUEUES_MAX}");
                errors.invalid(&queuing.child("queues"), all.queues, detail);
            }
            if all.hand_size > all.queues {
                let detail = format!("should not be greater than queues ({})", all.queues.unwrap_or(0));
                errors.invalid(&queuing.child("handSize"), all.hand_size, detail);
            }
        }
        (other, _) => pod_spec::enumerated(Some(other), &["Queue", "Reject"], &path.child("type"), errors),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{object, texts};
    use serde_json::json;

    #[test]
    fn levels_and_schemas() {
        let level = |spec: Value| -> PriorityLevelConfiguration {
            let mut level = object(json!({"metadata": {"name": "l"}, "spec": spec}));
            PriorityLevels::default(&mut level);
            level
        };
        let fine =
            level(json!({"type": "Limited", "limited": {"limitResponse": {"type": "Queue", "queuing": {}}}}));
        assert!(texts(PriorityLevels::validate(&fine)).is_empty());
        assert_eq!(
            json!(PriorityLevels::row(&fine, Timestamp::UNIX_EPOCH)[1..6]),
            json!(["Limited", 30, 64, 8, 50])
        );
        assert_eq!(texts(PriorityLevels::validate(&level(json!({"type": "Limited"})))).len(), 1);
        let schema = |spec: Value| -> FlowSchema {
            let mut schema = object(json!({"metadata": {"name": "s"}, "spec": spec}));
            FlowSchemas::default(&mut schema);
            schema
        };
        let fine = schema(json!({"priorityLevelConfiguration": {"name": "l"}}));
        assert!(texts(FlowSchemas::validate(&fine)).is_empty());
        assert_eq!(fine.spec.unwrap().matching_precedence, Some(1000));
        assert_eq!(
            texts(FlowSchemas::validate(&schema(
                json!({"priorityLevelConfiguration": {"name": ""}, "matchingPrecedence": 1})
            )))
            .len(),
            2
        );
    }
}
