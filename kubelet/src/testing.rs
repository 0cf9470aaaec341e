//! Fixtures of this crate's tests: pods and containers in few words.

pub(crate) mod fake_api;
pub(crate) mod namespace;

use crate::{
    container_plan::spec_hash,
    container_spec,
    runtime::{Container, PodRef, SANDBOX_NAME, State},
};
use jiff::Timestamp;
use k8s_openapi::api::core::v1::Pod;
use serde_json::{Value, json};
use std::time::Duration;

pub(crate) fn at(second: i64) -> Timestamp {
    Timestamp::from_second(1_700_000_000 + second).unwrap()
}

/// A pod `p` in namespace `ns` with uid `u`; containers without an image get `img`.
pub(crate) fn pod(spec: Value) -> Pod {
    let mut spec = spec;
    for list in ["containers", "initContainers"] {
        for container in spec[list].as_array_mut().into_iter().flatten() {
            if container.get("image").is_none() {
                container["image"] = json!("img");
            }
        }
    }
    if spec["initContainers"].is_null() {
        spec.as_object_mut().unwrap().remove("initContainers");
    }
    spec["nodeName"] = json!("n1");
    serde_json::from_value(json!({"metadata": {"name": "p", "namespace": "ns", "uid": "u", "generation": 1,
        "resourceVersion": "1"}, "spec": spec}))
    .unwrap()
}

pub(crate) fn running() -> State {
    State::Running { started: at(0) }
}

pub(crate) fn exited(code: i32, finished: i64) -> State {
    State::Exited { code, oom_killed: false, started: Some(at(0)), finished: at(finished), error: None }
}

/// An instance of a container of `pod` in sandbox `box`, with id `<name>-<attempt>`.
pub(crate) fn container(pod: &Pod, name: &str, attempt: u32, state: State) -> Container {
    let spec = api::pod::container(pod.spec.as_ref().unwrap(), name);
    Container {
        id: format!("{name}-{attempt}"),
        pod: PodRef { namespace: "ns".into(), name: "p".into(), uid: "u".into() },
        name: name.to_owned(),
        sandbox_id: if name == SANDBOX_NAME { String::new() } else { "box".to_owned() },
        state,
        created: at(i64::from(attempt)),
        attempt,
        hash: spec.map(spec_hash).unwrap_or_default(),
        image: "img".into(),
        image_id: "docker://sha256:img".into(),
        pid: None,
        ip: None,
        tty: false,
        stdin: false,
        resources: spec.map(|spec| container_spec::resources(pod.spec.as_ref().unwrap(), spec, 0)),
        made_with: spec.map(crate::resize::label).unwrap_or_default(),
        grace: Duration::from_secs(30),
    }
}

pub(crate) fn sandbox(pod: &Pod, attempt: u32, state: State) -> Container {
    let id = if attempt == 0 { "box".to_owned() } else { format!("box{attempt}") };
    let ip = Some([10, 1, 1, 2].into());
    Container { id, ip, ..container(pod, SANDBOX_NAME, attempt, state) }
}
