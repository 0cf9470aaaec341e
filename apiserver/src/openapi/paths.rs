//! The operations of one group version, in OpenAPI v3's form: what may be asked of which path, with which
//! parameters. Clients look here for `fieldValidation` and `dryRun`, and for the kind behind a path.

use super::schemas::{GVK, META, REF, Schemas};
use crate::{
    handlers::discovery::{self, Virtual},
    kinds::{AnyKind, Subresource},
    registry::patch::PatchType,
};
use api::resource::Resource;
use serde_json::{Map, Value, json};

/// What may be asked of a proxied server.
const ANY_METHOD: [&str; 7] = ["get", "put", "post", "delete", "options", "head", "patch"];

/// The version of a group, with its kinds.
pub(super) struct GroupVersion<'k> {
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    pub(super) kinds: Vec<&'k dyn AnyKind>,
}

impl GroupVersion<'_> {
    /// `api/v1`, `apis/apps/v1`: the path of its discovery and the name of its document.
    pub(super) fn path(&self) -> String {
        if self.group.is_empty() {
            format!("api/{}", self.version)
        } else {
            format!("apis/{}/{}", self.group, self.version)
        }
    }

    /// `CoreV1`, `RbacAuthorizationV1`: the group and version inside an operation's id.
    fn id(&self) -> String {
        let group = if self.group.is_empty() { "core" } else { self.group };
        let group = group.strip_suffix(".k8s.io").unwrap_or(group);
        group.split('.').chain([self.version]).map(capital).collect()
    }

    /// `apps_v1`
    fn tag(&self) -> String {
        let id = self.id();
        let group = id.strip_suffix(&capital(self.version)).unwrap_or(&id);
        let mut chars = group.chars();
        let first = chars.next().map(|c| c.to_lowercase().to_string()).unwrap_or_default();
        format!("{first}{}_{}", chars.as_str(), self.version)
    }
}

