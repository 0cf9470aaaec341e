//! Container bodies for the Engine from our specs, and our facts from its inspections. Pure but for `Limits::detect`.

use crate::runtime::{
    Container, ContainerSpec, MountSource, PodRef, Resources, SANDBOX_NAME, SandboxSpec, Seccomp, State,
    label,
};
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, ContainerState, ContainerStateStatusEnum,
    ContainerSummary, ContainerSummaryStateEnum, ContainerUpdateBody, EndpointIpamConfig, EndpointSettings,
    HostConfig, HostConfigLogConfig, Mount, MountBindOptions, MountBindOptionsPropagationEnum,
    MountTmpfsOptions, MountType, NetworkingConfig,
};
use jiff::Timestamp;
use std::{collections::HashMap, net::IpAddr, time::Duration};

/// Log rotation: what the real kubelet keeps of a container (containerLogMaxSize, containerLogMaxFiles).
const LOG_MAX_SIZE: &str = "10m";
const LOG_MAX_FILES: &str = "5";
/// A sandbox is killed last when memory runs out (the real kubelet's value), and runs as nobody.
const SANDBOX_OOM_SCORE: i64 = -998;
const SANDBOX_USER: &str = "65535:65535";

/// Host privileges the machine withholds from everybody, so that asking for them fails the container.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// CAP_SYS_RESOURCE is in the bounding set: all capabilities can be given, oom_score_adj can be negative.
    pub(super) sys_resource: bool,
    /// This process may make links and enter the network namespaces of others.
    pub(super) network: bool,
}

impl Limits {
    /// Reads our own sets: the Engine runs on the same machine. Unreadable means that nothing is withheld from
    /// containers, and that we may do nothing.
    pub(super) fn detect() -> Self {
        const CAP_NET_ADMIN: u64 = 1 << 12;
        const CAP_SYS_ADMIN: u64 = 1 << 21;
        const CAP_SYS_RESOURCE: u64 = 1 << 24;
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let set = |name: &str| {
            let hex = status.lines().find_map(|line| line.strip_prefix(name))?;
            u64::from_str_radix(hex.trim(), 16).ok()
        };
        let needed = CAP_NET_ADMIN | CAP_SYS_ADMIN;
        Self {
            sys_resource: set("CapBnd:").unwrap_or(u64::MAX) & CAP_SYS_RESOURCE != 0,
            network: set("CapEff:").unwrap_or(0) & needed == needed,
        }
    }
}

/// The Engine's name of a container: a repeated create finds what the first one made.
pub(super) fn engine_name(pod: &PodRef, container: &str, attempt: u32) -> String {
    format!("k8s_{container}_{}_{}_{}_{attempt}", pod.name, pod.namespace, pod.uid)
}

fn pod_labels(labels: &mut HashMap<String, String>, pod: &PodRef, name: &str, attempt: u32, grace: Duration) {
    for (key, value) in [
        (label::POD_NAME, pod.name.clone()),
        (label::POD_NAMESPACE, pod.namespace.clone()),
        (label::POD_UID, pod.uid.clone()),
        (label::CONTAINER_NAME, name.to_owned()),
        (label::RESTART_COUNT, attempt.to_string()),
        (label::TERMINATION_GRACE, grace.as_secs().to_string()),
    ] {
        labels.insert(key.to_owned(), value);
    }
}

fn bind(source: &std::path::Path, target: &str, read_only: bool, propagation: Option<&str>) -> Mount {
    let propagation = propagation.map(|mode| match mode {
        "rslave" => MountBindOptionsPropagationEnum::RSLAVE,
        "rshared" => MountBindOptionsPropagationEnum::RSHARED,
        _ => MountBindOptionsPropagationEnum::RPRIVATE,
    });
    Mount {
        typ: Some(MountType::BIND),
        source: Some(source.display().to_string()),
        target: Some(target.to_owned()),
        read_only: Some(read_only),
        bind_options: propagation
            .map(|p| MountBindOptions { propagation: Some(p), ..MountBindOptions::default() }),
        ..Mount::default()
    }
}

/// How a sandbox comes by its network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Attachment<'a> {
    /// It stays on the machine's.
    Host,
    /// It leaves the machine's for one of its own, and is given an address there.
    Ours,
    /// The Engine starts it on the network of this name.
    Engine(&'a str),
}

/// What the sandbox's program needs to leave the machine's network, and to become nobody.
const LEAVING: [&str; 3] = ["SYS_ADMIN", "SETGID", "SETUID"];

