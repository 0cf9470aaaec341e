//! Finding or pulling a container's image.
//!
//! The Engine's own store is the cluster's: an image that was built or imported here just works. So `Always` means "see
//! whether the registry has a newer one", and when it cannot be asked the local one is used; an image that came from no
//! registry (no digest) is not asked for at all. The event says which of these it was.

use crate::{
    node_context::Context,
    runtime::{Error, Image, RegistryAuth, Result},
};
use base64::Engine;
use k8s_openapi::api::core::v1::{Container as Spec, Pod, Secret};
use kube::Api;
use std::{sync::Arc, time::Duration};

/// How long a start may wait for a registry when there is a local image to fall back to.
const REFRESH: Duration = Duration::from_secs(10);

pub(super) async fn ensure(context: Arc<Context>, pod: Pod, spec: Spec) -> Result<Image> {
    let name = spec.image.clone().unwrap_or_default();
    let say = |warning: bool, reason: &str, message: String| {
        context.event(&pod, Some(&spec.name), warning, reason, &message);
    };
    let local = context.runtime.image(&name).await?;
    match (policy(&spec, &name), local) {
        ("Never", None) => Err(Error::ImageNeverPull(name)),
        ("Always", Some(image)) if !image.digests.is_empty() => {
            say(false, "Pulling", format!("Pulling image {name:?}"));
            let pull = pull(&context, &pod, &name);
            match tokio::time::timeout(REFRESH, pull).await {
                Ok(Ok(fresh)) => {
                    say(false, "Pulled", format!("Successfully pulled image {name:?}"));
                    Ok(fresh)
                }
                Ok(Err(error @ Error::Unavailable(_))) => Err(error),
                Ok(Err(error)) => {
                    let text =
                        format!("Using the local image {name:?}, for the registry did not give it: {error}");
                    say(true, "Pulled", text);
                    Ok(image)
                }
                Err(_) => {
                    let wait = REFRESH.as_secs();
                    say(
                        true,
                        "Pulled",
                        format!("Using the local image {name:?}: no answer from the registry in {wait} s"),
                    );
                    Ok(image)
                }
            }
        }
        ("Always", Some(image)) => {
            let text =
                format!("Container image {name:?} was made on this machine and is in no registry: using it");
            say(false, "Pulled", text);
            Ok(image)
        }
        (_, Some(image)) => {
            say(false, "Pulled", format!("Container image {name:?} already present on machine"));
            Ok(image)
        }
        (_, None) => {
            say(false, "Pulling", format!("Pulling image {name:?}"));
            let begun = std::time::Instant::now();
            let image = pull(&context, &pod, &name).await?;
            let took = begun.elapsed();
            let size = image.size_bytes;
            say(
                false,
                "Pulled",
                format!("Successfully pulled image {name:?} in {took:.1?}. Image size: {size} bytes."),
            );
            Ok(image)
        }
    }
}

/// The spec's policy; unset it is Always for `latest`, else IfNotPresent (the API server fills it in, but pods may come
/// from elsewhere).
fn policy<'a>(spec: &'a Spec, name: &str) -> &'a str {
    match spec.image_pull_policy.as_deref() {
        Some(policy) if !policy.is_empty() => policy,
        _ if name.ends_with(":latest") || !name.rsplit('/').next().unwrap_or(name).contains(':') => "Always",
        _ => "IfNotPresent",
    }
}

/// Pulls with each credential that fits, then without.
async fn pull(context: &Context, pod: &Pod, name: &str) -> Result<Image> {
    let mut last = None;
    for auth in credentials(context, pod, name).await {
        match context.runtime.pull(name, Some(auth)).await {
            Err(Error::ImagePull { image, message }) => last = Some(Error::ImagePull { image, message }),
            other => return other,
        }
    }
    match (context.runtime.pull(name, None).await, last) {
        (Err(Error::ImagePull { .. }), Some(error)) => Err(error),
        (result, _) => result,
    }
}

