//! One request passed on to another server, and, after an upgrade, two byte streams joined.
//!
//! The middle never decodes what it carries. `pod_stream` and `proxy` decide where to and what to change; this file
//! owns the connections, their tasks and their bounds.

use crate::{
    dial::{NodeDialer, Stream},
    error::{ApiError, Result},
};
use api::guard::contained;
use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, HeaderName, Request, StatusCode, header};
use hyper::{body::Incoming, client::conn::http1, upgrade::OnUpgrade};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
};
use std::{net::SocketAddr, pin::pin, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt, BufReader, copy_buf, split},
    net::TcpStream,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::timeout,
};
use tokio_rustls::TlsConnector;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::{Instrument, debug, debug_span};

/// Streams and proxied requests at once. Each holds a connection and up to two copy buffers (some 100 KiB), so this is
/// about 100 MiB at worst; a browser behind `kubectl proxy` opens a handful, `logs -f` on 500 pods five hundred.
const MAX_FORWARDED: usize = 1024;
/// To a kubelet or a pod: both are on this machine or one network hop away.
const DIAL_DEADLINE: Duration = Duration::from_secs(10);
/// After one side of a joined stream has ended, for the rest of what the other still sends.
const HALF_CLOSED_DEADLINE: Duration = Duration::from_secs(30);
/// From our 101 until the client's connection is free for what comes after it: as long as it takes to write one head.
const UPGRADE_DEADLINE: Duration = Duration::from_secs(10);
/// For each direction of a joined stream: a few TLS records.
const COPY_BUFFER: usize = 32 << 10;
/// Seconds after which a client that found all slots taken may come back.
const RETRY_AFTER: u32 = 1;

/// Headers that belong to one connection and are never passed on (RFC 9110 §7.6.1).
const HOP_BY_HOP: [HeaderName; 8] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::PROXY_AUTHENTICATE,
    header::PROXY_AUTHORIZATION,
    header::TE,
    header::TRAILER,
    header::TRANSFER_ENCODING,
];

/// How requests reach kubelets and pods. Shared by all handlers.
pub struct Forwarder {
    dialer: Arc<dyn NodeDialer>,
    permits: Arc<Semaphore>,
    /// For pods that speak HTTPS.
    tls: std::result::Result<TlsConnector, rustls::Error>,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// A connection to another server, and the right to use it.
pub struct Connection {
    stream: Box<dyn Stream>,
    permit: OwnedSemaphorePermit,
}

impl Forwarder {
    /// Tasks live on `tasks` until `stop` is cancelled.
    pub fn new(dialer: Arc<dyn NodeDialer>, tasks: TaskTracker, stop: CancellationToken) -> Self {
        let tls = unverified().map(|config| TlsConnector::from(Arc::new(config)));
        Self { dialer, permits: Arc::new(Semaphore::new(MAX_FORWARDED)), tls, tasks, stop }
    }

    fn permit(&self) -> Result<OwnedSemaphorePermit> {
        self.permits.clone().try_acquire_owned().map_err(|_| ApiError::TooManyRequests {
            message: "too many streams are open, please try again later".to_owned(),
            retry_after: RETRY_AFTER,
        })
    }

    /// The way to the nodes, for what is no connection.
    pub fn nodes(&self) -> &dyn NodeDialer {
        &*self.dialer
    }

    /// To the kubelet of a node.
    pub async fn node(&self, node: &str) -> Result<Connection> {
        let permit = self.permit()?;
        let failed =
            |why: String| ApiError::Unavailable(format!("error dialing backend: node {node:?}: {why}"));
        match timeout(DIAL_DEADLINE, self.dialer.dial(node)).await {
            Ok(Ok(stream)) => Ok(Connection { stream, permit }),
            Ok(Err(error)) => Err(failed(error.to_string())),
            Err(_) => Err(failed(format!("no connection within {} s", DIAL_DEADLINE.as_secs()))),
        }
    }

    /// To a pod. Its certificate is not checked: pods make their own, and who they are is known from the address.
    pub async fn address(&self, address: SocketAddr, https: bool) -> Result<Connection> {
        let permit = self.permit()?;
        let dial = async {
            let stream = TcpStream::connect(address).await?;
            stream.set_nodelay(true)?;
            if https {
                let name = ServerName::IpAddress(address.ip().into());
                let tls = self.tls.clone().map_err(std::io::Error::other)?;
                let stream: Box<dyn Stream> = Box::new(tls.connect(name, stream).await?);
                return Ok(stream);
            }
            std::io::Result::Ok(Box::new(stream) as Box<dyn Stream>)
        };
        let failed = |why: String| unreachable_service(&format!("dial tcp {address}: {why}"));
        match timeout(DIAL_DEADLINE, dial).await {
            Ok(Ok(stream)) => Ok(Connection { stream, permit }),
            Ok(Err(error)) => Err(failed(connect_error(&error))),
            Err(_) => Err(failed("i/o timeout".to_owned())),
        }
    }

