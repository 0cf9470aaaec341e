//! `port-forward`: local ports to a pod's, one tunnel a connection.

use super::session::Session;
use anyhow::{Context, Result, bail};
use clap::Args;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use std::{
    io::{Write, stdout},
    net::{IpAddr, Ipv4Addr},
};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

#[derive(Debug, Args)]
pub(super) struct PortForward {
    /// POD or pod/POD
    pod: String,
    /// LOCAL:REMOTE, or one number for both
    #[arg(required = true)]
    ports: Vec<String>,
    /// Address to listen on
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    address: IpAddr,
}

impl PortForward {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let pod = self.pod.strip_prefix("pod/").or(self.pod.strip_prefix("pods/")).unwrap_or(&self.pod);
        if pod.contains('/') {
            bail!("port-forward to {:?}: only pods for now", self.pod);
        }
        let pods: Api<Pod> = Api::namespaced(session.client.clone(), &session.namespace);
        pods.get(pod).await?;
        let tasks = TaskTracker::new();
        for ports in &self.ports {
            let (local, remote) = parse(ports)?;
            let listener = TcpListener::bind((self.address, local))
                .await
                .with_context(|| format!("unable to listen on port {local}"))?;
            writeln!(stdout(), "Forwarding from {} -> {remote}", listener.local_addr()?)?;
            let (pods, pod, connections) = (pods.clone(), pod.to_owned(), tasks.clone());
            tasks.spawn(async move {
                while let Ok((connection, _)) = listener.accept().await {
                    let (pods, pod) = (pods.clone(), pod.clone());
                    connections.spawn(async move {
                        if let Err(error) = forward(&pods, &pod, remote, connection).await {
                            eprintln!("error forwarding port {remote} to pod {pod}: {error:#}");
                        }
                    });
                }
            });
        }
        stdout().flush()?;
        tokio::signal::ctrl_c().await?;
        Ok(())
    }
}

async fn forward(pods: &Api<Pod>, pod: &str, port: u16, mut local: TcpStream) -> Result<()> {
    let mut tunnel = pods.portforward(pod, &[port]).await?;
    let error = tunnel.take_error(port);
    let Some(mut remote) = tunnel.take_stream(port) else { bail!("the server opened no stream") };
    let copied = tokio::io::copy_bidirectional(&mut local, &mut remote).await;
    drop(remote);
    if let Some(error) = error
        && let Some(message) = error.await
    {
        bail!("{message}");
    }
    copied?;
    Ok(())
}

fn parse(text: &str) -> Result<(u16, u16)> {
    let number = |s: &str| s.parse::<u16>().with_context(|| format!("{text:?} is not LOCAL:REMOTE"));
    let (local, remote) = match text.split_once(':') {
        Some(("", remote)) => (0, number(remote)?),
        Some((local, remote)) => (number(local)?, number(remote)?),
        None => (number(text)?, number(text)?),
    };
    if remote == 0 {
        bail!("the remote port must not be 0");
    }
    Ok((local, remote))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports() {
        assert_eq!(parse("8080").unwrap(), (8080, 8080));
        assert_eq!(parse("5000:80").unwrap(), (5000, 80));
        assert_eq!(parse(":80").unwrap(), (0, 80));
        for bad in ["", "a", "80:", "80:0", "70000", "1:2:3"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
