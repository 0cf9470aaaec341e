//! The rules of level `baseline`, and the list of all rules with the versions they begin at.
//! <https://kubernetes.io/docs/concepts/security/pod-security-standards/>

use super::{
    policy::{Level, Standard},
    restricted,
};
use k8s_openapi::{
    api::core::v1::{
        ContainerPort, Lifecycle, LifecycleHandler, Pod, PodSecurityContext, PodSpec, Probe, SELinuxOptions,
        SecurityContext,
    },
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use std::collections::{BTreeMap, BTreeSet};

/// Why a pod is not within a level: `hostPort`, `container "a" uses hostPort 80`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) reason: String,
    pub(super) detail: String,
}

/// What is looked at of a container, of whichever sort.
pub(super) struct Look<'a> {
    pub(super) name: &'a str,
    pub(super) security: Option<&'a SecurityContext>,
    ports: &'a [ContainerPort],
    probes: [Option<&'a Probe>; 3],
    lifecycle: Option<&'a Lifecycle>,
}

/// A pod, or the template of one.
pub(super) struct Subject<'a> {
    annotations: Option<&'a BTreeMap<String, String>>,
    pub(super) spec: Option<&'a PodSpec>,
    pub(super) security: Option<&'a PodSecurityContext>,
    pub(super) containers: Vec<Look<'a>>,
}

impl<'a> Subject<'a> {
    pub(super) fn of_pod(pod: &'a Pod) -> Self {
        Self::made(&pod.metadata, pod.spec.as_ref())
    }

    pub(super) fn new(meta: &'a ObjectMeta, spec: &'a PodSpec) -> Self {
        Self::made(meta, Some(spec))
    }

    fn made(meta: &'a ObjectMeta, spec: Option<&'a PodSpec>) -> Self {
        macro_rules! look {
            ($container:expr) => {
                Look {
                    name: &$container.name,
                    security: $container.security_context.as_ref(),
                    ports: $container.ports.as_deref().unwrap_or_default(),
                    probes: [
                        $container.liveness_probe.as_ref(),
                        $container.readiness_probe.as_ref(),
                        $container.startup_probe.as_ref(),
                    ],
                    lifecycle: $container.lifecycle.as_ref(),
                }
            };
        }
        let mut containers = Vec::new();
        if let Some(spec) = spec {
            containers.extend(spec.init_containers.iter().flatten().map(|c| look!(c)));
            containers.extend(spec.containers.iter().map(|c| look!(c)));
            containers.extend(spec.ephemeral_containers.iter().flatten().map(|c| look!(c)));
        }
        let security = spec.and_then(|s| s.security_context.as_ref());
        Self { annotations: meta.annotations.as_ref(), spec, security, containers }
    }

    /// The names of the containers that are `bad`.
    pub(super) fn which(&self, mut bad: impl FnMut(&Look<'_>) -> bool) -> Vec<&str> {
        self.containers.iter().filter(|c| bad(c)).map(|c| c.name).collect()
    }

    pub(super) fn is_windows(&self) -> bool {
        self.spec.and_then(|s| s.os.as_ref()).is_some_and(|os| os.name == "windows")
    }

    /// Root in a user namespace of its own is not the node's root.
    pub(super) fn has_own_users(&self) -> bool {
        self.spec.is_some_and(|s| s.host_users == Some(false))
    }

    fn annotations_with<'s>(&'s self, prefix: &'s str) -> impl Iterator<Item = (&'s String, &'s String)> {
        self.annotations.into_iter().flatten().filter(move |(key, _)| key.starts_with(prefix))
    }
}

