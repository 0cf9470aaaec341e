//! Cluster IPs and node ports: who has which, in memory, rebuilt from the store at start.
//!
//! The rules are those of Kubernetes' service allocator for one IPv4 range: what is not asked for comes from the upper
//! band at random, so that the lower band is left to those who ask for an address (KEP-3070, KEP-3668).

mod range;

use crate::error::{ApiError, Result};
use api::field::{Errors, Path};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use range::{Pool, Subnet};
use std::{
    net::Ipv4Addr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use tracing::warn;

const NONE: &str = "None";
const EXTERNAL_NAME: &str = "ExternalName";
/// Addresses that are promised to one service: what pods are told before any service exists.
const PROMISED: [(u32, &str, &str); 2] = [(1, "default", "kubernetes"), (10, "kube-system", "kube-dns")];

/// What the services of the cluster hold.
pub struct Allocator {
    subnet: Subnet,
    ports: (u16, u16),
    held: Arc<Mutex<Held>>,
}

struct Held {
    addresses: Pool,
    ports: Pool,
}

/// One thing a service holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Item {
    /// Offset in the range.
    Address(u32),
    /// Offset in the range.
    Port(u32),
}

impl Item {
    fn is_address(self) -> bool {
        matches!(self, Self::Address(_))
    }
}

impl Held {
    fn pool(&mut self, item: Item) -> (&mut Pool, u32) {
        match item {
            Item::Address(offset) => (&mut self.addresses, offset),
            Item::Port(offset) => (&mut self.ports, offset),
        }
    }
    fn free(&mut self, item: Item) {
        let (pool, offset) = self.pool(item);
        pool.free(offset);
    }
}

/// Two tasks may have panicked holding it; the sets themselves are never half-changed.
fn lock(held: &Mutex<Held>) -> MutexGuard<'_, Held> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Allocator {
    /// `service_cidr` as in `Config`; node ports inclusive. The error says what is wrong with them.
    pub fn new(service_cidr: &str, node_ports: (u16, u16)) -> std::result::Result<Self, String> {
        let subnet = Subnet::parse(service_cidr)?;
        let (first, last) = node_ports;
        if first == 0 || last < first {
            return Err(format!("node ports {first}-{last} are no range"));
        }
        let ports = u32::from(last - first) + 1;
        let held = Held { addresses: Pool::addresses(subnet.size()), ports: Pool::ports(ports) };
        Ok(Self { subnet, ports: node_ports, held: Arc::new(Mutex::new(held)) })
    }

    /// The address of `default/kubernetes`.
    pub fn api_address(&self) -> Ipv4Addr {
        self.subnet.at(PROMISED[0].0)
    }

    /// The address of `kube-system/kube-dns`.
    pub fn dns_address(&self) -> Ipv4Addr {
        self.subnet.at(PROMISED[1].0)
    }

    /// Notes what a stored service holds. Called for every service at start, before the first write.
    pub fn restore(&self, service: &Service) {
        let mut held = lock(&self.held);
        for item in self.items(service) {
            let (pool, offset) = held.pool(item);
            if !pool.take(offset) {
                let name = service.metadata.name.as_deref().unwrap_or_default();
                warn!(service = name, ?item, "two services hold the same address or port");
            }
        }
    }

    /// Fills in and reserves what `new` needs beyond what `old` holds (`Invalid` if a wish cannot be granted).
    /// Call after defaulting and before validation. Commit after the store has accepted the object; a dropped
    /// reservation gives everything back.
    pub fn prepare(&self, new: &mut Service, old: Option<&Service>) -> Result<Reservation> {
        if let Some(old) = old {
            carry_over(new, old);
            drop_what_the_type_forbids(new, old);
        }
        let mut reservation = Reservation { held: self.held.clone(), taken: Vec::new(), freed: Vec::new() };
        let before = old.map(|o| self.items(o)).unwrap_or_default();
        let mut errors = Errors::default();
        {
            let mut held = lock(&self.held);
            let mut grant =
                Grant { allocator: self, held: &mut held, before: &before, taken: &mut reservation.taken };
            grant.families(new, &mut errors);
            grant.address(new, &mut errors);
            grant.ports(new, &mut errors);
        }
        if !errors.is_empty() {
            // Dropping the reservation gives back what was granted before the refusal.
            return Err(ApiError::Invalid {
                group: String::new(),
                kind: "Service".to_owned(),
                name: new.metadata.name.clone().unwrap_or_default(),
                errors,
            });
        }
        let after = self.items(new);
        reservation.freed = before.into_iter().filter(|item| !after.contains(item)).collect();
        Ok(reservation)
    }

    /// After the service is gone from the store. Its address stays taken while the address's object is still there.
    pub fn release(&self, service: &Service, address_stays: bool) {
        let mut held = lock(&self.held);
        for item in self.items(service) {
            if !(address_stays && item.is_address()) {
                held.free(item);
            }
        }
    }

    /// The address of the range that a service holds.
    pub fn address_of(&self, service: &Service) -> Option<Ipv4Addr> {
        let spec = service.spec.as_ref().filter(|spec| needs_address(spec))?;
        self.address(cluster_ip(spec)?)
    }

    /// An address of the range, by its text.
    pub fn address(&self, text: &str) -> Option<Ipv4Addr> {
        text.parse().ok().filter(|address| self.subnet.offset(*address).is_some())
    }

    /// Takes an address that somebody reserves by hand; `None` if it is taken. What lies outside of the range is nobody's.
    pub fn hold(&self, address: Ipv4Addr) -> Option<Reservation> {
        let mut taken = Vec::new();
        if let Some(offset) = self.subnet.offset(address) {
            if !lock(&self.held).addresses.take(offset) {
                return None;
            }
            taken.push(Item::Address(offset));
        }
        Some(Reservation { held: self.held.clone(), taken, freed: Vec::new() })
    }

    /// Notes that there is an object for this address, so that nobody else gets it.
    pub fn note(&self, address: Ipv4Addr) {
        if let Some(offset) = self.subnet.offset(address) {
            lock(&self.held).addresses.take(offset);
        }
    }

    /// After the object of an address that no service holds is gone.
    pub fn free(&self, address: Ipv4Addr) {
        if let Some(offset) = self.subnet.offset(address) {
            lock(&self.held).addresses.free(offset);
        }
    }

    fn port_offset(&self, port: i32) -> Option<u32> {
        let port = u16::try_from(port).ok()?;
        (self.ports.0..=self.ports.1).contains(&port).then(|| u32::from(port - self.ports.0))
    }

    /// What a service holds, each once.
    fn items(&self, service: &Service) -> Vec<Item> {
        let Some(spec) = &service.spec else { return Vec::new() };
        let mut items = Vec::new();
        if needs_address(spec) {
            let offset =
                cluster_ip(spec).and_then(|ip| ip.parse().ok()).and_then(|ip| self.subnet.offset(ip));
            items.extend(offset.map(Item::Address));
        }
        let ports =
            spec.ports.iter().flatten().filter_map(|p| p.node_port).chain(spec.health_check_node_port);
        for port in ports.filter_map(|p| self.port_offset(p)).map(Item::Port) {
            if !items.contains(&port) {
                items.push(port);
            }
        }
        items
    }
}

