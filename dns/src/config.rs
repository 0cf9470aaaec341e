//! What the DNS server has to know.

use api::Cidr;
use std::net::SocketAddr;

#[derive(Clone, Debug)]
pub struct Config {
    /// Where to listen, over UDP and TCP. The addresses need not exist yet. Exact addresses, never 0.0.0.0: a
    /// reply over UDP must leave from the address that was asked.
    pub bind: Vec<SocketAddr>,
    /// The zone we are the authority for.
    pub cluster_domain: String,
    /// Who answers all other names; `None`: the servers of the host's `/etc/resolv.conf`, read again when it
    /// changes; empty: nobody.
    pub upstream: Option<Vec<SocketAddr>>,
    /// Seconds that our answers, positive and negative, may be cached (CoreDNS: 5).
    pub ttl: u32,
    /// Service and pod networks: we alone answer for their addresses' names. Prefixes of other lengths than 8,
    /// 16 and 24 get the next longer zone's SOA.
    pub reverse_networks: Vec<Cidr>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            bind: Vec::new(),
            cluster_domain: "cluster.local".to_owned(),
            upstream: None,
            ttl: 5,
            reverse_networks: Vec::new(),
        }
    }
}
