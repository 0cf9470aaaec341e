//! What the API looks like: facts about its types, and the OpenAPI documents made from them.
//!
//! A document depends on the table of kinds alone, so each is built once for each state of the table, at the first
//! request for one of its version, and kept compressed; those of our own kinds are built once for good. v3 comes as one
//! document per group version, v2 as a single one in JSON or, for kubectl up to 1.27, in gnostic's protobuf.

pub mod markers;
mod paths;
mod protobuf;
mod schemas;
mod v2;

use crate::{
    custom::Catalog,
    error::{ApiError, Result},
    kinds::{self, AnyKind},
};
use axum::{body::Body, response::Response};
use bytes::Bytes;
use flate2::{Compression, read::GzDecoder, write::GzEncoder};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use paths::GroupVersion;
use schemas::{Schemas, Texts};
use serde_json::{Map, Value, json};
use std::{
    fmt::Write as _,
    io::{Read as _, Write as _},
    sync::Arc,
};
use tokio::sync::OnceCell;

/// The Kubernetes release whose API we serve.
const RELEASE: &str = "v1.36.0";

static V3: OnceCell<V3> = OnceCell::const_new();
static V2: OnceCell<V2> = OnceCell::const_new();

struct V3 {
    index: Document,
    /// By path: `apis/apps/v1`.
    groups: Vec<(String, Document)>,
}

struct V2 {
    json: Document,
    protobuf: Document,
}

/// The documents that custom kinds have a part in.
#[derive(Default)]
pub(crate) struct Custom {
    /// The index of all groups, and the documents of custom ones.
    v3: OnceCell<V3>,
    v2: OnceCell<V2>,
}

/// `GET /openapi/v3`: where the document of each group version is, with a hash that changes when it does.
///
/// # Errors
/// Only if building the documents failed.
pub(crate) async fn v3_index(catalog: &Arc<Catalog>, headers: &HeaderMap) -> Result<Response> {
    custom_v3(catalog).await?.index.answer(headers, false)
}

/// `GET /openapi/v3/{path}` (`api/v1`, `apis/apps/v1`). A client that names the hash may keep the answer for good.
///
/// # Errors
/// 404 for a group version that is not served.
pub(crate) async fn v3_group(
    catalog: &Arc<Catalog>,
    path: &str,
    query: Option<&str>,
    headers: &HeaderMap,
) -> Result<Response> {
    let path = path.trim_matches('/');
    let mut found = v3().await?.groups.iter().find(|(p, _)| p == path);
    if found.is_none() {
        found = custom_v3(catalog).await?.groups.iter().find(|(p, _)| p == path);
    }
    let (_, document) = found.ok_or(ApiError::NoSuchPath)?;
    let hash = query.unwrap_or_default().split('&').find_map(|pair| pair.strip_prefix("hash="));
    document.answer(headers, hash == Some(&document.hash))
}

/// `GET /openapi/v2`
///
/// # Errors
/// 406 for a form we do not have.
pub(crate) async fn v2(catalog: &Arc<Catalog>, headers: &HeaderMap) -> Result<Response> {
    let documents = if catalog.custom().is_empty() {
        V2.get_or_try_init(|| built(|| build_v2(None))).await?
    } else {
        let held = catalog.clone();
        catalog.openapi.v2.get_or_try_init(|| built(move || build_v2(Some(&held)))).await?
    };
    let accept = text(headers, header::ACCEPT);
    let wants = |form: &str| accept.split(',').any(|a| a.split(';').next().is_some_and(|a| a.trim() == form));
    if accept.contains("com.github.proto-openapi.spec.v2") {
        documents.protobuf.answer(headers, false)
    } else if accept.is_empty() || wants("application/json") || wants("*/*") || wants("application/*") {
        documents.json.answer(headers, false)
    } else {
        Err(ApiError::NotAcceptable(format!(
            "only the following media types are accepted: application/json, {}",
            protobuf::CONTENT_TYPE
        )))
    }
}

async fn v3() -> Result<&'static V3> {
    V3.get_or_try_init(|| built(|| build_v3(&own_group_versions(), &[]))).await
}

async fn custom_v3(catalog: &Arc<Catalog>) -> Result<&V3> {
    let own = v3().await?;
    if catalog.custom().is_empty() {
        return Ok(own);
    }
    let held = catalog.clone();
    let build = move || build_v3(&group_versions(custom(&held)), &own.groups);
    catalog.openapi.v3.get_or_try_init(|| built(build)).await
}

