//! What a node says about itself, from the machine's own files and the engine. Pure but for reading them.

use crate::{
    config::Config,
    node_context::Machine,
    proxy,
    runtime::{Image, Info},
};
use jiff::Timestamp;
use k8s_openapi::{
    api::core::v1::{
        ContainerImage, DaemonEndpoint, NodeAddress, NodeCondition, NodeDaemonEndpoints, NodeStatus,
        NodeSystemInfo,
    },
    apimachinery::pkg::{api::resource::Quantity, apis::meta::v1::Time},
};
use std::{collections::BTreeMap, fs, net::Ipv4Addr, net::UdpSocket, path::Path};

/// Images listed in the status: the largest (the real kubelet's nodeStatusMaxImages).
const MAX_IMAGES: usize = 50;
const MAX_IMAGE_NAMES: usize = 5;
/// Pressure is declared only when work would fail: developers' disks are often nearly full, and a taint would stop
/// everything.
const LEAST_MEMORY: u64 = 100 << 20;
const LEAST_DISK: u64 = 500 << 20;

/// CPU, memory and addresses, without asking the engine: they are needed before it answers.
pub(crate) fn machine(config: &Config) -> Machine {
    let cpus = std::thread::available_parallelism().map_or(1, usize::from);
    let memory = meminfo("MemTotal").unwrap_or(0);
    let disk = disk(&config.data_dir).map_or(0, |(total, _)| total);
    let amounts = |nodes: u32| {
        BTreeMap::from([
            ("cpu".to_owned(), milli(cpus * 1000 / usize::try_from(nodes).unwrap_or(1))),
            ("memory".to_owned(), Quantity(format!("{}Ki", (memory >> 10) / u64::from(nodes)))),
            ("ephemeral-storage".to_owned(), Quantity(format!("{}Ki", (disk >> 10) / u64::from(nodes)))),
            ("pods".to_owned(), Quantity(config.max_pods.to_string())),
        ])
    };
    Machine {
        node_ip: Some(
            config.node_ip.unwrap_or_else(|| default_address().unwrap_or(config.pod_cidr.gateway())),
        ),
        memory_bytes: i64::try_from(memory).unwrap_or(i64::MAX),
        capacity: amounts(1),
        allocatable: amounts(config.nodes_on_machine.max(1)),
    }
}

/// In the form that Kubernetes writes: whole units where there are only such.
fn milli(amount: usize) -> Quantity {
    Quantity(if amount.is_multiple_of(1000) { (amount / 1000).to_string() } else { format!("{amount}m") })
}

/// The address that packets to the outside would carry. No packet is sent for this.
fn default_address() -> Option<Ipv4Addr> {
    let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).ok()?;
    // TEST-NET-1 (RFC 5737): routed like any other address, and nobody's.
    socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9)).ok()?;
    match socket.local_addr().ok()?.ip() {
        std::net::IpAddr::V4(ip) if !ip.is_loopback() && !ip.is_unspecified() => Some(ip),
        _ => None,
    }
}

/// What changes while the node runs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct HostState {
    available_memory: Option<u64>,
    available_disk: Option<u64>,
}

impl HostState {
    pub(super) fn read(config: &Config) -> Self {
        Self {
            available_memory: meminfo("MemAvailable"),
            available_disk: disk(&config.data_dir).map(|(_, available)| available),
        }
    }
}

fn meminfo(field: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? << 10)
}

