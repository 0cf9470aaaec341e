//! What the API server is told at start. Plain values: only `cli` reads flags and files.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
};

#[derive(Debug, Clone)]
pub struct Config {
    /// Where to listen. Addresses that do not exist yet (the pod bridge) are bound with IP_FREEBIND.
    pub bind: Vec<SocketAddr>,
    /// The address in `default/kubernetes`' endpoints: the pod bridge's gateway, or what agents dial.
    pub advertise: IpAddr,
    /// PEM of the serving certificate chain and its key.
    pub serving_cert: String,
    pub serving_key: String,
    /// PEM of the CA that signs client certificates; also what `kube-root-ca.crt` holds.
    pub client_ca: String,
    /// PEM (PKCS#8, EC P-256) of the key that signs ServiceAccount tokens.
    pub service_account_key: String,
    /// `10.96.0.0/16`; the first address is the API server's, the tenth the cluster DNS'.
    pub service_cidr: String,
    pub cluster_domain: String,
    /// Node ports, inclusive.
    pub node_ports: (u16, u16),
    /// How long a pod stays on a node that is not ready or not reachable, where it says nothing itself.
    /// Kubernetes' default is 300.
    pub toleration_seconds: i64,
    /// Where to write the audit log; `None` for none.
    pub audit_log: Option<PathBuf>,
}

impl Config {
    /// `iss` of ServiceAccount tokens, and their default audience: a name that pods can resolve and reach.
    pub fn issuer(&self) -> String {
        format!("https://kubernetes.default.svc.{}", self.cluster_domain)
    }
}
