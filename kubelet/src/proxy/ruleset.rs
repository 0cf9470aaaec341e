//! The rules of our table. They never change with services: those are elements of maps.
//!
//! ```text
//!  prerouting, output (nat)  ─► dispatch ─► services ─► balance-N: dnat to endpoints[address . protocol . port . random N]
//!                                  ├► local-services ─► local-N: the same among those of the client's node
//!                                  ├► host-ports: dnat
//!                                  ├► inner-node-ports, node-ports ─► node-port-N: mark, dnat to node-port-endpoints[…]
//!                                  └► local-node-ports ─► local-node-port-N: among those of the node that is asked
//!  input, forward, output    ─► check: what has no endpoint is refused
//!  postrouting (nat)         ─► masquerade what is marked, hairpins, and pods on their way out
//!  prerouting (raw)          ─► nobody on the bridge speaks for or to the loopback
//! ```
//! `balance-N` exists once for each number of endpoints, because a rule holds the modulus.
//!
//! The nodes of this machine share its kernel. Which of them a packet comes from or goes to is read from its addresses: a
//! node is known by the address of its pod range, and what is in none is the first node's, which is the machine itself.

use super::{
    Config, LocalNode,
    elements::{Chain, REJECT, Set},
    services::AFFINITY_SLOTS,
    state::Changes,
};
use crate::netlink::{
    batch::Batch,
    nftables::{Data, Element, Hook, R0, R1, R2, R3, R4, Register, Rule, Table, Verdict},
};
use api::Cidr;
use std::collections::BTreeSet;

/// Marks packets that leave with our address; cleared before they go. The bit is kube-proxy's.
const MASQUERADE_BIT: u32 = 0x4000;
/// Before Docker's own chains, which are at -100 and 100 (nat) and 0 (filter).
const BEFORE_DESTINATION_NAT: i32 = -105;
const BEFORE_SOURCE_NAT: i32 = 95;
const BEFORE_FILTER: i32 = -5;
/// Before connection tracking, so that answers to the loopback, translated later, pass.
const RAW: i32 = -300;
/// Of the hash of client addresses: any number, the same on every node.
const SEED: u32 = 0x6d6b_3873;

const MARK: &str = "mark-masquerade";
const NODE_PORTS: &str = "dispatch-node-ports";
/// Node ports asked for from the node itself.
const INNER: &str = "dispatch-inner-node-ports";
const INNER_MACHINE: &str = "dispatch-machine-node-ports";

pub(crate) fn table_name(cluster_id: &str) -> String {
    format!("minik8s-{cluster_id}")
}

/// Replaces the whole table, whether it was there or not.
pub(crate) fn write_all(batch: &mut Batch, config: &Config, changes: &Changes) {
    let name = table_name(&config.cluster_id);
    let mut table = Table { batch, name: &name };
    // Made first, so that there is one to delete.
    table.create();
    table.delete();
    table.create();
    for (id, set) in (1..).zip(Set::ALL) {
        table.set(set.name(), id, set.key_type(), set.data_type());
    }
    write_chains(&mut table, config);
    write_balancers(&mut table, config, &changes.chains);
    write_elements(&mut table, changes);
}

/// Changes elements; chains in `known` exist already.
pub(crate) fn write_changes(batch: &mut Batch, config: &Config, changes: &Changes, known: &BTreeSet<Chain>) {
    let name = table_name(&config.cluster_id);
    let mut table = Table { batch, name: &name };
    for (set, keys) in &changes.remove {
        table.delete_elements(set.name(), keys, |key, write| {
            let (bytes, length) = key.encode(*set);
            write(&Element { key: &bytes[..length], data: Data::None });
        });
    }
    let new: BTreeSet<Chain> = changes.chains.difference(known).copied().collect();
    write_balancers(&mut table, config, &new);
    write_elements(&mut table, changes);
}

fn write_elements(table: &mut Table<'_>, changes: &Changes) {
    for (set, elements) in &changes.add {
        table.add_elements(set.name(), elements, |(key, value), write| {
            let (bytes, length) = key.encode(*set);
            value.with_data(|data| write(&Element { key: &bytes[..length], data }));
        });
    }
}

