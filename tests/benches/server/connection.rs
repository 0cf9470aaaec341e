//! A client that costs little itself: one HTTP/1.1 connection over TLS with the admin's certificate.

use base64::{Engine, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, client::conn::http1::SendRequest};
use hyper_util::rt::TokioIo;
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use std::sync::Arc;
use tests::TestCluster;
use tokio::{net::TcpStream, task::JoinSet};
use tokio_rustls::TlsConnector;

/// How to reach a server: its address, and who we are.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: String,
    pub(crate) tls: TlsConnector,
}

impl Target {
    /// What kubectl would use.
    pub(crate) fn of(cluster: &TestCluster) -> Self {
        let config = cluster.kubectl(&["config", "view", "--raw", "-o", "json"]);
        let config: serde_json::Value = serde_json::from_str(&config).expect("kubectl prints JSON");
        let decode = |at: &str| {
            let text = config.pointer(at).and_then(|v| v.as_str()).expect("the server's kubeconfig");
            STANDARD.decode(text).expect("base64")
        };
        let ca = decode("/clusters/0/cluster/certificate-authority-data");
        let cert = decode("/users/0/user/client-certificate-data");
        let key = decode("/users/0/user/client-key-data");
        let address = format!("127.0.0.1:{}", cluster.port());
        Self { address, tls: connector(&ca, Some((&cert, &key))) }
    }

    pub(crate) async fn connect(&self, tasks: &mut JoinSet<()>) -> Connection {
        let tcp = TcpStream::connect(&self.address).await.expect("the server accepts");
        tcp.set_nodelay(true).expect("nodelay");
        let name = ServerName::try_from("localhost").expect("a name");
        let tls = self.tls.connect(name, tcp).await.expect("a TLS handshake");
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(tls)).await.expect("a handshake");
        tasks.spawn(async move {
            let _ = connection.await;
        });
        Connection { sender }
    }
}

pub(crate) fn connector(ca: &[u8], identity: Option<(&[u8], &[u8])>) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    for cert in CertificateDer::pem_slice_iter(ca) {
        roots.add(cert.expect("a certificate")).expect("a CA");
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS versions")
        .with_root_certificates(roots);
    let config = match identity {
        None => builder.with_no_client_auth(),
        Some((cert, key)) => {
            let chain = CertificateDer::pem_slice_iter(cert).map(|c| c.expect("a certificate")).collect();
            let key = PrivateKeyDer::from_pem_slice(key).expect("a key");
            builder.with_client_auth_cert(chain, key).expect("a client certificate")
        }
    };
    TlsConnector::from(Arc::new(config))
}

pub(crate) struct Connection {
    sender: SendRequest<Full<Bytes>>,
}

impl Connection {
    /// Sends a request and reads the whole answer.
    pub(crate) async fn call(&mut self, method: Method, path: &str, body: Bytes) -> (StatusCode, Bytes) {
        let response = self.open(method, path, body).await;
        let status = response.status();
        let body = response.into_body().collect().await.expect("the answer's body").to_bytes();
        (status, body)
    }

    /// Sends a request; the body of the answer is the caller's.
    pub(crate) async fn open(&mut self, method: Method, path: &str, body: Bytes) -> http::Response<Incoming> {
        self.send(method, path, "application/json", body).await
    }

    /// Sends a patch of the given kind and reads the whole answer.
    pub(crate) async fn patch(&mut self, path: &str, kind: &str, body: Bytes) -> (StatusCode, Bytes) {
        let response = self.send(Method::PATCH, path, kind, body).await;
        let status = response.status();
        let body = response.into_body().collect().await.expect("the answer's body").to_bytes();
        (status, body)
    }

    async fn send(
        &mut self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Bytes,
    ) -> http::Response<Incoming> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("content-type", content_type)
            .body(Full::new(body))
            .expect("a request");
        self.sender.ready().await.expect("the connection lives");
        self.sender.send_request(request).await.expect("an answer")
    }
}
