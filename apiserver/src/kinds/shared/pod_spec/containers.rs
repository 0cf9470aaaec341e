//! Containers, init containers and ephemeral ones.

use super::{Holder, SoundVolumes, enumerated, optionally, probes, resources, restart, security, volumes};
use crate::kinds::shared::{network, repeats};
use api::field::{Errors, Path};
use api::names;
use k8s_openapi::api::core::v1::{Container, ContainerPort, EnvFromSource, EnvVar, PodSpec};
use std::collections::BTreeSet;

const INIT_ONLY: &str = "may not be set for init containers without restartPolicy=Always";
const ENV_FIELDS: [&str; 9] = [
    "metadata.name",
    "metadata.namespace",
    "metadata.uid",
    "spec.nodeName",
    "spec.serviceAccountName",
    "status.hostIP",
    "status.hostIPs",
    "status.podIP",
    "status.podIPs",
];

pub(super) fn validate(
    spec: &PodSpec,
    sound: &SoundVolumes<'_>,
    holder: Holder,
    path: &Path,
    errors: &mut Errors,
) {
    let grace = spec.termination_grace_period_seconds;
    let restarts = spec.restart_policy.as_deref() != Some("Never");
    let all = path.child("containers");
    if spec.containers.is_empty() {
        errors.required(&all, "");
    }
    let mut seen = BTreeSet::new();
    for (i, container) in spec.containers.iter().enumerate() {
        let path = all.index(i);
        validate_container(container, sound, holder, restarts, &path, errors);
        if !seen.insert(container.name.as_str()) {
            errors.duplicate(&path.child("name"), &container.name);
        }
        probes::validate(container, grace, &path, errors);
        if holder == Holder::Pod || container.ports.iter().flatten().any(|p| p.host_port.is_some()) {
            host_network_ports(spec, container, holder, &path, errors);
        }
    }
    host_ports(&spec.containers, &all, errors);

    let all = path.child("initContainers");
    for (i, container) in spec.init_containers.iter().flatten().enumerate() {
        let path = all.index(i);
        validate_container(container, sound, holder, restarts, &path, errors);
        if !container.name.is_empty() && !seen.insert(container.name.as_str()) {
            errors.duplicate(&path.child("name"), &container.name);
        }
        host_ports(std::slice::from_ref(container), &all, errors);
        if api::pod::is_sidecar(container) {
            probes::validate(container, grace, &path, errors);
            continue;
        }
        for (field, present) in [
            ("lifecycle", container.lifecycle.is_some()),
            ("livenessProbe", container.liveness_probe.is_some()),
            ("readinessProbe", container.readiness_probe.is_some()),
            ("startupProbe", container.startup_probe.is_some()),
        ] {
            if present {
                errors.forbidden(&path.child(field), INIT_ONLY);
            }
        }
    }
    validate_ephemeral(spec, sound, path, errors);
}

/// They help to look at a pod that runs; what makes a pod what it is, is none of theirs.
fn validate_ephemeral(spec: &PodSpec, sound: &SoundVolumes<'_>, path: &Path, errors: &mut Errors) {
    const NO: &str = "cannot be set for an Ephemeral Container";
    let restarts = spec.restart_policy.as_deref() != Some("Never");
    let others = spec.containers.iter().chain(spec.init_containers.iter().flatten());
    let others: BTreeSet<&str> = others.map(|c| c.name.as_str()).collect();
    let mut seen = others.clone();
    for (i, ephemeral) in spec.ephemeral_containers.iter().flatten().enumerate() {
        let path = path.child("ephemeralContainers").index(i);
        let container = api::pod::ephemeral_as_container(ephemeral);
        let common = Container { ports: None, resources: None, resize_policy: None, ..container.clone() };
        validate_container(&common, sound, Holder::Pod, restarts, &path, errors);
        if !seen.insert(ephemeral.name.as_str()) {
            errors.duplicate(&path.child("name"), &ephemeral.name);
        }
        if let Some(target) = ephemeral.target_container_name.as_deref().filter(|t| !t.is_empty())
            && !others.contains(target)
        {
            errors.not_found(&path.child("targetContainerName"), target);
        }
        let c = &container;
        for (field, present) in [
            ("ports", c.ports.as_ref().is_some_and(|p| !p.is_empty())),
            ("resources", c.resources.as_ref().is_some_and(|r| *r != Default::default())),
            ("resizePolicy", c.resize_policy.as_ref().is_some_and(|p| !p.is_empty())),
            ("restartPolicy", c.restart_policy.is_some()),
            ("restartPolicyRules", c.restart_policy_rules.as_ref().is_some_and(|r| !r.is_empty())),
            ("livenessProbe", c.liveness_probe.is_some()),
            ("readinessProbe", c.readiness_probe.is_some()),
            ("startupProbe", c.startup_probe.is_some()),
            ("lifecycle", c.lifecycle.is_some()),
        ] {
            if present {
                errors.forbidden(&path.child(field), NO);
            }
        }
        for (i, mount) in container.volume_mounts.iter().flatten().enumerate() {
            let path = path.child("volumeMounts").index(i);
            for (field, text) in [("subPath", &mount.sub_path), ("subPathExpr", &mount.sub_path_expr)] {
                if text.as_deref().is_some_and(|t| !t.is_empty()) {
                    errors.forbidden(&path.child(field), NO);
                }
            }
        }
    }
}

