//! PriorityClass: a name for a priority.

use super::shared::{cells, object_meta};
use super::{Column, Kind};
use api::field::{Errors, Path};
use jiff::Timestamp;
use k8s_openapi::api::scheduling::v1::PriorityClass;
use serde_json::Value;

/// Above it is the system's own.
const HIGHEST_OF_USERS: i32 = 1_000_000_000;
const SYSTEM: [(&str, i32); 2] =
    [("system-cluster-critical", 2_000_000_000), ("system-node-critical", 2_000_001_000)];
const SYSTEM_PREFIX: &str = "system-";

pub(super) struct PriorityClasses;

impl Kind for PriorityClasses {
    type Object = PriorityClass;
    const PLURAL: &'static str = "priorityclasses";
    const SINGULAR: &'static str = "priorityclass";
    const SHORT_NAMES: &'static [&'static str] = &["pc"];
    const NAMESPACED: bool = false;
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("Value", "integer", 0, "The priority of pods of this class."),
        Column::new("Global-Default", "boolean", 0, "Whether pods that name no class are of this one."),
        Column::age(),
        Column::new("PreemptionPolicy", "string", 1, "Whether pods of this class may displace others."),
    ];

    fn default(object: &mut PriorityClass) {
        object.preemption_policy.get_or_insert_with(|| "PreemptLowerPriority".to_owned());
        object.value.get_or_insert(0);
    }

    fn prepare_create(object: &mut PriorityClass) {
        // Counted once and never again: nothing of it that matters can change.
        object.metadata.generation = Some(1);
    }

    fn validate(object: &PriorityClass) -> Errors {
        let mut errors = Errors::default();
        let (name, value) = (object.metadata.name.as_deref().unwrap_or_default(), object.value.unwrap_or(0));
        if name.starts_with(SYSTEM_PREFIX) {
            let fault = match SYSTEM.iter().find(|(known, _)| *known == name) {
                None => Some(format!("{name} is not a known system priority class")),
                Some((_, wanted)) if *wanted != value => {
                    Some(format!("value of {name} PriorityClass must be {wanted}"))
                }
                Some(_) if object.global_default == Some(true) => {
                    Some(format!("globalDefault of {name} PriorityClass must be false"))
                }
                Some(_) => None,
            };
            if let Some(fault) = fault {
                let detail = format!(
                    "priority class names with '{SYSTEM_PREFIX}' prefix are reserved for system use only. error: {fault}"
                );
                errors.forbidden(&Path::new("metadata").child("name"), detail);
            }
        } else if value > HIGHEST_OF_USERS {
            let detail = format!("maximum allowed value of a user defined priority is {HIGHEST_OF_USERS}");
            errors.forbidden(&Path::new("value"), detail);
        }
        match object.preemption_policy.as_deref() {
            None | Some("PreemptLowerPriority" | "Never") => {}
            Some(other) => {
                let allowed = ["PreemptLowerPriority", "Never"];
                errors.not_supported(&Path::new("preemptionPolicy"), other, &allowed);
            }
        }
        errors
    }

    fn validate_update(new: &PriorityClass, old: &PriorityClass) -> Errors {
        let mut errors = Errors::default();
        if new.value != old.value {
            errors.forbidden(&Path::new("value"), "may not be changed in an update.");
        }
        let path = Path::new("preemptionPolicy");
        object_meta::immutable(&new.preemption_policy, &old.preemption_policy, &path, &mut errors);
        errors
    }

    fn row(object: &PriorityClass, now: Timestamp) -> Vec<Value> {
        vec![
            cells::name(&object.metadata),
            object.value.unwrap_or(0).into(),
            object.global_default.unwrap_or(false).into(),
            cells::age(&object.metadata, now),
            cells::text(object.preemption_policy.as_ref()),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{object, texts};
    use serde_json::json;

    #[test]
    fn rules() {
        let class = |name: &str, value: i32| -> PriorityClass {
            let mut class = object(json!({"metadata": {"name": name}, "value": value}));
            PriorityClasses::default(&mut class);
            class
        };
        assert!(texts(PriorityClasses::validate(&class("high", 1000))).is_empty());
        assert!(texts(PriorityClasses::validate(&class("system-node-critical", 2_000_001_000))).is_empty());
        assert_eq!(
            texts(PriorityClasses::validate(&class("high", 1_000_000_001))),
            ["value: Forbidden: maximum allowed value of a user defined priority is 1000000000"]
        );
        assert_eq!(
            texts(PriorityClasses::validate(&class("system-x", 1))),
            [
                "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. \
                 error: system-x is not a known system priority class"
            ]
        );
        assert_eq!(
            texts(PriorityClasses::validate_update(&class("a", 1), &class("a", 2))),
            ["value: Forbidden: may not be changed in an update."]
        );
    }
}
