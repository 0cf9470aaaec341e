//! The nodes of this process: virtual ones on one Docker Engine, each with a kubelet of its own that can be stopped, killed
//! and started again.
//!
//! A stopped node has no kubelet at all, as a machine that is off has none; the next one knows nothing of the last. It stays
//! stopped, over restarts of the server too, until it is started: the file `DATA/nodes/NAME/stopped` says so. That is all a
//! stop does: what follows for the cluster follows from the silence. (DNS and the service proxy are the machine's, which
//! lives on.)

use apiserver::{Power, PowerError};
use async_trait::async_trait;
use client::Informers;
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, OnceLock, PoisonError},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

/// In-process connections to a kubelet buffer this much each way.
const DUPLEX_BUFFER: usize = 64 << 10;
/// The file that says that a node is stopped.
const MARKER: &str = "stopped";

/// What a node's kubelet is made of, each time anew.
pub struct Parts {
    pub config: kubelet::Config,
    pub client: kube::Client,
    pub informers: Informers,
    pub docker: bollard::Docker,
    /// Where it is kept that the node is stopped.
    pub dir: PathBuf,
}

/// The kubelets of this process, by node name.
#[derive(Default)]
pub struct LocalNodes {
    nodes: OnceLock<BTreeMap<String, LocalNode>>,
    /// Cancelled when the server stops: then no node is started any more.
    stop: CancellationToken,
}

struct LocalNode {
    parts: Parts,
    /// Held while something is done to the node: one thing at a time.
    running: tokio::sync::Mutex<Option<Running>>,
    /// The kubelet that runs, for those who connect to it.
    kubelet: Mutex<Option<kubelet::Server>>,
}

struct Running {
    token: CancellationToken,
    tasks: TaskTracker,
}

impl LocalNodes {
    /// Says, once, which nodes there are.
    pub fn set(&self, nodes: Vec<Parts>) {
        let named = nodes.into_iter().map(|parts| {
            let node = LocalNode { parts, running: tokio::sync::Mutex::default(), kubelet: Mutex::default() };
            (node.parts.config.node_name.clone(), node)
        });
        let _ = self.nodes.set(named.collect());
    }

    fn all(&self) -> impl Iterator<Item = &LocalNode> {
        self.nodes.get().into_iter().flat_map(BTreeMap::values)
    }

    /// Runs every node that is not stopped until `token` is cancelled, and ends when all kubelets have. Containers live on.
    pub async fn run(&self, token: CancellationToken) {
        self.tell_of_strays().await;
        for node in self.all() {
            let name = &node.parts.config.node_name;
            if node.is_stopped() {
                tracing::warn!(
                    node = name,
                    "the node was stopped and stays so: minik8s-ctl node start {name}"
                );
                continue;
            }
            let mut running = node.running.lock().await;
            if running.is_none() {
                *running = Some(node.launch());
            }
        }
        token.cancelled().await;
        self.stop.cancel();
        // All are told before any is waited for.
        let ends: Vec<_> = self.all().map(LocalNode::silence).collect();
        futures::future::join_all(ends).await;
    }
}

/// What is left of nodes that this process does not run.
impl LocalNodes {
    /// After a start with fewer nodes than before, containers of the others live on, and so do their pods' objects: the
    /// nodes are lost as any that falls silent. That is for a person to decide, who must hear of it.
    async fn tell_of_strays(&self) {
        let Some(Parts { config, docker, .. }) = self.all().next().map(|node| &node.parts) else { return };
        match kubelet::running_by_node(&config.cluster_id, docker).await {
            Ok(by_node) => {
                for (node, containers) in by_node.iter().filter(|(node, _)| self.find(node).is_none()) {
                    tracing::warn!(
                        node,
                        containers,
                        "this server does not run the node, but its containers live on, and nobody looks after them: start \
                         the server with as many --nodes as before, or give the node up: minik8s-ctl node kill {node}, then \
                         kubectl delete node {node}"
                    );
                }
            }
            Err(error) => tracing::debug!(%error, "containers of nodes that are not run could not be listed"),
        }
    }

    fn find(&self, name: &str) -> Option<&LocalNode> {
        self.nodes.get().and_then(|nodes| nodes.get(name))
    }

    /// Ends the containers of a node that is not run; `None` if there are none.
    async fn kill_stray(&self, name: &str, dry_run: bool) -> Option<Result<String, PowerError>> {
        let Parts { config, docker, .. } = &self.all().next()?.parts;
        let failed = |error: kubelet::runtime::Error| PowerError::Failed(error.to_string());
        match kubelet::running(&config.cluster_id, name, docker).await {
            Ok(ids) if ids.is_empty() => None,
            Ok(_) if dry_run => Some(Ok("nothing was done (dry run)".to_owned())),
            Ok(_) => Some(
                kubelet::kill_node(&config.cluster_id, name, docker)
                    .await
                    .map(|killed| format!("no server runs the node, and {killed} containers were killed"))
                    .map_err(failed),
            ),
            Err(error) => Some(Err(failed(error))),
        }
    }
}

