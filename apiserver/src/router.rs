//! Every request's way through the server.
//!
//! There is one route: a path's meaning comes from [`RequestInfo`], not from a table of patterns, so that a kind
//! needs no line here. The order, and why:
//! 1. id, span, metrics and audit log around everything, panics included;
//! 2. what the request is about (a path that cannot be read is refused before it costs anything);
//! 3. who, then may they: nothing of the request but its head has been looked at;
//! 4. a place among the requests under way (`lanes`), unless it is a watch or a stream (those last as long as the client
//!    likes), asks for health, or comes from a component of this process;
//! 5. a deadline around the rest; a write runs as a task of its own, so that a client that goes away does not leave
//!    it half done (an address reserved but not kept, say).

use crate::{
    admission::Lookup,
    audit::{self, Ending, Identity, Record, Stage},
    auth::{Peer, authn, node},
    custom::CustomKind,
    error::{ApiError, Result},
    handlers,
    kinds::{AnyKind, Subresource},
    lanes::Lane,
    metrics::{Label, Running},
    request::{Incoming, Query, RequestInfo, negotiate},
    state::App,
};
use api::guard::{self, Panicked};
use axum::{body::Body, extract::Request, response::Response};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{HeaderValue, header};
use http_body::{Frame, SizeHint};
use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
    time::{Duration, Instant},
};
use tracing::Instrument;

/// The server as a plain service, cheap to clone. Requests are expected to carry a [`Peer`] extension.
#[derive(Clone)]
pub struct Router(App);

pub fn router(app: App) -> Router {
    Router(app)
}

impl<B> tower::Service<http::Request<B>> for Router
where
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<axum::BoxError>,
{
    type Response = Response;
    type Error = Infallible;
    type Future = BoxFuture<'static, std::result::Result<Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<std::result::Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<B>) -> Self::Future {
        Box::pin(serve(self.0.clone(), request.map(Body::new)))
    }
}

async fn serve(app: App, request: Request) -> std::result::Result<Response, Infallible> {
    let started = Instant::now();
    let id = audit::id_of(request.headers());
    let (method, uri) = (request.method().clone(), request.uri().clone());
    let path = uri.path();
    let span = tracing::debug_span!("request", request.id = %id, %method, path);
    let mut record = app.audit.begin(&id, &request);
    let (mut label, mut long) = (Label { verb: "other", ..Label::default() }, false);
    // What is known of the user when the request ends, wherever it ends; kept only if somebody wants to know.
    let identity = (record.is_some() || tracing::enabled!(tracing::Level::DEBUG)).then(Mutex::default);
    let notes = record.is_some().then(audit::Notes::default);
    let encoding = negotiate::of_refusal(request.headers());
    let handled = match RequestInfo::parse(request.method(), request.uri()) {
        Ok(info) => {
            (label, long) = (label_of(&app, &info), info.is_long_running());
            if let Some(record) = &mut record {
                record.about(&info);
            }
            let work = guard::caught(handle(&app, info, request, identity.as_ref())).instrument(span.clone());
            audit::noted(notes.clone(), work).await
        }
        Err(error) => Ok(Err(error)),
    };
    let answer = handled.unwrap_or_else(|panic| Err(panicked(panic)));
    let failure = answer.as_ref().err().map(|error| (error.reason(), error.to_string()));
    let mut response = answer.unwrap_or_else(|error| {
        if matches!(error, ApiError::Internal(_)) {
            // Our own fault needs a person, who needs to know what was asked for.
            tracing::error!(request.id = %id, %method, path, %error, "a request failed");
        }
        span.in_scope(|| error.answer(encoding))
    });
    let failed = failure.is_some();
    let code = response.status().as_u16();
    let identity = identity.unwrap_or_default().into_inner().unwrap_or_else(PoisonError::into_inner);
    tracing::debug!(
        request.id = %id, %method, path, code, verb = label.verb,
        user = identity.user.as_ref().map(|u| u.name.as_str()), milliseconds = started.elapsed().as_millis(),
        "request"
    );
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("audit-id", id);
    }
    response
        .headers_mut()
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-cache, private"));
    app.metrics.answered(label, code, (!long).then(|| started.elapsed()));
    if let Some(record) = &mut record {
        record.answered(&identity, code, failure);
        if let Some(notes) = &notes {
            record.annotated(notes);
        }
    }
    if !long || failed {
        if let Some(mut record) = record {
            record.log(Stage::ResponseComplete);
        }
        return Ok(response);
    }
    let ending = record.map(|mut record: Record| {
        record.log(Stage::ResponseStarted);
        Ending(record)
    });
    let going_on = GoingOn { _running: app.metrics.running(label), _ending: ending };
    Ok(response.map(|body| Body::new(Followed { body, _going_on: going_on })))
}

