use super::*;
use crate::error::ApiError;
use axum::{Extension, Router, routing::get};
use http::Request;
use http_body_util::{BodyExt, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioExecutor;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SanType,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject};
use tokio_rustls::{TlsConnector, client};

struct Ca {
    pem: String,
    issuer: Issuer<'static, KeyPair>,
}

/// Certificate and key.
type Pair = (String, String);

impl Ca {
    fn new() -> Self {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let pem = params.self_signed(&key).unwrap().pem();
        Self { pem, issuer: Issuer::new(params, key) }
    }

    fn issue(&self, name: &str, organization: &str, usage: ExtendedKeyUsagePurpose) -> Pair {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(Vec::<String>::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.distinguished_name.push(DnType::OrganizationName, organization);
        params.subject_alt_names = vec![SanType::IpAddress("127.0.0.1".parse().unwrap())];
        params.extended_key_usages = vec![usage];
        (params.signed_by(&key, &self.issuer).unwrap().pem(), key.serialize_pem())
    }

    fn server(&self) -> Pair {
        self.issue("server", "us", ExtendedKeyUsagePurpose::ServerAuth)
    }

    fn client(&self, name: &str, organization: &str) -> Pair {
        self.issue(name, organization, ExtendedKeyUsagePurpose::ClientAuth)
    }
}

/// Tells who asks; `/slow` waits until it is let go.
fn echo(slow: Arc<tokio::sync::Notify>, entered: Arc<tokio::sync::Notify>) -> Router {
    let who = |Extension(peer): Extension<Peer>| async move {
        match peer {
            Peer::Tls { user, .. } => format!("{:?}", user.map(|u| (u.name.clone(), u.groups.clone()))),
            Peer::Internal(user) => user.name.clone(),
        }
    };
    let wait = move || async move {
        entered.notify_one();
        slow.notified().await;
        "done"
    };
    Router::new().route("/", get(who)).route("/slow", get(wait))
}

struct Running {
    ca: Ca,
    address: SocketAddr,
    tls: Tls,
    token: CancellationToken,
    slow: Arc<tokio::sync::Notify>,
    entered: Arc<tokio::sync::Notify>,
    ended: tokio::task::JoinHandle<()>,
}

fn start() -> Running {
    let ca = Ca::new();
    let (cert, key) = ca.server();
    let tls = Tls::new(&cert, &key, &ca.pem).unwrap();
    let listener = Listener::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
    let address = listener.addresses()[0];
    let (token, slow, entered) = (CancellationToken::new(), Arc::default(), Arc::default());
    let router = echo(Arc::clone(&slow), Arc::clone(&entered));
    let ended = tokio::spawn(listener.run(router, tls.clone(), token.clone()));
    Running { ca, address, tls, token, slow, entered, ended }
}

impl Running {
    async fn connect(&self, pair: Option<Pair>, alpn: &[u8]) -> io::Result<client::TlsStream<TcpStream>> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.ca.pem.as_bytes()).unwrap()).unwrap();
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots);
        let mut config = match pair {
            Some((cert, key)) => {
                let cert = CertificateDer::from_pem_slice(cert.as_bytes()).unwrap();
                let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).unwrap();
                builder.with_client_auth_cert(vec![cert], key).unwrap()
            }
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols = vec![alpn.to_vec()];
        let stream = TcpStream::connect(self.address).await?;
        let name = ServerName::IpAddress(self.address.ip().into());
        TlsConnector::from(Arc::new(config)).connect(name, stream).await
    }

    /// One GET over HTTP/1.1; the error is whatever went wrong on the way.
    async fn get(&self, pair: Option<Pair>, path: &str) -> Result<String, String> {
        let stream = self.connect(pair, b"http/1.1").await.map_err(|e| e.to_string())?;
        let (mut sender, driver) = http1::handshake(TokioIo::new(stream)).await.map_err(|e| e.to_string())?;
        let request = Request::get(path).header("host", "x").body(Empty::<bytes::Bytes>::new()).unwrap();
        let answer = async {
            let response = sender.send_request(request).await.map_err(|e| e.to_string())?;
            let body = response.into_body().collect().await.map_err(|e| e.to_string())?;
            Ok(String::from_utf8(body.to_bytes().to_vec()).unwrap())
        };
        let driver = async {
            let _ = driver.await;
            std::future::pending::<()>().await;
        };
        tokio::select! {
            answer = answer => answer,
            () = driver => unreachable!(),
        }
    }

    async fn stop(self) {
        self.token.cancel();
        self.ended.await.unwrap();
    }
}