fn validate_resize_policies(container: &Container, restarts: bool, path: &Path, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, policy) in container.resize_policy.iter().flatten().enumerate() {
        if !seen.insert(policy.resource_name.as_str()) {
            errors.duplicate(&path.index(i), &policy.resource_name);
        }
        enumerated(Some(&policy.resource_name), &["cpu", "memory"], path, errors);
        enumerated(Some(&policy.restart_policy), &["NotRequired", "RestartContainer"], path, errors);
        if !restarts && policy.restart_policy != "NotRequired" {
            let detail = "must be 'NotRequired' when pod `restartPolicy` is 'Never'";
            errors.invalid(path, &policy.restart_policy, detail);
        }
    }
}

/// `restarts` says whether anything of the pod is ever started again.
fn validate_container(
    container: &Container,
    sound: &SoundVolumes<'_>,
    holder: Holder,
    restarts: bool,
    path: &Path,
    errors: &mut Errors,
) {
    if container.name.is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        errors.invalid_each(&path.child("name"), &container.name, names::dns_label(&container.name));
    }
    let image = container.image.as_deref().unwrap_or("");
    if image.is_empty() {
        errors.required(&path.child("image"), "");
    } else if holder == Holder::Pod && image.trim() != image {
        errors.invalid(&path.child("image"), image, "must not have leading or trailing whitespace");
    }
    enumerated(
        container.termination_message_policy.as_deref(),
        &["File", "FallbackToLogsOnError"],
        &path.child("terminationMessagePolicy"),
        errors,
    );
    validate_ports(container.ports.as_deref().unwrap_or_default(), &path.child("ports"), errors);
    for (i, variable) in container.env.iter().flatten().enumerate() {
        validate_env(variable, &path.child("env").index(i), errors);
    }
    for (i, source) in container.env_from.iter().flatten().enumerate() {
        validate_env_from(source, &path.child("envFrom"), i, errors);
    }
    validate_mounts(container, sound, path, errors);
    enumerated(
        container.image_pull_policy.as_deref(),
        &["Always", "IfNotPresent", "Never"],
        &path.child("imagePullPolicy"),
        errors,
    );
    restart::validate(container, path, errors);
    resources::validate(container.resources.as_ref(), &path.child("resources"), errors);
    validate_resize_policies(container, restarts, &path.child("resizePolicy"), errors);
    security::validate(container.security_context.as_ref(), &path.child("securityContext"), errors);
}

fn validate_ports(ports: &[ContainerPort], path: &Path, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, port) in ports.iter().enumerate() {
        let path = path.index(i);
        if let Some(name) = port.name.as_deref().filter(|n| !n.is_empty()) {
            let faults = names::port_name(name);
            if !faults.is_empty() {
                errors.invalid_each(&path.child("name"), name, faults);
            } else if !seen.insert(name) {
                errors.duplicate(&path.child("name"), name);
            }
        }
        if port.container_port == 0 {
            errors.required(&path.child("containerPort"), "");
        } else {
            network::port(port.container_port, &path.child("containerPort"), errors);
        }
        if let Some(host_port) = port.host_port.filter(|p| *p != 0) {
            network::port(host_port, &path.child("hostPort"), errors);
        }
        network::protocol(port.protocol.as_deref(), &path.child("protocol"), errors);
    }
}

