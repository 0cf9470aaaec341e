//! Every kind of the table through every verb: a kind cannot be added without an object here, and an object that is
//! here passes all of it.

use super::{watch::told, *};
use crate::kinds::{AnyKind, Subresource};

/// Kinds whose `/status` changes no metadata.
const STATUS_ALONE: [&str; 7] = [
    "apiservices",
    "flowschemas",
    "prioritylevelconfigurations",
    "resourceclaims",
    "servicecidrs",
    "validatingadmissionpolicies",
    "volumeattachments",
];

/// A request for a certificate of `CN=jane`, as `openssl req -new` makes it.
const REQUEST: &str = concat!(
    "LS0tLS1CRUdJTiBDRVJUSUZJQ0FURSBSRVFVRVNULS0tLS0KTUlIWE1IOENBUUF3SFRFTk1Bc0dBMVVFQXd3RWFtRnVaVEVN",
    "TUFvR0ExVUVDZ3dEWkdWMk1Ga3dFd1lIS29aSQp6ajBDQVFZSUtvWkl6ajBEQVFjRFFnQUVTWGRXM3RBRzFhTDNjSjAyUFFt",
    "SzRMZlp6bVYvYWFuQUg4ajIxZjVaClE2R29PeDI5RTVQOHVvcU1qYWVJUFJHS1pFSWs5U0R4WHoxWm94T2N3RFZ5RDZBQU1B",
    "b0dDQ3FHU000OUJBTUMKQTBnQU1FVUNJUUNDVy9BY3ZEWDlNVHBkTW92bFFIYm1Nb2MzcU90Q1JQMTEvL3k0WW50YkZBSWdk",
    "SERBMmhLZgpYVlM1WDIwK2E5MkZDN2FqQnhXQjU0U21ydUx2d0lxZUhUWT0KLS0tLS1FTkQgQ0VSVElGSUNBVEUgUkVRVUVT",
    "VC0tLS0tCg=="
);

