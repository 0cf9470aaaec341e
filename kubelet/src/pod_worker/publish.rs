//! The pod's status: computed on every turn, written only when it has changed, one write at a time.

use super::{Done, Worker, start::termination_file};
use crate::{
    container_plan::Health,
    node_context::Context,
    pod_machine::Op,
    runtime::{Container, LogOptions, Runtime},
    status::{self, Facts},
};
use futures::{FutureExt, StreamExt};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::{Pod, PodStatus};
use kube::{
    Api,
    api::{Patch, PatchParams},
};
use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

/// Limits of a termination message, in bytes: from the file, and from the log.
const MAX_FILE: usize = 4096;
const MAX_LOG: usize = 2048;
const MAX_LOG_LINES: u64 = 80;
/// Reading the log's tail must not hold up the status for longer.
const LOG_WAIT: Duration = Duration::from_secs(5);
/// After a failed pull `ErrImagePull` is shown for so long, then `ImagePullBackOff` until the next try.
const ERROR_SHOWN: SignedDuration = SignedDuration::from_secs(3);
const RETRY: (i64, i64) = (1, 30);

impl Worker {
    /// Why containers are waiting: name → (reason, message).
    pub(super) fn waiting(&self) -> BTreeMap<String, (String, String)> {
        let mut waiting = BTreeMap::new();
        let now = Timestamp::now();
        for (name, until) in &self.state.backing_off {
            let delay = self.state.backoff.delay(name).as_secs();
            let delay =
                if delay < 60 { format!("{delay}s") } else { format!("{}m{}s", delay / 60, delay % 60) };
            if *until > now {
                let pod = &self.pod.metadata;
                let message = format!(
                    "back-off {delay} restarting failed container={name} pod={}_{}({})",
                    pod.name.as_deref().unwrap_or_default(),
                    pod.namespace.as_deref().unwrap_or_default(),
                    self.uid
                );
                waiting.insert(name.clone(), ("CrashLoopBackOff".to_owned(), message));
            }
        }
        for (op, failure) in &self.failures {
            let (Op::Image(name) | Op::Start(name)) = op else { continue };
            let mut reason = failure.reason.clone();
            let mut message = failure.message.clone();
            let shown = now.duration_since(failure.at) < ERROR_SHOWN;
            if reason == "ErrImagePull" && !shown {
                let image = self.spec_of(name).and_then(|spec| spec.image).unwrap_or_default();
                reason = "ImagePullBackOff".to_owned();
                message = format!("Back-off pulling image {image:?}: ErrImagePull: {message}");
            }
            waiting.insert(name.clone(), (reason, message));
        }
        waiting
    }

    /// Writes the status if it differs from what the API has. Gives the time when it will differ by itself.
    pub(super) fn publish(&mut self, health: &BTreeMap<String, Health>, now: Timestamp) -> Option<Timestamp> {
        if self.wish.vanished || self.running.contains(&Op::Publish) {
            return None;
        }
        if let Some(failure) = self.failures.get(&Op::Publish)
            && failure.until > now
        {
            return Some(failure.until);
        }
        // Ends whose words have not been read yet would be told twice.
        if self.containers.iter().any(|c| c.is_exited() && !self.messages.contains_key(&c.id)) {
            return None;
        }
        let waiting = self.waiting();
        let messages = self.messages.iter().filter(|(_, text)| !text.is_empty());
        let messages = messages.map(|(id, text)| (id.clone(), text.clone())).collect();
        let node_ip = self.context.machine.node_ip;
        let status = status::compute(&Facts {
            pod: &self.pod,
            containers: &self.containers,
            health,
            stage: &self.state.stage,
            waiting: &waiting,
            messages: &messages,
            hooking: &self.hooking,
            resize: self.wish.resize.as_ref(),
            resize_error: self.resize_error(),
            pod_ip: self.pod_ip(),
            host_ip: node_ip.map(Into::into),
            now,
        });
        let old = self.pod.status.clone().unwrap_or_default();
        match status::patch(&self.uid, &old, &status) {
            None => (self.published, self.last_patch) = (true, None),
            Some(patch) if self.last_patch.as_ref() == Some(&patch) => {
                // It was accepted and did not stick: somebody undoes it, or the server drops it. Not in a tight loop.
                tracing::warn!(pod.uid = %self.uid, %patch, "a status that was written is not what the API shows");
                self.last_patch = None;
                self.published = true;
                self.fail(Op::Publish, now, RETRY.1, RETRY.1, "", String::new());
            }
            Some(patch) => {
                self.published = false;
                self.last_patch = Some(patch.clone());
                let (context, pod) = (Arc::clone(&self.context), self.pod.clone());
                self.running.insert(Op::Publish);
                self.ops.push(
                    async move {
                        let result = write(&context, &pod, &patch).await;
                        Done::Published { sent: Box::new(status), result: Box::new(result) }
                    }
                    .boxed(),
                );
            }
        }
        self.tell_back_off(&waiting, now);
        let flip = |failure: &super::Failure| failure.at.checked_add(ERROR_SHOWN).ok().filter(|at| *at > now);
        self.failures.iter().filter(|(op, _)| matches!(op, Op::Image(_))).filter_map(|(_, f)| flip(f)).min()
    }

