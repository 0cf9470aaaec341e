//! Which groups, versions and resources there are: `/api`, `/apis` and below, plain and aggregated, and `/version`.
//!
//! All of it follows from the table of kinds and a short list of resources that are asked and not stored; the documents
//! are written once for each state of the table (`crate::custom::Catalog`).

use crate::{
    error::{ApiError, Result},
    handlers::respond,
    kinds::{AnyKind, Subresource},
    request::Incoming,
    state::App,
};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde_json::{Map, Value, json};
use std::collections::HashMap;

/// A resource without a store: POST asks a question, or GET is answered from what is so now.
pub(crate) struct Virtual {
    pub(crate) group: &'static str,
    pub(crate) version: &'static str,
    pub(crate) plural: &'static str,
    pub(crate) kind: &'static str,
    pub(crate) namespaced: bool,
    pub(crate) verbs: &'static [&'static str],
    short_names: &'static [&'static str],
}

const VIRTUAL: [Virtual; 9] = {
    const fn asked(
        group: &'static str,
        plural: &'static str,
        kind: &'static str,
        namespaced: bool,
    ) -> Virtual {
        Virtual { group, version: "v1", plural, kind, namespaced, verbs: &["create"], short_names: &[] }
    }
    const AUTHENTICATION: &str = "authentication.k8s.io";
    const AUTHORIZATION: &str = "authorization.k8s.io";
    [
        asked("", "bindings", "Binding", true),
        Virtual {
            verbs: &["get", "list"],
            short_names: &["cs"],
            ..asked("", "componentstatuses", "ComponentStatus", false)
        },
        asked(AUTHENTICATION, "selfsubjectreviews", "SelfSubjectReview", false),
        // What `kubectl auth whoami` of 1.27 asks.
        Virtual {
            version: "v1beta1",
            ..asked(AUTHENTICATION, "selfsubjectreviews", "SelfSubjectReview", false)
        },
        asked(AUTHENTICATION, "tokenreviews", "TokenReview", false),
        asked(AUTHORIZATION, "localsubjectaccessreviews", "LocalSubjectAccessReview", true),
        asked(AUTHORIZATION, "selfsubjectaccessreviews", "SelfSubjectAccessReview", false),
        asked(AUTHORIZATION, "selfsubjectrulesreviews", "SelfSubjectRulesReview", false),
        asked(AUTHORIZATION, "subjectaccessreviews", "SubjectAccessReview", false),
    ]
};

/// Kinds of a group version that are asked or bound, and not stored.
pub(crate) fn virtual_in(group: &str, version: &str) -> impl Iterator<Item = &'static Virtual> {
    VIRTUAL.iter().filter(move |v| (v.group, v.version) == (group, version))
}

pub(crate) fn is_virtual(group: &str, version: &str, plural: &str) -> bool {
    VIRTUAL.iter().any(|v| v.plural == plural && v.group == group && v.version == version)
}

/// How a subresource is spelt, which kind it speaks (`None`: the parent's own), and with which verbs.
struct Shape {
    subresource: Subresource,
    name: &'static str,
    kind: Option<(&'static str, &'static str, &'static str)>,
    verbs: &'static [&'static str],
}

const GET_PATCH_UPDATE: &[&str] = &["get", "patch", "update"];
const CONNECT: &[&str] = &["create", "get"];
const ANY: &[&str] = &["create", "delete", "get", "patch", "update"];

