//! The facts that answers are made of: Services and their EndpointSlices, by name and by address. Immutable once
//! published; a change makes a new index that shares all it did not touch with the old one.

use crate::{
    cow_map::CowMap,
    name::{self, ServiceKey},
};
use hickory_proto::rr::Name;
use k8s_openapi::api::{
    core::v1 as core,
    discovery::v1::{EndpointPort, EndpointSlice},
};
use std::{collections::BTreeSet, net::IpAddr, str::FromStr, sync::Arc};

#[derive(Clone, Default)]
pub(crate) struct Index {
    services: CowMap<ServiceKey, Arc<Service>>,
    namespaces: CowMap<String, ()>,
    /// Names of the services and endpoints that have an address.
    addresses: CowMap<IpAddr, Arc<BTreeSet<Name>>>,
    /// SOA serial: counts the changes.
    pub(crate) serial: u32,
    /// Whether the first full state is in; before, only the absence of a name is unknown.
    pub(crate) synced: bool,
}

/// One Service as DNS sees it.
#[derive(Debug, PartialEq)]
pub(crate) struct Service {
    pub(crate) name: Name,
    pub(crate) kind: Kind,
    /// Ready endpoints, ordered by host name and address.
    pub(crate) endpoints: Vec<Endpoint>,
}

#[derive(Debug, PartialEq)]
pub(crate) enum Kind {
    /// With addresses of its own (none while they are being allocated) and its ports.
    Cluster {
        addresses: Vec<IpAddr>,
        ports: Vec<Port>,
    },
    Headless,
    /// An alias of a name elsewhere; `None` if that is no name.
    External(Option<Name>),
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Port {
    /// Lower case; "" if unnamed.
    pub(crate) name: String,
    /// Lower case: `tcp`, `udp`, `sctp`.
    pub(crate) protocol: String,
    pub(crate) number: u16,
}

#[derive(Debug, PartialEq)]
pub(crate) struct Endpoint {
    /// The label below the service: the endpoint's host name, else its address with dashes.
    pub(crate) host: String,
    /// Whether the label is a host name that somebody gave.
    pub(crate) named: bool,
    pub(crate) name: Name,
    pub(crate) address: IpAddr,
    pub(crate) ports: Vec<Port>,
}

impl Service {
    pub(crate) fn build(zone: &Name, service: &core::Service, slices: &[Arc<EndpointSlice>]) -> Option<Self> {
        let meta = &service.metadata;
        let (namespace, service_name) = (meta.namespace.as_deref()?, meta.name.as_deref()?);
        let name = Name::from_labels([service_name.as_bytes(), namespace.as_bytes(), b"svc"]).ok()?;
        let name = name.append_domain(zone).ok()?;
        let spec = service.spec.as_ref()?;
        let kind = if spec.type_.as_deref() == Some("ExternalName") {
            let target = spec.external_name.as_deref().and_then(|n| Name::from_str(n).ok());
            Kind::External(target.map(fully_qualified))
        } else if spec.cluster_ip.as_deref() == Some("None") {
            Kind::Headless
        } else {
            let all = spec.cluster_ips.iter().flatten().chain(&spec.cluster_ip);
            let addresses: BTreeSet<IpAddr> = all.filter_map(|ip| ip.parse().ok()).collect();
            let ports = spec.ports.iter().flatten();
            let ports = ports.filter_map(|p| port(p.name.as_deref(), p.protocol.as_deref(), p.port));
            Kind::Cluster { addresses: addresses.into_iter().collect(), ports: ports.collect() }
        };
        let endpoints = endpoints(&name, slices);
        Some(Self { name, kind, endpoints })
    }

    /// The endpoints under one label: one, or one per address family or slice.
    pub(crate) fn under(&self, host: &str) -> &[Endpoint] {
        let start = self.endpoints.partition_point(|e| e.host.as_str() < host);
        let end = start + self.endpoints[start..].partition_point(|e| e.host == host);
        &self.endpoints[start..end]
    }

    /// All ports by which the service can be asked for.
    pub(crate) fn ports(&self) -> impl Iterator<Item = &Port> {
        let own = match &self.kind {
            Kind::Cluster { ports, .. } => ports.as_slice(),
            Kind::Headless | Kind::External(_) => &[],
        };
        own.iter().chain(self.endpoints.iter().flat_map(|e| &e.ports))
    }

