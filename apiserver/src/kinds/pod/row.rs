//! The row of a pod: what state its containers are in, in one word.

use crate::kinds::shared::cells;
use api::{age, conditions};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::{ContainerStateTerminated, ContainerStatus, Pod, PodSpec, PodStatus};
use serde_json::Value;
use std::collections::HashSet;

pub(super) fn row(pod: &Pod, now: Timestamp) -> Vec<Value> {
    let none = (PodSpec::default(), PodStatus::default());
    let spec = pod.spec.as_ref().unwrap_or(&none.0);
    let status = pod.status.as_ref().unwrap_or(&none.1);
    let summary = Summary::of(pod, spec, status);
    let restarts = match (summary.restarts.count, summary.restarts.last) {
        (count @ 1.., Some(last)) => format!("{count} ({} ago)", age::since(Some(last), now)),
        (count, _) => count.to_string(),
    };
    let gates = spec.readiness_gates.as_deref().unwrap_or_default();
    let held = status.conditions.as_deref().unwrap_or_default();
    let gates = match gates.iter().filter(|g| conditions::is_true(held, &g.condition_type)).count() {
        _ if gates.is_empty() => "<none>".to_owned(),
        open => format!("{open}/{}", gates.len()),
    };
    let ip = status.pod_ips.iter().flatten().next().map(|ip| &ip.ip);
    vec![
        cells::name(&pod.metadata),
        format!("{}/{}", summary.ready, summary.total).into(),
        summary.reason.into(),
        restarts.into(),
        cells::age(&pod.metadata, now),
        cells::text_or(ip, "<none>").into(),
        cells::text_or(spec.node_name.as_ref(), "<none>").into(),
        cells::text_or(status.nominated_node_name.as_ref(), "<none>").into(),
        gates.into(),
    ]
}

#[derive(Default, Clone, Copy)]
struct Restarts {
    count: i32,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &ContainerStatus) {
        self.count += container.restart_count;
        let ended = container
            .last_state
            .as_ref()
            .and_then(|s| s.terminated.as_ref())
            .and_then(|t| t.finished_at.as_ref());
        self.last = self.last.max(ended.map(|t| t.0));
    }
}

struct Summary {
    reason: String,
    ready: usize,
    total: usize,
    restarts: Restarts,
}

fn terminated(container: &ContainerStatus) -> Option<&ContainerStateTerminated> {
    container.state.as_ref()?.terminated.as_ref()
}

fn waiting(container: &ContainerStatus) -> Option<&str> {
    container.state.as_ref()?.waiting.as_ref()?.reason.as_deref().filter(|r| !r.is_empty())
}

fn end_of(end: &ContainerStateTerminated) -> String {
    match (end.reason.as_deref(), end.signal) {
        (Some(reason), _) if !reason.is_empty() => reason.to_owned(),
        (_, Some(signal)) if signal != 0 => format!("Signal:{signal}"),
        _ => format!("ExitCode:{}", end.exit_code),
    }
}

impl Summary {
    fn of(pod: &Pod, spec: &PodSpec, status: &PodStatus) -> Self {
        let held = status.conditions.as_deref().unwrap_or_default();
        let phase = status.phase.as_deref().unwrap_or("");
        let init = spec.init_containers.as_deref().unwrap_or_default();
        let sidecars: HashSet<&str> =
            init.iter().filter(|c| api::pod::is_sidecar(c)).map(|c| c.name.as_str()).collect();
        let mut this = Self {
            reason: cells::text_or(status.reason.as_ref(), phase).to_owned(),
            ready: 0,
            total: spec.containers.len() + init.iter().filter(|c| api::pod::is_sidecar(c)).count(),
            restarts: Restarts::default(),
        };
        if conditions::find(held, "PodScheduled")
            .is_some_and(|c| c.reason.as_deref() == Some("SchedulingGated"))
        {
            this.reason = "SchedulingGated".to_owned();
        }

        // Init containers, up to the first that is not through.
        let (mut initializing, mut of_sidecars) = (false, Restarts::default());
        for (i, container) in status.init_container_statuses.iter().flatten().enumerate() {
            this.restarts.add(container);
            let sidecar = sidecars.contains(container.name.as_str());
            if sidecar {
                of_sidecars.add(container);
            }
            match terminated(container) {
                Some(end) if end.exit_code == 0 => continue,
                _ if sidecar && container.started == Some(true) => {
                    this.ready += usize::from(container.ready);
                    continue;
                }
                Some(end) => this.reason = format!("Init:{}", end_of(end)),
                None => match waiting(container) {
                    Some(reason) if reason != "PodInitializing" => this.reason = format!("Init:{reason}"),
                    _ => this.reason = format!("Init:{i}/{}", init.len()),
                },
            }
            initializing = true;
            break;
        }
        if !initializing || conditions::is_true(held, "Initialized") {
            this.restarts = of_sidecars;
            this.add_containers(status, conditions::is_true(held, "Ready"));
        }

        // The node controller's word on a pod whose node is lost: what its containers last said is not known to be true.
        if conditions::find(held, "Ready").is_some_and(|c| c.reason.as_deref() == Some("NodeLost")) {
            this.reason = "Unknown".to_owned();
        }
        if api::pod::is_terminating(pod) {
            if status.reason.as_deref() == Some("NodeLost") {
                this.reason = "Unknown".to_owned();
            } else if !api::pod::is_terminal(pod) {
                this.reason = "Terminating".to_owned();
            }
        }
        this
    }