pub(super) type Run = fn(&Subject<'_>, u32) -> Option<Finding>;

/// One rule: its name, the minor version it begins at, what it looks at.
pub(super) struct Check {
    pub(super) id: &'static str,
    pub(super) since: u32,
    /// The baseline rule that it takes the place of.
    pub(super) instead_of: &'static str,
    pub(super) run: Run,
}

const fn check(id: &'static str, since: u32, run: Run) -> Check {
    Check { id, since, instead_of: "", run }
}

/// In the order in which findings are told.
static BASELINE: [Check; 12] = [
    check("appArmorProfile", 0, app_armor),
    check("capabilities_baseline", 0, capabilities),
    check("hostNamespaces", 0, host_namespaces),
    check("hostPathVolumes", 0, host_paths),
    check("hostPorts", 0, host_ports),
    check("hostProbesAndHostLifecycle", 34, probed_hosts),
    check("privileged", 0, privileged),
    check("procMount", 0, proc_mount_baseline),
    check("seLinuxOptions", 0, se_linux),
    check("seccompProfile_baseline", 0, seccomp),
    check("sysctls", 0, sysctls),
    check("windowsHostProcess", 0, host_process),
];

/// What of the pod is not within the level.
pub(super) fn evaluate(standard: Standard, subject: &Subject<'_>) -> Vec<Finding> {
    let minor = standard.version.minor();
    let stricter: Vec<&Check> = match standard.level {
        Level::Privileged => return Vec::new(),
        Level::Baseline => Vec::new(),
        Level::Restricted => restricted::CHECKS.iter().filter(|c| c.since <= minor).collect(),
    };
    let baseline = BASELINE
        .iter()
        .filter(|c| c.since <= minor && !stricter.iter().any(|stricter| stricter.instead_of == c.id));
    baseline.chain(stricter.iter().copied()).filter_map(|c| (c.run)(subject, minor)).collect()
}

pub(super) fn finding(reason: impl Into<String>, detail: impl Into<String>) -> Option<Finding> {
    Some(Finding { reason: reason.into(), detail: detail.into() })
}

/// `"a", "b"`
pub(super) fn quoted<T: AsRef<str>>(items: impl IntoIterator<Item = T>) -> String {
    items.into_iter().map(|i| format!("\"{}\"", i.as_ref())).collect::<Vec<_>>().join(", ")
}

/// `container "a"`, `containers "a", "b"`
pub(super) fn named(noun: &str, names: &[&str]) -> String {
    format!("{} {}", plural(noun, names.len()), quoted(names))
}

pub(super) fn plural(noun: &str, count: usize) -> String {
    format!("{noun}{}", if count == 1 { "" } else { "s" })
}

/// `pod and containers "a", "b"`
pub(super) fn setters(pod: bool, containers: &[&str]) -> Vec<String> {
    let pod = pod.then(|| "pod".to_owned());
    let containers = (!containers.is_empty()).then(|| named("container", containers));
    pod.into_iter().chain(containers).collect()
}

fn app_armor(subject: &Subject<'_>, _: u32) -> Option<Finding> {
    let mut values = BTreeSet::new();
    let mut bad = |kind: Option<&String>| {
        let bad = kind.filter(|k| !matches!(k.as_str(), "RuntimeDefault" | "Localhost"));
        values.extend(bad.cloned());
        bad.is_some()
    };
    let of_pod = bad(subject.security.and_then(|s| s.app_armor_profile.as_ref()).map(|p| &p.type_));
    let containers =
        subject.which(|c| bad(c.security.and_then(|s| s.app_armor_profile.as_ref()).map(|p| &p.type_)));
    let mut by = setters(of_pod, &containers);
    let mut values: Vec<String> = values.into_iter().collect();
    let annotated: Vec<String> = subject
        .annotations_with("container.apparmor.security.beta.kubernetes.io/")
        .filter(|(_, v)| !(v.is_empty() || *v == "runtime/default" || v.starts_with("localhost/")))
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    if !annotated.is_empty() {
        by.push(plural("annotation", annotated.len()));
        values.extend(annotated);
    }
    if by.is_empty() {
        return None;
    }
    finding(
        plural("forbidden AppArmor profile", values.len()),
        format!("{} must not set AppArmor profile type to {}", by.join(" and "), quoted(values)),
    )
}

const CAPABILITIES: [&str; 13] = [
    "AUDIT_WRITE",
    "CHOWN",
    "DAC_OVERRIDE",
    "FOWNER",
    "FSETID",
    "KILL",
    "MKNOD",
    "NET_BIND_SERVICE",
    "SETFCAP",
    "SETGID",
    "SETPCAP",
    "SETUID",
    "SYS_CHROOT",
];

/// The capabilities that a container adds.
pub(super) fn added<'a>(container: &Look<'a>) -> &'a [String] {
    let capabilities = container.security.and_then(|s| s.capabilities.as_ref());
    capabilities.and_then(|c| c.add.as_deref()).unwrap_or_default()
}

/// Containers that add what is not `allowed`: `containers "a" must not include "X" in …`.
pub(super) fn forbidden_capabilities(subject: &Subject<'_>, allowed: &[&str]) -> Option<String> {
    let mut forbidden = BTreeSet::new();
    let containers = subject.which(|c| {
        let bad: Vec<&String> = added(c).iter().filter(|a| !allowed.contains(&a.as_str())).collect();
        forbidden.extend(bad.iter().map(|b| (*b).clone()));
        !bad.is_empty()
    });
    (!containers.is_empty()).then(|| {
        let containers = named("container", &containers);
        format!("{containers} must not include {} in securityContext.capabilities.add", quoted(forbidden))
    })
}

fn capabilities(subject: &Subject<'_>, _: u32) -> Option<Finding> {
    finding("non-default capabilities", forbidden_capabilities(subject, &CAPABILITIES)?)
}

