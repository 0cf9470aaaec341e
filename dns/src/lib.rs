//! The cluster's DNS server (the "Kubernetes DNS-Based Service Discovery" specification): Services and their
//! endpoints by name, over UDP and TCP; every other name is asked upstream. It writes nothing.
//!
//! ```text
//!  informers ─► follow ─► index (swapped whole)
//!                            │
//!  hickory-server ─► handler ─► name (what is asked) ─► answer (pure) ─► reply
//!    (sockets,           └─► forward (names of others, aliases leading out)
//!     messages)
//! ```

mod answer;
mod config;
mod cow_map;
mod follow;
mod forward;
#[cfg(test)]
mod fuzz;
mod handler;
mod index;
mod listen;
mod name;
#[cfg(test)]
mod tests;

pub use config::Config;

use arc_swap::ArcSwap;
use client::Informers;
use handler::{Handler, Reply};
use hickory_proto::rr::Name;
use hickory_server::{net::xfer::Protocol, server::Request};
use listen::Answers;
use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    str::FromStr,
    sync::Arc,
};
use tokio::net::{TcpListener, UdpSocket};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// UDP sockets on one address: as many cores as a DNS server of a development cluster may ever use.
const MAX_SOCKETS: usize = 4;
/// Attempts to find a port free for both UDP and TCP, when any will do.
const PORT_ATTEMPTS: usize = 8;

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{domain:?} is not a domain name")]
    Domain { domain: String },
    #[error("cannot listen on {address} ({protocol})")]
    Listen { address: SocketAddr, protocol: &'static str, source: io::Error },
    #[error("cannot use the upstream servers: {0}")]
    Upstream(String),
}

pub struct Server {
    listeners: Vec<Listener>,
    handler: Arc<Handler>,
    follower: follow::Follower,
}

struct Listener {
    address: SocketAddr,
    udp: Vec<UdpSocket>,
    tcp: TcpListener,
}

impl Listener {
    fn bind(wanted: SocketAddr) -> Result<Self, Error> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let error = |protocol| move |source| Error::Listen { address: wanted, protocol, source };
            let tcp = listen::tcp(wanted).map_err(error("TCP"))?;
            let address = tcp.local_addr().map_err(error("TCP"))?;
            let sockets = std::thread::available_parallelism().map_or(1, usize::from).min(MAX_SOCKETS);
            let udp: io::Result<Vec<_>> = (0..sockets).map(|_| listen::udp(address)).collect();
            match udp {
                Ok(udp) => return Ok(Self { address, udp, tcp }),
                Err(_) if wanted.port() == 0 && attempt < PORT_ATTEMPTS => {}
                Err(source) => return Err(error("UDP")(source)),
            }
        }
    }
}

impl Server {
    /// Takes the sockets and begins to follow the cluster. Until the first full state is in, names of the
    /// cluster get SERVFAIL.
    pub async fn bind(config: Config, informers: Informers) -> Result<Self, Error> {
        let domain_error = || Error::Domain { domain: config.cluster_domain.clone() };
        let mut zone = Name::from_str(&config.cluster_domain).map_err(|_| domain_error())?;
        zone.set_fqdn(true);
        if zone.is_root() {
            return Err(domain_error());
        }
        let listeners: Vec<Listener> =
            config.bind.iter().map(|a| Listener::bind(*a)).collect::<Result<_, _>>()?;
        let own = listeners.iter().map(|l| l.address).collect();
        let forward = forward::Forward::new(config.upstream.as_deref(), own)?;
        let index = Arc::new(ArcSwap::from_pointee(index::Index::default()));
        let follower = follow::Follower::new(zone.clone(), index.clone(), &informers);
        let zone = answer::Zone { name: zone, ttl: config.ttl, reverse_networks: config.reverse_networks };
        Ok(Self { listeners, handler: Arc::new(Handler::new(zone, index, forward)), follower })
    }

    /// Where it listens, in the order of `Config::bind`.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        self.listeners.iter().map(|l| l.address).collect()
    }

    /// Answers until the token is cancelled; answers still waited for are dropped then, and clients ask again.
    pub async fn run(self, token: CancellationToken) {
        let tracker = TaskTracker::new();
        let spawn = |future: futures::future::BoxFuture<'static, ()>| {
            let token = token.clone();
            tracker.spawn(async move { token.run_until_cancelled(future).await });
        };
        let answers = Answers(self.handler);
        spawn(Box::pin(self.follower.run()));
        for Listener { address, udp, tcp } in self.listeners {
            for socket in udp {
                tracker.spawn(listen::serve_udp(socket, address, answers.clone(), token.clone()));
            }
            spawn(Box::pin(listen::serve_tcp(tcp, answers.clone(), tracker.clone(), token.clone())));
        }
        token.cancelled().await;
        tracker.close();
        tracker.wait().await;
    }

    /// A function that answers single packets as if they came over UDP, without a socket: for benchmarks.
    /// Names of others get no answer.
    pub fn responder(&self) -> impl Fn(&[u8]) -> Option<Vec<u8>> + Send + Sync + use<> {
        let handler = self.handler.clone();
        let client = SocketAddr::from((Ipv4Addr::LOCALHOST, 53));
        move |packet| {
            let request = Request::from_bytes(packet.to_vec(), client, Protocol::Udp).ok()?;
            match handler.reply(&request) {
                Reply::Now(response) => response.encode(&request.queries),
                Reply::Silence | Reply::Later(_) => None,
            }
        }
    }
}
