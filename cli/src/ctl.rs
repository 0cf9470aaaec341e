//! `minik8s-ctl`: kubectl's verbs, flags and words for what this release has of them.
//!
//! The server draws the tables and finds the faults; this side finds resources by discovery, sends, and prints. Data goes
//! to standard output, words about it to standard error.

mod apply;
mod attach;
mod delete;
mod describe;
mod get;
mod logs;
mod manifest;
mod node;
mod patch;
mod port_forward;
mod proxy;
mod resource;
mod rollout;
mod run;
mod session;
mod terminal;

use clap::{Args, Parser, Subcommand};
use session::Session;
use std::path::PathBuf;

/// Controls a minik8s cluster (or any other Kubernetes).
#[derive(Debug, Parser)]
#[command(name = "minik8s-ctl", version)]
pub struct Arguments {
    /// Namespace to work in [default: the kubeconfig's]
    #[arg(short, long, global = true)]
    namespace: Option<String>,
    /// Path of the kubeconfig [default: $KUBECONFIG, else the local server's]
    #[arg(long, global = true, value_name = "PATH")]
    kubeconfig: Option<PathBuf>,
    /// Context of the kubeconfig
    #[arg(long, global = true)]
    context: Option<String>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Print objects: get TYPE [NAME…], TYPE/NAME, or -f FILE
    Get(get::Get),
    /// Print an object with its events
    Describe(describe::Describe),
    /// Create or change objects from files (server-side apply)
    Apply(apply::Apply),
    /// Delete objects by name, selector or file
    Delete(delete::Delete),
    /// Change fields of an object
    Patch(patch::Patch),
    /// Set the number of replicas
    Scale(patch::Scale),
    /// Print a container's log
    Logs(logs::Logs),
    /// Run a command in a container
    Exec(attach::Exec),
    /// Start a pod from an image
    Run(run::Run),
    /// Follow a roll-out
    Rollout(rollout::Rollout),
    /// Let a node of the server fail, and bring it back
    Node(node::Node),
    /// Serve the API on a local port with your credentials
    Proxy(proxy::Proxy),
    /// Forward local ports to a pod
    PortForward(port_forward::PortForward),
}

/// Which objects: as kubectl takes them.
#[derive(Debug, Clone, Default, Args)]
struct Selection {
    /// TYPE [NAME…], or TYPE/NAME…
    #[arg(value_name = "TYPE[/NAME]")]
    what: Vec<String>,
    /// Label selector
    #[arg(short = 'l', long)]
    selector: Option<String>,
    /// Field selector
    #[arg(long)]
    field_selector: Option<String>,
    /// In every namespace
    #[arg(short = 'A', long)]
    all_namespaces: bool,
    /// Files, directories or - for standard input
    #[arg(short, long, value_name = "FILE")]
    filename: Vec<String>,
}

/// Runs one command; returns the exit code (a remote command's own, where there is one).
pub async fn run(arguments: Arguments) -> anyhow::Result<u8> {
    let session =
        Session::open(arguments.kubeconfig, arguments.context.as_deref(), arguments.namespace.as_deref())
            .await?;
    match arguments.verb {
        Verb::Get(verb) => verb.run(&session).await,
        Verb::Describe(verb) => verb.run(&session).await,
        Verb::Apply(verb) => verb.run(&session).await,
        Verb::Delete(verb) => verb.run(&session).await,
        Verb::Patch(verb) => verb.run(&session).await,
        Verb::Scale(verb) => verb.run(&session).await,
        Verb::Logs(verb) => verb.run(&session).await,
        Verb::Exec(verb) => return verb.run(&session).await,
        Verb::Run(verb) => return verb.run(&session).await,
        Verb::Rollout(verb) => verb.run(&session).await,
        Verb::Node(verb) => verb.run(&session).await,
        Verb::Proxy(verb) => verb.run(&session).await,
        Verb::PortForward(verb) => verb.run(&session).await,
    }?;
    Ok(0)
}

/// The error as kubectl words it.
pub fn explain(error: &anyhow::Error) -> String {
    match error.downcast_ref::<kube::Error>() {
        Some(kube::Error::Api(status)) => {
            let reason = if status.reason.is_empty() { "InternalError" } else { &status.reason };
            if reason == "Invalid" || reason == "BadRequest" && status.message.starts_with("error") {
                return format!("The request is invalid: {}", status.message);
            }
            format!("Error from server ({reason}): {}", status.message)
        }
        _ => format!("error: {error:#}"),
    }
}

/// Whoever read our output has gone: that is a success (`minik8s-ctl get pods | head -1`).
pub fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.chain().any(|e| {
        e.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == std::io::ErrorKind::BrokenPipe)
    })
}
