//! Ingress: how requests from outside find services by host and path.

use super::shared::{cells, network};
use super::{Column, Kind, Subresource};
use api::field::{Errors, Path};
use api::names;
use jiff::Timestamp;
use k8s_openapi::api::networking::v1::{
    HTTPIngressPath, Ingress, IngressBackend, IngressLoadBalancerIngress, IngressRule, IngressSpec,
    IngressTLS,
};
use serde_json::Value;
use std::collections::BTreeSet;

/// Named the class before there was a field for it.
const CLASS_ANNOTATION: &str = "kubernetes.io/ingress.class";
const NOT_IN_PATHS: [&str; 5] = ["//", "/./", "/../", "%2f", "%2F"];
const NOT_AT_THE_END: [&str; 2] = ["/..", "/."];
/// Hosts that a row shows.
const SHOWN_HOSTS: usize = 3;

pub(super) struct Ingresses;

impl Kind for Ingresses {
    type Object = Ingress;
    const PLURAL: &'static str = "ingresses";
    const SINGULAR: &'static str = "ingress";
    const SHORT_NAMES: &'static [&'static str] = &["ing"];
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status];
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::new("Class", "string", 0, "The class of the controller that implements it."),
        Column::new("Hosts", "string", 0, "Hosts that requests are matched against."),
        Column::new("Address", "string", 0, "Where the load balancer is reached."),
        Column::new("Ports", "string", 0, "Ports that are open."),
        Column::age(),
    ];

    fn default(object: &mut Ingress) {
        object.spec.get_or_insert_default();
    }

    fn prepare_create(object: &mut Ingress) {
        let mut status = k8s_openapi::api::networking::v1::IngressStatus::default();
        status.load_balancer.get_or_insert_default();
        object.status = Some(status);
    }

    fn prepare_update(new: &mut Ingress, old: &Ingress) {
        new.status = old.status.clone();
    }

    fn prepare_status_update(new: &mut Ingress, old: &Ingress) {
        new.spec = old.spec.clone();
    }

    fn generation_changed(new: &Ingress, old: &Ingress) -> Option<bool> {
        Some(new.spec != old.spec)
    }

    fn validate(object: &Ingress) -> Errors {
        let mut errors = validate(object);
        let annotated = object.metadata.annotations.as_ref().and_then(|a| a.get(CLASS_ANNOTATION));
        let class = object.spec.as_ref().and_then(|s| s.ingress_class_name.as_ref());
        if let (Some(annotated), Some(class)) = (annotated, class)
            && annotated != class
        {
            let detail = "must match `ingressClassName` when both are specified";
            errors.invalid(&Path::new("annotations").child(CLASS_ANNOTATION), annotated, detail);
        }
        errors
    }

    fn validate_update(new: &Ingress, _: &Ingress) -> Errors {
        validate(new)
    }

    fn validate_status_update(new: &Ingress, _: &Ingress) -> Errors {
        let mut errors = Errors::default();
        let path = Path::new("status").child("loadBalancer").child("ingress");
        for (i, entry) in addresses(new).iter().enumerate() {
            let path = path.index(i);
            if let Some(ip) = entry.ip.as_deref().filter(|ip| !ip.is_empty()) {
                network::ip(ip, &path.child("ip"), &mut errors);
            }
            if let Some(host) = entry.hostname.as_deref().filter(|h| !h.is_empty()) {
                let path = path.child("hostname");
                errors.invalid_each(&path, host, names::dns_subdomain(host));
                network::no_address(host, &path, &mut errors);
            }
        }
        errors
    }

    fn warnings(object: &Ingress) -> Vec<String> {
        let annotated =
            object.metadata.annotations.as_ref().is_some_and(|a| a.contains_key(CLASS_ANNOTATION));
        let text = "annotation \"kubernetes.io/ingress.class\" is deprecated, please use 'spec.ingressClassName' instead";
        annotated.then(|| text.to_owned()).into_iter().collect()
    }

    fn row(object: &Ingress, now: Timestamp) -> Vec<Value> {
        let none = IngressSpec::default();
        let spec = object.spec.as_ref().unwrap_or(&none);
        let found = addresses(object);
        let addresses: BTreeSet<&str> = found
            .iter()
            .filter_map(|a| {
                [&a.ip, &a.hostname].into_iter().flatten().map(String::as_str).find(|t| !t.is_empty())
            })
            .collect();
        let addresses: Vec<_> = addresses.into_iter().collect();
        vec![
            cells::name(&object.metadata),
            cells::text_or(spec.ingress_class_name.as_ref(), "<none>").into(),
            hosts(spec.rules.as_deref().unwrap_or_default()).into(),
            addresses.join(",").into(),
            if spec.tls.as_ref().is_some_and(|t| !t.is_empty()) { "80, 443" } else { "80" }.into(),
            cells::age(&object.metadata, now),
        ]
    }
}

