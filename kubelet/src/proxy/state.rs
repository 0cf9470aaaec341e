//! An exact account of what is, or is to be, in the kernel: who wants which element, and what a round of changes
//! means for the kernel. Pure.

use super::elements::{Chain, Element, Key, Protocol, Set, Value};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    net::Ipv4Addr,
};

type Place = (Set, Key);

#[derive(Default)]
pub(crate) struct State {
    /// What each owner wants. An owner is `service:ns/name` or `pod:ns/name`.
    wanted: BTreeMap<String, Vec<Element>>,
    /// What is at each place, and how many owners want it to be.
    placed: HashMap<Place, (Value, usize)>,
    /// Somebody wants a place that another has with another value: the first by name shall have it, which only
    /// a look at all owners can tell.
    contested: bool,
    /// What was at the places changed since the last `take_changes`.
    touched: HashMap<Place, Option<Value>>,
}

/// What has to be done in the kernel, in this order: remove, make chains, add.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct Changes {
    pub(crate) remove: BTreeMap<Set, Vec<Key>>,
    pub(crate) add: BTreeMap<Set, Vec<(Key, Value)>>,
    pub(crate) chains: BTreeSet<Chain>,
    /// UDP services whose tracked connections may lead to the wrong place.
    pub(crate) udp: Vec<UdpService>,
}

#[derive(Debug, PartialEq)]
pub(crate) struct UdpService {
    /// `None`: a port of this machine.
    pub(crate) address: Option<Ipv4Addr>,
    pub(crate) port: u16,
    pub(crate) endpoints: HashSet<(Ipv4Addr, u16)>,
}

impl State {
    /// Sets what an owner wants from now on; nothing, when it is gone.
    pub(crate) fn set(&mut self, owner: String, elements: Vec<Element>) {
        let old = if elements.is_empty() {
            self.wanted.remove(&owner).unwrap_or_default()
        } else {
            self.wanted.insert(owner.clone(), elements.clone()).unwrap_or_default()
        };
        if old == elements {
            return;
        }
        let (before, after): (HashSet<_>, HashSet<_>) = (old.iter().collect(), elements.iter().collect());
        for element in old.iter().filter(|e| !after.contains(e)) {
            self.release(element);
        }
        for element in elements.iter().filter(|e| !before.contains(e)) {
            self.place(element);
        }
    }

    fn place(&mut self, element: &Element) {
        let place = (element.set, element.key);
        match self.placed.get_mut(&place) {
            Some((value, owners)) if *value == element.value => *owners += 1,
            Some(_) => self.contested = true,
            None => {
                self.touched.entry(place).or_insert(None);
                self.placed.insert(place, (element.value, 1));
            }
        }
    }

    fn release(&mut self, element: &Element) {
        let place = (element.set, element.key);
        let Some((value, owners)) = self.placed.get_mut(&place) else { return };
        if *value != element.value {
            // It never had the place.
            return;
        }
        *owners -= 1;
        if *owners == 0 {
            self.touched.entry(place).or_insert(Some(*value));
            self.placed.remove(&place);
        }
    }

    /// Places everything anew: the first owner by name has a contested place.
    fn settle(&mut self) {
        let old = std::mem::take(&mut self.placed);
        self.contested = false;
        let mut contested = false;
        for element in self.wanted.values().flatten() {
            let (value, owners) = self.placed.entry((element.set, element.key)).or_insert((element.value, 0));
            if *value == element.value {
                *owners += 1;
            } else {
                contested = true;
            }
        }
        // Stays set while anybody waits for a place, so that it is settled again when one becomes free.
        self.contested = contested;
        for (place, (value, _)) in &old {
            self.touched.entry(*place).or_insert(Some(*value));
        }
        for place in self.placed.keys() {
            self.touched.entry(*place).or_insert(None);
        }
    }

    /// What changed since the last call.
    pub(crate) fn take_changes(&mut self) -> Changes {
        if self.contested {
            self.settle();
        }
        let mut changes = Changes::default();
        let mut udp = BTreeSet::new();
        for ((set, key), before) in std::mem::take(&mut self.touched) {
            let after = self.placed.get(&(set, key)).map(|(value, _)| *value);
            if before == after {
                continue;
            }
            if key.protocol == Protocol::Udp {
                udp.insert(asked(&key));
            }
            if before.is_some() {
                changes.remove.entry(set).or_default().push(key);
            }
            if let Some(value) = after {
                changes.add.entry(set).or_default().push((key, value));
                changes.chains.extend(chain_of(value));
            }
        }
        changes.remove.values_mut().for_each(|keys| keys.sort());
        changes.add.values_mut().for_each(|elements| elements.sort());
        changes.udp = self.udp_services(udp);
        changes
    }

    /// With all endpoints they lead to, from whichever node.
    fn udp_services(&self, changed: BTreeSet<(Option<Ipv4Addr>, u16)>) -> Vec<UdpService> {
        if changed.is_empty() {
            return Vec::new();
        }
        let mut endpoints: BTreeMap<_, HashSet<_>> =
            changed.into_iter().map(|c| (c, HashSet::new())).collect();
        for ((_, key), (value, _)) in &self.placed {
            if let Value::Endpoint(address, port) = value
                && key.protocol == Protocol::Udp
                && let Some(known) = endpoints.get_mut(&asked(key))
            {
                known.insert((*address, *port));
            }
        }
        endpoints
            .into_iter()
            .map(|((address, port), endpoints)| UdpService { address, port, endpoints })
            .collect()
    }

    /// All there is to be, for a full replace; forgets what had changed.
    pub(crate) fn everything(&mut self) -> Changes {
        let mut changes = self.take_changes();
        changes.remove.clear();
        changes.add.clear();
        for ((set, key), (value, _)) in &self.placed {
            changes.add.entry(*set).or_default().push((*key, *value));
            changes.chains.extend(chain_of(*value));
        }
        changes.add.values_mut().for_each(|elements| elements.sort());
        changes
    }
}

/// What clients ask for: an address and a port, or a port of this machine.
fn asked(key: &Key) -> (Option<Ipv4Addr>, u16) {
    (Some(key.address).filter(|address| !address.is_unspecified()), key.port)
}

fn chain_of(value: Value) -> Option<Chain> {
    match value {
        Value::Goto(chain) => Some(chain),
        _ => None,
    }
}
