//! What the same machine does in the same minute without us: figures mean something only beside these.

use crate::connection::{Connection, Target, connector};
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{
    body::{Frame, Incoming},
    server::conn::http1,
    service::service_fn,
};
use hyper_util::rt::TokioIo;
use rustls::{
    ServerConfig,
    pki_types::{PrivateKeyDer, pem::PemObject},
};
use std::{
    convert::Infallible,
    fs::File,
    io::Write,
    path::Path,
    process::Command,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{net::TcpListener, sync::broadcast, task::JoinSet};
use tokio_rustls::TlsAcceptor;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A server that does nothing but answer these bytes over TLS: what the wire and the load generator cost by themselves.
pub(crate) async fn bare_server(answer: Bytes, tasks: &mut JoinSet<()>) -> Target {
    serve(tasks, move |_| {
        let answer = answer.clone();
        async move { Full::new(answer).boxed_unsync() }
    })
    .await
}

/// A server that keeps nothing: what is POSTed to it, each GET that is open gets as a line of its answer.
pub(crate) async fn bare_fan_out(tasks: &mut JoinSet<()>) -> Target {
    let (lines, _) = broadcast::channel::<Bytes>(64);
    serve(tasks, move |request: Request<Incoming>| {
        let lines = lines.clone();
        async move {
            if request.method() == http::Method::GET {
                let follow = futures::stream::unfold(lines.subscribe(), |mut lines| async move {
                    let line = lines.recv().await.ok()?;
                    Some((Ok(Frame::data(line)), lines))
                });
                return StreamBody::new(follow).boxed_unsync();
            }
            let mut line = request.into_body().collect().await.expect("a body").to_bytes().to_vec();
            line.push(b'\n');
            let _ = lines.send(line.into());
            Full::new(Bytes::new()).boxed_unsync()
        }
    })
    .await
}

async fn serve<S, F>(tasks: &mut JoinSet<()>, answer: S) -> Target
where
    S: Fn(Request<Incoming>) -> F + Clone + Send + 'static,
    F: Future<Output = Body> + Send + 'static,
{
    let pair = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(pair.signing_key.serialize_pem().as_bytes()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("TLS versions")
        .with_no_client_auth()
        .with_single_cert(vec![pair.cert.der().clone()], key)
        .expect("a serving certificate");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    tasks.spawn(async move {
        let mut connections = JoinSet::new();
        while let Ok((tcp, _)) = listener.accept().await {
            let (acceptor, answer) = (acceptor.clone(), answer.clone());
            connections.spawn(async move {
                let _ = tcp.set_nodelay(true);
                let Ok(tls) = acceptor.accept(tcp).await else { return };
                let service = service_fn(move |request: Request<Incoming>| {
                    let body = answer(request);
                    async move { Ok::<_, Infallible>(Response::new(body.await)) }
                });
                let _ = http1::Builder::new().serve_connection(TokioIo::new(tls), service).await;
            });
        }
    });
    Target { address, tls: connector(pair.cert.pem().as_bytes(), None) }
}

/// How long one small durable write takes on the disk that holds `dir`.
pub(crate) fn disk_flush(dir: &Path) -> Duration {
    let mut file = File::create(dir.join("flush")).expect("a writable directory");
    let mut took: Vec<Duration> = (0..200)
        .map(|_| {
            file.write_all(&[0; 4096]).expect("room on the disk");
            let begun = Instant::now();
            file.sync_data().expect("the disk flushes");
            begun.elapsed()
        })
        .collect();
    crate::percentile(&mut took, 0.5)
}

/// How long `docker run --detach` of an image takes; the container is removed.
pub(crate) fn docker_run(image: &str, command: &[&str]) -> Duration {
    let begun = Instant::now();
    let output = Command::new("docker").args(["run", "--detach", image]).args(command).output();
    let took = begun.elapsed();
    let output = output.expect("docker runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let id = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let removed = Command::new("docker").args(["rm", "--force", &id]).output().expect("docker runs");
    assert!(removed.status.success(), "{}", String::from_utf8_lossy(&removed.stderr));
    took
}

/// Requests a second that a client gets out of a target, `clients` at a time, for as long as `time`.
pub(crate) async fn gets(
    target: &Target,
    clients: usize,
    time: Duration,
    path: impl Fn(usize) -> String,
) -> f64 {
    let mut wires = JoinSet::new();
    let mut connections: Vec<Connection> = Vec::new();
    for _ in 0..clients {
        connections.push(target.connect(&mut wires).await);
    }
    let mut work = JoinSet::new();
    let begun = Instant::now();
    for (n, mut connection) in connections.into_iter().enumerate() {
        let path = path(n);
        work.spawn(async move {
            let mut count = 0u64;
            while begun.elapsed() < time {
                let (status, _) = connection.call(http::Method::GET, &path, Bytes::new()).await;
                assert!(status.is_success(), "GET {path}: {status}");
                count += 1;
            }
            count
        });
    }
    let total: u64 = work.join_all().await.into_iter().sum();
    total as f64 / begun.elapsed().as_secs_f64()
}
