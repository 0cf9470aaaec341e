//! The one door to a container engine: what the kubelet asks of it, in the kubelet's words.
//!
//! `docker` (bollard) and `fake` (scripted, for tests and fake nodes) implement [`Runtime`]. A runtime holds no
//! policy: it never restarts, never retries a decision, and reports facts. Every call has its own deadline and is
//! idempotent: asked twice, it finds what the first call made.

pub mod docker;
pub mod fake;

use async_trait::async_trait;
use bytes::Bytes;
use futures::{future::BoxFuture, stream::BoxStream};
use jiff::Timestamp;
use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::mpsc,
};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The `io.kubernetes.container.name` of a sandbox.
pub const SANDBOX_NAME: &str = "POD";

/// Labels on everything we make in the engine (design.md §6).
pub mod label {
    pub const POD_NAME: &str = "io.kubernetes.pod.name";
    pub const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub const POD_UID: &str = "io.kubernetes.pod.uid";
    pub const CONTAINER_NAME: &str = "io.kubernetes.container.name";
    pub const RESTART_COUNT: &str = "io.kubernetes.container.restartCount";
    /// Hash of the container's spec: another one means restart in place.
    pub const HASH: &str = "io.kubernetes.container.hash";
    /// Id of the sandbox a container joined: with another sandbox it has to be made anew.
    pub const SANDBOX: &str = "minik8s.io/sandbox";
    /// Of a sandbox whose address we gave it: the Engine knows of none.
    pub const POD_IP: &str = "minik8s.io/pod-ip";
    /// Requests and limits that a container was made with, for what is restarted to change them.
    pub const RESOURCES: &str = "minik8s.io/resources";
    pub const TERMINATION_GRACE: &str = "io.kubernetes.pod.terminationGracePeriod";
    pub const CLUSTER: &str = "minik8s.io/cluster";
    pub const NODE: &str = "minik8s.io/node";
}

/// A container engine, seen by one node of one cluster: it lists and touches only what carries that node's labels.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Facts about engine and machine; an error here means the node is not ready.
    async fn info(&self) -> Result<Info>;
    /// Makes what every pod needs and is missing: the node's pod network, the sandboxes' image.
    async fn prepare(&self) -> Result<()>;

    /// All containers of this node, sandboxes included, dead or alive.
    async fn list(&self) -> Result<Vec<Container>>;
    /// The same of one pod.
    async fn list_pod(&self, pod_uid: &str) -> Result<Vec<Container>>;
    /// What changed, for ever: it reconnects by itself and says so (then list again).
    fn events(&self) -> BoxStream<'static, Event>;

    /// Creates (if missing) and starts the pod's sandbox.
    async fn run_sandbox(&self, spec: &SandboxSpec) -> Result<Container>;
    /// Creates (if missing) the container; `ContainerSpec::attempt` is part of its identity. Gives its id.
    async fn create_container(&self, spec: &ContainerSpec) -> Result<String>;
    async fn start_container(&self, id: &str) -> Result<()>;
    /// Lets a running container use so much from now on; what is `None` stays as it is.
    async fn update_container(&self, id: &str, resources: &Resources) -> Result<()>;
    async fn inspect(&self, id: &str) -> Result<Container>;
    /// Stop signal, then SIGKILL after `grace`; returns when the container is dead. A container that is gone is dead.
    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()>;
    /// SIGKILLs if needed and removes. One that is gone is removed.
    async fn remove_container(&self, id: &str) -> Result<()>;

    /// The local image of this name, if there is one.
    async fn image(&self, reference: &str) -> Result<Option<Image>>;
    async fn pull(&self, reference: &str, credentials: Option<RegistryAuth>) -> Result<Image>;
    /// All local images, largest first.
    async fn images(&self) -> Result<Vec<Image>>;

    async fn exec(&self, container_id: &str, spec: ExecSpec) -> Result<Session>;
    /// Joins the streams of the container's first process.
    async fn attach(&self, container_id: &str, spec: AttachSpec) -> Result<Session>;
    /// Log output, oldest first; every chunk is one line that begins with an RFC 3339 time (nanoseconds) and a space.
    /// A line longer than the engine's buffer comes as several chunks, of which only the last ends in a newline.
    async fn logs(
        &self,
        container_id: &str,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<Output>>>;
    /// Connects to a TCP port inside the pod, as seen from its own loopback where the engine can do that.
    async fn dial(&self, sandbox_id: &str, port: u16) -> Result<BoxStreamIo>;
    /// Resource use of a running container, for stats.
    async fn stats(&self, container_id: &str) -> Result<Stats>;
}

