//! From flags, environment and file to checked settings. A bad value is one sentence and exit code 2.

use crate::{Exit, args::ServerFlags};
use api::{Cidr, duration};
use std::{
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};

const DEFAULT_PORT: u16 = 6443;
/// kubelet's own default for pods on a node.
const DEFAULT_MAX_PODS: u32 = 110;
/// Shorter ones are no private range, longer ones hold no /24 of a node.
const PREFIXES: std::ops::RangeInclusive<u8> = 8..=24;
/// With several nodes on one machine: so few that tests which fill a cluster stay small (Kubernetes' own fill half of it).
const DEFAULT_MAX_PODS_OF_MANY: u32 = 40;
/// A bridge's name has room for a number of this size, and no machine for more bridges.
const MAX_NODES: u32 = 255;
/// A node's name is also the value of its label `kubernetes.io/hostname`.
const MAX_NODE_NAME: usize = 63;
/// Kubernetes' defaults.
const DEFAULT_GRACE: Duration = Duration::from_secs(40);
const DEFAULT_TOLERATION_SECONDS: u32 = 300;
/// Under a second a busy machine's own nodes would be lost all the time; over a day nobody would notice a loss.
const GRACE_FROM_TO: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(24 * 3600));

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Text,
    Json,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Datastore {
    Sled,
    Memory,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Component {
    Kubelet,
    Scheduler,
    Controllers,
    Dns,
    Proxy,
}

/// Everything `minik8s server` was told, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    pub data_dir: PathBuf,
    /// Empty: loopback and the pod bridge.
    pub bind_address: Vec<IpAddr>,
    pub port: u16,
    pub kubeconfig: PathBuf,
    /// The local nodes: the machine itself, and the virtual ones beside it. Never empty.
    pub node_names: Vec<String>,
    pub max_pods: u32,
    pub node_monitor_grace_period: Duration,
    pub toleration_seconds: u32,
    pub cluster_cidr: Cidr,
    pub service_cidr: Cidr,
    pub cluster_domain: String,
    pub docker_host: Option<String>,
    pub datastore: Datastore,
    pub disabled: Vec<Component>,
    pub stop_pods_on_exit: bool,
    pub audit_log: Option<PathBuf>,
    pub log_format: LogFormat,
    pub verbosity: u8,
}

impl Settings {
    pub fn disabled(&self, component: Component) -> bool {
        self.disabled.contains(&component)
    }

    /// Reads the file named by `--config` and lets flags and environment win over it.
    pub fn resolve(flags: ServerFlags) -> Result<Self, Exit> {
        let file = match &flags.config {
            None => ServerFlags::default(),
            Some(path) => read_file(path)?,
        };
        Self::check(flags, file, |name| std::env::var(name).ok(), rustix::process::geteuid().is_root())
    }

