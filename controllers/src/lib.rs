//! The control loops: each reads the shared informers, asks a pure `plan` what must change, and writes it through the API.

use std::path::PathBuf;

/// What the controllers are told at start.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where dynamically provisioned volumes get their directories.
    pub volumes_dir: PathBuf,
    /// PEM of the cluster's CA: the content of every namespace's `kube-root-ca.crt`.
    pub root_ca: String,
    pub cluster_cidr: String,
}