/// A byte stream in both directions.
pub trait StreamIo: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> StreamIo for T {}
pub type BoxStreamIo = Box<dyn StreamIo>;

/// Why a runtime call did not succeed.
#[derive(Debug, Clone, thiserror::Error, PartialEq, Eq)]
pub enum Error {
    #[error("{0} not found")]
    NotFound(String),
    /// The engine does not answer, or is starting; try again later.
    #[error("the container engine cannot be reached: {0}")]
    Unavailable(String),
    #[error("{what} did not finish within {seconds} s")]
    Timeout { what: String, seconds: u64 },
    #[error("Failed to pull image {image:?}: {message}")]
    ImagePull { image: String, message: String },
    #[error("Container image {0:?} is not present with pull policy of Never")]
    ImageNeverPull(String),
    #[error("Failed to apply default image tag {0:?}: couldn't parse image name")]
    InvalidImageName(String),
    /// A reference in the spec (secret key, config map, subPathExpr, user) that cannot be resolved.
    #[error("{0}")]
    ContainerConfig(String),
    #[error("{0}")]
    CreateContainer(String),
    #[error("{0}")]
    RunContainer(String),
    #[error("{0}")]
    Sandbox(String),
    /// The engine has something else of that name, or is busy with it.
    #[error("{0}")]
    Conflict(String),
    #[error("{0}")]
    Hook(String),
    #[error("{0}")]
    Unsupported(String),
    #[error("{0}")]
    Other(String),
}

impl Error {
    /// The reason shown in `containerStatuses[].state.waiting`.
    pub fn waiting_reason(&self) -> &'static str {
        match self {
            Error::ImagePull { .. } => "ErrImagePull",
            Error::ImageNeverPull(_) => "ErrImageNeverPull",
            Error::InvalidImageName(_) => "InvalidImageName",
            Error::ContainerConfig(_) => "CreateContainerConfigError",
            Error::CreateContainer(_) | Error::Unsupported(_) => "CreateContainerError",
            Error::RunContainer(_) => "RunContainerError",
            Error::Hook(_) => "PostStartHookError",
            Error::NotFound(_)
            | Error::Unavailable(_)
            | Error::Timeout { .. }
            | Error::Sandbox(_)
            | Error::Conflict(_)
            | Error::Other(_) => "ContainerCreating",
        }
    }
}

/// Facts about the engine and the machine it runs on.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Info {
    /// For `nodeInfo.containerRuntimeVersion`: `docker://20.10.24`.
    pub runtime_version: String,
    pub kernel_version: String,
    pub os_image: String,
    pub operating_system: String,
    /// Kubernetes' (Go's) name: `amd64`, `arm64`.
    pub architecture: String,
    pub cpus: u32,
    pub memory_bytes: u64,
    /// Where the engine keeps its data, for disk figures.
    pub root_dir: PathBuf,
    pub engine_id: String,
}

/// The pod a container belongs to.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PodRef {
    pub namespace: String,
    pub name: String,
    pub uid: String,
}

