//! The local Docker Engine (20.10 and newer) as a [`Runtime`], through bollard.
//!
//! Every call has a deadline. Names are derived from what a container is (pod uid, container, attempt), so that a call
//! whose answer was lost finds its container by name when it is made again. What a list returns is cached by container id
//! and state: a container that has ended is inspected once.

mod container;
mod events;
mod image;
mod kill;
mod namespace;
mod network;
mod pause;
mod reset;
mod streams;

pub use kill::{kill_node, running, running_by_node};
pub use reset::reset;

use super::{
    AttachSpec, BoxStreamIo, Container, ContainerSpec, Error, Event, ExecSpec, Image, Info, LogOptions,
    Output, RegistryAuth, Resources, Result, Runtime, SandboxSpec, Session, Stats, label,
};
use crate::config::Config;
use async_trait::async_trait;
use bollard::query_parameters as query;
use container::Attachment;
use futures::{StreamExt, stream::BoxStream};
use std::{
    collections::HashMap,
    future::Future,
    sync::{Mutex, PoisonError},
    time::Duration,
};

/// For calls that only read. The Engine answers in milliseconds; a minute of nothing means it hangs.
const READ: Duration = Duration::from_secs(20);
/// For calls that start or remove processes: slow disks and many containers at once take their time.
const CHANGE: Duration = Duration::from_secs(120);
/// A pull that brings nothing for so long has failed (the real kubelet's image-pull-progress-deadline).
const PULL_PROGRESS: Duration = Duration::from_secs(60);
/// Over a container's grace: how long the Engine may take to see that SIGKILL worked.
const KILL_MARGIN: Duration = Duration::from_secs(30);

/// One node's view of a Docker Engine.
pub struct Docker {
    docker: bollard::Docker,
    cluster_id: String,
    node: String,
    network: network::Network,
    /// Host privileges that the Engine's own bounding set lacks.
    limits: container::Limits,
    seen: Mutex<HashMap<String, Container>>,
}

impl Docker {
    /// `address` is that of `DOCKER_HOST`; `None` takes the environment's, else the usual socket. Nothing is asked of
    /// the Engine yet.
    pub fn connect(address: Option<&str>) -> Result<bollard::Docker> {
        let docker = match address {
            Some(address) => bollard::Docker::connect_with_host(address),
            None => bollard::Docker::connect_with_defaults(),
        };
        docker.map_err(|error| Error::Unavailable(error.to_string()))
    }

    pub fn new(docker: bollard::Docker, config: &Config) -> Self {
        let limits = container::Limits::detect();
        Self {
            docker,
            cluster_id: config.cluster_id.clone(),
            node: config.node_name.clone(),
            network: network::Network::new(config, limits),
            limits,
            seen: Mutex::default(),
        }
    }

    fn labels(&self) -> HashMap<String, String> {
        HashMap::from([
            (label::CLUSTER.to_owned(), self.cluster_id.clone()),
            (label::NODE.to_owned(), self.node.clone()),
        ])
    }

    /// The filter that keeps us to what is ours.
    fn own_filter(&self) -> Vec<String> {
        vec![format!("{}={}", label::CLUSTER, self.cluster_id), format!("{}={}", label::NODE, self.node)]
    }

    async fn list_filtered(&self, more: Option<String>) -> Result<Vec<Container>> {
        let all = more.is_none();
        let mut labels = self.own_filter();
        labels.extend(more);
        let filters = HashMap::from([("label".to_owned(), labels)]);
        let options = query::ListContainersOptionsBuilder::new().all(true).filters(&filters).build();
        let summaries = within("list containers", READ, self.docker.list_containers(Some(options))).await?;
        let mut found = Vec::with_capacity(summaries.len());
        for summary in &summaries {
            let Some(id) = &summary.id else { continue };
            let known = self.seen().get(id).cloned().filter(|known| container::same_state(known, summary));
            let container = match known {
                Some(known) => known,
                None => match self.inspect(id).await {
                    Ok(container) => container,
                    Err(Error::NotFound(_)) => continue, // Removed meanwhile.
                    Err(error) => return Err(error),
                },
            };
            found.push(container);
        }
        if all {
            let ids: std::collections::HashSet<&str> = found.iter().map(|c| c.id.as_str()).collect();
            self.seen().retain(|id, _| ids.contains(id.as_str()));
        }
        found.sort_by_key(|c| std::cmp::Reverse(c.created));
        Ok(found)
    }

