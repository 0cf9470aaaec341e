//! CertificateSigningRequest: who asks for a certificate, whether they may have one, and the certificate. Stored and
//! served with its approval; a controller signs.

use super::shared::{cells, network, repeats};
use super::{Column, Kind, Subresource};
use api::age;
use api::field::{Errors, Path};
use api::names;
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::certificates::v1::{
    CertificateSigningRequest, CertificateSigningRequestCondition, CertificateSigningRequestStatus,
};
use serde_json::Value;
use x509_parser::{
    certification_request::X509CertificationRequest, error::X509Error, pem::parse_x509_pem, prelude::FromDer,
};

const MIN_SECONDS: i32 = 600;
const USAGES: [&str; 23] = [
    "any",
    "cert sign",
    "client auth",
    "code signing",
    "content commitment",
    "crl sign",
    "data encipherment",
    "decipher only",
    "digital signature",
    "email protection",
    "encipher only",
    "ipsec end system",
    "ipsec tunnel",
    "ipsec user",
    "key agreement",
    "key encipherment",
    "microsoft sgc",
    "netscape sgc",
    "ocsp signing",
    "s/mime",
    "server auth",
    "signing",
    "timestamping",
];
/// Conditions that are True or not there.
const DECISIONS: [&str; 3] = ["Approved", "Denied", "Failed"];
const APPROVALS: [&str; 2] = ["Approved", "Denied"];

pub(super) struct CertificateSigningRequests;