/// Credentials for the image's registry from the pod's imagePullSecrets; a secret that is missing is skipped, as Kubernetes
/// does.
async fn credentials(context: &Context, pod: &Pod, name: &str) -> Vec<RegistryAuth> {
    let registry = registry(name);
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let secrets = pod.spec.iter().flat_map(|spec| spec.image_pull_secrets.iter().flatten());
    let mut found = Vec::new();
    for reference in secrets {
        let api: Api<Secret> = Api::namespaced(context.client.clone(), namespace);
        match api.get_opt(&reference.name).await {
            Ok(Some(secret)) => found.extend(from_secret(&secret, registry)),
            Ok(None) => {}
            Err(error) => {
                tracing::warn!(%error, secret = %reference.name, "reading an image pull secret failed")
            }
        }
    }
    found
}

const DOCKER_HUB: &str = "docker.io";

/// The host an image name is pulled from.
fn registry(name: &str) -> &str {
    match name.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host,
        _ => DOCKER_HUB,
    }
}

fn from_secret(secret: &Secret, registry: &str) -> Option<RegistryAuth> {
    let data = secret.data.as_ref()?;
    let parsed = |key: &str| serde_json::from_slice::<serde_json::Value>(&data.get(key)?.0).ok();
    let auths =
        parsed(".dockerconfigjson").map(|mut json| json["auths"].take()).or_else(|| parsed(".dockercfg"))?;
    let (server, entry) = auths.as_object()?.iter().find(|(server, _)| matches_registry(server, registry))?;
    let text = |key: &str| entry[key].as_str().unwrap_or_default().to_owned();
    let (mut username, mut password) = (text("username"), text("password"));
    if let Some(both) = entry["auth"].as_str()
        && let Ok(decoded) = base64::engine::general_purpose::STANDARD.decode(both)
        && let Some((user, pass)) = String::from_utf8_lossy(&decoded).split_once(':')
    {
        (username, password) = (user.to_owned(), pass.to_owned());
    }
    Some(RegistryAuth { server: server.clone(), username, password, identity_token: text("identitytoken") })
}

fn matches_registry(server: &str, registry: &str) -> bool {
    let host = server.trim_start_matches("https://").trim_start_matches("http://");
    let host = host.split('/').next().unwrap_or(host);
    host == registry
        || (registry == DOCKER_HUB && (host == "index.docker.io" || host == "registry-1.docker.io"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn registries() {
        for (name, expected) in [
            ("busybox", "docker.io"),
            ("library/busybox:1", "docker.io"),
            ("localhost/x", "localhost"),
            ("r.example:5000/a/b", "r.example:5000"),
        ] {
            assert_eq!(registry(name), expected);
        }
    }

    #[test]
    fn credentials_from_a_secret() {
        let auth = base64::engine::general_purpose::STANDARD.encode("me:pa:ss");
        let config = json!({"auths": {"https://index.docker.io/v1/": {"auth": auth}, "r.example": {"username": "u", "password": "p"}}});
        let data = base64::engine::general_purpose::STANDARD.encode(config.to_string());
        let secret: Secret = serde_json::from_value(json!({"data": {".dockerconfigjson": data}})).unwrap();
        let hub = from_secret(&secret, "docker.io").unwrap();
        assert_eq!((hub.username.as_str(), hub.password.as_str()), ("me", "pa:ss"));
        assert_eq!(from_secret(&secret, "r.example").unwrap().password, "p");
        assert_eq!(from_secret(&secret, "other.example"), None);
    }

    #[test]
    fn policies() {
        let check = |set: Option<&str>, name: &str, expected: &str| {
            let spec = Spec { image_pull_policy: set.map(str::to_owned), ..Spec::default() };
            assert_eq!(policy(&spec, name), expected, "{name}");
        };
        check(None, "a", "Always");
        check(None, "r:5000/a", "Always");
        check(None, "a:latest", "Always");
        check(None, "a:1", "IfNotPresent");
        check(Some("Never"), "a:latest", "Never");
    }
}
