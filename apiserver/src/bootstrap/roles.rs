//! The roles and bindings of `auth::rbac::policy`, made at the first start and put right at every other one: what is
//! missing of them comes back, what was added stays, and one that a person took out of our hands (annotation
//! `rbac.authorization.kubernetes.io/autoupdate: "false"`) is left alone.

use super::in_namespace;
use crate::auth::rbac::{
    policy::{self, AUTO_UPDATE},
    rules::{joined, missing},
};
use futures::future::try_join_all;
use k8s_openapi::{
    api::rbac::v1::{ClusterRole, PolicyRule, RoleRef, Subject},
    apimachinery::pkg::apis::meta::v1::ObjectMeta,
};
use kube::{
    Api, Client, Resource,
    api::{DeleteParams, ListParams, PostParams},
};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::{HashMap, HashSet},
    fmt::Debug,
};

/// A kind of role or binding, as far as putting it right goes.
trait Policy: Clone + Debug + Serialize + DeserializeOwned + Resource<DynamicType = ()> {
    /// Makes `self` hold at least what `want` does; whether that changed anything.
    fn amend(&mut self, want: &Self) -> bool;
    /// Whether it cannot be amended: a binding to another role has to be made anew.
    fn replaced(&self, _want: &Self) -> bool {
        false
    }
}

impl Policy for ClusterRole {
    fn amend(&mut self, want: &Self) -> bool {
        let mut changed = amend_meta(&mut self.metadata, &want.metadata);
        if want.aggregation_rule.is_some() && self.aggregation_rule != want.aggregation_rule {
            self.aggregation_rule.clone_from(&want.aggregation_rule);
            changed = true;
        }
        amend_rules(&mut self.rules, &want.rules) | changed
    }
}

impl Policy for k8s_openapi::api::rbac::v1::Role {
    fn amend(&mut self, want: &Self) -> bool {
        amend_meta(&mut self.metadata, &want.metadata) | amend_rules(&mut self.rules, &want.rules)
    }
}

macro_rules! binding {
    ($kind:ident) => {
        impl Policy for k8s_openapi::api::rbac::v1::$kind {
            fn amend(&mut self, want: &Self) -> bool {
                amend_meta(&mut self.metadata, &want.metadata)
                    | amend_subjects(&mut self.subjects, &want.subjects)
            }
            fn replaced(&self, want: &Self) -> bool {
                differs(&self.role_ref, &want.role_ref)
            }
        }
    };
}
binding!(ClusterRoleBinding);
binding!(RoleBinding);

fn differs(have: &RoleRef, want: &RoleRef) -> bool {
    (&have.kind, &have.name) != (&want.kind, &want.name)
}

fn amend_meta(have: &mut ObjectMeta, want: &ObjectMeta) -> bool {
    let mut changed = false;
    for (key, value) in want.labels.iter().flatten() {
        let labels = have.labels.get_or_insert_default();
        changed |= labels.insert(key.clone(), value.clone()).as_ref() != Some(value);
    }
    for (key, value) in want.annotations.iter().flatten() {
        let annotations = have.annotations.get_or_insert_default();
        changed |= annotations.insert(key.clone(), value.clone()).as_ref() != Some(value);
    }
    changed
}

fn amend_rules(have: &mut Option<Vec<PolicyRule>>, want: &Option<Vec<PolicyRule>>) -> bool {
    let lacking = missing(have.as_deref().unwrap_or_default(), want.as_deref().unwrap_or_default());
    let changed = !lacking.is_empty();
    if changed {
        have.get_or_insert_default().extend(joined(lacking));
    }
    changed
}

fn amend_subjects(have: &mut Option<Vec<Subject>>, want: &Option<Vec<Subject>>) -> bool {
    let same = |a: &Subject, b: &Subject| {
        (&a.kind, &a.name) == (&b.kind, &b.name)
            && a.namespace.as_deref().unwrap_or_default() == b.namespace.as_deref().unwrap_or_default()
    };
    let lacking: Vec<Subject> =
        (want.iter().flatten()).filter(|w| !have.iter().flatten().any(|h| same(h, w))).cloned().collect();
    let changed = !lacking.is_empty();
    if changed {
        have.get_or_insert_default().extend(lacking);
    }
    changed
}

