//! Creates, gets, lists and watches over TLS.

use crate::{
    connection::Target,
    millis, percentile,
    reference::{bare_fan_out, bare_server, disk_flush, gets},
};
use bytes::Bytes;
use http::{Method, StatusCode};
use http_body_util::BodyExt;
use std::time::{Duration, Instant};
use tests::{Options, TestCluster};
use tokio::{sync::mpsc, task::JoinSet};

pub(crate) const CLIENTS: usize = 32;
const CREATES: usize = 20_000;
const GETS: Duration = Duration::from_secs(5);
const LISTED: usize = 3000;
const LIST_CLIENTS: usize = 4;
const WATCHERS: usize = 50;
const WATCHED_WRITES: usize = 2000;
/// Ten times what an informer-heavy cluster has; then it is the latency of the last that grows.
const MANY_WATCHERS: usize = 1000;
const MANY_WATCHED_WRITES: usize = 100;
pub(crate) const MAPS: &str = "/api/v1/namespaces/default/configmaps";
const DEADLINE: Duration = Duration::from_secs(60);

pub(crate) async fn run() {
    let cluster = tokio::task::block_in_place(|| TestCluster::with(Options::without_pods()));
    let target = Target::of(&cluster);
    println!("disk flush (reference)                  {:8.2} ms", millis(disk_flush(&cluster.data_dir())));
    creates(&target).await;
    reads(&target).await;
    watches(&target, WATCHERS, WATCHED_WRITES, "(budget 1, 5)").await;
    watches(&target, MANY_WATCHERS, MANY_WATCHED_WRITES, "").await;
}

/// A ConfigMap whose JSON is about `size` bytes long.
pub(crate) fn map(name: &str, size: usize) -> Bytes {
    let head = format!(
        r#"{{"apiVersion":"v1","kind":"ConfigMap","metadata":{{"name":"{name}","namespace":"default"}},"data":{{"a":""#
    );
    let filler = "x".repeat(size.saturating_sub(head.len() + 4));
    Bytes::from(format!("{head}{filler}\"}}}}"))
}

async fn creates(target: &Target) {
    let (mut wires, mut work) = (JoinSet::new(), JoinSet::new());
    let mut connections = Vec::new();
    for _ in 0..CLIENTS {
        connections.push(target.connect(&mut wires).await);
    }
    let begun = Instant::now();
    for (client, mut connection) in connections.into_iter().enumerate() {
        work.spawn(async move {
            let mut took = Vec::with_capacity(CREATES / CLIENTS);
            for n in 0..CREATES / CLIENTS {
                let body = map(&format!("made-{client}-{n}"), 1024);
                let sent = Instant::now();
                let (status, answer) = connection.call(Method::POST, MAPS, body).await;
                assert_eq!(status, StatusCode::CREATED, "{}", String::from_utf8_lossy(&answer));
                took.push(sent.elapsed());
            }
            took
        });
    }
    let mut took: Vec<Duration> = work.join_all().await.into_iter().flatten().collect();
    let rate = took.len() as f64 / begun.elapsed().as_secs_f64();
    println!(
        "durable creates, 1 KiB, {CLIENTS} clients       {rate:8.0} /s    (budget 8000)  p50 {:.2} ms, p99 {:.2} ms",
        millis(percentile(&mut took, 0.5)),
        millis(percentile(&mut took, 0.99)),
    );
    let mut wires = JoinSet::new();
    let mut connection = target.connect(&mut wires).await;
    let (status, _) = connection.call(Method::DELETE, MAPS, Bytes::new()).await;
    assert!(status.is_success(), "deletecollection: {status}");
}