fn host_namespaces(subject: &Subject<'_>, _: u32) -> Option<Finding> {
    let spec = subject.spec?;
    let used: Vec<&str> = [
        (spec.host_network, "hostNetwork=true"),
        (spec.host_pid, "hostPID=true"),
        (spec.host_ipc, "hostIPC=true"),
    ]
    .into_iter()
    .filter_map(|(on, name)| (on == Some(true)).then_some(name))
    .collect();
    if used.is_empty() { None } else { finding("host namespaces", used.join(", ")) }
}

fn host_paths(subject: &Subject<'_>, _: u32) -> Option<Finding> {
    let volumes: Vec<&str> = subject
        .spec?
        .volumes
        .iter()
        .flatten()
        .filter(|v| v.host_path.is_some())
        .map(|v| v.name.as_str())
        .collect();
    if volumes.is_empty() { None } else { finding("hostPath volumes", named("volume", &volumes)) }
}

fn host_ports(subject: &Subject<'_>, _: u32) -> Option<Finding> {
    let mut ports = BTreeSet::new();
    let containers = subject.which(|c| {
        let own = c.ports.iter().filter_map(|p| p.host_port.filter(|h| *h != 0));
        let own: Vec<String> = own.map(|p| p.to_string()).collect();
        let bad = !own.is_empty();
        ports.extend(own);
        bad
    });
    if containers.is_empty() {
        return None;
    }
    let uses = if containers.len() == 1 { "uses" } else { "use" };
    let ports: Vec<String> = ports.into_iter().collect();
    let noun = plural("hostPort", ports.len());
    finding("hostPort", format!("{} {uses} {noun} {}", named("container", &containers), ports.join(", ")))
}

fn probed_hosts(subject: &Subject<'_>, _: u32) -> Option<Finding> {
    let of_probe = |probe: &Probe| {
        let http = probe.http_get.as_ref().and_then(|h| h.host.clone());
        [http, probe.tcp_socket.as_ref().and_then(|t| t.host.clone())]
    };
    let of_handler = |handler: &LifecycleHandler| {
        let http = handler.http_get.as_ref().and_then(|h| h.host.clone());
        [http, handler.tcp_socket.as_ref().and_then(|t| t.host.clone())]
    };
    let (mut containers, mut hosts) = (BTreeSet::new(), BTreeSet::new());
    for container in &subject.containers {
        let probes = container.probes.into_iter().flatten().flat_map(of_probe);
        let hooks = container.lifecycle.into_iter().flat_map(|l| [&l.post_start, &l.pre_stop]);
        let hooks = hooks.flatten().flat_map(of_handler);
        for host in probes.chain(hooks).flatten().filter(|h| !h.is_empty()) {
            containers.insert(container.name);
            hosts.insert(host);
        }
    }
    if containers.is_empty() {
        return None;
    }
    let containers: Vec<&str> = containers.into_iter().collect();
    let uses = if containers.len() == 1 { "uses" } else { "use" };
    let noun = plural("probe or lifecycle host", hosts.len());
    finding(
        "probe or lifecycle host",
        format!("{} {uses} {noun} {}", named("container", &containers), quoted(hosts)),
    )
}

fn privileged(subject: &Subject<'_>, _: u32) -> Option<Finding> {
    let containers = subject.which(|c| c.security.is_some_and(|s| s.privileged == Some(true)));
    if containers.is_empty() {
        return None;
    }
    let containers = named("container", &containers);
    finding("privileged", format!("{containers} must not set securityContext.privileged=true"))
}

fn proc_mount_baseline(subject: &Subject<'_>, minor: u32) -> Option<Finding> {
    if minor >= 35 && subject.has_own_users() { None } else { proc_mount(subject, minor) }
}

pub(super) fn proc_mount(subject: &Subject<'_>, _: u32) -> Option<Finding> {
    let mut kinds = BTreeSet::new();
    let containers = subject.which(|c| {
        let bad = c.security.and_then(|s| s.proc_mount.as_ref()).filter(|p| *p != "Default");
        kinds.extend(bad.cloned());
        bad.is_some()
    });
    if containers.is_empty() {
        return None;
    }
    let containers = named("container", &containers);
    finding("procMount", format!("{containers} must not set securityContext.procMount to {}", quoted(kinds)))
}

const SE_LINUX_TYPES: [&str; 4] = ["", "container_t", "container_init_t", "container_kvm_t"];

