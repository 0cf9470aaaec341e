//! The pod network that we make: a Linux bridge with the gateway's address, and for each pod a pair of virtual Ethernet
//! links from the bridge into the pod's network namespace. All over route netlink; a pod's end goes with its namespace.
//!
//! A port's name on the bridge is made of the pod's address, so the kernel itself sees to it that no address is given
//! twice. Both ends have fixed hardware addresses, made of the addresses: what neighbours remember stays right when a
//! pod is replaced.

use super::{
    super::{Error, Result, namespace},
    allow_hairpin,
};
use crate::{config::Config, netlink::errno};
use api::Cidr;
use futures::TryStreamExt;
use rtnetlink::{
    Handle, LinkBridge, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder,
    packet_route::{
        address::AddressAttribute,
        link::{InfoData, InfoVeth, LinkAttribute, LinkMessage},
    },
};
use rustix::io::Errno;
use std::{
    fs,
    future::Future,
    io,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};
use tokio::time::{sleep, timeout};

/// For all requests of one call together; the kernel answers at once.
const LIMIT: Duration = Duration::from_secs(10);
/// A namespace's links go some time after its last process. For so long is an address waited for, looking this often.
const RELEASE: Duration = Duration::from_secs(5);
const LOOK: Duration = Duration::from_millis(10);
/// A pod's interface, in its namespace.
const INTERFACE: &str = "eth0";
/// `lo` is the first link of every namespace.
const LOOPBACK: u32 = 1;
/// What a container on a network of the Engine's has too: any user may use low ports and send ICMP echoes. And there is
/// no IPv6 but on the loopback interface.
const SYSCTLS: [(&str, &str); 3] = [
    ("net.ipv4.ip_unprivileged_port_start", "0"),
    ("net.ipv4.ping_group_range", "0 2147483647"),
    ("net.ipv6.conf.default.disable_ipv6", "1"),
];

pub(in super::super) struct Bridge {
    name: String,
    cidr: Cidr,
    /// The link's alias: tells whose it is.
    alias: String,
}

/// What a sandbox is given.
#[derive(Debug)]
pub(in super::super) struct Port {
    /// The sandbox's process.
    pub(in super::super) pid: u32,
    pub(in super::super) ip: Ipv4Addr,
    /// Those of `net.` that the pod asks for.
    pub(in super::super) sysctls: Vec<(String, String)>,
    /// Whose it is, for a person who lists links: `NAMESPACE/POD`.
    pub(in super::super) pod: String,
}