/// Addresses and ports held for a write that is under way.
#[must_use]
pub struct Reservation {
    held: Arc<Mutex<Held>>,
    taken: Vec<Item>,
    freed: Vec<Item>,
}

impl Reservation {
    /// The write is durable: keep the new, free what the old object held and the new does not. An address given up stays
    /// taken while its object is still there.
    pub fn commit(mut self, address_stays: bool) {
        self.taken.clear();
        let freed = std::mem::take(&mut self.freed);
        let mut held = lock(&self.held);
        freed
            .into_iter()
            .filter(|item| !(address_stays && item.is_address()))
            .for_each(|item| held.free(item));
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let taken = std::mem::take(&mut self.taken);
        if !taken.is_empty() {
            let mut held = lock(&self.held);
            taken.into_iter().for_each(|item| held.free(item));
        }
    }
}

/// One service's wishes being granted, under the lock.
struct Grant<'a> {
    allocator: &'a Allocator,
    held: &'a mut Held,
    before: &'a [Item],
    taken: &'a mut Vec<Item>,
}

impl Grant<'_> {
    /// Takes an item unless this service has it already.
    fn take(&mut self, item: Item) -> bool {
        if self.before.contains(&item) || self.taken.contains(&item) {
            return true;
        }
        let (pool, offset) = self.held.pool(item);
        let free = pool.take(offset);
        if free {
            self.taken.push(item);
        }
        free
    }

    /// This cluster has IPv4 services only.
    fn families(&mut self, service: &mut Service, errors: &mut Errors) {
        let Some(spec) = &mut service.spec else { return };
        if is_external_name(spec) {
            return;
        }
        let path = Path::new("spec");
        if spec.ip_family_policy.as_deref() == Some("RequireDualStack") {
            let detail = "this cluster is not configured for dual-stack services";
            errors.invalid(&path.child("ipFamilyPolicy"), "RequireDualStack", detail);
        }
        for (i, family) in spec.ip_families.iter().flatten().enumerate() {
            if family == "IPv6" {
                errors.invalid(&path.child("ipFamilies").index(i), family, "not configured on this cluster");
            }
        }
        spec.ip_family_policy.get_or_insert_with(|| "SingleStack".to_owned());
        if spec.ip_families.as_ref().is_none_or(Vec::is_empty) {
            spec.ip_families = Some(vec!["IPv4".to_owned()]);
        }
    }

    fn address(&mut self, service: &mut Service, errors: &mut Errors) {
        let owner = (
            service.metadata.namespace.clone().unwrap_or_default(),
            service.metadata.name.clone().unwrap_or_default(),
        );
        let Some(spec) = &mut service.spec else { return };
        if is_external_name(spec) {
            return;
        }
        let granted = match cluster_ip(spec).map(str::to_owned) {
            Some(ip) if ip == NONE => ip,
            Some(ip) => {
                if let Err(why) = self.wanted_address(&ip, &owner) {
                    let path = Path::new("spec").child("clusterIPs");
                    errors.invalid(&path, [&ip], format!("failed to allocate IP {ip}: {why}"));
                }
                ip
            }
            None => match self.held.addresses.any() {
                Some(offset) => {
                    self.taken.push(Item::Address(offset));
                    self.allocator.subnet.at(offset).to_string()
                }
                None => {
                    errors.invalid(
                        &Path::new("spec").child("clusterIPs"),
                        [""; 0],
                        "failed to allocate a serviceIP: range is full",
                    );
                    return;
                }
            },
        };
        spec.cluster_ips = Some(vec![granted.clone()]);
        spec.cluster_ip = Some(granted);
    }

    fn wanted_address(&mut self, ip: &str, owner: &(String, String)) -> std::result::Result<(), String> {
        let address: Ipv4Addr = ip.parse().map_err(|_| "not a valid IPv4 address".to_owned())?;
        let Some(offset) = self.allocator.subnet.offset(address) else {
            return Err(format!(
                "the provided IP ({ip}) is not in the valid range. The range of valid IPs is {}",
                self.allocator.subnet
            ));
        };
        let promised_to_another = PROMISED
            .iter()
            .any(|(at, namespace, name)| *at == offset && (owner.0 != *namespace || owner.1 != *name));
        if promised_to_another || !self.take(Item::Address(offset)) {
            return Err("provided IP is already allocated".to_owned());
        }
        Ok(())
    }

    fn ports(&mut self, service: &mut Service, errors: &mut Errors) {
        let Some(spec) = &mut service.spec else { return };
        let path = Path::new("spec");
        let wanted = needs_node_ports(spec);
        let health = needs_health_check_port(spec);
        for (i, port) in spec.ports.iter().flatten().enumerate() {
            if let Some(number) = port.node_port.filter(|n| *n != 0) {
                self.wanted_port(number, &path.child("ports").index(i).child("nodePort"), errors);
            }
        }
        let count = if wanted { spec.ports.as_ref().map_or(0, Vec::len) } else { 0 };
        for i in 0..count {
            let all = spec.ports.as_deref().unwrap_or_default();
            if all[i].node_port.is_some_and(|n| n != 0) {
                continue;
            }
            // As Kubernetes: a port served over TCP and UDP has one node port for both.
            let number = shared_port(all, &all[i]).or_else(|| self.any_port());
            match (number, spec.ports.as_mut().and_then(|all| all.get_mut(i))) {
                (Some(number), Some(port)) => port.node_port = Some(number),
                _ => {
                    let path = path.child("ports").index(i).child("nodePort");
                    errors.invalid(&path, 0, "failed to allocate a nodePort: range is full");
                }
            }
        }
        if health {
            let path = path.child("healthCheckNodePort");
            match spec.health_check_node_port.filter(|n| *n != 0) {
                Some(number) => self.wanted_port(number, &path, errors),
                None => match self.any_port() {
                    Some(number) => spec.health_check_node_port = Some(number),
                    None => {
                        errors.invalid(
                            &path,
                            0,
                            "failed to allocate requested HealthCheck NodePort: range is full",
                        );
                    }
                },
            }
        }
    }

    fn any_port(&mut self) -> Option<i32> {
        let offset = self.held.ports.any()?;
        self.taken.push(Item::Port(offset));
        // Offsets stay below the size of a range of 16-bit ports.
        i32::try_from(u32::from(self.allocator.ports.0) + offset).ok()
    }

    fn wanted_port(&mut self, number: i32, path: &Path, errors: &mut Errors) {
        let Some(offset) = self.allocator.port_offset(number) else {
            let (first, last) = self.allocator.ports;
            let detail = format!(
                "provided port is not in the valid range. The range of valid ports is {first}-{last}"
            );
            errors.invalid(path, number, detail);
            return;
        };
        if !self.take(Item::Port(offset)) {
            errors.invalid(path, number, "provided port is already allocated");
        }
    }
}