fn addresses(object: &Ingress) -> &[IngressLoadBalancerIngress] {
    let balancer = object.status.as_ref().and_then(|s| s.load_balancer.as_ref());
    balancer.and_then(|b| b.ingress.as_deref()).unwrap_or_default()
}

fn hosts(rules: &[IngressRule]) -> String {
    let all: Vec<_> = rules.iter().filter_map(|r| r.host.as_deref()).filter(|h| !h.is_empty()).collect();
    match all.len() {
        0 => "*".to_owned(),
        n if n <= SHOWN_HOSTS => all.join(","),
        _ => format!("{} + {} more...", all[..SHOWN_HOSTS].join(","), rules.len() - SHOWN_HOSTS),
    }
}

fn validate(object: &Ingress) -> Errors {
    let (mut errors, none) = (Errors::default(), IngressSpec::default());
    let (spec, path) = (object.spec.as_ref().unwrap_or(&none), Path::new("spec"));
    let rules = spec.rules.as_deref().unwrap_or_default();
    match &spec.default_backend {
        None if rules.is_empty() => {
            errors.invalid(&path, rules, "either `defaultBackend` or `rules` must be specified");
        }
        None => {}
        Some(backend) => validate_backend(backend, &path.child("defaultBackend"), &mut errors),
    }
    for (i, rule) in rules.iter().enumerate() {
        validate_rule(rule, &path.child("rules").index(i), &mut errors);
    }
    for (i, tls) in spec.tls.iter().flatten().enumerate() {
        validate_tls(tls, &path.child("tls").index(i), &mut errors);
    }
    if let Some(class) = &spec.ingress_class_name {
        errors.invalid_each(&path.child("ingressClassName"), class, names::dns_subdomain(class));
    }
    errors
}

fn validate_tls(tls: &IngressTLS, path: &Path, errors: &mut Errors) {
    for (i, host) in tls.hosts.iter().flatten().enumerate() {
        network::host_or_wildcard(host, &path.child("hosts").index(i), errors);
    }
    if let Some(secret) = tls.secret_name.as_deref().filter(|s| !s.is_empty()) {
        errors.invalid_each(&path.child("secretName"), secret, names::dns_subdomain(secret));
    }
}

fn validate_rule(rule: &IngressRule, path: &Path, errors: &mut Errors) {
    if let Some(host) = rule.host.as_deref().filter(|h| !h.is_empty()) {
        let path = path.child("host");
        network::no_address(host, &path, errors);
        network::host_or_wildcard(host, &path, errors);
    }
    let Some(http) = &rule.http else { return };
    let path = path.child("http").child("paths");
    if http.paths.is_empty() {
        errors.required(&path, "");
    }
    for (i, one) in http.paths.iter().enumerate() {
        validate_path(one, &path.index(i), errors);
    }
}

fn validate_path(one: &HTTPIngressPath, path: &Path, errors: &mut Errors) {
    let text = one.path.as_deref().unwrap_or_default();
    let at = path.child("path");
    match one.path_type.as_str() {
        "" => return errors.required(&path.child("pathType"), "pathType must be specified"),
        "Exact" | "Prefix" => {
            if !text.starts_with('/') {
                errors.invalid(&at, text, "must be an absolute path");
            }
            for sequence in NOT_IN_PATHS.into_iter().filter(|s| text.contains(s)) {
                errors.invalid(&at, text, format!("must not contain '{sequence}'"));
            }
            for end in NOT_AT_THE_END.into_iter().filter(|s| text.ends_with(s)) {
                errors.invalid(&at, text, format!("cannot end with '{end}'"));
            }
        }
        "ImplementationSpecific" => {
            if !text.is_empty() && !text.starts_with('/') {
                errors.invalid(&at, text, "must be an absolute path");
            }
        }
        other => {
            let allowed = ["Exact", "ImplementationSpecific", "Prefix"];
            errors.not_supported(&path.child("pathType"), other, &allowed);
        }
    }
    validate_backend(&one.backend, &path.child("backend"), errors);
}

