//! A request for a certificate, taken apart, and the rules of Kubernetes' own signers.

use x509_parser::{
    certification_request::X509CertificationRequest,
    extensions::{GeneralName, ParsedExtension},
    pem::parse_x509_pem,
    prelude::FromDer,
};

const NODES: &str = "system:nodes";
const NODE_PREFIX: &str = "system:node:";

/// What of a request goes into the certificate.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Request {
    pub common_name: String,
    pub organizations: Vec<String>,
    /// DER of the subject and of the public key, as they were sent.
    pub subject: Vec<u8>,
    pub public_key: Vec<u8>,
    pub dns: Vec<String>,
    pub emails: Vec<String>,
    pub uris: Vec<String>,
    /// Four or sixteen bytes each.
    pub ips: Vec<Vec<u8>>,
}

impl Request {
    /// # Errors
    /// What is wrong with it.
    pub fn parse(pem: &[u8]) -> Result<Self, String> {
        let (_, block) = parse_x509_pem(pem).map_err(|e| e.to_string())?;
        let (_, csr) = X509CertificationRequest::from_der(&block.contents).map_err(|e| e.to_string())?;
        let info = &csr.certification_request_info;
        let mut request = Self {
            common_name: info
                .subject
                .iter_common_name()
                .find_map(|name| name.as_str().ok())
                .unwrap_or_default()
                .to_owned(),
            organizations: info
                .subject
                .iter_organization()
                .filter_map(|name| name.as_str().ok())
                .map(str::to_owned)
                .collect(),
            subject: info.subject.as_raw().to_owned(),
            public_key: info.subject_pki.raw.to_owned(),
            ..Self::default()
        };
        for extension in csr.requested_extensions().into_iter().flatten() {
            let ParsedExtension::SubjectAlternativeName(names) = extension else { continue };
            for name in &names.general_names {
                match name {
                    GeneralName::DNSName(name) => request.dns.push((*name).to_owned()),
                    GeneralName::RFC822Name(name) => request.emails.push((*name).to_owned()),
                    GeneralName::URI(name) => request.uris.push((*name).to_owned()),
                    GeneralName::IPAddress(bytes) => request.ips.push((*bytes).to_owned()),
                    _ => {}
                }
            }
        }
        Ok(request)
    }

    /// Whether the signer signs such a request. The words are Kubernetes' own.
    pub fn is_for(&self, signer: &str, usages: &[&str]) -> Result<(), String> {
        match signer {
            "kubernetes.io/kube-apiserver-client" => client_usages(usages),
            "kubernetes.io/kube-apiserver-client-kubelet" => self.kubelet_client(usages),
            "kubernetes.io/kubelet-serving" => self.kubelet_serving(usages),
            _ => Ok(()),
        }
    }

    fn kubelet_client(&self, usages: &[&str]) -> Result<(), String> {
        self.of_a_node()?;
        for (present, what) in [
            (!self.dns.is_empty(), "DNS"),
            (!self.emails.is_empty(), "Email"),
            (!self.ips.is_empty(), "IP"),
            (!self.uris.is_empty(), "URI"),
        ] {
            if present {
                return Err(format!("{what} subjectAltNames are not allowed"));
            }
        }
        self.named_as_a_node()?;
        exactly(usages, "client auth")
    }

    fn kubelet_serving(&self, usages: &[&str]) -> Result<(), String> {
        self.of_a_node()?;
        if self.dns.is_empty() && self.ips.is_empty() {
            return Err("DNS or IP subjectAltName is required".to_owned());
        }
        for (present, what) in [(!self.emails.is_empty(), "Email"), (!self.uris.is_empty(), "URI")] {
            if present {
                return Err(format!("{what} subjectAltNames are not allowed"));
            }
        }
        exactly(usages, "server auth")?;
        self.named_as_a_node()
    }

    fn of_a_node(&self) -> Result<(), String> {
        if self.organizations == [NODES] {
            return Ok(());
        }
        Err(format!("subject organization is not {NODES}"))
    }

    fn named_as_a_node(&self) -> Result<(), String> {
        if self.common_name.starts_with(NODE_PREFIX) {
            return Ok(());
        }
        Err(format!("subject common name does not begin with {NODE_PREFIX}"))
    }
}

/// A kubelet's: signatures, the one purpose, and key encipherment, which only RSA keys need.
fn exactly(usages: &[&str], purpose: &str) -> Result<(), String> {
    let needed = ["digital signature", purpose];
    let allowed = |usage: &&str| needed.contains(usage) || *usage == "key encipherment";
    if needed.iter().all(|usage| usages.contains(usage)) && usages.iter().all(allowed) {
        return Ok(());
    }
    Err(match purpose {
        "client auth" => "usages did not match [client auth digital signature key encipherment]",
        _ => "usages did not match [digital signature key encipherment server auth]",
    }
    .to_owned())
}

fn client_usages(usages: &[&str]) -> Result<(), String> {
    for usage in usages {
        if !["digital signature", "key encipherment", "client auth"].contains(usage) {
            return Err(format!("invalid usage for client certificate: {usage}"));
        }
    }
    if !usages.contains(&"client auth") {
        return Err("missing required usage for client certificate: client auth".to_owned());
    }
    Ok(())
}
