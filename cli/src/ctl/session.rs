//! The connection to a cluster: kubeconfig, namespace, requests.

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use http::{Method, Request, Response, header};
use http_body_util::BodyExt;
use kube::{
    Client, Config,
    client::Body,
    config::{KubeConfigOptions, Kubeconfig},
};
use serde_json::Value;
use std::path::PathBuf;

pub(super) struct Session {
    pub(super) client: Client,
    pub(super) config: Config,
    pub(super) namespace: String,
}

impl Session {
    /// `--kubeconfig`, else `$KUBECONFIG`, else the local server's default, else `~/.kube/config`.
    pub(super) async fn open(
        kubeconfig: Option<PathBuf>,
        context: Option<&str>,
        namespace: Option<&str>,
    ) -> Result<Self> {
        // The process' default TLS provider; a second call in one process keeps the first.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let read = |path: PathBuf| {
            Kubeconfig::read_from(&path)
                .with_context(|| format!("cannot read the kubeconfig {}", path.display()))
        };
        let kubeconfig = match kubeconfig {
            Some(path) => read(path)?,
            None => match Kubeconfig::from_env().context("cannot read $KUBECONFIG")? {
                Some(found) => found,
                None => {
                    let root = rustix::process::geteuid().is_root();
                    let data = crate::config::default_data_dir(|name| std::env::var(name).ok(), root);
                    let ours = data.map(|d| d.join("admin.kubeconfig")).ok().filter(|p| p.exists());
                    match ours {
                        Some(path) => read(path)?,
                        None => Kubeconfig::read().context(
                            "no kubeconfig: start `minik8s server`, or name one with --kubeconfig or $KUBECONFIG",
                        )?,
                    }
                }
            },
        };
        let options = KubeConfigOptions { context: context.map(str::to_owned), ..Default::default() };
        let mut config = Config::from_custom_kubeconfig(kubeconfig, &options).await?;
        // Watches and log streams have no end; single requests answer in time or the server says so.
        config.read_timeout = None;
        let namespace = namespace.map_or_else(|| config.default_namespace.clone(), str::to_owned);
        let client = Client::try_from(config.clone())?;
        Ok(Self { client, config, namespace })
    }

    /// One JSON request; an error answer is a `kube::Error::Api`.
    pub(super) async fn request(
        &self,
        method: Method,
        path: &str,
        content_type: &str,
        body: Vec<u8>,
    ) -> Result<Value> {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, content_type)
            .body(body)?;
        Ok(self.client.request(request).await?)
    }

    pub(super) async fn get(&self, path: &str) -> Result<Value> {
        self.request(Method::GET, path, "application/json", Vec::new()).await
    }

    /// A request whose answer is read as it comes.
    pub(super) async fn stream(&self, path: &str, accept: &str) -> Result<Lines> {
        let request = Request::get(path).header(header::ACCEPT, accept).body(Body::empty())?;
        let response = self.client.send(request).await?;
        if !response.status().is_success() {
            return Err(status_error(response).await);
        }
        Ok(Lines { body: response.into_body(), rest: Vec::new() })
    }
}

async fn status_error(response: Response<Body>) -> anyhow::Error {
    let code = response.status();
    let body = match response.into_body().collect().await {
        Ok(body) => body.to_bytes(),
        Err(error) => return error.into(),
    };
    match serde_json::from_slice::<kube::core::Status>(&body) {
        Ok(status) => kube::Error::Api(Box::new(status)).into(),
        Err(_) => anyhow::anyhow!("the server answered {code}: {}", String::from_utf8_lossy(&body)),
    }
}

/// A streamed answer: as raw pieces or as lines.
pub(super) struct Lines {
    body: Body,
    rest: Vec<u8>,
}

/// No line of the API is longer: the largest object is 3 MiB.
const MAX_LINE: usize = 16 << 20;

impl Lines {
    /// The next piece as it arrived.
    pub(super) async fn chunk(&mut self) -> Result<Option<Bytes>> {
        loop {
            match self.body.frame().await {
                None => return Ok(None),
                Some(frame) => {
                    if let Ok(data) = frame?.into_data() {
                        return Ok(Some(data));
                    }
                }
            }
        }
    }

    /// The next line as JSON.
    pub(super) async fn json(&mut self) -> Result<Option<Value>> {
        loop {
            if let Some(end) = self.rest.iter().position(|b| *b == b'\n') {
                let line: Vec<u8> = self.rest.drain(..=end).collect();
                return Ok(Some(serde_json::from_slice(&line)?));
            }
            match self.chunk().await? {
                Some(data) => self.rest.extend_from_slice(&data),
                None => return Ok(None),
            }
            if self.rest.len() > MAX_LINE {
                bail!("the server sent a line of more than {MAX_LINE} bytes");
            }
        }
    }
}

/// Percent-encodes a query value.
pub(super) fn escape(text: &str) -> String {
    text.bytes()
        .map(|b| match b {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(b).to_string(),
            other => format!("%{other:02X}"),
        })
        .collect()
}