    /// Sends a request in origin form and waits for the head of the answer, as long as the client waits for us.
    pub async fn exchange(
        &self,
        connection: Connection,
        request: Request<Body>,
    ) -> Result<http::Response<Incoming>> {
        let Connection { stream, permit } = connection;
        let failed = |e: hyper::Error| unreachable_service(&e.to_string());
        let (mut sender, driver) = http1::Builder::new()
            // Some small servers in pods know headers only as browsers of old wrote them.
            .title_case_headers(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        let stop = self.stop.clone();
        let drive = async move {
            let _permit = permit;
            tokio::select! {
                () = stop.cancelled() => {}
                ended = driver.with_upgrades() => if let Err(error) = ended {
                    debug!(%error, "connection to the backend ended");
                }
            }
        };
        self.tasks.spawn(contained(drive).instrument(debug_span!("forward")));
        sender.send_request(request).await.map_err(failed)
    }

    /// The answer for the client. If the backend switched protocols, both sides are joined once the client's
    /// connection is free for it; anything else goes back as it is.
    pub fn answer(
        &self,
        client: Option<OnUpgrade>,
        mut response: http::Response<Incoming>,
    ) -> Result<Response> {
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            remove_hop_by_hop(response.headers_mut());
            return Ok(response.map(Body::new).into_response());
        }
        let Some(client) = client else { return Err(cannot_upgrade()) };
        // Its own slot: the connection's task ends as soon as hyper hands the stream over.
        let permit = self.permit()?;
        let backend = hyper::upgrade::on(&mut response);
        let stop = self.stop.clone();
        let task = async move {
            let _permit = permit;
            let both = async {
                match timeout(UPGRADE_DEADLINE, async { tokio::try_join!(client, backend) }).await {
                    Ok(joined) => {
                        let (client, backend) = joined?;
                        join(TokioIo::new(client), TokioIo::new(backend)).await;
                    }
                    Err(_) => debug!("the connections were not upgraded in time"),
                }
                Ok::<(), hyper::Error>(())
            };
            tokio::select! {
                () = stop.cancelled() => {}
                ended = both => if let Err(error) = ended {
                    debug!(%error, "the client's connection was not upgraded");
                }
            }
        };
        self.tasks.spawn(contained(task).instrument(debug_span!("stream")));
        let (mut parts, _) = response.into_parts();
        let upgrade = parts.headers.get(header::UPGRADE).cloned();
        remove_hop_by_hop(&mut parts.headers);
        set_upgrade(&mut parts.headers, upgrade);
        Ok(Response::from_parts(parts, Body::empty()))
    }
}

/// What Kubernetes says when a proxied server cannot be reached.
fn unreachable_service(why: &str) -> ApiError {
    ApiError::Unavailable(format!("error trying to reach service: {why}"))
}

/// In the words clients know from Kubernetes, where there are any.
fn connect_error(error: &std::io::Error) -> String {
    match error.kind() {
        std::io::ErrorKind::ConnectionRefused => "connect: connection refused".to_owned(),
        std::io::ErrorKind::HostUnreachable => "connect: no route to host".to_owned(),
        std::io::ErrorKind::NetworkUnreachable => "connect: network is unreachable".to_owned(),
        _ => error.to_string(),
    }
}

pub(super) fn cannot_upgrade() -> ApiError {
    ApiError::BadRequest("Upgrade request required".to_owned())
}

/// The protocol a request wants to switch to, if it does.
pub(super) fn wanted_upgrade(headers: &HeaderMap) -> Option<http::HeaderValue> {
    let asks = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .any(|token| token.trim().eq_ignore_ascii_case("upgrade"));
    if asks { headers.get(header::UPGRADE).cloned() } else { None }
}

/// Says again that the connection switches to `protocol`, after the hop-by-hop headers were removed.
pub(super) fn set_upgrade(headers: &mut HeaderMap, protocol: Option<http::HeaderValue>) {
    if let Some(protocol) = protocol {
        headers.insert(header::CONNECTION, http::HeaderValue::from_static("Upgrade"));
        headers.insert(header::UPGRADE, protocol);
    }
}

/// Also what `Connection` names.
pub(super) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    let named: Vec<HeaderName> = headers
        .get_all(header::CONNECTION)
        .iter()
        .filter_map(|v| v.to_str().ok())
        .flat_map(|v| v.split(','))
        .filter_map(|token| token.trim().parse().ok())
        .collect();
    for name in named.iter().chain(&HOP_BY_HOP) {
        headers.remove(name);
    }
    headers.remove(header::UPGRADE);
}

/// Copies both ways until both sides have ended, or one has and the other does not follow in time.
async fn join(client: impl AsyncRead + AsyncWrite + Unpin, backend: impl AsyncRead + AsyncWrite + Unpin) {
    let ((client_in, client_out), (backend_in, backend_out)) = (split(client), split(backend));
    let mut up = pin!(copy("to the backend", client_in, backend_out));
    let mut down = pin!(copy("to the client", backend_in, client_out));
    let rest = tokio::select! {
        () = &mut up => timeout(HALF_CLOSED_DEADLINE, down).await,
        () = &mut down => timeout(HALF_CLOSED_DEADLINE, up).await,
    };
    if rest.is_err() {
        debug!("one side ended and the other did not follow");
    }
}

async fn copy(direction: &'static str, from: impl AsyncRead + Unpin, mut to: impl AsyncWrite + Unpin) {
    let mut from = BufReader::with_capacity(COPY_BUFFER, from);
    let copied = copy_buf(&mut from, &mut to).await;
    // Passes the end on; fails when the other side is gone already, which is as good.
    let _ = to.shutdown().await;
    debug!(direction, ?copied, "stream ended");
}

/// A TLS client that believes any certificate.
fn unverified() -> std::result::Result<ClientConfig, rustls::Error> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyCertificate(provider)))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

#[derive(Debug)]
struct AnyCertificate(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyCertificate {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> std::result::Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }
    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }
    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> std::result::Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }
    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
