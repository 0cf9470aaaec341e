//! Fetching what a pod's volumes need, and making them.

use super::Prepared;
use crate::{
    downward::Addresses,
    node_context::Context,
    objects::{self, Objects},
    volume::{self, Claims, Sources, TokenRequest, Tokens},
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::{
    authentication::v1::{
        BoundObjectReference, TokenRequest as TokenReview, TokenRequestSpec, TokenRequestStatus,
    },
    core::v1::{PersistentVolume, PersistentVolumeClaim, Pod},
};
use kube::Api;
use std::sync::Arc;

/// A token is replaced when this part of its life is over, or after a day (the real kubelet's rule).
const TOKEN_USED: i32 = 80;
const TOKEN_DAY: SignedDuration = SignedDuration::from_hours(24);

/// Makes all volumes of the pod be as its spec and the objects say now. `Err` is the message of event FailedMount.
pub(super) async fn prepare(context: Arc<Context>, pod: Pod) -> Result<Prepared, String> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let references = objects::of_volumes(&pod);
    let said = |error: kube::Error| error.to_string();
    let (objects, claims, tokens) = tokio::join!(
        Objects::fetch(&context.client, &namespace, &references),
        claims(&context, &pod, &namespace),
        tokens(&context, &pod, &namespace),
    );
    let (objects, claims, (tokens, refresh)) = (objects.map_err(said)?, claims.map_err(said)?, tokens?);
    let machine = &context.machine;
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let pod_ip = match crate::container_spec::host_network(&pod) {
        true => machine.node_ip,
        false => context.addresses.allocate(&uid),
    };
    let addresses = Addresses {
        pod_ip: pod_ip.map(|ip| ip.to_string()),
        host_ip: machine.node_ip.map(|ip| ip.to_string()),
    };
    let plans = volume::resolve(&Sources {
        pod: &pod,
        objects: &objects,
        claims: &claims,
        tokens: &tokens,
        addresses: &addresses,
        allocatable: &machine.allocatable,
    })?;
    let dir = context.pod_dir(&uid);
    let made = tokio::task::spawn_blocking(move || volume::materialize(&dir, &plans, Timestamp::now())).await;
    let volumes = made.unwrap_or_else(|error| Err(error.to_string()))?;
    Ok(Prepared { volumes, refresh })
}

async fn claims(context: &Context, pod: &Pod, namespace: &str) -> kube::Result<Claims> {
    let mut found = Claims::new();
    for name in volume::claim_names(pod) {
        let api: Api<PersistentVolumeClaim> = Api::namespaced(context.client.clone(), namespace);
        let Some(claim) = api.get_opt(&name).await? else { continue };
        let bound =
            claim.spec.as_ref().and_then(|spec| spec.volume_name.clone()).filter(|name| !name.is_empty());
        let volume = match bound {
            Some(volume) => Api::<PersistentVolume>::all(context.client.clone()).get_opt(&volume).await?,
            None => None,
        };
        found.insert(name, (claim, volume));
    }
    Ok(found)
}

/// Tokens for the projected volumes, and when the first of them has to be replaced.
async fn tokens(
    context: &Context,
    pod: &Pod,
    namespace: &str,
) -> Result<(Tokens, Option<Timestamp>), String> {
    let mut tokens = Tokens::new();
    let mut refresh: Option<Timestamp> = None;
    for wanted in volume::token_requests(pod) {
        let key = (wanted.volume.clone(), wanted.path.clone());
        let issued = request(context, pod, namespace, &wanted).await.map_err(|error| {
            format!(
                "MountVolume.SetUp failed for volume {:?} : failed to fetch token: {error}",
                wanted.volume
            )
        })?;
        let now = Timestamp::now();
        if let Some(end) = &issued.expiration_timestamp {
            let life = end.0.duration_since(now);
            let due = now.checked_add((life * TOKEN_USED / 100).min(TOKEN_DAY)).unwrap_or(now);
            refresh = Some(refresh.map_or(due, |earlier| earlier.min(due)));
        }
        tokens.insert(key, issued.token.unwrap_or_default());
    }
    Ok((tokens, refresh))
}

async fn request(
    context: &Context,
    pod: &Pod,
    namespace: &str,
    wanted: &TokenRequest,
) -> Result<TokenRequestStatus, String> {
    let account =
        pod.spec.as_ref().and_then(|spec| spec.service_account_name.as_deref()).unwrap_or("default");
    let body = TokenReview {
        spec: Some(TokenRequestSpec {
            audiences: wanted.audience.clone().map(|audience| vec![audience]),
            expiration_seconds: Some(wanted.expiration_seconds),
            bound_object_ref: Some(BoundObjectReference {
                api_version: Some("v1".to_owned()),
                kind: Some("Pod".to_owned()),
                name: pod.metadata.name.clone(),
                uid: pod.metadata.uid.clone(),
            }),
        }),
        ..TokenReview::default()
    };
    let body = serde_json::to_vec(&body).map_err(|error| error.to_string())?;
    let request =
        http::Request::post(format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token"))
            .header(http::header::CONTENT_TYPE, "application/json")
            .body(body)
            .map_err(|error| error.to_string())?;
    let answer: TokenReview = context.client.request(request).await.map_err(|error| error.to_string())?;
    answer.status.ok_or_else(|| "the answer holds no token".to_owned())
}
