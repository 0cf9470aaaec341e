//! From a pod's spec to what the runtime is asked for. Pure: everything has been looked up by the caller.

use crate::{
    config::Config,
    container_plan::spec_hash,
    env, pod_files,
    runtime::{ContainerSpec, Error, Image, Mount, PodRef, Resources, SandboxSpec, Seccomp, Security},
};
use api::quantity;
use k8s_openapi::{
    api::core::v1::{Container, Pod, PodSpec, SeccompProfile},
    apimachinery::pkg::api::resource::Quantity,
};
use std::{net::Ipv4Addr, path::Path, time::Duration};

/// The kernel's default CFS period, in which quotas are counted.
const CPU_PERIOD_US: i64 = 100_000;
/// The kernel's least shares and least quota.
const MIN_SHARES: i64 = 2;
const MIN_QUOTA_US: i64 = 1000;

pub(crate) fn pod_ref(pod: &Pod) -> PodRef {
    let text = |value: &Option<String>| value.clone().unwrap_or_default();
    PodRef {
        namespace: text(&pod.metadata.namespace),
        name: text(&pod.metadata.name),
        uid: text(&pod.metadata.uid),
    }
}

fn grace(spec: &PodSpec) -> Duration {
    Duration::from_secs(
        spec.termination_grace_period_seconds.and_then(|s| u64::try_from(s).ok()).unwrap_or(30),
    )
}

fn cgroup_parent(config: &Config, pod: &PodRef) -> Option<String> {
    config.cgroup_parent.as_ref().map(|parent| format!("{}/pod{}", parent.trim_end_matches('/'), pod.uid))
}

pub(crate) fn host_network(pod: &Pod) -> bool {
    pod.spec.as_ref().and_then(|spec| spec.host_network) == Some(true)
}

pub(crate) fn sandbox(
    config: &Config,
    pod: &Pod,
    attempt: u32,
    ip: Option<Ipv4Addr>,
    pod_dir: &Path,
) -> SandboxSpec {
    let default = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&default);
    let pod_ref = pod_ref(pod);
    let sysctls =
        spec.security_context.as_ref().and_then(|context| context.sysctls.as_deref()).unwrap_or_default();
    SandboxSpec {
        attempt,
        hostname: pod_files::sandbox_hostname(pod, &config.cluster_domain),
        ip,
        host_network: host_network(pod),
        host_pid: spec.host_pid == Some(true),
        host_ipc: spec.host_ipc == Some(true),
        sysctls: sysctls.iter().map(|sysctl| (sysctl.name.clone(), sysctl.value.clone())).collect(),
        resolv_conf: pod_dir.join("resolv.conf"),
        hosts: pod_dir.join("etc-hosts"),
        cgroup_parent: cgroup_parent(config, &pod_ref),
        grace: grace(spec),
        pod: pod_ref,
    }
}

/// What a container is made with beside its spec.
pub(crate) struct Parts<'a> {
    pub(crate) sandbox_id: &'a str,
    pub(crate) attempt: u32,
    pub(crate) image: &'a Image,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) mounts: Vec<Mount>,
    /// For an ephemeral container with a target: whose processes it shares.
    pub(crate) pid_of: Option<String>,
    pub(crate) node_memory: i64,
}

pub(crate) fn container(
    config: &Config,
    pod: &Pod,
    container: &Container,
    parts: Parts<'_>,
) -> Result<ContainerSpec, Error> {
    let default = PodSpec::default();
    let spec = pod.spec.as_ref().unwrap_or(&default);
    let pod_ref = pod_ref(pod);
    let get = |name: &str| parts.env.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str());
    let expand = |list: &Option<Vec<String>>| {
        list.iter().flatten().map(|text| env::expand(text, get)).collect::<Vec<_>>()
    };
    let security = security(spec, container, parts.image)?;
    let shared = spec.share_process_namespace == Some(true);
    Ok(ContainerSpec {
        sandbox_id: parts.sandbox_id.to_owned(),
        name: container.name.clone(),
        attempt: parts.attempt,
        hash: spec_hash(container),
        image: container.image.clone().unwrap_or_default(),
        image_id: parts.image.id.clone(),
        command: expand(&container.command),
        args: expand(&container.args),
        working_dir: container.working_dir.clone().filter(|dir| !dir.is_empty()),
        tty: container.tty == Some(true),
        stdin: container.stdin == Some(true),
        stdin_once: container.stdin_once == Some(true),
        host_network: spec.host_network == Some(true),
        host_pid: spec.host_pid == Some(true),
        host_ipc: spec.host_ipc == Some(true),
        pid_of: parts.pid_of.or_else(|| shared.then(|| parts.sandbox_id.to_owned())),
        resources: resources(spec, container, parts.node_memory),
        made_with: crate::resize::label(container),
        security,
        stop_signal: container.lifecycle.as_ref().and_then(|lifecycle| lifecycle.stop_signal.clone()),
        cgroup_parent: cgroup_parent(config, &pod_ref),
        grace: grace(spec),
        env: parts.env,
        mounts: parts.mounts,
        pod: pod_ref,
    })
}