fn se_linux(subject: &Subject<'_>, minor: u32) -> Option<Finding> {
    let (mut types, mut user, mut role) = (BTreeSet::new(), false, false);
    let mut bad = |options: Option<&SELinuxOptions>| {
        let Some(options) = options else { return false };
        let given = options.type_.as_deref().unwrap_or_default();
        let known = SE_LINUX_TYPES.contains(&given) || minor >= 31 && given == "container_engine_t";
        if !known {
            types.insert(given.to_owned());
        }
        let has_user = options.user.as_ref().is_some_and(|u| !u.is_empty());
        let has_role = options.role.as_ref().is_some_and(|r| !r.is_empty());
        user |= has_user;
        role |= has_role;
        !known || has_user || has_role
    };
    let of_pod = bad(subject.security.and_then(|s| s.se_linux_options.as_ref()));
    let containers = subject.which(|c| bad(c.security.and_then(|s| s.se_linux_options.as_ref())));
    let by = setters(of_pod, &containers);
    if by.is_empty() {
        return None;
    }
    let mut data = Vec::new();
    if !types.is_empty() {
        data.push(format!("{} {}", plural("type", types.len()), quoted(types)));
    }
    if user {
        data.push("user may not be set".to_owned());
    }
    if role {
        data.push("role may not be set".to_owned());
    }
    finding(
        "seLinuxOptions",
        format!("{} set forbidden securityContext.seLinuxOptions: {}", by.join(" and "), data.join("; ")),
    )
}

pub(super) fn seccomp(subject: &Subject<'_>, minor: u32) -> Option<Finding> {
    if minor < 19 {
        return seccomp_annotations(subject);
    }
    let mut values = BTreeSet::new();
    let mut bad = |kind: Option<&String>| {
        let bad = kind.filter(|k| !matches!(k.as_str(), "RuntimeDefault" | "Localhost"));
        values.extend(bad.cloned());
        bad.is_some()
    };
    let of_pod = bad(subject.security.and_then(|s| s.seccomp_profile.as_ref()).map(|p| &p.type_));
    let containers =
        subject.which(|c| bad(c.security.and_then(|s| s.seccomp_profile.as_ref()).map(|p| &p.type_)));
    let by = setters(of_pod, &containers);
    if by.is_empty() {
        return None;
    }
    let by = by.join(" and ");
    finding(
        "seccompProfile",
        format!("{by} must not set securityContext.seccompProfile.type to {}", quoted(values)),
    )
}

/// How profiles were named before there was a field.
fn seccomp_annotations(subject: &Subject<'_>) -> Option<Finding> {
    let allowed = |value: &str| {
        matches!(value, "runtime/default" | "docker/default") || value.starts_with("localhost/")
    };
    let of_containers = "container.seccomp.security.alpha.kubernetes.io/";
    let bad: BTreeSet<String> = subject
        .annotations_with("")
        .filter(|(key, value)| {
            let container = key.strip_prefix(of_containers);
            (*key == "seccomp.security.alpha.kubernetes.io/pod"
                || container.is_some_and(|name| subject.containers.iter().any(|c| c.name == name)))
                && !allowed(value)
        })
        .map(|(key, value)| format!("{key}={value:?}"))
        .collect();
    if bad.is_empty() {
        return None;
    }
    let list = bad.iter().cloned().collect::<Vec<_>>().join(", ");
    finding("seccompProfile", format!("forbidden {} {list}", plural("annotation", bad.len())))
}

/// Sysctls that are a pod's own, by the version from which they may be set.
const SYSCTLS: [(u32, &str); 12] = [
    (0, "kernel.shm_rmid_forced"),
    (0, "net.ipv4.ip_local_port_range"),
    (0, "net.ipv4.tcp_syncookies"),
    (0, "net.ipv4.ping_group_range"),
    (0, "net.ipv4.ip_unprivileged_port_start"),
    (27, "net.ipv4.ip_local_reserved_ports"),
    (29, "net.ipv4.tcp_keepalive_time"),
    (29, "net.ipv4.tcp_fin_timeout"),
    (29, "net.ipv4.tcp_keepalive_intvl"),
    (29, "net.ipv4.tcp_keepalive_probes"),
    (32, "net.ipv4.tcp_rmem"),
    (32, "net.ipv4.tcp_wmem"),
];

fn sysctls(subject: &Subject<'_>, minor: u32) -> Option<Finding> {
    let forbidden: Vec<&str> = subject
        .security?
        .sysctls
        .iter()
        .flatten()
        .map(|s| s.name.as_str())
        .filter(|name| !SYSCTLS.iter().any(|(since, known)| known == name && *since <= minor))
        .collect();
    if forbidden.is_empty() { None } else { finding("forbidden sysctls", forbidden.join(", ")) }
}

fn host_process(subject: &Subject<'_>, _: u32) -> Option<Finding> {
    let pod = subject.security.and_then(|s| s.windows_options.as_ref());
    let containers = subject.which(|c| {
        let options = c.security.and_then(|s| s.windows_options.as_ref());
        options.is_some_and(|w| w.host_process == Some(true))
    });
    let by = setters(pod.is_some_and(|w| w.host_process == Some(true)), &containers);
    if by.is_empty() {
        return None;
    }
    let by = by.join(" and ");
    finding("hostProcess", format!("{by} must not set securityContext.windowsOptions.hostProcess=true"))
}