fn own() -> impl Iterator<Item = &'static dyn AnyKind> {
    kinds::all().iter().copied()
}

fn custom(catalog: &Catalog) -> impl Iterator<Item = &dyn AnyKind> {
    catalog.custom().iter().map(|k| &**k as &dyn AnyKind)
}

/// Builds off the runtime's threads: it takes milliseconds, a debug build hundreds.
async fn built<T: Send + 'static>(build: impl FnOnce() -> std::io::Result<T> + Send + 'static) -> Result<T> {
    let result = tokio::task::spawn_blocking(build).await.map_err(std::io::Error::other);
    result.flatten().map_err(|e| ApiError::Internal(format!("building the OpenAPI documents: {e}")))
}

/// The documents of `group_versions`, and the index of these and of `others`.
fn build_v3(group_versions: &[GroupVersion<'_>], others: &[(String, Document)]) -> std::io::Result<V3> {
    let texts = Texts::unpack()?;
    let mut groups = Vec::new();
    let mut index = Map::new();
    let mut list = |path: &str, document: &Document| {
        let url = format!("/openapi/v3/{path}?hash={}", document.hash);
        index.insert(path.to_owned(), json!({"serverRelativeURL": url}));
    };
    others.iter().for_each(|(path, document)| list(path, document));
    for gv in group_versions {
        let (paths, schemas) = parts(std::slice::from_ref(gv), &texts);
        let document = json!({
            "openapi": "3.0.0",
            "info": {"title": "Kubernetes", "version": RELEASE},
            "paths": paths,
            "components": {
                "schemas": schemas,
                "securitySchemes": {"BearerToken": {
                    "description": "Bearer Token authentication",
                    "type": "apiKey", "name": "authorization", "in": "header",
                }},
            },
        });
        let document = Document::new("application/json", document.to_string().as_bytes())?;
        let path = gv.path();
        list(&path, &document);
        groups.push((path, document));
    }
    let index = Document::new("application/json", json!({"paths": index}).to_string().as_bytes())?;
    Ok(V3 { index, groups })
}

fn build_v2(catalog: Option<&Catalog>) -> std::io::Result<V2> {
    let defined = || catalog.into_iter().flat_map(Catalog::custom);
    let own = own().map(|k| -> &dyn AnyKind { k });
    let mut all = group_versions(own.chain(defined().map(|k| &**k as &dyn AnyKind)));
    all.extend(asked_only());
    let (paths, mut schemas) = parts(&all, &Texts::unpack()?);
    for kind in defined() {
        let (name, mut plain) = kind.definition(true);
        if let Some(schema) = schemas.get_mut(&name) {
            plain[schemas::GVK] = schema[schemas::GVK].take();
            *schema = plain;
        }
    }
    let document = v2::document(RELEASE, paths, schemas);
    Ok(V2 {
        json: Document::new("application/json", document.to_string().as_bytes())?,
        protobuf: Document::new(protobuf::CONTENT_TYPE, &protobuf::document(&document))?,
    })
}

/// Paths and schema definitions of some group versions.
fn parts(group_versions: &[GroupVersion<'_>], texts: &Texts) -> (Map<String, Value>, Map<String, Value>) {
    let mut schemas = Schemas::new(texts);
    let mut paths = Map::new();
    for gv in group_versions {
        paths.append(&mut paths::of(gv, &mut schemas));
    }
    (paths, schemas.finish())
}

fn own_group_versions() -> Vec<GroupVersion<'static>> {
    let mut all = group_versions(own());
    all.extend(asked_only());
    all
}

/// Those whose kinds are all asked and not stored.
fn asked_only<'k>() -> impl Iterator<Item = GroupVersion<'k>> {
    ["authentication.k8s.io", "authorization.k8s.io"].into_iter().map(|group| GroupVersion {
        group,
        version: "v1",
        kinds: Vec::new(),
    })
}

fn group_versions<'k>(kinds: impl Iterator<Item = &'k dyn AnyKind>) -> Vec<GroupVersion<'k>> {
    let mut all: Vec<GroupVersion<'k>> = Vec::new();
    for kind in kinds {
        let r = kind.resource();
        match all.iter_mut().find(|gv| (gv.group, gv.version) == (r.group, r.version)) {
            Some(gv) => gv.kinds.push(kind),
            None => all.push(GroupVersion { group: r.group, version: r.version, kinds: vec![kind] }),
        }
    }
    all
}