fn amount(container: &Container, limits: bool, name: &str) -> Option<quantity::Quantity> {
    let resources = container.resources.as_ref()?;
    let list = if limits { resources.limits.as_ref() } else { resources.requests.as_ref() };
    let text: &Quantity = list?.get(name)?;
    Some(quantity::of(Some(text)))
}

/// What the engine is told of a container's requests and limits.
pub(crate) fn resources(spec: &PodSpec, container: &Container, node_memory: i64) -> Resources {
    let request = amount(container, false, "cpu").or_else(|| amount(container, true, "cpu"));
    let limit =
        amount(container, true, "cpu").map(quantity::Quantity::milli_value).filter(|milli| *milli > 0);
    let memory = amount(container, true, "memory").map(quantity::Quantity::value).filter(|bytes| *bytes > 0);
    Resources {
        cpu_shares: Some(request.map_or(MIN_SHARES, |q| (q.milli_value() * 1024 / 1000).max(MIN_SHARES))),
        cpu_quota_us: limit.map(|milli| (milli * CPU_PERIOD_US / 1000).max(MIN_QUOTA_US)),
        cpu_period_us: limit.map(|_| CPU_PERIOD_US),
        memory_bytes: memory,
        oom_score_adj: Some(oom_score(spec, container, node_memory)),
    }
}

/// The real kubelet's formula: the less of its request a pod is guaranteed, the sooner it is killed.
fn oom_score(spec: &PodSpec, container: &Container, node_memory: i64) -> i64 {
    match api::pod::qos_class(spec) {
        "Guaranteed" => -997,
        "BestEffort" => 1000,
        _ => {
            let request = amount(container, false, "memory").map_or(0, quantity::Quantity::value);
            let share = if node_memory > 0 { 1000 * request / node_memory } else { 0 };
            (1000 - share).clamp(3, 999)
        }
    }
}

fn security(spec: &PodSpec, container: &Container, image: &Image) -> Result<Security, Error> {
    let pod = spec.security_context.clone().unwrap_or_default();
    let own = container.security_context.clone().unwrap_or_default();
    let user = own.run_as_user.or(pod.run_as_user);
    let group = own.run_as_group.or(pod.run_as_group);
    if own.run_as_non_root.or(pod.run_as_non_root) == Some(true) {
        let name = image.user.split(':').next().unwrap_or_default();
        let text = match (user, name.parse::<i64>()) {
            (Some(0), _) => Some("container's runAsUser breaks non-root policy".to_owned()),
            (Some(_), _) => None,
            (None, Ok(0)) => Some("container has runAsNonRoot and image will run as root".to_owned()),
            (None, Ok(_)) => None,
            (None, Err(_)) if name.is_empty() => {
                Some("container has runAsNonRoot and image will run as root".to_owned())
            }
            (None, Err(_)) => Some(format!(
                "container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root"
            )),
        };
        if let Some(text) = text {
            return Err(Error::ContainerConfig(text));
        }
    }
    let user = match (user, group) {
        (Some(user), Some(group)) => Some(format!("{user}:{group}")),
        (Some(user), None) => Some(user.to_string()),
        (None, Some(group)) => {
            let name = image.user.split(':').next().filter(|name| !name.is_empty()).unwrap_or("0");
            Some(format!("{name}:{group}"))
        }
        (None, None) => None,
    };
    let groups = pod.supplemental_groups.iter().flatten().copied().chain(pod.fs_group);
    let capabilities = own.capabilities.unwrap_or_default();
    // Docker has them without the prefix in every version.
    let names = |list: Option<Vec<String>>| -> Vec<String> {
        list.into_iter().flatten().map(|name| name.trim_start_matches("CAP_").to_owned()).collect()
    };
    let privileged = own.privileged == Some(true);
    Ok(Security {
        user,
        supplemental_groups: groups.map(|group| group.to_string()).collect(),
        privileged,
        read_only_root: own.read_only_root_filesystem == Some(true),
        no_new_privileges: own.allow_privilege_escalation == Some(false) && !privileged,
        add_capabilities: names(capabilities.add),
        drop_capabilities: names(capabilities.drop),
        seccomp: seccomp(own.seccomp_profile.or(pod.seccomp_profile))?,
        unmasked_proc: own.proc_mount.as_deref() == Some("Unmasked"),
    })
}

