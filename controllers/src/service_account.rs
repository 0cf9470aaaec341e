//! What every namespace has from the start: the ServiceAccount `default` and the ConfigMap `kube-root-ca.crt`, with
//! which pods know themselves and the API server. Made again when deleted, put right when edited.

use crate::{
    context::{Ctx, name, namespace},
    error::{Result, is_already_exists, is_namespace_terminating, is_not_found},
    run::{Controller, Next},
};
use async_trait::async_trait;
use client::{Change, Queue, Store};
use k8s_openapi::{
    api::core::v1::{ConfigMap, Namespace, ServiceAccount},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::api::PostParams;
use std::{collections::BTreeMap, sync::Arc};

const ACCOUNT: &str = "default";
const ROOT_CA: &str = "kube-root-ca.crt";
const CA_KEY: &str = "ca.crt";
const DESCRIPTION_ANNOTATION: &str = "kubernetes.io/description";
/// What the ConfigMap promises, and what not.
const DESCRIPTION: &str = "Holds the CA that signs the API server's certificate for use inside the cluster.";

/// Makes the ServiceAccount.
pub struct ServiceAccounts {
    ctx: Arc<Ctx>,
    namespaces: Store<Namespace>,
    accounts: Store<ServiceAccount>,
}

/// Makes the ConfigMap, and keeps it as it should be.
pub struct RootCas {
    ctx: Arc<Ctx>,
    namespaces: Store<Namespace>,
    config_maps: Store<ConfigMap>,
}

impl ServiceAccounts {
    pub fn new(ctx: Arc<Ctx>) -> Self {
        Self { namespaces: ctx.informers.store(), accounts: ctx.informers.store(), ctx }
    }

    async fn ensure_account(&self, ns: &str) -> Result<()> {
        if self.accounts.get(ns, ACCOUNT).is_some() {
            return Ok(());
        }
        let account = ServiceAccount { metadata: meta(ns, ACCOUNT), ..ServiceAccount::default() };
        created(self.ctx.api::<ServiceAccount>(ns).create(&PostParams::default(), &account).await)
    }
}

impl RootCas {
    pub fn new(ctx: Arc<Ctx>) -> Self {
        Self { namespaces: ctx.informers.store(), config_maps: ctx.informers.store(), ctx }
    }

    async fn ensure_root_ca(&self, ns: &str) -> Result<()> {
        let api = self.ctx.api::<ConfigMap>(ns);
        let seen = self.config_maps.get(ns, ROOT_CA);
        let Some(wanted) = root_ca(ns, &self.ctx.config.root_ca, seen.as_deref()) else { return Ok(()) };
        if seen.is_none() {
            return created(api.create(&PostParams::default(), &wanted).await);
        }
        match api.replace(ROOT_CA, &PostParams::default(), &wanted).await {
            Ok(_) => Ok(()),
            // Deleted meanwhile: that event starts the next run.
            Err(error) if is_not_found(&error) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Each namespace, when it is new.
fn watch_namespaces(namespaces: &Store<Namespace>, queue: &Queue<String>) {
    let queue = queue.clone();
    namespaces.on_change(move |change| {
        if let Change::Applied { old: None, new } = change {
            queue.add(name(&new.metadata).to_owned());
        }
    });
}

fn is_active(namespaces: &Store<Namespace>, ns: &str) -> bool {
    namespaces.get("", ns).is_some_and(|n| n.metadata.deletion_timestamp.is_none())
}

fn meta(namespace: &str, name: &str) -> ObjectMeta {
    ObjectMeta { namespace: Some(namespace.to_owned()), name: Some(name.to_owned()), ..ObjectMeta::default() }
}

/// Already there is as good as made, and in a namespace that goes nothing is missed.
fn created<T>(result: Result<T, kube::Error>) -> Result<()> {
    match result {
        Ok(_) => Ok(()),
        Err(error)
            if is_already_exists(&error) || is_namespace_terminating(&error) || is_not_found(&error) =>
        {
            Ok(())
        }
        Err(error) => Err(error.into()),
    }
}

/// The ConfigMap as it should be, if that is not how it is. What others added to its metadata stays.
fn root_ca(namespace: &str, ca: &str, seen: Option<&ConfigMap>) -> Option<ConfigMap> {
    let data = BTreeMap::from([(CA_KEY.to_owned(), ca.to_owned())]);
    let (key, text) = (DESCRIPTION_ANNOTATION.to_owned(), DESCRIPTION.to_owned());
    let metadata = seen.map_or_else(|| meta(namespace, ROOT_CA), |s| s.metadata.clone());
    let mut wanted = ConfigMap { metadata, data: Some(data), ..ConfigMap::default() };
    wanted.metadata.annotations.get_or_insert_default().insert(key, text);
    let right = seen.is_some_and(|s| {
        s.data == wanted.data
            && s.binary_data.is_none()
            && s.metadata.annotations == wanted.metadata.annotations
    });
    (!right).then_some(wanted)
}

#[async_trait]
impl Controller for ServiceAccounts {
    /// A namespace.
    type Key = String;
    const NAME: &'static str = "service-account";

    fn watch(&self, queue: &Queue<String>) {
        watch_namespaces(&self.namespaces, queue);
        let q = queue.clone();
        self.accounts.on_change(move |change| {
            if let Change::Deleted(account) = change
                && name(&account.metadata) == ACCOUNT
            {
                q.add(namespace(&account.metadata).to_owned());
            }
        });
    }

    async fn reconcile(&self, ns: &String) -> Result<Next> {
        if is_active(&self.namespaces, ns) {
            self.ensure_account(ns).await?;
        }
        Ok(Next::Wait)
    }
}

#[async_trait]
impl Controller for RootCas {
    /// A namespace.
    type Key = String;
    const NAME: &'static str = "root-ca-publisher";

    fn watch(&self, queue: &Queue<String>) {
        watch_namespaces(&self.namespaces, queue);
        let q = queue.clone();
        self.config_maps.on_change(move |change| {
            let meta = &change.object().metadata;
            if name(meta) == ROOT_CA {
                q.add(namespace(meta).to_owned());
            }
        });
    }

    async fn reconcile(&self, ns: &String) -> Result<Next> {
        if is_active(&self.namespaces, ns) {
            self.ensure_root_ca(ns).await?;
        }
        Ok(Next::Wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_root_ca_is_made_and_put_right() {
        let made = root_ca("ns", "PEM", None).unwrap();
        assert_eq!(made.data.as_ref().unwrap()[CA_KEY], "PEM");
        assert_eq!(root_ca("ns", "PEM", Some(&made)), None);
        let mut edited = made.clone();
        edited.data.as_mut().unwrap().insert(CA_KEY.into(), "other".into());
        edited.metadata.resource_version = Some("5".into());
        edited.metadata.labels = Some(BTreeMap::from([("a".into(), "b".into())]));
        let put_right = root_ca("ns", "PEM", Some(&edited)).unwrap();
        assert_eq!(put_right.data, made.data);
        assert_eq!(
            put_right.metadata.resource_version.as_deref(),
            Some("5"),
            "a write over what was not seen fails"
        );
        assert_eq!(put_right.metadata.labels, edited.metadata.labels);
        let mut emptied = made.clone();
        emptied.data = None;
        assert!(root_ca("ns", "PEM", Some(&emptied)).is_some());
        assert!(root_ca("ns", "new PEM", Some(&made)).is_some(), "the CA was renewed");
    }
}
