//! `run`: a pod from an image, attached to with `-i`, removed at the end with `--rm`.

use super::{
    attach,
    delete::until_gone,
    resource::{self, Resource, Target},
    session::{Session, escape},
};
use anyhow::{Result, bail};
use clap::Args;
use http::Method;
use k8s_openapi::api::core::v1::Pod;
use kube::Api;
use serde_json::{Value, json};
use std::{
    io::{Write, stdout},
    time::Duration,
};

/// As kubectl's `--pod-running-timeout`.
const START: Duration = Duration::from_secs(60);

#[derive(Debug, Args)]
pub(super) struct Run {
    name: String,
    #[arg(long)]
    image: String,
    /// Keep standard input open and attach
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give it a terminal
    #[arg(short, long)]
    tty: bool,
    /// Remove the pod at the end
    #[arg(long)]
    rm: bool,
    /// Always, OnFailure or Never
    #[arg(long, default_value = "Always")]
    restart: String,
    /// KEY=VALUE
    #[arg(long, value_name = "KEY=VALUE")]
    env: Vec<String>,
    #[arg(short, long, value_name = "KEY=VALUE")]
    labels: Vec<String>,
    #[arg(long)]
    port: Option<u16>,
    /// The arguments after -- replace the image's command, not its arguments
    #[arg(long)]
    command: bool,
    #[arg(last = true)]
    args: Vec<String>,
}

impl Run {
    pub(super) async fn run(self, session: &Session) -> Result<u8> {
        if self.rm && !self.stdin {
            bail!("--rm should only be used for attached containers");
        }
        let all = resource::discover(session).await?;
        let pods = resource::find(&all, "pods")?.remove(0);
        let body = serde_json::to_vec(&self.pod()?)?;
        let path = pods.collection(Some(&session.namespace));
        session.request(Method::POST, &path, "application/json", body).await?;
        if !self.stdin {
            writeln!(stdout(), "pod/{} created", self.name)?;
            return Ok(0);
        }
        let outcome = self.attach(session, &pods).await;
        if self.rm {
            let target = Target {
                resource: pods,
                namespace: session.namespace.clone(),
                name: Some(self.name.clone()),
            };
            let options = br#"{"kind":"DeleteOptions","apiVersion":"v1"}"#.to_vec();
            let answer =
                session.request(Method::DELETE, &target.path(false), "application/json", options).await?;
            until_gone(session, &target, answer["metadata"]["uid"].as_str()).await?;
            eprintln!("pod {:?} deleted", self.name);
        }
        outcome
    }

    fn pod(&self) -> Result<Value> {
        let pairs = |list: &[String]| -> Result<Vec<(String, String)>> {
            list.iter()
                .map(|pair| match pair.split_once('=') {
                    Some((key, value)) => Ok((key.to_owned(), value.to_owned())),
                    None => bail!("{pair:?} is not KEY=VALUE"),
                })
                .collect()
        };
        let mut labels = pairs(&self.labels)?;
        if labels.is_empty() {
            labels.push(("run".to_owned(), self.name.clone()));
        }
        let labels: Value =
            labels.into_iter().map(|(k, v)| (k, Value::from(v))).collect::<serde_json::Map<_, _>>().into();
        let env: Vec<Value> = pairs(&self.env)?.iter().map(|(k, v)| json!({"name": k, "value": v})).collect();
        let mut container = json!({"name": self.name, "image": self.image, "env": env});
        if self.stdin {
            container["stdin"] = true.into();
            container["stdinOnce"] = true.into();
        }
        if self.tty {
            container["tty"] = true.into();
        }
        if let Some(port) = self.port {
            container["ports"] = json!([{"containerPort": port}]);
        }
        if !self.args.is_empty() {
            container[if self.command { "command" } else { "args" }] = json!(self.args);
        }
        Ok(json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": self.name, "labels": labels},
            "spec": {"containers": [container], "restartPolicy": self.restart},
        }))
    }

    async fn attach(&self, session: &Session, pods: &Resource) -> Result<u8> {
        let phase = match tokio::time::timeout(START, started(session, pods, &self.name)).await {
            Ok(phase) => phase?,
            Err(_) => bail!("timed out waiting for pod {:?} to start", self.name),
        };
        if phase != "Running" {
            // Too quick to attach to: its log says what it said.
            let path = format!("{}/log", pods.object(&session.namespace, &self.name));
            let mut log = session.stream(&path, "*/*").await?;
            while let Some(piece) = log.chunk().await? {
                stdout().write_all(&piece)?;
            }
            stdout().flush()?;
        } else {
            let api: Api<Pod> = Api::namespaced(session.client.clone(), &session.namespace);
            let process =
                api.attach(&self.name, &attach::params(Some(self.name.clone()), true, self.tty)).await?;
            attach::join(process, self.tty).await?;
        }
        if self.restart != "Never" {
            return Ok(0);
        }
        exit_code(session, pods, &self.name).await
    }
}

/// Follows the pod until `done` says something.
async fn follow<T>(
    session: &Session,
    pods: &Resource,
    name: &str,
    done: impl Fn(&Value) -> Option<T>,
) -> Result<T> {
    let only = escape(&format!("metadata.name={name}"));
    let path = format!("{}?watch=true&fieldSelector={only}", pods.collection(Some(&session.namespace)));
    loop {
        let mut events = session.stream(&path, "application/json").await?;
        while let Some(event) = events.json().await? {
            if event["type"] == "DELETED" {
                bail!("pod {name:?} was deleted");
            }
            if let Some(found) = done(&event["object"]) {
                return Ok(found);
            }
        }
    }
}

async fn started(session: &Session, pods: &Resource, name: &str) -> Result<String> {
    follow(session, pods, name, |pod| {
        let phase = pod["status"]["phase"].as_str().unwrap_or_default();
        ["Running", "Succeeded", "Failed"].contains(&phase).then(|| phase.to_owned())
    })
    .await
}

async fn exit_code(session: &Session, pods: &Resource, name: &str) -> Result<u8> {
    let code = follow(session, pods, name, |pod| {
        pod["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"].as_i64()
    });
    match tokio::time::timeout(START, code).await {
        Ok(code) => Ok(u8::try_from(code?).unwrap_or(1)),
        Err(_) => bail!("timed out waiting for pod {name:?} to end"),
    }
}
