//! ServiceAccount: every pod runs as one that exists, and finds its credentials mounted.

use super::{Attributes, Lookup, Operation, Plugin, find, typed_mut};
use crate::{error::Result, kinds::AnyObject};
use async_trait::async_trait;
use k8s_openapi::api::core::v1::{
    self as core, ConfigMapProjection, Container, DownwardAPIProjection, DownwardAPIVolumeFile, KeyToPath,
    ObjectFieldSelector, Pod, ProjectedVolumeSource, ServiceAccountTokenProjection, Volume, VolumeMount,
    VolumeProjection,
};
use std::time::Duration;

const DEFAULT_NAME: &str = "default";
const MOUNT_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";
const VOLUME_PREFIX: &str = "kube-api-access-";
/// One hour and seven seconds: the odd number is how Kubernetes recognises tokens it asked for itself.
const TOKEN_SECONDS: i64 = 3607;
const VOLUME_MODE: i32 = 0o644;
const MIRROR: &str = "kubernetes.io/config.mirror";
/// The controller makes `default` moments after the namespace; a pod that comes sooner waits for it:
/// ten looks, 100 ms apart.
const LOOKS: u32 = 10;
const LOOK_AGAIN: Duration = Duration::from_millis(100);
/// Kubernetes' alphabet of generated names: no vowels, so no words.
const ALPHABET: &[u8] = b"bcdfghjklmnpqrstvwxz2456789";

#[derive(Clone, Copy)]
pub(super) struct ServiceAccount;

#[async_trait]
impl Plugin for ServiceAccount {
    fn name(&self) -> &'static str {
        "ServiceAccount"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        a.operation == Operation::Create && a.is("", "pods")
    }

    async fn mutate(
        &self,
        a: &Attributes<'_>,
        object: &mut dyn AnyObject,
        _old: Option<&dyn AnyObject>,
        lookup: &dyn Lookup,
    ) -> Result<()> {
        let pod = typed_mut::<Pod>(object)?;
        let mirror = pod.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(MIRROR));
        let Some(spec) = pod.spec.as_mut() else { return Ok(()) };
        if mirror {
            // The kubelet compares its mirror with the file it came from: nothing may be added.
            let account = spec.service_account_name.as_deref().unwrap_or_default();
            return if account.is_empty() {
                Ok(())
            } else {
                Err(a.forbidden("a mirror pod may not reference service accounts"))
            };
        }
        // `serviceAccount` is the old spelling of the same field.
        let name = [&spec.service_account_name, &spec.service_account]
            .into_iter()
            .flatten()
            .find(|n| !n.is_empty())
            .cloned()
            .unwrap_or_else(|| DEFAULT_NAME.to_owned());
        spec.service_account_name = Some(name.clone());
        spec.service_account = Some(name.clone());

        let Some(account) = existing(lookup, a.namespace, &name).await? else {
            return Err(a.forbidden(format!(
                "error looking up service account {}/{name}: serviceaccount {name:?} not found",
                a.namespace
            )));
        };
        let wanted = spec.automount_service_account_token.or(account.automount_service_account_token);
        if wanted.unwrap_or(true) {
            mount_credentials(spec);
        }
        if spec.image_pull_secrets.as_ref().is_none_or(Vec::is_empty) {
            spec.image_pull_secrets = account.image_pull_secrets.filter(|s| !s.is_empty());
        }
        Ok(())
    }
}