/// Dropped with the body of an answer: when a watch or a stream has ended, however it did.
struct GoingOn {
    _running: Running,
    _ending: Option<Ending>,
}

/// A body that is told of when it ends.
struct Followed {
    body: Body,
    _going_on: GoingOn,
}

impl http_body::Body for Followed {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::result::Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(cx)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// From fixed sets only: a path that names no kind of ours counts under no resource.
fn label_of(app: &App, info: &RequestInfo) -> Label {
    let kind = app.registry.kind(&info.group, &info.version, &info.resource);
    let (group, version, resource) =
        kind.map_or(("", "", ""), |k| (k.resource().group, k.resource().version, k.resource().plural));
    Label {
        verb: Label::verb_of(info),
        group,
        version,
        resource,
        subresource: handlers::discovery::subresource_name(&info.subresource),
        scope: Label::scope_of(info),
    }
}

async fn handle(
    app: &App,
    info: RequestInfo,
    request: Request,
    identity: Option<&Mutex<Identity>>,
) -> Result<Response> {
    let long = info.is_long_running();
    let peer = request.extensions().get::<Peer>().ok_or(ApiError::Unauthorized)?;
    let lookup: &dyn Lookup = &app.registry;
    let note = |what: &dyn Fn(&mut Identity)| {
        if let Some(identity) = identity {
            what(&mut identity.lock().unwrap_or_else(PoisonError::into_inner));
        }
    };
    let headers = request.headers();
    let shown = app.authenticator.credential(lookup, peer, headers).await?;
    note(&|identity| identity.user = Some(shown.clone()));
    let user = match authn::acting_as(&app.authorizer, &shown, headers)? {
        None => shown,
        Some(other) => {
            let other = Arc::new(other);
            note(&|identity| identity.acting_as = Some(other.clone()));
            other
        }
    };
    let allowed = app.authorizer.authorize(&user, &info);
    note(&|identity| identity.allowed = Some(allowed.is_ok()));
    allowed?;
    if node::name_of(&user).is_some() {
        // Boxed, like all that few requests need: what this function holds is moved for each.
        Box::pin(node::confine(&app.registry, &user, &(&info).into())).await?;
    }
    let place = match peer {
        Peer::Internal(_) => None,
        Peer::Tls { .. } if long || info.is_health() => None,
        Peer::Tls { .. } => Some(app.lanes.enter(Lane::of(&user, info.verb)).await?),
    };
    let query = Query::of(request.uri());
    let limit = deadline(&query, app.limits.request)?;
    // Boxed: it goes through several futures, each of which would hold it twice.
    let until = tokio::time::Instant::now() + limit;
    let incoming = Box::new(Incoming { info, user, query, request, until });
    if long {
        return dispatch(app, incoming).await;
    }
    let writes = incoming.info.is_resource && !matches!(incoming.info.verb, "get" | "list");
    let work = async {
        let place = place;
        if !writes {
            return dispatch(app, incoming).await;
        }
        let task_app = app.clone();
        // The place is the task's: else clients that go away at once could have any number of writes under way.
        let task = async move {
            let _place = place;
            dispatch(&task_app, incoming).await
        }
        .in_current_span();
        match app.tasks.spawn(audit::carried(guard::caught(task))).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(panic)) => Err(panicked(panic)),
            Err(e) => Err(ApiError::Internal(format!("the request's task failed: {e}"))),
        }
    };
    match tokio::time::timeout(limit, work).await {
        Ok(answer) => answer,
        Err(_) => Err(ApiError::timed_out()),
    }
}

