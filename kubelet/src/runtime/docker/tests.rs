//! The real Engine. Where there is none these tests say so and end; everything they make carries a cluster id of their own
//! and is removed by it.

use super::*;
use crate::runtime::{Mount, MountSource, PodRef, SANDBOX_NAME, State, container_spec_for_tests};
use std::{net::Ipv4Addr, path::PathBuf, process::Command};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

struct Bench {
    docker: Docker,
    raw: bollard::Docker,
    cluster: String,
    dir: tempfile::TempDir,
    _lock: std::fs::File,
}

impl Bench {
    /// `subnet` tells tests apart; a lock does the same for runs of one test, and what a run that failed has left is
    /// removed by the next.
    async fn new(subnet: u8) -> Option<Self> {
        let raw = Docker::connect(None).ok()?;
        if raw.ping().await.is_err() {
            eprintln!("no Docker Engine here: not tested");
            return None;
        }
        let lock = std::fs::File::create(std::env::temp_dir().join(format!("minik8s-docker-test-{subnet}")))
            .unwrap();
        let locked = lock.try_clone().unwrap();
        let wait = move || rustix::fs::flock(&locked, rustix::fs::FlockOperation::LockExclusive);
        tokio::task::spawn_blocking(wait).await.unwrap().unwrap();
        let cluster = format!("test{subnet}");
        reset(&cluster, &raw).await.unwrap();
        let cidr = format!("10.251.{subnet}.0/24").parse().unwrap();
        let mut config = Config::new("n1", 0, &cluster, "/nowhere".into(), cidr);
        config.bridge_name = format!("mkt{subnet}");
        need_busybox();
        let bench = Self {
            docker: Docker::new(raw.clone(), &config),
            raw,
            cluster,
            dir: tempfile::tempdir().unwrap(),
            _lock: lock,
        };
        std::fs::write(bench.dir.path().join("hosts"), "127.0.0.1 localhost\n10.251.0.9 friend\n").unwrap();
        std::fs::write(bench.dir.path().join("resolv.conf"), "nameserver 10.96.0.10\n").unwrap();
        Some(bench)
    }

    fn pod(&self) -> PodRef {
        PodRef { namespace: "ns".into(), name: "p".into(), uid: format!("uid-{}", self.cluster) }
    }

    async fn sandbox(&self, ip: [u8; 4]) -> Container {
        let spec = SandboxSpec {
            pod: self.pod(),
            hostname: "host-p".into(),
            ip: Some(Ipv4Addr::from(ip)),
            resolv_conf: self.dir.path().join("resolv.conf"),
            hosts: self.dir.path().join("hosts"),
            ..SandboxSpec::default()
        };
        let made = self.docker.run_sandbox(&spec).await.unwrap();
        let again = self.docker.run_sandbox(&spec).await.unwrap();
        assert_eq!(made.id, again.id, "asked twice it finds the first");
        made
    }

    async fn start(
        &self,
        sandbox: &Container,
        name: &str,
        script: &str,
        change: impl Fn(&mut ContainerSpec),
    ) -> String {
        let image = self.docker.image("minik8s-test/busybox:latest").await.unwrap().unwrap();
        let mut spec = container_spec_for_tests(self.pod(), &sandbox.id, name, &image.id);
        spec.command = ["sh", "-c", script].map(str::to_owned).to_vec();
        change(&mut spec);
        let id = self.docker.create_container(&spec).await.unwrap();
        assert_eq!(self.docker.create_container(&spec).await.unwrap(), id);
        self.docker.start_container(&id).await.unwrap();
        id
    }

    async fn clean(self) {
        let removed = reset(&self.cluster, &self.raw).await.unwrap();
        assert!(removed.containers > 0);
        assert_eq!(reset(&self.cluster, &self.raw).await.unwrap(), Default::default());
        assert_eq!(self.docker.list().await.unwrap(), []);
    }
}

/// The tests' image, which no registry has.
fn need_busybox() {
    let found = Command::new("docker").args(["image", "inspect", "minik8s-test/busybox:latest"]).output();
    assert!(
        found.is_ok_and(|o| o.status.success()),
        "no image minik8s-test/busybox to test with: run tests/images.sh (make test does)"
    );
}

async fn output(session: &mut Session) -> (String, String) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    while let Some(chunk) = session.output.next().await {
        match chunk.unwrap() {
            Output::Stdout(bytes) => out.extend(bytes),
            Output::Stderr(bytes) => err.extend(bytes),
        }
    }
    (String::from_utf8(out).unwrap(), String::from_utf8(err).unwrap())
}

