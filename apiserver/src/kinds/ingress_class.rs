//! IngressClass: which controller implements an Ingress.

use super::shared::{cells, network, object_meta};
use super::{Column, Kind};
use api::field::{Errors, Path};
use api::names;
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{IngressClass, IngressClassParametersReference};
use serde_json::Value;

const CONTROLLER_MAX: usize = 250;
const DEFAULT: &str = "ingressclass.kubernetes.io/is-default-class";

pub(super) struct IngressClasses;

impl Kind for IngressClasses {
    type Object = IngressClass;
    const PLURAL: &'static str = "ingressclasses";
    const SINGULAR: &'static str = "ingressclass";
    const NAMESPACED: bool = false;
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("Controller", "string", 0, "Controller that is responsible for handling this class"),
        Column::new("Parameters", "string", 0, "A reference to a resource with additional parameters"),
        Column::age(),
    ];

    fn default(object: &mut IngressClass) {
        if let Some(parameters) = &mut object.spec.get_or_insert_default().parameters {
            parameters.scope.get_or_insert_with(|| "Cluster".to_owned());
        }
    }

    fn generation_changed(new: &IngressClass, old: &IngressClass) -> Option<bool> {
        Some(new.spec != old.spec)
    }

    fn validate(object: &IngressClass) -> Errors {
        let mut errors = Errors::default();
        let (spec, path) = (object.spec.clone().unwrap_or_default(), Path::new("spec"));
        let controller = spec.controller.as_deref().unwrap_or_default();
        if controller.len() > CONTROLLER_MAX {
            errors.too_long(&path.child("controller"), CONTROLLER_MAX);
        }
        network::domain_prefixed(controller, &path.child("controller"), &mut errors);
        if let Some(parameters) = &spec.parameters {
            validate_parameters(parameters, &path.child("parameters"), &mut errors);
        }
        errors
    }

    fn validate_update(new: &IngressClass, old: &IngressClass) -> Errors {
        let mut errors = Self::validate(new);
        let controller = |c: &IngressClass| c.spec.as_ref().and_then(|s| s.controller.clone());
        let path = Path::new("spec").child("controller");
        object_meta::immutable(controller(new), controller(old), &path, &mut errors);
        errors
    }

    fn row(object: &IngressClass, now: Timestamp) -> Vec<Value> {
        let spec = object.spec.clone().unwrap_or_default();
        let is_default = object.metadata.annotations.as_ref().and_then(|a| a.get(DEFAULT));
        let mut name = object.metadata.name.clone().unwrap_or_default();
        if is_default.is_some_and(|v| v == "true") {
            name.push_str(" (default)");
        }
        let parameters = spec.parameters.map_or_else(
            || "<none>".to_owned(),
            |p| {
                let group = p.api_group.map(|g| format!(".{g}")).unwrap_or_default();
                format!("{}{group}/{}", p.kind, p.name)
            },
        );
        vec![
            name.into(),
            cells::text(spec.controller.as_ref()),
            parameters.into(),
            cells::age(&object.metadata, now),
        ]
    }
}

fn validate_parameters(parameters: &IngressClassParametersReference, path: &Path, errors: &mut Errors) {
    if let Some(group) = &parameters.api_group {
        errors.invalid_each(&path.child("apiGroup"), group, names::dns_subdomain(group));
    }
    for (field, text) in [("kind", &parameters.kind), ("name", &parameters.name)] {
        match text.as_str() {
            "" => errors.required(&path.child(field), ""),
            text => errors.invalid_each(&path.child(field), text, names::path_segment(text)),
        }
    }
    let namespace = path.child("namespace");
    match (parameters.scope.as_deref().unwrap_or(""), parameters.namespace.as_deref()) {
        ("", _) => errors.required(&path.child("scope"), ""),
        ("Namespace", None) => errors.required(&namespace, "`parameters.scope` is set to 'Namespace'"),
        ("Namespace", Some(name)) => errors.invalid_each(&namespace, name, names::dns_label(name)),
        ("Cluster", Some(_)) => errors.forbidden(&namespace, "`parameters.scope` is set to 'Cluster'"),
        ("Cluster", None) => {}
        (other, _) => errors.not_supported(&path.child("scope"), other, &["Cluster", "Namespace"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{at, object, texts};
    use serde_json::json;

    #[test]
    fn rules_and_row() {
        let class = |spec: Value| -> IngressClass {
            let mut class = object(
                json!({"metadata": {"name": "c", "creationTimestamp": at(0), "annotations": {DEFAULT: "true"}}, "spec": spec}),
            );
            IngressClasses::default(&mut class);
            class
        };
        let fine = class(
            json!({"controller": "example.com/lb", "parameters": {"kind": "K", "name": "n", "apiGroup": "g.io"}}),
        );
        assert!(texts(IngressClasses::validate(&fine)).is_empty());
        let row = IngressClasses::row(&fine, "1970-01-01T00:00:07Z".parse().unwrap());
        assert_eq!(json!(row), json!(["c (default)", "example.com/lb", "K.g.io/n", "7s"]));
        assert_eq!(
            texts(IngressClasses::validate(&class(
                json!({"controller": "lb", "parameters": {"kind": "K", "name": "n", "scope": "Namespace"}})
            ))),
            [
                "spec.controller: Invalid value: \"lb\": must be a domain-prefixed path (such as \"acme.io/foo\")",
                "spec.parameters.namespace: Required value: `parameters.scope` is set to 'Namespace'",
            ]
        );
    }
}
