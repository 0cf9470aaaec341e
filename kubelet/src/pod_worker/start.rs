//! Starting a sandbox or a container: the operations on a pod's way to Running.

use crate::{
    container_spec::{self, Parts},
    downward::Addresses,
    env,
    node_context::Context,
    pod_files,
    runtime::{Container, Error, Image, Mount, MountSource, Result},
    volume::{self, Volumes},
};
use k8s_openapi::api::core::v1::{Container as Spec, Pod};
use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Where a container may leave its last words, when the spec says nothing.
const TERMINATION_LOG: &str = "/dev/termination-log";

/// Writes the pod's own files and runs its sandbox.
pub(super) async fn sandbox(context: Arc<Context>, pod: Pod, attempt: u32) -> Result<Container> {
    let uid = pod.metadata.uid.clone().unwrap_or_default();
    let host_network = container_spec::host_network(&pod);
    let ip = if host_network {
        None
    } else {
        let address = context.addresses.allocate(&uid);
        Some(
            address
                .ok_or_else(|| Error::Sandbox(format!("no free address in {}", context.config.pod_cidr)))?,
        )
    };
    let dir = context.pod_dir(&uid);
    let spec = container_spec::sandbox(&context.config, &pod, attempt, ip, &dir);
    let config = context.config.clone();
    blocking("the pod's files", move || {
        fs::create_dir_all(&dir)?;
        fs::set_permissions(&dir, fs::Permissions::from_mode(0o750))?;
        let host_file =
            if host_network { fs::read_to_string("/etc/hosts").unwrap_or_default() } else { String::new() };
        let hosts = pod_files::hosts(&pod, ip, &config.cluster_domain, &host_file);
        let resolver = pod_files::host_resolv_conf();
        let resolver = pod_files::resolv_conf(&pod, config.cluster_dns, &config.cluster_domain, &resolver);
        write_readable(&dir.join("etc-hosts"), &hosts)?;
        write_readable(&dir.join("resolv.conf"), &resolver)
    })
    .await
    .map_err(|error| Error::Sandbox(error.to_string()))?;
    context.runtime.run_sandbox(&spec).await
}

/// In place, not by rename: the file may be mounted.
fn write_readable(path: &Path, text: &str) -> io::Result<()> {
    fs::write(path, text)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o644))
}

pub(super) struct Request {
    pub(super) pod: Pod,
    pub(super) spec: Spec,
    pub(super) attempt: u32,
    pub(super) sandbox: Container,
    pub(super) pod_ip: Option<IpAddr>,
    pub(super) image: Image,
    pub(super) volumes: Volumes,
    pub(super) pid_of: Option<String>,
}

/// Creates and starts a container, with its events. One that the engine cannot start is a container that has exited.
pub(super) async fn container(context: Arc<Context>, request: Request) -> Result<Container> {
    let Request { pod, spec, attempt, sandbox, pod_ip, image, volumes, pid_of } = request;
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let objects = super::env_objects(&context, &namespace, &spec).await?;
    let machine = &context.machine;
    let addresses = Addresses {
        pod_ip: pod_ip.map(|ip| ip.to_string()),
        host_ip: machine.node_ip.map(|ip| ip.to_string()),
    };
    let env = env::build(
        &env::Sources {
            pod: &pod,
            objects: &objects,
            services: &context.services_for(&namespace),
            addresses: &addresses,
            allocatable: &machine.allocatable,
            api_service: context.config.api_service,
        },
        &spec,
    )?;
    let dir = context.pod_dir(pod.metadata.uid.as_deref().unwrap_or_default());
    let words = termination_file(&dir, &spec.name, attempt);
    let mounts = {
        let (spec, env) = (spec.clone(), env.clone());
        blocking("the container's mounts", move || Ok(mounts(&spec, &volumes, &env, &words))).await??
    };
    let parts = Parts {
        sandbox_id: &sandbox.id,
        attempt,
        image: &image,
        env,
        mounts,
        pid_of,
        node_memory: machine.memory_bytes,
    };
    let wanted = container_spec::container(&context.config, &pod, &spec, parts)?;
    let id = context.runtime.create_container(&wanted).await?;
    context.event(&pod, Some(&spec.name), false, "Created", &format!("Container created: {}", spec.name));
    match context.runtime.start_container(&id).await {
        Ok(()) => {
            context.event(
                &pod,
                Some(&spec.name),
                false,
                "Started",
                &format!("Container started: {}", spec.name),
            );
        }
        Err(error @ (Error::Unavailable(_) | Error::Timeout { .. })) => return Err(error),
        Err(error) => {
            context.event(&pod, Some(&spec.name), true, "Failed", &format!("Error: {error}"));
            let found = context.runtime.inspect(&id).await?;
            if !found.is_exited() {
                // The engine says no and keeps no record of it: nothing to show but its words.
                context.runtime.remove_container(&id).await?;
                return Err(error);
            }
            return Ok(found);
        }
    }
    context.runtime.inspect(&id).await
}

/// The file mounted over `terminationMessagePath`, one for each attempt.
pub(super) fn termination_file(pod_dir: &Path, container: &str, attempt: u32) -> PathBuf {
    pod_dir.join("containers").join(container).join(attempt.to_string())
}

fn mounts(spec: &Spec, volumes: &Volumes, env: &[(String, String)], words: &Path) -> Result<Vec<Mount>> {
    let mut mounts = volume::mounts(spec, volumes, env)?;
    let make = || -> io::Result<()> {
        if let Some(parent) = words.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(words, b"")?;
        // Whatever user the container runs as may write it.
        fs::set_permissions(words, fs::Permissions::from_mode(0o666))
    };
    make().map_err(|error| Error::CreateContainer(format!("{}: {error}", words.display())))?;
    let target = spec.termination_message_path.clone().filter(|path| !path.is_empty());
    mounts.push(Mount {
        source: MountSource::Path(words.to_owned()),
        target: target.unwrap_or_else(|| TERMINATION_LOG.to_owned()),
        read_only: false,
        propagation: None,
    });
    Ok(mounts)
}

async fn blocking<T: Send + 'static>(
    what: &str,
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let done = tokio::task::spawn_blocking(work).await.unwrap_or_else(|error| Err(io::Error::other(error)));
    done.map_err(|error| Error::CreateContainer(format!("{what}: {error}")))
}