impl Bridge {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            name: config.bridge_name.clone(),
            cidr: config.pod_cidr,
            alias: format!("{}{}", alias_of(&config.cluster_id), config.node_name),
        }
    }

    /// Makes the bridge if it is missing. Another link with an address in the network is an
    /// error in words: another cluster's bridge, mostly.
    pub(super) async fn ensure(&self) -> Result<()> {
        with_kernel(|kernel| async move {
            let found = find(&kernel, &self.name).await?;
            // First: a bridge made for nothing would lack the alias by which a reset finds it.
            self.refuse_others(&kernel, found).await?;
            let index = match found {
                Some(index) => index,
                None => {
                    let bridge = LinkBridge::new(&self.name).address(hardware(self.cidr.gateway())).build();
                    exists_or(kernel.link().add(bridge).execute().await)?;
                    let made = find(&kernel, &self.name).await?;
                    made.ok_or_else(|| Error::Other(format!("no bridge {}", self.name)))?
                }
            };
            let gateway = IpAddr::V4(self.cidr.gateway());
            let added = kernel.address().add(index, gateway, self.cidr.prefix_length()).execute().await;
            exists_or(added)?;
            let up = LinkUnspec::new_with_index(index).alias(&self.alias).up().build();
            Ok(kernel.link().set(up).execute().await?)
        })
        .await
    }

    async fn refuse_others(&self, kernel: &Handle, own: Option<u32>) -> Result<(), Fault> {
        let mut addresses = kernel.address().get().execute();
        while let Some(address) = addresses.try_next().await? {
            let v4 = address.attributes.iter().find_map(|attribute| match attribute {
                AddressAttribute::Local(IpAddr::V4(ip)) => Some(*ip),
                _ => None,
            });
            let Some(ip) = v4.filter(|_| Some(address.header.index) != own) else { continue };
            if self.cidr.contains(ip) {
                let text = format!(
                    "{ip}, an address of this machine, is in the pod network {}: choose another --cluster-cidr",
                    self.cidr
                );
                return Err(Error::Other(text).into());
            }
        }
        Ok(())
    }

    /// Gives the sandbox its interface, address and routes.
    pub(super) async fn plug(&self, port: Port) -> Result<()> {
        let pid = port.pid;
        let outside = |error: io::Error| Error::Sandbox(format!("the sandbox's network namespace: {error}"));
        namespace::until_own(pid).await.map_err(outside)?;
        if is_plugged(pid) {
            return Ok(());
        }
        let sysctls = port.sysctls.clone();
        let open = move || {
            for (name, value) in SYSCTLS {
                // IPv6 may be missing altogether.
                match fs::write(sysctl_path(name), value) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                    result => result?,
                }
            }
            for (name, value) in &sysctls {
                fs::write(sysctl_path(name), value)
                    .map_err(|error| io::Error::other(format!("sysctl {name:?}: {error}")))?;
            }
            rtnetlink::new_connection()
        };
        let (connection, pod, _messages) = namespace::inside(pid, open).await.map_err(outside)?;
        let plugged = with_kernel(|machine| async move {
            let eth0 = match find(&pod, INTERFACE).await? {
                Some(index) => index,
                None => {
                    self.connect(&machine, &port).await?;
                    find(&pod, INTERFACE).await?.ok_or_else(|| Error::Sandbox("it has ended".to_owned()))?
                }
            };
            for index in [LOOPBACK, eth0] {
                pod.link().set(LinkUnspec::new_with_index(index).up().build()).execute().await?;
            }
            let prefix = self.cidr.prefix_length();
            exists_or(pod.address().add(eth0, IpAddr::V4(port.ip), prefix).execute().await)?;
            let default = RouteMessageBuilder::<Ipv4Addr>::new().gateway(self.cidr.gateway()).build();
            Ok(pod.route().add(default).replace().execute().await?)
        });
        tokio::select! {
            done = plugged => done,
            () = connection => Err(Error::Sandbox("the kernel ended the connection".to_owned())),
        }
    }

    /// Makes the pair of links, one end on the bridge and one in the sandbox's namespace.
    async fn connect(&self, machine: &Handle, port: &Port) -> Result<(), Fault> {
        let name = port_name(port.ip);
        let bridge = find(machine, &self.name).await?;
        // In the words of a missing network of the Engine's: it is made again.
        let bridge = bridge.ok_or_else(|| Error::NotFound(format!("bridge {}", self.name)))?;
        let peer = LinkMessageBuilder::<LinkUnspec>::new()
            .name(INTERFACE)
            .address(hardware(port.ip))
            .setns_by_pid(port.pid)
            .build();
        // (The peer cannot be up from the start: the kernel would ask it for the end that is being made.)
        let pair = LinkVeth::new(&name, INTERFACE)
            .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
            .controller(bridge)
            .up()
            .build();
        let make = async {
            loop {
                match machine.link().add(pair.clone()).execute().await {
                    Err(error) if errno(&error) == Some(Errno::EXIST) => sleep(LOOK).await,
                    result => return result,
                }
            }
        };
        match timeout(RELEASE, make).await {
            Ok(made) => made?,
            Err(_elapsed) => return Err(Error::Sandbox(format!("address {} is in use", port.ip)).into()),
        }
        let alias = LinkUnspec::new_with_name(&name).alias(&port.pod).build();
        machine.link().set(alias).execute().await?;
        allow_hairpin(&PathBuf::from("/sys/class/net").join(&name).join("brport"));
        Ok(())
    }
}

/// Removes the bridges of this cluster's nodes; gives how many there were.
pub(in super::super) async fn reset(cluster_id: &str) -> Result<usize> {
    let alias = alias_of(cluster_id);
    with_kernel(|kernel| async move {
        let links: Vec<LinkMessage> = kernel.link().get().execute().try_collect().await?;
        let mut removed = 0;
        for link in links {
            let ours = |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::IfAlias(text) if text.starts_with(&alias));
            if link.attributes.iter().any(ours) {
                kernel.link().del(link.header.index).execute().await?;
                removed += 1;
            }
        }
        Ok(removed)
    })
    .await
}

/// Whether a sandbox has all that [`Bridge::plug`] gives: the default route comes last.
pub(in super::super) fn is_plugged(pid: u32) -> bool {
    let routes = fs::read_to_string(format!("/proc/{pid}/net/route")).unwrap_or_default();
    let default = |line: &str| {
        let mut words = line.split_whitespace();
        words.next() == Some(INTERFACE) && words.next() == Some("00000000")
    };
    namespace::is_own(pid).unwrap_or(false) && routes.lines().any(default)
}

/// Begins the alias of every bridge of a cluster.
fn alias_of(cluster_id: &str) -> String {
    format!("minik8s {cluster_id} ")
}

