//! Performing effects and taking their results in.

use super::{Done, LOOK_RETRY, Worker};
use crate::{
    container_plan::KillReason,
    hooks,
    pod_machine::{self, Effect, Op, Stage},
    probe::{self, run::Target},
    runtime::{self, Container, Error},
    status,
};
use client::Guard;
use futures::FutureExt;
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{Pod, Probe};
use kube::{Api, api::DeleteParams};
use std::{sync::Arc, time::Duration};

/// Retries of what fails because something else is missing: (first, longest) wait in seconds.
const VOLUMES: (i64, i64) = (1, 120);
const START: (i64, i64) = (2, 60);
const SANDBOX: (i64, i64) = (1, 60);
const API: (i64, i64) = (1, 30);
const ENGINE: (i64, i64) = (1, 30);
/// A pull is retried as the real kubelet does.
const IMAGE: (i64, i64) = (10, 300);
/// A postStart hook has no time limit in Kubernetes; an hour is one nobody meets by intent.
const POST_START: Duration = Duration::from_secs(3600);
/// What a container gets between SIGTERM and SIGKILL when its preStop hook has used up the grace period.
const MINIMUM_AFTER_HOOK: Duration = Duration::from_secs(2);

impl Worker {
    pub(super) fn perform(&mut self, effect: Effect) {
        match effect {
            Effect::WakeAt(_) => {}
            Effect::PrepareVolumes => {
                self.refresh_wanted = false;
                let work = super::volumes::prepare(Arc::clone(&self.context), self.pod.clone());
                self.begin(Op::Volumes, work.map(Done::Volumes));
            }
            Effect::EnsureImage { container } => {
                let Some(spec) = self.spec_of(&container) else { return };
                let work = super::images::ensure(Arc::clone(&self.context), self.pod.clone(), spec);
                self.begin(
                    Op::Image(container.clone()),
                    work.map(|result| Done::Image { container, result }),
                );
            }
            Effect::EnsureSandbox { attempt } => {
                if attempt > 0 {
                    let text = "Pod sandbox changed, it will be killed and re-created.";
                    self.context.event(&self.pod, None, false, "SandboxChanged", text);
                }
                let work = super::start::sandbox(Arc::clone(&self.context), self.pod.clone(), attempt);
                self.begin(Op::Sandbox, work.map(Done::Sandbox));
            }
            Effect::StartContainer { container, attempt } => self.start(container, attempt),
            Effect::KillContainer { id, name, deadline, why } => self.kill(id, name, deadline, &why),
            Effect::ResizeContainer { id, name } => self.resize(id, &name),
            Effect::RemoveContainer { id } => {
                let runtime = Arc::clone(&self.context.runtime);
                self.begin(Op::Remove(id.clone()), async move {
                    let result = runtime.remove_container(&id).await;
                    Done::Removed { id, result }
                });
            }
            Effect::DeleteObject => {
                let (client, pod, uid) = (self.context.client.clone(), self.pod.clone(), self.uid.clone());
                self.begin(Op::Delete, async move { Done::Deleted(delete(client, &pod, &uid).await) });
            }
            Effect::Release => {
                let dir = self.context.pod_dir(&self.uid);
                self.context.addresses.release(&self.uid);
                self.begin(Op::Release, async move {
                    let torn = tokio::task::spawn_blocking(move || crate::volume::tear_down(&dir)).await;
                    Done::Released(torn.unwrap_or_else(|error| Err(std::io::Error::other(error))))
                });
            }
        }
    }

    pub(super) fn begin(&mut self, op: Op, work: impl Future<Output = Done> + Send + 'static) {
        self.running.insert(op);
        self.ops.push(work.boxed());
    }

