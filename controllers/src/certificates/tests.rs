//! Requests as users and kubelets make them, and what becomes of them.

use super::*;
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use serde_json::json;
use x509_parser::{extensions::ParsedExtension, pem::parse_x509_pem};

const NOW: &str = "2026-11-23T00:00:00Z";

fn at(hours: i64) -> Timestamp {
    NOW.parse::<Timestamp>().unwrap() + SignedDuration::from_hours(hours)
}

fn named(pairs: &[(DnType, &str)]) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    for (kind, text) in pairs {
        params.distinguished_name.push(kind.clone(), *text);
    }
    params
}

fn request_of(name: &str, organization: &str, dns: Option<&str>) -> String {
    let mut params = named(&[(DnType::CommonName, name), (DnType::OrganizationName, organization)]);
    if let Some(dns) = dns {
        params.subject_alt_names.push(SanType::DnsName(dns.try_into().unwrap()));
        params.subject_alt_names.push(SanType::IpAddress("10.0.0.1".parse().unwrap()));
    }
    params.serialize_request(&KeyPair::generate().unwrap()).unwrap().pem().unwrap()
}

fn authority() -> (Authority, String) {
    let mut params = named(&[(DnType::CommonName, "minik8s-ca")]);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_after = rcgen::date_time_ymd(2027, 1, 1);
    let key = KeyPair::generate().unwrap();
    let ca = params.self_signed(&key).unwrap().pem();
    (Authority::new(&ca, &key.serialize_pem()).unwrap(), ca)
}

fn csr(
    signer: &str,
    usages: &[&str],
    request: &str,
    conditions: serde_json::Value,
) -> CertificateSigningRequest {
    let mut csr: CertificateSigningRequest = serde_json::from_value(json!({
        "metadata": {"name": "r", "creationTimestamp": NOW},
        "spec": {"signerName": signer, "usages": usages, "request": "", "username": "system:node:n1"},
        "status": {"conditions": conditions},
    }))
    .unwrap();
    csr.spec.request = ByteString(request.as_bytes().to_vec());
    csr
}

const APPROVED: &str = "Approved";

fn told(type_: &str) -> serde_json::Value {
    json!([{"type": type_, "status": "True", "lastUpdateTime": NOW}])
}

#[test]
fn what_comes_next() {
    let client = "kubernetes.io/kube-apiserver-client";
    let (user, node) = (request_of("ann", "dev", None), request_of("system:node:n1", "system:nodes", None));
    let serving = request_of("system:node:n1", "system:nodes", Some("n1"));
    let kubelet = ["digital signature", "client auth"];
    let of = |signer: &str, usages: &[&str], request: &str, conditions, hours| {
        decide(&csr(signer, usages, request, conditions), at(hours))
    };
    assert_eq!(of(client, &["client auth"], &user, json!([]), 1), Act::Wait(at(24)));
    assert_eq!(of(client, &["client auth"], &user, json!([]), 24), Act::Delete);
    assert_eq!(of(client, &["client auth"], &user, told(APPROVED), 0), Act::Sign);
    assert_eq!(of(client, &["client auth"], &user, told("Denied"), 0), Act::Wait(at(1)));
    assert_eq!(of(client, &["client auth"], &user, told("Failed"), 1), Act::Delete);
    let wrong = "invalid usage for client certificate: server auth".to_owned();
    assert_eq!(of(client, &["client auth", "server auth"], &user, told(APPROVED), 0), Act::Fail(wrong));
    let missing = "missing required usage for client certificate: client auth".to_owned();
    assert_eq!(of(client, &["digital signature"], &user, told(APPROVED), 0), Act::Fail(missing));
    assert_eq!(of("example.com/own", &["any"], &user, told(APPROVED), 0), Act::Wait(at(24)));

    assert_eq!(
        of(KUBELET_CLIENT, &kubelet, &node, json!([]), 0),
        Act::Approve(&["selfnodeclient", "nodeclient"])
    );
    let other = request_of("system:node:n2", "system:nodes", None);
    assert_eq!(of(KUBELET_CLIENT, &kubelet, &other, json!([]), 0), Act::Approve(&["nodeclient"]));
    assert_eq!(of(KUBELET_CLIENT, &kubelet, &user, json!([]), 0), Act::Wait(at(24)));
    let names = "DNS subjectAltNames are not allowed".to_owned();
    assert_eq!(of(KUBELET_CLIENT, &kubelet, &serving, told(APPROVED), 0), Act::Fail(names));
    let usages = ["digital signature", "key encipherment", "server auth"];
    assert_eq!(of("kubernetes.io/kubelet-serving", &usages, &serving, told(APPROVED), 0), Act::Sign);
    let needed = "DNS or IP subjectAltName is required".to_owned();
    assert_eq!(of("kubernetes.io/kubelet-serving", &usages, &node, told(APPROVED), 0), Act::Fail(needed));
    assert_eq!(of("kubernetes.io/legacy-unknown", &["any"], &user, told(APPROVED), 0), Act::Sign);
}