impl Kind for CertificateSigningRequests {
    type Object = CertificateSigningRequest;
    const PLURAL: &'static str = "certificatesigningrequests";
    const SINGULAR: &'static str = "certificatesigningrequest";
    const SHORT_NAMES: &'static [&'static str] = &["csr"];
    const NAMESPACED: bool = false;
    const SUBRESOURCES: &'static [Subresource] = &[Subresource::Status, Subresource::Approval];
    const COLUMNS: &'static [Column] = &[
        Column::name(),
        Column::age(),
        Column::new("SignerName", "string", 0, "Who is asked to sign."),
        Column::new("Requestor", "string", 0, "Who asks."),
        Column::new("RequestedDuration", "string", 0, "How long the certificate shall be valid."),
        Column::new("Condition", "string", 0, "What became of it."),
    ];
    const SELECTABLE: &'static [&'static str] = &["spec.signerName"];

    fn check_name(name: &str) -> Vec<String> {
        names::path_segment(name)
    }

    fn default(object: &mut CertificateSigningRequest) {
        let usages = &mut object.spec.usages;
        *usages = usages.take().filter(|u| !u.is_empty());
    }

    fn prepare_create(object: &mut CertificateSigningRequest) {
        object.status = Some(Default::default());
    }

    fn prepare_update(new: &mut CertificateSigningRequest, old: &CertificateSigningRequest) {
        new.spec = old.spec.clone();
        new.status = old.status.clone();
    }

    fn prepare_status_update(new: &mut CertificateSigningRequest, old: &CertificateSigningRequest) {
        new.spec = old.spec.clone();
        let is_approval = |c: &CertificateSigningRequestCondition| APPROVALS.contains(&c.type_.as_str());
        let status = new.status.get_or_insert_default();
        let mut all = status.conditions.take().unwrap_or_default();
        all.retain(|c| !is_approval(c));
        let mut kept: Vec<_> = conditions(old).iter().filter(|c| is_approval(c)).cloned().collect();
        kept.append(&mut all);
        status.conditions = Some(kept).filter(|c| !c.is_empty());
    }

    fn prepare_part_update(
        _: Subresource,
        new: &mut CertificateSigningRequest,
        old: &CertificateSigningRequest,
    ) {
        new.spec = old.spec.clone();
        let given = new.status.take().and_then(|s| s.conditions);
        let before = old.status.clone().unwrap_or_default();
        new.status = Some(CertificateSigningRequestStatus { conditions: given, ..before });
    }

    fn validate(object: &CertificateSigningRequest) -> Errors {
        let (mut errors, path, spec) = (Errors::default(), Path::new("spec"), &object.spec);
        if let Err(why) = read(&spec.request.0) {
            errors.invalid(&path.child("request"), &spec.request, why);
        }
        let usages = spec.usages.as_deref().unwrap_or_default();
        let at = path.child("usages");
        if usages.is_empty() {
            errors.required(&at, "");
        }
        let repeated = repeats(usages);
        for (i, usage) in usages.iter().enumerate() {
            if !USAGES.contains(&usage.as_str()) {
                errors.not_supported(&at.index(i), usage, &USAGES);
            }
            if repeated[i] {
                errors.duplicate(&at.index(i), usage);
            }
        }
        let signer = path.child("signerName");
        if spec.signer_name == "kubernetes.io/legacy-unknown" {
            let detail = "the legacy signerName is not allowed via this API version";
            errors.invalid(&signer, &spec.signer_name, detail);
        } else {
            network::domain_prefixed(&spec.signer_name, &signer, &mut errors);
        }
        if let Some(seconds) = spec.expiration_seconds.filter(|s| *s < MIN_SECONDS) {
            let detail = "may not specify a duration less than 600 seconds (10 minutes)";
            errors.invalid(&path.child("expirationSeconds"), seconds, detail);
        }
        validate_conditions(object, &mut errors);
        errors
    }

    fn validate_status_update(new: &CertificateSigningRequest, old: &CertificateSigningRequest) -> Errors {
        let mut errors = Errors::default();
        validate_conditions(new, &mut errors);
        not_removed(new, old, &mut errors);
        let certificate =
            |c: &CertificateSigningRequest| c.status.as_ref().and_then(|s| s.certificate.clone());
        if certificate(old).is_some_and(|c| !c.0.is_empty()) && certificate(new) != certificate(old) {
            let path = Path::new("status").child("certificate");
            errors.forbidden(&path, "updates may not modify existing certificate content");
        }
        errors
    }

    fn validate_part_update(
        _: Subresource,
        new: &CertificateSigningRequest,
        old: &CertificateSigningRequest,
    ) -> Errors {
        let mut errors = Errors::default();
        validate_conditions(new, &mut errors);
        not_removed(new, old, &mut errors);
        errors
    }

    fn row(object: &CertificateSigningRequest, now: Timestamp) -> Vec<Value> {
        let spec = &object.spec;
        let duration =
            spec.expiration_seconds.map(|s| age::human_duration(SignedDuration::from_secs(s.into())));
        let is = |type_: &str| conditions(object).iter().any(|c| c.type_ == type_);
        let mut state = match (is("Denied"), is("Approved")) {
            (true, _) => "Denied",
            (false, true) => "Approved",
            (false, false) => "Pending",
        }
        .to_owned();
        if is("Failed") {
            state.push_str(",Failed");
        }
        let certificate = object.status.as_ref().and_then(|s| s.certificate.as_ref());
        if certificate.is_some_and(|c| !c.0.is_empty()) {
            state.push_str(",Issued");
        }
        vec![
            cells::name(&object.metadata),
            cells::age(&object.metadata, now),
            cells::text_or(Some(&spec.signer_name), "<none>").into(),
            cells::text(spec.username.as_ref()),
            duration.unwrap_or_else(|| "<none>".to_owned()).into(),
            state.into(),
        ]
    }

    fn selectable_fields(object: &CertificateSigningRequest) -> Vec<(&'static str, String)> {
        vec![("spec.signerName", object.spec.signer_name.clone())]
    }
}

fn conditions(object: &CertificateSigningRequest) -> &[CertificateSigningRequestCondition] {
    object.status.as_ref().and_then(|s| s.conditions.as_deref()).unwrap_or_default()
}