pub(super) fn sandbox_body(
    spec: &SandboxSpec,
    image: &str,
    attachment: Attachment<'_>,
    mut labels: HashMap<String, String>,
    limits: &Limits,
) -> ContainerCreateBody {
    pod_labels(&mut labels, &spec.pod, SANDBOX_NAME, spec.attempt, spec.grace);
    let ours = attachment == Attachment::Ours;
    if let (true, Some(ip)) = (ours, spec.ip) {
        labels.insert(label::POD_IP.to_owned(), ip.to_string());
    }
    let network = match attachment {
        Attachment::Host | Attachment::Ours => "host",
        Attachment::Engine(network) => network,
    };
    let address =
        spec.ip.filter(|_| matches!(attachment, Attachment::Engine(_))).map(|ip| NetworkingConfig {
            endpoints_config: Some(HashMap::from([(
                network.to_owned(),
                EndpointSettings {
                    ipam_config: Some(EndpointIpamConfig {
                        ipv4_address: Some(ip.to_string()),
                        ..EndpointIpamConfig::default()
                    }),
                    ..EndpointSettings::default()
                },
            )])),
        });
    let list = |words: &[&str]| Some(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>());
    let host = |yes: bool| yes.then(|| "host".to_owned());
    ContainerCreateBody {
        // With the host's network the name is the host's too.
        hostname: (!spec.host_network).then(|| spec.hostname.clone()),
        // Who leaves the machine's network becomes nobody then.
        user: Some(if ours { "0:0" } else { SANDBOX_USER }.to_owned()),
        image: Some(image.to_owned()),
        entrypoint: list(&[super::pause::PATH]),
        cmd: if ours { list(&[super::pause::LEAVE]) } else { None },
        labels: Some(labels),
        networking_config: address,
        host_config: Some(HostConfig {
            network_mode: Some(network.to_owned()),
            ipc_mode: host(spec.host_ipc).or_else(|| Some("shareable".to_owned())),
            pid_mode: host(spec.host_pid),
            // The Engine would set the machine's own: those are for us to set.
            sysctls: Some(
                spec.sysctls.clone().into_iter().filter(|(name, _)| !ours || !is_of_network(name)).collect(),
            ),
            mounts: Some(vec![
                bind(&spec.resolv_conf, "/etc/resolv.conf", false, None),
                bind(&spec.hosts, "/etc/hosts", false, None),
            ]),
            cgroup_parent: spec.cgroup_parent.clone(),
            readonly_rootfs: Some(true),
            cap_drop: list(&["ALL"]),
            cap_add: if ours { list(&LEAVING) } else { None },
            security_opt: list(&["no-new-privileges"]),
            oom_score_adj: limits.sys_resource.then_some(SANDBOX_OOM_SCORE),
            log_config: Some(HostConfigLogConfig { typ: Some("none".to_owned()), config: None }),
            ..HostConfig::default()
        }),
        ..ContainerCreateBody::default()
    }
}

/// Whether a sysctl belongs to the network namespace.
pub(super) fn is_of_network(sysctl: &str) -> bool {
    sysctl.starts_with("net.") || sysctl.starts_with("net/")
}

