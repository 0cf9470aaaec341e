//! `/attach`: the streams of a container's first process.

use super::{
    Failure, State, exec,
    query::{Pairs, Streams},
};
use crate::{
    runtime::{AttachSpec, Container, State as Life},
    stream::remote_command::Kind,
};
use axum::{
    extract::{Path, Query, Request, State as Extract},
    response::Response,
};
use jiff::{SignedDuration, Timestamp};
use k8s_openapi::api::core::v1::Pod;

pub(super) async fn attach(
    Extract(state): Extract<State>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(query): Query<Vec<(String, String)>>,
    request: Request,
) -> Result<Response, Failure> {
    let streams = Streams::parse(&Pairs(query))?;
    let found = state.lookup.running(&namespace, &pod, &container)?;
    let Streams { stdin, stdout, stderr, .. } = streams;
    let view = state.lookup.pod(&namespace, &pod);
    let once = view.as_ref().is_ok_and(|view| is_for_one_session(&view.pod, &container));
    let fresh = view.as_ref().is_ok_and(|view| is_ephemeral(&view.pod, &container)) && is_fresh(&found);
    let spec = AttachSpec { stdin, stdout, stderr, replay: once || fresh, once };
    let runtime = state.runtime.clone();
    let start = async move { runtime.attach(&found.id, spec).await };
    exec::stream(state, request, streams, Kind::Attach, start)
}

/// `stdinOnce`: made for whoever attaches first, as by `kubectl run -i`. Such a client must not miss what the command
/// wrote before it came: `kubectl run -it … -- dig` is done in milliseconds.
fn is_for_one_session(pod: &Pod, container: &str) -> bool {
    let containers = pod.spec.iter().flat_map(|spec| &spec.containers);
    containers.filter(|known| known.name == container).any(|known| known.stdin_once == Some(true))
}

fn is_ephemeral(pod: &Pod, container: &str) -> bool {
    let all = pod.spec.iter().flat_map(|spec| spec.ephemeral_containers.iter().flatten());
    all.into_iter().any(|known| known.name == container)
}

/// Who attaches to an ephemeral container so soon is who had it started: `kubectl debug -it … -- ls` must show
/// what `ls` wrote before the client was there.
fn is_fresh(container: &Container) -> bool {
    const SOON: SignedDuration = SignedDuration::from_secs(10);
    let Life::Running { started } = container.state else { return false };
    Timestamp::now().duration_since(started) < SOON
}