fn write_balancers(table: &mut Table<'_>, config: &Config, chains: &BTreeSet<Chain>) {
    for chain in chains {
        let name = chain.to_string();
        table.chain(&name);
        let marked = matches!(
            chain,
            Chain::Outside(_) | Chain::OutsideAffinity | Chain::NodePort(_) | Chain::NodePortAffinity
        );
        if marked {
            table.rule(&name, |r| r.set_mark_bit(MASQUERADE_BIT));
        }
        let random = match *chain {
            Chain::Balance(n) | Chain::Outside(n) | Chain::Local(n) => Some(n),
            Chain::NodePort(n) | Chain::LocalNodePort(n) => Some(n),
            Chain::Affinity | Chain::OutsideAffinity | Chain::LocalAffinity => None,
            Chain::NodePortAffinity | Chain::LocalNodePortAffinity => None,
        };
        // The index, in the register after the rest of the key.
        let lead = |r: &mut Rule<'_>, index: Register, set: Set| {
            match random {
                Some(n) => r.random(index, n),
                None => r.hash_source(index, AFFINITY_SLOTS, SEED),
            }
            r.map(set.name());
            r.destination_nat();
        };
        match chain {
            Chain::Balance(_) | Chain::Affinity | Chain::Outside(_) | Chain::OutsideAffinity => {
                table.rule(&name, |r| {
                    service_key(r, R0);
                    lead(r, R3, Set::Endpoints);
                });
            }
            Chain::Local(_) | Chain::LocalAffinity => {
                by_node(table, &name, config, Whose::Client, R0, |r| {
                    service_key(r, R1);
                    lead(r, R4, Set::LocalEndpoints);
                });
            }
            Chain::NodePort(_) | Chain::NodePortAffinity => table.rule(&name, |r| {
                node_port_key(r, R0);
                lead(r, R2, Set::NodePortEndpoints);
            }),
            Chain::LocalNodePort(_) | Chain::LocalNodePortAffinity => {
                by_node(table, &name, config, Whose::Asked, R0, |r| {
                    node_port_key(r, R1);
                    lead(r, R3, Set::LocalNodePortEndpoints);
                });
            }
        }
    }
}

/// Which node a rule asks for.
#[derive(Clone, Copy)]
enum Whose {
    /// The one that the packet comes from.
    Client,
    /// The one that it goes to.
    Asked,
}

