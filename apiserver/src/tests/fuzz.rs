//! Every parser that a client can reach, through the router: whatever is sent, the answer is never our own fault.

use super::*;
use api::fuzz::fuzz;
use percent_encoding::{NON_ALPHANUMERIC, percent_encode};

/// Sends requests from the driver's synchronous world. Nothing is kept: writes are dry runs.
struct Sender {
    server: Server,
    runtime: tokio::runtime::Runtime,
}

impl Sender {
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let server = Server::new();
        runtime.block_on(async {
            server.create(PODS, &pod("p")).await;
            server.create(SETS, &stateful_set("s")).await;
            for n in 0..3 {
                server.create(MAPS, &map(&format!("m{n}"), &json!({"a": "b"}))).await;
            }
        });
        Self { server, runtime }
    }

    /// Whether the answer is a success.
    fn send(&self, method: &str, path: &str, content_type: &str, body: &[u8]) -> bool {
        let headers = [("content-type", content_type)];
        let answer = self.runtime.block_on(self.server.call(method, path, body.to_vec(), &headers));
        // 504: a busy machine did not come to an end in time; that is no fault of the parser's. What is applied and does not
        // fit its type is told as Kubernetes does, without a reason.
        let not_typed = answer.text().contains("\"message\":\"failed to create typed patch object (");
        let ours = answer.code.is_server_error() && answer.code != StatusCode::GATEWAY_TIMEOUT && !not_typed;
        assert!(!ours, "{} {}", answer.code, answer.text());
        answer.code.is_success()
    }
}

fn encoded(input: &[u8]) -> String {
    percent_encode(input, NON_ALPHANUMERIC).to_string()
}

fn samples() -> Vec<(&'static str, Value)> {
    let service = json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "x"},
        "spec": {"selector": {"a": "b"}, "ports": [{"name": "http", "port": 80, "targetPort": "http"}]},
    });
    let claim = json!({
        "apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": "x"},
        "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
    });
    let scaler = json!({
        "apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler", "metadata": {"name": "x"},
        "spec": {"maxReplicas": 3, "scaleTargetRef": {"kind": "Deployment", "name": "d", "apiVersion": "apps/v1"}},
    });
    let cron = json!({
        "apiVersion": "batch/v1", "kind": "CronJob", "metadata": {"name": "x"},
        "spec": {"schedule": "*/5 1-3 * * 1", "jobTemplate": {"spec": {"template": {
            "spec": {"restartPolicy": "Never", "containers": [{"name": "a", "image": "x"}]},
        }}}},
    });
    let policy = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy", "metadata": {"name": "x"},
        "spec": {"podSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": ["b"]}]},
            "ingress": [{"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}]}]},
    });
    vec![
        (PODS, pod("x")),
        (SETS, stateful_set("x")),
        (MAPS, map("x", &json!({"a": "b"}))),
        ("/api/v1/namespaces/default/services", service),
        ("/api/v1/namespaces/default/persistentvolumeclaims", claim),
        ("/apis/autoscaling/v2/namespaces/default/horizontalpodautoscalers", scaler),
        ("/apis/batch/v1/namespaces/default/cronjobs", cron),
        ("/apis/networking.k8s.io/v1/namespaces/default/networkpolicies", policy),
    ]
}

#[test]
fn fuzz_json_and_yaml_bodies() {
    let sender = Sender::new();
    for (path, sample) in samples() {
        let (text, path) = (sample.to_string(), format!("{path}?dryRun=All"));
        for content_type in ["application/json", "application/yaml"] {
            fuzz(80, &[text.as_bytes()], |input| sender.send("POST", &path, content_type, input));
        }
    }
}

#[test]
fn fuzz_protobuf_bodies() {
    let sender = Sender::new();
    for (path, sample) in samples() {
        let bytes = crate::protobuf::object(sample.to_string().as_bytes()).unwrap();
        let path = format!("{path}?dryRun=All");
        fuzz(150, &[&bytes], |input| {
            sender.send("POST", &path, "application/vnd.kubernetes.protobuf", input)
        });
    }
}

#[test]
fn fuzz_json_patches() {
    let sender = Sender::new();
    let corpus: [&[u8]; 4] = [
        br#"[{"op":"replace","path":"/spec/replicas","value":3}]"#,
        br#"[{"op":"test","path":"/metadata/name","value":"s"},{"op":"remove","path":"/spec/template/metadata/labels/app"}]"#,
        br#"[{"op":"add","path":"/spec/template/spec/containers/-","value":{"name":"b","image":"y"}}]"#,
        br#"[{"op":"copy","from":"/metadata/name","path":"/spec/serviceName"},{"op":"move","from":"/spec/replicas","path":"/x"}]"#,
    ];
    let path = format!("{SETS}/s?dryRun=All");
    fuzz(500, &corpus, |input| sender.send("PATCH", &path, "application/json-patch+json", input));
}

