//! Changing what a running container may use, and telling of it.

use super::{Done, Wish, Worker};
use crate::{
    container_spec,
    node_context::Context,
    pod_machine::{Op, Stage},
    resize,
    runtime::{Container, Error, Resources, Result},
    status,
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::json;
use std::sync::Arc;

/// Retries of a change that the engine refuses: (first, longest) wait in seconds.
const RETRY: (i64, i64) = (2, 60);

impl Worker {
    pub(super) fn resize(&mut self, id: String, name: &str) {
        let (Some(spec), Some(pod)) = (self.spec_of(name), &self.pod.spec) else { return };
        let wanted = container_spec::resources(pod, &spec, self.context.machine.memory_bytes);
        let now = self.containers.iter().find(|c| c.id == id).and_then(|c| c.resources.clone());
        let work = change(Arc::clone(&self.context), id.clone(), spec.name, now.unwrap_or_default(), wanted);
        self.begin(Op::Resize(id.clone()), async move { Done::Resized { id, result: work.await } });
    }

    pub(super) fn resized(&mut self, id: String, result: Result<Container>, now: Timestamp) {
        let op = Op::Resize(id);
        self.running.remove(&op);
        match result {
            Ok(container) => {
                self.failures.remove(&op);
                self.note(container);
            }
            Err(error) => {
                let message = error.to_string();
                let text = format!("Pod resize error: {}", summary(&self.pod, Some(&message)));
                self.context.event(&self.pod, None, true, "ResizeError", &text);
                self.fail(op, now, RETRY.0, RETRY.1, "", message);
                self.published = false;
                self.look_again = true;
            }
        }
    }

    /// Why the last try failed.
    pub(super) fn resize_error(&self) -> Option<&str> {
        let mut failed = self.failures.iter().filter(|(op, _)| matches!(op, Op::Resize(_)));
        failed.next().map(|(_, failure)| failure.message.as_str())
    }

    /// Compares a new wish with the pod as it is: what it may use, and what it has to wait for.
    pub(super) fn tell_resize(&mut self, wish: &Wish) {
        if resize::given(&wish.pod, &self.pod).is_some() {
            let text = format!("Pod resize started: {}", summary(&wish.pod, None));
            self.context.event(&wish.pod, None, false, "ResizeStarted", &text);
            self.resizing = true;
            // Files made from requests and limits.
            self.refresh();
        }
        if let Some(pending) = &wish.resize
            && wish.resize != self.wish.resize
        {
            let text =
                format!("Pod resize {}: {}", pending.reason, summary(&wish.pod, Some(&pending.message)));
            self.context.event(&wish.pod, None, true, &format!("Resize{}", pending.reason), &text);
        }
    }

    /// Says once that a change is through.
    pub(super) fn tell_resized(&mut self) {
        let syncing = self.resizing && self.state.stage == Stage::Syncing;
        let Some(spec) = self.pod.spec.as_ref().filter(|_| syncing) else { return };
        let replacing =
            self.containers.iter().any(|c| self.state.replacing.contains(&c.id) && c.is_running());
        if !replacing && !status::is_resizing(spec, &self.containers) {
            self.resizing = false;
            let text = format!("Pod resize completed: {}", summary(&self.pod, None));
            self.context.event(&self.pod, None, false, "ResizeCompleted", &text);
        }
    }
}

/// Less memory than is in use would end the container, or be refused by the kernel with less to read.
async fn change(
    context: Arc<Context>,
    id: String,
    name: String,
    now: Resources,
    wanted: Resources,
) -> Result<Container> {
    if let Some(limit) = wanted.memory_bytes.filter(|limit| now.memory_bytes.is_none_or(|now| *limit < now)) {
        let used = context.runtime.stats(&id).await?.memory_working_set_bytes;
        if i64::try_from(used).unwrap_or(i64::MAX) >= limit {
            return Err(Error::Other(format!(
                "cannot decrease memory limits: attempting to set container {name:?} memory limit ({limit}) below \
                 current usage ({used})"
            )));
        }
    }
    context.runtime.update_container(&id, &wanted).await?;
    context.runtime.inspect(&id).await
}

/// What the pod's containers ask for, as Kubernetes' events tell it.
fn summary(pod: &Pod, error: Option<&str>) -> String {
    let list = |all: &[k8s_openapi::api::core::v1::Container]| -> Vec<serde_json::Value> {
        all.iter().map(|c| json!({"name": c.name, "resources": c.resources})).collect()
    };
    let spec = pod.spec.as_ref();
    let mut summary = json!({
        "containers": list(spec.map(|s| s.containers.as_slice()).unwrap_or_default()),
        "generation": pod.metadata.generation,
    });
    if let Some(init) = spec.and_then(|s| s.init_containers.as_deref()).filter(|all| !all.is_empty()) {
        summary["initContainers"] = list(init).into();
    }
    if let Some(error) = error {
        summary["error"] = error.into();
    }
    summary.to_string()
}
