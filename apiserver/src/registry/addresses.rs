//! The IPAddress objects of services: each cluster address that a service holds has one, so that everybody sees who holds
//! what, and whoever makes one by hand reserves the address.
//!
//! They are written and removed in the very commit that writes or removes the service, so at most one service ever holds an
//! address. Writes about one address go one after another. An object that a person deletes while a service holds its address
//! is made again at once; what earlier versions stored without such objects gets them at start.

use super::{Registry, allocate::Reservation, create::now, decode, key, prefix, storage_error};
use crate::{
    admission::typed,
    error::{ApiError, Result},
    kinds::AnyObject,
    state::App,
};
use api::field::{Errors, Path};
use futures::{StreamExt, stream};
use k8s_openapi::{
    Metadata,
    api::{
        core::v1::Service,
        networking::v1::{IPAddress, IPAddressSpec, ParentReference},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time},
};
use std::{
    collections::{BTreeMap, HashMap},
    net::Ipv4Addr,
    time::Duration,
};
use storage::{Change, ListOptions, Revision};
use tokio::{sync::MutexGuard, time::Instant};

const SERVICES: &str = "services";
const LABELS: [(&str, &str); 2] = [
    ("ipaddress.kubernetes.io/ip-family", "IPv4"),
    ("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io"),
];
/// How often all of them are compared with the services: what people change by hand is rare, and harms nobody until then.
const EVERY: Duration = Duration::from_secs(3 * 60);
/// Corrections under way at once: enough to fill one group commit of the store.
const WORKERS: usize = 32;

/// What is to be written along with an object because of an address.
#[derive(Default)]
pub(super) struct Along<'r> {
    writes: Vec<(storage::Key, Change)>,
    /// Whether an address that is given up stays taken, because its object is still there.
    pub(super) stays: bool,
    /// The address of an object that is made by hand.
    pub(super) reservation: Option<Reservation>,
    _turn: Option<MutexGuard<'r, ()>>,
}

impl Along<'_> {
    pub(super) fn take_writes(&mut self) -> Vec<(storage::Key, Change)> {
        std::mem::take(&mut self.writes)
    }
}

/// One thing that is wrong between services and objects.
#[derive(Debug, PartialEq, Eq)]
struct Fault {
    address: Ipv4Addr,
    /// The object to be removed, at this revision.
    remove: Option<Revision>,
    /// The service to get one.
    holder: Option<(String, String)>,
}

/// The refusal of a service whose address got an object meanwhile.
pub(super) fn taken(object: &dyn AnyObject) -> ApiError {
    let spec = object.as_any().downcast_ref::<Service>().and_then(|service| service.spec.as_ref());
    let addresses = spec.and_then(|s| s.cluster_ips.clone()).unwrap_or_default();
    let mut errors = Errors::default();
    let detail = format!("failed to allocate IP {}: provided IP is already allocated", addresses.join(","));
    errors.invalid(&Path::new("spec").child("clusterIPs"), addresses, detail);
    ApiError::Invalid {
        group: String::new(),
        kind: "Service".to_owned(),
        name: object.meta().name.clone().unwrap_or_default(),
        errors,
    }
}

/// Compares all services with all objects until the server stops.
pub async fn run(app: App) {
    // The first was done before the first request.
    let mut ticks = tokio::time::interval_at(Instant::now() + EVERY, EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = app.stop.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if let Err(error) = app.registry.mend_addresses().await {
            tracing::warn!(%error, "the IPAddress objects could not be compared with the services");
        }
    }
}

impl Registry {
    /// What stored services and objects hold must not be handed out again, and every address has its object. Before the
    /// first request is served.
    pub(crate) async fn restore_addresses(&self) -> Result<()> {
        for (_, service) in self.all_of::<Service>(SERVICES).await? {
            self.allocator().restore(&service);
        }
        for (_, object) in self.all_of::<IPAddress>("ipaddresses").await? {
            if let Some(address) = self.allocator().address(name_of(&object)) {
                self.allocator().note(address);
            }
        }
        self.mend_addresses().await
    }