#[test]
fn fuzz_merge_patches() {
    let sender = Sender::new();
    let corpus: [&[u8]; 3] = [
        br#"{"spec":{"replicas":3,"template":{"metadata":{"annotations":{"a":"b"}}}}}"#,
        br#"{"spec":{"template":{"spec":{"$setElementOrder/containers":[{"name":"b"},{"name":"a"}],"containers":[{"name":"b","image":"y"},{"name":"a","$patch":"delete"}]}}}}"#,
        br#"{"metadata":{"finalizers":["x/y"],"$deleteFromPrimitiveList/finalizers":["a/b"],"$retainKeys":["name"]},"$patch":"replace"}"#,
    ];
    let path = format!("{SETS}/s?dryRun=All");
    for content_type in ["application/merge-patch+json", "application/strategic-merge-patch+json"] {
        fuzz(300, &corpus, |input| sender.send("PATCH", &path, content_type, input));
    }
}

#[test]
fn fuzz_server_side_apply() {
    let sender = Sender::new();
    let corpus: [&[u8]; 3] = [
        br#"{"apiVersion":"apps/v1","kind":"StatefulSet","metadata":{"name":"s"},"spec":{"replicas":3}}"#,
        b"apiVersion: apps/v1\nkind: StatefulSet\nmetadata:\n  name: s\n  labels: {a: b}\nspec:\n  template:\n    spec:\n      containers:\n      - name: a\n        env:\n        - {name: X, value: y}\n",
        br#"{"apiVersion":"apps/v1","kind":"StatefulSet","metadata":{"name":"s","managedFields":[{"manager":"x","operation":"Apply","apiVersion":"apps/v1","fieldsType":"FieldsV1","fieldsV1":{"f:spec":{"f:template":{"f:spec":{"f:containers":{"k:{\"name\":\"a\"}":{".":{},"v:1":{},"i:0":{}}}}}}}}]}}"#,
    ];
    for force in [true, false] {
        let path = format!("{SETS}/s?dryRun=All&fieldManager=x&force={force}");
        fuzz(250, &corpus, |input| sender.send("PATCH", &path, "application/apply-patch+yaml", input));
    }
    // Managed fields are also sent with an update.
    let current = sender.runtime.block_on(sender.server.get(&format!("{SETS}/s"))).text();
    let path = format!("{SETS}/s?dryRun=All");
    fuzz(200, &[current.as_bytes()], |input| sender.send("PUT", &path, "application/json", input));
}

#[test]
fn fuzz_queries() {
    let sender = Sender::new();
    let first = sender.runtime.block_on(sender.server.get(&format!("{MAPS}?limit=1"))).json();
    let token = first["metadata"]["continue"].as_str().unwrap().to_owned();
    let fields: [&[u8]; 3] =
        [b"metadata.name=p,status.phase!=Running", b"spec.nodeName==", b"metadata.namespace=a\\,b"];
    fuzz(400, &fields, |input| {
        sender.send("GET", &format!("{PODS}?fieldSelector={}", encoded(input)), "", b"")
    });
    let labels: [&[u8]; 2] = [b"a in (b,c),!d", b"a notin (x),e=f"];
    fuzz(300, &labels, |input| {
        sender.send("GET", &format!("{PODS}?labelSelector={}", encoded(input)), "", b"")
    });
    let tokens: [&[u8]; 1] = [token.as_bytes()];
    fuzz(300, &tokens, |input| {
        sender.send("GET", &format!("{MAPS}?limit=1&continue={}", encoded(input)), "", b"")
    });
    // What is inside the token, too.
    use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
    let inside = URL_SAFE_NO_PAD.decode(&token).unwrap();
    fuzz(300, &[&inside], |input| {
        let token = URL_SAFE_NO_PAD.encode(input);
        sender.send("GET", &format!("{MAPS}?limit=1&continue={token}"), "", b"")
    });
    let queries: [&[u8]; 2] = [
        b"limit=2&resourceVersion=1&resourceVersionMatch=Exact&timeout=5s",
        b"fieldValidation=Strict&pretty=1&timeoutSeconds=1",
    ];
    fuzz(400, &queries, |input| {
        let query: String = String::from_utf8_lossy(input).chars().filter(char::is_ascii_graphic).collect();
        // A watch would last.
        let path = format!("{MAPS}?{query}&watch=0");
        path.parse::<http::Uri>().is_ok() && sender.send("GET", &path, "", b"")
    });
}