/// One container as the engine reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub pod: PodRef,
    /// The name in the pod's spec; [`SANDBOX_NAME`] for a sandbox.
    pub name: String,
    /// The sandbox it joined; empty for a sandbox.
    pub sandbox_id: String,
    pub state: State,
    pub created: Timestamp,
    /// Restart count of this container, from its label.
    pub attempt: u32,
    /// Hash of the spec it was made from, from its label.
    pub hash: String,
    /// The image as the spec named it and as the engine identifies it.
    pub image: String,
    pub image_id: String,
    /// Process id of its first process as the engine's host sees it, when running.
    pub pid: Option<u32>,
    /// Of a sandbox on the pod network.
    pub ip: Option<IpAddr>,
    pub tty: bool,
    pub stdin: bool,
    /// What the engine lets it use; not of sandboxes.
    pub resources: Option<Resources>,
    /// The label [`label::RESOURCES`]; empty if it was made before there was one.
    pub made_with: String,
    /// `terminationGracePeriodSeconds` when it was made, for containers whose pod is no longer known.
    pub grace: Duration,
}

impl Container {
    pub fn is_sandbox(&self) -> bool {
        self.name == SANDBOX_NAME
    }
    pub fn is_running(&self) -> bool {
        matches!(self.state, State::Running { .. })
    }
    pub fn is_exited(&self) -> bool {
        matches!(self.state, State::Exited { .. })
    }
    /// Exit code of a container that has ended.
    pub fn exit_code(&self) -> Option<i32> {
        match self.state {
            State::Exited { code, .. } => Some(code),
            _ => None,
        }
    }
}

/// Where a container is in its life. `Created` covers a container that was never started.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum State {
    Created,
    Running {
        started: Timestamp,
    },
    Exited {
        code: i32,
        oom_killed: bool,
        started: Option<Timestamp>,
        finished: Timestamp,
        /// The engine's own words when the first process could not be started.
        error: Option<String>,
    },
}

/// A change the engine told of. It carries no facts: look again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// The stream is (again) connected: anything may have happened before.
    Connected,
    Disconnected(String),
    /// A container of this pod started, died or was removed.
    Pod {
        uid: String,
        container_id: String,
        action: Action,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    Started,
    Died,
    Removed,
}

/// What a sandbox must be: it holds the pod's network, IPC and host name.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct SandboxSpec {
    pub pod: PodRef,
    /// Counts sandboxes of this pod.
    pub attempt: u32,
    pub hostname: String,
    /// Fixed address on the node's pod network; `None` with `host_network`.
    pub ip: Option<Ipv4Addr>,
    pub host_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    pub sysctls: BTreeMap<String, String>,
    /// Files of ours mounted over /etc/resolv.conf and /etc/hosts.
    pub resolv_conf: PathBuf,
    pub hosts: PathBuf,
    pub cgroup_parent: Option<String>,
    pub grace: Duration,
}