    fn check(
        flags: ServerFlags,
        file: ServerFlags,
        env: impl Fn(&str) -> Option<String>,
        root: bool,
    ) -> Result<Self, Exit> {
        if flags.fake_nodes.or(file.fake_nodes).unwrap_or(0) != 0 {
            return Err(Exit::usage("--fake-nodes is not built yet; leave it at 0"));
        }
        let data_dir = match flags.data_dir.or(file.data_dir) {
            Some(dir) => std::path::absolute(&dir)
                .map_err(|e| Exit::usage(format!("--data-dir {}: {e}", dir.display())))?,
            None => default_data_dir(&env, root)?,
        };
        let cidr = |name: &str, value: Option<String>, default: &str| -> Result<Cidr, Exit> {
            let text = value.unwrap_or_else(|| default.to_owned());
            text.parse::<Cidr>()
                .and_then(|cidr| match PREFIXES.contains(&cidr.prefix_length()) {
                    true => Ok(cidr),
                    false => Err("must have a prefix length from 8 to 24".to_owned()),
                })
                .map_err(|why| Exit::usage(format!("--{name}: {text:?} {why}")))
        };
        let cluster_cidr = cidr("cluster-cidr", flags.cluster_cidr.or(file.cluster_cidr), "10.244.0.0/16")?;
        let service_cidr = cidr("service-cidr", flags.service_cidr.or(file.service_cidr), "10.96.0.0/16")?;
        if cluster_cidr.overlaps(service_cidr) {
            return Err(Exit::usage(format!(
                "--cluster-cidr {cluster_cidr} and --service-cidr {service_cidr} overlap; give them separate ranges"
            )));
        }
        if cluster_cidr.node(1).is_none() {
            return Err(Exit::usage(format!(
                "--cluster-cidr {cluster_cidr} holds no /24 for a node besides the first; use a prefix of 23 or less"
            )));
        }
        let node_name = match flags.node_name.or(file.node_name) {
            Some(name) => name,
            None => rustix::system::uname().nodename().to_string_lossy().to_lowercase(),
        };
        let node_names = node_names(node_name, flags.nodes.or(file.nodes).unwrap_or(1), cluster_cidr)?;
        let cluster_domain =
            flags.cluster_domain.or(file.cluster_domain).unwrap_or_else(|| "cluster.local".to_owned());
        if let Some(why) = api::names::dns_subdomain(&cluster_domain).first() {
            return Err(Exit::usage(format!("--cluster-domain {cluster_domain:?}: {why}")));
        }
        let most = if node_names.len() > 1 { DEFAULT_MAX_PODS_OF_MANY } else { DEFAULT_MAX_PODS };
        let max_pods = flags.max_pods.or(file.max_pods).unwrap_or(most);
        if !(1..=250).contains(&max_pods) {
            return Err(Exit::usage("--max-pods must be from 1 to 250: a node has a /24 of addresses"));
        }
        let grace = flags.node_monitor_grace_period.or(file.node_monitor_grace_period);
        let node_monitor_grace_period = grace.as_deref().map_or(Ok(DEFAULT_GRACE), grace_period)?;
        let datastore = match flags.datastore.or(file.datastore).as_deref() {
            None | Some("sled") => Datastore::Sled,
            Some("memory") => Datastore::Memory,
            Some(other) if other.starts_with("etcd://") => {
                return Err(Exit::usage("--datastore etcd:// is not built yet; use sled or memory"));
            }
            Some(other) => return Err(Exit::usage(format!("--datastore {other:?}: use sled or memory"))),
        };
        let log_format = match flags.log_format.or(file.log_format).as_deref() {
            None | Some("text") => LogFormat::Text,
            Some("json") => LogFormat::Json,
            Some(other) => return Err(Exit::usage(format!("--log-format {other:?}: use text or json"))),
        };
        let disabled = flags
            .disable
            .or(file.disable)
            .unwrap_or_default()
            .iter()
            .map(|name| match name.as_str() {
                "kubelet" => Ok(Component::Kubelet),
                "scheduler" => Ok(Component::Scheduler),
                "controllers" => Ok(Component::Controllers),
                "dns" => Ok(Component::Dns),
                "proxy" => Ok(Component::Proxy),
                other => Err(Exit::usage(format!(
                    "--disable {other:?}: use kubelet, scheduler, controllers, dns or proxy"
                ))),
            })
            .collect::<Result<Vec<_>, _>>()?;
        if node_names.len() > 1 && disabled.contains(&Component::Kubelet) {
            return Err(Exit::usage(format!(
                "--nodes {} and --disable kubelet exclude each other: without kubelets there are no nodes",
                node_names.len()
            )));
        }
        Ok(Self {
            kubeconfig: flags
                .kubeconfig
                .or(file.kubeconfig)
                .unwrap_or_else(|| data_dir.join("admin.kubeconfig")),
            data_dir,
            bind_address: flags.bind_address.or(file.bind_address).unwrap_or_default(),
            port: flags.port.or(file.port).unwrap_or(DEFAULT_PORT),
            node_names,
            max_pods,
            node_monitor_grace_period,
            toleration_seconds: flags
                .default_toleration_seconds
                .or(file.default_toleration_seconds)
                .unwrap_or(DEFAULT_TOLERATION_SECONDS),
            cluster_cidr,
            service_cidr,
            cluster_domain,
            docker_host: flags.docker_host.or(file.docker_host).or_else(|| env("DOCKER_HOST")),
            datastore,
            disabled,
            stop_pods_on_exit: flags.stop_pods_on_exit.or(file.stop_pods_on_exit).unwrap_or(false),
            audit_log: flags.audit_log.or(file.audit_log),
            log_format,
            verbosity: flags.verbosity,
        })
    }
}