    /// The addresses whose reverse names lead here.
    fn addresses(&self) -> Vec<(IpAddr, &Name)> {
        match &self.kind {
            Kind::Cluster { addresses, .. } => addresses.iter().map(|ip| (*ip, &self.name)).collect(),
            Kind::Headless => {
                self.endpoints.iter().filter(|e| e.named).map(|e| (e.address, &e.name)).collect()
            }
            Kind::External(_) => Vec::new(),
        }
    }
}

fn fully_qualified(mut name: Name) -> Name {
    name.set_fqdn(true);
    name
}

fn port(name: Option<&str>, protocol: Option<&str>, number: i32) -> Option<Port> {
    Some(Port {
        name: name.unwrap_or_default().to_ascii_lowercase(),
        protocol: protocol.unwrap_or("TCP").to_ascii_lowercase(),
        number: u16::try_from(number).ok()?,
    })
}

fn endpoints(service: &Name, slices: &[Arc<EndpointSlice>]) -> Vec<Endpoint> {
    let mut all: Vec<Endpoint> = Vec::new();
    for slice in slices {
        let of_slice = |p: &EndpointPort| port(p.name.as_deref(), p.protocol.as_deref(), p.port?);
        let ports: Vec<Port> = slice.ports.iter().flatten().filter_map(of_slice).collect();
        for endpoint in slice.endpoints.iter().flatten() {
            // Unknown counts as ready; publishNotReadyAddresses is in the condition already.
            if endpoint.conditions.as_ref().and_then(|c| c.ready) == Some(false) {
                continue;
            }
            // Addresses of one endpoint are fungible; consumers use the first (API reference).
            let Some(address) = endpoint.addresses.first().and_then(|a| a.parse().ok()) else { continue };
            let given = endpoint.hostname.as_deref().filter(|h| !h.is_empty());
            let host = given.map_or_else(|| name::to_dashed(address), str::to_ascii_lowercase);
            let Ok(name) = service.prepend_label(host.as_bytes()) else { continue };
            all.push(Endpoint { host, named: given.is_some(), name, address, ports: ports.clone() });
        }
    }
    all.sort_by(|a, b| (&a.host, a.address).cmp(&(&b.host, b.address)));
    // The same endpoint in several slices: one for each set of ports.
    all.dedup_by(|later, first| {
        let same = (&later.host, later.address) == (&first.host, first.address);
        if same {
            first.ports.append(&mut later.ports);
        }
        same
    });
    for endpoint in &mut all {
        endpoint.ports.sort();
        endpoint.ports.dedup();
    }
    all
}

impl Index {
    pub(crate) fn service(&self, key: &ServiceKey) -> Option<&Service> {
        self.services.get(key).map(Arc::as_ref)
    }

    pub(crate) fn has_namespace(&self, namespace: &str) -> bool {
        self.namespaces.get(namespace).is_some()
    }

    pub(crate) fn names_of(&self, address: IpAddr) -> Option<&BTreeSet<Name>> {
        self.addresses.get(&address).map(Arc::as_ref)
    }

    pub(crate) fn set_namespace(&mut self, namespace: &str, exists: bool) {
        if exists {
            self.namespaces.insert(namespace.to_owned(), ());
        } else {
            self.namespaces.remove(namespace);
        }
    }

    /// Puts a service in place of what was known under its key, or takes that away.
    pub(crate) fn set_service(&mut self, key: ServiceKey, service: Option<Service>) {
        let old = match service {
            Some(service) => {
                let service = Arc::new(service);
                let old = self.services.remove(&key);
                self.services.insert(key, service.clone());
                for (address, name) in service.addresses() {
                    self.change_address(address, |names| names.insert(name.clone()));
                }
                old.map(|old| (old, Some(service)))
            }
            None => self.services.remove(&key).map(|old| (old, None)),
        };
        let Some((old, new)) = old else { return };
        let kept: BTreeSet<(IpAddr, &Name)> = new.iter().flat_map(|s| s.addresses()).collect();
        for (address, name) in old.addresses().into_iter().filter(|a| !kept.contains(a)) {
            self.change_address(address, |names| names.remove(name));
        }
    }

    fn change_address(&mut self, address: IpAddr, change: impl FnOnce(&mut BTreeSet<Name>) -> bool) {
        let mut names = self.addresses.get(&address).cloned().unwrap_or_default();
        if !change(Arc::make_mut(&mut names)) {
            return;
        }
        if names.is_empty() {
            self.addresses.remove(&address);
        } else {
            self.addresses.insert(address, names);
        }
    }
}
