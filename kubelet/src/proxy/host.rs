//! What services need of the machine beside nftables: forwarding, bridged packets passing the tables, a route to
//! service addresses, and bridge ports that send a packet back where it came from.
//!
//! Level-driven: `ensure` looks at all and changes what is not right. It is called at start, now and then, and
//! whenever a link or an address changes: Docker makes bridges and ports when it pleases.

use super::{Config, LocalNode};
use crate::netlink::{Error, errno};
use futures::{Stream, StreamExt, TryStreamExt};
use rtnetlink::{
    Handle, LinkBridgePort, MulticastGroup, RouteMessageBuilder, new_multicast_connection,
    packet_core::NetlinkPayload,
    packet_route::{
        link::{InfoBridgePort, InfoPortData, LinkAttribute, LinkInfo, LinkMessage},
        route::RouteScope,
    },
};
use rustix::io::Errno;
use std::{net::Ipv4Addr, path::PathBuf, sync::Arc, time::Duration};
use tokio::time::timeout;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// All requests of one look together; the kernel answers at once.
const ENSURE: Duration = Duration::from_secs(10);
const MODPROBE: Duration = Duration::from_secs(5);
const FORWARDING: &str = "net/ipv4/ip_forward";
const BRIDGED: &str = "net/bridge/bridge-nf-call-iptables";

pub(super) struct Host {
    config: Arc<Config>,
    handle: Handle,
    tried_module: bool,
}

/// Comes whenever a link or an address of the machine changed.
pub(super) type Events = std::pin::Pin<Box<dyn Stream<Item = ()> + Send>>;

impl Host {
    /// The connection to the kernel lives on `tracker` until `token` is cancelled.
    pub(super) fn open(
        config: Arc<Config>,
        tracker: &TaskTracker,
        token: CancellationToken,
    ) -> Result<(Self, Events), Error> {
        let groups = [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr];
        let (connection, handle, messages) = new_multicast_connection(&groups).map_err(|e| {
            Error::new("opening a route socket", Errno::from_io_error(&e).unwrap_or(Errno::IO))
        })?;
        tracker.spawn(async move { token.run_until_cancelled(connection).await });
        let events = messages.filter_map(|(message, _)| async move {
            matches!(message.payload, NetlinkPayload::InnerMessage(_)).then_some(())
        });
        Ok((Self { config, handle, tried_module: false }, Box::pin(events)))
    }

    /// Sets right what is not; returns what it could not, in words for a person.
    pub(super) async fn ensure(&mut self) -> Vec<String> {
        let mut problems = Vec::new();
        problems.extend(set(FORWARDING, "1").err());
        if !self.bridged_packets_pass().await {
            problems.push("bridged packets do not pass the tables: run `modprobe br_netfilter`".to_owned());
        }
        match timeout(ENSURE, self.links()).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => problems.push(format!("cannot set up the bridge: {error}")),
            Err(_elapsed) => problems.push("cannot set up the bridge: the kernel does not answer".to_owned()),
        }
        problems
    }

    async fn bridged_packets_pass(&mut self) -> bool {
        if set(BRIDGED, "1").is_ok() {
            return true;
        }
        if !std::mem::replace(&mut self.tried_module, true) {
            let mut modprobe = tokio::process::Command::new("modprobe");
            modprobe.arg("br_netfilter").kill_on_drop(true);
            // Whether it worked shows below.
            let _outcome = timeout(MODPROBE, modprobe.output()).await;
        }
        set(BRIDGED, "1").is_ok()
    }

    async fn links(&self) -> Result<(), rtnetlink::Error> {
        let links: Vec<LinkMessage> = self.handle.link().get().execute().try_collect().await?;
        for (place, node) in self.config.nodes.iter().enumerate() {
            let Some(bridge) = links.iter().find(|l| name(l) == Some(node.bridge.as_str())) else { continue };
            let bridge = bridge.header.index;
            // Only a convenience: node ports on 127.0.0.1.
            if let Err(error) = set(&format!("net/ipv4/conf/{}/route_localnet", node.bridge), "1") {
                tracing::debug!(error, "node ports do not work on 127.0.0.1");
            }
            // A pod's packet to a service may leave by the bridge it came from. To redirect the pod is wrong, and
            // uses up the allowance of ICMP messages that "connection refused" needs. Either setting turns it on;
            // other interfaces have their own.
            for interface in ["all", node.bridge.as_str()] {
                if let Err(error) = set(&format!("net/ipv4/conf/{interface}/send_redirects"), "0") {
                    tracing::debug!(error, "the machine may redirect pods");
                }
            }
            for port in links.iter().filter(|l| controller(l) == Some(bridge) && !is_hairpin(l)) {
                let message = LinkBridgePort::new(port.header.index).hairpin(true).build();
                let result = self.handle.link().set_port(message).execute().await;
                // A container may end while we look.
                result.or_else(|e| if is_gone(&e) { Ok(()) } else { Err(e) })?;
            }
            if place == 0 {
                self.service_route(bridge, node).await?;
            }
        }
        Ok(())
    }

    /// Routing comes before translation: without a route to service addresses a machine with no default route
    /// could not even send; and the gateway as source is an address that pods everywhere can answer.
    async fn service_route(&self, bridge: u32, node: &LocalNode) -> Result<(), rtnetlink::Error> {
        let (address, _) = self.config.service_cidr.address_and_mask();
        let route = RouteMessageBuilder::<Ipv4Addr>::new()
            .destination_prefix(address, self.config.service_cidr.prefix_length())
            .output_interface(bridge)
            .pref_source(node.gateway)
            .scope(RouteScope::Link)
            .build();
        match self.handle.route().add(route).replace().execute().await {
            // The bridge has not its address yet, or is down: its event brings us here again.
            Err(error) if is_early(&error) => Ok(()),
            result => result,
        }
    }
}

fn is_gone(error: &rtnetlink::Error) -> bool {
    matches!(errno(error), Some(Errno::NODEV | Errno::INVAL | Errno::OPNOTSUPP))
}

fn is_early(error: &rtnetlink::Error) -> bool {
    matches!(errno(error), Some(Errno::INVAL | Errno::NETDOWN | Errno::NODEV))
}

fn name(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|a| match a {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

fn controller(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|a| match a {
        LinkAttribute::Controller(index) => Some(*index),
        _ => None,
    })
}

fn is_hairpin(link: &LinkMessage) -> bool {
    let infos = link.attributes.iter().filter_map(|a| match a {
        LinkAttribute::LinkInfo(infos) => Some(infos),
        _ => None,
    });
    infos.flatten().any(|info| match info {
        LinkInfo::PortData(InfoPortData::BridgePort(port)) => {
            port.contains(&InfoBridgePort::HairpinMode(true))
        }
        _ => false,
    })
}

/// Writes a sysctl unless it has the value.
fn set(name: &str, value: &str) -> Result<(), String> {
    let path = PathBuf::from("/proc/sys").join(name);
    let known = std::fs::read_to_string(&path).map_err(|e| format!("cannot read {}: {e}", path.display()))?;
    if known.trim() == value {
        return Ok(());
    }
    std::fs::write(&path, value).map_err(|e| format!("cannot write {}: {e}", path.display()))
}