/// `NAME`, `NAME-2`, `NAME-3`, …
fn node_names(first: String, nodes: u32, cluster_cidr: Cidr) -> Result<Vec<String>, Exit> {
    if nodes == 0 {
        return Err(Exit::usage("--nodes must be at least 1; to run no pods, say --disable kubelet"));
    }
    if nodes > cluster_cidr.nodes() {
        return Err(Exit::usage(format!(
            "--nodes {nodes}: --cluster-cidr {cluster_cidr} has room for {} (a /24 each); ask for fewer, or give a larger \
             range",
            cluster_cidr.nodes()
        )));
    }
    if nodes > MAX_NODES {
        return Err(Exit::usage(format!("--nodes {nodes}: one machine runs at most {MAX_NODES}")));
    }
    let others: Vec<String> = (2..=nodes).map(|n| format!("{first}-{n}")).collect();
    let names: Vec<String> = std::iter::once(first).chain(others).collect();
    for name in &names {
        let too_long = || format!("must be no more than {MAX_NODE_NAME} characters");
        let wrong = api::names::dns_subdomain(name);
        if let Some(why) = wrong.first().cloned().or((name.len() > MAX_NODE_NAME).then(too_long)) {
            return Err(Exit::usage(format!("--node-name {name:?}: {why}")));
        }
    }
    Ok(names)
}

fn grace_period(text: &str) -> Result<Duration, Exit> {
    let wrong = |why: &str| Exit::usage(format!("--node-monitor-grace-period: {text:?} {why}"));
    let grace = duration::parse(text).map_err(|why| wrong(&why))?;
    let (least, most) = GRACE_FROM_TO;
    if grace < least || grace > most {
        return Err(wrong("is not between 1s and 24h"));
    }
    Ok(grace)
}

fn read_file(path: &Path) -> Result<ServerFlags, Exit> {
    let text = std::fs::read_to_string(path)
        .map_err(|e| Exit::usage(format!("cannot read --config {}: {e}", path.display())))?;
    serde_saphyr::from_str(&text).map_err(|e| Exit::usage(format!("--config {}: {e}", path.display())))
}

