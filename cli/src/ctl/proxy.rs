//! `proxy`: serves the API on a local port with the user's credentials.
//!
//! Every request gets a connection of its own to the API server, so that upgrades (WebSocket, SPDY) pass as they are. As
//! kubectl does, only requests that name this machine in `Host` are taken: a web page elsewhere cannot use the credentials
//! by making a browser resolve its own name to loopback.

use super::session::Session;
use anyhow::{Context, Result, bail};
use clap::Args;
use http::{HeaderValue, Request, Response, StatusCode, Uri, header, uri::Authority};
use http_body_util::{Either, Full};
use hyper::{body::Incoming, service::service_fn, upgrade};
use hyper_util::rt::TokioIo;
use kube::client::ConfigExt;
use rustls::pki_types::ServerName;
use std::{
    convert::Infallible,
    io::{Write, stdout},
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::Duration,
};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsConnector;
use tokio_util::task::TaskTracker;

const DIAL: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct Proxy {
    /// Port to listen on; 0 takes a free one
    #[arg(short, long, default_value_t = 8001)]
    port: u16,
    /// Address to listen on
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    address: IpAddr,
}

type Body = Either<Incoming, Full<bytes::Bytes>>;

struct Upstream {
    connector: TlsConnector,
    authority: Authority,
    name: ServerName<'static>,
    tasks: TaskTracker,
    /// Requests for another `Host` are refused when we listen on loopback.
    local_only: bool,
}

impl Proxy {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let url = &session.config.cluster_url;
        let (Some(authority), Some("https")) = (url.authority(), url.scheme_str()) else {
            bail!("the kubeconfig's server {url} is not https");
        };
        let mut tls = session.config.rustls_client_config()?;
        tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let host = authority.host().trim_matches(['[', ']']).to_owned();
        let upstream = Arc::new(Upstream {
            connector: TlsConnector::from(Arc::new(tls)),
            authority: authority.clone(),
            name: ServerName::try_from(host)?,
            tasks: TaskTracker::new(),
            local_only: self.address.is_loopback(),
        });
        let listener = TcpListener::bind((self.address, self.port))
            .await
            .with_context(|| format!("unable to listen on port {}", self.port))?;
        writeln!(stdout(), "Starting to serve on {}", listener.local_addr()?)?;
        stdout().flush()?;
        let accept = async {
            loop {
                let (connection, _) = listener.accept().await?;
                let serving = Arc::clone(&upstream);
                upstream.tasks.spawn(async move {
                    let service = service_fn(|request| {
                        let upstream = Arc::clone(&serving);
                        async move { Ok::<_, Infallible>(upstream.handle(request).await) }
                    });
                    let http = hyper::server::conn::http1::Builder::new();
                    // A client that breaks off is no news.
                    let _ = http.serve_connection(TokioIo::new(connection), service).with_upgrades().await;
                });
            }
        };
        tokio::select! {
            failed = accept => failed,
            stop = tokio::signal::ctrl_c() => Ok(stop?),
        }
    }
}

impl Upstream {
    async fn handle(&self, request: Request<Incoming>) -> Response<Body> {
        if self.local_only && !is_local(request.headers().get(header::HOST)) {
            return plain(
                StatusCode::FORBIDDEN,
                "Forbidden: this proxy serves only this machine's own names",
            );
        }
        match tokio::time::timeout(DIAL, self.dial()).await {
            Ok(Ok(sender)) => match self.forward(sender, request).await {
                Ok(response) => response,
                Err(error) => plain(StatusCode::BAD_GATEWAY, &format!("{error:#}")),
            },
            Ok(Err(error)) => {
                plain(StatusCode::BAD_GATEWAY, &format!("cannot reach the API server: {error:#}"))
            }
            Err(_) => {
                plain(StatusCode::GATEWAY_TIMEOUT, "the API server did not take the connection in time")
            }
        }
    }

    async fn dial(&self) -> Result<hyper::client::conn::http1::SendRequest<Incoming>> {
        let host = self.authority.host().trim_matches(['[', ']']);
        let tcp = TcpStream::connect((host, self.authority.port_u16().unwrap_or(443))).await?;
        tcp.set_nodelay(true)?;
        let tls = self.connector.connect(self.name.clone(), tcp).await?;
        let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(tls)).await?;
        self.tasks.spawn(async move {
            let _ = connection.with_upgrades().await;
        });
        Ok(sender)
    }

    async fn forward(
        &self,
        mut sender: hyper::client::conn::http1::SendRequest<Incoming>,
        mut request: Request<Incoming>,
    ) -> Result<Response<Body>> {
        let path = request.uri().path_and_query().map_or("/", |p| p.as_str());
        *request.uri_mut() = path.parse::<Uri>()?;
        request.headers_mut().insert(header::HOST, HeaderValue::from_str(self.authority.as_str())?);
        // Credentials are the proxy's to give.
        request.headers_mut().remove(header::AUTHORIZATION);
        let client = upgrade::on(&mut request);
        let mut response = sender.send_request(request).await?;
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            let server = upgrade::on(&mut response);
            self.tasks.spawn(async move {
                if let (Ok(client), Ok(server)) = (client.await, server.await) {
                    let (mut client, mut server) = (TokioIo::new(client), TokioIo::new(server));
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                }
            });
        }
        Ok(response.map(Either::Left))
    }
}

/// `localhost`, 127.0.0.1 or [::1], with any port.
fn is_local(host: Option<&HeaderValue>) -> bool {
    let Some(authority) = host.and_then(|h| h.to_str().ok()).and_then(|h| h.parse::<Authority>().ok()) else {
        return false;
    };
    ["localhost", "127.0.0.1", "[::1]"].contains(&authority.host())
}

fn plain(code: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Either::Right(Full::from(format!("{text}\n"))));
    *response.status_mut() = code;
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_this_machines_names_are_served() {
        let host = |text: &str| is_local(Some(&HeaderValue::from_str(text).unwrap()));
        assert!(host("localhost:8001") && host("127.0.0.1") && host("[::1]:8001"));
        assert!(!host("evil.example:8001") && !host("localhost.evil.example") && !is_local(None));
    }
}
