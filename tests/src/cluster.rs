//! A server of the test's own: the built binary on free addresses and a directory of its own, gone at the end.

use crate::{
    kubectl::{self, DEADLINE, Output, Version},
    process::Background,
    wait::wait_for,
};
use rustix::fs::{FlockOperation, flock};
use std::{
    fs::File,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
    time::Duration,
};
use tempfile::TempDir;

/// Slots give tests that run side by side their own ports and address ranges.
const SLOTS: u16 = 90;
const FIRST_PORT: u16 = 21000;
/// First second byte of the slots' ranges: slot n has 10.(100+n).0.0/17 for pods and 10.(100+n).128.0/17 for services.
const FIRST_RANGE: u16 = 100;
const START: Duration = Duration::from_secs(120);
const STOP: Duration = Duration::from_secs(30);

/// How a test wants its server.
#[derive(Debug, Clone)]
pub struct Options {
    /// More flags for `minik8s server`.
    pub flags: Vec<String>,
    /// Whether it runs pods. Without, no Docker is needed.
    pub pods: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self { flags: Vec::new(), pods: true }
    }
}

impl Options {
    /// API server and controllers only.
    pub fn without_pods() -> Self {
        Self { flags: vec!["--disable=kubelet,dns,proxy".to_owned()], pods: false }
    }
}

/// A running server. Dropping it removes everything it made.
pub struct TestCluster {
    slot: Slot,
    dir: TempDir,
    options: Options,
    server: Option<Child>,
    log: Arc<Mutex<String>>,
}

/// A lock on one of the slots; the operating system gives it back however the test ends.
struct Slot {
    number: u16,
    _lock: File,
}

impl Slot {
    fn take() -> Self {
        let dir = std::env::temp_dir().join("minik8s-test-slots");
        std::fs::create_dir_all(&dir).expect("the temporary directory is writable");
        wait_for("a free slot for a test server", Duration::from_secs(600), || {
            let start = fastrand::u16(0..SLOTS);
            (0..SLOTS)
                .map(|i| (start + i) % SLOTS)
                .find_map(|number| {
                    let lock = File::create(dir.join(number.to_string())).ok()?;
                    flock(&lock, FlockOperation::NonBlockingLockExclusive).ok()?;
                    Some(Slot { number, _lock: lock })
                })
                .ok_or("all slots are taken")
        })
    }
}

impl TestCluster {
    /// A server with pods.
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    pub fn with(options: Options) -> Self {
        if options.pods {
            let docker = Command::new("docker").arg("info").output();
            assert!(
                docker.is_ok_and(|o| o.status.success()),
                "no Docker Engine to test with: run tests/setup.sh (make test does)"
            );
        }
        let mut cluster = Self::prepared(options);
        cluster.launch();
        cluster
    }

    /// Its addresses and directory are taken, but the server is not started yet.
    pub fn prepared(options: Options) -> Self {
        let dir = tempfile::Builder::new().prefix("minik8s-test-").tempdir().expect("a temporary directory");
        Self { slot: Slot::take(), dir, options, server: None, log: Arc::default() }
    }

    /// The second byte of the slot's addresses.
    fn range(&self) -> u16 {
        FIRST_RANGE + self.slot.number
    }

    /// The address of the cluster's DNS.
    pub fn dns(&self) -> String {
        format!("10.{}.128.10", self.range())
    }

    pub fn port(&self) -> u16 {
        FIRST_PORT + self.slot.number
    }

    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn kubeconfig(&self) -> PathBuf {
        self.data_dir().join("admin.kubeconfig")
    }

    /// The name of its only node.
    pub fn node(&self) -> String {
        format!("node-{}", self.slot.number)
    }

    pub fn cluster_id(&self) -> String {
        std::fs::read_to_string(self.data_dir().join("cluster-id")).unwrap_or_default().trim().to_owned()
    }

    fn flags(&self) -> Vec<String> {
        let mut flags = vec![
            format!("--data-dir={}", self.data_dir().display()),
            format!("--port={}", self.port()),
            format!("--cluster-cidr=10.{}.0.0/17", self.range()),
            format!("--service-cidr=10.{}.128.0/17", self.range()),
            format!("--node-name={}", self.node()),
        ];
        flags.extend(self.options.flags.iter().cloned());
        flags
    }