const SHAPES: [Shape; 17] = {
    type Gvk = Option<(&'static str, &'static str, &'static str)>;
    const fn shape(
        subresource: Subresource,
        name: &'static str,
        kind: Gvk,
        verbs: &'static [&'static str],
    ) -> Shape {
        Shape { subresource, name, kind, verbs }
    }
    [
        shape(Subresource::Approval, "approval", None, GET_PATCH_UPDATE),
        shape(Subresource::Attach, "attach", Some(("", "v1", "PodAttachOptions")), CONNECT),
        shape(Subresource::Binding, "binding", Some(("", "v1", "Binding")), &["create"]),
        shape(Subresource::EphemeralContainers, "ephemeralcontainers", None, GET_PATCH_UPDATE),
        shape(Subresource::Eviction, "eviction", Some(("policy", "v1", "Eviction")), &["create"]),
        shape(Subresource::Exec, "exec", Some(("", "v1", "PodExecOptions")), CONNECT),
        shape(Subresource::Finalize, "finalize", None, &["update"]),
        shape(Subresource::Kill, "kill", None, &["create"]),
        shape(Subresource::Log, "log", None, &["get"]),
        shape(Subresource::PortForward, "portforward", Some(("", "v1", "PodPortForwardOptions")), CONNECT),
        shape(Subresource::Proxy, "proxy", None, ANY),
        shape(Subresource::Resize, "resize", None, GET_PATCH_UPDATE),
        shape(Subresource::Scale, "scale", Some(("autoscaling", "v1", "Scale")), GET_PATCH_UPDATE),
        shape(Subresource::Start, "start", None, &["create"]),
        shape(Subresource::Status, "status", None, GET_PATCH_UPDATE),
        shape(Subresource::Stop, "stop", None, &["create"]),
        shape(
            Subresource::Token,
            "token",
            Some(("authentication.k8s.io", "v1", "TokenRequest")),
            &["create"],
        ),
    ]
};

pub(crate) fn subresource_named(name: &str) -> Option<Subresource> {
    SHAPES.iter().find(|s| s.name == name).map(|s| s.subresource)
}

/// As a path spells it.
pub(crate) fn subresource_spelt(subresource: Subresource) -> &'static str {
    SHAPES.iter().find(|s| s.subresource == subresource).map_or("", |s| s.name)
}

/// The name as one of ours; empty if it is none.
pub(crate) fn subresource_name(name: &str) -> &'static str {
    SHAPES.iter().find(|s| s.name == name).map_or("", |s| s.name)
}

/// The kind that a subresource of `kind` speaks.
fn spoken(shape: &Shape, kind: &dyn AnyKind) -> (String, String, String) {
    let r = kind.resource();
    match (shape.subresource, shape.kind) {
        (Subresource::Proxy, _) => (String::new(), "v1".to_owned(), format!("{}ProxyOptions", r.kind)),
        (_, Some((group, version, kind))) => (group.to_owned(), version.to_owned(), kind.to_owned()),
        (_, None) => (r.group.to_owned(), r.version.to_owned(), r.kind.to_owned()),
    }
}

/// What every stored kind can do.
const VERBS: [&str; 8] = ["create", "delete", "deletecollection", "get", "list", "patch", "update", "watch"];

pub(crate) fn verbs(kind: &dyn AnyKind) -> Vec<&'static str> {
    let whole = kind.resource().plural == "namespaces";
    VERBS.into_iter().filter(|v| !(whole && *v == "deletecollection")).collect()
}

const V2: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";
const V2BETA1: &str = "application/json;g=apidiscovery.k8s.io;v=v2beta1;as=APIGroupDiscoveryList";

/// Every discovery document, as bytes.
pub(crate) struct Documents {
    plain: HashMap<String, Bytes>,
    /// By path (`/api`, `/apis`) and media type; each with its `ETag`.
    aggregated: HashMap<(&'static str, &'static str), (Bytes, String)>,
}