fn port_name(ip: Ipv4Addr) -> String {
    format!("mk{:08x}", u32::from(ip))
}

/// A locally administered address, as the Engine makes them.
fn hardware(ip: Ipv4Addr) -> Vec<u8> {
    let [a, b, c, d] = ip.octets();
    vec![0x02, 0x42, a, b, c, d]
}

/// Where a sysctl is (sysctl(8)): the first separator that a name uses is the separator, the other one a character.
pub(in super::super) fn sysctl_path(name: &str) -> PathBuf {
    let swap = |c: char| match c {
        '.' => '/',
        '/' => '.',
        c => c,
    };
    let dotted = name.find(['.', '/']).is_some_and(|at| name[at..].starts_with('.'));
    let path: String = if dotted { name.chars().map(swap).collect() } else { name.to_owned() };
    PathBuf::from("/proc/sys").join(path)
}

/// What went wrong: the kernel's word, or ours.
enum Fault {
    Kernel(rtnetlink::Error),
    Ours(Error),
}

impl From<rtnetlink::Error> for Fault {
    fn from(error: rtnetlink::Error) -> Self {
        Fault::Kernel(error)
    }
}

impl From<Error> for Fault {
    fn from(error: Error) -> Self {
        Fault::Ours(error)
    }
}

/// Does `work` over a route socket of this thread's namespace, which is the machine's.
async fn with_kernel<T, F: Future<Output = Result<T, Fault>>>(work: impl FnOnce(Handle) -> F) -> Result<T> {
    let socket = |error: io::Error| Error::Other(format!("opening a route socket: {error}"));
    let (connection, kernel, _messages) = rtnetlink::new_connection().map_err(socket)?;
    let limited = timeout(LIMIT, work(kernel));
    let done = tokio::select! {
        done = limited => done,
        () = connection => return Err(Error::Other("the kernel ended the connection".to_owned())),
    };
    match done {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(Fault::Ours(error))) => Err(error),
        Ok(Err(Fault::Kernel(error))) => Err(Error::Other(format!("the kernel refuses: {error}"))),
        Err(_elapsed) => Err(Error::Timeout { what: "the pod network".to_owned(), seconds: LIMIT.as_secs() }),
    }
}

async fn find(kernel: &Handle, name: &str) -> Result<Option<u32>, rtnetlink::Error> {
    let mut found = kernel.link().get().match_name(name).execute();
    match found.try_next().await {
        Ok(link) => Ok(link.map(|link| link.header.index)),
        Err(error) if errno(&error) == Some(Errno::NODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

fn exists_or(result: Result<(), rtnetlink::Error>) -> Result<(), rtnetlink::Error> {
    match result {
        Err(error) if errno(&error) == Some(Errno::EXIST) => Ok(()),
        result => result,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::namespace;

    #[tokio::test]
    async fn a_network_that_is_taken_leaves_nothing_behind() {
        let test = "runtime::docker::network::bridge::tests::a_network_that_is_taken_leaves_nothing_behind";
        if !namespace::inside(test) {
            return;
        }
        let config = |id: &str, net: &str| Config::new("here", 0, id, PathBuf::new(), net.parse().unwrap());
        let links = || namespace::output("ip", &["-o", "link", "show", "type", "bridge"]).lines().count();
        let first = Bridge::new(&config("one", "10.9.0.0/24"));
        for _ in 0..2 {
            first.ensure().await.unwrap();
        }
        let second = Bridge::new(&config("two", "10.9.0.0/16"));
        let refused = second.ensure().await.unwrap_err().to_string();
        assert!(refused.contains("10.9.0.1, an address of this machine"), "{refused}");
        assert_eq!(links(), 1, "links that no reset would find");
        assert_eq!((reset("two").await.unwrap(), reset("one").await.unwrap(), links()), (0, 1, 0));
    }

    #[test]
    fn a_sysctls_first_separator_separates() {
        for (name, path) in [
            ("net.ipv4.tcp_syncookies", "/proc/sys/net/ipv4/tcp_syncookies"),
            ("net/ipv4/conf/eth0.1/forwarding", "/proc/sys/net/ipv4/conf/eth0.1/forwarding"),
            ("net.ipv4.conf.eth0/1.forwarding", "/proc/sys/net/ipv4/conf/eth0.1/forwarding"),
        ] {
            assert_eq!(sysctl_path(name), PathBuf::from(path));
        }
    }

    #[test]
    fn a_ports_name_fits_linux_and_tells_the_address() {
        assert_eq!(port_name(Ipv4Addr::new(10, 244, 0, 17)), "mk0af40011");
        assert!(port_name(Ipv4Addr::BROADCAST).len() <= 15);
    }
}