    /// What goes with the write of `new` in place of `old`; `None` is none there.
    pub(super) async fn along(
        &self,
        new: Option<&dyn AnyObject>,
        old: Option<&dyn AnyObject>,
    ) -> Result<Along<'_>> {
        let service = |object: Option<&dyn AnyObject>| {
            let address = self.allocator().address_of(object?.as_any().downcast_ref()?)?;
            Some((address, object?.meta().clone()))
        };
        let (after, before) = (service(new), service(old));
        if let Some((address, meta)) = &before
            && after.as_ref().is_none_or(|(a, _)| a != address)
        {
            let mut along = Along { _turn: Some(self.address_turn(*address).await), ..Along::default() };
            self.give_up(*address, meta, &mut along).await?;
            // A service has no other address at once: what it has cannot be changed, only given up.
            return Ok(along);
        }
        if let Some((address, meta)) = &after
            && before.is_none()
        {
            let turn = self.address_turn(*address).await;
            let write = self.object_for(*address, meta)?;
            return Ok(Along { writes: write.into_iter().collect(), _turn: Some(turn), ..Along::default() });
        }
        let by_hand = |object: &dyn AnyObject| {
            let object = object.as_any().downcast_ref::<IPAddress>()?;
            self.allocator().address(name_of(object))
        };
        match (new.and_then(by_hand), old.and_then(by_hand)) {
            (Some(address), None) => {
                let turn = self.address_turn(address).await;
                let Some(reservation) = self.allocator().hold(address) else {
                    return Err(exists(address));
                };
                Ok(Along { reservation: Some(reservation), _turn: Some(turn), ..Along::default() })
            }
            (None, Some(address)) => {
                Ok(Along { _turn: Some(self.address_turn(address).await), ..Along::default() })
            }
            _ => Ok(Along::default()),
        }
    }

    /// Removes the address's object with the service, if it is the service's own. One that has finalizers is only marked.
    async fn give_up(&self, address: Ipv4Addr, service: &ObjectMeta, along: &mut Along<'_>) -> Result<()> {
        let Some(kind) = self.kind_named("ipaddresses") else { return Ok(()) };
        let key = key(kind, "", &address.to_string())?;
        let Some(kv) = self.0.store.get(&key).await.map_err(storage_error)? else { return Ok(()) };
        let mut object = decode(kind, &kv)?;
        let parent = &typed::<IPAddress>(&*object)?.spec.parent_ref;
        along.stays =
            !is_of(parent, service) || object.meta().finalizers.as_ref().is_some_and(|f| !f.is_empty());
        if !along.stays {
            let last = self.encode(kind, object.as_mut())?;
            along.writes.push((key, Change::Delete { expected: kv.modified, last }));
        } else if is_of(&typed::<IPAddress>(&*object)?.spec.parent_ref, service)
            && object.meta().deletion_timestamp.is_none()
        {
            object.meta_mut().deletion_timestamp = Some(Time(now()));
            object.meta_mut().deletion_grace_period_seconds = Some(0);
            let value = self.encode(kind, object.as_mut())?;
            along.writes.push((key, Change::Update { expected: kv.modified, value }));
        }
        Ok(())
    }

    /// After the object of an address is gone, in the address's turn: a service that holds it gets a new one.
    pub(super) async fn vacated(&self, object: &IPAddress) {
        let Some(address) = self.allocator().address(name_of(object)) else { return };
        let parent = &object.spec.parent_ref;
        let made = if parent.resource == SERVICES && parent.group.as_deref().unwrap_or_default().is_empty() {
            self.make(address, parent.namespace.as_deref().unwrap_or_default(), &parent.name).await
        } else {
            Ok(false)
        };
        match made {
            Ok(true) => {}
            Ok(false) => self.allocator().free(address),
            // It stays taken; the next comparison makes it.
            Err(error) => {
                tracing::warn!(%error, %address, "the IPAddress object of a service could not be made again")
            }
        }
    }

    /// Makes the object of an address if this service holds it; whether it does. In the address's turn.
    async fn make(&self, address: Ipv4Addr, namespace: &str, name: &str) -> Result<bool> {
        let Some(kind) = self.kind_named(SERVICES) else { return Ok(false) };
        // A name that is none names no service.
        let Ok(key) = key(kind, namespace, name) else { return Ok(false) };
        let Some(kv) = self.0.store.get(&key).await.map_err(storage_error)? else { return Ok(false) };
        let service = decode(kind, &kv)?;
        if self.allocator().address_of(typed(&*service)?) != Some(address) {
            return Ok(false);
        }
        self.allocator().note(address);
        let writes: Vec<_> = self.object_for(address, service.meta())?.into_iter().collect();
        match self.0.store.write(writes).await {
            Ok(_) => {
                tracing::info!(%address, service = %format_args!("{namespace}/{name}"), "its IPAddress was made")
            }
            Err(storage::Error::AlreadyExists(_)) => {}
            Err(error) => return Err(storage_error(error)),
        }
        Ok(true)
    }

    /// The write that makes the object of a service's address.
    fn object_for(&self, address: Ipv4Addr, service: &ObjectMeta) -> Result<Option<(storage::Key, Change)>> {
        let Some(kind) = self.kind_named("ipaddresses") else { return Ok(None) };
        let name = address.to_string();
        let key = key(kind, "", &name)?;
        let labels = LABELS.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned()));
        let mut object = IPAddress {
            metadata: ObjectMeta {
                name: Some(name),
                uid: Some(uuid::Uuid::new_v4().to_string()),
                creation_timestamp: Some(Time(now())),
                labels: Some(labels.collect::<BTreeMap<_, _>>()),
                ..ObjectMeta::default()
            },
            spec: IPAddressSpec {
                parent_ref: ParentReference {
                    group: None,
                    resource: SERVICES.to_owned(),
                    namespace: service.namespace.clone(),
                    name: service.name.clone().unwrap_or_default(),
                },
            },
        };
        Ok(Some((key, Change::Create { value: self.encode(kind, &mut object)? })))
    }

    async fn address_turn(&self, address: Ipv4Addr) -> MutexGuard<'_, ()> {
        self.0.address_turns.of(&address.to_string()).await
    }

    /// Every service that holds an address gets its object, and no object says that a service holds what it does not.
    async fn mend_addresses(&self) -> Result<()> {
        // In this order: a service that comes or goes in between has no object that seems to be nobody's.
        let objects = self.all_of::<IPAddress>("ipaddresses").await?;
        let services = self.all_of::<Service>(SERVICES).await?;
        let known = objects.iter().filter_map(|(revision, object)| {
            Some((self.allocator().address(name_of(object))?, *revision, object))
        });
        let held = services
            .iter()
            .filter_map(|(_, service)| Some((self.allocator().address_of(service)?, service.metadata())));
        let faults = plan(held, known);
        let mut running =
            stream::iter(faults.into_iter().map(|fault| self.mend(fault))).buffer_unordered(WORKERS);
        while let Some(mended) = running.next().await {
            mended?;
        }
        Ok(())
    }

    async fn mend(&self, fault: Fault) -> Result<()> {
        let Some(kind) = self.kind_named("ipaddresses") else { return Ok(()) };
        let address = fault.address;
        if let Some(expected) = fault.remove {
            let key = key(kind, "", &address.to_string())?;
            let Some(kv) = self.0.store.get(&key).await.map_err(storage_error)? else { return Ok(()) };
            let mut object = decode(kind, &kv)?;
            let last = self.encode(kind, object.as_mut())?;
            match self.remove(&key, expected, last, object.as_ref()).await? {
                Ok(_) => {
                    tracing::info!(%address, "an IPAddress object that belongs to no service was removed")
                }
                // It changed since: the next comparison sees how it is now.
                Err(storage::Error::Conflict { .. } | storage::Error::NotFound(_)) => return Ok(()),
                Err(error) => return Err(storage_error(error)),
            }
        }
        let Some((namespace, name)) = &fault.holder else { return Ok(()) };
        let _turn = self.address_turn(address).await;
        self.make(address, namespace, name).await.map(drop)
    }

    async fn all_of<T: 'static + Clone>(&self, plural: &str) -> Result<Vec<(Revision, T)>> {
        let Some(kind) = self.kind_named(plural) else { return Ok(Vec::new()) };
        let list =
            self.0.store.list(&prefix(kind, "")?, ListOptions::default()).await.map_err(storage_error)?;
        let read = |kv: &storage::KeyValue| Ok((kv.modified, typed::<T>(&*decode(kind, kv)?)?.clone()));
        list.items.iter().map(read).collect()
    }
}

