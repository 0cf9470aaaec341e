//! What a kubelet may do (Kubernetes' Node authorizer): the rules of the role `system:node`, and of other people's objects
//! only those that pods on its own node use. Who is a node is told by name and group alone.

use super::{
    User,
    authz::{Attributes, refusal},
};
use crate::{
    error::Result,
    registry::{Registry, decode, prefix, storage_error},
};
use k8s_openapi::api::core::v1::{Container, PersistentVolume, Pod, PodSpec};
use storage::{ListOptions, Store};

pub const NODES: &str = "system:nodes";
const USER: &str = "system:node:";
/// The cluster role whose rules every node has.
pub(crate) const ROLE: &str = "system:node";
const LEASES: &str = "kube-node-lease";

/// The node that the user is.
pub(crate) fn name_of(user: &User) -> Option<&str> {
    user.name.strip_prefix(USER).filter(|name| !name.is_empty() && user.is_in(NODES))
}

/// Refuses what the rules allow to some node, but not to this one.
pub(crate) async fn confine(registry: &Registry, user: &User, what: &Attributes<'_>) -> Result<()> {
    let Some(node) = name_of(user) else { return Ok(()) };
    if !what.group.is_empty() {
        let lease = what.group == "coordination.k8s.io" && what.resource == "leases";
        let own = what.namespace == LEASES && (what.name == node || what.verb == "create");
        return if lease && !own { Err(refusal(user, what)) } else { Ok(()) };
    }
    let uses: fn(&PodSpec, &Pod, &str) -> bool = match (what.resource, what.subresource) {
        ("secrets", "") => |spec, _, name| uses_secret(spec, name),
        ("configmaps", "") => |spec, _, name| uses_config_map(spec, name),
        ("persistentvolumeclaims", _) => |spec, pod, name| uses_claim(spec, pod, name),
        ("serviceaccounts", _) => |spec, _, name| spec.service_account_name.as_deref() == Some(name),
        ("persistentvolumes", "") => return volume(registry, user, what, node).await,
        _ => return Ok(()),
    };
    let used = async |name: &str| -> Result<bool> {
        let pods = pods_of(registry, what.namespace, node).await?;
        Ok(pods.iter().any(|pod| pod.spec.as_ref().is_some_and(|spec| uses(spec, pod, name))))
    };
    // A list has no name: nothing says that it is about one object.
    if !what.name.is_empty() && used(what.name).await? { Ok(()) } else { Err(refusal(user, what)) }
}

/// A volume is the node's business through the claim it is bound to.
async fn volume(registry: &Registry, user: &User, what: &Attributes<'_>, node: &str) -> Result<()> {
    let lookup: &dyn crate::admission::Lookup = registry;
    let volume: Option<PersistentVolume> =
        crate::admission::find(lookup, "persistentvolumes", "", what.name).await?;
    let claim = volume.and_then(|v| v.spec?.claim_ref);
    let Some((namespace, name)) = claim.and_then(|c| c.namespace.zip(c.name)) else {
        return Err(refusal(user, what));
    };
    let pods = pods_of(registry, &namespace, node).await?;
    let used = pods.iter().any(|pod| pod.spec.as_ref().is_some_and(|spec| uses_claim(spec, pod, &name)));
    if used { Ok(()) } else { Err(refusal(user, what)) }
}

/// The pods of a namespace that are bound to the node. Only those are decoded.
async fn pods_of(registry: &Registry, namespace: &str, node: &str) -> Result<Vec<Pod>> {
    let Some(kind) = registry.kind_named("pods").filter(|_| !namespace.is_empty()) else {
        return Ok(Vec::new());
    };
    let store: &dyn Store = &**registry.store();
    let list = store.list(&prefix(kind, namespace)?, ListOptions::default()).await.map_err(storage_error)?;
    let bound = format!("\"nodeName\":\"{node}\"");
    let mut pods = Vec::new();
    for kv in list.items {
        if std::str::from_utf8(&kv.value).is_ok_and(|text| text.contains(&bound))
            && let Some(pod) = decode(kind, &kv)?.as_any().downcast_ref::<Pod>()
            && api::pod::node_name(pod) == Some(node)
        {
            pods.push(pod.clone());
        }
    }
    Ok(pods)
}

fn containers(spec: &PodSpec) -> impl Iterator<Item = &Container> {
    spec.init_containers.iter().flatten().chain(&spec.containers)
}

