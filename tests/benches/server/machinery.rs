//! Patches, applies, and what ten thousand pods cost in memory and to list.

use crate::{
    connection::{Connection, Target},
    load::{CLIENTS, MAPS, map},
    millis,
    nodes::resident,
    percentile,
    reference::{bare_server, gets},
};
use bytes::Bytes;
use http::{Method, StatusCode};
use std::time::{Duration, Instant};
use tests::{Options, TestCluster};
use tokio::task::JoinSet;

const WRITES: usize = 10_000;
const PODS: &str = "/api/v1/namespaces/default/pods";
const POD_COUNT: usize = 10_000;
/// What client-go asks for at a time.
const PAGE: usize = 500;
const LISTS: Duration = Duration::from_secs(3);

pub(crate) async fn run() {
    let cluster = tokio::task::block_in_place(|| TestCluster::with(Options::without_pods()));
    let target = Target::of(&cluster);
    patches(&target).await;
    applies(&target).await;
    pods(&cluster, &target).await;
}

async fn patches(target: &Target) {
    let mut wires = JoinSet::new();
    let mut connection = target.connect(&mut wires).await;
    for client in 0..CLIENTS {
        let (status, _) = connection.call(Method::POST, MAPS, map(&format!("patched-{client}"), 1024)).await;
        assert_eq!(status, StatusCode::CREATED);
    }
    let kind = "application/merge-patch+json";
    writes(target, "merge patches, 1 KiB objects", async |connection, client, n| {
        let body = format!(r#"{{"data":{{"b":"{n}"}}}}"#).into();
        connection.patch(&format!("{MAPS}/patched-{client}"), kind, body).await
    })
    .await;
}

/// The first of each client creates its object, the others change one field of it.
async fn applies(target: &Target) {
    let kind = "application/apply-patch+yaml";
    writes(target, "server-side applies, 1 KiB objects", async |connection, client, n| {
        let text = String::from_utf8(map(&format!("applied-{client}"), 1000).into()).expect("JSON");
        let text = text.replacen(r#""data":{"#, &format!(r#""data":{{"n":"{n}","#), 1);
        connection.patch(&format!("{MAPS}/applied-{client}?fieldManager=bench"), kind, text.into()).await
    })
    .await;
}

/// `WRITES` of one sort, each client on an object of its own.
async fn writes(
    target: &Target,
    what: &str,
    write: impl AsyncFn(&mut Connection, usize, usize) -> (StatusCode, Bytes),
) {
    let mut wires = JoinSet::new();
    let mut connections = Vec::new();
    for _ in 0..CLIENTS {
        connections.push(target.connect(&mut wires).await);
    }
    let begun = Instant::now();
    let client = async |(client, mut connection): (usize, Connection)| {
        let mut took = Vec::with_capacity(WRITES / CLIENTS);
        for n in 0..WRITES / CLIENTS {
            let sent = Instant::now();
            let (status, answer) = write(&mut connection, client, n).await;
            assert!(status.is_success(), "{status} {}", String::from_utf8_lossy(&answer));
            took.push(sent.elapsed());
        }
        took
    };
    let took = futures::future::join_all(connections.into_iter().enumerate().map(client)).await;
    let mut took: Vec<Duration> = took.into_iter().flatten().collect();
    println!(
        "{what:36} {:11.0} /s    {CLIENTS} clients, p50 {:.2} ms, p99 {:.2} ms",
        took.len() as f64 / begun.elapsed().as_secs_f64(),
        millis(percentile(&mut took, 0.5)),
        millis(percentile(&mut took, 0.99)),
    );
}

/// Pods that another scheduler is to place: nobody touches them once they are there.
async fn pods(cluster: &TestCluster, target: &Target) {
    let before = resident(cluster);
    let (mut wires, mut work) = (JoinSet::new(), JoinSet::new());
    for client in 0..CLIENTS {
        let mut connection = target.connect(&mut wires).await;
        work.spawn(async move {
            for n in (client..POD_COUNT).step_by(CLIENTS) {
                let pod = serde_json::json!({
                    "apiVersion": "v1", "kind": "Pod",
                    "metadata": {"name": format!("pod-{n}"), "labels": {"app": "bench", "n": n.to_string()}},
                    "spec": {"schedulerName": "nobody", "containers": [{
                        "name": "main", "image": "registry.example/app:1", "ports": [{"containerPort": 80}],
                        "env": [{"name": "MODE", "value": "bench"}],
                        "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}},
                    }]},
                });
                let (status, answer) = connection.call(Method::POST, PODS, pod.to_string().into()).await;
                assert_eq!(status, StatusCode::CREATED, "{}", String::from_utf8_lossy(&answer));
            }
        });
    }
    work.join_all().await;
    let grown = resident(cluster) - before;
    println!("memory per 1,000 pods                   {:8.1} MB", grown * 1000.0 / POD_COUNT as f64);
    let mut connection = target.connect(&mut wires).await;
    let (mut token, mut seen, mut bytes) = (String::new(), 0, 0);
    let begun = Instant::now();
    let mut took = Duration::ZERO;
    loop {
        let path = format!("{PODS}?limit={PAGE}&continue={token}");
        let asked = Instant::now();
        let (status, page) = connection.call(Method::GET, &path, Bytes::new()).await;
        took += asked.elapsed();
        assert_eq!(status, StatusCode::OK);
        bytes += page.len();
        let page: serde_json::Value = serde_json::from_slice(&page).expect("a list");
        seen += page["items"].as_array().expect("items").len();
        match page["metadata"]["continue"].as_str() {
            Some(next) if !next.is_empty() => next.clone_into(&mut token),
            _ => break,
        }
    }
    assert_eq!(seen, POD_COUNT);
    println!(
        "{POD_COUNT} pods in pages of {PAGE}              {:8.0} ms    {:.1} MB; {:.0} ms with the client's parsing",
        millis(took),
        bytes as f64 / 1e6,
        millis(begun.elapsed()),
    );
    let (_, whole) = connection.call(Method::GET, PODS, Bytes::new()).await;
    let bare = bare_server(whole, &mut wires).await;
    let (rate, ceiling) =
        (gets(target, 1, LISTS, |_| PODS.to_owned()).await, gets(&bare, 1, LISTS, |_| "/".to_owned()).await);
    println!(
        "{POD_COUNT} pods at once                       {:8.0} ms    bare TLS server {:.0} ms",
        1000.0 / rate,
        1000.0 / ceiling
    );
}
