//! Every request's way through the server.
//!
//! There is one route: a path's meaning comes from [`RequestInfo`], not from a table of patterns, so that a kind
//! needs no line here. The order, and why:
//! 1. id, span and metrics around everything, panics included;
//! 2. what the request is about (a path that cannot be read is refused before it costs anything);
//! 3. a slot, unless it is a watch or a stream (those last as long as the client likes) or comes from a component of
//!    this process (those are few, and a flood from outside must not keep a node from saying that it is alive);
//! 4. who, then may they: nothing of the request but its head has been looked at;
//! 5. a deadline around the rest; a write runs as a task of its own, so that a client that goes away does not leave
//!    it half done (an address reserved but not kept, say).

use crate::{
    admission::Lookup,
    auth::{Peer, node},
    error::{ApiError, Result},
    handlers,
    kinds::{AnyKind, Subresource},
    request::{Incoming, Query, RequestInfo},
    state::App,
};
use api::guard::{self, Panicked};
use axum::{extract::Request, extract::State, response::IntoResponse, response::Response};
use http::{HeaderValue, header};
use std::time::Instant;
use tracing::Instrument;

/// Seconds after which a client that found the server full should come back.
const RETRY_AFTER: u32 = 1;

/// The server as a plain service, cheap to clone. Requests are expected to carry a [`Peer`] extension.
pub fn router(app: App) -> axum::Router {
    axum::Router::new().fallback(serve).with_state(app)
}

async fn serve(State(app): State<App>, request: Request) -> Response {
    let started = Instant::now();
    let id = uuid::Uuid::new_v4();
    let span = tracing::debug_span!("request", request.id = %id, method = %request.method(), path = request.uri().path());
    let info = match RequestInfo::parse(request.method(), request.uri()) {
        Ok(info) => info,
        Err(e) => return e.into_response(),
    };
    let (verb, resource) =
        (info.verb, app.registry.kind_named(&info.resource).map_or("", |k| k.resource().plural));
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let handled = guard::caught(handle(&app, info, request)).instrument(span.clone()).await;
    let error = match handled {
        Ok(Ok(response)) => Ok(response),
        Ok(Err(error)) => Err(error),
        Err(panic) => Err(panicked(panic)),
    };
    let mut response = error.unwrap_or_else(|error| {
        if matches!(error, ApiError::Internal(_)) {
            // Our own fault needs a person, who needs to know what was asked for.
            tracing::error!(request.id = %id, %method, path, %error, "a request failed");
        }
        span.in_scope(|| error.into_response())
    });
    if let Ok(id) = HeaderValue::from_str(&id.to_string()) {
        response.headers_mut().insert("audit-id", id);
    }
    response
        .headers_mut()
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-cache, private"));
    app.metrics.observe(verb, resource, response.status().as_u16(), started.elapsed());
    response
}

async fn handle(app: &App, info: RequestInfo, request: Request) -> Result<Response> {
    let long = info.is_long_running();
    let peer = request.extensions().get::<Peer>().ok_or(ApiError::Unauthorized)?;
    let unbounded = long || !info.is_resource || matches!(peer, Peer::Internal(_));
    let _slot = match app.in_flight.try_acquire() {
        _ if unbounded => None,
        Ok(slot) => Some(slot),
        Err(_) => {
            return Err(ApiError::TooManyRequests {
                message: "too many requests, please try again later".to_owned(),
                retry_after: RETRY_AFTER,
            });
        }
    };
    let lookup: &dyn Lookup = &app.registry;
    let user = app.authenticator.authenticate(lookup, &app.authorizer, peer, request.headers()).await?;
    app.authorizer.authorize(&user, &info)?;
    if node::name_of(&user).is_some() {
        // Boxed, like all that few requests need: what this function holds is moved for each.
        Box::pin(node::confine(&app.registry, &user, &(&info).into())).await?;
    }
    let query = Query::of(request.uri())?;
    let incoming = Incoming { info, user, query, request };
    if long {
        return dispatch(app, incoming).await;
    }
    let writes = incoming.info.is_resource && !matches!(incoming.info.verb, "get" | "list");
    let work = async {
        if !writes {
            return dispatch(app, incoming).await;
        }
        let task_app = app.clone();
        let task = async move { dispatch(&task_app, incoming).await }.in_current_span();
        match app.tasks.spawn(guard::caught(task)).await {
            Ok(Ok(answer)) => answer,
            Ok(Err(panic)) => Err(panicked(panic)),
            Err(e) => Err(ApiError::Internal(format!("the request's task failed: {e}"))),
        }
    };
    match tokio::time::timeout(app.limits.request, work).await {
        Ok(answer) => answer,
        Err(_) => {
            Err(ApiError::Timeout("Timeout: request did not complete within requested timeout".to_owned()))
        }
    }
}

/// The panic hook has told where.
fn panicked(panic: Panicked) -> ApiError {
    ApiError::Internal(format!("the request handler {panic}"))
}

async fn dispatch(app: &App, incoming: Incoming) -> Result<Response> {
    let info = &incoming.info;
    if !info.is_resource {
        return Box::pin(handlers::paths(app, incoming)).await;
    }
    if handlers::discovery::is_virtual(&info.group, &info.version, &info.resource) {
        return Box::pin(handlers::virtual_resource(app, incoming)).await;
    }
    let kind = app.registry.kind(&info.group, &info.version, &info.resource).ok_or(ApiError::NoSuchPath)?;
    let subresource = subresource(kind, info)?;
    if kind.resource().namespaced {
        if info.namespace.is_empty() && !info.name.is_empty() {
            return Err(ApiError::NoSuchPath);
        }
    } else if !info.namespace.is_empty() && kind.resource().plural != "namespaces" {
        return Err(ApiError::NoSuchPath);
    }
    handlers::resource(app, kind, subresource, incoming).await
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