pub(super) fn container_body(
    spec: &ContainerSpec,
    mut labels: HashMap<String, String>,
    limits: &Limits,
) -> ContainerCreateBody {
    pod_labels(&mut labels, &spec.pod, &spec.name, spec.attempt, spec.grace);
    labels.insert(label::HASH.to_owned(), spec.hash.clone());
    labels.insert(label::SANDBOX.to_owned(), spec.sandbox_id.clone());
    labels.insert(label::RESOURCES.to_owned(), spec.made_with.clone());
    let joined = format!("container:{}", spec.sandbox_id);
    let pid_mode = match &spec.pid_of {
        _ if spec.host_pid => Some("host".to_owned()),
        Some(id) => Some(format!("container:{id}")),
        None => None,
    };
    let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
    let log = HashMap::from([
        ("max-size".to_owned(), LOG_MAX_SIZE.to_owned()),
        ("max-file".to_owned(), LOG_MAX_FILES.to_owned()),
    ]);
    let resources = &spec.resources;
    let mut host = HostConfig {
        network_mode: Some(if spec.host_network { "host".to_owned() } else { joined.clone() }),
        ipc_mode: Some(if spec.host_ipc { "host".to_owned() } else { joined }),
        pid_mode,
        mounts: Some(spec.mounts.iter().map(mount).collect()),
        cgroup_parent: spec.cgroup_parent.clone(),
        cpu_shares: resources.cpu_shares,
        cpu_quota: resources.cpu_quota_us,
        cpu_period: resources.cpu_period_us,
        memory: resources.memory_bytes,
        // Equal to the memory limit means no swap beside it.
        memory_swap: resources.memory_bytes,
        oom_score_adj: resources.oom_score_adj.filter(|score| *score >= 0 || limits.sys_resource),
        group_add: some(&spec.security.supplemental_groups),
        readonly_rootfs: Some(spec.security.read_only_root),
        log_config: Some(HostConfigLogConfig { typ: Some("json-file".to_owned()), config: Some(log) }),
        ..HostConfig::default()
    };
    secure(&mut host, spec, limits);
    ContainerCreateBody {
        user: spec.security.user.clone(),
        tty: Some(spec.tty),
        open_stdin: Some(spec.stdin),
        stdin_once: Some(spec.stdin_once),
        env: Some(spec.env.iter().map(|(name, value)| format!("{name}={value}")).collect()),
        // With a command of its own the image's CMD must not be appended: an empty list says so.
        cmd: some(&spec.args).or_else(|| (!spec.command.is_empty()).then(Vec::new)),
        entrypoint: some(&spec.command),
        image: Some(spec.image_id.clone()),
        working_dir: spec.working_dir.clone(),
        labels: Some(labels),
        stop_signal: spec.stop_signal.clone(),
        host_config: Some(host),
        ..ContainerCreateBody::default()
    }
}

fn mount(mount: &crate::runtime::Mount) -> Mount {
    match &mount.source {
        MountSource::Path(path) => bind(path, &mount.target, mount.read_only, mount.propagation),
        MountSource::Tmpfs { size_bytes } => Mount {
            typ: Some(MountType::TMPFS),
            target: Some(mount.target.clone()),
            read_only: Some(mount.read_only),
            tmpfs_options: Some(MountTmpfsOptions {
                size_bytes: size_bytes.and_then(|size| size.try_into().ok()),
                mode: Some(0o1777),
                ..MountTmpfsOptions::default()
            }),
            ..Mount::default()
        },
    }
}

/// Capabilities, seccomp and the like. Where the machine lacks CAP_SYS_RESOURCE, "all capabilities" is refused by the
/// kernel: then it is all but that one, with the other doors that `privileged` opens opened one by one.
fn secure(host: &mut HostConfig, spec: &ContainerSpec, limits: &Limits) {
    let security = &spec.security;
    let mut options = Vec::new();
    if security.no_new_privileges {
        options.push("no-new-privileges".to_owned());
    }
    match &security.seccomp {
        Seccomp::Unconfined => options.push("seccomp=unconfined".to_owned()),
        Seccomp::Profile(json) => options.push(format!("seccomp={json}")),
        Seccomp::RuntimeDefault => {}
    }
    let mut add = security.add_capabilities.clone();
    let mut drop = security.drop_capabilities.clone();
    if security.privileged && limits.sys_resource {
        host.privileged = Some(true);
    } else if security.privileged {
        add = vec!["ALL".to_owned()];
        drop = vec!["SYS_RESOURCE".to_owned()];
        options.push("seccomp=unconfined".to_owned());
        options.push("apparmor=unconfined".to_owned());
        host.device_cgroup_rules = Some(vec!["a *:* rwm".to_owned()]);
    } else if !limits.sys_resource && add.iter().any(|name| name == "ALL") {
        drop.push("SYS_RESOURCE".to_owned());
    }
    if security.unmasked_proc || (security.privileged && !limits.sys_resource) {
        host.masked_paths = Some(Vec::new());
        host.readonly_paths = Some(Vec::new());
    }
    host.cap_add = (!add.is_empty()).then_some(add);
    host.cap_drop = (!drop.is_empty()).then_some(drop);
    host.security_opt = (!options.is_empty()).then_some(options);
}

