//! CertificateSigningRequests: what nodes ask for themselves is approved, what is approved is signed with the cluster's
//! CA, what is old goes.
//!
//! Kubernetes has three controllers for this, with one role. Here they are one loop: [`decide`] says what is next.

mod request;
mod sign;

use crate::{
    context::{Ctx, delete_as_seen, name},
    error::{Error, Result, is_conflict, is_not_found},
    run::{Controller, Next, ObjectKey},
};
use async_trait::async_trait;
use client::{Queue, Store};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::{
    ByteString,
    api::{
        authorization::v1::{ResourceAttributes, SubjectAccessReview, SubjectAccessReviewSpec},
        certificates::v1::{CertificateSigningRequest, CertificateSigningRequestCondition},
    },
    apimachinery::pkg::apis::meta::v1::Time,
};
use kube::api::PostParams;
use request::Request;
use std::{sync::Arc, time::Duration};

pub use sign::{Authority, CannotSign};

/// Kubernetes' times after which requests go: those that somebody decided on, and those that nobody did.
const DECIDED: SignedDuration = SignedDuration::from_hours(1);
const UNDECIDED: SignedDuration = SignedDuration::from_hours(24);
/// Over a deadline, so that it has passed when it is looked at again.
const MARGIN: Duration = Duration::from_secs(1);

const KUBELET_CLIENT: &str = "kubernetes.io/kube-apiserver-client-kubelet";
const SIGNERS: [&str; 4] = [
    "kubernetes.io/kube-apiserver-client",
    KUBELET_CLIENT,
    "kubernetes.io/kubelet-serving",
    "kubernetes.io/legacy-unknown",
];

pub struct Certificates {
    ctx: Arc<Ctx>,
    requests: Store<CertificateSigningRequest>,
}

/// What comes next for a request.
#[derive(Debug, PartialEq)]
enum Act {
    Delete,
    /// If whoever asks may have it without a person's word: with one of these subresources.
    Approve(&'static [&'static str]),
    Sign,
    /// It is not one for its signer.
    Fail(String),
    /// Nothing before this time.
    Wait(Timestamp),
}

fn conditions(csr: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    csr.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default()
}

fn decide(csr: &CertificateSigningRequest, now: Timestamp) -> Act {
    let found = |type_: &str| conditions(csr).iter().find(|c| c.type_ == type_ && c.status == "True");
    let certificate = csr.status.as_ref().and_then(|s| s.certificate.as_ref()).filter(|c| !c.0.is_empty());
    let made = csr.metadata.creation_timestamp.as_ref().map_or(now, |t| t.0);
    let told = |c: &CertificateSigningRequestCondition| c.last_update_time.as_ref().map_or(made, |t| t.0);
    let after = |time: Timestamp, wait: SignedDuration| time.checked_add(wait).unwrap_or(Timestamp::MAX);
    let (approved, denied, failed) = (found("Approved"), found("Denied"), found("Failed"));
    let mut end = match (denied.or(failed), approved) {
        (Some(ended), _) => after(told(ended), DECIDED),
        (None, Some(approved)) if certificate.is_some() => after(told(approved), DECIDED),
        (None, Some(approved)) => after(told(approved), UNDECIDED),
        (None, None) => after(made, UNDECIDED),
    };
    if let Some(expires) = certificate.and_then(|pem| sign::not_after(&pem.0)) {
        end = end.min(expires);
    }
    if end <= now {
        return Act::Delete;
    }
    if certificate.is_some() || denied.is_some() || failed.is_some() {
        return Act::Wait(end);
    }
    let signer = csr.spec.signer_name.as_str();
    if !SIGNERS.contains(&signer) {
        return Act::Wait(end);
    }
    let Ok(request) = Request::parse(&csr.spec.request.0) else { return Act::Wait(end) };
    let usages: Vec<&str> = csr.spec.usages.iter().flatten().map(String::as_str).collect();
    let verdict = request.is_for(signer, &usages);
    match (approved.is_some(), verdict) {
        (true, Ok(())) => Act::Sign,
        (true, Err(why)) => Act::Fail(why),
        (false, Ok(())) if signer == KUBELET_CLIENT => {
            if csr.spec.username.as_deref() == Some(request.common_name.as_str()) {
                Act::Approve(&["selfnodeclient", "nodeclient"])
            } else {
                Act::Approve(&["nodeclient"])
            }
        }
        (false, _) => Act::Wait(end),
    }
}

impl Certificates {
    pub fn new(ctx: Arc<Ctx>) -> Self {
        Self { requests: ctx.informers.store(), ctx }
    }

    /// As seen, or it is decided anew. The wrapper of `kube::Api` for tests has no subresources but status.
    fn api(&self) -> kube::Api<CertificateSigningRequest> {
        kube::Api::all(self.ctx.client.clone())
    }

