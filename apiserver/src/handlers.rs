//! One file per verb, each a few lines over the registry; here the choice among them.

pub mod binding;
pub mod component_status;
pub mod create;
pub mod delete;
pub mod discovery;
pub mod eviction;
pub mod finalize;
pub mod forward;
pub mod get;
pub mod health;
pub mod list;
pub mod metrics;
pub mod node_power;
pub mod patch;
pub mod pod_stream;
pub mod proxy;
pub mod respond;
pub mod reviews;
pub mod scale;
pub mod token;
pub mod update;
pub mod watch;

use crate::{
    auth::User,
    error::{ApiError, Result},
    kinds::{AnyKind, AnyObject, KindRef, Subresource},
    openapi,
    registry::{Call, managed_fields::Writer},
    request::{
        Incoming, RequestInfo,
        body::{self, Repeated},
        options::{FieldValidation, WriteOptions},
    },
    state::App,
};
use api::field;
use axum::response::Response;
use futures::future::BoxFuture;

/// Bytes of a patch that an error shows.
const SHOWN_PATCH: usize = 1024;

/// What Kubernetes says to a verb that a resource does not have.
fn method_not_allowed() -> ApiError {
    ApiError::MethodNotAllowed("the server does not allow this method on the requested resource".to_owned())
}

/// A request for a kind of ours.
pub async fn resource(
    app: &App,
    kind: &KindRef,
    subresource: Option<Subresource>,
    incoming: Box<Incoming>,
) -> Result<Response> {
    use Subresource::{
        Approval, Attach, Binding, EphemeralContainers, Eviction, Exec, Finalize, Kill, Log, PortForward,
        Proxy, Resize, Scale, Start, Status, Stop, Token,
    };
    let named = !incoming.info.name.is_empty();
    let (held, kind) = (kind, &**kind);
    // Each in an allocation of its own size: as one future they would all be as large as the largest, and be moved from
    // wrapper to wrapper on the way to where they run.
    let answer: BoxFuture<'_, Result<Response>> = match (subresource, incoming.info.verb) {
        (None | Some(Status | Approval | EphemeralContainers | Resize), "get") => {
            Box::pin(get::get(app, kind, *incoming))
        }
        (None, "list") => Box::pin(list::list(app, kind, *incoming)),
        (None, "watch") => Box::pin(watch::watch(app, held, *incoming)),
        (None, "create") if !named => Box::pin(create::create(app, kind, *incoming)),
        (None, "delete") => Box::pin(delete::delete(app, kind, *incoming)),
        (None, "deletecollection") => Box::pin(delete::collection(app, kind, *incoming)),
        (None | Some(Status | Approval | EphemeralContainers | Resize), "update") if named => {
            Box::pin(update::update(app, kind, subresource, *incoming))
        }
        (None | Some(Status | Approval | EphemeralContainers | Resize), "patch") if named => {
            Box::pin(patch::patch(app, kind, subresource, *incoming))
        }
        (Some(Scale), _) => Box::pin(scale::scale(app, kind, *incoming)),
        (Some(Binding), "create") => Box::pin(binding::create(app, kind, *incoming)),
        (Some(Eviction), "create") => Box::pin(eviction::create(app, kind, *incoming)),
        (Some(Finalize), "update") => Box::pin(finalize::update(app, kind, *incoming)),
        (Some(Token), "create") => Box::pin(token::create(app, *incoming)),
        (Some(Log), "get") => Box::pin(pod_stream::open(app, Log, *incoming)),
        (Some(stream @ (Exec | Attach | PortForward)), "get" | "create") => {
            Box::pin(pod_stream::open(app, stream, *incoming))
        }
        (Some(Proxy), _) => Box::pin(proxy::pass(app, kind, *incoming)),
        (Some(power @ (Stop | Kill | Start)), "create") => match node_power::power_of(power) {
            Some(power) => Box::pin(node_power::create(app, kind, power, *incoming)),
            None => return Err(method_not_allowed()),
        },
        _ => return Err(method_not_allowed()),
    };
    let answer = answer.await?;
    Ok(match crate::kinds::deprecation(kind) {
        Some(text) => respond::warn(answer, &[text.to_owned()]),
        None => answer,
    })
}

/// A resource that is asked, not stored: reviews, and the old `bindings` and `componentstatuses`.
pub async fn virtual_resource(app: &App, incoming: Box<Incoming>) -> Result<Response> {
    if incoming.info.resource == component_status::PLURAL {
        return component_status::read(app, &incoming);
    }
    if incoming.info.verb != "create" || !incoming.info.name.is_empty() {
        return Err(method_not_allowed());
    }
    if incoming.info.resource == "bindings" {
        let pods = app.registry.kind("", "v1", "pods").ok_or(ApiError::NoSuchPath)?;
        return binding::create(app, &*pods, *incoming).await;
    }
    reviews::create(app, *incoming).await
}

/// A path that is no resource.
pub async fn paths(app: &App, incoming: Box<Incoming>) -> Result<Response> {
    let verb = incoming.info.verb;
    let first = incoming.info.path.split('/').find(|part| !part.is_empty());
    // How the server is it tells to any verb, as Kubernetes does.
    let any_verb = matches!(first, Some("healthz" | "livez" | "readyz"));
    let answer = read_path(app, incoming).await?;
    // What is not there is not there for any verb, so this comes last.
    if any_verb || matches!(verb, "get" | "head") { Ok(answer) } else { Err(method_not_allowed()) }
}

