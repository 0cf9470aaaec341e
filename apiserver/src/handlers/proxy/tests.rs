use super::*;
use crate::{
    admission::testing::{Objects, object},
    handlers::testing::{client, echoing_kubelet, forwarder, message, text},
};
use axum::{Router, response::IntoResponse};
use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const NODE: &str = "/api/v1/nodes/n1/proxy";

fn pod(name: &str, ip: &str, ports: Value) -> Value {
    let containers = json!([{"name": "side"}, {"name": "main", "ports": ports}]);
    let rest = json!({"spec": {"containers": containers}, "status": {"podIP": ip, "podIPs": [{"ip": ip}]}});
    object("v1", "Pod", "default", name, rest)
}

fn slice(name: &str, service: &str, endpoints: Value) -> Value {
    let ports = json!([{"name": "http", "port": 8080}, {"name": "admin", "port": 9090}]);
    let rest = json!({"addressType": "IPv4", "endpoints": endpoints, "ports": ports});
    let mut slice = object("discovery.k8s.io/v1", "EndpointSlice", "default", name, rest);
    slice["metadata"]["labels"] = json!({SERVICE_NAME: service});
    slice
}

fn endpoint(ip: &str, pod: Option<&str>, ready: Option<bool>) -> Value {
    let target = pod.map(|p| json!({"kind": "Pod", "name": p, "namespace": "default"}));
    json!({"addresses": [ip], "conditions": {"ready": ready}, "targetRef": target})
}

fn service(name: &str) -> Value {
    let ports = json!([{"name": "http", "port": 80, "targetPort": 8080}, {"name": "admin", "port": 81}]);
    object("v1", "Service", "default", name, json!({"spec": {"ports": ports}}))
}

fn cluster() -> Objects {
    Objects::new([
        pod("web-0", "10.244.1.5", json!([{"containerPort": 8080}])),
        pod("bare", "10.244.1.6", json!([])),
        pod("new", "", json!([])),
        pod("sly", "127.0.0.1", json!([])),
        pod("metadata", "169.254.169.254", json!([])),
        service("web"),
        service("idle"),
        service("forged"),
        slice(
            "web-1",
            "web",
            json!([
                endpoint("10.244.1.5", Some("web-0"), None),
                endpoint("10.244.1.6", Some("bare"), Some(false))
            ]),
        ),
        slice(
            "forged-1",
            "forged",
            json!([
                endpoint("192.0.2.80", None, None),
                endpoint("192.0.2.81", Some("web-0"), None),
                endpoint("10.244.1.9", Some("gone"), None),
                endpoint("127.0.0.1", Some("sly"), None),
            ]),
        ),
    ])
}

#[tokio::test]
async fn a_pod_is_dialled_where_its_status_says() {
    let table = [
        ("web-0", Ok("10.244.1.5:8080")),
        ("web-0:9090", Ok("10.244.1.5:9090")),
        ("http:web-0:9090", Ok("10.244.1.5:9090")),
        ("https:web-0:", Ok("10.244.1.5:8080")),
        ("bare", Ok("10.244.1.6:80")),
        ("https:bare:", Ok("10.244.1.6:443")),
        ("ghost", Err("pods \"ghost\" not found")),
        ("new", Err("address not allowed")),
        ("sly", Err("address not allowed")),
        ("metadata", Err("address not allowed")),
        ("web-0:http", Err("invalid port \"http\"")),
        ("web-0:0", Err("invalid port \"0\"")),
        ("web-0:70000", Err("invalid port \"70000\"")),
    ];
    for (id, expected) in table {
        let target = Target::parse(id).unwrap();
        let found = pod_address(&cluster(), "default", &target).await;
        let found = found.map(|a| a.to_string()).map_err(|e| e.to_string());
        assert_eq!(found, expected.map(str::to_owned).map_err(str::to_owned), "{id}");
    }
}

#[tokio::test]
async fn a_service_leads_to_a_ready_pod_of_its_own() {
    let none = |name: &str| Err(format!("no endpoints available for service {name:?}"));
    let table = [
        ("web:http", Ok("10.244.1.5:8080".to_owned())),
        ("web:80", Ok("10.244.1.5:8080".to_owned())),
        ("web:81", Ok("10.244.1.5:9090".to_owned())),
        ("https:web:admin", Ok("10.244.1.5:9090".to_owned())),
        // As Kubernetes: no port means the one without a name.
        ("web", none("web")),
        ("web:82", Err("no service port 82 found for service \"web\"".to_owned())),
        ("idle:80", none("idle")),
        ("forged:80", none("forged")),
        ("ghost", Err("services \"ghost\" not found".to_owned())),
    ];
    for (id, expected) in table {
        let target = Target::parse(id).unwrap();
        let found = service_address(&cluster(), "default", &target).await;
        assert_eq!(found.map(|a| a.to_string()).map_err(|e| e.to_string()), expected, "{id}");
    }
}

#[test]
fn names_with_scheme_and_port() {
    let target = |https, name, port| Some(Target { https, name, port });
    let table = [
        ("a", target(false, "a", "")),
        ("a:80", target(false, "a", "80")),
        ("https:a:443", target(true, "a", "443")),
        ("http:a:", target(false, "a", "")),
        (":a:80", target(false, "a", "80")),
        ("ftp:a:21", None),
        ("", None),
        (":80", None),
        ("a:b:c:d", None),
    ];
    for (id, expected) in table {
        assert_eq!(Target::parse(id), expected, "{id}");
    }
}