impl LocalNode {
    /// A new kubelet, which knows nothing but what it finds.
    fn launch(&self) -> Running {
        let Parts { config, client, informers, docker, .. } = &self.parts;
        let runtime = Arc::new(kubelet::Docker::new(docker.clone(), config));
        let kubelet = kubelet::Server::bind(config.clone(), client.clone(), informers.clone(), runtime);
        *self.kubelet() = Some(kubelet.clone());
        let running = Running { token: CancellationToken::new(), tasks: TaskTracker::new() };
        let token = running.token.clone();
        running.tasks.spawn(async move { kubelet.run(token).await });
        running.tasks.close();
        running
    }

    /// Ends the kubelet, if one runs. From then on it neither says nor does anything.
    async fn silence(&self) {
        self.end(&mut *self.running.lock().await).await;
    }

    async fn end(&self, running: &mut Option<Running>) {
        *self.kubelet() = None;
        if let Some(Running { token, tasks }) = running.take() {
            token.cancel();
            tasks.wait().await;
        }
    }

    fn kubelet(&self) -> std::sync::MutexGuard<'_, Option<kubelet::Server>> {
        self.kubelet.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn marker(&self) -> PathBuf {
        self.parts.dir.join(MARKER)
    }

    fn is_stopped(&self) -> bool {
        self.marker().exists()
    }

    async fn power(
        &self,
        what: Power,
        dry_run: bool,
        stop: &CancellationToken,
    ) -> Result<String, PowerError> {
        let mut running = self.running.lock().await;
        if stop.is_cancelled() {
            return Err(PowerError::Failed("the server is stopping".to_owned()));
        }
        let Parts { config, docker, .. } = &self.parts;
        let (cluster, name) = (config.cluster_id.as_str(), config.node_name.as_str());
        let failed = |error: kubelet::runtime::Error| PowerError::Failed(error.to_string());
        match (what, running.is_some()) {
            (Power::Stop, false) => {
                return Err(PowerError::Already(
                    "the node is stopped already: its kubelet is silent".to_owned(),
                ));
            }
            (Power::Start, true) => {
                return Err(PowerError::Already(
                    "the node is running already: its kubelet is at work".to_owned(),
                ));
            }
            (Power::Kill, false)
                if kubelet::running(cluster, name, docker).await.map_err(failed)?.is_empty() =>
            {
                return Err(PowerError::Already(
                    "the node is dead already: its kubelet is silent and none of its containers runs"
                        .to_owned(),
                ));
            }
            _ => {}
        }
        if dry_run {
            return Ok("nothing was done (dry run)".to_owned());
        }
        // What is on disk comes first: if the server dies in between, it goes on from what was asked for.
        remember(self.marker(), what != Power::Start)
            .await
            .map_err(|e| PowerError::Failed(format!("cannot write {}: {e}", self.marker().display())))?;
        match what {
            Power::Stop => {
                self.end(&mut running).await;
                Ok("the kubelet is silent, its containers live on".to_owned())
            }
            Power::Kill => {
                self.end(&mut running).await;
                let killed = kubelet::kill_node(cluster, name, docker).await.map_err(failed)?;
                Ok(format!("the kubelet is silent, and {killed} containers were killed"))
            }
            Power::Start => {
                *running = Some(self.launch());
                Ok("a new kubelet has begun; it ends first what was deleted or replaced meanwhile".to_owned())
            }
        }
    }
}

#[async_trait]
impl apiserver::NodeDialer for LocalNodes {
    async fn dial(&self, name: &str) -> io::Result<Box<dyn apiserver::Stream>> {
        let node = self
            .find(name)
            .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, "its kubelet is not known here"))?;
        let kubelet = node.kubelet().clone().ok_or_else(|| {
            io::Error::new(io::ErrorKind::ConnectionRefused, "connection refused: its kubelet is not running")
        })?;
        let (near, far) = tokio::io::duplex(DUPLEX_BUFFER);
        kubelet.serve_connection(Box::new(far));
        Ok(Box::new(near))
    }

    async fn power(&self, name: &str, what: Power, dry_run: bool) -> Result<String, PowerError> {
        if let Some(node) = self.find(name) {
            return node.power(what, dry_run, &self.stop).await;
        }
        if what == Power::Kill
            && let Some(killed) = self.kill_stray(name, dry_run).await
        {
            return killed;
        }
        Err(PowerError::NotOurs(self.all().map(|n| n.parts.config.node_name.clone()).collect()))
    }
}

/// Makes or removes the marker, durably.
async fn remember(marker: PathBuf, stopped: bool) -> io::Result<()> {
    let write = move || {
        let dir = marker.parent().unwrap_or(Path::new("/"));
        fs::create_dir_all(dir)?;
        if stopped {
            File::create(&marker)?.sync_all()?;
        } else {
            match fs::remove_file(&marker) {
                Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
                _ => {}
            }
        }
        File::open(dir)?.sync_all()
    };
    tokio::task::spawn_blocking(write).await.map_err(io::Error::other)?
}