    /// One event for each back-off period.
    fn tell_back_off(&mut self, waiting: &BTreeMap<String, (String, String)>, now: Timestamp) {
        self.told.retain(|_, until| *until > now);
        for (name, (reason, message)) in waiting {
            let until = match reason.as_str() {
                "CrashLoopBackOff" => self.state.backing_off.get(name).copied(),
                "ImagePullBackOff" => {
                    self.failures.get(&Op::Image(name.clone())).map(|failure| failure.until)
                }
                _ => None,
            };
            let Some(until) = until else { continue };
            if self.told.insert(name.clone(), until) == Some(until) {
                continue;
            }
            if reason == "CrashLoopBackOff" {
                let message = message.replacen("back-off", "Back-off", 1);
                let words = message.split_once("restarting").map_or(message.as_str(), |(_, rest)| rest);
                self.context.event(
                    &self.pod,
                    Some(name),
                    true,
                    "BackOff",
                    &format!("Back-off restarting{words}"),
                );
            } else {
                let image = self.spec_of(name).and_then(|spec| spec.image).unwrap_or_default();
                let text = format!("Back-off pulling image {image:?}");
                self.context.event(&self.pod, Some(name), false, "BackOff", &text);
                self.context.event(&self.pod, Some(name), true, "Failed", "Error: ImagePullBackOff");
            }
        }
    }

    pub(super) fn published_done(
        &mut self,
        sent: PodStatus,
        result: kube::Result<Option<Pod>>,
        now: Timestamp,
    ) {
        self.running.remove(&Op::Publish);
        match result {
            Ok(Some(pod)) => {
                self.failures.remove(&Op::Publish);
                if super::version(&pod) >= super::version(&self.pod) {
                    self.pod.metadata.resource_version = pod.metadata.resource_version;
                    self.pod.status = pod.status.or(Some(sent));
                }
            }
            // The object is gone or another: the informer will tell.
            Ok(None) => {
                self.fail(Op::Publish, now, RETRY.0, RETRY.1, "", String::new());
                self.published = true;
            }
            Err(error) => {
                self.last_patch = None;
                tracing::warn!(pod.uid = %self.uid, %error, "writing a pod's status failed; trying again");
                self.fail(Op::Publish, now, RETRY.0, RETRY.1, "", String::new());
            }
        }
    }

    /// Reads the last words of containers that have ended.
    pub(super) fn collect_messages(&mut self) {
        let missing: Vec<Container> = self
            .containers
            .iter()
            .filter(|c| c.is_exited() && !c.is_sandbox() && !self.messages.contains_key(&c.id))
            .cloned()
            .collect();
        for container in self.containers.iter().filter(|c| c.is_exited() && c.is_sandbox()) {
            self.messages.entry(container.id.clone()).or_default();
        }
        for container in missing {
            let op = Op::Message(container.id.clone());
            if !self.running.insert(op) {
                continue;
            }
            let fallback = self.spec_of(&container.name).is_some_and(|spec| {
                spec.termination_message_policy.as_deref() == Some("FallbackToLogsOnError")
            });
            let file = termination_file(&self.context.pod_dir(&self.uid), &container.name, container.attempt);
            let runtime = Arc::clone(&self.context.runtime);
            self.ops.push(
                async move {
                    let text = last_words(runtime.as_ref(), &container, &file, fallback).await;
                    Done::Message { id: container.id, text }
                }
                .boxed(),
            );
        }
    }
}

/// `None` when there is no such pod any more.
async fn write(context: &Context, pod: &Pod, patch: &serde_json::Value) -> kube::Result<Option<Pod>> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let api: Api<Pod> = Api::namespaced(context.client.clone(), namespace);
    match api.patch_status(name, &PatchParams::default(), &Patch::Strategic(patch)).await {
        Ok(pod) => Ok(Some(pod)),
        // A conflict is one of the uid: another pod of the name.
        Err(kube::Error::Api(status)) if status.code == 404 || status.code == 409 => Ok(None),
        Err(error) => Err(error),
    }
}

async fn last_words(runtime: &dyn Runtime, container: &Container, file: &Path, fallback: bool) -> String {
    let file = file.to_owned();
    let read = tokio::task::spawn_blocking(move || std::fs::read(file)).await;
    let words = read.ok().and_then(Result::ok).unwrap_or_default();
    if !words.is_empty() || !fallback || container.exit_code() == Some(0) {
        let kept = &words[..words.len().min(MAX_FILE)];
        return String::from_utf8_lossy(kept).into_owned();
    }
    let options = LogOptions { tail: Some(MAX_LOG_LINES), ..LogOptions::default() };
    let read = async {
        let mut text = Vec::new();
        let mut lines = runtime.logs(&container.id, options).await.ok()?;
        while let Some(Ok(line)) = lines.next().await {
            let line = line.bytes();
            let from = line.iter().position(|byte| *byte == b' ').map_or(0, |at| at + 1);
            text.extend_from_slice(&line[from..]);
        }
        Some(text)
    };
    let text = tokio::time::timeout(LOG_WAIT, read).await.ok().flatten().unwrap_or_default();
    String::from_utf8_lossy(&text[text.len().saturating_sub(MAX_LOG)..]).into_owned()
}