    fn seen(&self) -> std::sync::MutexGuard<'_, HashMap<String, Container>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes what every pod needs and is missing.
    async fn make_ready(&self) -> Result<()> {
        let image = pause::image_name();
        let network = self.network.ensure(&self.docker, self.labels());
        let (network, image) = tokio::join!(network, self.import_pause(&image));
        network.and(image)
    }

    /// Removes sandboxes that an earlier process of ours has started and not lived to connect: nothing has joined them.
    async fn remove_unconnected(&self) -> Result<()> {
        if !self.network.is_ours() {
            return Ok(());
        }
        for container in self.list_filtered(None).await? {
            let pid = container.pid.filter(|_| container.is_sandbox() && container.is_running());
            if let (Some(pid), Some(_)) = (pid, container.ip)
                && !network::is_plugged(pid)
            {
                tracing::info!(pod = container.pod.name, "removing a sandbox that was never connected");
                self.remove_container(&container.id).await?;
            }
        }
        Ok(())
    }

    /// Creates and starts a sandbox, and connects it. One that cannot start is removed: its name and address are needed
    /// for the next.
    async fn try_sandbox(&self, spec: &SandboxSpec) -> Result<Container> {
        let image = pause::image_name();
        let attachment = match (spec.host_network, self.network.is_ours()) {
            (true, _) => Attachment::Host,
            (false, true) => Attachment::Ours,
            (false, false) => Attachment::Engine(self.network.name()),
        };
        let body = container::sandbox_body(spec, &image, attachment, self.labels(), &self.limits);
        let name = container::engine_name(&spec.pod, super::SANDBOX_NAME, spec.attempt);
        let id = self.create(&name, body).await?;
        match self.start_sandbox(&id, spec, attachment).await {
            // It is looked for again by its name.
            Err(error @ (Error::Unavailable(_) | Error::Timeout { .. })) => Err(error),
            Err(error) => {
                self.remove_container(&id).await?;
                Err(error)
            }
            done => done,
        }
    }

    async fn start_sandbox(
        &self,
        id: &str,
        spec: &SandboxSpec,
        attachment: Attachment<'_>,
    ) -> Result<Container> {
        within("start sandbox", CHANGE, self.docker.start_container(id, None)).await?;
        let sandbox = self.inspect(id).await?;
        match (attachment, spec.ip) {
            (Attachment::Ours, Some(ip)) => {
                let pid =
                    sandbox.pid.ok_or_else(|| Error::Sandbox("the sandbox ended at once".to_owned()))?;
                let sysctls = spec.sysctls.clone().into_iter();
                let sysctls = sysctls.filter(|(name, _)| container::is_of_network(name)).collect();
                let pod = format!("{}/{}", spec.pod.namespace, spec.pod.name);
                self.network.plug(network::Port { pid, ip, sysctls, pod }).await?;
            }
            (Attachment::Engine(_), _) => self.network.allow_hairpin().await,
            (Attachment::Host | Attachment::Ours, _) => {}
        }
        Ok(sandbox)
    }

    /// Creates a container by name, or finds the one that an earlier call made.
    async fn create(&self, name: &str, body: bollard::models::ContainerCreateBody) -> Result<String> {
        let options = query::CreateContainerOptionsBuilder::new().name(name).build();
        let create = self.docker.create_container(Some(options), body);
        match within("create container", CHANGE, create).await {
            Ok(created) => Ok(created.id),
            Err(Error::Conflict(_)) => {
                let found = self.inspect(name).await?;
                Ok(found.id)
            }
            Err(error) => Err(error),
        }
    }
}

