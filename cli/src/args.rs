//! The command line of `minik8s`: declarations only.

use serde::Deserialize;
use std::{net::IpAddr, path::PathBuf};

/// A whole Kubernetes cluster in one process, on the local Docker Engine.
#[derive(Debug, clap::Parser)]
#[command(name = "minik8s", version, disable_help_subcommand = true)]
pub struct Minik8s {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, clap::Subcommand)]
pub enum Command {
    /// Run the control plane and the local node.
    Server(ServerFlags),
    /// Join this machine to a cluster as a node.
    Agent,
    /// Print a token with which an agent may join.
    Token,
    /// Remove every container, network and file that this data directory's cluster made, and nothing else.
    Reset(ServerFlags),
}

/// Every flag is also an environment variable `MINIK8S_…` and a key of the file named by `--config`.
/// A flag wins over the environment, the environment over the file, the file over the default.
#[derive(Debug, Clone, Default, clap::Args, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct ServerFlags {
    /// YAML file with any of these flags as keys
    #[arg(long, env = "MINIK8S_CONFIG", value_name = "FILE")]
    #[serde(skip)]
    pub config: Option<PathBuf>,
    /// Where all state lives [default: /var/lib/minik8s for root, else $XDG_DATA_HOME/minik8s]
    #[arg(long, env = "MINIK8S_DATA_DIR", value_name = "DIR")]
    pub data_dir: Option<PathBuf>,
    /// Address to serve the API on, may be given more than once [default: 127.0.0.1 and the pod bridge]
    #[arg(long, env = "MINIK8S_BIND_ADDRESS", value_name = "IP", value_delimiter = ',')]
    pub bind_address: Option<Vec<IpAddr>>,
    /// Port of the API [default: 6443]
    #[arg(long, env = "MINIK8S_PORT", value_name = "PORT")]
    pub port: Option<u16>,
    /// Where to write the administrator's kubeconfig [default: DATA/admin.kubeconfig]
    #[arg(long, env = "MINIK8S_KUBECONFIG", value_name = "PATH")]
    pub kubeconfig: Option<PathBuf>,
    /// Name of the local node [default: the host name]
    #[arg(long, env = "MINIK8S_NODE_NAME", value_name = "NAME")]
    pub node_name: Option<String>,
    /// Virtual nodes on this one Docker Engine [default: 1]
    #[arg(long, env = "MINIK8S_NODES", value_name = "N")]
    pub nodes: Option<u32>,
    /// Pods each node takes [default: 110; 40 with more than one node]
    #[arg(long, env = "MINIK8S_MAX_PODS", value_name = "N")]
    pub max_pods: Option<u32>,
    /// How long a node may be silent before it counts as lost, as 40s or 1m30s [default: 40s]
    #[arg(long, env = "MINIK8S_NODE_MONITOR_GRACE_PERIOD", value_name = "DURATION")]
    pub node_monitor_grace_period: Option<String>,
    /// Seconds until a pod leaves a lost node, where the pod does not say itself [default: 300]
    #[arg(long, env = "MINIK8S_DEFAULT_TOLERATION_SECONDS", value_name = "SECONDS")]
    pub default_toleration_seconds: Option<u32>,
    /// Addresses for pods; each node gets a /24 of it [default: 10.244.0.0/16]
    #[arg(long, env = "MINIK8S_CLUSTER_CIDR", value_name = "CIDR")]
    pub cluster_cidr: Option<String>,
    /// Addresses for services [default: 10.96.0.0/16]
    #[arg(long, env = "MINIK8S_SERVICE_CIDR", value_name = "CIDR")]
    pub service_cidr: Option<String>,
    /// Domain of the cluster's DNS [default: cluster.local]
    #[arg(long, env = "MINIK8S_CLUSTER_DOMAIN", value_name = "DOMAIN")]
    pub cluster_domain: Option<String>,
    /// The Docker Engine [default: $DOCKER_HOST, else unix:///var/run/docker.sock]
    #[arg(long, env = "MINIK8S_DOCKER_HOST", value_name = "URL")]
    pub docker_host: Option<String>,
    /// Where objects are kept: `sled` or `memory` [default: sled]
    #[arg(long, env = "MINIK8S_DATASTORE", value_name = "KIND")]
    pub datastore: Option<String>,
    /// Leave a component out: kubelet, scheduler, controllers, dns, proxy
    #[arg(long, env = "MINIK8S_DISABLE", value_name = "COMPONENT", value_delimiter = ',')]
    pub disable: Option<Vec<String>>,
    /// Nodes without containers, for scale tests [default: 0]
    #[arg(long, env = "MINIK8S_FAKE_NODES", value_name = "N")]
    pub fake_nodes: Option<u32>,
    /// Remove this cluster's containers when the server stops, instead of leaving them to the next start
    #[arg(long, env = "MINIK8S_STOP_PODS_ON_EXIT", num_args = 0..=1, default_missing_value = "true")]
    pub stop_pods_on_exit: Option<bool>,
    /// Write who asked for what, one JSON line for each request, to this file [default: none]
    #[arg(long, env = "MINIK8S_AUDIT_LOG", value_name = "FILE")]
    pub audit_log: Option<PathBuf>,
    /// `text` or `json` [default: text]
    #[arg(long, env = "MINIK8S_LOG_FORMAT", value_name = "FORMAT")]
    pub log_format: Option<String>,
    /// More logging; may be repeated
    #[arg(short = 'v', action = clap::ArgAction::Count)]
    #[serde(skip)]
    pub verbosity: u8,
}