impl Documents {
    pub(crate) fn of<'k>(kinds: impl Iterator<Item = &'k dyn AnyKind>) -> Self {
        let table = Table::of(kinds);
        let mut plain = HashMap::new();
        let mut put = |path: String, value: Value| plain.insert(path, Bytes::from(value.to_string()));
        put(
            "/api".to_owned(),
            json!({"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}),
        );
        let mut groups = Vec::new();
        for (group, versions) in &table.groups {
            for version in versions {
                put(version.path(group), version.resource_list(group));
            }
            if !group.is_empty() {
                let described = describe(group, versions);
                let mut whole = json!({"kind": "APIGroup", "apiVersion": "v1"});
                if let (Some(whole), Some(described)) = (whole.as_object_mut(), described.as_object()) {
                    whole.extend(described.clone());
                }
                put(format!("/apis/{group}"), whole);
                groups.push(described);
            }
        }
        put("/apis".to_owned(), json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}));
        let mut paths: Vec<String> = plain.keys().cloned().collect();
        paths.extend(
            ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]
                .map(String::from),
        );
        paths.sort();
        plain.insert("/".to_owned(), Bytes::from(json!({"paths": paths}).to_string()));

        let mut aggregated = HashMap::new();
        for (path, core) in [("/api", true), ("/apis", false)] {
            for (media, version) in [(V2, "v2"), (V2BETA1, "v2beta1")] {
                let items: Vec<Value> = table
                    .groups
                    .iter()
                    .filter(|(g, _)| g.is_empty() == core)
                    .map(|(g, v)| aggregate(g, v))
                    .collect();
                let document = json!({
                    "kind": "APIGroupDiscoveryList",
                    "apiVersion": format!("apidiscovery.k8s.io/{version}"),
                    "metadata": {},
                    "items": items,
                });
                let text = document.to_string();
                let tag = format!("\"{}\"", crate::openapi::digest(text.as_bytes()));
                aggregated.insert((path, media), (Bytes::from(text), tag));
            }
        }
        Self { plain, aggregated }
    }
}

/// The groups in the order of the table of kinds, each with its versions.
struct Table<'k> {
    groups: Vec<(&'static str, Vec<Version<'k>>)>,
}

struct Version<'k> {
    version: &'static str,
    kinds: Vec<&'k dyn AnyKind>,
    asked: Vec<&'static Virtual>,
}

impl<'k> Table<'k> {
    fn of(kinds: impl Iterator<Item = &'k dyn AnyKind>) -> Self {
        let mut table = Self { groups: Vec::new() };
        for kind in kinds {
            let r = kind.resource();
            table.version(r.group, r.version).kinds.push(kind);
        }
        for asked in &VIRTUAL {
            table.version(asked.group, asked.version).asked.push(asked);
        }
        table
    }

    fn version(&mut self, group: &'static str, version: &'static str) -> &mut Version<'k> {
        let at = self.groups.iter().position(|(g, _)| *g == group).unwrap_or_else(|| {
            self.groups.push((group, Vec::new()));
            self.groups.len() - 1
        });
        let versions = &mut self.groups[at].1;
        let at = versions.iter().position(|v| v.version == version).unwrap_or_else(|| {
            versions.push(Version { version, kinds: Vec::new(), asked: Vec::new() });
            versions.len() - 1
        });
        &mut versions[at]
    }
}

fn group_version(group: &str, version: &str) -> String {
    if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") }
}

/// Puts `value` unless it says nothing.
fn put(map: &mut Map<String, Value>, name: &str, value: Value) {
    let empty = value.as_array().is_some_and(Vec::is_empty) || value.as_str() == Some("");
    if !empty {
        map.insert(name.to_owned(), value);
    }
}

