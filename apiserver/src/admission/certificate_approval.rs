//! CertificateApproval, CertificateSigning and CertificateSubjectRestriction: whoever decides on a request for a certificate,
//! or hands the certificate in, must be allowed to for its signer; nobody asks to be an administrator.

use super::{Attributes, Lookup, Operation, Plugin, typed};
use crate::{
    auth::{Authorizer, MASTERS, authz},
    error::Result,
    kinds::{AnyObject, Subresource},
};
use async_trait::async_trait;
use k8s_openapi::api::certificates::v1::CertificateSigningRequest;
use std::sync::Arc;
use x509_parser::{certification_request::X509CertificationRequest, pem::parse_x509_pem, prelude::FromDer};

const GROUP: &str = "certificates.k8s.io";
/// Whose certificates name users of this API server.
const CLIENT_SIGNER: &str = "kubernetes.io/kube-apiserver-client";

#[derive(Clone)]
pub(super) struct CertificateApproval {
    pub(super) authorizer: Arc<Authorizer>,
}

#[async_trait]
impl Plugin for CertificateApproval {
    fn name(&self) -> &'static str {
        "CertificateApproval"
    }

    fn handles(&self, a: &Attributes<'_>) -> bool {
        let r = a.kind.resource();
        r.group == GROUP
            && r.plural == "certificatesigningrequests"
            && matches!(
                (a.operation, a.subresource),
                (Operation::Create, None)
                    | (Operation::Update, Some(Subresource::Approval | Subresource::Status))
            )
    }

    async fn validate(
        &self,
        a: &Attributes<'_>,
        object: Option<&dyn AnyObject>,
        old: Option<&dyn AnyObject>,
        _lookup: &dyn Lookup,
    ) -> Result<()> {
        let Some(object) = object else { return Ok(()) };
        let new = typed::<CertificateSigningRequest>(object)?;
        let Some(old) = old.map(typed::<CertificateSigningRequest>).transpose()? else {
            return subject(a, new);
        };
        let signer = &old.spec.signer_name;
        let certificate = |csr: &CertificateSigningRequest| csr.status.as_ref()?.certificate.clone();
        match a.subresource {
            Some(Subresource::Approval) if !self.may(a, "approve", signer) => {
                Err(a.forbidden(format!("user not permitted to approve requests with signerName {signer:?}")))
            }
            Some(Subresource::Status)
                if certificate(new) != certificate(old) && !self.may(a, "sign", signer) =>
            {
                Err(a.forbidden(format!("user not permitted to sign requests with signerName {signer:?}")))
            }
            _ => Ok(()),
        }
    }
}

impl CertificateApproval {
    /// For this signer, or for all of its domain (`example.com/*`).
    fn may(&self, a: &Attributes<'_>, verb: &str, signer: &str) -> bool {
        let domain = signer.split('/').next().unwrap_or_default();
        [signer.to_owned(), format!("{domain}/*")].iter().any(|name| {
            let what = authz::Attributes {
                verb,
                group: GROUP,
                version: "*",
                resource: "signers",
                name,
                ..authz::Attributes::default()
            };
            self.authorizer.allowed(a.user, &what)
        })
    }
}

/// A certificate of this server's own signer must not make anyone its master.
fn subject(a: &Attributes<'_>, csr: &CertificateSigningRequest) -> Result<()> {
    if csr.spec.signer_name != CLIENT_SIGNER
        || !organizations(&csr.spec.request.0).iter().any(|o| o == MASTERS)
    {
        return Ok(());
    }
    Err(a.forbidden(format!("use of {CLIENT_SIGNER} signer with {MASTERS} group is not allowed")))
}

/// What cannot be read the kind has refused already.
fn organizations(pem: &[u8]) -> Vec<String> {
    let Ok((_, block)) = parse_x509_pem(pem) else { return Vec::new() };
    let Ok((_, request)) = X509CertificationRequest::from_der(&block.contents) else { return Vec::new() };
    let names = request.certification_request_info.subject.iter_organization();
    names.filter_map(|o| o.as_str().ok().map(str::to_owned)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        admission::testing::{Case, object},
        auth::User,
    };
    use base64::{Engine, engine::general_purpose::STANDARD};
    use serde_json::{Value, json};

    fn request(organization: &str, signer: &str, status: Value) -> Value {
        let mut params = rcgen::CertificateParams::default();
        params.distinguished_name.push(rcgen::DnType::OrganizationName, organization);
        let key = rcgen::KeyPair::generate().unwrap();
        let pem = params.serialize_request(&key).unwrap().pem().unwrap();
        let spec = json!({"request": STANDARD.encode(pem), "signerName": signer, "usages": []});
        object(
            "certificates.k8s.io/v1",
            "CertificateSigningRequest",
            "",
            "r",
            json!({"spec": spec, "status": status}),
        )
    }

    fn plugin() -> CertificateApproval {
        CertificateApproval { authorizer: Arc::new(Authorizer::with_defaults()) }
    }

    #[tokio::test]
    async fn each_signer_has_those_who_speak_for_it() {
        let (approval, status) = (Some(Subresource::Approval), Some(Subresource::Status));
        let controller = || User::service_account("kube-system", "certificate-controller");
        let jane = || User::of("jane", &[]);
        let kubelet = "kubernetes.io/kube-apiserver-client-kubelet";
        for (user, signer, how, allowed) in [
            (controller(), kubelet, approval, true),
            (controller(), CLIENT_SIGNER, approval, false),
            (controller(), CLIENT_SIGNER, status, true),
            (controller(), "example.com/s", status, false),
            (jane(), kubelet, approval, false),
            (jane(), kubelet, status, false),
            (User::component("admin"), "example.com/s", approval, true),
        ] {
            let case = Case::new("certificatesigningrequests", Operation::Update)
                .user(user.clone())
                .subresource(how);
            let old = request("dev", signer, json!({}));
            let mut new = old.clone();
            new["status"] = json!({"certificate": "eA=="});
            let answer = case.validate(&plugin(), Some(&new), Some(&old)).await;
            assert_eq!(answer.is_ok(), allowed, "{} {signer} {how:?}", user.name);
        }
    }

    #[tokio::test]
    async fn nobody_asks_to_be_a_master() {
        for (organization, signer, allowed) in
            [("dev", CLIENT_SIGNER, true), (MASTERS, "example.com/s", true), (MASTERS, CLIENT_SIGNER, false)]
        {
            let case = Case::new("certificatesigningrequests", Operation::Create);
            let answer =
                case.validate(&plugin(), Some(&request(organization, signer, json!({}))), None).await;
            assert_eq!(answer.is_ok(), allowed, "{organization} {signer}");
        }
    }
}