/// How long this request may take: what it asks for with `timeout`, if that is less than what everyone gets. None and
/// less than none ask for nothing.
fn deadline(query: &Query, most: Duration) -> Result<Duration> {
    let Some(text) = query.get("timeout").filter(|text| !text.is_empty()) else { return Ok(most) };
    let (negative, digits) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    match api::duration::parse(digits) {
        Ok(asked) if negative || asked.is_zero() => Ok(most),
        Ok(asked) => Ok(asked.min(most)),
        Err(_) => Err(ApiError::BadRequest(format!(
            "invalid timeout specified in the request URL - time: invalid duration {text:?}"
        ))),
    }
}

/// The panic hook has told where.
fn panicked(panic: Panicked) -> ApiError {
    ApiError::Internal(format!("the request handler {panic}"))
}

async fn dispatch(app: &App, incoming: Box<Incoming>) -> Result<Response> {
    let info = &incoming.info;
    if !info.is_resource {
        return Box::pin(handlers::paths(app, incoming)).await;
    }
    if handlers::discovery::is_virtual(&info.group, &info.version, &info.resource) {
        return Box::pin(handlers::virtual_resource(app, incoming)).await;
    }
    let kind = app.registry.kind(&info.group, &info.version, &info.resource).ok_or(ApiError::NoSuchPath)?;
    let subresource = subresource(&*kind, info)?;
    if kind.resource().namespaced {
        if info.namespace.is_empty() && !info.name.is_empty() {
            return Err(ApiError::NoSuchPath);
        }
    } else if !info.namespace.is_empty() && kind.resource().plural != "namespaces" {
        return Err(ApiError::NoSuchPath);
    }
    let response = handlers::resource(app, &kind, subresource, incoming).await?;
    match kind.custom().and_then(CustomKind::deprecation) {
        Some(warning) => Ok(handlers::respond::warn(response, &[warning.to_owned()])),
        None => Ok(response),
    }
}

fn subresource(kind: &dyn AnyKind, info: &RequestInfo) -> Result<Option<Subresource>> {
    if info.subresource.is_empty() {
        return Ok(None);
    }
    let subresource = handlers::discovery::subresource_named(&info.subresource).filter(|s| kind.has(*s));
    // Only a proxy's path goes on after the subresource.
    if subresource != Some(Subresource::Proxy) && !info.remainder.trim_matches('/').is_empty() {
        return Err(ApiError::NoSuchPath);
    }
    subresource.map(Some).ok_or(ApiError::NoSuchPath)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_may_ask_for_less_time() {
        let most = Duration::from_secs(60);
        let of = |query: &str| deadline(&Query::of(&format!("/x?{query}").parse().unwrap()), most);
        for (query, seconds) in [
            ("", 60),
            ("timeout=", 60),
            ("timeout=5s", 5),
            ("timeout=%2B5s", 5),
            ("timeout=1m30s", 60),
            ("timeout=0s", 60),
            ("timeout=0", 60),
            ("timeout=-5s", 60),
        ] {
            assert_eq!(of(query).unwrap(), Duration::from_secs(seconds), "{query}");
        }
        for query in ["timeout=5", "timeout=soon", "timeout=-"] {
            let error = of(query).unwrap_err();
            assert_eq!(error.code(), 400, "{query}");
            assert!(
                error.to_string().starts_with("invalid timeout specified in the request URL - "),
                "{error}"
            );
        }
    }
}
