//! Keeps the index in step with the cluster: changes mark services, one task rebuilds the marked ones and
//! publishes the new index whole. What changes while it works is rebuilt in its next round, so a storm of
//! changes costs no more than one rebuild per service and round.

use crate::{
    index::{Index, Service},
    name::ServiceKey,
};
use arc_swap::ArcSwap;
use client::{Change, Informers, Store, indexes};
use hickory_proto::rr::Name;
use k8s_openapi::api::{
    core::v1::{Namespace, Service as CoreService},
    discovery::v1::EndpointSlice,
};
use std::{
    collections::HashSet,
    sync::{Arc, Mutex, PoisonError},
};
use tokio::sync::Notify;

/// Names whose facts changed; bounded by the number of objects.
#[derive(Default)]
struct Marked {
    /// `namespace/service`
    services: HashSet<String>,
    namespaces: HashSet<String>,
}

#[derive(Default)]
struct Marks {
    marked: Mutex<Marked>,
    changed: Notify,
}

impl Marks {
    fn mark(&self, mark: impl FnOnce(&mut Marked)) {
        mark(&mut self.marked.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }
}

pub(crate) struct Follower {
    zone: Name,
    index: Arc<ArcSwap<Index>>,
    services: Store<CoreService>,
    slices: Store<EndpointSlice>,
    namespaces: Store<Namespace>,
    marks: Arc<Marks>,
}

impl Follower {
    pub(crate) fn new(zone: Name, index: Arc<ArcSwap<Index>>, informers: &Informers) -> Self {
        let marks = Arc::new(Marks::default());
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
            m.mark(|marked| marked.services.extend([key]));
        });
        let m = marks.clone();
        slices.on_change(move |change: &Change<EndpointSlice>| {
            // The label may have moved the slice from one service to another.
            let old = match change {
                Change::Applied { old: Some(old), .. } => indexes::service_of(old),
                _ => None,
            };
            let new = indexes::service_of(change.object());
            m.mark(|marked| marked.services.extend(old.into_iter().chain(new)));
        });
        let m = marks.clone();
        namespaces.on_change(move |change: &Change<Namespace>| {
            let name = change.object().metadata.name.clone().unwrap_or_default();
            m.mark(|marked| marked.namespaces.extend([name]));
        });
        Self { zone, index, services, slices, namespaces, marks }
    }

    /// Never returns; drop it to stop.
    pub(crate) async fn run(self) {
        tokio::join!(self.services.synced(), self.slices.synced(), self.namespaces.synced());
        loop {
            self.round();
            self.marks.changed.notified().await;
        }
    }

    fn round(&self) {
        let marked = std::mem::take(&mut *self.marks.marked.lock().unwrap_or_else(PoisonError::into_inner));
        let old = self.index.load();
        let mut index = Index::clone(&old);
        for namespace in marked.namespaces {
            index.set_namespace(&namespace, self.namespaces.get("", &namespace).is_some());
        }
        for key in marked.services {
            let Some((namespace, name)) = key.split_once('/') else { continue };
            let service = self.services.get(namespace, name);
            let service = service.and_then(|service| {
                Service::build(&self.zone, &service, &indexes::slices_of_service(&self.slices, &key))
            });
            let id = ServiceKey::new(namespace, name);
            if index.service(&id) != service.as_ref() {
                index.set_service(id, service);
            }
        }
        index.serial = old.serial.wrapping_add(1);
        index.synced = self.services.is_synced() && self.slices.is_synced() && self.namespaces.is_synced();
        self.index.store(Arc::new(index));
    }
}