#[test]
fn a_certificate_says_what_was_asked_for() {
    let (authority, ca) = authority();
    let request =
        Request::parse(request_of("system:node:n1", "system:nodes", Some("n1")).as_bytes()).unwrap();
    let usages = ["digital signature", "key encipherment", "server auth", "client auth", "decipher only"];
    let pem = authority.sign(&request, &usages, Some(3600), at(0)).unwrap();
    let (_, block) = parse_x509_pem(pem.as_bytes()).unwrap();
    let cert = block.parse_x509().unwrap();
    let (_, ca_block) = parse_x509_pem(ca.as_bytes()).unwrap();
    let ca_cert = ca_block.parse_x509().unwrap();
    assert_eq!((cert.issuer(), cert.version().0), (ca_cert.subject(), 2));
    assert_eq!(cert.subject().to_string(), "CN=system:node:n1, O=system:nodes");
    assert_eq!(cert.validity().not_after.timestamp(), at(1).as_second());
    assert_eq!(cert.validity().not_before.timestamp(), at(0).as_second() - 300);
    assert_eq!(cert.public_key().raw, request.public_key);
    let usage = cert.key_usage().unwrap().unwrap().value;
    assert!(usage.digital_signature() && usage.key_encipherment() && usage.decipher_only());
    assert!(!usage.key_cert_sign() && !usage.non_repudiation());
    let purposes = cert.extended_key_usage().unwrap().unwrap().value;
    assert!(purposes.server_auth && purposes.client_auth && !purposes.any);
    assert!(!cert.basic_constraints().unwrap().unwrap().value.ca);
    assert_eq!(cert.subject_alternative_name().unwrap().unwrap().value.general_names.len(), 2);
    let id = |of: &x509_parser::certificate::X509Certificate<'_>| {
        of.extensions().iter().find_map(|e| match e.parsed_extension() {
            ParsedExtension::AuthorityKeyIdentifier(id) => {
                id.key_identifier.as_ref().map(|id| id.0.to_owned())
            }
            ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_owned()),
            _ => None,
        })
    };
    assert_eq!(id(&cert), id(&ca_cert));
    assert_eq!(not_after_of(&pem), at(1));
    // Signed by the CA's key, over exactly these bytes.
    let key = ring::signature::UnparsedPublicKey::new(
        &ring::signature::ECDSA_P256_SHA256_ASN1,
        ca_cert.public_key().subject_public_key.data.as_ref(),
    );
    key.verify(cert.tbs_certificate.as_ref(), &cert.signature_value.data).unwrap();

    assert!(authority.sign(&request, &["fly"], None, at(0)).unwrap_err().to_string().contains("fly"));
    // Not for longer than its CA, and not for less than a clock may be wrong.
    let long = authority.sign(&request, &["client auth"], None, at(0)).unwrap();
    assert_eq!(not_after_of(&long), "2027-01-01T00:00:00Z".parse().unwrap());
    let short = authority.sign(&request, &["client auth"], Some(1), at(0)).unwrap();
    assert_eq!(not_after_of(&short), at(0) + SignedDuration::from_mins(10));
}

fn not_after_of(pem: &str) -> Timestamp {
    sign::not_after(pem.as_bytes()).unwrap()
}