/// A finished document.
struct Document {
    content_type: &'static str,
    hash: String,
    gzip: Bytes,
}

/// What a document's `ETag` is made of.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let digest = ring::digest::digest(&ring::digest::SHA256, bytes);
    digest.as_ref().iter().take(16).fold(String::new(), |mut hash, byte| {
        let _ = write!(hash, "{byte:02X}");
        hash
    })
}

impl Document {
    fn new(content_type: &'static str, bytes: &[u8]) -> std::io::Result<Self> {
        let hash = digest(bytes);
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes)?;
        Ok(Self { content_type, hash, gzip: encoder.finish()?.into() })
    }

    fn answer(&self, headers: &HeaderMap, immutable: bool) -> Result<Response> {
        let internal = |e: &dyn std::fmt::Display| ApiError::Internal(format!("OpenAPI document: {e}"));
        let etag = format!("\"{}\"", self.hash);
        let mut response = Response::builder()
            .header(header::ETAG, &etag)
            .header(header::VARY, "Accept, Accept-Encoding")
            .header(header::CONTENT_TYPE, self.content_type);
        if immutable {
            response = response.header(header::CACHE_CONTROL, "public, immutable, max-age=31536000");
        }
        let known = text(headers, header::IF_NONE_MATCH);
        let body = if known.split(',').any(|tag| matches!(tag.trim(), "*") || tag.trim().ends_with(&etag)) {
            response = response.status(StatusCode::NOT_MODIFIED);
            Bytes::new()
        } else if accepts_gzip(headers) {
            response = response.header(header::CONTENT_ENCODING, "gzip");
            self.gzip.clone()
        } else {
            let mut plain = Vec::with_capacity(self.gzip.len() * 8);
            GzDecoder::new(&self.gzip[..]).read_to_end(&mut plain).map_err(|e| internal(&e))?;
            plain.into()
        };
        response.body(Body::from(body)).map_err(|e| internal(&e))
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> &str {
    headers.get(name).map(HeaderValue::to_str).and_then(std::result::Result::ok).unwrap_or_default()
}

fn accepts_gzip(headers: &HeaderMap) -> bool {
    text(headers, header::ACCEPT_ENCODING).split(',').any(|one| {
        let mut parts = one.split(';').map(str::trim);
        let refused = |q: &str| q.strip_prefix("q=").is_some_and(|q| q.parse() == Ok(0.0));
        matches!(parts.next(), Some("gzip" | "*")) && !parts.any(refused)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{handlers::discovery::virtual_in, kinds::Subresource, request::RequestInfo};

    fn none_defined() -> Arc<Catalog> {
        Arc::new(Catalog::new(kinds::all(), Vec::new()))
    }
    use std::collections::BTreeSet;

    async fn read(response: Result<Response>) -> Bytes {
        axum::body::to_bytes(response.unwrap().into_body(), usize::MAX).await.unwrap()
    }
    async fn json_of(response: Result<Response>) -> Value {
        serde_json::from_slice(&read(response).await).unwrap()
    }
    fn headers(pairs: &[(header::HeaderName, &str)]) -> HeaderMap {
        pairs.iter().map(|(name, value)| (name.clone(), value.parse().unwrap())).collect()
    }
    fn references<'a>(value: &'a Value, into: &mut BTreeSet<&'a str>) {
        match value {
            Value::Object(map) => {
                into.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|v| references(v, into));
            }
            Value::Array(list) => list.iter().for_each(|v| references(v, into)),
            _ => {}
        }
    }
    fn dangling<'a>(document: &'a Value, definitions: &str) -> Vec<&'a str> {
        let mut all = BTreeSet::new();
        references(document, &mut all);
        assert!(!all.is_empty());
        let known = document.pointer(definitions).unwrap();
        let prefix = format!("#{definitions}/");
        all.into_iter()
            .filter(|r| r.strip_prefix(&prefix).is_none_or(|name| known.get(name).is_none()))
            .collect()
    }

    /// `paths` writes the grammar that `request::info` reads.
    #[tokio::test]
    async fn every_published_path_is_read_as_what_it_says() {
        let mut seen = 0;
        for gv in own_group_versions() {
            let document =
                json_of(v3_group(&none_defined(), &gv.path(), None, &HeaderMap::new()).await).await;
            for (path, methods) in document["paths"].as_object().unwrap() {
                let uri = path.replace("{namespace}", "ns").replace("{name}", "n").replace("{path}", "p/q");
                let uri = uri.parse().unwrap();
                for (method, op) in methods.as_object().unwrap() {
                    let Some(action) = op["x-kubernetes-action"].as_str() else { continue };
                    let info = RequestInfo::parse(&method.to_uppercase().parse().unwrap(), &uri).unwrap();
                    let verb = match (action, method.as_str()) {
                        ("post", _) | ("connect", "post") => "create",
                        ("put", _) | ("connect", "put") => "update",
                        ("connect", other @ ("delete" | "patch" | "options")) => other,
                        ("connect", _) => "get",
                        (action, _) => action,
                    };
                    assert_eq!(
                        (info.verb, &*info.group, &*info.version),
                        (verb, gv.group, gv.version),
                        "{path}"
                    );
                    let stored = gv.kinds.iter().map(|k| k.resource());
                    let stored = stored.map(|r| (r.plural, r.namespaced));
                    let asked = virtual_in(gv.group, gv.version).map(|v| (v.plural, v.namespaced));
                    let (_, namespaced) = stored.chain(asked).find(|(p, _)| *p == info.resource).unwrap();
                    assert_eq!(info.name.is_empty(), !path.contains("{name}"), "{path}");
                    assert!(namespaced || !path.contains("{namespace}"), "{path}");
                    let rest = if path.contains("{path}") { "p/q" } else { "" };
                    assert_eq!(info.remainder.trim_start_matches('/'), rest, "{path}");
                    seen += 1;
                }
            }
        }
        assert!(seen > 100, "{seen}");
    }

    #[tokio::test]
    async fn every_kind_is_in_the_document_of_its_group_version() {
        let none = HeaderMap::new();
        let index = json_of(v3_index(&none_defined(), &none).await).await;
        for gv in own_group_versions() {
            let url = index["paths"][gv.path()]["serverRelativeURL"].as_str().unwrap();
            let (path, query) = url.strip_prefix("/openapi/v3/").unwrap().split_once('?').unwrap();
            let response = v3_group(&none_defined(), path, Some(query), &none).await;
            assert!(
                response.as_ref().unwrap().headers()[header::CACHE_CONTROL]
                    .to_str()
                    .unwrap()
                    .contains("immutable")
            );
            let document = json_of(response).await;
            assert_eq!(dangling(&document, "/components/schemas"), Vec::<&str>::new());
            for kind in &gv.kinds {
                let r = kind.resource();
                let scope = if r.namespaced { "/namespaces/{namespace}" } else { "" };
                let item = format!("/{}{scope}/{}/{{name}}", gv.path(), r.plural);
                let patch = &document["paths"][&item]["patch"];
                assert_eq!(
                    patch[schemas::GVK],
                    json!({"group": r.group, "version": r.version, "kind": r.kind})
                );
                for name in ["fieldValidation", "dryRun", "fieldManager", "force"] {
                    assert!(
                        patch["parameters"].as_array().unwrap().iter().any(|p| p["name"] == name),
                        "{item} {name}"
                    );
                }
                assert_eq!(
                    document["paths"].get(format!("{item}/status")).is_some(),
                    kind.has(Subresource::Status)
                );
                let gvk = [json!({"group": r.group, "version": r.version, "kind": r.kind})];
                let schemas = document["components"]["schemas"].as_object().unwrap();
                assert_eq!(
                    schemas.values().filter(|s| s[schemas::GVK] == json!(gvk)).count(),
                    1,
                    "{}",
                    r.kind
                );
            }
        }
        assert_eq!(v3_group(&none_defined(), "apis/none/v1", None, &none).await.unwrap_err().code(), 404);
    }

    #[tokio::test]
    async fn schemas_carry_what_clients_merge_and_validate_by() {
        let document = json_of(v3_group(&none_defined(), "api/v1", None, &HeaderMap::new()).await).await;
        let schema = |name: &str| &document["components"]["schemas"][name];
        let containers = &schema("io.k8s.api.core.v1.PodSpec")["properties"]["containers"];
        assert_eq!(containers["x-kubernetes-list-type"], "map");
        assert_eq!(containers["x-kubernetes-list-map-keys"], json!(["name"]));
        assert_eq!(containers["x-kubernetes-patch-merge-key"], "name");
        assert_eq!(containers["x-kubernetes-patch-strategy"], "merge");
        let volumes = &schema("io.k8s.api.core.v1.PodSpec")["properties"]["volumes"];
        assert_eq!(volumes["x-kubernetes-patch-strategy"], "merge,retainKeys");
        assert_eq!(schema("io.k8s.api.core.v1.ContainerPort")["properties"]["protocol"]["default"], "TCP");
        assert_eq!(schema("io.k8s.apimachinery.pkg.util.intstr.IntOrString")["format"], "int-or-string");
        assert_eq!(
            schema("io.k8s.apimachinery.pkg.apis.meta.v1.LabelSelector")["x-kubernetes-map-type"],
            "atomic"
        );
        assert!(schema("io.k8s.api.core.v1.ConfigMap").get("required").is_none());
        assert!(schema("io.k8s.api.core.v1.LocalObjectReference").get("required").is_none());
        assert_eq!(schema("io.k8s.api.core.v1.ConfigMapKeySelector")["required"], json!(["key"]));
        assert_eq!(
            schema("io.k8s.api.core.v1.ServiceSpec")["properties"]["type"]["enum"],
            json!(["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"])
        );
        let modes = &schema("io.k8s.api.core.v1.PersistentVolumeClaimSpec")["properties"]["accessModes"];
        assert_eq!(modes["items"]["enum"].as_array().unwrap().len(), 4);
        let metadata = &schema("io.k8s.api.core.v1.Pod")["properties"]["metadata"];
        assert_eq!(metadata["default"], json!({}));
        assert!(metadata["allOf"][0]["$ref"].is_string() && metadata.get("$ref").is_none());
        assert!(schema("io.k8s.api.core.v1.PodList")["properties"]["items"]["items"]["$ref"].is_string());
    }

    #[tokio::test]
    async fn v2_is_the_same_api_in_the_older_form() {
        let document = json_of(v2(&none_defined(), &HeaderMap::new()).await).await;
        assert_eq!(dangling(&document, "/definitions"), Vec::<&str>::new());
        let quantity = "io.k8s.apimachinery.pkg.api.resource.Quantity";
        assert_eq!(document["definitions"][quantity]["type"], "string");
        let patch = &document["paths"]["/api/v1/namespaces/{namespace}/pods/{name}"]["patch"];
        let parameters = patch["parameters"].as_array().unwrap();
        assert!(parameters.iter().any(|p| p["name"] == "body" && p["in"] == "body" && p["required"] == true));
        assert!(parameters.iter().any(|p| p["name"] == "fieldValidation" && p["type"] == "string"));
        assert!(patch.get("requestBody").is_none());

        let accept =
            headers(&[(header::ACCEPT, "application/com.github.proto-openapi.spec.v2@v1.0+protobuf")]);
        let response = v2(&none_defined(), &accept).await;
        assert_eq!(response.as_ref().unwrap().headers()[header::CONTENT_TYPE], protobuf::CONTENT_TYPE);
        let bytes = read(response).await;
        assert!(bytes.starts_with(b"\x0a\x032.0"), "the swagger version comes first");
        let other = headers(&[(header::ACCEPT, "text/html")]);
        assert_eq!(v2(&none_defined(), &other).await.unwrap_err().code(), 406);
    }

    #[tokio::test]
    async fn documents_are_compressed_and_revalidated() {
        let plain = read(v3_group(&none_defined(), "apis/apps/v1", None, &HeaderMap::new()).await).await;
        let accept = headers(&[(header::ACCEPT_ENCODING, "br, gzip;q=0.5")]);
        let response = v3_group(&none_defined(), "apis/apps/v1", None, &accept).await.unwrap();
        assert_eq!(response.headers()[header::CONTENT_ENCODING], "gzip");
        let etag = response.headers()[header::ETAG].to_str().unwrap().to_owned();
        let zipped = read(Ok(response)).await;
        assert!(zipped.len() * 2 < plain.len());
        let known = headers(&[(header::IF_NONE_MATCH, &format!("W/{etag}"))]);
        let response = v3_group(&none_defined(), "apis/apps/v1", None, &known).await.unwrap();
        assert_eq!(response.status(), 304);
        assert!(read(Ok(response)).await.is_empty());
        let refused = headers(&[(header::ACCEPT_ENCODING, "gzip;q=0")]);
        assert_eq!(read(v3_group(&none_defined(), "apis/apps/v1", None, &refused).await).await, plain);
    }
}