    fn start(&mut self, name: String, attempt: u32) {
        let (Some(spec), Some(image), Some(volumes), Some(sandbox)) = (
            self.spec_of(&name),
            self.images.get(&name).cloned(),
            self.volumes.clone(),
            crate::container_plan::live_sandbox(&self.containers).cloned(),
        ) else {
            return;
        };
        let target = self.pod.spec.iter().flat_map(|s| s.ephemeral_containers.iter().flatten());
        let target = target.filter(|c| c.name == name).find_map(|c| c.target_container_name.clone());
        let running = |target: String| {
            let found = self.containers.iter().find(|c| c.name == target && c.is_running());
            let missing = || Error::ContainerConfig(format!("unable to find target container {target:?}"));
            found.map(|c| c.id.clone()).ok_or_else(missing)
        };
        let pid_of = match target.filter(|target| !target.is_empty()).map(running).transpose() {
            Ok(pid_of) => pid_of,
            Err(error) => {
                let failed = async move { Done::Started { container: name, result: Err(error) } };
                return self.ops.push(failed.boxed());
            }
        };
        let request = super::start::Request {
            pod: self.pod.clone(),
            spec,
            attempt,
            sandbox,
            pod_ip: self.pod_ip(),
            image,
            volumes,
            pid_of,
        };
        let work = super::start::container(Arc::clone(&self.context), request);
        self.begin(Op::Start(name.clone()), work.map(|result| Done::Started { container: name, result }));
    }