fn command(words: &[&str]) -> ExecSpec {
    let command = words.iter().map(|word| (*word).to_owned()).collect();
    ExecSpec { command, stdout: true, stderr: true, ..ExecSpec::default() }
}

#[tokio::test]
async fn a_pods_life_in_the_engine() {
    let Some(bench) = Bench::new(41).await else { return };
    let mut events = bench.docker.events();
    assert_eq!(events.next().await, Some(Event::Connected));
    let sandbox = bench.sandbox([10, 251, 41, 7]).await;
    assert!(sandbox.is_running() && sandbox.name == SANDBOX_NAME);
    assert_eq!(sandbox.ip, Some(Ipv4Addr::new(10, 251, 41, 7).into()));
    let share = bench.dir.path().join("share");
    std::fs::create_dir(&share).unwrap();
    let a = bench
        .start(&sandbox, "a", "echo out; echo err >&2; hostname > /share/name; cat /etc/hosts /etc/resolv.conf > /share/files; id > /share/id; trap 'exit 7' TERM; while true; do sleep 0.1; done", |spec| {
            spec.env = vec![("X".into(), "y z".into())];
            spec.mounts = vec![Mount {
                source: MountSource::Path(PathBuf::from(&share)),
                target: "/share".into(),
                read_only: false,
                propagation: None,
            }];
            spec.security.supplemental_groups = vec!["777".into()];
            spec.resources.memory_bytes = Some(32 << 20);
            spec.resources.oom_score_adj = Some(-997);
            spec.attempt = 2;
        })
        .await;
    let found = bench.docker.inspect(&a).await.unwrap();
    assert_eq!(
        (found.attempt, found.sandbox_id.as_str(), found.hash.as_str()),
        (2, sandbox.id.as_str(), "hash")
    );
    let listed = bench.docker.list_pod(&bench.pod().uid).await.unwrap();
    assert_eq!(listed.iter().map(|c| c.name.as_str()).collect::<Vec<_>>(), ["a", SANDBOX_NAME]);
    // The same of a runtime that starts now: everything is found by label.
    let mut lines = Vec::new();
    let mut logs = bench.docker.logs(&a, LogOptions { follow: true, ..LogOptions::default() }).await.unwrap();
    while lines.len() < 2 {
        lines.push(logs.next().await.unwrap().unwrap());
    }
    drop(logs);
    lines.sort_by_key(|line| matches!(line, Output::Stderr(_)));
    let text = |line: &Output| {
        let (time, text) = std::str::from_utf8(line.bytes())
            .unwrap()
            .split_once(' ')
            .map(|(t, x)| (t.to_owned(), x.to_owned()))
            .unwrap();
        (time.parse::<jiff::Timestamp>().is_ok(), text)
    };
    assert_eq!((text(&lines[0]), text(&lines[1])), ((true, "out\n".into()), (true, "err\n".into())));
    let mut session =
        bench.docker.exec(&a, command(&["sh", "-c", "echo $X; echo bad >&2; exit 3"])).await.unwrap();
    assert_eq!(output(&mut session).await, ("y z\n".into(), "bad\n".into()));
    assert_eq!(session.exit.await.unwrap(), 3);
    let mut session = bench.docker.exec(&a, ExecSpec { stdin: true, ..command(&["cat"]) }).await.unwrap();
    let mut stdin = session.stdin.take().unwrap();
    stdin.write_all(b"to and fro").await.unwrap();
    stdin.shutdown().await.unwrap();
    assert_eq!(output(&mut session).await.0, "to and fro");
    assert_eq!(session.exit.await.unwrap(), 0);
    let tty = ExecSpec { tty: true, stdin: true, ..command(&["sh", "-c", "sleep 0.3; stty size"]) };
    let mut session = bench.docker.exec(&a, tty).await.unwrap();
    session.resize.as_ref().unwrap().send((99, 33)).await.unwrap();
    assert_eq!(output(&mut session).await.0.trim(), "33 99");
    assert_eq!(std::fs::read_to_string(share.join("name")).unwrap().trim(), "host-p");
    let files = std::fs::read_to_string(share.join("files")).unwrap();
    assert!(files.contains("10.251.0.9 friend") && files.contains("nameserver 10.96.0.10"), "{files}");
    assert!(std::fs::read_to_string(share.join("id")).unwrap().contains("777"));
    assert!(bench.docker.stats(&a).await.unwrap().memory_bytes > 0);
    bench.docker.stop_container(&a, Duration::from_secs(10)).await.unwrap();
    let State::Exited { code: 7, started: Some(_), .. } = bench.docker.inspect(&a).await.unwrap().state
    else {
        panic!("it had time to end by itself: {:?}", bench.docker.inspect(&a).await.unwrap().state)
    };
    bench.docker.stop_container(&a, Duration::from_secs(10)).await.unwrap();
    bench.docker.remove_container(&a).await.unwrap();
    bench.docker.remove_container(&a).await.unwrap();
    bench.docker.stop_container(&a, Duration::from_secs(10)).await.unwrap();
    use crate::runtime::Action::{Died, Removed, Started};
    let mut seen = Vec::new();
    while seen.len() < 4 {
        if let Some(Event::Pod { container_id, action, uid }) = events.next().await {
            assert_eq!(uid, bench.pod().uid);
            // The remains of a run that was cut short may still be leaving.
            if container_id == a || action != Removed {
                seen.push((container_id == a, action));
            }
        }
    }
    assert_eq!(seen, [(false, Started), (true, Started), (true, Died), (true, Removed)]);
    bench.clean().await;
}

