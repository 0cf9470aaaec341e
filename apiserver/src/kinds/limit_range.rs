//! LimitRange: what one pod, container or claim of a namespace may ask for. Admission applies it.

use super::shared::cells;
use super::{Column, Kind, resource_quota};
use api::field::{Errors, Path};
use api::names;
use api::quantity::{self, Quantity};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{LimitRange, LimitRangeItem};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity as Text;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

const TYPES: [&str; 3] = ["Pod", "Container", "PersistentVolumeClaim"];

pub(super) struct LimitRanges;

type Amounts = Option<BTreeMap<String, Text>>;

impl Kind for LimitRanges {
    type Object = LimitRange;
    const PLURAL: &'static str = "limitranges";
    const SINGULAR: &'static str = "limitrange";
    const CREATE_ON_UPDATE: bool = true;
    const SHORT_NAMES: &'static [&'static str] = &["limits"];
    const COLUMNS: &'static [Column] =
        &[Column::name(), Column::new("Created At", "date", 0, "When the object was made.")];

    fn default(object: &mut LimitRange) {
        for item in object.spec.iter_mut().flat_map(|s| &mut s.limits).filter(|i| i.type_ == "Container") {
            fill(&mut item.default, &item.max);
            let default = item.default.clone();
            fill(&mut item.default_request, &default);
            fill(&mut item.default_request, &item.min);
        }
    }

    fn validate(object: &LimitRange) -> Errors {
        let (mut errors, mut seen) = (Errors::default(), BTreeSet::new());
        let path = Path::new("spec").child("limits");
        for (i, item) in object.spec.iter().flat_map(|s| &s.limits).enumerate() {
            let path = path.index(i);
            let faults = names::qualified_name(&item.type_);
            if !faults.is_empty() {
                errors.invalid_each(&path.child("type"), &item.type_, faults);
            } else if !item.type_.contains('/') && !TYPES.contains(&item.type_.as_str()) {
                let detail = "must be a standard limit type or fully qualified";
                errors.invalid(&path.child("type"), &item.type_, detail);
            }
            if !seen.insert(&item.type_) {
                errors.duplicate(&path.child("type"), &item.type_);
            }
            validate_item(item, &path, &mut errors);
        }
        errors
    }

    fn validate_update(new: &LimitRange, _: &LimitRange) -> Errors {
        Self::validate(new)
    }

    fn row(object: &LimitRange, _: Timestamp) -> Vec<Value> {
        let created = object
            .metadata
            .creation_timestamp
            .as_ref()
            .map_or_else(String::new, |t| t.0.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        vec![cells::name(&object.metadata), created.into()]
    }
}

/// Takes what `from` has and `into` has not.
fn fill(into: &mut Amounts, from: &Amounts) {
    for (name, amount) in from.iter().flatten() {
        into.get_or_insert_default().entry(name.clone()).or_insert_with(|| amount.clone());
    }
}

/// What is limited must be something: one of Kubernetes' own resources, or with a domain in front.
pub(in crate::kinds) fn resource_name(name: &str, of_container: bool, path: &Path, errors: &mut Errors) {
    let faults = names::qualified_name(name);
    if !faults.is_empty() {
        errors.invalid_each(path, name, faults);
        return;
    }
    let own = name.contains("kubernetes.io/") || !name.contains('/');
    if !name.contains('/') && !resource_quota::is_standard(name) && name != "storage" {
        errors.invalid(path, name, "must be a standard resource type or fully qualified");
    }
    if of_container && !name.contains('/') {
        let known = ["cpu", "memory", "ephemeral-storage"].contains(&name) || name.starts_with("hugepages-");
        if !known {
            errors.invalid(path, name, "must be a standard resource for containers");
        }
    } else if of_container && !own && name.starts_with("requests.") {
        errors.invalid(path, name, "doesn't follow extended resource name standard");
    }
}

