//! Certificates: what the server shows, and whom it believes.

use arc_swap::ArcSwap;
use rustls::{
    RootCertStore, ServerConfig, ServerConnection,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    server::WebPkiClientVerifier,
};
use std::sync::Arc;

/// The TLS configuration of new connections. Cheap to clone; all clones are one, and can be renewed while serving.
#[derive(Debug, Clone)]
pub struct Tls(Arc<ArcSwap<ServerConfig>>);

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("the {what} is not readable PEM: {why}")]
    Pem { what: &'static str, why: String },
    #[error("the {what} holds no certificate")]
    Empty { what: &'static str },
    #[error("the serving certificate and its key do not fit: {0}")]
    Pair(rustls::Error),
    #[error("the client CA cannot be used: {0}")]
    Ca(String),
}

impl Tls {
    /// PEM of the serving chain, its key, and the CA of client certificates.
    pub fn new(cert: &str, key: &str, client_ca: &str) -> Result<Self, TlsError> {
        Ok(Self(Arc::new(ArcSwap::from_pointee(server_config(cert, key, client_ca)?))))
    }

    /// Renews; connections that are open stay as they are. On error the old configuration stays.
    pub fn replace(&self, cert: &str, key: &str, client_ca: &str) -> Result<(), TlsError> {
        self.0.store(Arc::new(server_config(cert, key, client_ca)?));
        Ok(())
    }

    pub(super) fn current(&self) -> Arc<ServerConfig> {
        self.0.load_full()
    }
}

fn server_config(cert: &str, key: &str, client_ca: &str) -> Result<ServerConfig, TlsError> {
    let chain = certificates("serving certificate", cert)?;
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())
        .map_err(|e| TlsError::Pem { what: "serving key", why: e.to_string() })?;
    let mut roots = RootCertStore::empty();
    for ca in certificates("client CA", client_ca)? {
        roots.add(ca).map_err(|e| TlsError::Ca(e.to_string()))?;
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    // A certificate is asked for, not demanded: tokens and anonymous health checks come without one.
    let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .allow_unauthenticated()
        .build()
        .map_err(|e| TlsError::Ca(e.to_string()))?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::Pair)?
        .with_client_cert_verifier(verifier)
        .with_single_cert(chain, key)
        .map_err(TlsError::Pair)?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

fn certificates(what: &'static str, pem: &str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let all: Vec<_> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|e| TlsError::Pem { what, why: e.to_string() })?;
    if all.is_empty() { Err(TlsError::Empty { what }) } else { Ok(all) }
}

/// Common name and organizations of the verified client certificate, if one was shown.
pub(super) fn subject(connection: &ServerConnection) -> Option<(String, Vec<String>)> {
    let leaf = connection.peer_certificates()?.first()?;
    // One that is not understood names nobody, which authentication refuses: it must not count as none.
    Some(parse_subject(leaf).unwrap_or_default())
}

pub(super) fn parse_subject(der: &[u8]) -> Option<(String, Vec<String>)> {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).ok()?;
    let subject = certificate.subject();
    let name = subject.iter_common_name().find_map(|a| a.as_str().ok()).unwrap_or_default().to_owned();
    let organizations =
        subject.iter_organization().filter_map(|a| a.as_str().ok()).map(str::to_owned).collect();
    Some((name, organizations))
}