/// `/var/lib/minik8s` for root, else below the user's data home.
pub fn default_data_dir(env: impl Fn(&str) -> Option<String>, root: bool) -> Result<PathBuf, Exit> {
    if root {
        return Ok(PathBuf::from("/var/lib/minik8s"));
    }
    let absolute = |name: &str| env(name).map(PathBuf::from).filter(|p| p.is_absolute());
    absolute("XDG_DATA_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".local/share")))
        .map(|home| home.join("minik8s"))
        .ok_or_else(|| Exit::usage("neither HOME nor XDG_DATA_HOME is set; say --data-dir"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(flags: ServerFlags, file: ServerFlags) -> Result<Settings, String> {
        let named = ServerFlags { node_name: flags.node_name.clone().or(Some("n1".into())), ..flags };
        Settings::check(named, file, |_| None, true).map_err(|e| e.message)
    }

    #[test]
    fn flags_win_over_the_file_and_the_file_over_defaults() {
        let flags = ServerFlags { port: Some(7000), ..Default::default() };
        let file: ServerFlags =
            serde_saphyr::from_str("port: 1\ncluster-domain: lab.test\ndisable: [dns]\n").unwrap();
        let got = check(flags, file).unwrap();
        assert_eq!((got.port, got.cluster_domain.as_str()), (7000, "lab.test"));
        assert!(got.disabled(Component::Dns) && !got.disabled(Component::Proxy));
        assert_eq!(got.kubeconfig, Path::new("/var/lib/minik8s/admin.kubeconfig"));
    }

    #[test]
    fn bad_values_are_one_sentence() {
        let bad = |flags| check(flags, ServerFlags::default()).unwrap_err();
        let with = |f: fn(&mut ServerFlags)| {
            let mut flags = ServerFlags::default();
            f(&mut flags);
            bad(flags)
        };
        for (got, want) in [
            (with(|f| f.cluster_cidr = Some("10.244.1.0/16".into())), "did you mean 10.244.0.0/16?"),
            (with(|f| f.cluster_cidr = Some("10.96.0.0/12".into())), "overlap"),
            (with(|f| f.service_cidr = Some("fd00::/64".into())), "is not an IPv4 range"),
            (with(|f| f.node_name = Some("Bad_Name".into())), "--node-name"),
            (with(|f| f.datastore = Some("etcd://x:2379".into())), "not built yet"),
            (with(|f| f.disable = Some(vec!["tea".into()])), "--disable"),
            (with(|f| f.nodes = Some(0)), "--nodes must be at least 1"),
            (
                with(|f| (f.nodes, f.disable) = (Some(3), Some(vec!["kubelet".into()]))),
                "--nodes 3 and --disable kubelet exclude each other",
            ),
            (with(|f| f.max_pods = Some(0)), "--max-pods must be from 1 to 250"),
            (with(|f| f.max_pods = Some(251)), "--max-pods must be from 1 to 250"),
            (with(|f| f.node_monitor_grace_period = Some("25h".into())), "not between 1s and 24h"),
            (with(|f| f.nodes = Some(256)), "10.244.0.0/16 has room for 255 (a /24 each)"),
            (
                with(|f| (f.nodes, f.cluster_cidr) = (Some(3), Some("10.240.0.0/23".into()))),
                "has room for 1 (a /24 each)",
            ),
            (with(|f| (f.nodes, f.cluster_cidr) = (Some(256), Some("11.0.0.0/8".into()))), "at most 255"),
            (with(|f| (f.nodes, f.node_name) = (Some(2), Some("n".repeat(62)))), "no more than 63"),
            (with(|f| f.node_monitor_grace_period = Some("40".into())), "has no known unit after 40"),
            (with(|f| f.node_monitor_grace_period = Some("10ms".into())), "not between 1s and 24h"),
        ] {
            assert!(got.contains(want), "{got:?} does not say {want:?}");
        }
        assert!(serde_saphyr::from_str::<ServerFlags>("prot: 1\n").is_err(), "unknown keys are refused");
    }

    #[test]
    fn virtual_nodes_have_numbered_names_and_smaller_defaults() {
        let one = check(ServerFlags::default(), ServerFlags::default()).unwrap();
        assert_eq!((one.node_names, one.max_pods), (vec!["n1".to_owned()], 110));
        assert_eq!((one.node_monitor_grace_period.as_secs(), one.toleration_seconds), (40, 300));
        let file = "nodes: 3\nnode-monitor-grace-period: 1m30s\ndefault-toleration-seconds: 5\n";
        let three = check(ServerFlags::default(), serde_saphyr::from_str(file).unwrap()).unwrap();
        assert_eq!((three.node_names.join(" "), three.max_pods), ("n1 n1-2 n1-3".to_owned(), 40));
        assert_eq!((three.node_monitor_grace_period.as_secs(), three.toleration_seconds), (90, 5));
        let full = ServerFlags { nodes: Some(255), max_pods: Some(7), ..Default::default() };
        let full = check(full, ServerFlags::default()).unwrap();
        assert_eq!((full.node_names.len(), full.max_pods), (255, 7));
    }
}
