//! Pod addresses of this node: one pod, one address, never two pods with the same.
//!
//! The truth is the sandboxes: at start the pool is filled from them. An address is given back only when the pod's sandbox
//! has been removed.

use api::Cidr;
use std::{
    collections::HashMap,
    net::Ipv4Addr,
    sync::{Mutex, MutexGuard, PoisonError},
};

pub(crate) struct Addresses {
    cidr: Cidr,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    by_address: HashMap<Ipv4Addr, String>,
    by_pod: HashMap<String, Ipv4Addr>,
    /// Where the search goes on: a freed address is used again as late as possible.
    last: Option<Ipv4Addr>,
}

impl Addresses {
    pub(crate) fn new(cidr: Cidr) -> Self {
        Self { cidr, state: Mutex::default() }
    }

    /// Notes an address that a pod's sandbox has already. Of two that claim one address the first keeps it.
    pub(crate) fn adopt(&self, pod_uid: &str, address: Ipv4Addr) {
        let mut state = self.lock();
        if self.cidr.contains(address) && !state.by_address.contains_key(&address) {
            state.take(pod_uid, address);
        }
    }

    /// The pod's address, the same each time; `None` when the node has no more.
    pub(crate) fn allocate(&self, pod_uid: &str) -> Option<Ipv4Addr> {
        let mut state = self.lock();
        if let Some(address) = state.by_pod.get(pod_uid) {
            return Some(*address);
        }
        let after = |address: &Ipv4Addr| state.last.is_none_or(|last| *address > last);
        let free = |address: &Ipv4Addr| !state.by_address.contains_key(address);
        let all = || self.cidr.pod_addresses().filter(free);
        let address = all().find(after).or_else(|| all().next())?;
        state.last = Some(address);
        state.take(pod_uid, address);
        Some(address)
    }

    /// The pod's sandbox is gone.
    pub(crate) fn release(&self, pod_uid: &str) {
        let mut state = self.lock();
        if let Some(address) = state.by_pod.remove(pod_uid) {
            state.by_address.remove(&address);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn take(&mut self, pod_uid: &str, address: Ipv4Addr) {
        if let Some(old) = self.by_pod.insert(pod_uid.to_owned(), address) {
            self.by_address.remove(&old);
        }
        self.by_address.insert(address, pod_uid.to_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    #[test]
    fn a_freed_address_is_used_again_last() {
        let pool = Addresses::new("10.1.1.0/29".parse().unwrap());
        let take = |uid: &str| pool.allocate(uid).map(|a| a.octets()[3]);
        pool.adopt("old", "10.1.1.3".parse().unwrap());
        pool.adopt("foreign", "10.9.9.9".parse().unwrap());
        assert_eq!([take("a"), take("b"), take("a")], [Some(2), Some(4), Some(2)]);
        pool.release("a");
        assert_eq!([take("c"), take("d"), take("e"), take("f")], [Some(5), Some(6), Some(2), None]);
        assert_eq!(take("old"), Some(3));
    }

    proptest! {
        #[test]
        fn no_address_has_two_pods(ops in prop::collection::vec((0u8..3, 0u8..9), 0..200)) {
            let pool = Addresses::new("10.1.1.0/29".parse().unwrap());
            let mut held: HashMap<String, Ipv4Addr> = HashMap::new();
            for (op, pod) in ops {
                let uid = format!("p{pod}");
                if op == 0 {
                    pool.release(&uid);
                    held.remove(&uid);
                } else if let Some(address) = pool.allocate(&uid) {
                    let before = held.insert(uid, address);
                    prop_assert!(before.is_none_or(|before| before == address));
                }
                let distinct: HashSet<_> = held.values().collect();
                prop_assert_eq!(distinct.len(), held.len());
            }
        }
    }
}