#[async_trait]
impl Runtime for Docker {
    async fn info(&self) -> Result<Info> {
        let info = within("info", READ, self.docker.info()).await?;
        let machine = info.architecture.unwrap_or_default();
        Ok(Info {
            runtime_version: format!("docker://{}", info.server_version.unwrap_or_default()),
            kernel_version: info.kernel_version.unwrap_or_default(),
            os_image: info.operating_system.unwrap_or_default(),
            operating_system: info.os_type.unwrap_or_else(|| "linux".to_owned()),
            architecture: match machine.as_str() {
                "x86_64" => "amd64".to_owned(),
                "aarch64" => "arm64".to_owned(),
                _ => machine,
            },
            cpus: info.ncpu.and_then(|n| n.try_into().ok()).unwrap_or(1),
            memory_bytes: info.mem_total.and_then(|n| n.try_into().ok()).unwrap_or(0),
            root_dir: info.docker_root_dir.unwrap_or_default().into(),
            engine_id: info.id.unwrap_or_default(),
        })
    }

    async fn prepare(&self) -> Result<()> {
        self.make_ready().await?;
        self.remove_unconnected().await
    }

    async fn list(&self) -> Result<Vec<Container>> {
        self.list_filtered(None).await
    }

    async fn list_pod(&self, pod_uid: &str) -> Result<Vec<Container>> {
        self.list_filtered(Some(format!("{}={pod_uid}", label::POD_UID))).await
    }