async fn existing(lookup: &dyn Lookup, namespace: &str, name: &str) -> Result<Option<core::ServiceAccount>> {
    let looks = if name == DEFAULT_NAME { LOOKS } else { 1 };
    for look in 1..=looks {
        if let Some(account) = find(lookup, "serviceaccounts", namespace, name).await? {
            return Ok(Some(account));
        }
        if look < looks {
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }
    Ok(None)
}

fn mount_credentials(spec: &mut core::PodSpec) {
    let present =
        spec.volumes.iter().flatten().map(|v| &v.name).find(|name| name.starts_with(VOLUME_PREFIX)).cloned();
    let name = present.clone().unwrap_or_else(|| {
        let letters = (0..5).map(|_| char::from(ALPHABET[fastrand::usize(..ALPHABET.len())]));
        VOLUME_PREFIX.chars().chain(letters).collect()
    });
    let mut used = false;
    for container in spec.init_containers.iter_mut().flatten().chain(spec.containers.iter_mut()) {
        used |= mount(container, &name);
    }
    if used && present.is_none() {
        spec.volumes.get_or_insert_default().push(credentials(name));
    }
}

/// A mount the user put at the same path stays, and wins.
fn mount(container: &mut Container, volume: &str) -> bool {
    let mounts = container.volume_mounts.get_or_insert_default();
    if mounts.iter().any(|m| m.mount_path == MOUNT_PATH) {
        return false;
    }
    mounts.push(VolumeMount {
        name: volume.to_owned(),
        mount_path: MOUNT_PATH.to_owned(),
        read_only: Some(true),
        ..VolumeMount::default()
    });
    true
}

fn credentials(name: String) -> Volume {
    let token = VolumeProjection {
        service_account_token: Some(ServiceAccountTokenProjection {
            path: "token".to_owned(),
            expiration_seconds: Some(TOKEN_SECONDS),
            audience: None,
        }),
        ..VolumeProjection::default()
    };
    let ca = VolumeProjection {
        config_map: Some(ConfigMapProjection {
            name: "kube-root-ca.crt".to_owned(),
            items: Some(vec![KeyToPath { key: "ca.crt".to_owned(), path: "ca.crt".to_owned(), mode: None }]),
            optional: None,
        }),
        ..VolumeProjection::default()
    };
    let field = ObjectFieldSelector {
        api_version: Some("v1".to_owned()),
        field_path: "metadata.namespace".to_owned(),
    };
    let namespace = VolumeProjection {
        downward_api: Some(DownwardAPIProjection {
            items: Some(vec![DownwardAPIVolumeFile {
                path: "namespace".to_owned(),
                field_ref: Some(field),
                ..DownwardAPIVolumeFile::default()
            }]),
        }),
        ..VolumeProjection::default()
    };
    Volume {
        name,
        projected: Some(ProjectedVolumeSource {
            default_mode: Some(VOLUME_MODE),
            sources: Some(vec![token, ca, namespace]),
        }),
        ..Volume::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admission::testing::{Case, object};
    use serde_json::{Value, json};

    fn account(name: &str, rest: Value) -> Value {
        object("v1", "ServiceAccount", "default", name, rest)
    }
    fn pod(spec: Value) -> Value {
        object("v1", "Pod", "default", "web", json!({"spec": spec}))
    }
    fn containers() -> Value {
        json!([{"name": "a", "image": "i"}])
    }
    async fn admitted(accounts: Vec<Value>, spec: Value) -> Result<Value> {
        let case = Case::new("pods", Operation::Create).lookup(accounts);
        case.mutate(&ServiceAccount, &pod(spec)).await.map(|pod| pod["spec"].clone())
    }

    #[tokio::test]
    async fn a_pod_gets_the_default_account_and_its_credentials() {
        let spec = json!({"containers": containers(), "initContainers": [{"name": "i", "image": "i"}]});
        let spec = admitted(vec![account("default", json!({}))], spec).await.unwrap();
        assert_eq!(spec["serviceAccountName"], "default");
        assert_eq!(spec["serviceAccount"], "default");
        let volume = &spec["volumes"][0];
        let name = volume["name"].as_str().unwrap();
        assert!(name.starts_with("kube-api-access-") && name.len() == 21, "{name}");
        assert_eq!(
            volume["projected"],
            json!({"defaultMode": 420, "sources": [
                {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
                {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
                {"downwardAPI": {"items": [
                    {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
            ]})
        );
        let mount = json!([{"name": name, "mountPath": MOUNT_PATH, "readOnly": true}]);
        assert_eq!(spec["containers"][0]["volumeMounts"], mount);
        assert_eq!(spec["initContainers"][0]["volumeMounts"], mount);
    }

    #[tokio::test]
    async fn the_pod_decides_before_the_account_whether_to_mount() {
        let table = [(None, None, true), (None, Some(false), false), (Some(true), Some(false), true)];
        let table = table.into_iter().chain([(Some(false), None, false), (Some(false), Some(true), false)]);
        for (of_pod, of_account, mounted) in table {
            let sa = account("default", json!({"automountServiceAccountToken": of_account}));
            let spec = json!({"containers": containers(), "automountServiceAccountToken": of_pod});
            let spec = admitted(vec![sa], spec).await.unwrap();
            assert_eq!(spec["volumes"].is_array(), mounted, "pod {of_pod:?}, account {of_account:?}");
        }
    }

    #[tokio::test]
    async fn what_the_user_mounted_there_stays() {
        let mine =
            json!([{"name": "a", "image": "i", "volumeMounts": [{"name": "mine", "mountPath": MOUNT_PATH}]}]);
        let spec = json!({"containers": mine, "volumes": [{"name": "mine", "emptyDir": {}}]});
        let spec = admitted(vec![account("default", json!({}))], spec).await.unwrap();
        assert_eq!(spec["volumes"].as_array().unwrap().len(), 1);
        assert_eq!(spec["containers"][0]["volumeMounts"].as_array().unwrap().len(), 1);

        let spec =
            json!({"containers": containers(), "volumes": [{"name": "kube-api-access-own", "emptyDir": {}}]});
        let spec = admitted(vec![account("default", json!({}))], spec).await.unwrap();
        assert_eq!(spec["volumes"].as_array().unwrap().len(), 1);
        assert_eq!(spec["containers"][0]["volumeMounts"][0]["name"], "kube-api-access-own");
    }

    #[tokio::test]
    async fn pull_secrets_come_from_the_account_unless_the_pod_has_its_own() {
        let sa = || account("bot", json!({"imagePullSecrets": [{"name": "reg"}]}));
        let spec = json!({"containers": containers(), "serviceAccountName": "bot"});
        let taken = admitted(vec![sa()], spec.clone()).await.unwrap();
        assert_eq!(taken["imagePullSecrets"], json!([{"name": "reg"}]));
        let mut own = spec;
        own["imagePullSecrets"] = json!([{"name": "mine"}]);
        let kept = admitted(vec![sa()], own).await.unwrap();
        assert_eq!(kept["imagePullSecrets"], json!([{"name": "mine"}]));
    }

    #[tokio::test]
    async fn the_account_must_exist() {
        let spec = json!({"containers": containers(), "serviceAccountName": "ghost"});
        let error = admitted(vec![account("default", json!({}))], spec).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "pods \"web\" is forbidden: error looking up service account default/ghost: serviceaccount \"ghost\" not found"
        );
    }
}