/// No two containers may ask for the same port of the host.
fn host_ports(containers: &[Container], path: &Path, errors: &mut Errors) {
    let mut seen = BTreeSet::new();
    for (i, container) in containers.iter().enumerate() {
        for (j, port) in container.ports.iter().flatten().enumerate() {
            let Some(host_port) = port.host_port.filter(|p| *p != 0) else { continue };
            let (protocol, ip) =
                (port.protocol.as_deref().unwrap_or(""), port.host_ip.as_deref().unwrap_or(""));
            let key = format!("{protocol}/{ip}/{host_port}");
            if !seen.insert(key.clone()) {
                errors.duplicate(&path.index(i).child("ports").index(j).child("hostPort"), key);
            }
        }
    }
}

fn host_network_ports(
    spec: &PodSpec,
    container: &Container,
    holder: Holder,
    path: &Path,
    errors: &mut Errors,
) {
    if spec.host_network != Some(true) {
        return;
    }
    for (i, port) in container.ports.iter().flatten().enumerate() {
        let host_port = port.host_port.unwrap_or(0);
        if (holder == Holder::Pod || host_port != 0) && host_port != port.container_port {
            let path = path.child("ports").index(i).child("hostPort");
            errors.invalid(&path, host_port, "must match `containerPort` when `hostNetwork` is true");
        }
    }
}

fn validate_env(variable: &EnvVar, path: &Path, errors: &mut Errors) {
    if variable.name.is_empty() {
        errors.required(&path.child("name"), "");
    } else {
        errors.invalid_each(&path.child("name"), &variable.name, names::env_var_name(&variable.name));
    }
    let (Some(source), path) = (&variable.value_from, path.child("valueFrom")) else { return };
    let mut sources = 0;
    if let Some(field) = &source.field_ref {
        sources += 1;
        volumes::field_ref(field, &ENV_FIELDS, &path.child("fieldRef"), errors);
    }
    if let Some(resource) = &source.resource_field_ref {
        sources += 1;
        volumes::resource_ref(resource, false, &path.child("resourceFieldRef"), errors);
    }
    let config_map = source.config_map_key_ref.as_ref().map(|s| ("configMapKeyRef", &s.name, &s.key));
    let secret = source.secret_key_ref.as_ref().map(|s| ("secretKeyRef", &s.name, &s.key));
    for (field, name, key) in [config_map, secret].into_iter().flatten() {
        sources += 1;
        let path = path.child(field);
        errors.invalid_each(&path.child("name"), name, names::dns_subdomain(name));
        if key.is_empty() {
            errors.required(&path.child("key"), "");
        } else {
            errors.invalid_each(&path.child("key"), key, names::config_map_key(key));
        }
    }
    sources += usize::from(source.file_key_ref.is_some());
    if sources == 0 {
        let detail = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or \
                      `fileKeyRef`";
        errors.invalid(&path, "", detail);
    } else if variable.value.as_deref().is_some_and(|v| !v.is_empty()) {
        errors.invalid(&path, "", "may not be specified when `value` is not empty");
    } else if sources > 1 {
        errors.invalid(&path, "", "may not have more than one field specified at a time");
    }
}

fn validate_env_from(source: &EnvFromSource, all: &Path, i: usize, errors: &mut Errors) {
    let path = all.index(i);
    if let Some(prefix) = source.prefix.as_deref().filter(|p| !p.is_empty()) {
        errors.invalid_each(&path.child("prefix"), prefix, names::env_var_name(prefix));
    }
    let config_map = source.config_map_ref.as_ref().map(|s| ("configMapRef", &s.name));
    let secret = source.secret_ref.as_ref().map(|s| ("secretRef", &s.name));
    for (field, name) in [config_map, secret].into_iter().flatten() {
        let path = path.child(field).child("name");
        if name.is_empty() {
            errors.required(&path, "");
        } else {
            errors.invalid_each(&path, name, names::dns_subdomain(name));
        }
    }
    match (config_map, secret) {
        (None, None) => errors.invalid(all, "", "must specify one of: `configMapRef` or `secretRef`"),
        (Some(_), Some(_)) => errors.invalid(all, "", "may not have more than one field specified at a time"),
        _ => {}
    }
}