/// What is wrong between the addresses that services hold and the objects that there are.
fn plan<'a>(
    held: impl Iterator<Item = (Ipv4Addr, &'a ObjectMeta)>,
    objects: impl Iterator<Item = (Ipv4Addr, Revision, &'a IPAddress)>,
) -> Vec<Fault> {
    let mut holders: BTreeMap<Ipv4Addr, Vec<&ObjectMeta>> = BTreeMap::new();
    for (address, service) in held {
        holders.entry(address).or_default().push(service);
    }
    let objects: HashMap<Ipv4Addr, (Revision, &IPAddress)> = objects.map(|(a, r, o)| (a, (r, o))).collect();
    let mut faults = Vec::new();
    for (address, services) in &holders {
        // Of two that hold the same since times before these objects, one has it.
        let named = |service: &&&ObjectMeta| {
            objects.get(address).is_some_and(|(_, object)| is_of(&object.spec.parent_ref, service))
        };
        let own = services.iter().find(named);
        let remove = match objects.get(address) {
            Some((_, object)) if own.is_some() && is_managed(object) => continue,
            Some((_, object)) if is_going(object) => continue,
            other => other.map(|(revision, _)| *revision),
        };
        let holder = own.or(services.first()).map(|service| {
            (service.namespace.clone().unwrap_or_default(), service.name.clone().unwrap_or_default())
        });
        faults.push(Fault { address: *address, remove, holder });
    }
    let leaked = objects.iter().filter(|(address, (_, object))| {
        !holders.contains_key(address) && is_managed(object) && !is_going(object)
    });
    faults.extend(leaked.map(|(address, (revision, _))| Fault {
        address: *address,
        remove: Some(*revision),
        holder: None,
    }));
    faults
}

fn name_of(object: &IPAddress) -> &str {
    object.metadata.name.as_deref().unwrap_or_default()
}

fn is_of(parent: &ParentReference, service: &ObjectMeta) -> bool {
    parent.resource == SERVICES
        && parent.group.as_deref().unwrap_or_default().is_empty()
        && parent.namespace.as_deref().unwrap_or_default() == service.namespace.as_deref().unwrap_or_default()
        && parent.name == service.name.as_deref().unwrap_or_default()
}

/// Whether it carries the labels of those that are made here.
fn is_managed(object: &IPAddress) -> bool {
    let labels = object.metadata.labels.as_ref();
    LABELS.iter().all(|(k, v)| labels.and_then(|l| l.get(*k)).is_some_and(|value| value == v))
}

/// Whether somebody's finalizer still keeps it: then it goes when that is taken off.
fn is_going(object: &IPAddress) -> bool {
    object.metadata.finalizers.as_ref().is_some_and(|f| !f.is_empty())
}

fn exists(address: Ipv4Addr) -> ApiError {
    ApiError::AlreadyExists {
        group: "networking.k8s.io".to_owned(),
        resource: "ipaddresses.networking.k8s.io".to_owned(),
        name: address.to_string(),
        deleting: false,
    }
}

#[cfg(test)]
mod tests;