/// The request itself: one, in PEM.
fn read(pem: &[u8]) -> Result<(), &'static str> {
    const WRONG: &str = "PEM block type must be CERTIFICATE REQUEST";
    let (_, block) = parse_x509_pem(pem).map_err(|_| WRONG)?;
    if block.label != "CERTIFICATE REQUEST" {
        return Err(WRONG);
    }
    let (_, request) = X509CertificationRequest::from_der(&block.contents)
        .map_err(|_| "the certificate request cannot be parsed")?;
    match request.verify_signature() {
        // Whoever asks must have the key. What cannot be verified here, others may know how to.
        Err(X509Error::SignatureVerificationError) => {
            Err("the certificate request's signature does not fit its key")
        }
        _ => Ok(()),
    }
}

fn validate_conditions(object: &CertificateSigningRequest, errors: &mut Errors) {
    let (path, all) = (Path::new("status").child("conditions"), conditions(object));
    let repeated = repeats(all.iter().map(|c| c.type_.as_str()));
    for (i, (condition, again)) in all.iter().zip(repeated).enumerate() {
        let path = path.index(i);
        if condition.type_.is_empty() {
            errors.required(&path.child("type"), "");
        }
        let allowed: &[&str] = if DECISIONS.contains(&condition.type_.as_str()) {
            &["True"]
        } else {
            &["False", "True", "Unknown"]
        };
        match condition.status.as_str() {
            "" => errors.required(&path.child("status"), ""),
            status if allowed.contains(&status) => {}
            other => errors.not_supported(&path.child("status"), other, allowed),
        }
        if again {
            errors.duplicate(&path.child("type"), &condition.type_);
        }
    }
    if APPROVALS.iter().all(|type_| all.iter().any(|c| c.type_ == *type_)) {
        errors.invalid(&path, "Denied", "Approved and Denied conditions are mutually exclusive");
    }
}

fn not_removed(new: &CertificateSigningRequest, old: &CertificateSigningRequest, errors: &mut Errors) {
    let has = |object, type_: &str| conditions(object).iter().any(|c| c.type_ == type_);
    for type_ in DECISIONS.into_iter().filter(|t| has(old, t) && !has(new, t)) {
        let detail = format!("updates may not remove a condition of type {type_:?}");
        errors.forbidden(&Path::new("status").child("conditions"), detail);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{at, object, texts};
    use serde_json::json;

    fn request(conditions: Value) -> CertificateSigningRequest {
        object(json!({"metadata": {"name": "r", "creationTimestamp": at(0)},
                      "spec": {"request": "eA==", "signerName": "example.com/s", "usages": ["client auth"], "username": "ann",
                               "expirationSeconds": 3600},
                      "status": {"conditions": conditions}}))
    }

    #[test]
    fn rules_and_row() {
        assert_eq!(
            texts(CertificateSigningRequests::validate(&request(json!([])))),
            ["spec.request: Invalid value: \"eA==\": PEM block type must be CERTIFICATE REQUEST"]
        );
        let approved = request(json!([{"type": "Approved", "status": "True"}]));
        let row = CertificateSigningRequests::row(&approved, "1970-01-01T00:00:07Z".parse().unwrap());
        assert_eq!(json!(row), json!(["r", "7s", "example.com/s", "ann", "60m", "Approved"]));
        let both =
            request(json!([{"type": "Approved", "status": "True"}, {"type": "Denied", "status": "True"}]));
        assert_eq!(
            texts(CertificateSigningRequests::validate_part_update(Subresource::Approval, &both, &approved))
                .len(),
            1
        );
        let taken_back = request(json!([]));
        assert_eq!(
            texts(CertificateSigningRequests::validate_part_update(
                Subresource::Approval,
                &taken_back,
                &approved
            )),
            ["status.conditions: Forbidden: updates may not remove a condition of type \"Approved\""]
        );
    }

    #[test]
    fn only_the_approval_approves() {
        let old = request(json!([]));
        let mut new =
            request(json!([{"type": "Approved", "status": "True"}, {"type": "Failed", "status": "True"}]));
        CertificateSigningRequests::prepare_status_update(&mut new, &old);
        assert_eq!(conditions(&new).iter().map(|c| c.type_.as_str()).collect::<Vec<_>>(), ["Failed"]);
    }
}