fn validate_item(item: &LimitRangeItem, path: &Path, errors: &mut Errors) {
    let fields: [(&str, &Amounts); 5] = [
        ("max", &item.max),
        ("min", &item.min),
        ("default", &item.default),
        ("defaultRequest", &item.default_request),
        ("maxLimitRequestRatio", &item.max_limit_request_ratio),
    ];
    let mut keys = BTreeSet::new();
    for (field, amounts) in fields {
        if item.type_ == "Pod" && field.starts_with("default") {
            if amounts.as_ref().is_some_and(|a| !a.is_empty()) {
                errors.forbidden(&path.child(field), "may not be specified when `type` is 'Pod'");
            }
            continue;
        }
        for (name, _) in amounts.iter().flatten() {
            let of_container = matches!(item.type_.as_str(), "Pod" | "Container");
            resource_name(name, of_container, &path.child(field).key(name), errors);
            keys.insert(name.as_str());
        }
    }
    let get = |amounts: &Amounts, key: &str| {
        amounts.as_ref().and_then(|a| a.get(key)).map(|t| quantity::of(Some(t)))
    };
    if item.type_ == "PersistentVolumeClaim"
        && get(&item.min, "storage").or(get(&item.max, "storage")).is_none()
    {
        let detail = "either minimum or maximum storage value is required, but neither was provided";
        errors.required(&path.child("limits"), detail);
    }
    for key in keys {
        let [max, min, mut default, mut request, ratio] = fields.map(|(_, amounts)| get(amounts, key));
        if item.type_ == "Pod" {
            // Named already.
            (default, request) = (None, None);
        }
        type Bound<'a> = (Option<Quantity>, &'a str, Option<Quantity>, &'a str, &'a str);
        let in_order: [Bound<'_>; 6] = [
            (min, "min value", max, "max value", "min"),
            (min, "min value", request, "default request value", "defaultRequest"),
            (request, "default request value", max, "max value", "defaultRequest"),
            (request, "default request value", default, "default limit value", "defaultRequest"),
            (min, "min value", default, "default value", "default"),
            (default, "default value", max, "max value", "default"),
        ];
        for (less, what, more, than, field) in in_order {
            if let (Some(less), Some(more)) = (less, more)
                && less > more
            {
                let shown = if field == "min" || what != "min value" { less } else { more };
                let detail = format!("{what} {less} is greater than {than} {more}");
                errors.invalid(&path.child(field).key(key), shown.to_string(), detail);
            }
        }
        if let Some(ratio) = ratio {
            let at = path.child("maxLimitRequestRatio").key(key);
            if ratio < Quantity::from_units(1) {
                errors.invalid(&at, ratio.to_string(), format!("ratio {ratio} is less than 1"));
            }
            if let (Some(min), Some(max)) = (min, max)
                && min.is_positive()
                && ratio.as_f64() > max.as_f64() / min.as_f64()
            {
                let most = max.as_f64() / min.as_f64();
                let detail = format!("ratio {ratio} is greater than max/min = {most:.6}");
                errors.invalid(&at, ratio.to_string(), detail);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{object, texts};
    use serde_json::json;

    #[test]
    fn defaults_and_rules() {
        let range = |item: Value| -> LimitRange {
            let mut range = object(json!({"metadata": {"name": "l"}, "spec": {"limits": [item]}}));
            LimitRanges::default(&mut range);
            range
        };
        let made = range(json!({"type": "Container", "max": {"cpu": "2"}, "min": {"memory": "1Mi"}}));
        let value = serde_json::to_value(&made).unwrap();
        assert_eq!(value["spec"]["limits"][0]["default"], json!({"cpu": "2"}));
        assert_eq!(value["spec"]["limits"][0]["defaultRequest"], json!({"cpu": "2", "memory": "1Mi"}));
        assert!(texts(LimitRanges::validate(&made)).is_empty());
        let faults = |item| texts(LimitRanges::validate(&range(item)));
        assert_eq!(
            faults(json!({"type": "Pod", "min": {"cpu": "2"}, "max": {"cpu": "1"}, "default": {"cpu": "1"}})),
            [
                "spec.limits[0].default: Forbidden: may not be specified when `type` is 'Pod'",
                "spec.limits[0].min[cpu]: Invalid value: \"2\": min value 2 is greater than max value 1",
            ]
        );
        assert_eq!(
            faults(json!({"type": "PersistentVolumeClaim"})),
            [
                "spec.limits[0].limits: Required value: either minimum or maximum storage value is required, but neither was provided"
            ]
        );
        assert_eq!(faults(json!({"type": "Node"})).len(), 1);
    }
}