/// Our facts from an inspection; `None` when the container is not of this cluster and node.
pub(super) fn from_inspect(found: ContainerInspectResponse, cluster: &str, node: &str) -> Option<Container> {
    let config = found.config.unwrap_or_default();
    let labels = config.labels.unwrap_or_default();
    let get = |key: &str| labels.get(key).cloned().unwrap_or_default();
    if get(label::CLUSTER) != cluster || get(label::NODE) != node {
        return None;
    }
    let created = found.created.as_deref().and_then(time).unwrap_or_default();
    let state = found.state.unwrap_or_default();
    let given = get(label::POD_IP).parse::<IpAddr>().ok();
    let of_engine = || {
        found.network_settings.and_then(|settings| settings.networks).and_then(|networks| {
            networks.into_values().find_map(|network| {
                let fixed = network.ipam_config.and_then(|config| config.ipv4_address);
                let address = fixed.filter(|a| !a.is_empty()).or(network.ip_address)?;
                address.parse::<IpAddr>().ok()
            })
        })
    };
    let image = found.image.unwrap_or_default();
    Some(Container {
        id: found.id.unwrap_or_default(),
        pod: PodRef {
            namespace: get(label::POD_NAMESPACE),
            name: get(label::POD_NAME),
            uid: get(label::POD_UID),
        },
        name: get(label::CONTAINER_NAME),
        sandbox_id: get(label::SANDBOX),
        pid: state.pid.and_then(|pid| u32::try_from(pid).ok()).filter(|pid| *pid > 0),
        state: state_of(state, created),
        created,
        attempt: get(label::RESTART_COUNT).parse().unwrap_or(0),
        hash: get(label::HASH),
        image: config.image.unwrap_or_default(),
        image_id: if image.is_empty() { image } else { format!("docker://{image}") },
        ip: given.or_else(of_engine),
        tty: config.tty == Some(true),
        stdin: config.open_stdin == Some(true),
        resources: found.host_config.filter(|_| get(label::CONTAINER_NAME) != SANDBOX_NAME).map(resources_of),
        made_with: get(label::RESOURCES),
        grace: Duration::from_secs(get(label::TERMINATION_GRACE).parse().unwrap_or(30)),
    })
}

/// What the Engine lets a container use; zero is no limit.
fn resources_of(host: HostConfig) -> Resources {
    let some = |value: Option<i64>| value.filter(|value| *value > 0);
    Resources {
        cpu_shares: some(host.cpu_shares),
        cpu_quota_us: some(host.cpu_quota),
        cpu_period_us: some(host.cpu_period),
        memory_bytes: some(host.memory),
        oom_score_adj: host.oom_score_adj,
    }
}

/// The change that lets a container use so much.
pub(super) fn update_body(resources: &Resources) -> ContainerUpdateBody {
    ContainerUpdateBody {
        cpu_shares: resources.cpu_shares,
        cpu_quota: resources.cpu_quota_us,
        cpu_period: resources.cpu_period_us,
        memory: resources.memory_bytes,
        memory_swap: resources.memory_bytes,
        ..ContainerUpdateBody::default()
    }
}

fn state_of(state: ContainerState, created: Timestamp) -> State {
    let started = state.started_at.as_deref().and_then(time);
    let code = state.exit_code.and_then(|code| i32::try_from(code).ok()).unwrap_or(0);
    let error = state.error.filter(|error| !error.is_empty());
    match state.status {
        Some(ContainerStateStatusEnum::CREATED) if error.is_none() && code == 0 => State::Created,
        // A start that failed leaves it "created", with the reason.
        Some(ContainerStateStatusEnum::CREATED) => {
            let code = if code == 0 { 128 } else { code };
            State::Exited { code, oom_killed: false, started: None, finished: created, error }
        }
        _ if state.running == Some(true) => State::Running { started: started.unwrap_or(created) },
        _ => {
            let finished = state.finished_at.as_deref().and_then(time).unwrap_or(created);
            State::Exited { code, oom_killed: state.oom_killed == Some(true), started, finished, error }
        }
    }
}

/// The Engine's times; its zero time means never.
fn time(text: &str) -> Option<Timestamp> {
    text.parse().ok().filter(|time: &Timestamp| time.as_second() > 0)
}

/// Whether a summary shows the container in the state we know it in. A restart in place brings an event of its own.
pub(super) fn same_state(known: &Container, summary: &ContainerSummary) -> bool {
    match summary.state {
        Some(ContainerSummaryStateEnum::RUNNING | ContainerSummaryStateEnum::PAUSED) => known.is_running(),
        Some(ContainerSummaryStateEnum::EXITED | ContainerSummaryStateEnum::DEAD) => known.is_exited(),
        // A failed start shows only on inspection.
        _ => false,
    }
}