    /// Whether whoever asked may have it so.
    async fn may(&self, csr: &CertificateSigningRequest, subresource: &str) -> Result<bool> {
        let review = SubjectAccessReview {
            spec: SubjectAccessReviewSpec {
                user: csr.spec.username.clone(),
                uid: csr.spec.uid.clone(),
                groups: csr.spec.groups.clone(),
                extra: csr.spec.extra.clone(),
                resource_attributes: Some(ResourceAttributes {
                    group: Some("certificates.k8s.io".to_owned()),
                    resource: Some("certificatesigningrequests".to_owned()),
                    verb: Some("create".to_owned()),
                    subresource: Some(subresource.to_owned()),
                    version: Some("*".to_owned()),
                    ..ResourceAttributes::default()
                }),
                ..SubjectAccessReviewSpec::default()
            },
            ..SubjectAccessReview::default()
        };
        let reviews: kube::Api<SubjectAccessReview> = kube::Api::all(self.ctx.client.clone());
        let answer = reviews.create(&PostParams::default(), &review).await?;
        Ok(answer.status.is_some_and(|status| status.allowed))
    }

    async fn approve(&self, csr: &CertificateSigningRequest, ways: &[&str]) -> Result<Next> {
        for way in ways {
            if !self.may(csr, way).await? {
                continue;
            }
            let message = match *way {
                "selfnodeclient" => {
                    "Auto approving self kubelet client certificate after SubjectAccessReview."
                }
                _ => "Auto approving kubelet client certificate after SubjectAccessReview.",
            };
            let new = with(csr, "Approved", "AutoApproved", message, self.ctx.clock.now());
            let (api, how) = (self.api(), PostParams::default());
            return settled(api.replace_subresource("approval", name(&csr.metadata), &how, &new).await);
        }
        // A person decides.
        Ok(Next::After(Duration::try_from(UNDECIDED).unwrap_or(Duration::MAX)))
    }

    async fn sign(&self, csr: &CertificateSigningRequest, now: Timestamp) -> Result<Next> {
        let Some(authority) = &self.ctx.config.authority else { return Ok(Next::Wait) };
        let request = Request::parse(&csr.spec.request.0).map_err(Error::Object)?;
        let usages: Vec<&str> = csr.spec.usages.iter().flatten().map(String::as_str).collect();
        let new = match authority.sign(&request, &usages, csr.spec.expiration_seconds, now) {
            Ok(pem) => {
                let mut new = csr.clone();
                new.status.get_or_insert_default().certificate = Some(ByteString(pem.into_bytes()));
                new
            }
            Err(error) => with(csr, "Failed", "SignerValidationFailure", &error.to_string(), now),
        };
        settled(self.api().replace_status(name(&csr.metadata), &PostParams::default(), &new).await)
    }
}

fn with(
    csr: &CertificateSigningRequest,
    type_: &str,
    reason: &str,
    message: &str,
    now: Timestamp,
) -> CertificateSigningRequest {
    let mut csr = csr.clone();
    let all = csr.status.get_or_insert_default().conditions.get_or_insert_default();
    all.push(CertificateSigningRequestCondition {
        type_: type_.to_owned(),
        status: "True".to_owned(),
        reason: Some(reason.to_owned()),
        message: Some(message.to_owned()),
        last_update_time: Some(Time(now)),
        last_transition_time: None,
    });
    csr
}

/// A write that was not of the newest state is made again when that has been seen.
fn settled(sent: Result<CertificateSigningRequest, kube::Error>) -> Result<Next> {
    match sent {
        Ok(_) => Ok(Next::Wait),
        Err(error) if is_conflict(&error) || is_not_found(&error) => Ok(Next::Wait),
        Err(error) => Err(error.into()),
    }
}

#[async_trait]
impl Controller for Certificates {
    type Key = ObjectKey;
    const NAME: &'static str = "certificate-signing-request";

    fn watch(&self, queue: &Queue<ObjectKey>) {
        let queue = queue.clone();
        self.requests.on_change(move |change| queue.add(ObjectKey::of(&change.object().metadata)));
    }

    async fn reconcile(&self, key: &ObjectKey) -> Result<Next> {
        let Some(csr) = self.requests.get("", &key.name) else { return Ok(Next::Wait) };
        let now = self.ctx.clock.now();
        match decide(&csr, now) {
            Act::Wait(until) => {
                let left = Duration::try_from(until.duration_since(now)).unwrap_or(Duration::ZERO);
                Ok(Next::After(left + MARGIN))
            }
            Act::Delete => {
                tracing::info!(csr = key.name, "removing an old request for a certificate");
                match delete_as_seen(&self.ctx.all::<CertificateSigningRequest>(), &csr.metadata).await {
                    Err(error) if is_not_found(&error) || is_conflict(&error) => Ok(Next::Wait),
                    done => Ok(done.map(|()| Next::Wait)?),
                }
            }
            Act::Approve(ways) => self.approve(&csr, ways).await,
            Act::Sign => self.sign(&csr, now).await,
            Act::Fail(why) => {
                let new = with(&csr, "Failed", "SignerValidationFailure", &why, now);
                settled(self.api().replace_status(&key.name, &PostParams::default(), &new).await)
            }
        }
    }
}

#[cfg(test)]
mod tests;