/// Returns when everything is there.
pub(super) async fn ensure(client: &Client) -> kube::Result<()> {
    let want = policy::objects();
    let cluster_roles: Vec<_> = want.cluster_roles.into_values().collect();
    let cluster_bindings: Vec<_> = want.cluster_role_bindings.into_values().collect();
    let roles: Vec<_> = want.roles.into_values().collect();
    let bindings: Vec<_> = want.role_bindings.into_values().collect();
    tokio::try_join!(
        in_one_place(Api::all(client.clone()), &cluster_roles),
        in_one_place(Api::all(client.clone()), &cluster_bindings),
        in_namespaces(client, &roles),
        in_namespaces(client, &bindings),
    )?;
    Ok(())
}

async fn in_namespaces<K>(client: &Client, want: &[K]) -> kube::Result<()>
where
    K: Policy + Resource<Scope = k8s_openapi::NamespaceResourceScope>,
{
    let namespace = |object: &K| object.meta().namespace.clone().unwrap_or_default();
    let namespaces: HashSet<String> = want.iter().map(namespace).collect();
    try_join_all(namespaces.into_iter().map(|here| async move {
        let want: Vec<K> = want.iter().filter(|object| namespace(object) == here).cloned().collect();
        in_one_place(in_namespace(client, &here), &want).await
    }))
    .await?;
    Ok(())
}

/// One list, then only what has to be written, all at once: the store commits it in few groups.
async fn in_one_place<K: Policy>(api: Api<K>, want: &[K]) -> kube::Result<()> {
    let name = |object: &K| object.meta().name.clone().unwrap_or_default();
    let have = api.list(&ListParams::default()).await?;
    let have: HashMap<String, K> = have.items.into_iter().map(|object| (name(&object), object)).collect();
    try_join_all(want.iter().map(|want| put_right(&api, have.get(&name(want)).cloned(), want))).await?;
    Ok(())
}

async fn put_right<K: Policy>(api: &Api<K>, have: Option<K>, want: &K) -> kube::Result<()> {
    let name = want.meta().name.clone().unwrap_or_default();
    let parameters = PostParams::default();
    let Some(mut have) = have else {
        return match api.create(&parameters, want).await {
            // Someone else was quicker.
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(()),
            other => other.map(drop),
        };
    };
    let annotations = have.meta().annotations.as_ref();
    if annotations.and_then(|a| a.get(AUTO_UPDATE)).is_some_and(|value| value == "false") {
        return Ok(());
    }
    if have.replaced(want) {
        api.delete(&name, &DeleteParams::default()).await?;
        return api.create(&parameters, want).await.map(drop);
    }
    if have.amend(want) {
        api.replace(&name, &parameters, &have).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_comes_back_and_what_was_added_stays() {
        let all = policy::objects();
        let want = &all.cluster_roles["system:basic-user"];
        let mut have = want.clone();
        assert!(!have.clone().amend(want), "already right");
        have.metadata.labels = None;
        let own = PolicyRule { verbs: vec!["get".into()], ..PolicyRule::default() };
        have.rules = Some(vec![own.clone()]);
        assert!(have.amend(want));
        assert_eq!(have.metadata.labels, want.metadata.labels);
        let rules = have.rules.clone().unwrap();
        assert_eq!(rules[0], own);
        assert!(missing(&rules, want.rules.as_deref().unwrap()).is_empty());
        assert!(!have.amend(want));

        let want = &all.cluster_role_bindings["system:discovery"];
        let mut have = want.clone();
        have.subjects = None;
        assert!(have.amend(want) && !have.replaced(want));
        assert_eq!(have.subjects, want.subjects);
        have.role_ref.name = "view".into();
        assert!(have.replaced(want));
    }
}