fn uses_secret(spec: &PodSpec, name: &str) -> bool {
    let is = |found: Option<&String>| found.is_some_and(|found| found == name);
    let in_env = containers(spec).any(|c| {
        c.env_from.iter().flatten().any(|e| e.secret_ref.as_ref().is_some_and(|r| r.name == name))
            || c.env.iter().flatten().any(|e| {
                let source = e.value_from.as_ref().and_then(|v| v.secret_key_ref.as_ref());
                source.is_some_and(|r| r.name == name)
            })
    });
    let in_volumes = spec.volumes.iter().flatten().any(|v| {
        is(v.secret.as_ref().and_then(|s| s.secret_name.as_ref()))
            || v.projected
                .iter()
                .flat_map(|p| p.sources.iter().flatten())
                .any(|source| source.secret.as_ref().is_some_and(|s| s.name == name))
    });
    in_env || in_volumes || spec.image_pull_secrets.iter().flatten().any(|r| r.name == name)
}

fn uses_config_map(spec: &PodSpec, name: &str) -> bool {
    let in_env = containers(spec).any(|c| {
        c.env_from.iter().flatten().any(|e| e.config_map_ref.as_ref().is_some_and(|r| r.name == name))
            || c.env.iter().flatten().any(|e| {
                let source = e.value_from.as_ref().and_then(|v| v.config_map_key_ref.as_ref());
                source.is_some_and(|r| r.name == name)
            })
    });
    in_env
        || spec.volumes.iter().flatten().any(|v| {
            v.config_map.as_ref().is_some_and(|m| m.name == name)
                || v.projected
                    .iter()
                    .flat_map(|p| p.sources.iter().flatten())
                    .any(|source| source.config_map.as_ref().is_some_and(|m| m.name == name))
        })
}

fn uses_claim(spec: &PodSpec, pod: &Pod, name: &str) -> bool {
    let pod_name = pod.metadata.name.as_deref().unwrap_or_default();
    spec.volumes.iter().flatten().any(|v| {
        v.persistent_volume_claim.as_ref().is_some_and(|c| c.claim_name == name)
            || (v.ephemeral.is_some() && name == format!("{pod_name}-{}", v.name))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::AUTHENTICATED;
    use serde_json::json;

    #[test]
    fn a_node_is_known_by_name_and_group() {
        let user = |name: &str, group: &str| User {
            name: name.to_owned(),
            groups: vec![group.to_owned()],
            ..User::default()
        };
        for (user, expected) in [
            (user("system:node:n1", NODES), Some("n1")),
            (user("system:node:n1", AUTHENTICATED), None),
            (user("system:node:", NODES), None),
            (user("n1", NODES), None),
        ] {
            assert_eq!(name_of(&user), expected, "{user:?}");
        }
    }

    #[test]
    fn what_a_pod_uses() {
        let pod: Pod = serde_json::from_value(json!({
            "metadata": {"name": "p"},
            "spec": {
                "imagePullSecrets": [{"name": "pull"}],
                "initContainers": [{"name": "i", "envFrom": [{"secretRef": {"name": "from"}}, {"configMapRef": {"name": "mfrom"}}]}],
                "containers": [{"name": "c", "env": [
                    {"name": "A", "valueFrom": {"secretKeyRef": {"name": "key", "key": "k"}}},
                    {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "mkey", "key": "k"}}}]}],
                "volumes": [
                    {"name": "v1", "secret": {"secretName": "vol"}},
                    {"name": "v2", "configMap": {"name": "mvol"}},
                    {"name": "v3", "projected": {"sources": [{"secret": {"name": "proj"}}, {"configMap": {"name": "mproj"}}]}},
                    {"name": "v4", "persistentVolumeClaim": {"claimName": "claim"}},
                    {"name": "v5", "ephemeral": {}},
                ],
            },
        }))
        .unwrap();
        let spec = pod.spec.as_ref().unwrap();
        for name in ["pull", "from", "key", "vol", "proj"] {
            assert!(uses_secret(spec, name) && !uses_config_map(spec, name), "{name}");
        }
        for name in ["mfrom", "mkey", "mvol", "mproj"] {
            assert!(uses_config_map(spec, name) && !uses_secret(spec, name), "{name}");
        }
        for (name, used) in [("claim", true), ("p-v5", true), ("v5", false), ("vol", false)] {
            assert_eq!(uses_claim(spec, &pod, name), used, "{name}");
        }
    }
}
