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

pub(super) async fn attach(
    Extract(state): Extract<State>,
    Path((namespace, pod, container)): Path<(String, String, String)>,
    Query(query): Query<Vec<(String, String)>>,
    request: Request,
) -> Result<Response, Failure> {
    let streams = Streams::parse(&Pairs(query))?;
    let found = state.lookup.running(&namespace, &pod, &container)?;
    let Streams { stdin, stdout, stderr, .. } = streams;
    let spec = AttachSpec { stdin, stdout, stderr };
    let runtime = state.runtime.clone();
    let start = async move { runtime.attach(&found.id, spec).await };
    exec::stream(state, request, streams, Kind::Attach, start)
}
