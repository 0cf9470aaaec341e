//! The ConfigMaps and Secrets a pod refers to, fetched when they are needed.
//!
//! They are read from the API server, not from a cache: a pod may be created a moment after the ConfigMap it needs, and
//! must not see an older one. Informers only tell when to look again.

use k8s_openapi::api::core::v1::{ConfigMap, Container, Pod, Secret};
use kube::Api;
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    ConfigMap,
    Secret,
}

impl Kind {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::ConfigMap => "ConfigMap",
            Kind::Secret => "Secret",
        }
    }
    pub(crate) fn plural(self) -> &'static str {
        match self {
            Kind::ConfigMap => "configmaps",
            Kind::Secret => "secrets",
        }
    }
    pub(crate) fn not_found(self, name: &str) -> String {
        format!("{} {name:?} not found", self.name().to_lowercase())
    }
}

pub(crate) type Data = BTreeMap<String, Vec<u8>>;

/// Objects by kind and name; one that does not exist is known to be missing.
#[derive(Debug, Clone, Default)]
pub(crate) struct Objects {
    found: BTreeMap<(Kind, String), Option<Arc<Data>>>,
}

impl Objects {
    pub(crate) fn data(&self, kind: Kind, name: &str) -> Option<&Data> {
        self.found.get(&(kind, name.to_owned()))?.as_deref()
    }

    #[cfg(test)]
    pub(crate) fn insert(&mut self, kind: Kind, name: &str, data: Option<Data>) {
        self.found.insert((kind, name.to_owned()), data.map(Arc::new));
    }

    /// Gets all of them at once. An error is one of the API server; a missing object is none.
    pub(crate) async fn fetch(
        client: &kube::Client,
        namespace: &str,
        references: &BTreeSet<(Kind, String)>,
    ) -> kube::Result<Self> {
        let gets = references.iter().map(|(kind, name)| async move {
            let data = match kind {
                Kind::ConfigMap => Api::<ConfigMap>::namespaced(client.clone(), namespace)
                    .get_opt(name)
                    .await?
                    .map(config_map_data),
                Kind::Secret => {
                    Api::<Secret>::namespaced(client.clone(), namespace).get_opt(name).await?.map(secret_data)
                }
            };
            Ok::<_, kube::Error>(((*kind, name.clone()), data.map(Arc::new)))
        });
        Ok(Self { found: futures::future::try_join_all(gets).await?.into_iter().collect() })
    }
}

fn config_map_data(object: ConfigMap) -> Data {
    let text = object.data.into_iter().flatten().map(|(key, value)| (key, value.into_bytes()));
    text.chain(object.binary_data.into_iter().flatten().map(|(key, value)| (key, value.0))).collect()
}

fn secret_data(object: Secret) -> Data {
    object.data.into_iter().flatten().map(|(key, value)| (key, value.0)).collect()
}

/// Every ConfigMap and Secret the pod's volumes name.
pub(crate) fn of_volumes(pod: &Pod) -> BTreeSet<(Kind, String)> {
    let mut all = BTreeSet::new();
    let mut add = |kind: Kind, name: &str| {
        if !name.is_empty() {
            all.insert((kind, name.to_owned()));
        }
    };
    for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
        if let Some(source) = &volume.config_map {
            add(Kind::ConfigMap, &source.name);
        }
        if let Some(name) = volume.secret.as_ref().and_then(|source| source.secret_name.as_ref()) {
            add(Kind::Secret, name);
        }
        for part in volume.projected.iter().flat_map(|p| p.sources.iter().flatten()) {
            if let Some(source) = &part.config_map {
                add(Kind::ConfigMap, &source.name);
            }
            if let Some(source) = &part.secret {
                add(Kind::Secret, &source.name);
            }
        }
    }
    all
}

/// Every ConfigMap and Secret a container's variables name.
pub(crate) fn of_env(container: &Container) -> BTreeSet<(Kind, String)> {
    let mut all = BTreeSet::new();
    let mut add = |kind: Kind, name: &str| {
        if !name.is_empty() {
            all.insert((kind, name.to_owned()));
        }
    };
    for from in container.env_from.iter().flatten() {
        from.config_map_ref.iter().for_each(|r| add(Kind::ConfigMap, &r.name));
        from.secret_ref.iter().for_each(|r| add(Kind::Secret, &r.name));
    }
    for from in container.env.iter().flatten().filter_map(|var| var.value_from.as_ref()) {
        from.config_map_key_ref.iter().for_each(|r| add(Kind::ConfigMap, &r.name));
        from.secret_key_ref.iter().for_each(|r| add(Kind::Secret, &r.name));
    }
    all
}
