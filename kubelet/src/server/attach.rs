//! `/attach`: the streams of a container's first process.

use super::{
    Failure, State, exec,
    query::{Pairs, Streams},
};
use crate::{runtime::AttachSpec, stream::remote_command::Kind};
use axum::{
    extract::{Path, Query, Request, State as Extract},
    response::Response,
};
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
    let replay =
        state.lookup.pod(&namespace, &pod).is_ok_and(|view| is_for_one_session(&view.pod, &container));
    let spec = AttachSpec { stdin, stdout, stderr, replay };
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