#[test]
fn fuzz_paths_and_headers() {
    let sender = Sender::new();
    let paths: [&[u8]; 3] = [
        b"/api/v1/namespaces/default/pods/p/status",
        b"/apis/apps/v1/namespaces/default/statefulsets/s/scale",
        b"/api/v1/namespaces/default/configmaps/m%30",
    ];
    fuzz(400, &paths, |input| {
        let path: String = String::from_utf8_lossy(input).chars().filter(char::is_ascii_graphic).collect();
        let streams =
            ["watch", "proxy", "exec", "attach", "portforward", "log"].iter().any(|s| path.contains(s));
        !streams
            && path.starts_with('/')
            && path.parse::<http::Uri>().is_ok()
            && sender.send("GET", &path, "", b"")
    });
    let accept: [&[u8]; 2] = [
        b"application/json;as=Table;v=v1;g=meta.k8s.io,application/json;q=0.5",
        b"application/vnd.kubernetes.protobuf;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1, */*",
    ];
    fuzz(300, &accept, |input| {
        let Ok(value) = http::HeaderValue::from_bytes(input) else { return false };
        let mut request = Request::get(MAPS).body(Body::empty()).unwrap();
        request.headers_mut().insert(header::ACCEPT, value.clone());
        let answer = sender.runtime.block_on(sender.server.send(request));
        assert!(answer.code.as_u16() < 500, "{} {}", answer.code, answer.text());
        answer.code.is_success()
    });
    let signer = crate::auth::token::tests::signer();
    fuzz(500, &[b"eyJhbGciOiJFUzI1NiIsImtpZCI6IngifQ.eyJleHAiOjF9.AAAA"], |input| {
        String::from_utf8(input.to_vec()).is_ok_and(|token| signer.check(&token, 0).is_ok())
    });
}

/// A rule is read, judged and run: by itself, whatever it says, over values of every sort.
#[test]
fn fuzz_cel() {
    use crate::custom::{Schema, rules};
    let schema = |rule: &str, message: &str| {
        json!({"type": "object", "properties": {
            "n": {"type": "integer"}, "s": {"type": "string", "maxLength": 20}, "d": {"type": "string", "format": "date-time"},
            "l": {"type": "array", "maxItems": 5, "items": {"type": "string", "maxLength": 5}},
            "m": {"type": "object", "additionalProperties": {"type": "integer"}},
            "o": {"type": "object", "properties": {"a-b": {"x-kubernetes-int-or-string": true}}},
        }, "x-kubernetes-validations": [{"rule": rule, "messageExpression": message}]})
    };
    let value = json!({"n": 5, "s": "text", "d": "2026-11-23T01:00:00Z", "l": ["a", "b"], "m": {"x": 1}, "o": {"a-b": "5%"}});
    let corpus: [&[u8]; 9] = [
        b"self.n > 3 && self.s.startsWith('t') || !has(self.d)",
        b"self.l.all(x, self.l.exists_one(y, x == y)) ? self.m['x'] >= 1 : oldSelf.n == self.n",
        b"self.l.map(x, x + 'y').filter(z, z.size() > 1).size() == 2 && 'x' in self.m",
        b"self.s.matches('^[a-z]+$') && quantity('1Gi').isGreaterThan(quantity('5Mi'))",
        b"duration('5s') < duration('1h') && self.d > timestamp('2020-01-01T00:00:00Z')",
        b"'max is %d of %s'.format([self.n, self.s]) + string(self.m.x) + self.o.a__dash__b",
        b"ip('10.0.0.1').family() == 4 && cidr('10.0.0.0/8').containsIP('10.1.1.1') && url('https://a/b').getHost() == 'a'",
        b"sets.contains([1, 2], [1]) && math.greatest([1, 2]) == 2 && base64.decode('aGk=') == b'hi' && semver('1.2.3').major() == 1",
        b"self.s.replace('t', 'x', 1).split('').join(',').lowerAscii().find('[0-9]+') == '' && [3, 1].isSorted()",
    ];
    for as_message in [false, true] {
        fuzz(1500, &corpus, |input| {
            let Ok(text) = std::str::from_utf8(input) else { return false };
            let schema = if as_message { schema("false", text) } else { schema(text, "") };
            let schema = Schema::read(&schema);
            let mut errors = api::field::Errors::default();
            rules::compile_errors(&schema, &api::field::Path::new("s"), &mut errors);
            // What is dear or wrong is refused at the door and never run.
            errors.is_empty() && {
                let _ = rules::Compiled::of(&schema).evaluate(&value, Some(&value), &schema, "");
                let mut other = value.clone();
                other["n"] = json!(-1);
                let _ = rules::Compiled::of(&schema).evaluate(&other, Some(&value), &schema, "");
                true
            }
        });
    }
}