fn describe(group: &str, versions: &[Version<'_>]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|v| json!({"groupVersion": group_version(group, v.version), "version": v.version}))
        .collect();
    json!({"name": group, "preferredVersion": versions.first(), "versions": versions})
}

fn aggregate(group: &str, versions: &[Version<'_>]) -> Value {
    let versions: Vec<Value> = versions
        .iter()
        .map(|v| json!({"version": v.version, "freshness": "Current", "resources": v.aggregated()}))
        .collect();
    let mut metadata = Map::new();
    put(&mut metadata, "name", json!(group));
    metadata.insert("creationTimestamp".to_owned(), Value::Null);
    json!({"metadata": metadata, "versions": versions})
}

impl Version<'_> {
    fn path(&self, group: &str) -> String {
        if group.is_empty() {
            format!("/api/{}", self.version)
        } else {
            format!("/apis/{group}/{}", self.version)
        }
    }

    fn resource_list(&self, group: &str) -> Value {
        let mut resources = Vec::new();
        for kind in &self.kinds {
            let r = kind.resource();
            let mut entry = Map::new();
            entry.insert("name".to_owned(), json!(r.plural));
            entry.insert("singularName".to_owned(), json!(r.singular));
            entry.insert("namespaced".to_owned(), json!(r.namespaced));
            entry.insert("kind".to_owned(), json!(r.kind));
            entry.insert("verbs".to_owned(), json!(verbs(*kind)));
            put(&mut entry, "shortNames", json!(kind.short_names()));
            put(&mut entry, "categories", json!(kind.categories()));
            resources.push(Value::Object(entry));
            for shape in SHAPES.iter().filter(|s| kind.has(s.subresource)) {
                let (sub_group, sub_version, sub_kind) = spoken(shape, *kind);
                let mut entry = Map::new();
                entry.insert("name".to_owned(), json!(format!("{}/{}", r.plural, shape.name)));
                entry.insert("singularName".to_owned(), json!(""));
                entry.insert("namespaced".to_owned(), json!(r.namespaced));
                if (sub_group.as_str(), sub_version.as_str()) != (r.group, r.version) {
                    put(&mut entry, "group", json!(sub_group));
                    entry.insert("version".to_owned(), json!(sub_version));
                }
                entry.insert("kind".to_owned(), json!(sub_kind));
                entry.insert("verbs".to_owned(), json!(shape.verbs));
                resources.push(Value::Object(entry));
            }
        }
        for asked in &self.asked {
            let mut entry = Map::new();
            entry.insert("name".to_owned(), json!(asked.plural));
            entry.insert("singularName".to_owned(), json!(asked.kind.to_ascii_lowercase()));
            entry.insert("namespaced".to_owned(), json!(asked.namespaced));
            entry.insert("kind".to_owned(), json!(asked.kind));
            entry.insert("verbs".to_owned(), json!(asked.verbs));
            put(&mut entry, "shortNames", json!(asked.short_names));
            resources.push(Value::Object(entry));
        }
        json!({
            "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version(group, self.version),
            "resources": resources,
        })
    }

    fn aggregated(&self) -> Vec<Value> {
        let scope = |namespaced: bool| if namespaced { "Namespaced" } else { "Cluster" };
        let mut resources = Vec::new();
        for kind in &self.kinds {
            let r = kind.resource();
            let subresources: Vec<Value> = SHAPES
                .iter()
                .filter(|s| kind.has(s.subresource))
                .map(|shape| {
                    let (group, version, sub_kind) = spoken(shape, *kind);
                    json!({
                        "subresource": shape.name,
                        "responseKind": {"group": group, "version": version, "kind": sub_kind},
                        "verbs": shape.verbs,
                    })
                })
                .collect();
            let mut entry = Map::new();
            entry.insert("resource".to_owned(), json!(r.plural));
            entry.insert(
                "responseKind".to_owned(),
                json!({"group": r.group, "version": r.version, "kind": r.kind}),
            );
            entry.insert("scope".to_owned(), json!(scope(r.namespaced)));
            entry.insert("singularResource".to_owned(), json!(r.singular));
            entry.insert("verbs".to_owned(), json!(verbs(*kind)));
            put(&mut entry, "shortNames", json!(kind.short_names()));
            put(&mut entry, "categories", json!(kind.categories()));
            put(&mut entry, "subresources", json!(subresources));
            resources.push(Value::Object(entry));
        }
        for asked in &self.asked {
            let mut entry = Map::new();
            entry.insert("resource".to_owned(), json!(asked.plural));
            entry.insert(
                "responseKind".to_owned(),
                json!({"group": asked.group, "version": asked.version, "kind": asked.kind}),
            );
            entry.insert("scope".to_owned(), json!(scope(asked.namespaced)));
            entry.insert("singularResource".to_owned(), json!(asked.kind.to_ascii_lowercase()));
            entry.insert("verbs".to_owned(), json!(asked.verbs));
            put(&mut entry, "shortNames", json!(asked.short_names));
            resources.push(Value::Object(entry));
        }
        resources
    }
}

/// A discovery document, in the form the client asked for.
pub fn discovery(app: &App, path: &str, incoming: &Incoming) -> Result<Response> {
    let accept: Vec<&str> =
        incoming.request.headers().get_all(header::ACCEPT).iter().filter_map(|v| v.to_str().ok()).collect();
    let catalog = app.registry.catalog();
    let documents = catalog.discovery();
    let root = if path == "/api" { "/api" } else { "/apis" };
    for range in accept.iter().flat_map(|v| v.split(',')) {
        let Some(media) = aggregated_media(range).filter(|_| path == root) else { continue };
        if let Some((bytes, tag)) = documents.aggregated.get(&(root, media)) {
            let known = incoming.header(header::IF_NONE_MATCH).unwrap_or_default();
            let mut response = answer(media, bytes.clone());
            if known.split(',').any(|k| k.trim() == tag) {
                *response.body_mut() = axum::body::Body::empty();
                *response.status_mut() = StatusCode::NOT_MODIFIED;
            }
            if let Ok(tag) = HeaderValue::from_str(tag) {
                response.headers_mut().insert(header::ETAG, tag);
            }
            return Ok(response);
        }
    }
    let bytes = documents.plain.get(path).ok_or(ApiError::NoSuchPath)?;
    let mut response = respond::json(incoming.accepted()?.whole()?, StatusCode::OK, bytes.clone());
    // Caches must not take one form for the other.
    response.headers_mut().append(header::VARY, HeaderValue::from_static("Accept"));
    Ok(response)
}

fn aggregated_media(range: &str) -> Option<&'static str> {
    let mut parts = range.split(';').map(str::trim);
    if parts.next() != Some("application/json") {
        return None;
    }
    let has: Vec<&str> = parts.collect();
    if !has.contains(&"g=apidiscovery.k8s.io") || !has.contains(&"as=APIGroupDiscoveryList") {
        return None;
    }
    [(V2, "v=v2"), (V2BETA1, "v=v2beta1")].into_iter().find(|(_, v)| has.contains(v)).map(|(media, _)| media)
}