    fn kill(&mut self, id: String, name: String, deadline: Timestamp, why: &KillReason) {
        let again = self.running.iter().any(|op| matches!(op, Op::Kill { id: killed, .. } if *killed == id));
        if !again {
            self.context.event(&self.pod, Some(&name), false, "Killing", &status::kill_message(&name, why));
        }
        let spec = self.spec_of(&name);
        let (context, pod) = (Arc::clone(&self.context), self.pod.clone());
        let address = self.address();
        let op = Op::Kill { id: id.clone(), deadline };
        let done_op = op.clone();
        let started = !self.hooking.contains(&id) && !again;
        self.begin(op, async move {
            let hook = spec.as_ref().and_then(|spec| spec.lifecycle.as_ref()?.pre_stop.as_ref());
            let mut grace = pod_machine::remaining(deadline, Timestamp::now());
            if let (Some(spec), Some(hook), true) = (&spec, hook, started) {
                let target = Target { runtime: context.runtime.as_ref(), container_id: &id, spec, address };
                match tokio::time::timeout(grace, hooks::run(&target, hook)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(message)) => {
                        let text = format!("PreStopHook failed: {message}");
                        context.event(&pod, Some(&name), true, "FailedPreStopHook", &text);
                    }
                    Err(_) => {
                        let text = "PreStop hook did not complete in grace period";
                        context.event(&pod, Some(&name), true, "FailedPreStopHook", text);
                    }
                }
                grace = pod_machine::remaining(deadline, Timestamp::now()).max(MINIMUM_AFTER_HOOK);
            }
            let result = match context.runtime.stop_container(&id, grace).await {
                Ok(()) => match context.runtime.inspect(&id).await {
                    Ok(container) => Ok(Some(container)),
                    Err(Error::NotFound(_)) => Ok(None),
                    Err(error) => Err(error),
                },
                Err(error) => Err(error),
            };
            Done::Killed { op: done_op, result }
        });
    }

    /// Where the pod's own ports are reached.
    fn address(&self) -> String {
        self.pod_ip().map(|ip| ip.to_string()).unwrap_or_default()
    }

    pub(super) fn ask(&mut self, id: String, container: String, kind: probe::Kind, probe: Probe) {
        let Some(spec) = self.spec_of(&container) else { return };
        let (context, address) = (Arc::clone(&self.context), self.address());
        self.ops.push(
            async move {
                let target =
                    Target { runtime: context.runtime.as_ref(), container_id: &id, spec: &spec, address };
                let result = probe::run::probe(&target, &probe).await;
                Done::Probed { id, container, kind, result }
            }
            .boxed(),
        );
    }

    pub(super) fn done(&mut self, done: Done) {
        let now = Timestamp::now();
        match done {
            Done::Looked { epoch, result } => self.looked(epoch, result, now),
            Done::Inspected { id, result } => match result {
                Ok(container) => self.note(container),
                Err(Error::NotFound(_)) => self.forget(&id),
                Err(_) => self.look_again = true,
            },
            Done::Volumes(result) => {
                self.running.remove(&Op::Volumes);
                match result {
                    Ok(prepared) => {
                        self.volumes = Some(prepared.volumes);
                        self.refresh_at = prepared.refresh;
                        self.failures.remove(&Op::Volumes);
                    }
                    Err(message) => {
                        self.context.event(&self.pod, None, true, "FailedMount", &message);
                        // An update that fails is tried again; what is mounted stays.
                        self.refresh_wanted = self.volumes.is_some();
                        self.fail(Op::Volumes, now, VOLUMES.0, VOLUMES.1, "ContainerCreating", String::new());
                    }
                }
            }
            Done::Image { container, result } => self.image_done(container, result, now),
            Done::Sandbox(result) => {
                self.running.remove(&Op::Sandbox);
                match result {
                    Ok(sandbox) => {
                        self.failures.remove(&Op::Sandbox);
                        self.note(sandbox);
                    }
                    Err(error) => {
                        let message = format!("Failed to create pod sandbox: {error}");
                        self.context.event(&self.pod, None, true, "FailedCreatePodSandBox", &message);
                        self.fail(Op::Sandbox, now, SANDBOX.0, SANDBOX.1, "ContainerCreating", String::new());
                        self.look_again = true;
                    }
                }
            }
            Done::Started { container, result } => self.started(container, result, now),
            Done::Hooked { container, id, result } => self.hooked(&container, &id, result, now),
            Done::Killed { op, result } => {
                self.running.remove(&op);
                let Op::Kill { id, .. } = op else { return };
                match result {
                    Ok(Some(container)) => self.note(container),
                    Ok(None) => self.forget(&id),
                    Err(error) => {
                        tracing::warn!(pod.uid = %self.uid, container.id = %id, %error, "stopping a container failed; trying again");
                        self.fail(Op::any_kill(&id), now, ENGINE.0, ENGINE.1, "", String::new());
                        self.look_again = true;
                    }
                }
            }
            Done::Removed { id, result } => {
                self.running.remove(&Op::Remove(id.clone()));
                match result {
                    Ok(()) => {
                        self.forget(&id);
                        if !self.containers.iter().any(Container::is_sandbox)
                            && self.state.stage != Stage::Syncing
                        {
                            self.context.addresses.release(&self.uid);
                        }
                    }
                    Err(error) => {
                        tracing::warn!(pod.uid = %self.uid, container.id = %id, %error, "removing a container failed; trying again");
                        self.fail(Op::Remove(id), now, ENGINE.0, ENGINE.1, "", String::new());
                        self.look_again = true;
                    }
                }
            }
            Done::Resized { id, result } => self.resized(id, result, now),
            Done::Published { sent, result } => self.published_done(*sent, *result, now),
            Done::Deleted(result) => {
                self.running.remove(&Op::Delete);
                match result {
                    Ok(()) => self.wish.vanished = true,
                    Err(error) => {
                        tracing::warn!(pod.uid = %self.uid, %error, "deleting a pod whose containers are dead failed; trying again");
                        self.fail(Op::Delete, now, API.0, API.1, "", String::new());
                    }
                }
            }
            Done::Released(result) => {
                self.running.remove(&Op::Release);
                if let Err(error) = result {
                    let dir = self.context.pod_dir(&self.uid);
                    tracing::warn!(pod.uid = %self.uid, %error, dir = %dir.display(), "removing a pod's directory failed; garbage collection will try again");
                }
                self.released = true;
            }
            Done::Probed { id, container, kind, result } => {
                if let Err(message) = &result {
                    let text = format!("{} probe failed: {message}", kind.name());
                    self.context.event(&self.pod, Some(&container), true, "Unhealthy", &text);
                }
                self.probes.result(&id, kind, result.is_ok(), now);
            }
            Done::Message { id, text } => {
                self.running.remove(&Op::Message(id.clone()));
                self.messages.insert(id, text);
            }
        }
    }

    fn looked(&mut self, epoch: u64, result: runtime::Result<Vec<Container>>, now: Timestamp) {
        self.looking = false;
        match result {
            // Something changed while we looked: look again.
            Ok(_) if epoch != self.epoch => self.look_again = true,
            Ok(containers) => {
                self.failures.remove(&Op::Look);
                self.containers = containers;
                self.looked = true;
                self.published = false;
            }
            Err(error) => {
                tracing::debug!(pod.uid = %self.uid, %error, "listing a pod's containers failed");
                self.look_again = true;
                let wait = LOOK_RETRY.as_secs();
                self.fail(Op::Look, now, wait, wait, "", String::new());
            }
        }
    }

    fn forget(&mut self, id: &str) {
        self.epoch += 1;
        self.published = false;
        self.containers.retain(|container| container.id != id);
        self.messages.remove(id);
    }

    fn image_done(
        &mut self,
        container: String,
        result: runtime::Result<crate::runtime::Image>,
        now: Timestamp,
    ) {
        let op = Op::Image(container.clone());
        self.running.remove(&op);
        match result {
            Ok(image) => {
                self.failures.remove(&op);
                self.images.insert(container, image);
            }
            Err(error) => {
                let message = error.to_string();
                let reason = error.waiting_reason();
                if !matches!(error, Error::Unavailable(_) | Error::Timeout { .. }) {
                    self.context.event(&self.pod, Some(&container), true, "Failed", &message);
                    self.context.event(
                        &self.pod,
                        Some(&container),
                        true,
                        "Failed",
                        &format!("Error: {reason}"),
                    );
                }
                self.fail(op, now, IMAGE.0, IMAGE.1, reason, message);
            }
        }
    }

    fn started(&mut self, name: String, result: runtime::Result<Container>, now: Timestamp) {
        let op = Op::Start(name.clone());
        self.running.remove(&op);
        // Looked for again at the next start: it may have been removed or replaced by then.
        self.images.remove(&name);
        match result {
            Ok(container) => {
                self.failures.remove(&op);
                let hook = self.spec_of(&name).and_then(|spec| {
                    let hook = spec.lifecycle.as_ref()?.post_start.clone()?;
                    Some((spec, hook))
                });
                let id = container.id.clone();
                let running = container.is_running();
                self.note(container);
                if let (Some((spec, hook)), true) = (hook, running) {
                    self.hooking.insert(id.clone());
                    let (context, address) = (Arc::clone(&self.context), self.address());
                    self.begin(Op::Hook(name.clone()), async move {
                        let target = Target {
                            runtime: context.runtime.as_ref(),
                            container_id: &id,
                            spec: &spec,
                            address,
                        };
                        let result = tokio::time::timeout(POST_START, hooks::run(&target, &hook)).await;
                        let result = result.unwrap_or_else(|_| Err("no end within an hour".to_owned()));
                        Done::Hooked { container: name, id, result }
                    });
                }
            }
            Err(error) => {
                let message = error.to_string();
                self.context.event(&self.pod, Some(&name), true, "Failed", &format!("Error: {message}"));
                self.fail(op, now, START.0, START.1, error.waiting_reason(), message);
                self.look_again = true;
            }
        }
    }

    fn hooked(&mut self, name: &str, id: &str, result: Result<(), String>, now: Timestamp) {
        self.running.remove(&Op::Hook(name.to_owned()));
        self.hooking.remove(id);
        if let Err(message) = result {
            let text = format!("PostStartHook failed: {message}");
            self.context.event(&self.pod, Some(name), true, "FailedPostStartHook", &text);
            let alive = self.containers.iter().any(|c| c.id == id && c.is_running());
            if alive && self.state.stage == Stage::Syncing {
                self.kill(id.to_owned(), name.to_owned(), now, &KillReason::HookFailed);
            }
        }
    }
}

/// Deletes the pod's object now that its containers are dead; one that is gone, or that has another uid, is deleted.
async fn delete(client: kube::Client, pod: &Pod, uid: &str) -> kube::Result<()> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    match Api::<Pod>::namespaced(client, namespace).delete(name, &last_word(uid)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(()),
        Err(error) => Err(error),
    }
}

/// How a kubelet deletes the object of the pod with this uid, whose containers are dead.
#[cfg_attr(not(feature = "testing"), allow(unreachable_pub))]
pub fn last_word(uid: &str) -> DeleteParams {
    let only_it = kube::api::Preconditions { uid: Some(uid.to_owned()), resource_version: None };
    DeleteParams {
        grace_period_seconds: Some(0),
        preconditions: Guard::DeleteUid.holds().then_some(only_it),
        ..DeleteParams::default()
    }
}
