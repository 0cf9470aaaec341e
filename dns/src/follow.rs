//! Keeps the index in step with the cluster: changes mark services, one task rebuilds the marked ones and
//! publishes the new index whole. What changes while it works is rebuilt in its next round, so a storm of
//! changes costs no more than one rebuild per service and round.

use crate::{
    index::{Index, Service},
    name::ServiceKey,
};
use arc_swap::ArcSwap;
use client::{Change, Informers, Marks, Store, indexes};
use hickory_proto::rr::Name;
use k8s_openapi::api::{
    core::v1::{Namespace, Service as CoreService},
    discovery::v1::EndpointSlice,
};
use std::{collections::HashSet, sync::Arc};

/// A name whose facts changed.
#[derive(PartialEq, Eq, Hash)]
enum Mark {
    /// `namespace/service`
    Service(String),
    Namespace(String),
}

pub(crate) struct Follower {
    zone: Name,
    index: Arc<ArcSwap<Index>>,
    services: Store<CoreService>,
    slices: Store<EndpointSlice>,
    namespaces: Store<Namespace>,
    marks: Marks<Mark>,
}

impl Follower {
    pub(crate) fn new(zone: Name, index: Arc<ArcSwap<Index>>, informers: &Informers) -> Self {
        let marks = Marks::default();
        let (services, slices, namespaces) = (informers.store(), informers.store(), informers.store());
        indexes::index_slices(&slices);
        let m = marks.clone();
        services.on_change(move |change: &Change<CoreService>| {
            let meta = &change.object().metadata;
            let key = format!(
                "{}/{}",
                meta.namespace.as_deref().unwrap_or_default(),
                meta.name.as_deref().unwrap_or_default()
            );
            m.mark(Mark::Service(key));
        });
        let m = marks.clone();
        slices.on_change(move |change: &Change<EndpointSlice>| {
            // The label may have moved the slice from one service to another.
            let old = match change {
                Change::Applied { old: Some(old), .. } => indexes::service_of(old),
                _ => None,
            };
            let new = indexes::service_of(change.object());
            old.into_iter().chain(new).for_each(|key| m.mark(Mark::Service(key)));
        });
        let m = marks.clone();
        namespaces.on_change(move |change: &Change<Namespace>| {
            let name = change.object().metadata.name.clone().unwrap_or_default();
            m.mark(Mark::Namespace(name));
        });
        Self { zone, index, services, slices, namespaces, marks }
    }

    /// Never returns; drop it to stop.
    pub(crate) async fn run(self) {
        tokio::join!(self.services.synced(), self.slices.synced(), self.namespaces.synced());
        // The first round, also when there is nothing, makes the index valid.
        self.round(self.marks.take_now());
        loop {
            self.round(self.marks.take().await);
        }
    }

    fn round(&self, marks: HashSet<Mark>) {
        let old = self.index.load();
        let mut index = Index::clone(&old);
        for mark in marks {
            match mark {
                Mark::Namespace(name) => index.set_namespace(&name, self.namespaces.get("", &name).is_some()),
                Mark::Service(key) => self.service(&mut index, &key),
            }
        }
        index.serial = old.serial.wrapping_add(1);
        index.synced = self.services.is_synced() && self.slices.is_synced() && self.namespaces.is_synced();
        self.index.store(Arc::new(index));
    }
    /// `key`: `namespace/service`
    fn service(&self, index: &mut Index, key: &str) {
        let Some((namespace, name)) = key.split_once('/') else { return };
        let service = self.services.get(namespace, name).and_then(|service| {
            Service::build(&self.zone, &service, &indexes::slices_of_service(&self.slices, key))
        });
        let id = ServiceKey::new(namespace, name);
        if index.service(&id) != service.as_ref() {
            index.set_service(id, service);
        }
    }
}