fn seccomp(profile: Option<SeccompProfile>) -> Result<Seccomp, Error> {
    match profile.as_ref().map(|profile| profile.type_.as_str()) {
        Some("Unconfined") => Ok(Seccomp::Unconfined),
        Some("Localhost") => {
            let path = profile.and_then(|profile| profile.localhost_profile).unwrap_or_default();
            Err(Error::ContainerConfig(format!(
                "seccomp profile {path:?}: Localhost profiles are not supported"
            )))
        }
        _ => Ok(Seccomp::RuntimeDefault),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn build(
        pod_spec: serde_json::Value,
        container_: serde_json::Value,
        image: &Image,
    ) -> Result<ContainerSpec, Error> {
        let mut spec = pod_spec;
        spec["containers"] = json!([container_]);
        let pod: Pod = serde_json::from_value(
            json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec}),
        )
        .unwrap();
        let config = Config::new("node", 0, "abc", "/data".into(), "10.1.1.0/24".parse().unwrap());
        let parts = Parts {
            sandbox_id: "box",
            attempt: 0,
            image,
            env: vec![("A".to_owned(), "1".to_owned())],
            mounts: Vec::new(),
            pid_of: None,
            node_memory: 1 << 30,
        };
        container(&config, &pod, &pod.spec.as_ref().unwrap().containers[0], parts)
    }

    #[test]
    fn commands_are_expanded() {
        let spec = build(
            json!({}),
            json!({"name": "c", "command": ["sh", "$(A)"], "args": ["$$(A)", "$(B)"]}),
            &Image::default(),
        );
        let spec = spec.unwrap();
        assert_eq!(
            (spec.command, spec.args),
            (vec!["sh".into(), "1".into()], vec!["$(A)".into(), "$(B)".to_owned()])
        );
    }

    #[test]
    fn resources_become_cgroup_values() {
        let check = |resources: serde_json::Value, expected: (i64, Option<i64>, Option<i64>, i64)| {
            let spec =
                build(json!({}), json!({"name": "c", "resources": resources}), &Image::default()).unwrap();
            let r = spec.resources;
            assert_eq!(
                (r.cpu_shares.unwrap(), r.cpu_quota_us, r.memory_bytes, r.oom_score_adj.unwrap()),
                expected
            );
        };
        check(json!({}), (2, None, None, 1000));
        check(json!({"requests": {"cpu": "100m", "memory": "512Mi"}}), (102, None, None, 500));
        check(
            json!({"limits": {"cpu": "1500m", "memory": "64Mi"}, "requests": {"cpu": "1500m", "memory": "64Mi"}}),
            (1536, Some(150_000), Some(64 << 20), -997),
        );
        check(json!({"limits": {"cpu": "1m"}}), (2, Some(1000), None, 999));
    }

    #[test]
    fn users_and_groups() {
        let image = Image { user: "web".to_owned(), ..Image::default() };
        let check = |pod: serde_json::Value, own: serde_json::Value, expected: Option<&str>| {
            let spec =
                build(json!({"securityContext": pod}), json!({"name": "c", "securityContext": own}), &image);
            assert_eq!(spec.unwrap().security.user.as_deref(), expected);
        };
        check(json!({}), json!({}), None);
        check(json!({"runAsUser": 5, "runAsGroup": 6}), json!({}), Some("5:6"));
        check(json!({"runAsUser": 5}), json!({"runAsUser": 7}), Some("7"));
        check(json!({"runAsGroup": 6}), json!({}), Some("web:6"));
        let spec = build(
            json!({"securityContext": {"fsGroup": 9, "supplementalGroups": [8]}}),
            json!({"name": "c"}),
            &image,
        );
        assert_eq!(spec.unwrap().security.supplemental_groups, ["8", "9"]);
    }

    #[test]
    fn non_root_is_checked() {
        let check = |user: &str, own: serde_json::Value, expected: Option<&str>| {
            let image = Image { user: user.to_owned(), ..Image::default() };
            let mut own = own;
            own["runAsNonRoot"] = json!(true);
            let result = build(json!({}), json!({"name": "c", "securityContext": own}), &image);
            let words = result.err().map(|error| error.to_string());
            assert_eq!(words.is_some(), expected.is_some(), "{user} {words:?}");
            assert!(words.unwrap_or_default().contains(expected.unwrap_or_default()));
        };
        check("", json!({}), Some("image will run as root"));
        check("0:0", json!({}), Some("image will run as root"));
        check("web", json!({}), Some("non-numeric user (web)"));
        check("1000", json!({}), None);
        check("", json!({"runAsUser": 0}), Some("breaks non-root policy"));
        check("", json!({"runAsUser": 1}), None);
    }
}