#[test]
fn fuzz_definitions() {
    let sender = Sender::new();
    let text = custom::definition().to_string();
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions?dryRun=All";
    for content_type in ["application/json", "application/yaml"] {
        fuzz(200, &[text.as_bytes()], |input| sender.send("POST", path, content_type, input));
    }
    let bytes = crate::protobuf::object(text.as_bytes()).unwrap();
    fuzz(200, &[&bytes], |input| sender.send("POST", path, crate::protobuf::MEDIA, input));
    let paths: [&[u8]; 3] =
        [b".spec.replicas", b".status.conditions[?(@.type==\"Ready\")].status", b"{$.a['b.c'][0][*]}"];
    let object = json!({"spec": {"replicas": 1}, "status": {"conditions": [{"type": "Ready", "status": "True"}]}, "a": {"b.c": [1]}});
    fuzz(2000, &paths, |input| {
        let parsed = std::str::from_utf8(input).ok().and_then(|t| crate::custom::JsonPath::parse(t).ok());
        parsed.is_some_and(|path| {
            let _ = path.first(&object);
            true
        })
    });
}

#[test]
fn fuzz_certificate_requests() {
    use base64::{Engine, engine::general_purpose::STANDARD};
    let sender = Sender::new();
    let key = rcgen::KeyPair::generate().unwrap();
    let request =
        rcgen::CertificateParams::new(vec!["a.example".to_owned()]).unwrap().serialize_request(&key).unwrap();
    fuzz(200, &[request.der()], |input| {
        let pem = format!(
            "-----BEGIN CERTIFICATE REQUEST-----\n{}\n-----END CERTIFICATE REQUEST-----\n",
            STANDARD.encode(input)
        );
        let body = json!({
            "metadata": {"name": "x"},
            "spec": {"request": STANDARD.encode(pem), "signerName": "kubernetes.io/kube-apiserver-client", "usages": ["client auth"]},
        });
        let path = "/apis/certificates.k8s.io/v1/certificatesigningrequests?dryRun=All";
        sender.send("POST", path, "application/json", body.to_string().as_bytes())
    });
}

/// Evictions, bindings, tokens, scales and reviews have bodies of their own.
#[test]
fn fuzz_bodies_of_subresources() {
    let sender = Sender::new();
    let review = r#"{"apiVersion":"authorization.k8s.io/v1","kind":"SubjectAccessReview","spec":{"user":"a","groups":["b"],"resourceAttributes":{"verb":"get","resource":"pods","fieldSelector":{"rawSelector":"a=b"}}}}"#;
    for (method, path, body) in [
        (
            "POST",
            format!("{PODS}/p/eviction?dryRun=All"),
            r#"{"apiVersion":"policy/v1","kind":"Eviction","metadata":{"name":"p"},"deleteOptions":{"gracePeriodSeconds":1,"preconditions":{"uid":"x"}}}"#,
        ),
        (
            "POST",
            format!("{PODS}/p/binding?dryRun=All"),
            r#"{"apiVersion":"v1","kind":"Binding","metadata":{"name":"p"},"target":{"kind":"Node","name":"n"}}"#,
        ),
        (
            "PUT",
            format!("{SETS}/s/scale?dryRun=All"),
            r#"{"kind":"Scale","apiVersion":"autoscaling/v1","metadata":{"name":"s"},"spec":{"replicas":3}}"#,
        ),
        (
            "PATCH",
            format!("{SETS}/s/scale?dryRun=All"),
            r#"{"metadata":{"resourceVersion":"1"},"spec":{"replicas":3}}"#,
        ),
        (
            "DELETE",
            format!("{PODS}/p?dryRun=All"),
            r#"{"kind":"DeleteOptions","apiVersion":"v1","gracePeriodSeconds":0,"propagationPolicy":"Orphan","preconditions":{"resourceVersion":"1"}}"#,
        ),
        ("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews".to_owned(), review),
        (
            "POST",
            "/apis/authentication.k8s.io/v1/tokenreviews".to_owned(),
            r#"{"apiVersion":"authentication.k8s.io/v1","kind":"TokenReview","spec":{"token":"a.b.c","audiences":["x"]}}"#,
        ),
    ] {
        let content_types: &[&str] = match method {
            "PATCH" => &["application/merge-patch+json"],
            _ => &["application/json", "application/yaml"],
        };
        for content_type in content_types {
            fuzz(60, &[body.as_bytes()], |input| sender.send(method, &path, content_type, input));
        }
        // What names no kind has no form in protobuf.
        if let Some(bytes) = crate::protobuf::object(body.as_bytes()).filter(|_| method != "PATCH") {
            fuzz(60, &[&bytes], |input| sender.send(method, &path, crate::protobuf::MEDIA, input));
        }
    }
}