/// Sends one request to `NODE` + `rest`, behind which stands the fake kubelet.
async fn ask(
    kubelet: Router,
    method: &str,
    rest: &'static str,
    headers: &[(&str, &str)],
    body: &'static str,
) -> http::Response<hyper::body::Incoming> {
    let (forwarder, cluster) = (forwarder(kubelet), Arc::new(cluster()));
    let path = rest.split('?').next().unwrap();
    let mut sender = client(move |request| {
        let (forwarder, cluster) = (forwarder.clone(), cluster.clone());
        async move { proxy(&forwarder, &*cluster, Behind::Node, "", "n1", path, request).await }
    })
    .await;
    let mut request =
        Request::builder().method(method).uri(format!("{NODE}{rest}")).header("host", "localhost:8001");
    for (key, value) in headers {
        request = request.header(*key, *value);
    }
    sender.send_request(request.body(Full::from(Bytes::from(body))).unwrap()).await.unwrap()
}

#[tokio::test]
async fn every_method_passes_with_path_query_body_and_headers() {
    for method in ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] {
        let headers = [
            ("authorization", "Bearer secret"),
            ("connection", "x-private"),
            ("x-private", "1"),
            ("x-app", "2"),
            ("x-forwarded-for", "198.51.100.1"),
        ];
        let response = ask(echoing_kubelet(), method, "/a%2Fb/@c?x=1&y=%20", &headers, "body").await;
        assert_eq!(response.status(), StatusCode::OK);
        let seen = text(response).await;
        assert!(seen.starts_with(&format!("{method} /a%2Fb/@c?x=1&y=%20\n")), "{seen}");
        assert!(seen.ends_with("\nbody"), "{seen}");
        for line in [
            "host: localhost:8001",
            "x-app: 2",
            "x-forwarded-for: 198.51.100.1, 192.0.2.7",
            "x-forwarded-uri: /api/v1/nodes/n1/proxy/a%2Fb/@c",
        ] {
            assert!(seen.contains(line), "{line} in {seen}");
        }
        assert!(!seen.contains("secret") && !seen.contains("x-private"), "{seen}");
    }
}

#[tokio::test]
async fn a_missing_slash_is_added_for_readers_only() {
    for method in ["GET", "HEAD"] {
        let response = ask(echoing_kubelet(), method, "?a=b", &[], "").await;
        assert_eq!(response.status(), StatusCode::MOVED_PERMANENTLY);
        assert_eq!(response.headers()[header::LOCATION], format!("{NODE}/?a=b"));
    }
    let response = ask(echoing_kubelet(), "POST", "?a=b", &[], "x").await;
    assert!(text(response).await.starts_with("POST /?a=b\n"));
}

#[tokio::test]
async fn links_and_redirects_lead_back_through_the_proxy() {
    let site = || {
        Router::new()
            .route("/", axum::routing::get(|| async { axum::response::Html("<a href=\"/x\">x</a>") }))
            .route("/go", axum::routing::get(|| async { axum::response::Redirect::to("/login") }))
    };
    let page = text(ask(site(), "GET", "/", &[], "").await).await;
    assert_eq!(page, format!("<a href=\"{NODE}/x\">x</a>"));
    let response = ask(site(), "GET", "/go", &[], "").await;
    assert_eq!(response.status(), StatusCode::SEE_OTHER);
    assert_eq!(response.headers()[header::LOCATION], format!("{NODE}/login"));
}

#[tokio::test]
async fn a_websocket_passes() {
    let headers =
        [("connection", "keep-alive, Upgrade"), ("upgrade", "websocket"), ("sec-websocket-key", "abc")];
    let response = ask(echoing_kubelet(), "GET", "/socket", &headers, "").await;
    assert_eq!(response.status(), StatusCode::SWITCHING_PROTOCOLS);
    let mut stream = TokioIo::new(hyper::upgrade::on(response).await.unwrap());
    stream.write_all(b"ping").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut all = String::new();
    stream.read_to_string(&mut all).await.unwrap();
    assert!(all.starts_with("GET /socket\n") && all.contains("upgrade: websocket"), "{all}");
    assert!(all.ends_with("\n--\nping"), "{all}");
}

#[tokio::test]
async fn a_backend_that_refuses_the_upgrade_is_heard() {
    let site = Router::new().fallback(|| async { (StatusCode::UNAUTHORIZED, "who are you").into_response() });
    let headers = [("connection", "Upgrade"), ("upgrade", "websocket")];
    let response = ask(site, "GET", "/socket", &headers, "").await;
    assert_eq!((response.status(), text(response).await.as_str()), (StatusCode::UNAUTHORIZED, "who are you"));
}

#[tokio::test]
async fn an_unreachable_backend_is_a_503() {
    let (forwarder, cluster) = (forwarder(echoing_kubelet()), Arc::new(cluster()));
    let mut sender = client(move |request| {
        let (forwarder, cluster) = (forwarder.clone(), cluster.clone());
        async move { proxy(&forwarder, &*cluster, Behind::Node, "", "n2", "/", request).await }
    })
    .await;
    let request = Request::get("/api/v1/nodes/n2/proxy/").body(Full::<Bytes>::default()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(message(response).await, "error dialing backend: node \"n2\": not connected");
}

#[tokio::test]
async fn a_closed_port_says_what_was_dialled() {
    // Bound and dropped: nobody listens there now.
    let address = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let error = forwarder(echoing_kubelet()).address(address, false).await.err().unwrap();
    let expected = format!("error trying to reach service: dial tcp {address}: connect: connection refused");
    assert_eq!(error.to_string(), expected);
    assert_eq!(error.code(), StatusCode::SERVICE_UNAVAILABLE);
}