#[tokio::test]
async fn the_client_certificate_names_the_peer() {
    let server = start();
    assert_eq!(server.get(None, "/").await.unwrap(), "None");
    let jane = server.ca.client("jane", "dev");
    assert_eq!(
        server.get(Some(jane), "/").await.unwrap(),
        r#"Some(("jane", ["dev", "system:authenticated"]))"#
    );
    let stranger = Ca::new().client("admin", "system:masters");
    assert!(server.get(Some(stranger), "/").await.is_err());
    // A certificate for servers does not make a client.
    let wrong_use = server.ca.issue("admin", "system:masters", ExtendedKeyUsagePurpose::ServerAuth);
    assert!(server.get(Some(wrong_use), "/").await.is_err());
    server.stop().await;
}

#[tokio::test]
async fn http2_is_spoken_where_the_client_offers_it() {
    let server = start();
    let stream = server.connect(None, b"h2").await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let (mut sender, driver) = http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.unwrap();
    let driver = tokio::spawn(driver);
    let request = Request::get("https://x/").body(Empty::<bytes::Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "None");
    drop(sender);
    driver.await.unwrap().unwrap();
    server.stop().await;
}

#[tokio::test]
async fn plain_http_is_told_so() {
    let server = start();
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.0 400 Bad Request\r\n"), "{answer}");
    assert!(answer.ends_with("Client sent an HTTP request to an HTTPS server.\n"), "{answer}");
    server.stop().await;
}

#[tokio::test]
async fn new_connections_get_the_renewed_certificate() {
    let server = start();
    let shown = async || {
        let stream = server.connect(None, b"http/1.1").await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].to_vec()
    };
    let before = shown().await;
    let (cert, key) = server.ca.server();
    // A bad renewal changes nothing.
    assert!(server.tls.replace(&cert, "no key", &server.ca.pem).is_err());
    assert_eq!(shown().await, before);
    server.tls.replace(&cert, &key, &server.ca.pem).unwrap();
    assert_ne!(shown().await, before);
    server.stop().await;
}

#[tokio::test]
async fn a_request_in_flight_outlives_the_start_of_the_shutdown() {
    let server = start();
    let (slow, entered, token) = (server.slow.clone(), server.entered.clone(), server.token.clone());
    let address = server.address;
    let stop = async {
        entered.notified().await;
        token.cancel();
        // The listening socket goes first: nobody new gets in.
        while TcpStream::connect(address).await.is_ok() {
            tokio::task::yield_now().await;
        }
        slow.notify_one();
    };
    let (answer, ()) = tokio::join!(server.get(None, "/slow"), stop);
    assert_eq!(answer.unwrap(), "done");
    server.ended.await.unwrap();
}

#[tokio::test]
async fn addresses_taken_and_addresses_to_come() {
    let first = Listener::bind(&["127.0.0.1:0".parse().unwrap()]).unwrap();
    let taken = first.addresses()[0];
    match Listener::bind(&[taken]) {
        Err(BindError::InUse { address }) => assert_eq!(address, taken),
        other => panic!("{other:?}"),
    }
    // 203.0.113.0/24 is for documentation: no machine has it, as none has the pod bridge's address before the bridge.
    let both = ["127.0.0.1:0".parse().unwrap(), "203.0.113.9:0".parse().unwrap()];
    let two = Listener::bind(&both).unwrap();
    assert_eq!(two.addresses()[0].port(), two.addresses()[1].port());
}

#[test]
fn certificates_that_are_none() {
    let ca = Ca::new();
    let (cert, key) = ca.server();
    let (_, other_key) = ca.server();
    for (cert, key, client_ca) in [
        ("", key.as_str(), ca.pem.as_str()),
        (&cert, "", &ca.pem),
        (&cert, &key, ""),
        (&cert, &other_key, &ca.pem),
    ] {
        assert!(Tls::new(cert, key, client_ca).is_err());
    }
    // And what a client reads when it is nobody.
    assert_eq!(ApiError::Unauthorized.status()["code"], 401);
}