async fn read_path(app: &App, incoming: Box<Incoming>) -> Result<Response> {
    let path = incoming.info.path.clone();
    let (first, rest) =
        path.trim_start_matches('/').split_once('/').unwrap_or((path.trim_start_matches('/'), ""));
    match first {
        "healthz" | "livez" | "readyz" => health::health(app, first, rest, &incoming),
        "version" if rest.is_empty() => Ok(discovery::version()),
        "metrics" if rest.is_empty() => Ok(metrics::metrics(app)),
        ".well-known" | "openid" => token::openid(app, &path),
        "" | "api" | "apis" => discovery::discovery(app, &path, &incoming),
        "openapi" => {
            let headers = incoming.request.headers();
            let catalog = app.registry.catalog();
            match rest.trim_end_matches('/').split_once('/').unwrap_or((rest, "")) {
                ("v2", "") => openapi::v2(&catalog, headers).await,
                ("v3", "") => openapi::v3_index(&catalog, headers).await,
                ("v3", group) => {
                    openapi::v3_group(&catalog, group, incoming.request.uri().query(), headers).await
                }
                _ => Err(ApiError::NoSuchPath),
            }
        }
        _ => Err(ApiError::NoSuchPath),
    }
}

/// The call behind a request for one kind.
fn call<'a>(
    kind: &'a dyn AnyKind,
    subresource: Option<Subresource>,
    incoming: &'a Incoming,
    dry_run: bool,
) -> Call<'a> {
    // A namespace lives in none, although its path reads as if it did.
    let namespace = if kind.resource().namespaced { incoming.info.namespace.as_str() } else { "" };
    let writer = Writer {
        field_manager: incoming.query.get("fieldManager").unwrap_or_default(),
        user_agent: incoming.header(http::header::USER_AGENT).unwrap_or_default(),
        subresource: &incoming.info.subresource,
    };
    Call { kind, subresource, namespace, name: &incoming.info.name, user: &incoming.user, writer, dry_run }
}

/// Whoever makes an object by an update or an apply must be allowed to create as well.
fn may_create(app: &App, user: &User, info: &RequestInfo) -> Result<()> {
    app.authorizer.authorize(user, &RequestInfo { verb: "create", ..info.clone() })
}

/// A JSON tree as an object of `kind`, with warnings for what was ignored.
///
/// # Errors
/// 400 for another kind or version, for what cannot be read, and in strict mode for unknown and repeated fields.
fn decode(
    kind: &dyn AnyKind,
    value: serde_json::Value,
    repeated: &Repeated,
    options: &WriteOptions,
) -> Result<(Box<dyn AnyObject>, Vec<String>)> {
    let r = kind.resource();
    check_type(&value, r.kind, &r.api_version())?;
    typed(kind, value, repeated, options)
        .map_err(|why| body::cannot_be_handled(r.kind, r.version, r.kind, &why))
}

/// The result of a `patch` as an object of `kind`, with warnings for what was ignored.
///
/// # Errors
/// As [`decode`], but 422: each half may be fine, together they are not.
fn decode_patched(
    kind: &dyn AnyKind,
    value: serde_json::Value,
    repeated: &Repeated,
    options: &WriteOptions,
    patch: &[u8],
) -> Result<(Box<dyn AnyObject>, Vec<String>)> {
    let r = kind.resource();
    check_type(&value, r.kind, &r.api_version())?;
    typed(kind, value, repeated, options).map_err(|why| {
        let mut errors = field::Errors::default();
        let shown = String::from_utf8_lossy(&patch[..patch.len().min(SHOWN_PATCH)]);
        errors.invalid(&field::Path::new("patch"), shown, why);
        ApiError::Invalid { group: String::new(), kind: String::new(), name: String::new(), errors }
    })
}

fn typed(
    kind: &dyn AnyKind,
    value: serde_json::Value,
    repeated: &Repeated,
    options: &WriteOptions,
) -> std::result::Result<(Box<dyn AnyObject>, Vec<String>), String> {
    let decoded = kind.decode(value)?;
    let custom = kind.custom().is_some();
    let warnings = match options.field_validation {
        FieldValidation::Ignore => Vec::new(),
        FieldValidation::Warn => body::complaints(&decoded.unknown, repeated, custom),
        FieldValidation::Strict => match body::strict_text(&decoded.unknown, repeated, custom) {
            Some(text) => return Err(text),
            None => Vec::new(),
        },
    };
    Ok((decoded.object, warnings))
}

/// `kind` and `apiVersion` may be left out, but not name something else.
fn check_type(value: &serde_json::Value, kind: &str, version: &str) -> Result<()> {
    let text = |name: &str| value.get(name).and_then(|v| v.as_str()).unwrap_or_default();
    let (got_kind, got_version) = (text("kind"), text("apiVersion"));
    if !got_version.is_empty() && got_version != version {
        return Err(ApiError::BadRequest(format!(
            "the API version in the data ({got_version}) does not match the expected API version ({version})"
        )));
    }
    if !got_kind.is_empty() && got_kind != kind {
        let why = format!("no conversion from {got_kind} to {kind}");
        let version = version.rsplit('/').next().unwrap_or(version);
        return Err(body::cannot_be_handled(got_kind, version, kind, &why));
    }
    Ok(())
}

#[cfg(test)]
pub(crate) mod testing;
