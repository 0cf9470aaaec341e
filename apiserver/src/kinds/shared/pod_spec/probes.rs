//! Probes and lifecycle handlers: exactly one way to act each.

use api::field::{Errors, Path};
use api::names;
use k8s_openapi::api::core::v1::{
    Container, ExecAction, GRPCAction, HTTPGetAction, LifecycleHandler, Probe, SleepAction, TCPSocketAction,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

#[derive(Default)]
struct Handler<'a> {
    exec: Option<&'a ExecAction>,
    http: Option<&'a HTTPGetAction>,
    tcp: Option<&'a TCPSocketAction>,
    grpc: Option<&'a GRPCAction>,
    sleep: Option<&'a SleepAction>,
}

pub(super) fn validate(container: &Container, grace: Option<i64>, path: &Path, errors: &mut Errors) {
    if let Some(lifecycle) = &container.lifecycle {
        let path = path.child("lifecycle");
        for (field, handler) in [("postStart", &lifecycle.post_start), ("preStop", &lifecycle.pre_stop)] {
            if let Some(LifecycleHandler { exec, http_get, tcp_socket, sleep }) = handler {
                let handler = Handler {
                    exec: exec.as_ref(),
                    http: http_get.as_ref(),
                    tcp: tcp_socket.as_ref(),
                    sleep: sleep.as_ref(),
                    ..Default::default()
                };
                validate_handler(&handler, grace, &path.child(field), errors);
            }
        }
    }
    const ONE: &str = "must be 1";
    for (field, probe) in [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ] {
        let (Some(probe), path) = (probe, path.child(field)) else { continue };
        validate_probe(probe, grace, &path, errors);
        if field == "readinessProbe" {
            if let Some(seconds) = probe.termination_grace_period_seconds {
                let path = path.child("terminationGracePeriodSeconds");
                errors.invalid(&path, seconds, "must not be set for readinessProbes");
            }
        } else if probe.success_threshold != Some(1) {
            errors.invalid(&path.child("successThreshold"), probe.success_threshold.unwrap_or(0), ONE);
        }
    }
}

fn validate_probe(probe: &Probe, grace: Option<i64>, path: &Path, errors: &mut Errors) {
    let handler = Handler {
        exec: probe.exec.as_ref(),
        http: probe.http_get.as_ref(),
        tcp: probe.tcp_socket.as_ref(),
        grpc: probe.grpc.as_ref(),
        sleep: None,
    };
    validate_handler(&handler, grace, path, errors);
    for (field, number) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        if let Some(number) = number.filter(|n| *n < 0) {
            errors.invalid(&path.child(field), number, "must be greater than or equal to 0");
        }
    }
    if let Some(seconds) = probe.termination_grace_period_seconds.filter(|s| *s <= 0) {
        errors.invalid(&path.child("terminationGracePeriodSeconds"), seconds, "must be greater than 0");
    }
}

fn validate_handler(handler: &Handler<'_>, grace: Option<i64>, path: &Path, errors: &mut Errors) {
    let mut present = [
        ("exec", handler.exec.is_some()),
        ("httpGet", handler.http.is_some()),
        ("tcpSocket", handler.tcp.is_some()),
        ("grpc", handler.grpc.is_some()),
        ("sleep", handler.sleep.is_some()),
    ]
    .into_iter()
    .filter(|(_, present)| *present)
    .map(|(field, _)| field);
    // Only the first is looked at; the others are one too many.
    let first = present.next();
    for second in present {
        errors.forbidden(&path.child(second), "may not specify more than 1 handler type");
    }
    let Some(first) = first else {
        errors.required(path, "must specify a handler type");
        return;
    };
    let path = path.child(first);
    match (first, handler.exec, handler.http, handler.tcp, handler.grpc, handler.sleep) {
        ("exec", Some(exec), ..) if exec.command.as_ref().is_none_or(|c| c.is_empty()) => {
            errors.required(&path.child("command"), "");
        }
        ("httpGet", _, Some(http), ..) => {
            if http.path.as_deref().unwrap_or("").is_empty() {
                errors.required(&path.child("path"), "");
            }
            port(&http.port, &path.child("port"), errors);
            let scheme = http.scheme.as_deref().unwrap_or("");
            if !["HTTP", "HTTPS"].contains(&scheme) {
                errors.not_supported(&path.child("scheme"), scheme, &["HTTP", "HTTPS"]);
            }
            for header in http.http_headers.iter().flatten() {
                let faults = names::http_header_name(&header.name);
                errors.invalid_each(&path.child("httpHeaders"), &header.name, faults);
            }
        }
        ("tcpSocket", _, _, Some(tcp), ..) => port(&tcp.port, &path.child("port"), errors),
        ("grpc", _, _, _, Some(grpc), _) => port(&IntOrString::Int(grpc.port), &path.child("port"), errors),
        ("sleep", .., Some(sleep)) => {
            let grace = grace.unwrap_or(i64::MAX);
            if !(0..=grace).contains(&sleep.seconds) {
                let detail =
                    format!("must be non-negative and less than terminationGracePeriodSeconds ({grace})");
                errors.invalid(&path, sleep.seconds, detail);
            }
        }
        _ => {}
    }
}

/// A port by number or by the name of a container port.
pub(super) fn port(port: &IntOrString, path: &Path, errors: &mut Errors) {
    match port {
        IntOrString::Int(number) => {
            errors.invalid_each(path, number, names::port_number(i64::from(*number)));
        }
        IntOrString::String(name) => errors.invalid_each(path, name, names::port_name(name)),
    }
}
