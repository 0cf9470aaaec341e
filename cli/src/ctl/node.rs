//! `node`: lets a node of the server fail and brings it back. kubectl has no such thing; what follows can be watched with it.

use super::{Selection, get::Get, session::Session};
use anyhow::Result;
use clap::{Args, Subcommand};
use http::Method;
use std::io::{Write, stdout};

#[derive(Debug, Args)]
pub(super) struct Node {
    #[command(subcommand)]
    action: Action,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Print the nodes
    List,
    /// Silence the node's kubelet; its containers live on, as on a node that the network has cut off
    Stop(Name),
    /// Silence the node's kubelet and kill its containers, as on a node that has lost its power
    Kill(Name),
    /// Give the node a new kubelet: it ends what was deleted or replaced meanwhile, then the node is Ready
    Start(Name),
}

#[derive(Debug, Args)]
struct Name {
    /// Name of the node
    #[arg(value_parser = clap::builder::NonEmptyStringValueParser::new())]
    name: String,
}

impl Node {
    pub(super) async fn run(self, session: &Session) -> Result<()> {
        let (verb, done, name) = match self.action {
            Action::List => {
                let nodes = Selection { what: vec!["nodes".to_owned()], ..Selection::default() };
                return Get::of(nodes).run(session).await;
            }
            Action::Stop(name) => ("stop", "stopped", name.name),
            Action::Kill(name) => ("kill", "killed", name.name),
            Action::Start(name) => ("start", "started", name.name),
        };
        let path = format!("/api/v1/nodes/{}/{verb}", super::session::escape(&name));
        let answer = session.request(Method::POST, &path, "application/json", Vec::new()).await?;
        writeln!(stdout(), "node/{name} {done}: {}", answer["message"].as_str().unwrap_or_default())?;
        Ok(())
    }
}