async fn reads(target: &Target) {
    let mut wires = JoinSet::new();
    let mut connection = target.connect(&mut wires).await;
    for n in 0..LISTED {
        let (status, _) = connection.call(Method::POST, MAPS, map(&format!("read-{n}"), 1200)).await;
        assert_eq!(status, StatusCode::CREATED);
    }
    let (_, one) = connection.call(Method::GET, &format!("{MAPS}/read-0"), Bytes::new()).await;
    let (_, list) = connection.call(Method::GET, MAPS, Bytes::new()).await;
    let bare = bare_server(one.clone(), &mut wires).await;
    let ceiling = gets(&bare, CLIENTS, GETS, |_| "/".to_owned()).await;
    let rate = gets(target, CLIENTS, GETS, |n| format!("{MAPS}/read-{n}")).await;
    println!(
        "gets, {} bytes, {CLIENTS} clients            {rate:8.0} /s    (budget 20000) bare TLS server {ceiling:.0} /s, ratio {:.2}",
        one.len(),
        rate / ceiling
    );
    let bytes = list.len();
    let bare = bare_server(list, &mut wires).await;
    let ceiling = gets(&bare, LIST_CLIENTS, GETS, |_| "/".to_owned()).await;
    let rate = gets(target, LIST_CLIENTS, GETS, |_| MAPS.to_owned()).await;
    println!(
        "lists of {LISTED}, {:.1} MB, {LIST_CLIENTS} clients         {rate:8.0} /s    (budget 400)   bare TLS server {ceiling:.0} /s, ratio {:.2}",
        bytes as f64 / 1e6,
        rate / ceiling
    );
}

async fn watches(target: &Target, watchers: usize, writes: usize, budget: &str) {
    let mut wires = JoinSet::new();
    let mut connection = target.connect(&mut wires).await;
    let (_, list) = connection.call(Method::GET, &format!("{MAPS}?limit=1"), Bytes::new()).await;
    let list: serde_json::Value = serde_json::from_slice(&list).expect("a list");
    let from = list["metadata"]["resourceVersion"].as_str().expect("a version");
    let size = (watchers, writes);
    let bare = bare_fan_out(&mut wires).await;
    let mut ceiling = fan_out(&bare, "/", "/", size).await;
    let mut took = fan_out(target, &format!("{MAPS}?watch=1&resourceVersion={from}"), MAPS, size).await;
    println!(
        "watch, {watchers:4} watchers: write to event     {:8.2} ms p50, {:.2} ms p99 {budget}  bare TLS server, nothing kept: {:.2}, {:.2}",
        millis(percentile(&mut took, 0.5)),
        millis(percentile(&mut took, 0.99)),
        millis(percentile(&mut ceiling, 0.5)),
        millis(percentile(&mut ceiling, 0.99)),
    );
}

/// Every watcher sees every write; a sample is the time from sending a write to one watcher's receiving it.
async fn fan_out(
    target: &Target,
    watched: &str,
    written: &str,
    (watchers, writes): (usize, usize),
) -> Vec<Duration> {
    let (mut wires, mut readers) = (JoinSet::new(), JoinSet::new());
    let (seen, mut samples) = mpsc::channel::<(usize, Instant)>(watchers);
    let mut writer = target.connect(&mut wires).await;
    for _ in 0..watchers {
        let mut connection = target.connect(&mut wires).await;
        let response = connection.open(Method::GET, watched, Bytes::new()).await;
        assert_eq!(response.status(), StatusCode::OK);
        let seen = seen.clone();
        readers.spawn(async move {
            let mut body = response.into_body();
            let (mut number, mut rest) = (0, Vec::new());
            while let Some(Ok(frame)) = body.frame().await {
                let now = Instant::now();
                rest.extend_from_slice(frame.data_ref().map_or(&[][..], |d| d));
                while let Some(end) = rest.iter().position(|b| *b == b'\n') {
                    rest.drain(..=end);
                    if seen.send((number, now)).await.is_err() {
                        return;
                    }
                    number += 1;
                }
            }
            drop(connection);
        });
    }
    let mut sent = Vec::with_capacity(writes);
    let mut took = Vec::with_capacity(watchers * writes);
    for n in 0..writes {
        sent.push(Instant::now());
        let (status, _) =
            writer.call(Method::POST, written, map(&format!("watched-{watchers}-{n}"), 1024)).await;
        assert!(status.is_success(), "{status}");
        // One write at a time: the figure is latency, not how deep queues get.
        for _ in 0..watchers {
            let event = tokio::time::timeout(DEADLINE, samples.recv()).await;
            let (number, at) = event.expect("every watcher sees every write").expect("watchers live");
            took.push(at.duration_since(sent[number]));
        }
    }
    took
}