const SERVE_ON_LOOPBACK: &str =
    "mkdir /tmp/www && echo hello > /tmp/www/word && exec httpd -f -p 127.0.0.1:8080 -h /tmp/www";

#[tokio::test]
async fn ports_inside_the_pod_are_reached_also_on_its_loopback() {
    let Some(bench) = Bench::new(42).await else { return };
    let sandbox = bench.sandbox([10, 251, 42, 7]).await;
    let a = bench.start(&sandbox, "a", SERVE_ON_LOOPBACK, |_| {}).await;
    let mut text = String::new();
    let listened = tokio::time::timeout(Duration::from_secs(30), async {
        // It listens when it listens.
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        loop {
            tick.tick().await;
            if let Ok(mut stream) = bench.docker.dial(&sandbox.id, 8080).await {
                stream.write_all(b"GET /word HTTP/1.0\r\n\r\n").await.unwrap();
                stream.read_to_string(&mut text).await.unwrap();
                return;
            }
        }
    });
    listened.await.unwrap();
    if rustix::process::geteuid().is_root() {
        assert!(text.ends_with("\r\n\r\nhello\n"), "{text}");
    }
    assert!(bench.docker.dial(&sandbox.id, 1).await.is_err());
    bench.docker.remove_container(&a).await.unwrap();
    bench.clean().await;
}

#[tokio::test]
async fn what_cannot_start_is_an_end_with_the_engines_words() {
    let Some(bench) = Bench::new(43).await else { return };
    let sandbox = bench.sandbox([10, 251, 43, 7]).await;
    let image = bench.docker.image("minik8s-test/busybox:latest").await.unwrap().unwrap();
    let mut spec = container_spec_for_tests(bench.pod(), &sandbox.id, "a", &image.id);
    spec.command = vec!["/no/such/program".into()];
    let id = bench.docker.create_container(&spec).await.unwrap();
    let error = bench.docker.start_container(&id).await.unwrap_err();
    assert!(matches!(&error, Error::RunContainer(text) if text.contains("/no/such/program")), "{error:?}");
    let State::Exited { code, error: Some(text), .. } = bench.docker.inspect(&id).await.unwrap().state else {
        panic!()
    };
    assert!((126..=128).contains(&code) && text.contains("/no/such/program"), "{code} {text}");
    // Two sandboxes cannot have one address, and a failed one leaves nothing behind.
    let twin = SandboxSpec {
        pod: PodRef { uid: "other".into(), ..bench.pod() },
        hostname: "x".into(),
        ip: Some(Ipv4Addr::new(10, 251, 43, 7)),
        resolv_conf: bench.dir.path().join("resolv.conf"),
        hosts: bench.dir.path().join("hosts"),
        ..SandboxSpec::default()
    };
    let error = bench.docker.run_sandbox(&twin).await.unwrap_err();
    assert!(matches!(&error, Error::Sandbox(text) if text.contains("in use")), "{error:?}");
    assert_eq!(bench.docker.list_pod("other").await.unwrap(), []);
    // Privileged and all capabilities, also where the machine withholds one.
    let b = bench.start(&sandbox, "b", "sleep 100", |spec| spec.security.privileged = true).await;
    assert!(bench.docker.inspect(&b).await.unwrap().is_running());
    assert_eq!(bench.docker.image("minik8s-test/no-such-image:1").await.unwrap(), None);
    let error = bench.docker.image("UPPER:1").await.unwrap_err();
    assert_eq!(error.waiting_reason(), "InvalidImageName", "{error:?}");
    bench.clean().await;
}
