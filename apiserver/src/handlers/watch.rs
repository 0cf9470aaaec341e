//! GET with `watch`: a stream of events, one JSON object a line or one protobuf frame after the other.

use super::call;
use crate::{
    error::{ApiError, Result},
    kinds::KindRef,
    protobuf,
    registry::{Selection, watch},
    request::{Incoming, negotiate::Encoding, options::ListOptions},
    state::App,
};
use axum::{body::Body, response::Response};
use http::{HeaderValue, header};

/// [`protobuf::MEDIA`] of a watch.
const STREAM_MEDIA: &str = "application/vnd.kubernetes.protobuf;stream=watch";

pub async fn watch(app: &App, kind: &KindRef, incoming: Incoming) -> Result<Response> {
    if !matches!(*incoming.request.method(), http::Method::GET) {
        return Err(super::method_not_allowed());
    }
    let accepted = incoming.accepted()?;
    let options = ListOptions::parse(&incoming.query, true)?;
    let selection = Selection::parse(&**kind, &options)?.named(&incoming.info.name);
    if app.stop.is_cancelled() {
        return Err(ApiError::Unavailable("the server is shutting down".to_owned()));
    }
    let r = kind.resource();
    let protobuf = accepted.encoding == Encoding::Protobuf && protobuf::knows(&r.api_version(), r.kind);
    let request = watch::Request {
        kind: kind.clone(),
        namespace: call(&**kind, None, &incoming, false).namespace.to_owned(),
        selection,
        options,
        form: accepted.form,
        protobuf,
        bookmark: app.limits.bookmark,
        stop: app.stop.child_token(),
    };
    let mut response = Response::new(Body::from_stream(app.registry.watch(request).await?));
    let media = if protobuf { STREAM_MEDIA } else { "application/json" };
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(media));
    Ok(response)
}