fn capital(word: &str) -> String {
    let mut chars = word.chars();
    chars.next().map(|c| c.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// All paths of `gv`, adding the schemas they speak of to `schemas`.
pub(super) fn of(gv: &GroupVersion<'_>, schemas: &mut Schemas<'_>) -> Map<String, Value> {
    let mut paths = Map::new();
    let root = json!({"get": {
        "tags": [gv.tag()],
        "description": "get available resources",
        "operationId": format!("get{}APIResources", gv.id()),
        "responses": responses(&reference(&format!("{META}APIResourceList")), &[200]),
    }});
    paths.insert(format!("/{}/", gv.path()), root);
    for kind in &gv.kinds {
        add_kind(gv, *kind, schemas, &mut paths);
    }
    for asked in discovery::virtual_in(gv.group, gv.version) {
        add_asked(gv, asked, schemas, &mut paths);
    }
    paths
}

/// What the operations of one kind have in common.
struct Site<'a> {
    gv: &'a GroupVersion<'a>,
    resource: Resource,
    /// `NamespacedPod` or `Node`.
    noun: String,
    /// The content types of patches.
    patches: Vec<&'static str>,
}

/// A kind that is only created: the answer is what it is for.
fn add_asked(
    gv: &GroupVersion<'_>,
    asked: &Virtual,
    schemas: &mut Schemas<'_>,
    paths: &mut Map<String, Value>,
) {
    let Virtual { group, version, plural, kind, namespaced, verbs, .. } = *asked;
    if verbs != ["create"] {
        return;
    }
    let object = reference(&schemas.add_own(group, version, kind));
    let resource = Resource { group, version, kind, plural, singular: "", namespaced };
    let site = Site::new(gv, resource, Vec::new());
    let op = site.op("post", "create", &site.noun, &object, &[200, 201, 202], Some(&object), &write_params());
    paths.insert(site.collection(), json!({"post": op, "parameters": site.path_params(false)}));
}

fn add_kind(
    gv: &GroupVersion<'_>,
    kind: &dyn AnyKind,
    schemas: &mut Schemas<'_>,
    paths: &mut Map<String, Value>,
) {
    let resource = kind.resource();
    let object = reference(&schemas.add(kind));
    let list = json!({"$ref": format!("{}List", object["$ref"].as_str().unwrap_or_default())});
    let patches = PatchType::of(kind).map(PatchType::content_type).collect();
    let site = Site::new(gv, resource.clone(), patches);
    let base = format!("/{}", gv.path());
    let collection = site.collection();
    if resource.namespaced {
        let everywhere = json!({
            "get": site.op("list", "list", &format!("{}ForAllNamespaces", resource.kind), &list, &[200], None, &list_params()),
            "parameters": [pretty()],
        });
        paths.insert(format!("{base}/{}", resource.plural), everywhere);
    }
    let status = reference(&format!("{META}Status"));
    let delete = reference(&format!("{META}DeleteOptions"));
    let noun = site.noun.clone();
    let mut methods = Map::from_iter([
        ("get".to_owned(), site.op("list", "list", &noun, &list, &[200], None, &list_params())),
        (
            "post".to_owned(),
            site.op("post", "create", &noun, &object, &[200, 201, 202], Some(&object), &write_params()),
        ),
        ("parameters".to_owned(), site.path_params(false).into()),
    ]);
    if discovery::verbs(kind).contains(&"deletecollection") {
        let mut which = list_params();
        which.retain(|p| p["name"] != "watch" && p["name"] != "allowWatchBookmarks");
        let collection = format!("Collection{noun}");
        let params = [delete_params(), which].concat();
        let op = site.op("deletecollection", "delete", &collection, &status, &[200], Some(&delete), &params);
        methods.insert("delete".to_owned(), op);
    }
    paths.insert(collection.clone(), Value::Object(methods));
    let item = format!("{collection}/{{name}}");
    let mut methods = site.object_methods("", &object);
    // Graceful kinds answer with the object, as Kubernetes does; the description names the usual answer.
    let delete_op = site.op("delete", "delete", &noun, &status, &[200, 202], Some(&delete), &delete_params());
    methods.insert("delete".to_owned(), delete_op);
    paths.insert(item.clone(), Value::Object(methods));
    for subresource in kind.subresources() {
        if let Some((name, part, options, parameters)) = connected(*subresource) {
            let kind = format!("{}{options}", resource.kind);
            let methods: &[&str] = if part == "Proxy" { &ANY_METHOD } else { &["get", "post"] };
            paths.insert(format!("{item}/{name}"), site.connect(part, &kind, methods, &parameters));
            if part == "Proxy" {
                let part = format!("{part}WithPath");
                let mut below = site.connect(&part, &kind, methods, &parameters);
                let rest = path_param("path", "path to the resource");
                below["parameters"].as_array_mut().into_iter().for_each(|p| p.push(rest.clone()));
                paths.insert(format!("{item}/{name}/{{path}}"), below);
            }
        } else if let Some((name, methods)) = add_subresource(&site, *subresource, &object, schemas) {
            paths.insert(format!("{item}/{name}"), Value::Object(methods));
        }
    }
}

fn add_subresource(
    site: &Site<'_>,
    subresource: Subresource,
    object: &Value,
    schemas: &mut Schemas<'_>,
) -> Option<(&'static str, Map<String, Value>)> {
    let only = |method: &str, op: Value| {
        let parameters = site.path_params(true).into();
        Map::from_iter([(method.to_owned(), op), ("parameters".to_owned(), parameters)])
    };
    let mut post = |name: &str, (group, version, kind): (&str, &str, &str)| {
        let schema = reference(&schemas.add_own(group, version, kind));
        let noun = format!("{}{}", site.noun, capital(name));
        let mut op =
            site.op("post", "create", &noun, &schema, &[200, 201, 202], Some(&schema), &write_params());
        op[GVK] = json!({"group": group, "version": version, "kind": kind});
        only("post", op)
    };
    Some(match subresource {
        Subresource::Status => ("status", site.object_methods("Status", object)),
        Subresource::Approval => ("approval", site.object_methods("Approval", object)),
        Subresource::Scale => {
            let scale = reference(&schemas.add_own("autoscaling", "v1", "Scale"));
            let mut methods = site.object_methods("Scale", &scale);
            for op in methods.values_mut().filter(|op| op.is_object()) {
                op[GVK] = json!({"group": "autoscaling", "version": "v1", "kind": "Scale"});
            }
            ("scale", methods)
        }
        Subresource::Binding => ("binding", post("binding", ("", "v1", "Binding"))),
        Subresource::Eviction => ("eviction", post("eviction", ("policy", "v1", "Eviction"))),
        Subresource::Token => ("token", post("token", ("authentication.k8s.io", "v1", "TokenRequest"))),
        Subresource::EphemeralContainers => {
            ("ephemeralcontainers", site.object_methods("Ephemeralcontainers", object))
        }
        Subresource::Resize => ("resize", site.object_methods("Resize", object)),
        Subresource::Finalize => {
            let noun = format!("{}Finalize", site.noun);
            let op = site.op("put", "replace", &noun, object, &[200, 201], Some(object), &write_params());
            ("finalize", only("put", op))
        }
        Subresource::Log => {
            let mut op =
                site.op("get", "read", &format!("{}Log", site.noun), &string(), &[200], None, &log_params());
            op["responses"]["200"]["content"] = json!({"text/plain": {"schema": string()}});
            ("log", only("get", op))
        }
        // See `connected`.
        Subresource::Exec | Subresource::Attach | Subresource::PortForward | Subresource::Proxy => {
            return None;
        }
        // Not Kubernetes': left out, so that generated clients stay what they are.
        Subresource::Stop | Subresource::Kill | Subresource::Start => return None,
    })
}

/// What a request is connected to: its name in paths and in operations, its options' kind after the object's, and its
/// parameters.
fn connected(subresource: Subresource) -> Option<(&'static str, &'static str, &'static str, Vec<Value>)> {
    Some(match subresource {
        Subresource::Exec => ("exec", "Exec", "ExecOptions", [vec![command()], streams()].concat()),
        Subresource::Attach => ("attach", "Attach", "AttachOptions", streams()),
        Subresource::PortForward => ("portforward", "Portforward", "PortForwardOptions", vec![ports()]),
        Subresource::Proxy => ("proxy", "Proxy", "ProxyOptions", vec![proxied()]),
        _ => return None,
    })
}

impl<'a> Site<'a> {
    fn new(gv: &'a GroupVersion<'a>, resource: Resource, patches: Vec<&'static str>) -> Self {
        let scope = if resource.namespaced { "Namespaced" } else { "" };
        let noun = format!("{scope}{}", resource.kind);
        Self { gv, resource, noun, patches }
    }

    fn collection(&self) -> String {
        let scope = if self.resource.namespaced { "/namespaces/{namespace}" } else { "" };
        format!("/{}{scope}/{}", self.gv.path(), self.resource.plural)
    }

    /// get, put and patch of an object or one of its parts.
    fn object_methods(&self, part: &str, schema: &Value) -> Map<String, Value> {
        let noun = format!("{}{part}", self.noun);
        let patch = reference(&format!("{META}Patch"));
        let mut patch_op =
            self.op("patch", "patch", &noun, schema, &[200, 201], Some(&patch), &patch_params());
        let formats = self.patches.iter().map(|t| ((*t).to_owned(), json!({"schema": patch})));
        patch_op["requestBody"]["content"] = Value::Object(Map::from_iter(formats));
        let put = self.op("put", "replace", &noun, schema, &[200, 201], Some(schema), &write_params());
        Map::from_iter([
            ("get".to_owned(), self.op("get", "read", &noun, schema, &[200], None, &[])),
            ("put".to_owned(), put),
            ("patch".to_owned(), patch_op),
            ("parameters".to_owned(), self.path_params(true).into()),
        ])
    }

    fn connect(&self, part: &str, options: &str, methods: &[&str], parameters: &[Value]) -> Value {
        let mut all = Map::new();
        for method in methods {
            let noun = format!("{}{}{part}", capital(method), self.noun);
            let mut op = self.op("connect", "connect", &noun, &string(), &[200], None, &[]);
            op["responses"]["200"]["content"] = json!({"*/*": {"schema": string()}});
            op[GVK]["kind"] = options.into();
            all.insert((*method).to_owned(), op);
        }
        let mut shared = self.path_params(true);
        shared.retain(|p| p["name"] != "pretty");
        shared.extend_from_slice(parameters);
        all.insert("parameters".to_owned(), shared.into());
        Value::Object(all)
    }

    #[allow(clippy::too_many_arguments)] // one row of the table of operations
    fn op(
        &self,
        action: &str,
        verb: &str,
        noun: &str,
        answer: &Value,
        codes: &[u16],
        body: Option<&Value>,
        parameters: &[Value],
    ) -> Value {
        let r = &self.resource;
        let what = match action {
            "deletecollection" => format!("delete collection of {}", r.kind),
            "list" => format!("list or watch objects of kind {}", r.kind),
            _ => format!("{verb} the specified {}", r.kind),
        };
        let mut op = json!({
            "tags": [self.gv.tag()],
            "description": what,
            "operationId": format!("{verb}{}{noun}", self.gv.id()),
            "responses": responses(answer, codes),
            "x-kubernetes-action": action,
            GVK: {"group": r.group, "kind": r.kind, "version": r.version},
        });
        if let Some(body) = body {
            let required = !matches!(action, "delete" | "deletecollection");
            op["requestBody"] = json!({"content": {"*/*": {"schema": body}}});
            if required {
                op["requestBody"]["required"] = true.into();
            }
        }
        if !parameters.is_empty() {
            op["parameters"] = parameters.into();
        }
        op
    }

    fn path_params(&self, named: bool) -> Vec<Value> {
        let mut parameters = Vec::new();
        if named {
            parameters.push(path_param("name", &format!("name of the {}", self.resource.kind)));
        }
        if self.resource.namespaced {
            parameters
                .push(path_param("namespace", "object name and auth scope, such as for teams and projects"));
        }
        parameters.push(pretty());
        parameters
    }
}

pub(super) fn reference(definition: &str) -> Value {
    json!({"$ref": format!("{REF}{definition}")})
}

fn string() -> Value {
    json!({"type": "string"})
}

fn unique() -> Value {
    json!({"type": "string", "uniqueItems": true})
}

fn responses(schema: &Value, codes: &[u16]) -> Value {
    let mut map = Map::new();
    for code in codes {
        let text = ["OK", "Created", "Accepted"][usize::from(code.saturating_sub(200)).min(2)];
        let content = json!({"application/json": {"schema": schema}});
        map.insert(code.to_string(), json!({"description": text, "content": content}));
    }
    map.insert("401".to_owned(), json!({"description": "Unauthorized"}));
    Value::Object(map)
}

fn path_param(name: &str, text: &str) -> Value {
    json!({"name": name, "in": "path", "description": text, "required": true, "schema": unique()})
}

fn query(name: &str, kind: &str, text: &str) -> Value {
    json!({"name": name, "in": "query", "description": text, "schema": {"type": kind, "uniqueItems": true}})
}

fn pretty() -> Value {
    query("pretty", "string", "If 'true', then the output is pretty printed.")
}

fn dry_run() -> Value {
    query(
        "dryRun",
        "string",
        "'All': every stage of the request is carried out except that nothing is stored.",
    )
}

fn write_params() -> Vec<Value> {
    vec![
        dry_run(),
        query(
            "fieldManager",
            "string",
            "Name of the actor or entity that makes these changes; at most 128 printable characters.",
        ),
        query(
            "fieldValidation",
            "string",
            "How unknown and duplicate fields are treated: Ignore drops them, Warn (the default) drops them with a \
             warning, Strict refuses the request.",
        ),
    ]
}

fn patch_params() -> Vec<Value> {
    let mut parameters = write_params();
    parameters.push(query(
        "force",
        "boolean",
        "Force re-acquires conflicting fields owned by other people. Apply requests only.",
    ));
    parameters
}

fn delete_params() -> Vec<Value> {
    vec![
        dry_run(),
        query("gracePeriodSeconds", "integer", "Seconds before the object is deleted; zero means at once."),
        query("orphanDependents", "boolean", "Deprecated: please use propagationPolicy."),
        query(
            "propagationPolicy",
            "string",
            "Whether and how garbage collection happens: Orphan, Background or Foreground.",
        ),
    ]
}

fn list_params() -> Vec<Value> {
    vec![
        query("allowWatchBookmarks", "boolean", "Requests watch events of type BOOKMARK."),
        query("continue", "string", "The continue token of the page before."),
        query("fieldSelector", "string", "Restricts the list to objects with these fields."),
        query("labelSelector", "string", "Restricts the list to objects with these labels."),
        query("limit", "integer", "The most objects to return in one page."),
        query("resourceVersion", "string", "Constrains which versions of the objects may be served."),
        query("resourceVersionMatch", "string", "How resourceVersion is applied to list calls."),
        query(
            "sendInitialEvents",
            "boolean",
            "Starts a watch with synthetic events for what exists and a bookmark after them.",
        ),
        query("timeoutSeconds", "integer", "Ends the list or watch call after this time."),
        query(
            "watch",
            "boolean",
            "Watches for changes and returns them as a stream of add, update and remove notifications.",
        ),
    ]
}

fn command() -> Value {
    query("command", "string", "The command to run and its arguments, one a parameter; no shell is involved.")
}

fn streams() -> Vec<Value> {
    let stream = |name: &str| query(name, "boolean", &format!("Whether {name} is connected."));
    vec![
        query("container", "string", "The container; needed if the pod has more than one."),
        stream("stderr"),
        stream("stdin"),
        stream("stdout"),
        query("tty", "boolean", "Whether the process has a terminal."),
    ]
}

fn ports() -> Value {
    query("ports", "integer", "Ports to forward to; for clients that speak WebSocket.")
}

fn proxied() -> Value {
    query("path", "string", "The path of the request that is passed on.")
}

fn log_params() -> Vec<Value> {
    vec![
        query(
            "container",
            "string",
            "The container whose log is streamed; needed if the pod has more than one.",
        ),
        query("follow", "boolean", "Follow the log stream of the pod."),
        query("limitBytes", "integer", "The number of bytes after which the output ends."),
        query("previous", "boolean", "Return the log of the previous, terminated container."),
        query("sinceSeconds", "integer", "Show only what is newer than this many seconds."),
        query("sinceTime", "string", "Show only what is newer than this time (RFC3339)."),
        query("tailLines", "integer", "The number of lines from the end of the log to show."),
        query("timestamps", "boolean", "Begin every line with its time."),
    ]
}