/// A valid object of the kind: name, and what it has beside its metadata.
fn sample(group: &str, plural: &str) -> (&'static str, Value) {
    let template =
        json!({"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let job = json!({"template": {"spec": {"restartPolicy": "Never", "containers": [{"name": "c", "image": "i"}]}}});
    let selected = json!({"selector": {"matchLabels": {"a": "b"}}, "template": template});
    let target = json!({"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "d"}, "maxReplicas": 3});
    let rule =
        json!({"operations": ["CREATE"], "apiGroups": [""], "apiVersions": ["v1"], "resources": ["pods"]});
    let view = json!({"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "view"});
    let rest = match (group, plural) {
        ("", "configmaps" | "secrets" | "endpoints" | "namespaces" | "nodes" | "serviceaccounts") => {
            json!({})
        }
        ("", "events") => {
            json!({"involvedObject": {"kind": "Pod", "namespace": "default", "name": "p"}, "reason": "R"})
        }
        ("", "limitranges") => json!({"spec": {"limits": [{"type": "Container", "max": {"cpu": "1"}}]}}),
        ("", "persistentvolumes") => json!({"spec": {
            "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "hostPath": {"path": "/x"}}}),
        ("", "persistentvolumeclaims") => json!({"spec": {
            "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}}),
        ("", "pods") => json!({"spec": {"containers": [{"name": "c", "image": "i"}]}}),
        ("", "podtemplates") => json!({"template": template}),
        ("", "replicationcontrollers") => json!({"spec": {"template": template}}),
        ("", "resourcequotas") => json!({"spec": {"hard": {"pods": "1"}}}),
        ("", "services") => json!({"spec": {"ports": [{"port": 80}]}}),
        ("apiregistration.k8s.io", "apiservices") => {
            let spec = json!({"group": "example.com", "version": "v1", "groupPriorityMinimum": 100, "versionPriority": 10,
                              "insecureSkipTLSVerify": true, "service": {"namespace": "default", "name": "s"}});
            return ("v1.example.com", json!({"spec": spec}));
        }
        ("apiextensions.k8s.io", "customresourcedefinitions") => {
            let version = json!({"name": "v1", "served": true, "storage": true,
                                 "schema": {"openAPIV3Schema": {"type": "object"}}});
            let names = json!({"plural": "widgets", "singular": "widget", "kind": "Widget", "listKind": "WidgetList"});
            let spec =
                json!({"group": "example.com", "scope": "Namespaced", "names": names, "versions": [version]});
            return ("widgets.example.com", json!({"spec": spec}));
        }
        ("apps", "controllerrevisions") => json!({"revision": 1, "data": {"a": "b"}}),
        ("apps", "daemonsets" | "deployments" | "replicasets" | "statefulsets") => json!({"spec": selected}),
        ("autoscaling", "horizontalpodautoscalers") => json!({"spec": target}),
        ("batch", "cronjobs") => json!({"spec": {"schedule": "@hourly", "jobTemplate": {"spec": job}}}),
        ("batch", "jobs") => json!({"spec": job}),
        ("certificates.k8s.io", "certificatesigningrequests") => json!({"spec": {
            "request": REQUEST, "signerName": "example.com/s", "usages": ["client auth"]}}),
        ("networking.k8s.io", "ingresses") => {
            json!({"spec": {"defaultBackend": {"service": {"name": "s", "port": {"number": 80}}}}})
        }
        ("networking.k8s.io", "ingressclasses") => json!({"spec": {"controller": "example.com/c"}}),
        ("networking.k8s.io", "ipaddresses") => {
            let parent = json!({"resource": "services", "namespace": "default", "name": "s"});
            return ("192.0.2.1", json!({"spec": {"parentRef": parent}}));
        }
        ("networking.k8s.io", "networkpolicies") => json!({"spec": {"podSelector": {}}}),
        ("networking.k8s.io", "servicecidrs") => json!({"spec": {"cidrs": ["10.200.0.0/24"]}}),
        ("policy", "poddisruptionbudgets") => {
            json!({"spec": {"minAvailable": 1, "selector": {"matchLabels": {"a": "b"}}}})
        }
        ("storage.k8s.io", "csidrivers") => json!({"spec": {}}),
        ("storage.k8s.io", "csinodes") => json!({"spec": {"drivers": [{"name": "d.io", "nodeID": "n"}]}}),
        ("storage.k8s.io", "csistoragecapacities") => json!({"storageClassName": "fast"}),
        ("storage.k8s.io", "storageclasses") => json!({"provisioner": "d.io"}),
        ("storage.k8s.io", "volumeattachments") => json!({"spec": {
            "attacher": "d.io", "nodeName": "n", "source": {"persistentVolumeName": "v"}}}),
        ("storage.k8s.io", "volumeattributesclasses") => {
            json!({"driverName": "d.io", "parameters": {"a": "b"}})
        }
        ("rbac.authorization.k8s.io", "roles" | "clusterroles") => {
            json!({"rules": [{"verbs": ["get"], "apiGroups": [""], "resources": ["pods"]}]})
        }
        ("rbac.authorization.k8s.io", "rolebindings" | "clusterrolebindings") => json!({"roleRef": view}),
        (
            "admissionregistration.k8s.io",
            "mutatingwebhookconfigurations" | "validatingwebhookconfigurations",
        ) => {
            json!({"webhooks": [{"name": "a.example.com", "sideEffects": "None", "admissionReviewVersions": ["v1"],
                "clientConfig": {"url": "https://example.com/"}, "rules": [rule]}]})
        }
        ("admissionregistration.k8s.io", "mutatingadmissionpolicies") => json!({"spec": {
            "matchConstraints": {"resourceRules": [rule]}, "reinvocationPolicy": "Never", "failurePolicy": "Fail",
            "mutations": [{"patchType": "ApplyConfiguration", "applyConfiguration": {"expression": "Object{}"}}]}}),
        ("admissionregistration.k8s.io", "mutatingadmissionpolicybindings") => {
            json!({"spec": {"policyName": "p"}})
        }
        ("admissionregistration.k8s.io", "validatingadmissionpolicies") => json!({"spec": {
            "matchConstraints": {"resourceRules": [rule]}, "validations": [{"expression": "true"}]}}),
        ("admissionregistration.k8s.io", "validatingadmissionpolicybindings") => {
            json!({"spec": {"policyName": "p", "validationActions": ["Deny"]}})
        }
        ("scheduling.k8s.io", "priorityclasses") => json!({"value": 1}),
        ("coordination.k8s.io", "leases") => json!({"spec": {"holderIdentity": "h"}}),
        ("node.k8s.io", "runtimeclasses") => json!({"handler": "h"}),
        ("discovery.k8s.io", "endpointslices") => json!({"addressType": "IPv4", "endpoints": []}),
        ("events.k8s.io", "events") => json!({"eventTime": "2026-01-01T00:00:00.000000Z", "type": "Normal",
            "reportingController": "example.com/c", "reportingInstance": "i", "action": "A", "reason": "R",
            "regarding": {"kind": "Pod", "namespace": "default", "name": "p"}}),
        ("flowcontrol.apiserver.k8s.io", "flowschemas") => json!({"spec": {
            "priorityLevelConfiguration": {"name": "l"}}}),
        ("flowcontrol.apiserver.k8s.io", "prioritylevelconfigurations") => json!({"spec": {
            "type": "Limited", "limited": {"limitResponse": {"type": "Reject"}}}}),
        ("resource.k8s.io", "deviceclasses") => json!({"spec": {}}),
        ("resource.k8s.io", "resourceclaims") => json!({"spec": {}}),
        ("resource.k8s.io", "resourceclaimtemplates") => json!({"spec": {"spec": {}}}),
        ("resource.k8s.io", "resourceslices") => json!({"spec": {
            "driver": "d.io", "nodeName": "n", "pool": {"name": "p", "generation": 1, "resourceSliceCount": 1}}}),
        _ => panic!("{plural}.{group} has no object in this test: add one"),
    };
    ("one", rest)
}

/// One kind on a server of its own.
struct Tried {
    server: Server,
    kind: &'static dyn AnyKind,
    collection: String,
    /// What the server offers for it.
    verbs: Vec<String>,
    name: &'static str,
    object: Value,
}

impl Tried {
    async fn new(kind: &'static dyn AnyKind) -> Self {
        let r = kind.resource();
        let server = Server::new();
        let root = if r.group.is_empty() {
            format!("/api/{}", r.version)
        } else {
            format!("/apis/{}/{}", r.group, r.version)
        };
        let offered = server.get(&root).await.expect(200);
        let listed = offered["resources"].as_array().unwrap().iter().find(|o| o["name"] == r.plural);
        let verbs = listed.unwrap_or_else(|| panic!("{} is not in discovery", r.plural))["verbs"].clone();
        let place = if r.namespaced { "/namespaces/default" } else { "" };
        let (name, mut object) = sample(r.group, r.plural);
        object["apiVersion"] = json!(r.api_version());
        object["kind"] = json!(r.kind);
        object["metadata"] = json!({"name": name, "labels": {"made": "here"}});
        Self {
            collection: format!("{root}{place}/{}", r.plural),
            verbs: serde_json::from_value(verbs).unwrap(),
            server,
            kind,
            name,
            object,
        }
    }

    fn path(&self) -> String {
        format!("{}/{}", self.collection, self.name)
    }

    async fn create_and_read(&self) -> Value {
        let dry =
            self.server.post(&format!("{}?dryRun=All", self.collection), &self.object).await.expect(201);
        assert_eq!(dry["metadata"]["name"], self.name);
        self.server.get(&self.path()).await.refused(404, "NotFound", "not found");
        let mut strict = self.object.clone();
        strict["nonsense"] = json!(1);
        let path = format!("{}?fieldValidation=Strict", self.collection);
        self.server.post(&path, &strict).await.refused(400, "BadRequest", "unknown field \"nonsense\"");
        let made = self.server.create(&self.collection, &self.object).await;
        assert_eq!((&made["kind"], &made["apiVersion"]), (&self.object["kind"], &self.object["apiVersion"]));
        assert!(made["metadata"]["uid"].is_string() && revision(&made) > 0);
        self.server.post(&self.collection, &self.object).await.refused(
            409,
            "AlreadyExists",
            "already exists",
        );
        assert_eq!(self.server.get(&self.path()).await.expect(200), made);
        let list = self.server.get(&self.collection).await.expect(200);
        assert_eq!(list["kind"], json!(self.kind.list_kind()));
        assert_eq!(list["items"].as_array().unwrap().len(), 1);
        made
    }

    async fn table(&self) {
        let accept = [("accept", "application/json;as=Table;v=v1;g=meta.k8s.io")];
        for path in [self.collection.clone(), self.path()] {
            let table = self.server.call("GET", &path, Body::empty(), &accept).await.expect(200);
            let columns = table["columnDefinitions"].as_array().unwrap();
            let cells = table["rows"][0]["cells"].as_array().unwrap();
            assert_eq!((columns.len(), cells.len()), (self.kind.columns().len(), self.kind.columns().len()));
            if columns[0]["format"] == "name" {
                assert_eq!(cells[0], self.name);
            }
            assert_eq!(table["rows"][0]["object"]["metadata"]["name"], self.name);
        }
    }

    /// Each way to change it, and what a watcher sees of that.
    async fn changes(&self, made: &Value) {
        let path = self.path();
        let from = format!("{}?watch=1&resourceVersion={}", self.collection, revision(made));
        let mut watch = self.server.watch(&from).await;
        let label = |value: &str| json!({"metadata": {"labels": {"changed": value}}});
        let labelled = |object: &Value| object["metadata"]["labels"]["changed"].clone();
        for how in ["merge", "strategic-merge"] {
            let dry = self.server.patch(&format!("{path}?dryRun=All"), how, &label("dry")).await.expect(200);
            assert_eq!(labelled(&dry), "dry");
            let patched = self.server.patch(&path, how, &label(how)).await.expect(200);
            assert_eq!(labelled(&patched), how);
        }
        let operations = json!([{"op": "replace", "path": "/metadata/labels/changed", "value": "json"}]);
        let patched = self.server.patch(&path, "json", &operations).await.expect(200);
        assert_eq!(labelled(&patched), "json");
        let mut put = patched.clone();
        put["metadata"]["labels"]["changed"] = json!("put");
        let stale = put.clone();
        assert_eq!(labelled(&self.server.put(&path, &put).await.expect(200)), "put");
        self.server.put(&path, &stale).await.refused(409, "Conflict", "the object has been modified");

        let mut config = self.object.clone();
        config["metadata"]["labels"] = json!({"changed": "applied"});
        let apply = async |query: &str| {
            let path = format!("{path}?fieldManager=test{query}");
            let headers = [("content-type", "application/apply-patch+yaml")];
            self.server.call("PATCH", &path, config.to_string(), &headers).await
        };
        apply("").await.refused(409, "Conflict", "conflict");
        let applied = apply("&force=true").await.expect(200);
        assert_eq!(labelled(&applied), "applied");
        let managers = applied["metadata"]["managedFields"].as_array().unwrap();
        assert!(managers.iter().any(|m| m["manager"] == "test" && m["operation"] == "Apply"), "{managers:?}");
        // Each change once, and nothing of what changed nothing.
        let modified = [("MODIFIED", self.name); 5];
        assert_eq!(watch.take(modified.len()).await, told(&modified));
    }

    async fn status(&self) {
        let path = format!("{}/status", self.path());
        if !self.kind.has(Subresource::Status) {
            self.server.get(&path).await.refused(404, "NotFound", "");
            return;
        }
        let whole = self.server.get(&path).await.expect(200);
        assert_eq!(whole["kind"], self.object["kind"]);
        let patch = json!({"metadata": {"annotations": {"by": "status"}}});
        let patched = self.server.patch(&path, "merge", &patch).await.expect(200);
        let plural = self.kind.resource().plural;
        if STATUS_ALONE.contains(&plural) {
            assert!(patched["metadata"]["annotations"]["by"].is_null(), "{plural}");
        } else {
            assert_eq!(patched["metadata"]["annotations"]["by"], "status", "{plural}");
        }
        assert_eq!(patched["spec"], whole["spec"]);
    }

    async fn remove(&self) {
        let path = self.path();
        let now = json!({"gracePeriodSeconds": 0, "propagationPolicy": "Background"});
        // Where there is a body, the query does not count.
        let tried = json!({"gracePeriodSeconds": 0, "propagationPolicy": "Background", "dryRun": ["All"]});
        self.server.delete(&path, &tried).await.expect(200);
        self.server.get(&path).await.expect(200);
        self.server.delete(&path, &now).await.expect(200);
        let gone = self.server.get(&path).await;
        if self.goes_later() {
            assert!(gone.expect(200)["metadata"]["deletionTimestamp"].is_string());
        } else {
            gone.refused(404, "NotFound", "not found");
        }
    }

    /// A namespace and a definition go when what is in them has gone, which is for others to see to.
    fn goes_later(&self) -> bool {
        matches!(self.kind.resource().plural, "namespaces" | "customresourcedefinitions")
    }

    /// What a Go client sends and gets.
    async fn protobuf(&self, made: &Value) {
        let media = crate::protobuf::MEDIA;
        let bytes = crate::protobuf::object(self.object.to_string().as_bytes());
        let bytes = bytes.unwrap_or_else(|| panic!("{} has no protobuf form", self.kind.resource().kind));
        let made_again =
            self.server.call("POST", &self.collection, bytes, &[("content-type", media)]).await.expect(201);
        for (key, value) in made.as_object().unwrap() {
            if !matches!(key.as_str(), "metadata" | "status") {
                let mut value = value.clone();
                // What is drawn anew each time.
                for drawn in ["/clusterIP", "/clusterIPs", "/selector", "/template"] {
                    if let Some(new) = made_again[key].pointer(drawn) {
                        value[&drawn[1..]] = new.clone();
                    }
                }
                assert_eq!(made_again[key], value, "{key}");
            }
        }
        let answer = self.server.call("GET", &self.path(), Body::empty(), &[("accept", media)]).await;
        assert!(answer.bytes.starts_with(b"k8s\0"));
    }

    async fn collection(&self) {
        if !self.verbs.iter().any(|v| v == "deletecollection") {
            self.server.delete(&self.collection, &Value::Null).await.refused(405, "MethodNotAllowed", "");
            return;
        }
        let other = |path: &str| format!("{}?{path}", self.collection);
        self.server.delete(&other("labelSelector=made%3Delsewhere"), &Value::Null).await.expect(200);
        self.server.delete(&other("fieldSelector=metadata.name%3Dtwo"), &Value::Null).await.expect(200);
        self.server.get(&self.path()).await.expect(200);
        let selected = "labelSelector=made%3Dhere&gracePeriodSeconds=0&propagationPolicy=Background";
        self.server.delete(&other(selected), &Value::Null).await.expect(200);
        self.server.get(&self.path()).await.refused(404, "NotFound", "not found");
    }

    async fn open_api(&self) {
        let r = self.kind.resource();
        let (root, _) = self.collection.rsplit_once(&format!("/{}", r.plural)).unwrap();
        let root = root.trim_end_matches("/namespaces/default").to_owned();
        let document = self.server.get(&format!("/openapi/v3{root}")).await.expect(200);
        let place = if r.namespaced { "/namespaces/{namespace}" } else { "" };
        let patch = &document["paths"][format!("{root}{place}/{}/{{name}}", r.plural)]["patch"];
        assert_eq!(patch["x-kubernetes-group-version-kind"]["kind"], r.kind);
        let parameters = patch["parameters"].as_array().unwrap();
        assert!(parameters.iter().any(|p| p["name"] == "fieldValidation"), "{patch}");
        let schemas = document["components"]["schemas"].as_object().unwrap();
        let own = json!({"group": r.group, "kind": r.kind, "version": r.version});
        let kinds = |schema: &Value| {
            schema["x-kubernetes-group-version-kind"].as_array().cloned().unwrap_or_default()
        };
        let described = schemas.values().find(|schema| kinds(schema).contains(&own));
        assert!(
            described.is_some_and(|s| s["properties"]["metadata"].is_object()),
            "{} has no schema",
            r.kind
        );
    }
}

async fn tried(kind: &'static dyn AnyKind) {
    let tried = Tried::new(kind).await;
    let made = tried.create_and_read().await;
    tried.table().await;
    tried.status().await;
    let now = tried.server.get(&tried.path()).await.expect(200);
    tried.changes(&now).await;
    tried.remove().await;
    if !tried.goes_later() {
        tried.protobuf(&made).await;
        tried.collection().await;
    }
    tried.open_api().await;
}

#[tokio::test]
async fn every_kind_takes_every_verb() {
    let mut failed = Vec::new();
    for kind in kinds::all() {
        let r = kind.resource();
        let one = tokio::spawn(tried(*kind)).await;
        if let Err(e) = one {
            let panic = e.into_panic();
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|t| (*t).to_owned()));
            failed.push(format!("{}: {}", r.qualified(), text.unwrap_or_default()));
        }
    }
    assert!(failed.is_empty(), "{}", failed.join("\n"));
}
