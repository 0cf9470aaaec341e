//! When a single container is started again.

use super::optionally;
use api::field::{Errors, Path};
use k8s_openapi::api::core::v1::Container;

const RULES_MAX: usize = 20;
const EXIT_CODES_MAX: usize = 255;
const POLICIES: [&str; 3] = ["Always", "Never", "OnFailure"];

pub(super) fn validate(container: &Container, path: &Path, errors: &mut Errors) {
    let rules = container.restart_policy_rules.as_deref().unwrap_or_default();
    let policy = path.child("restartPolicy");
    if container.restart_policy.is_none() && !rules.is_empty() {
        errors.required(&policy, "must specify restartPolicy when restart rules are used");
    }
    optionally(container.restart_policy.as_ref(), &POLICIES, &policy, errors);
    let path = path.child("restartPolicyRules");
    if rules.len() > RULES_MAX {
        errors.too_many(&path, rules.len(), RULES_MAX);
    }
    for (i, rule) in rules.iter().enumerate() {
        let path = path.index(i);
        let actions = ["Restart", "RestartAllContainers"];
        if !actions.contains(&rule.action.as_str()) {
            errors.not_supported(&path.child("action"), &rule.action, &actions);
        }
        let path = path.child("exitCodes");
        let Some(codes) = &rule.exit_codes else {
            errors.required(&path, "must be specified");
            continue;
        };
        if !["In", "NotIn"].contains(&codes.operator.as_str()) {
            errors.not_supported(&path.child("operator"), &codes.operator, &["In", "NotIn"]);
        }
        let count = codes.values.as_ref().map_or(0, Vec::len);
        if count > EXIT_CODES_MAX {
            errors.too_many(&path.child("values"), count, EXIT_CODES_MAX);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{object, texts};
    use serde_json::json;

    #[test]
    fn rules_need_a_policy_and_what_to_look_for() {
        let faults = |container| {
            let mut errors = Errors::default();
            validate(&object(container), &Path::new("c"), &mut errors);
            texts(errors)
        };
        let rule = json!({"action": "Restart", "exitCodes": {"operator": "In", "values": [1]}});
        assert!(
            faults(json!({"name": "c", "restartPolicy": "Never", "restartPolicyRules": [rule]})).is_empty()
        );
        assert_eq!(
            faults(
                json!({"name": "c", "restartPolicyRules": [{"action": "a", "exitCodes": {"operator": "Is"}},
                {"action": "Restart"}]})
            ),
            [
                "c.restartPolicy: Required value: must specify restartPolicy when restart rules are used",
                "c.restartPolicyRules[0].action: Unsupported value: \"a\": supported values: \"Restart\", \
                 \"RestartAllContainers\"",
                "c.restartPolicyRules[0].exitCodes.operator: Unsupported value: \"Is\": supported values: \"In\", \"NotIn\"",
                "c.restartPolicyRules[1].exitCodes: Required value: must be specified",
            ]
        );
    }
}