/// The node port of the same port in another protocol.
fn shared_port(all: &[ServicePort], port: &ServicePort) -> Option<i32> {
    let other = |o: &&ServicePort| o.port == port.port && protocol(o) != protocol(port);
    let number = all.iter().filter(other).find_map(|o| o.node_port.filter(|n| *n != 0))?;
    let taken = |o: &ServicePort| o.node_port == Some(number) && protocol(o) == protocol(port);
    (!all.iter().any(taken)).then_some(number)
}

fn kind(spec: &ServiceSpec) -> &str {
    spec.type_.as_deref().unwrap_or("ClusterIP")
}

fn is_external_name(spec: &ServiceSpec) -> bool {
    kind(spec) == EXTERNAL_NAME
}

/// The address asked for or held; `None` for an empty one.
fn cluster_ip(spec: &ServiceSpec) -> Option<&str> {
    let first = spec.cluster_ips.as_ref().and_then(|all| all.first());
    spec.cluster_ip
        .as_ref()
        .filter(|ip| !ip.is_empty())
        .or(first)
        .map(String::as_str)
        .filter(|ip| !ip.is_empty())
}

fn needs_address(spec: &ServiceSpec) -> bool {
    !is_external_name(spec) && cluster_ip(spec) != Some(NONE)
}

