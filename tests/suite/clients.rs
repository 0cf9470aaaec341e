//! Client libraries as programs use them: create, list, patch, watch, exec over WebSocket, logs, scale, refusals.

use std::{
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};
use tests::{Options, TestCluster, kubectl};

/// A whole script, with a pod and a deployment that start.
const DEADLINE: Duration = Duration::from_secs(300);
/// All claims, on a busy machine.
const CLAIMS_DEADLINE: Duration = Duration::from_secs(900);

/// Where `tests/clients.sh` keeps it; `None`, and said so, where the machine cannot have it.
fn cached(name: &str) -> Option<PathBuf> {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache");
    if let Ok(why) = std::fs::read_to_string(cache.join(format!("{name}.missing"))) {
        println!("not looked at: {why}");
        return None;
    }
    let at = cache.join(name);
    assert!(at.exists(), "the {name} client is missing: run tests/clients.sh (make test does)");
    Some(at.canonicalize().unwrap())
}

fn run(mut program: Command, script: &str) {
    let c = TestCluster::start();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients").join(script);
    program.arg(path).arg("suite").env("KUBECONFIG", c.kubeconfig());
    let said = kubectl::run(program, b"", DEADLINE).ok();
    assert_eq!(said, "ok\n");
}

#[test]
fn python() {
    let Some(at) = cached("python") else { return };
    run(Command::new(at.join("bin/python")), "client.py");
}

#[test]
fn node() {
    let Some(at) = cached("node") else { return };
    let mut node = Command::new("node");
    node.env("CLIENT_NODE", at);
    run(node, "client.mjs");
}

/// What clients and the conformance suite rely on, claim by claim (`tests/clients/behaviours`): Python's own library is enough.
#[test]
fn behaviours() {
    let c = TestCluster::with(Options::without_pods());
    let claims = Path::new(env!("CARGO_MANIFEST_DIR")).join("clients/behaviours");
    let mut python = Command::new("python3");
    python.arg("-B").arg(claims).env("KUBECONFIG", c.kubeconfig());
    let said = kubectl::run(python, b"", CLAIMS_DEADLINE);
    assert_eq!(said.code, Some(0), "{}\n{}", said.stdout, said.stderr);
}