    fn events(&self) -> BoxStream<'static, Event> {
        events::stream(self.docker.clone(), self.own_filter())
    }

    async fn run_sandbox(&self, spec: &SandboxSpec) -> Result<Container> {
        match self.try_sandbox(spec).await {
            // The image or the network is not there: the first pod on this Engine, or somebody pruned.
            Err(Error::NotFound(_)) => {
                self.make_ready().await?;
                self.try_sandbox(spec).await.map_err(Error::into_sandbox)
            }
            other => other.map_err(Error::into_sandbox),
        }
    }

    async fn create_container(&self, spec: &ContainerSpec) -> Result<String> {
        let body = container::container_body(spec, self.labels(), &self.limits);
        let name = container::engine_name(&spec.pod, &spec.name, spec.attempt);
        self.create(&name, body).await.map_err(|error| match error {
            Error::Other(message) | Error::NotFound(message) => Error::CreateContainer(message),
            other => other,
        })
    }

    async fn start_container(&self, id: &str) -> Result<()> {
        within("start container", CHANGE, self.docker.start_container(id, None)).await.map_err(|error| {
            match error {
                Error::Other(message) => Error::RunContainer(message),
                other => other,
            }
        })
    }

    async fn update_container(&self, id: &str, resources: &Resources) -> Result<()> {
        let update = self.docker.update_container(id, container::update_body(resources));
        within("update container", CHANGE, update).await?;
        // What is remembered of it is no longer so.
        self.seen().remove(id);
        Ok(())
    }

    async fn inspect(&self, id: &str) -> Result<Container> {
        let found = within("inspect container", READ, self.docker.inspect_container(id, None)).await?;
        let container = container::from_inspect(found, &self.cluster_id, &self.node)
            .ok_or_else(|| Error::Other(format!("container {id} exists, but is not this node's")))?;
        self.seen().insert(container.id.clone(), container.clone());
        Ok(container)
    }

    async fn stop_container(&self, id: &str, grace: Duration) -> Result<()> {
        let seconds = i32::try_from(grace.as_secs()).unwrap_or(i32::MAX);
        let deadline = grace + KILL_MARGIN;
        // bollard has its own limit on how long an answer may take: here the answer is the container's death.
        let docker = self.docker.clone().with_timeout(deadline);
        let options = query::StopContainerOptionsBuilder::new().t(seconds).build();
        match within("stop container", deadline, docker.stop_container(id, Some(options))).await {
            Ok(()) | Err(Error::NotFound(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn remove_container(&self, id: &str) -> Result<()> {
        let options = query::RemoveContainerOptionsBuilder::new().force(true).v(true).build();
        match within("remove container", CHANGE, self.docker.remove_container(id, Some(options))).await {
            Ok(()) | Err(Error::NotFound(_)) => {}
            // Somebody else is removing it: done when it is gone.
            Err(Error::Conflict(message)) => match self.inspect(id).await {
                Err(Error::NotFound(_)) => {}
                _ => return Err(Error::Other(message)),
            },
            Err(error) => return Err(error),
        }
        self.seen().remove(id);
        Ok(())
    }

    async fn image(&self, reference: &str) -> Result<Option<Image>> {
        self.find_image(reference).await
    }

    async fn pull(&self, reference: &str, credentials: Option<RegistryAuth>) -> Result<Image> {
        self.pull_image(reference, credentials).await
    }

    async fn images(&self) -> Result<Vec<Image>> {
        self.list_images().await
    }

    async fn exec(&self, container_id: &str, spec: ExecSpec) -> Result<Session> {
        streams::exec(&self.docker, container_id, spec).await
    }

    async fn attach(&self, container_id: &str, spec: AttachSpec) -> Result<Session> {
        let tty = self.inspect(container_id).await?.tty;
        streams::attach(&self.docker, container_id, spec, tty).await
    }

    async fn logs(
        &self,
        container_id: &str,
        options: LogOptions,
    ) -> Result<BoxStream<'static, Result<Output>>> {
        Ok(streams::logs(&self.docker, container_id, &options))
    }

    async fn dial(&self, sandbox_id: &str, port: u16) -> Result<BoxStreamIo> {
        let sandbox = self.inspect(sandbox_id).await?;
        streams::dial(&sandbox, port).await
    }

    async fn stats(&self, container_id: &str) -> Result<Stats> {
        let options = query::StatsOptionsBuilder::new().stream(false).one_shot(true).build();
        let mut stream = self.docker.stats(container_id, Some(options)).boxed();
        let next = async { stream.next().await.transpose() };
        let stats =
            within("stats", READ, next).await?.ok_or_else(|| Error::NotFound(container_id.to_owned()))?;
        let cpu = stats.cpu_stats.and_then(|cpu| cpu.cpu_usage?.total_usage).unwrap_or(0);
        let memory = stats.memory_stats.unwrap_or_default();
        let used = memory.usage.unwrap_or(0);
        let inactive = memory.stats.unwrap_or_default();
        // cgroup v1 and v2 name it differently.
        let inactive =
            ["total_inactive_file", "inactive_file"].iter().find_map(|key| inactive.get(*key).copied());
        Ok(Stats {
            cpu_nanoseconds: cpu,
            memory_bytes: used,
            memory_working_set_bytes: used.saturating_sub(inactive.unwrap_or(0)),
        })
    }
}

/// Runs a call with a deadline, its failures in our words.
async fn within<T>(
    what: &str,
    limit: Duration,
    call: impl Future<Output = std::result::Result<T, bollard::errors::Error>>,
) -> Result<T> {
    match tokio::time::timeout(limit, call).await {
        Ok(done) => done.map_err(|error| from_bollard(error, what, limit)),
        Err(_) => Err(Error::Timeout { what: what.to_owned(), seconds: limit.as_secs() }),
    }
}

fn from_bollard(error: bollard::errors::Error, what: &str, limit: Duration) -> Error {
    use bollard::errors::Error as Bollard;
    match error {
        Bollard::DockerResponseServerError { status_code: 404, message } => Error::NotFound(message),
        Bollard::DockerResponseServerError { status_code: 409, message } => Error::Conflict(message),
        Bollard::DockerResponseServerError { message, .. } => Error::Other(message),
        Bollard::RequestTimeoutError => Error::Timeout { what: what.to_owned(), seconds: limit.as_secs() },
        error @ (Bollard::IOError { .. } | Bollard::HyperResponseError { .. }) => {
            Error::Unavailable(chain(&error))
        }
        // A connection that was refused or cut comes wrapped differently from version to version.
        error if chain(&error).contains("onnect") => Error::Unavailable(chain(&error)),
        error => Error::Other(chain(&error)),
    }
}

/// An error with its causes, each said once.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text = format!("{text}: {cause_text}");
        }
        next = cause.source();
    }
    text
}

impl Error {
    /// Whatever the Engine had against a sandbox, except not being there.
    fn into_sandbox(self) -> Self {
        match self {
            Error::Unavailable(_) | Error::Timeout { .. } => self,
            other => Error::Sandbox(other.to_string()),
        }
    }
}

#[cfg(test)]
mod tests;
