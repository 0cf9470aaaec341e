//! One HTTP GET, as probes and hooks make it: a connection of its own, no certificate checks (the real kubelet's rule for
//! probes), redirects not followed.

use http::{HeaderName, HeaderValue, Request, Uri, header};
use http_body_util::Empty;
use hyper_util::rt::TokioIo;
use std::sync::Arc;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::{
    TlsConnector,
    rustls::{
        self, ClientConfig, DigitallySignedStruct, SignatureScheme,
        client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        crypto::CryptoProvider,
        pki_types::{CertificateDer, ServerName, UnixTime},
    },
};

pub(crate) struct HttpGet {
    pub(crate) tls: bool,
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) path: String,
    pub(crate) headers: Vec<(String, String)>,
}

/// The answer's status code. The caller sets the time limit.
pub(crate) async fn get(request: &HttpGet) -> Result<u16, String> {
    let path =
        if request.path.starts_with('/') { request.path.clone() } else { format!("/{}", request.path) };
    let scheme = if request.tls { "https" } else { "http" };
    let url = format!("{scheme}://{}:{}{path}", request.host, request.port);
    let failed = |error: &dyn std::fmt::Display| format!("Get {url:?}: {error}");
    let tcp = TcpStream::connect((request.host.as_str(), request.port)).await;
    let tcp = tcp.map_err(|error| failed(&format!("dial tcp {}:{}: {error}", request.host, request.port)))?;
    if !request.tls {
        return send(tcp, request, &path).await.map_err(|error| failed(&error));
    }
    let connector = TlsConnector::from(Arc::new(trusting().map_err(|error| failed(&error))?));
    let name = ServerName::try_from(request.host.clone()).map_err(|error| failed(&error))?;
    let tls = connector.connect(name, tcp).await.map_err(|error| failed(&error))?;
    send(tls, request, &path).await.map_err(|error| failed(&error))
}

async fn send<S>(stream: S, request: &HttpGet, path: &str) -> Result<u16, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let uri: Uri = path.parse().map_err(|error: http::uri::InvalidUri| text(&error))?;
    let host = format!("{}:{}", request.host, request.port);
    let mut built = Request::get(uri).body(Empty::<bytes::Bytes>::new()).map_err(|error| text(&error))?;
    let headers = built.headers_mut();
    headers.insert(header::HOST, HeaderValue::from_str(&host).map_err(|error| text(&error))?);
    headers.insert(header::USER_AGENT, HeaderValue::from_static("kube-probe/1.36"));
    headers.insert(header::ACCEPT, HeaderValue::from_static("*/*"));
    for (name, value) in &request.headers {
        let name: HeaderName = name.parse().map_err(|error: http::header::InvalidHeaderName| text(&error))?;
        headers.insert(name, HeaderValue::from_str(value).map_err(|error| text(&error))?);
    }
    let (mut sender, connection) =
        hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(|error| text(&error))?;
    // The connection is driven beside the request and ends with it: no task is left behind.
    let answer = sender.send_request(built);
    tokio::pin!(answer, connection);
    let response = tokio::select! {
        answer = &mut answer => answer,
        ended = &mut connection => match ended {
            Ok(()) => answer.await,
            Err(error) => Err(error),
        },
    };
    response.map(|response| response.status().as_u16()).map_err(|error| text(&error))
}

/// TLS that accepts whatever certificate a container shows: probes ask whether it answers, not who it is.
fn trusting() -> Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier = Arc::new(AnyCertificate(Arc::clone(&provider)));
    let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    Ok(config.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth())
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls12_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        rustls::crypto::verify_tls13_signature(
            message,
            certificate,
            signature,
            &self.0.signature_verification_algorithms,
        )
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
