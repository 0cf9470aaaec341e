//! The objects every cluster has: made at the first start, put right at every other one.
//!
//! They are written like anyone's, through the API. What exists is left as it is, but for what follows from our own
//! address.

mod roles;

use crate::{Config, registry::allocate::Allocator};
use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        core::v1::{
            EndpointAddress, EndpointPort, EndpointSubset, Endpoints, Namespace, Service, ServicePort,
            ServiceSpec,
        },
        discovery::v1::{Endpoint, EndpointConditions, EndpointPort as SlicePort, EndpointSlice},
        networking::v1::{ServiceCIDR, ServiceCIDRSpec},
        scheduling::v1::PriorityClass,
        storage::v1::StorageClass,
    },
    apimachinery::pkg::{
        apis::meta::v1::{Condition, ObjectMeta, Time},
        util::intstr::IntOrString,
    },
    jiff::Timestamp,
};
use kube::{Api, Client, Resource, api::PostParams};
use serde::{Serialize, de::DeserializeOwned};
use std::{collections::BTreeMap, fmt::Debug, net::IpAddr, time::Duration};
use tracing::warn;

const NAMESPACES: [&str; 4] = ["default", "kube-system", "kube-public", "kube-node-lease"];
const API: &str = "kubernetes";
const DNS: &str = "kube-dns";
/// Where each node's DNS listens; the service proxy turns 53 into it.
const DNS_PORT: i32 = 1053;
const CLASS: &str = "standard";
/// First and longest pause after a failure (a full disk, say); it is tried until it works.
const RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(10));
/// How often it is looked whether the ServiceCIDR is still there, as Kubernetes' API server does.
const KEEP: Duration = Duration::from_secs(10);

/// What there has to be.
pub(crate) struct Objects {
    namespaces: Vec<Namespace>,
    services: Vec<(&'static str, Service)>,
    endpoints: Endpoints,
    slice: EndpointSlice,
    class: StorageClass,
    priorities: [PriorityClass; 2],
    range: ServiceCIDR,
}

impl Objects {
    /// `port` is the one we listen on.
    pub(crate) fn new(config: &Config, allocator: &Allocator, port: u16) -> Self {
        let port = i32::from(port);
        let api = service(
            API,
            allocator.api_address().to_string(),
            [("component", "apiserver"), ("provider", "kubernetes")],
            vec![service_port("https", 443, "TCP", port)],
        );
        let mut dns = service(
            DNS,
            allocator.dns_address().to_string(),
            [("k8s-app", DNS), ("kubernetes.io/name", "KubeDNS")],
            vec![service_port("dns", 53, "UDP", DNS_PORT), service_port("dns-tcp", 53, "TCP", DNS_PORT)],
        );
        // Every node answers for itself.
        dns.spec.get_or_insert_default().internal_traffic_policy = Some("Local".to_owned());
        Self {
            namespaces: NAMESPACES.iter().map(|name| namespace(name)).collect(),
            services: vec![("default", api), ("kube-system", dns)],
            endpoints: endpoints(config.advertise, port),
            slice: slice(config.advertise, port),
            class: class(),
            priorities: priorities(),
            range: range(&config.service_cidr),
        }
    }

    /// Returns when everything is there.
    pub(crate) async fn ensure(&self, client: Client) {
        let mut pause = RETRY.0;
        while let Err(error) = self.try_ensure(&client).await {
            warn!(%error, "the cluster's first objects could not be written, trying again");
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY.1);
        }
    }

    /// Makes the range of the services' addresses again whenever it is gone, until it is dropped.
    pub(crate) async fn keep(&self, client: Client) {
        let ranges = Api::all(client);
        loop {
            tokio::time::sleep(KEEP).await;
            if let Err(error) = ensure_range(&ranges, &self.range).await {
                warn!(%error, "the ServiceCIDR {API} could not be written, trying again");
            }
        }
    }