/// (size, available to us) of the file system a path (or the nearest of its parents that exists) is on.
fn disk(path: &Path) -> Option<(u64, u64)> {
    let existing = path.ancestors().find(|path| path.exists())?;
    let stat = rustix::fs::statvfs(existing).ok()?;
    Some((stat.f_blocks * stat.f_frsize, stat.f_bavail * stat.f_frsize))
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

pub(super) fn node_labels(config: &Config) -> BTreeMap<String, String> {
    let known = [
        ("kubernetes.io/hostname", config.node_name.as_str()),
        ("kubernetes.io/os", "linux"),
        ("kubernetes.io/arch", architecture()),
        ("beta.kubernetes.io/os", "linux"),
        ("beta.kubernetes.io/arch", architecture()),
    ];
    let known = known.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
    known.chain(config.node_labels.iter().cloned()).collect()
}

/// Everything but the conditions.
pub(super) fn status(
    config: &Config,
    machine: &Machine,
    info: Option<&Info>,
    images: &[Image],
) -> NodeStatus {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let os = release
        .lines()
        .find_map(|line| line.strip_prefix("PRETTY_NAME="))
        .map(|name| name.trim_matches('"').to_owned());
    let address = |type_: &str, address: String| NodeAddress { type_: type_.to_owned(), address };
    let mut addresses = vec![address("Hostname", config.node_name.clone())];
    if let Some(ip) = machine.node_ip {
        addresses.insert(0, address("InternalIP", ip.to_string()));
    }
    NodeStatus {
        addresses: Some(addresses),
        capacity: Some(machine.capacity.clone()),
        allocatable: Some(machine.allocatable.clone()),
        daemon_endpoints: (config.api_port > 0).then(|| NodeDaemonEndpoints {
            kubelet_endpoint: Some(DaemonEndpoint { port: config.api_port.into() }),
        }),
        images: Some(
            images
                .iter()
                .take(MAX_IMAGES)
                .map(|image| ContainerImage {
                    names: Some(
                        image.digests.iter().chain(&image.tags).take(MAX_IMAGE_NAMES).cloned().collect(),
                    ),
                    size_bytes: i64::try_from(image.size_bytes).ok(),
                })
                .collect(),
        ),
        node_info: Some(NodeSystemInfo {
            architecture: info.map_or_else(|| architecture().to_owned(), |info| info.architecture.clone()),
            boot_id: read("/proc/sys/kernel/random/boot_id"),
            container_runtime_version: info
                .map_or_else(|| "docker://unknown".to_owned(), |info| info.runtime_version.clone()),
            kernel_version: read("/proc/sys/kernel/osrelease"),
            kube_proxy_version: String::new(),
            kubelet_version: config.version.clone(),
            machine_id: read("/etc/machine-id"),
            operating_system: "linux".to_owned(),
            os_image: os.or_else(|| info.map(|info| info.os_image.clone())).unwrap_or_default(),
            swap: None,
            system_uuid: read("/sys/class/dmi/id/product_uuid"),
        }),
        ..NodeStatus::default()
    }
}

/// The node's conditions; transition times come from those before. `not_ready` says why the node is not Ready, if it is not.
pub(super) fn conditions(
    config: &Config,
    host: &HostState,
    not_ready: Option<&str>,
    before: &[NodeCondition],
    now: Timestamp,
) -> Vec<NodeCondition> {
    let one = |type_: &str, status: bool, reason: &str, message: String| NodeCondition {
        type_: type_.to_owned(),
        status: if status { "True" } else { "False" }.to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message),
        last_heartbeat_time: Some(Time(now)),
        last_transition_time: None,
    };
    let low = |available: Option<u64>, least: u64| available.is_some_and(|available| available < least);
    let memory = low(host.available_memory, LEAST_MEMORY);
    let disk = low(host.available_disk, LEAST_DISK);
    let proxy = config.service_proxy.as_ref().map(|status| status.borrow().clone());
    let mut missing = config.missing_privileges.clone();
    if let Some(proxy::Status::Failed { not_permitted: true, message }) = &proxy {
        missing.push(format!("services have no addresses on this node: {message}"));
    }
    let services = proxy.and_then(|status| match status {
        // Not decided yet: a condition that is about to change says nothing.
        proxy::Status::Starting => None,
        proxy::Status::Ready { problems } if problems.is_empty() => {
            Some(one("ServiceProxyReady", true, "RulesInPlace", "services are reachable".to_owned()))
        }
        proxy::Status::Ready { problems } => {
            Some(one("ServiceProxyReady", true, "Degraded", problems.join("; ")))
        }
        proxy::Status::Failed { not_permitted, message } => {
            let reason = if not_permitted { "NotPermitted" } else { "KernelRefused" };
            Some(one("ServiceProxyReady", false, reason, message))
        }
    });
    let mut conditions = before.to_vec();
    for condition in services.into_iter().chain([
        if memory {
            one(
                "MemoryPressure",
                true,
                "KubeletHasInsufficientMemory",
                "less than 100 MiB of memory is available".to_owned(),
            )
        } else {
            one(
                "MemoryPressure",
                false,
                "KubeletHasSufficientMemory",
                "kubelet has sufficient memory available".to_owned(),
            )
        },
        if disk {
            one(
                "DiskPressure",
                true,
                "KubeletHasDiskPressure",
                "less than 500 MiB of disk is available".to_owned(),
            )
        } else {
            one("DiskPressure", false, "KubeletHasNoDiskPressure", "kubelet has no disk pressure".to_owned())
        },
        one(
            "PIDPressure",
            false,
            "KubeletHasSufficientPID",
            "kubelet has sufficient PID available".to_owned(),
        ),
        one(
            "NetworkUnavailable",
            false,
            "PodNetworkReady",
            "the node's pod network is a Docker bridge".to_owned(),
        ),
        one(
            "MissingPrivileges",
            !missing.is_empty(),
            if missing.is_empty() { "AllPresent" } else { "Degraded" },
            if missing.is_empty() { "nothing is missing".to_owned() } else { missing.join("; ") },
        ),
        match not_ready {
            None => one("Ready", true, "KubeletReady", "kubelet is posting ready status".to_owned()),
            Some(why) => one("Ready", false, "KubeletNotReady", why.to_owned()),
        },
    ]) {
        api::conditions::set(&mut conditions, condition, now);
    }
    conditions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> Config {
        Config::new("n1", 0, "abc", "/tmp".into(), "10.1.1.0/24".parse().unwrap())
    }

    #[test]
    fn a_dead_engine_makes_the_node_not_ready_and_times_move_once() {
        let host = HostState { available_memory: Some(1 << 30), available_disk: Some(1) };
        let at = |second: i64| Timestamp::from_second(second).unwrap();
        let first = conditions(&config(), &host, None, &[], at(10));
        let status = |list: &[NodeCondition], type_: &str| {
            let found = api::conditions::find(list, type_).unwrap();
            (found.status.clone(), found.last_transition_time.as_ref().unwrap().0.as_second())
        };
        assert_eq!(status(&first, "Ready"), ("True".to_owned(), 10));
        assert_eq!(status(&first, "DiskPressure"), ("True".to_owned(), 10));
        assert_eq!(status(&first, "MemoryPressure"), ("False".to_owned(), 10));
        let second = conditions(&config(), &host, Some("connection refused"), &first, at(20));
        assert_eq!(status(&second, "Ready"), ("False".to_owned(), 20));
        assert_eq!(status(&second, "PIDPressure"), ("False".to_owned(), 10));
        let words = api::conditions::find(&second, "Ready").unwrap().message.clone().unwrap();
        assert_eq!(words, "connection refused");
    }

    #[test]
    fn what_the_service_proxy_lacks_shows() {
        let (proxy, receiver) = tokio::sync::watch::channel(proxy::Status::Starting);
        let config = Config { service_proxy: Some(receiver), ..config() };
        let shown = || {
            let all = conditions(&config, &HostState::default(), None, &[], Timestamp::UNIX_EPOCH);
            let of = |type_: &str| {
                let found = api::conditions::find(&all, type_);
                found.map(|c| (c.status.clone(), c.reason.clone().unwrap_or_default()))
            };
            (of("ServiceProxyReady"), of("MissingPrivileges").unwrap().0)
        };
        let some = |status: &str, reason: &str| Some((status.to_owned(), reason.to_owned()));
        assert_eq!(shown(), (None, "False".to_owned()));
        proxy.send_replace(proxy::Status::Ready { problems: vec![] });
        assert_eq!(shown(), (some("True", "RulesInPlace"), "False".to_owned()));
        proxy.send_replace(proxy::Status::Ready { problems: vec!["no route".to_owned()] });
        assert_eq!(shown(), (some("True", "Degraded"), "False".to_owned()));
        proxy.send_replace(proxy::Status::Failed {
            not_permitted: true,
            message: "no CAP_NET_ADMIN".to_owned(),
        });
        assert_eq!(shown(), (some("False", "NotPermitted"), "True".to_owned()));
    }

    #[test]
    fn the_machine_is_described() {
        let machine = machine(&config());
        assert!(machine.memory_bytes > 1 << 20 && machine.node_ip.is_some());
        let status = status(&config(), &machine, None, &[]);
        let info = status.node_info.unwrap();
        assert!(!info.kernel_version.is_empty() && !info.boot_id.is_empty());
        assert_eq!(status.capacity.unwrap()["pods"].0, "110");
        assert_eq!(node_labels(&config())["kubernetes.io/hostname"], "n1");
    }

    #[test]
    fn nodes_of_one_machine_promise_a_part_of_it_each() {
        let machine = machine(&Config { nodes_on_machine: 3, max_pods: 40, ..config() });
        let amount = |list: &BTreeMap<String, Quantity>, name: &str| {
            api::quantity::of(list.get(name)).milli_value() / 1000
        };
        for name in ["memory", "ephemeral-storage"] {
            let (whole, part) = (amount(&machine.capacity, name), amount(&machine.allocatable, name));
            assert!(part > 0 && part * 3 <= whole && whole - part * 3 < 3 << 10, "{name}: {part} of {whole}");
        }
        assert_eq!(
            (&machine.capacity["pods"].0, &machine.allocatable["pods"].0),
            (&"40".into(), &"40".into())
        );
        assert_eq!([milli(2000), milli(666)].map(|q| q.0), ["2", "666m"]);
    }
}