fn needs_node_ports(spec: &ServiceSpec) -> bool {
    match kind(spec) {
        "NodePort" => true,
        "LoadBalancer" => spec.allocate_load_balancer_node_ports.unwrap_or(true),
        _ => false,
    }
}

/// A load balancer that must not cross nodes asks each node whether it has an endpoint.
fn needs_health_check_port(spec: &ServiceSpec) -> bool {
    kind(spec) == "LoadBalancer" && spec.external_traffic_policy.as_deref() == Some("Local")
}

fn protocol(port: &ServicePort) -> &str {
    port.protocol.as_deref().unwrap_or("TCP")
}

/// A client that does not send back what was allocated keeps it.
fn carry_over(new: &mut Service, old: &Service) {
    let (Some(new), Some(old)) = (new.spec.as_mut(), old.spec.as_ref()) else { return };
    if !is_external_name(new) && !is_external_name(old) && cluster_ip(new).is_none() {
        new.cluster_ip = old.cluster_ip.clone();
        new.cluster_ips = old.cluster_ips.clone();
    }
    let may_have_ports = |spec: &ServiceSpec| matches!(kind(spec), "NodePort" | "LoadBalancer");
    if may_have_ports(new) && may_have_ports(old) {
        let mut used: Vec<i32> = new.ports.iter().flatten().filter_map(|p| p.node_port).collect();
        for port in new.ports.iter_mut().flatten().filter(|p| p.node_port.unwrap_or(0) == 0) {
            let same = |o: &&ServicePort| o.port == port.port && protocol(o) == protocol(port);
            let kept = old.ports.iter().flatten().find(same).and_then(|o| o.node_port);
            if let Some(number) = kept.filter(|n| *n != 0 && !used.contains(n)) {
                used.push(number);
                port.node_port = Some(number);
            }
        }
    }
    if needs_health_check_port(new)
        && needs_health_check_port(old)
        && new.health_check_node_port.unwrap_or(0) == 0
    {
        new.health_check_node_port = old.health_check_node_port;
    }
}

/// A client that changes the type and sends back the old type's values did not mean them. Values it changed
/// itself stay, for validation to refuse.
fn drop_what_the_type_forbids(new: &mut Service, old: &Service) {
    let (Some(new), Some(old)) = (new.spec.as_mut(), old.spec.as_ref()) else { return };
    if is_external_name(new) && !is_external_name(old) && cluster_ip(new) == cluster_ip(old) {
        new.cluster_ip = None;
        new.cluster_ips = None;
        new.ip_families = None;
        new.ip_family_policy = None;
    }
    let may_have_ports = |spec: &ServiceSpec| matches!(kind(spec), "NodePort" | "LoadBalancer");
    if !may_have_ports(new) && may_have_ports(old) {
        let had: Vec<i32> = old.ports.iter().flatten().filter_map(|p| p.node_port).collect();
        for port in new.ports.iter_mut().flatten() {
            if port.node_port.is_some_and(|n| had.contains(&n)) {
                port.node_port = None;
            }
        }
    }
    let same_health = new.health_check_node_port == old.health_check_node_port;
    if !needs_health_check_port(new) && needs_health_check_port(old) && same_health {
        new.health_check_node_port = None;
    }
}

#[cfg(test)]
mod tests;