    async fn try_ensure(&self, client: &Client) -> kube::Result<()> {
        // Together: the store commits them in one group.
        let namespaces = Api::<Namespace>::all(client.clone());
        futures::future::try_join_all(self.namespaces.iter().map(|n| ensure(&namespaces, n, keep))).await?;
        let services = self.services.iter().map(|(namespace, service)| async move {
            ensure(&in_namespace(client, namespace), service, amend_service).await
        });
        let (services, endpoints, slices) = (
            futures::future::try_join_all(services),
            in_namespace(client, "default"),
            in_namespace(client, "default"),
        );
        let classes = Api::all(client.clone());
        let (priorities, ranges) = (Api::all(client.clone()), Api::all(client.clone()));
        tokio::try_join!(
            services,
            ensure(&endpoints, &self.endpoints, |have: &mut Endpoints, want| {
                replace(&mut have.subsets, &want.subsets)
            }),
            ensure(&slices, &self.slice, |have: &mut EndpointSlice, want| {
                replace(&mut have.endpoints, &want.endpoints) | replace(&mut have.ports, &want.ports)
            }),
            ensure(&classes, &self.class, keep),
            futures::future::try_join_all(self.priorities.iter().map(|p| ensure(&priorities, p, keep))),
            ensure_range(&ranges, &self.range),
            roles::ensure(client),
        )?;
        Ok(())
    }
}

fn in_namespace<K>(client: &Client, namespace: &str) -> Api<K>
where
    K: Resource<Scope = NamespaceResourceScope, DynamicType = ()>,
{
    Api::namespaced(client.clone(), namespace)
}

/// Creates what is missing; what exists is written again only if `amend` changed it.
async fn ensure<K>(api: &Api<K>, want: &K, amend: impl Fn(&mut K, &K) -> bool) -> kube::Result<()>
where
    K: Resource<DynamicType = ()> + Clone + Debug + Serialize + DeserializeOwned,
{
    let name = want.meta().name.clone().unwrap_or_default();
    let parameters = PostParams::default();
    let Some(mut have) = api.get_opt(&name).await? else {
        return match api.create(&parameters, want).await {
            // Someone else was quicker.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            other => other.map(drop),
        };
    };
    if amend(&mut have, want) {
        api.replace(&name, &parameters, &have).await?;
    }
    Ok(())
}

/// The range of the services' addresses, and that it is in use. What somebody else said of it stays.
async fn ensure_range(api: &Api<ServiceCIDR>, want: &ServiceCIDR) -> kube::Result<()> {
    ensure(api, want, keep).await?;
    let Some(mut have) = api.get_opt(API).await? else { return Ok(()) };
    let known = |have: &ServiceCIDR| {
        let conditions = have.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default();
        api::conditions::find(conditions, "Ready").is_some()
    };
    if known(&have) || have.metadata.deletion_timestamp.is_some() || have.spec != want.spec {
        return Ok(());
    }
    let ready = Condition {
        type_: "Ready".to_owned(),
        status: "True".to_owned(),
        reason: String::new(),
        message: "Kubernetes Service CIDR is ready".to_owned(),
        observed_generation: None,
        last_transition_time: Time(Timestamp::now()),
    };
    let conditions = have.status.get_or_insert_default().conditions.get_or_insert_default();
    api::conditions::set(conditions, ready, Timestamp::now());
    match api.replace_status(API, &PostParams::default(), &have).await {
        // Its controller was quicker.
        Err(kube::Error::Api(status)) if matches!(status.code, 404 | 409) => Ok(()),
        other => other.map(drop),
    }
}

fn keep<K>(_have: &mut K, _want: &K) -> bool {
    false
}

/// Our port may have changed; the address stays what pods were told.
fn amend_service(have: &mut Service, want: &Service) -> bool {
    let (Some(have), Some(want)) = (have.spec.as_mut(), want.spec.as_ref()) else { return false };
    let target = |spec: &ServiceSpec| -> Vec<_> {
        spec.ports.iter().flatten().map(|p| (p.name.clone(), p.port, p.target_port.clone())).collect()
    };
    if target(have) == target(want) {
        return false;
    }
    have.ports.clone_from(&want.ports);
    true
}