fn validate_backend(backend: &IngressBackend, path: &Path, errors: &mut Errors) {
    let service = match (&backend.resource, &backend.service) {
        (Some(_), Some(_)) => {
            return errors.invalid(path, "", "cannot set both resource and service backends");
        }
        (None, None) => return errors.invalid(path, "", "resource or service backend is required"),
        (Some(resource), None) => {
            let path = path.child("resource");
            if let Some(group) = &resource.api_group {
                errors.invalid_each(&path.child("apiGroup"), group, names::dns_subdomain(group));
            }
            for (field, text) in [("kind", &resource.kind), ("name", &resource.name)] {
                match text.as_str() {
                    "" => errors.required(&path.child(field), ""),
                    text => errors.invalid_each(&path.child(field), text, names::path_segment(text)),
                }
            }
            return;
        }
        (None, Some(service)) => service,
    };
    let at = path.child("service");
    match service.name.as_str() {
        "" => errors.required(&at.child("name"), ""),
        name => errors.invalid_each(&at.child("name"), name, names::dns_label(name)),
    }
    let port = service.port.clone().unwrap_or_default();
    let name = port.name.as_deref().filter(|n| !n.is_empty());
    match (name, port.number.filter(|n| *n != 0)) {
        (Some(_), Some(_)) => errors.invalid(path, "", "cannot set both port name & port number"),
        (Some(name), None) => {
            errors.invalid_each(&at.child("port").child("name"), name, names::port_name(name));
        }
        (None, Some(number)) => network::port(number, &at.child("port").child("number"), errors),
        (None, None) => errors.required(path, "port name or number is required"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{at, object, texts};
    use serde_json::json;

    fn ingress(change: impl FnOnce(&mut Value)) -> Ingress {
        let backend = json!({"service": {"name": "web", "port": {"number": 80}}});
        let mut spec = json!({"rules": [{"host": "a.example", "http": {"paths": [
            {"path": "/", "pathType": "Prefix", "backend": backend}]}}]});
        change(&mut spec);
        object(json!({"metadata": {"name": "i", "creationTimestamp": at(0)}, "spec": spec}))
    }

    #[test]
    fn rules() {
        assert_eq!(texts(validate(&ingress(|_| {}))), Vec::<String>::new());
        type Change = fn(&mut Value);
        let path = "spec.rules[0].http.paths[0]";
        let cases: [(Change, String); 7] = [
            (
                |s| s["rules"] = json!([]),
                "spec: Invalid value: []: either `defaultBackend` or `rules` must be specified".to_owned(),
            ),
            (
                |s| s["rules"][0]["host"] = json!("10.0.0.1"),
                "spec.rules[0].host: Invalid value: \"10.0.0.1\": must be a DNS name, not an IP address"
                    .to_owned(),
            ),
            (
                |s| s["rules"][0]["http"]["paths"][0]["path"] = json!("x"),
                format!("{path}.path: Invalid value: \"x\": must be an absolute path"),
            ),
            (
                |s| s["rules"][0]["http"]["paths"][0]["path"] = json!("/a//b"),
                format!("{path}.path: Invalid value: \"/a//b\": must not contain '//'"),
            ),
            (
                |s| s["rules"][0]["http"]["paths"][0]["pathType"] = json!(""),
                format!("{path}.pathType: Required value: pathType must be specified"),
            ),
            (
                |s| s["rules"][0]["http"]["paths"][0]["backend"]["service"]["port"] = json!({}),
                format!("{path}.backend: Required value: port name or number is required"),
            ),
            (
                |s| s["defaultBackend"] = json!({}),
                "spec.defaultBackend: Invalid value: \"\": resource or service backend is required"
                    .to_owned(),
            ),
        ];
        for (change, expected) in cases {
            assert_eq!(texts(validate(&ingress(change))), [expected]);
        }
        assert!(texts(validate(&ingress(|s| s["rules"][0]["host"] = json!("*.example")))).is_empty());
        assert_eq!(texts(validate(&ingress(|s| s["rules"][0]["host"] = json!("a.*")))).len(), 1);
    }

    #[test]
    fn row() {
        let mut one = ingress(|s| s["tls"] = json!([{"hosts": ["a.example"]}]));
        one.status =
            object(json!({"loadBalancer": {"ingress": [{"ip": "10.0.0.2"}, {"hostname": "lb.example"}]}}));
        let row = Ingresses::row(&one, "1970-01-01T00:00:07Z".parse().unwrap());
        assert_eq!(json!(row), json!(["i", "<none>", "a.example", "10.0.0.2,lb.example", "80, 443", "7s"]));
    }
}
