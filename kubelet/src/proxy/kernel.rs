//! Brings the kernel to what the state says. All calls block for as long as the kernel works.

use super::{
    Config,
    elements::Chain,
    ruleset,
    state::{Changes, UdpService},
};
use crate::netlink::{
    Error,
    batch::IPV4,
    conntrack::{self, Flow},
    nftables::{
        self, GENERATION_ID, GET_GENERATION, GET_RULE, R0, RULE_CHAIN, RULE_HANDLE, RULE_TABLE,
        RULE_USERDATA, Table, Verdict,
    },
    socket::Socket,
};
use std::{
    collections::{BTreeSet, HashMap},
    net::Ipv4Addr,
    sync::Arc,
};

/// Docker's chain for rules of others, first in `forward`, whose policy is Docker's drop.
const DOCKER_TABLE: &str = "filter";
const DOCKER_CHAIN: &str = "DOCKER-USER";

pub(super) struct Kernel {
    config: Arc<Config>,
    socket: Socket,
    /// Chains that exist in our table.
    chains: BTreeSet<Chain>,
    /// Number of the kernel's newest change of any table, after our own last one; `None` when somebody else
    /// changed something since the last full replace.
    generation: Option<u32>,
}

impl Kernel {
    pub(super) fn open(config: Arc<Config>) -> Result<Self, Error> {
        Ok(Self { config, socket: Socket::open()?, chains: BTreeSet::new(), generation: None })
    }

    /// Makes our table anew, with nothing but what `changes` adds.
    pub(super) fn replace(&mut self, changes: &Changes) -> Result<(), Error> {
        let config = &self.config;
        self.socket
            .transaction("writing the service table", |batch| ruleset::write_all(batch, config, changes))?;
        self.chains.clone_from(&changes.chains);
        self.generation = Some(self.read_generation()?);
        self.forget_udp(&changes.udp);
        Ok(())
    }

    /// Changes our table. After an error nothing was changed.
    pub(super) fn change(&mut self, changes: &Changes) -> Result<(), Error> {
        if changes.remove.is_empty() && changes.add.is_empty() {
            return Ok(());
        }
        let (config, chains) = (&self.config, &self.chains);
        self.socket.transaction("changing the service table", |batch| {
            ruleset::write_changes(batch, config, changes, chains)
        })?;
        self.chains.extend(&changes.chains);
        let now = self.read_generation()?;
        self.generation = self.generation.filter(|before| before.wrapping_add(1) == now).map(|_| now);
        self.forget_udp(&changes.udp);
        Ok(())
    }

    /// Whether nobody else has changed any table since our last full replace: then ours is as we left it.
    pub(super) fn is_untouched(&mut self) -> Result<bool, Error> {
        let now = self.read_generation()?;
        Ok(self.generation == Some(now))
    }

    fn read_generation(&mut self) -> Result<u32, Error> {
        let mut generation = None;
        self.socket.get(
            "reading the tables' generation",
            GET_GENERATION,
            0,
            |_| {},
            |message| {
                let id = message.attributes().get(GENERATION_ID).and_then(|b| b.try_into().ok());
                generation = id.map(u32::from_be_bytes);
            },
        )?;
        generation.ok_or(Error::Answer("no generation"))
    }

    /// Best effort: a kernel without connection tracking's netlink only makes UDP clients stay where they were.
    fn forget_udp(&mut self, services: &[UdpService]) {
        if services.is_empty() {
            return;
        }
        let by_address: HashMap<(Option<Ipv4Addr>, u16), &UdpService> =
            services.iter().map(|s| ((s.address, s.port), s)).collect();
        let cluster = self.config.cluster_cidr;
        let stale = |flow: &Flow| {
            let (address, port) = flow.asked;
            if let Some(service) = by_address.get(&(Some(address), port)) {
                return !service.endpoints.contains(&flow.answering);
            }
            // A port of this machine: somebody else's flows to such a port elsewhere are none of our business.
            let ours = flow.answering == flow.asked || cluster.contains(flow.answering.0);
            ours && by_address.get(&(None, port)).is_some_and(|s| !s.endpoints.contains(&flow.answering))
        };
        match conntrack::forget_udp(&mut self.socket, stale) {
            Ok(0) => {}
            Ok(forgotten) => tracing::debug!(forgotten, "UDP flows to former endpoints forgotten"),
            Err(error) => tracing::warn!(%error, "UDP flows to former endpoints are not forgotten"),
        }
    }

    /// Lets Docker's firewall pass what goes to and from pods; `false` if Docker has no such chain here.
    pub(super) fn allow_in_docker(&mut self) -> Result<bool, Error> {
        let comment = comment(&self.config.cluster_id);
        let known = docker_rules(&mut self.socket, &comment)?;
        if known.len() == 2 {
            return Ok(true);
        }
        let network = self.config.cluster_cidr;
        let result = self.socket.transaction("letting pods pass Docker's firewall", |batch| {
            let mut table = Table { batch, name: DOCKER_TABLE };
            for handle in &known {
                table.delete_rule(DOCKER_CHAIN, *handle);
            }
            for source in [true, false] {
                table.insert_rule(DOCKER_CHAIN, &comment, |r| {
                    if source {
                        r.load_source(R0)
                    } else {
                        r.load_destination(R0)
                    }
                    r.compare_network(R0, true, network);
                    // iptables shows no rule without one.
                    r.counter();
                    r.verdict(Verdict::Accept);
                });
            }
        });
        match result {
            Ok(()) => Ok(true),
            Err(error) if error.is_missing() => Ok(false),
            Err(error) => Err(error),
        }
    }
}

fn comment(cluster_id: &str) -> String {
    format!("minik8s {cluster_id}")
}

/// Handles of our rules in Docker's chain.
fn docker_rules(socket: &mut Socket, comment: &str) -> Result<Vec<u64>, Error> {
    let wanted = nftables::userdata(comment);
    let mut handles = Vec::new();
    let filter = |b: &mut crate::netlink::batch::Batch| {
        b.string(RULE_TABLE, DOCKER_TABLE);
        b.string(RULE_CHAIN, DOCKER_CHAIN);
    };
    let result = socket.dump("listing the rules in DOCKER-USER", GET_RULE, IPV4, filter, |message| {
        let attributes = message.attributes();
        if attributes.get(RULE_USERDATA) == Some(wanted.as_slice())
            && let Some(handle) = attributes.get(RULE_HANDLE).and_then(|b| b.try_into().ok())
        {
            handles.push(u64::from_be_bytes(handle));
        }
    });
    match result {
        Err(error) if error.is_missing() => Ok(Vec::new()),
        result => result.map(|()| handles),
    }
}

/// Removes all that a cluster has put into the kernel's tables.
pub(super) fn cleanup(cluster_id: &str) -> Result<(), Error> {
    let mut socket = Socket::open()?;
    let name = ruleset::table_name(cluster_id);
    socket.transaction("removing the service table", |batch| {
        let mut table = Table { batch, name: &name };
        // Made first, so that there is one to delete.
        table.create();
        table.delete();
    })?;
    let rules = docker_rules(&mut socket, &comment(cluster_id))?;
    if rules.is_empty() {
        return Ok(());
    }
    socket.transaction("removing the rules in DOCKER-USER", |batch| {
        let mut table = Table { batch, name: DOCKER_TABLE };
        for handle in rules {
            table.delete_rule(DOCKER_CHAIN, handle);
        }
    })
}
