//! Asks a container how it is, within the probe's time limit.

use super::{HttpGet, grpc, http_get};
use crate::runtime::{ExecSpec, Output, Runtime};
use futures::StreamExt;
use k8s_openapi::{
    api::core::v1::{Container as Spec, ExecAction, HTTPGetAction, Probe},
    apimachinery::pkg::util::intstr::IntOrString,
};
use std::time::Duration;
use tokio::net::TcpStream;

/// How much of a command's output is kept for the event (the real kubelet's limit).
const MAX_OUTPUT: usize = 10 << 10;

/// What a probe or a hook needs to know of its container.
pub(crate) struct Target<'a> {
    pub(crate) runtime: &'a dyn Runtime,
    pub(crate) container_id: &'a str,
    pub(crate) spec: &'a Spec,
    /// The pod's address; the machine's own for pods on the host's network.
    pub(crate) address: String,
}

/// `Err` says why the probe failed, for the event.
pub(crate) async fn probe(target: &Target<'_>, probe: &Probe) -> Result<(), String> {
    let seconds = u64::try_from(probe.timeout_seconds.unwrap_or(1).max(1)).unwrap_or(1);
    let limit = Duration::from_secs(seconds);
    let ask = async {
        if let Some(action) = &probe.exec {
            return exec(target, action).await;
        }
        if let Some(action) = &probe.http_get {
            return http(target, action).await;
        }
        if let Some(action) = &probe.tcp_socket {
            let port = port(target.spec, &action.port)?;
            let host =
                action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| target.address.clone());
            let connect = TcpStream::connect((host.as_str(), port)).await;
            return connect.map(drop).map_err(|error| format!("dial tcp {host}:{port}: {error}"));
        }
        if let Some(action) = &probe.grpc {
            let port = u16::try_from(action.port).map_err(|_| format!("invalid port {}", action.port))?;
            return grpc::check(&target.address, port, action.service.as_deref().unwrap_or_default()).await;
        }
        Err("missing probe handler".to_owned())
    };
    let timed_out = || match &probe.exec {
        Some(action) => {
            let command = action.command.as_deref().unwrap_or_default();
            format!("command timed out: {command:?} timed out after {seconds}s")
        }
        None => format!("context deadline exceeded: no answer within {seconds} s"),
    };
    tokio::time::timeout(limit, ask).await.unwrap_or_else(|_| Err(timed_out()))
}

/// Runs a command; its output is the reason when it fails.
pub(crate) async fn exec(target: &Target<'_>, action: &ExecAction) -> Result<(), String> {
    let spec = ExecSpec {
        command: action.command.clone().unwrap_or_default(),
        stdout: true,
        stderr: true,
        ..ExecSpec::default()
    };
    let mut session =
        target.runtime.exec(target.container_id, spec).await.map_err(|error| error.to_string())?;
    let mut kept = Vec::new();
    while let Some(chunk) = session.output.next().await {
        let chunk: Output = chunk.map_err(|error| error.to_string())?;
        let room = MAX_OUTPUT - kept.len();
        kept.extend(chunk.bytes().iter().take(room));
    }
    match session.exit.await.map_err(|error| error.to_string())? {
        0 => Ok(()),
        code => {
            let text = String::from_utf8_lossy(&kept);
            let text = text.trim_end();
            Err(if text.is_empty() { format!("command exited with code {code}") } else { text.to_owned() })
        }
    }
}

/// Status 200 to 399 is good.
pub(crate) async fn http(target: &Target<'_>, action: &HTTPGetAction) -> Result<(), String> {
    let port = port(target.spec, &action.port)?;
    let headers = action.http_headers.iter().flatten();
    let request = HttpGet {
        tls: action.scheme.as_deref() == Some("HTTPS"),
        host: action.host.clone().filter(|host| !host.is_empty()).unwrap_or_else(|| target.address.clone()),
        port,
        path: action.path.clone().unwrap_or_default(),
        headers: headers.map(|header| (header.name.clone(), header.value.clone())).collect(),
    };
    match http_get(&request).await? {
        200..=399 => Ok(()),
        status => Err(format!("HTTP probe failed with statuscode: {status}")),
    }
}

/// A port by number, or by the name a container's port has.
pub(crate) fn port(spec: &Spec, port: &IntOrString) -> Result<u16, String> {
    let number = match port {
        IntOrString::Int(number) => Some(*number),
        IntOrString::String(name) => {
            let named = spec.ports.iter().flatten().find(|p| p.name.as_deref() == Some(name));
            named.map(|p| p.container_port).or_else(|| name.parse().ok())
        }
    };
    let valid = number.and_then(|number| u16::try_from(number).ok()).filter(|number| *number > 0);
    valid.ok_or_else(|| format!("couldn't find port: {port:?}"))
}
