//! The rules of our table. They never change with services: those are elements of maps.
//!
//! ```text
//!  prerouting, output (nat)  ─► dispatch ─► services ─► balance-N: dnat to endpoints[address . protocol . port . random N]
//!                                  ├► host-ports ─► local-node-port-1: dnat to node-port-endpoints[…]
//!                                  └► node-ports ─► node-port-N: mark, dnat to node-port-endpoints[…]
//!  input, forward, output    ─► check: what has no endpoint is refused
//!  postrouting (nat)         ─► masquerade what is marked, hairpins, and pods on their way out
//!  prerouting (raw)          ─► nobody on the bridge speaks for or to the loopback
//! ```
//! `balance-N` exists once for each number of endpoints, because a rule holds the modulus.

use super::{
    Config, LocalNode,
    elements::{Chain, REJECT, Set},
    services::{AFFINITY_SLOTS, LOCAL_OFFSET},
    state::Changes,
};
use crate::netlink::{
    batch::Batch,
    nftables::{Data, Element, Hook, R0, R1, R2, R3, Register, Rule, Table, Verdict},
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
    write_balancers(&mut table, &changes.chains);
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
    write_balancers(&mut table, &new);
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

fn write_balancers(table: &mut Table<'_>, chains: &BTreeSet<Chain>) {
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
        table.rule(&name, |r| match *chain {
            Chain::Balance(n) | Chain::Outside(n) => {
                service_key(r);
                choose(r, R3, Some(n), 0);
                r.map(Set::Endpoints.name());
                r.destination_nat();
            }
            Chain::Affinity | Chain::OutsideAffinity => {
                service_key(r);
                choose(r, R3, None, 0);
                r.map(Set::Endpoints.name());
                r.destination_nat();
            }
            Chain::NodePort(n) => node_port_nat(r, Some(n), 0),
            Chain::NodePortAffinity => node_port_nat(r, None, 0),
            Chain::LocalNodePort(n) => node_port_nat(r, Some(n), LOCAL_OFFSET),
            Chain::LocalNodePortAffinity => node_port_nat(r, None, LOCAL_OFFSET),
        });
    }
}

/// At random, or by the client's address.
fn choose(rule: &mut Rule<'_>, to: Register, random: Option<u32>, offset: u32) {
    match random {
        Some(n) => rule.random(to, n, offset),
        None => rule.hash_source(to, AFFINITY_SLOTS, offset, SEED),
    }
}

fn node_port_nat(rule: &mut Rule<'_>, random: Option<u32>, offset: u32) {
    node_port_key(rule);
    choose(rule, R2, random, offset);
    rule.map(Set::NodePortEndpoints.name());
    rule.destination_nat();
}

/// Destination address . protocol . destination port
fn service_key(rule: &mut Rule<'_>) {
    rule.load_destination(R0);
    rule.load_protocol(R1);
    rule.load_destination_port(R2);
}

/// Protocol . destination port
fn node_port_key(rule: &mut Rule<'_>) {
    rule.load_protocol(R0);
    rule.load_destination_port(R1);
}

fn loopback() -> Option<Cidr> {
    Cidr::containing([127, 0, 0, 0].into(), 8)
}

fn write_chains(table: &mut Table<'_>, config: &Config) {
    const DISPATCH: &str = "dispatch";
    const NODE_PORTS: &str = "dispatch-node-ports";
    const HOST_PORTS: &str = "dispatch-host-ports";
    const CHECK: &str = "check";
    const MARK: &str = "mark-masquerade";
    for chain in [REJECT, MARK, DISPATCH, NODE_PORTS, HOST_PORTS, CHECK] {
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
        service_key(r);
        r.verdict_map(Set::Services.name());
    });
    table.rule(DISPATCH, |r| {
        r.is_local(false);
        r.verdict(Verdict::Jump(NODE_PORTS));
    });
    if let Some(loopback) = loopback() {
        table.rule(NODE_PORTS, |r| {
            r.source_in(true, loopback);
            r.is_new();
            r.verdict(Verdict::Jump(MARK));
        });
    }
    table.rule(NODE_PORTS, jump(HOST_PORTS));
    // The other nodes' own addresses are not the machine's: their host ports are among the services.
    for node in config.nodes.iter().skip(1) {
        table.rule(HOST_PORTS, |r| {
            r.load_destination(R0);
            r.compare(R0, true, &node.gateway.octets());
            r.verdict(Verdict::Return);
        });
    }
    table.rule(HOST_PORTS, |r| {
        node_port_key(r);
        r.verdict_map(Set::HostPorts.name());
    });
    let inner = |r: &mut Rule<'_>| {
        node_port_key(r);
        r.verdict_map(Set::InnerNodePorts.name());
    };
    table.rule(NODE_PORTS, |r| {
        r.source_in(true, config.cluster_cidr);
        inner(r);
    });
    table.rule(NODE_PORTS, |r| {
        r.is_local(true);
        inner(r);
    });
    table.rule(NODE_PORTS, |r| {
        node_port_key(r);
        r.verdict_map(Set::NodePorts.name());
    });
    table.base_chain("nat-prerouting", "nat", Hook::Prerouting, BEFORE_DESTINATION_NAT);
    table.rule("nat-prerouting", jump(DISPATCH));
    table.base_chain("nat-output", "nat", Hook::Output, BEFORE_DESTINATION_NAT);
    table.rule("nat-output", jump(DISPATCH));

    write_masquerade(table, config);

    table.rule(CHECK, |r| {
        service_key(r);
        r.verdict_map(Set::NoEndpoints.name());
    });
    table.rule(CHECK, |r| {
        r.is_local(false);
        node_port_key(r);
        r.verdict_map(Set::NoNodePortEndpoints.name());
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