/// A rule that finds a node in register `to`: written once for addresses of pods and of the nodes' bridges, and once for
/// all others, which are the first node's.
fn by_node(
    table: &mut Table<'_>,
    chain: &str,
    config: &Config,
    whose: Whose,
    to: Register,
    rule: impl Fn(&mut Rule<'_>),
) {
    for of_pods in [true, false] {
        table.rule(chain, |r| {
            match whose {
                Whose::Client => r.source_in(of_pods, config.cluster_cidr),
                Whose::Asked => r.destination_in(of_pods, config.cluster_cidr),
            }
            load_node(r, to, config, of_pods.then_some(whose));
            rule(r);
        });
    }
}

/// The node of an address that is in a pod range, or the first one.
fn load_node(rule: &mut Rule<'_>, to: Register, config: &Config, whose: Option<Whose>) {
    let Some(first) = config.nodes.first() else { return };
    let (network, mask) = first.pod_cidr.address_and_mask();
    match whose {
        Some(Whose::Client) => rule.load_source(to),
        Some(Whose::Asked) => rule.load_destination(to),
        None => return rule.constant(to, network),
    }
    // All nodes' ranges have the same length.
    rule.mask(to, mask);
}

/// Destination address . protocol . destination port
fn service_key(rule: &mut Rule<'_>, from: Register) {
    rule.load_destination(from);
    node_port_key(rule, from.next());
}

/// Protocol . destination port
fn node_port_key(rule: &mut Rule<'_>, from: Register) {
    rule.load_protocol(from);
    rule.load_destination_port(from.next());
}

fn loopback() -> Option<Cidr> {
    Cidr::containing([127, 0, 0, 0].into(), 8)
}

fn write_chains(table: &mut Table<'_>, config: &Config) {
    const DISPATCH: &str = "dispatch";
    const CHECK: &str = "check";
    const CHECK_NODE_PORTS: &str = "check-node-ports";
    for chain in [REJECT, MARK, DISPATCH, NODE_PORTS, INNER, INNER_MACHINE, CHECK, CHECK_NODE_PORTS] {
        table.chain(chain);
    }
    let jump = |chain| move |r: &mut Rule<'_>| r.verdict(Verdict::Jump(chain));
    table.rule(REJECT, |r| r.reject());
    table.rule(MARK, |r| r.set_mark_bit(MASQUERADE_BIT));

    // Clients outside the cluster's network would not find the way back from another node.
    table.rule(DISPATCH, |r| {
        r.destination_in(true, config.service_cidr);
        r.source_in(false, config.cluster_cidr);
        r.is_new();
        r.verdict(Verdict::Jump(MARK));
    });
    table.rule(DISPATCH, |r| {
        service_key(r, R0);
        r.verdict_map(Set::Services.name());
    });
    by_node(table, DISPATCH, config, Whose::Client, R0, |r| {
        service_key(r, R1);
        r.verdict_map(Set::LocalServices.name());
    });
    table.rule(DISPATCH, |r| {
        r.is_local(false);
        r.verdict(Verdict::Jump(NODE_PORTS));
    });
    write_node_ports(table, config);
    table.base_chain("nat-prerouting", "nat", Hook::Prerouting, BEFORE_DESTINATION_NAT);
    table.rule("nat-prerouting", jump(DISPATCH));
    table.base_chain("nat-output", "nat", Hook::Output, BEFORE_DESTINATION_NAT);
    table.rule("nat-output", jump(DISPATCH));

    write_masquerade(table, config);

    table.rule(CHECK, |r| {
        service_key(r, R0);
        r.verdict_map(Set::NoEndpoints.name());
    });
    by_node(table, CHECK, config, Whose::Client, R0, |r| {
        service_key(r, R1);
        r.verdict_map(Set::NoLocalEndpoints.name());
    });
    table.rule(CHECK, |r| {
        r.is_local(false);
        r.verdict(Verdict::Jump(CHECK_NODE_PORTS));
    });
    table.rule(CHECK_NODE_PORTS, |r| {
        node_port_key(r, R0);
        r.verdict_map(Set::NoNodePortEndpoints.name());
    });
    by_node(table, CHECK_NODE_PORTS, config, Whose::Asked, R0, |r| {
        node_port_key(r, R1);
        r.verdict_map(Set::NoLocalNodePortEndpoints.name());
    });
    // A service that is not there, or a port that it has not.
    table.rule(CHECK, |r| {
        r.destination_in(true, config.service_cidr);
        r.reject();
    });
    for (name, hook) in
        [("filter-input", Hook::Input), ("filter-forward", Hook::Forward), ("filter-output", Hook::Output)]
    {
        table.base_chain(name, "filter", hook, BEFORE_FILTER);
        table.rule(name, |r| {
            r.is_new();
            r.verdict(Verdict::Jump(CHECK));
        });
    }
}

/// Ports of the machine and of its nodes.
fn write_node_ports(table: &mut Table<'_>, config: &Config) {
    if let Some(loopback) = loopback() {
        table.rule(NODE_PORTS, |r| {
            r.source_in(true, loopback);
            r.is_new();
            r.verdict(Verdict::Jump(MARK));
        });
    }
    by_node(table, NODE_PORTS, config, Whose::Asked, R0, |r| {
        node_port_key(r, R1);
        r.map(Set::HostPorts.name());
        r.destination_nat();
    });
    table.rule(NODE_PORTS, |r| r.verdict(Verdict::Jump(INNER)));
    table.rule(NODE_PORTS, |r| {
        node_port_key(r, R0);
        r.verdict_map(Set::NodePorts.name());
    });
    by_node(table, NODE_PORTS, config, Whose::Asked, R0, |r| {
        node_port_key(r, R1);
        r.verdict_map(Set::LocalNodePorts.name());
    });
    // The machine's own packets to one of its nodes have that node's address as source, too: by their source they would be
    // any node's. They are the first one's.
    table.rule(INNER, |r| {
        r.is_local(true);
        r.verdict(Verdict::Goto(INNER_MACHINE));
    });
    for (chain, client) in [(INNER, Some(Whose::Client)), (INNER_MACHINE, None)] {
        by_node(table, chain, config, Whose::Asked, R1, |r| {
            load_node(r, R0, config, client);
            node_port_key(r, R2);
            r.verdict_map(Set::InnerNodePorts.name());
        });
    }
}

fn write_masquerade(table: &mut Table<'_>, config: &Config) {
    const POST: &str = "nat-postrouting";
    const GUARD: &str = "guard-loopback";
    table.base_chain(POST, "nat", Hook::Postrouting, BEFORE_SOURCE_NAT);
    table.rule(POST, |r| {
        r.has_mark_bit(MASQUERADE_BIT);
        r.clear_mark_bit(MASQUERADE_BIT);
        r.masquerade();
    });
    table.rule(POST, |r| {
        r.load_source(R0);
        r.load_destination(R1);
        r.is_in(Set::Hairpin.name());
        r.is_redirected();
        r.masquerade();
    });
    table.base_chain(GUARD, "filter", Hook::Prerouting, RAW);
    for LocalNode { bridge, pod_cidr, .. } in &config.nodes {
        table.rule(POST, |r| {
            r.source_in(true, *pod_cidr);
            r.destination_in(false, config.cluster_cidr);
            r.output_interface_is(false, bridge);
            r.masquerade();
        });
        // `route_localnet`, which node ports on 127.0.0.1 need, would open the loopback to pods.
        if let Some(loopback) = loopback() {
            for source in [true, false] {
                table.rule(GUARD, |r| {
                    r.input_interface_is(true, bridge);
                    if source {
                        r.source_in(true, loopback)
                    } else {
                        r.destination_in(true, loopback)
                    }
                    r.verdict(Verdict::Drop);
                });
            }
        }
    }
}