    fn add_containers(&mut self, status: &PodStatus, ready: bool) {
        let (mut running, mut error) = (false, None);
        for container in status.container_statuses.iter().flatten().rev() {
            self.restarts.add(container);
            let is_running = container.state.as_ref().is_some_and(|s| s.running.is_some());
            if let Some(reason) = waiting(container) {
                self.reason = reason.to_owned();
            } else if let Some(end) = terminated(container) {
                self.reason = end_of(end);
                if end.exit_code != 0 {
                    error = Some(self.reason.clone());
                }
            } else if container.ready && is_running {
                running = true;
                self.ready += 1;
            }
        }
        // One that has ended well does not make the pod Completed while another runs or has failed.
        if self.reason == "Completed" {
            match (running, error) {
                (true, _) if ready => self.reason = "Running".to_owned(),
                (_, Some(error)) => self.reason = error,
                (true, None) => self.reason = "NotReady".to_owned(),
                (false, None) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kinds::shared::testing::{at, object};
    use serde_json::json;

    fn container(name: &str, state: Value, ready: bool, restarts: i32) -> Value {
        json!({"name": name, "image": "", "imageID": "", "ready": ready, "restartCount": restarts, "state": state,
               "started": ready, "lastState": if restarts > 0 {
                   json!({"terminated": {"exitCode": 1, "finishedAt": at(90)}}) } else { json!({}) }})
    }

    fn cells(spec: Value, status: Value, meta: Value) -> Vec<String> {
        let mut metadata = json!({"name": "p", "creationTimestamp": at(0)});
        metadata.as_object_mut().unwrap().extend(meta.as_object().unwrap().clone());
        let pod: Pod = object(json!({"metadata": metadata, "spec": spec, "status": status}));
        let row = row(&pod, "1970-01-01T00:01:40Z".parse().unwrap());
        assert_eq!(row.len(), <super::super::Pods as crate::kinds::Kind>::COLUMNS.len());
        row.iter().map(|c| c.as_str().unwrap().to_owned()).collect()
    }

    fn state(spec: Value, status: Value, meta: Value) -> String {
        cells(spec, status, meta)[1..4].join(" ")
    }

    #[test]
    fn states_as_the_real_server_prints_them() {
        let one = json!({"containers": [{"name": "a"}]});
        let two = json!({"containers": [{"name": "a"}, {"name": "b"}]});
        let init = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "i"}, {"name": "j"}]});
        let sidecar = json!({"containers": [{"name": "a"}], "initContainers": [{"name": "s", "restartPolicy": "Always"}]});
        let running = json!({"running": {}});
        let waiting = |r: &str| json!({"waiting": {"reason": r}});
        let ended = |code: i32, reason: &str| json!({"terminated": {"exitCode": code, "reason": reason}});
        let all =
            |phase: &str, containers: Vec<Value>| json!({"phase": phase, "containerStatuses": containers});
        let with_init = |inits: Vec<Value>, containers: Vec<Value>| json!({"phase": "Pending", "initContainerStatuses": inits, "containerStatuses": containers});
        let ready = |mut status: Value| {
            status["conditions"] = json!([{"type": "Ready", "status": "True"}]);
            status
        };
        let lost = || {
            let mut status = all("Running", vec![container("a", running.clone(), true, 0)]);
            status["conditions"] = json!([{"type": "Ready", "status": "False", "reason": "NodeLost"}]);
            status
        };
        let no = json!({});
        for (spec, status, meta, expected) in [
            (&one, json!({"phase": "Pending"}), &no, "0/1 Pending 0"),
            (
                &one,
                all("Pending", vec![container("a", waiting("ContainerCreating"), false, 0)]),
                &no,
                "0/1 ContainerCreating 0",
            ),
            (&one, all("Running", vec![container("a", running.clone(), true, 0)]), &no, "1/1 Running 0"),
            (&one, lost(), &no, "1/1 Unknown 0"),
            (&one, lost(), &json!({"deletionTimestamp": at(50)}), "1/1 Terminating 0"),
            (
                &one,
                all("Running", vec![container("a", running.clone(), true, 3)]),
                &no,
                "1/1 Running 3 (10s ago)",
            ),
            (
                &one,
                all("Running", vec![container("a", waiting("CrashLoopBackOff"), false, 4)]),
                &no,
                "0/1 CrashLoopBackOff 4 (10s ago)",
            ),
            (
                &one,
                all("Pending", vec![container("a", waiting("ImagePullBackOff"), false, 0)]),
                &no,
                "0/1 ImagePullBackOff 0",
            ),
            (
                &one,
                all("Succeeded", vec![container("a", ended(0, "Completed"), false, 0)]),
                &no,
                "0/1 Completed 0",
            ),
            (&one, all("Failed", vec![container("a", ended(1, "Error"), false, 0)]), &no, "0/1 Error 0"),
            (&one, all("Failed", vec![container("a", ended(137, ""), false, 0)]), &no, "0/1 ExitCode:137 0"),
            (
                &two,
                all(
                    "Running",
                    vec![
                        container("a", ended(0, "Completed"), false, 0),
                        container("b", running.clone(), true, 0),
                    ],
                ),
                &no,
                "1/2 NotReady 0",
            ),
            (
                &two,
                ready(all(
                    "Running",
                    vec![
                        container("a", ended(0, "Completed"), false, 0),
                        container("b", running.clone(), true, 0),
                    ],
                )),
                &no,
                "1/2 Running 0",
            ),
            (
                &two,
                all(
                    "Failed",
                    vec![
                        container("a", ended(0, "Completed"), false, 0),
                        container("b", ended(2, "Error"), false, 0),
                    ],
                ),
                &no,
                "0/2 Error 0",
            ),
            (
                &init,
                with_init(vec![container("i", running.clone(), false, 0)], vec![]),
                &no,
                "0/1 Init:0/2 0",
            ),
            (
                &init,
                with_init(
                    vec![
                        container("i", ended(0, "Completed"), true, 0),
                        container("j", waiting("PodInitializing"), false, 0),
                    ],
                    vec![container("a", waiting("PodInitializing"), false, 0)],
                ),
                &no,
                "0/1 Init:1/2 0",
            ),
            (
                &init,
                with_init(vec![container("i", ended(1, "Error"), false, 2)], vec![]),
                &no,
                "0/1 Init:Error 2 (10s ago)",
            ),
            (
                &init,
                with_init(vec![container("i", waiting("CrashLoopBackOff"), false, 2)], vec![]),
                &no,
                "0/1 Init:CrashLoopBackOff 2 (10s ago)",
            ),
            (
                &sidecar,
                with_init(
                    vec![container("s", running.clone(), true, 0)],
                    vec![container("a", running.clone(), true, 0)],
                ),
                &no,
                "2/2 Pending 0",
            ),
            (
                &one,
                all("Running", vec![container("a", running.clone(), true, 0)]),
                &json!({"deletionTimestamp": at(1)}),
                "1/1 Terminating 0",
            ),
            (&one, json!({"phase": "Failed", "reason": "Evicted"}), &no, "0/1 Evicted 0"),
            (
                &one,
                json!({"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "False", "reason": "SchedulingGated"}]}),
                &no,
                "0/1 SchedulingGated 0",
            ),
        ] {
            assert_eq!(state(spec.clone(), status.clone(), meta.clone()), expected, "{status}");
        }
    }

    #[test]
    fn wide_columns() {
        let spec = json!({"containers": [], "nodeName": "n1", "readinessGates": [{"conditionType": "a"}, {"conditionType": "b"}]});
        let status = json!({"phase": "Running", "podIP": "10.244.1.5", "podIPs": [{"ip": "10.244.1.5"}],
                            "conditions": [{"type": "a", "status": "True"}]});
        assert_eq!(
            cells(spec, status, json!({})),
            ["p", "0/0", "Running", "0", "100s", "10.244.1.5", "n1", "<none>", "1/2"]
        );
    }
}