fn replace<T: PartialEq + Clone>(have: &mut T, want: &T) -> bool {
    let differs = have != want;
    if differs {
        have.clone_from(want);
    }
    differs
}

fn labels<const N: usize>(pairs: [(&str, &str); N]) -> Option<BTreeMap<String, String>> {
    Some(pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect())
}

fn namespace(name: &str) -> Namespace {
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    Namespace { metadata, ..Namespace::default() }
}

fn service<const N: usize>(
    name: &str,
    address: String,
    pairs: [(&str, &str); N],
    ports: Vec<ServicePort>,
) -> Service {
    Service {
        metadata: ObjectMeta { name: Some(name.to_owned()), labels: labels(pairs), ..ObjectMeta::default() },
        spec: Some(ServiceSpec {
            type_: Some("ClusterIP".to_owned()),
            cluster_ip: Some(address),
            ports: Some(ports),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn service_port(name: &str, port: i32, protocol: &str, target: i32) -> ServicePort {
    ServicePort {
        name: Some(name.to_owned()),
        port,
        protocol: Some(protocol.to_owned()),
        target_port: Some(IntOrString::Int(target)),
        ..ServicePort::default()
    }
}

fn endpoints(address: IpAddr, port: i32) -> Endpoints {
    Endpoints {
        metadata: ObjectMeta {
            name: Some(API.to_owned()),
            // The slice beside it is made here too, not mirrored.
            labels: labels([("endpointslice.kubernetes.io/skip-mirror", "true")]),
            ..ObjectMeta::default()
        },
        subsets: Some(vec![EndpointSubset {
            addresses: Some(vec![EndpointAddress { ip: address.to_string(), ..EndpointAddress::default() }]),
            ports: Some(vec![EndpointPort {
                name: Some("https".to_owned()),
                port,
                protocol: Some("TCP".to_owned()),
                app_protocol: None,
            }]),
            not_ready_addresses: None,
        }]),
    }
}

fn slice(address: IpAddr, port: i32) -> EndpointSlice {
    EndpointSlice {
        metadata: ObjectMeta {
            name: Some(API.to_owned()),
            labels: labels([("kubernetes.io/service-name", API)]),
            ..ObjectMeta::default()
        },
        address_type: if address.is_ipv4() { "IPv4" } else { "IPv6" }.to_owned(),
        endpoints: Some(vec![Endpoint {
            addresses: vec![address.to_string()],
            conditions: Some(EndpointConditions { ready: Some(true), ..EndpointConditions::default() }),
            ..Endpoint::default()
        }]),
        ports: Some(vec![SlicePort {
            name: Some("https".to_owned()),
            port: Some(port),
            protocol: Some("TCP".to_owned()),
            app_protocol: None,
        }]),
    }
}

fn range(cidr: &str) -> ServiceCIDR {
    ServiceCIDR {
        metadata: ObjectMeta { name: Some(API.to_owned()), ..ObjectMeta::default() },
        spec: Some(ServiceCIDRSpec { cidrs: Some(vec![cidr.to_owned()]) }),
        status: None,
    }
}

/// Those of the system's own pods; people's are below.
fn priorities() -> [PriorityClass; 2] {
    [
        ("system-node-critical", 2_000_001_000, "For pods that must not leave the node they are on."),
        ("system-cluster-critical", 2_000_000_000, "For pods that must run, on whatever node."),
    ]
    .map(|(name, value, description)| PriorityClass {
        metadata: ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() },
        value: Some(value),
        description: Some(description.to_owned()),
        ..PriorityClass::default()
    })
}

fn class() -> StorageClass {
    let annotations = labels([("storageclass.kubernetes.io/is-default-class", "true")]);
    StorageClass {
        metadata: ObjectMeta { name: Some(CLASS.to_owned()), annotations, ..ObjectMeta::default() },
        provisioner: "minik8s.io/host-path".to_owned(),
        reclaim_policy: Some("Delete".to_owned()),
        volume_binding_mode: Some("Immediate".to_owned()),
        ..StorageClass::default()
    }
}
