//! From flags, environment and file to checked settings. A bad value is one sentence and exit code 2.

use crate::{Exit, args::ServerFlags};
use api::Cidr;
use std::{
    net::IpAddr,
    path::{Path, PathBuf},
};

const DEFAULT_PORT: u16 = 6443;
/// kubelet's own default for pods on a node.
const DEFAULT_MAX_PODS: u32 = 110;
/// Shorter ones are no private range, longer ones hold no /24 of a node.
const PREFIXES: std::ops::RangeInclusive<u8> = 8..=24;

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
    pub node_name: String,
    pub max_pods: u32,
    pub cluster_cidr: Cidr,
    pub service_cidr: Cidr,
    pub cluster_domain: String,
    pub docker_host: Option<String>,
    pub datastore: Datastore,
    pub disabled: Vec<Component>,
    pub stop_pods_on_exit: bool,
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
        if flags.nodes.or(file.nodes).unwrap_or(1) != 1 {
            return Err(Exit::usage("--nodes: more than one virtual node is not built yet; leave it at 1"));
        }
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
        let wrong = api::names::dns_subdomain(&node_name);
        if let Some(why) = wrong.first() {
            return Err(Exit::usage(format!("--node-name {node_name:?}: {why}")));
        }
        let cluster_domain =
            flags.cluster_domain.or(file.cluster_domain).unwrap_or_else(|| "cluster.local".to_owned());
        if let Some(why) = api::names::dns_subdomain(&cluster_domain).first() {
            return Err(Exit::usage(format!("--cluster-domain {cluster_domain:?}: {why}")));
        }
        let max_pods = flags.max_pods.or(file.max_pods).unwrap_or(DEFAULT_MAX_PODS);
        if !(1..=250).contains(&max_pods) {
            return Err(Exit::usage("--max-pods must be from 1 to 250: a node has a /24 of addresses"));
        }
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
        Ok(Self {
            kubeconfig: flags
                .kubeconfig
                .or(file.kubeconfig)
                .unwrap_or_else(|| data_dir.join("admin.kubeconfig")),
            data_dir,
            bind_address: flags.bind_address.or(file.bind_address).unwrap_or_default(),
            port: flags.port.or(file.port).unwrap_or(DEFAULT_PORT),
            node_name,
            max_pods,
            cluster_cidr,
            service_cidr,
            cluster_domain,
            docker_host: flags.docker_host.or(file.docker_host).or_else(|| env("DOCKER_HOST")),
            datastore,
            disabled,
            stop_pods_on_exit: flags.stop_pods_on_exit.or(file.stop_pods_on_exit).unwrap_or(false),
            log_format,
            verbosity: flags.verbosity,
        })
    }
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
            (with(|f| f.nodes = Some(3)), "not built yet"),
        ] {
            assert!(got.contains(want), "{got:?} does not say {want:?}");
        }
        assert!(serde_saphyr::from_str::<ServerFlags>("prot: 1\n").is_err(), "unknown keys are refused");
    }
}