fn validate_mounts(container: &Container, sound: &SoundVolumes<'_>, path: &Path, errors: &mut Errors) {
    let devices = container.volume_devices.as_deref().unwrap_or_default();
    let mounts = container.volume_mounts.as_deref().unwrap_or_default();
    let (all, mut seen) = (path.child("volumeMounts"), BTreeSet::new());
    let device_names: BTreeSet<&str> = devices.iter().map(|d| d.name.as_str()).collect();
    let device_paths: BTreeSet<&str> = devices.iter().map(|d| d.device_path.as_str()).collect();
    for (i, mount) in mounts.iter().enumerate() {
        let path = all.index(i);
        if mount.name.is_empty() {
            errors.required(&path.child("name"), "");
        }
        if !sound.contains_key(mount.name.as_str()) {
            errors.not_found(&path.child("name"), &mount.name);
        }
        let at = path.child("mountPath");
        if mount.mount_path.is_empty() {
            errors.required(&at, "");
        }
        if !seen.insert(mount.mount_path.as_str()) {
            errors.invalid(&at, &mount.mount_path, "must be unique");
        }
        if device_names.contains(mount.name.as_str()) {
            errors.invalid(&path.child("name"), &mount.name, "must not already exist in volumeDevices");
        }
        if device_paths.contains(mount.mount_path.as_str()) {
            errors.invalid(&at, &mount.mount_path, "must not already exist as a path in volumeDevices");
        }
        let sub_path = mount.sub_path.as_deref().unwrap_or("");
        let expression = mount.sub_path_expr.as_deref().unwrap_or("");
        errors.invalid_each(&all.child("subPath"), sub_path, names::local_descending_path(sub_path));
        if !expression.is_empty() {
            if !sub_path.is_empty() {
                let detail = "subPathExpr and subPath are mutually exclusive";
                errors.invalid(&path.child("subPathExpr"), expression, detail);
            }
            errors.invalid_each(
                &all.child("subPathExpr"),
                expression,
                names::local_descending_path(expression),
            );
        }
        let modes = ["Bidirectional", "HostToContainer", "None"];
        let propagation = all.child("mountPropagation");
        optionally(mount.mount_propagation.as_ref(), &modes, &propagation, errors);
        let modes = ["Disabled", "Enabled", "IfPossible"];
        optionally(mount.recursive_read_only.as_ref(), &modes, &all.child("recursiveReadOnly"), errors);
        let privileged = container.security_context.as_ref().and_then(|s| s.privileged) == Some(true);
        if mount.mount_propagation.as_deref() == Some("Bidirectional") && !privileged {
            let detail = "Bidirectional mount propagation is available only to privileged containers";
            errors.forbidden(&propagation, detail);
        }
    }
    let same_name = repeats(devices.iter().map(|d| &d.name));
    let same_path = repeats(devices.iter().map(|d| &d.device_path));
    for (i, device) in devices.iter().enumerate() {
        let path = path.child("volumeDevices").index(i);
        match sound.get(device.name.as_str()) {
            None => errors.not_found(&path.child("name"), &device.name),
            Some(false) => {
                let detail =
                    "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode";
                errors.invalid(&path.child("name"), &device.name, detail);
            }
            Some(true) => {}
        }
        if device.device_path.is_empty() {
            errors.required(&path.child("devicePath"), "");
        }
        if same_name[i] {
            errors.invalid(&path.child("name"), &device.name, "must be unique");
        }
        if same_path[i] {
            errors.invalid(&path.child("devicePath"), &device.device_path, "must be unique");
        }
        if !names::no_backsteps(&device.device_path).is_empty() {
            let detail = "can not contain backsteps ('..')";
            errors.invalid(&path.child("devicePath"), &device.device_path, detail);
        }
    }
}