/// What a container must be: everything resolved, nothing left to look up.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ContainerSpec {
    pub pod: PodRef,
    pub sandbox_id: String,
    pub name: String,
    pub attempt: u32,
    pub hash: String,
    /// The image's name in the spec (for the label-like `image` field) and the local id to run.
    pub image: String,
    pub image_id: String,
    /// Replaces the image's ENTRYPOINT when not empty.
    pub command: Vec<String>,
    /// Replaces the image's CMD when not empty.
    pub args: Vec<String>,
    pub env: Vec<(String, String)>,
    pub working_dir: Option<String>,
    pub mounts: Vec<Mount>,
    pub tty: bool,
    pub stdin: bool,
    pub stdin_once: bool,
    pub host_network: bool,
    pub host_pid: bool,
    pub host_ipc: bool,
    /// Join the sandbox's process namespace (`shareProcessNamespace`), or that of this container.
    pub pid_of: Option<String>,
    pub resources: Resources,
    /// For [`label::RESOURCES`].
    pub made_with: String,
    pub security: Security,
    pub stop_signal: Option<String>,
    pub cgroup_parent: Option<String>,
    pub grace: Duration,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mount {
    pub source: MountSource,
    pub target: String,
    pub read_only: bool,
    /// `rprivate`, `rslave` or `rshared`.
    pub propagation: Option<&'static str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountSource {
    /// On the host.
    Path(PathBuf),
    /// Made by the engine, for this container alone.
    Tmpfs { size_bytes: Option<u64> },
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Resources {
    pub cpu_shares: Option<i64>,
    pub cpu_quota_us: Option<i64>,
    pub cpu_period_us: Option<i64>,
    pub memory_bytes: Option<i64>,
    pub oom_score_adj: Option<i64>,
}

impl Resources {
    /// Whether both let a container use the same. Its score at the out-of-memory killer cannot be changed later.
    pub fn lets_use_as(&self, other: &Self) -> bool {
        let of = |r: &Self| (r.cpu_shares, r.cpu_quota_us, r.memory_bytes);
        of(self) == of(other)
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Security {
    /// `uid`, `uid:gid` or `:gid` as Docker reads it; `None` keeps the image's user.
    pub user: Option<String>,
    pub supplemental_groups: Vec<String>,
    pub privileged: bool,
    pub read_only_root: bool,
    pub no_new_privileges: bool,
    pub add_capabilities: Vec<String>,
    pub drop_capabilities: Vec<String>,
    pub seccomp: Seccomp,
    pub unmasked_proc: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Seccomp {
    #[default]
    RuntimeDefault,
    Unconfined,
    /// The profile's JSON.
    Profile(String),
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Image {
    pub id: String,
    pub tags: Vec<String>,
    pub digests: Vec<String>,
    pub size_bytes: u64,
    /// USER of the image: a name or `uid[:gid]`; empty means root.
    pub user: String,
    /// STOPSIGNAL, for the record.
    pub stop_signal: Option<String>,
}

/// Credentials of one registry, from an image pull secret.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryAuth {
    pub server: String,
    pub username: String,
    pub password: String,
    pub identity_token: String,
}

/// A command to run inside a running container.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExecSpec {
    pub command: Vec<String>,
    pub tty: bool,
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AttachSpec {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
    /// Begin with what the container has written so far.
    pub replay: bool,
    /// The end of the client's input is the end of the container's (`stdinOnce`). Else it stays open for the next client.
    pub once: bool,
}

/// One end of a running exec or attach. Dropping it closes the streams; an exec'd process is not killed by that.
pub struct Session {
    /// Shut it down to tell the process that its input ended.
    pub stdin: Option<Box<dyn AsyncWrite + Send + Unpin>>,
    /// Ends when the process closed its output (with a terminal all of it is `Stdout`).
    pub output: BoxStream<'static, Result<Output>>,
    /// Terminal size as (columns, rows); only with a terminal. Ends when dropped.
    pub resize: Option<mpsc::Sender<(u16, u16)>>,
    /// Exit code; ask after `output` has ended. For attach it is the container's.
    pub exit: BoxFuture<'static, Result<i32>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Output {
    Stdout(Bytes),
    Stderr(Bytes),
}

impl Output {
    pub fn bytes(&self) -> &Bytes {
        let (Output::Stdout(bytes) | Output::Stderr(bytes)) = self;
        bytes
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogOptions {
    pub follow: bool,
    /// Only the last so many lines.
    pub tail: Option<u64>,
    /// Only lines written at this time or later.
    pub since: Option<Timestamp>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    pub cpu_nanoseconds: u64,
    pub memory_bytes: u64,
    pub memory_working_set_bytes: u64,
}

/// A container as tests of runtimes ask for it: named, in a sandbox, from an image, with hash `hash`.
#[cfg(test)]
pub(crate) fn container_spec_for_tests(
    pod: PodRef,
    sandbox_id: &str,
    name: &str,
    image_id: &str,
) -> ContainerSpec {
    ContainerSpec {
        pod,
        sandbox_id: sandbox_id.to_owned(),
        name: name.to_owned(),
        hash: "hash".to_owned(),
        image: "minik8s-test/busybox:1".to_owned(),
        image_id: image_id.to_owned(),
        grace: Duration::from_secs(30),
        ..ContainerSpec::default()
    }
}