    /// Starts the server (again) and waits for nothing.
    #[track_caller]
    pub fn spawn(&mut self) {
        let mut server = Command::new(binary("minik8s"))
            .arg("server")
            .args(self.flags())
            .env_remove("KUBECONFIG")
            .env("RUST_LOG", std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the server binary starts");
        let stderr = server.stderr.take().expect("stderr was piped");
        self.log.lock().expect("the log is whole").clear();
        let log = Arc::clone(&self.log);
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                let mut log = log.lock().expect("the log is whole");
                log.push_str(&line);
                log.push('\n');
            }
        });
        self.server = Some(server);
    }

    /// Starts the server (again) and waits for its ready line, and for the node where it has one.
    #[track_caller]
    pub fn launch(&mut self) {
        self.spawn();
        wait_for("the ready line", START, || {
            let log = self.log();
            let ended = self.server.as_mut().and_then(|s| s.try_wait().ok().flatten());
            assert!(ended.is_none(), "the server ended at once ({ended:?}):\n{log}");
            if log.contains("minik8s is ready") { Ok(()) } else { Err(log) }
        });
        if self.options.pods {
            wait_for("a ready node", START, || {
                let seen = self.try_kubectl(&["get", "nodes", "--no-headers"]);
                if seen.stdout.contains(" Ready ") { Ok(()) } else { Err(format!("{seen}\n{}", self.log())) }
            });
        }
    }

    /// What the server has said on standard error since its last start.
    pub fn log(&self) -> String {
        self.log.lock().expect("the log is whole").clone()
    }

    /// kill -9.
    pub fn kill(&mut self) {
        let mut server = self.server.take().expect("the server runs");
        server.kill().expect("the server can be killed");
        server.wait().expect("the server can be waited for");
    }

    /// SIGTERM, and its exit code.
    pub fn stop(&mut self) -> Option<i32> {
        let mut server = self.server.take()?;
        let pid = rustix::process::Pid::from_child(&server);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let code = wait_for("the server to stop", STOP, || match server.try_wait() {
            Ok(Some(status)) => Ok(status.code()),
            other => Err(format!("{other:?}")),
        });
        Some(code.unwrap_or(-1))
    }

    pub fn server_pid(&self) -> u32 {
        self.server.as_ref().expect("the server runs").id()
    }

    /// kubectl 1.33 with these arguments; panics unless it succeeds. Returns its standard output.
    #[track_caller]
    pub fn kubectl(&self, args: &[&str]) -> String {
        self.try_kubectl(args).ok()
    }

    /// kubectl 1.33 with these arguments.
    #[track_caller]
    pub fn try_kubectl(&self, args: &[&str]) -> Output {
        self.kubectl_of(Version::V1_33, args, b"")
    }

    /// The named kubectl with these arguments and this standard input.
    #[track_caller]
    pub fn kubectl_of(&self, version: Version, args: &[&str], input: &[u8]) -> Output {
        let mut command = self.kubectl_command(version);
        command.args(args);
        kubectl::run(command, input, DEADLINE)
    }

    /// The named kubectl, set up for this cluster, for tests that drive it themselves.
    #[track_caller]
    pub fn kubectl_command(&self, version: Version) -> Command {
        let mut command = Command::new(version.path().unwrap_or_else(|missing| panic!("{missing}")));
        command.env("KUBECONFIG", self.kubeconfig()).env("HOME", self.dir.path());
        command
    }

    /// `kubectl apply -f -`; panics unless it succeeds.
    #[track_caller]
    pub fn apply(&self, manifest: &str) -> String {
        self.kubectl_of(Version::V1_33, &["apply", "-f", "-"], manifest.as_bytes()).ok()
    }

    /// `minik8s-ctl` with these arguments.
    #[track_caller]
    pub fn ctl(&self, args: &[&str]) -> Output {
        let mut command = Command::new(binary("minik8s-ctl"));
        command.env("KUBECONFIG", self.kubeconfig()).args(args);
        kubectl::run(command, b"", DEADLINE)
    }

    /// Waits until `kubectl get ARGS` prints something that `accept` takes; returns it.
    #[track_caller]
    pub fn wait_get(&self, args: &[&str], deadline: Duration, accept: impl Fn(&str) -> bool) -> String {
        let mut all = vec!["get"];
        all.extend(args);
        wait_for(&format!("kubectl {}", all.join(" ")), deadline, || {
            let seen = self.try_kubectl(&all);
            if seen.success() && accept(&seen.stdout) { Ok(seen.stdout) } else { Err(seen) }
        })
    }

    /// kubectl running beside the test until it is dropped.
    #[track_caller]
    pub fn background(&self, version: Version, args: &[&str]) -> Background {
        let mut command = self.kubectl_command(version);
        command.args(args);
        Background::start(command)
    }

    /// A file of the test's own, for `-f` and `cp`.
    pub fn file(&self, name: &str, content: &str) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, content).expect("the test's directory is writable");
        path.display().to_string()
    }

    /// `kubectl proxy` and the address it serves on.
    #[track_caller]
    pub fn proxy(&self) -> (Background, String) {
        let mut proxy = self.background(Version::V1_33, &["proxy", "--port=0"]);
        let said = proxy.wait_output(START, |out| out.ends_with('\n'));
        let address = said.trim().rsplit(' ').next().unwrap_or_default();
        (proxy, format!("http://{address}"))
    }

    /// One field of an object, by jsonpath: `field("pod/a", ".metadata.uid")`. Empty if there is none.
    #[track_caller]
    pub fn field(&self, object: &str, path: &str) -> String {
        self.try_kubectl(&["get", object, "-o", &format!("jsonpath={{{path}}}")]).stdout
    }

    /// Waits until a field of an object is what `accept` takes; returns it.
    #[track_caller]
    pub fn wait_field(&self, object: &str, path: &str, accept: impl Fn(&str) -> bool) -> String {
        wait_for(&format!("{object} {path}"), DEADLINE, || {
            let seen = self.try_kubectl(&["get", object, "-o", &format!("jsonpath={{{path}}}")]);
            if seen.success() && accept(&seen.stdout) { Ok(seen.stdout) } else { Err(seen) }
        })
    }

    /// Waits until the pod is Ready.
    #[track_caller]
    pub fn wait_ready(&self, pod: &str) {
        let path = r#"jsonpath={.status.conditions[?(@.type=="Ready")].status}"#;
        wait_for(&format!("pod {pod} to be Ready"), DEADLINE, || {
            let seen = self.try_kubectl(&["get", "pod", pod, "-o", path]);
            if seen.stdout == "True" {
                return Ok(());
            }
            Err(format!("{seen}\n{}\n{}", self.try_kubectl(&["describe", "pod", pod]), self.log()))
        });
    }

    /// Ids of this cluster's containers, running or not.
    pub fn containers(&self) -> Vec<String> {
        let filter = format!("label=minik8s.io/cluster={}", self.cluster_id());
        let seen = Command::new("docker").args(["ps", "-aq", "--no-trunc", "--filter", &filter]).output();
        let text = seen.map(|o| String::from_utf8_lossy(&o.stdout).into_owned()).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }

    /// `minik8s reset` of this cluster.
    pub fn reset(&self) -> Output {
        let mut command = Command::new(binary("minik8s"));
        command.arg("reset").args(self.flags());
        kubectl::run(command, b"", DEADLINE)
    }
}

impl Drop for TestCluster {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- server log\n{}", self.log());
        }
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
        if self.options.pods && self.data_dir().exists() {
            let reset = self.reset();
            if !reset.success() && !std::thread::panicking() {
                panic!("reset failed: {reset}");
            }
        }
    }
}

/// A binary of this workspace, beside the test's own.
pub fn binary(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("the test knows where it is");
    let dir = own.parent().and_then(Path::parent).expect("tests are in target/PROFILE/deps");
    let path = dir.join(name);
    assert!(
        path.is_file(),
        "{} is not built: run `cargo build --workspace` first (make test does)",
        path.display()
    );
    path
}
