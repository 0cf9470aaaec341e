//! Cluster IPs and node ports: who has which, in memory, rebuilt from the store at start.

use crate::error::Result;
use k8s_openapi::api::core::v1::Service;

/// What the services of the cluster hold.
pub struct Allocator {}

impl Allocator {
    /// `service_cidr` as in `Config`; node ports inclusive. The error says what is wrong with them.
    pub fn new(service_cidr: &str, node_ports: (u16, u16)) -> std::result::Result<Self, String> {
        let _ = (service_cidr, node_ports);
        Ok(Self {})
    }

    /// Notes what a stored service holds. Called for every service at start, before the first write.
    pub fn restore(&self, service: &Service) {
        let _ = service;
    }

    /// Fills in and reserves what `new` needs beyond what `old` holds (`Invalid` if a wish cannot be granted).
    /// Call after defaulting and before validation. Commit after the store has accepted the object; a dropped
    /// reservation gives everything back.
    pub fn prepare(&self, new: &mut Service, old: Option<&Service>) -> Result<Reservation> {
        let _ = (new, old);
        Ok(Reservation {})
    }

    /// After the service is gone from the store.
    pub fn release(&self, service: &Service) {
        let _ = service;
    }
}

/// Addresses and ports held for a write that is under way.
#[must_use]
pub struct Reservation {}

impl Reservation {
    /// The write is durable: keep the new, free what the old object held and the new does not.
    pub fn commit(self) {}
}
