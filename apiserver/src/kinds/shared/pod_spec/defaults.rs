//! What Kubernetes fills in. Idempotent: what is there stays.

use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, EnvVar, LifecycleHandler, ObjectFieldSelector, PodSpec, Probe, Volume,
};

/// Mode of files made from secrets, config maps and the like: 0644.
const FILE_MODE: i32 = 0o644;
/// Seconds a projected token lives if nothing is said.
const TOKEN_SECONDS: i64 = 3600;
const GRACE_SECONDS: i64 = 30;

fn fill(field: &mut Option<String>, value: &str) {
    if field.as_deref().unwrap_or("").is_empty() {
        *field = Some(value.to_owned());
    }
}

/// Specs of pods and of templates.
pub(in crate::kinds) fn default_spec(spec: &mut PodSpec) {
    fill(&mut spec.dns_policy, "ClusterFirst");
    fill(&mut spec.restart_policy, "Always");
    fill(&mut spec.scheduler_name, "default-scheduler");
    spec.security_context.get_or_insert_default();
    spec.termination_grace_period_seconds.get_or_insert(GRACE_SECONDS);
    // The old name of the field follows the new one, and speaks only where the new one is silent.
    if spec.service_account_name.as_deref().unwrap_or("").is_empty() {
        spec.service_account_name = spec.service_account.take().filter(|n| !n.is_empty());
    }
    spec.service_account = spec.service_account_name.clone();
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        default_container(container);
    }
    for container in spec.ephemeral_containers.iter_mut().flatten() {
        fill(&mut container.image_pull_policy, pull_policy(container.image.as_deref().unwrap_or("")));
        fill(&mut container.termination_message_path, "/dev/termination-log");
        fill(&mut container.termination_message_policy, "File");
        container.resources.get_or_insert_default();
        for variable in container.env.iter_mut().flatten() {
            default_env(variable);
        }
    }
    for volume in spec.volumes.iter_mut().flatten() {
        default_volume(volume);
    }
}

/// What only pods get: requests from limits, service links, host ports on the host's network.
pub(in crate::kinds) fn default_pod(spec: &mut PodSpec) {
    spec.enable_service_links.get_or_insert(true);
    let host_network = spec.host_network == Some(true);
    for container in spec.containers.iter_mut().chain(spec.init_containers.iter_mut().flatten()) {
        if let Some(resources) = &mut container.resources
            && let Some(limits) = resources.limits.as_ref().filter(|l| !l.is_empty())
        {
            let requests = resources.requests.get_or_insert_default();
            for (name, limit) in limits {
                requests.entry(name.clone()).or_insert_with(|| limit.clone());
            }
        }
        if host_network {
            for port in container.ports.iter_mut().flatten() {
                if port.host_port.unwrap_or(0) == 0 {
                    port.host_port = Some(port.container_port);
                }
            }
        }
    }
}

fn default_container(container: &mut Container) {
    fill(&mut container.image_pull_policy, pull_policy(container.image.as_deref().unwrap_or("")));
    fill(&mut container.termination_message_path, "/dev/termination-log");
    fill(&mut container.termination_message_policy, "File");
    container.resources.get_or_insert_default();
    for port in container.ports.iter_mut().flatten() {
        fill(&mut port.protocol, "TCP");
    }
    for variable in container.env.iter_mut().flatten() {
        default_env(variable);
    }
    let probes =
        [&mut container.liveness_probe, &mut container.readiness_probe, &mut container.startup_probe];
    for probe in probes.into_iter().flatten() {
        default_probe(probe);
    }
    if let Some(lifecycle) = &mut container.lifecycle {
        for handler in [&mut lifecycle.post_start, &mut lifecycle.pre_stop].into_iter().flatten() {
            default_handler(handler);
        }
    }
}

fn default_env(variable: &mut EnvVar) {
    let Some(source) = &mut variable.value_from else { return };
    if let Some(field) = &mut source.field_ref {
        default_field(field);
    }
    if let Some(resource) = &mut source.resource_field_ref {
        resource.divisor.get_or_insert_with(zero);
    }
}