fn answer(media: &'static str, bytes: Bytes) -> Response {
    ([(header::CONTENT_TYPE, media), (header::VARY, "Accept")], bytes).into_response()
}

/// What we say we are: Kubernetes 1.36, in our own build.
pub fn version() -> Response {
    let arch = match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    let version = json!({
        "major": "1", "minor": "36", "gitVersion": concat!("v1.36.0+minik8s.", env!("CARGO_PKG_VERSION")),
        "gitCommit": "", "gitTreeState": "clean", "buildDate": "1970-01-01T00:00:00Z", "goVersion": "none",
        "compiler": "rustc", "platform": format!("{}/{arch}", std::env::consts::OS),
    });
    answer("application/json", version.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_two_aggregated_forms_are_known() {
        for (range, media) in [
            (V2, Some(V2)),
            ("application/json; v=v2beta1; as=APIGroupDiscoveryList; g=apidiscovery.k8s.io", Some(V2BETA1)),
            ("application/json;g=apidiscovery.k8s.io;v=v3;as=APIGroupDiscoveryList", None),
            ("application/json", None),
        ] {
            assert_eq!(aggregated_media(range), media, "{range}");
        }
    }

    #[test]
    fn every_subresource_has_one_name() {
        for shape in &SHAPES {
            assert_eq!(subresource_named(shape.name), Some(shape.subresource));
        }
        assert_eq!(subresource_named("nonsense"), None);
    }
}