fn zero() -> k8s_openapi::apimachinery::pkg::api::resource::Quantity {
    api::quantity::Quantity::ZERO.into()
}

fn default_field(field: &mut ObjectFieldSelector) {
    fill(&mut field.api_version, "v1");
}

fn default_probe(probe: &mut Probe) {
    let fill = |field: &mut Option<i32>, value| {
        if field.unwrap_or(0) == 0 {
            *field = Some(value);
        }
    };
    fill(&mut probe.timeout_seconds, 1);
    fill(&mut probe.period_seconds, 10);
    fill(&mut probe.success_threshold, 1);
    fill(&mut probe.failure_threshold, 3);
    if let Some(http) = &mut probe.http_get {
        default_http(&mut http.path, &mut http.scheme);
    }
    if let Some(grpc) = &mut probe.grpc {
        grpc.service.get_or_insert_default();
    }
}

fn default_handler(handler: &mut LifecycleHandler) {
    if let Some(http) = &mut handler.http_get {
        default_http(&mut http.path, &mut http.scheme);
    }
}

fn default_http(path: &mut Option<String>, scheme: &mut Option<String>) {
    fill(path, "/");
    fill(scheme, "HTTP");
}

fn default_volume(volume: &mut Volume) {
    if super::volumes::sources(volume).next().is_none() {
        volume.empty_dir = Some(EmptyDirVolumeSource::default());
    }
    if let Some(host_path) = &mut volume.host_path {
        host_path.type_.get_or_insert_default();
    }
    if let Some(secret) = &mut volume.secret {
        secret.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(config_map) = &mut volume.config_map {
        config_map.default_mode.get_or_insert(FILE_MODE);
    }
    if let Some(downward) = &mut volume.downward_api {
        downward.default_mode.get_or_insert(FILE_MODE);
        for file in downward.items.iter_mut().flatten() {
            default_downward(&mut file.field_ref, &mut file.resource_field_ref);
        }
    }
    if let Some(projected) = &mut volume.projected {
        projected.default_mode.get_or_insert(FILE_MODE);
        for source in projected.sources.iter_mut().flatten() {
            if let Some(token) = &mut source.service_account_token {
                token.expiration_seconds.get_or_insert(TOKEN_SECONDS);
            }
            let items = source.downward_api.as_mut().and_then(|d| d.items.as_mut());
            for file in items.into_iter().flatten() {
                default_downward(&mut file.field_ref, &mut file.resource_field_ref);
            }
        }
    }
    if let Some(claim) = volume.ephemeral.as_mut().and_then(|e| e.volume_claim_template.as_mut()) {
        fill(&mut claim.spec.volume_mode, "Filesystem");
    }
    if let Some(image) = &mut volume.image {
        fill(&mut image.pull_policy, pull_policy(image.reference.as_deref().unwrap_or("")));
    }
}

fn default_downward(
    field: &mut Option<ObjectFieldSelector>,
    resource: &mut Option<k8s_openapi::api::core::v1::ResourceFieldSelector>,
) {
    if let Some(field) = field {
        default_field(field);
    }
    if let Some(resource) = resource {
        resource.divisor.get_or_insert_with(zero);
    }
}

/// `Always` for what moves (`:latest`, and no tag is `:latest`), else `IfNotPresent`.
fn pull_policy(image: &str) -> &'static str {
    let (name, digest) = match image.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (image, None),
    };
    // A colon before the last slash belongs to the registry's port.
    let tag = name.rsplit('/').next().and_then(|last| last.split_once(':')).map(|(_, tag)| tag);
    match (tag, digest) {
        (Some("latest"), _) | (None, None) => "Always",
        _ => "IfNotPresent",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_and_their_pull_policies() {
        for (image, policy) in [
            ("nginx", "Always"),
            ("nginx:latest", "Always"),
            ("nginx:1.27", "IfNotPresent"),
            ("localhost:5000/nginx", "Always"),
            ("localhost:5000/nginx:v1", "IfNotPresent"),
            ("nginx@sha256:abc", "IfNotPresent"),
            ("nginx:latest@sha256:abc", "Always"),
        ] {
            assert_eq!(pull_policy(image), policy, "{image}");
        }
    }
}
