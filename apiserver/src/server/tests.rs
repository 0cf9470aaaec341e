use super::*;
use crate::dial::Stream;
use async_trait::async_trait;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use k8s_openapi::api::{
    core::v1::{Endpoints, Namespace, Service},
    discovery::v1::EndpointSlice,
    storage::v1::StorageClass,
};
use kube::{Api, api::DeleteParams};
use rcgen::{CertificateParams, KeyPair};
use serde_json::{Value, json};
use tower::ServiceExt;

struct NoNodes;

#[async_trait]
impl NodeDialer for NoNodes {
    async fn dial(&self, _node: &str) -> std::io::Result<Box<dyn Stream>> {
        Err(std::io::Error::other("no nodes"))
    }
}

fn config(advertise: &str) -> Config {
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(vec!["localhost".to_owned()]).unwrap().self_signed(&key).unwrap();
    Config {
        bind: vec!["127.0.0.1:0".parse().unwrap()],
        advertise: advertise.parse().unwrap(),
        serving_cert: cert.pem(),
        serving_key: key.serialize_pem(),
        client_ca: cert.pem(),
        service_account_key: KeyPair::generate().unwrap().serialize_pem(),
        service_cidr: "10.96.0.0/16".to_owned(),
        cluster_domain: "cluster.local".to_owned(),
        node_ports: (30000, 32767),
        toleration_seconds: 300,
        audit_log: None,
    }
}

async fn server(store: &Arc<dyn Store>, advertise: &str) -> Server {
    Server::bind(config(advertise), store.clone(), Arc::new(NoNodes)).await.unwrap()
}

fn memory() -> Arc<dyn Store> {
    Arc::new(storage::MemoryStore::new(storage::Limits::default()).unwrap())
}

/// Runs a server until its first objects are there, and hands out what `look` found.
async fn with_bootstrapped<T>(
    store: &Arc<dyn Store>,
    advertise: &str,
    look: impl AsyncFn(kube::Client) -> T,
) -> T {
    let server = server(store, advertise).await;
    let (client, token) = (server.client(User::component("test")), CancellationToken::new());
    let objects = bootstrap::Objects::new(&server.app.config, server.app.registry.allocator(), 6443);
    Box::pin(objects.ensure(client.clone())).await;
    let found = look(client).await;
    token.cancel();
    Box::pin(server.run(token)).await;
    found
}

#[tokio::test]
async fn the_first_objects_are_made_once_and_follow_our_address() {
    let store = memory();
    let before = with_bootstrapped(&store, "10.244.1.1", async |client| {
        let namespaces = Api::<Namespace>::all(client.clone()).list(&Default::default()).await.unwrap();
        let names: Vec<_> = namespaces.items.iter().filter_map(|n| n.metadata.name.clone()).collect();
        assert_eq!(names, ["default", "kube-node-lease", "kube-public", "kube-system"]);
        let api = Api::<Service>::namespaced(client.clone(), "default").get("kubernetes").await.unwrap();
        assert_eq!(api.spec.unwrap().cluster_ip.as_deref(), Some("10.96.0.1"));
        let dns = Api::<Service>::namespaced(client.clone(), "kube-system").get("kube-dns").await.unwrap();
        let spec = dns.spec.unwrap();
        assert_eq!(spec.cluster_ip.as_deref(), Some("10.96.0.10"));
        assert_eq!(spec.internal_traffic_policy.as_deref(), Some("Local"));
        Api::<StorageClass>::all(client.clone()).get("standard").await.unwrap();
        let immortal = Api::<Namespace>::all(client).delete("default", &DeleteParams::default()).await;
        assert!(immortal.unwrap_err().to_string().contains("this namespace may not be deleted"));
        store.revision()
    })
    .await;
    // The same again writes nothing.
    let again = with_bootstrapped(&store, "10.244.1.1", async |_| store.revision()).await;
    assert_eq!(again, before);
    // Another address is put into the endpoints, and the service keeps its own.
    with_bootstrapped(&store, "192.0.2.3", async |client| {
        let endpoints =
            Api::<Endpoints>::namespaced(client.clone(), "default").get("kubernetes").await.unwrap();
        assert_eq!(endpoints.subsets.unwrap()[0].addresses.as_ref().unwrap()[0].ip, "192.0.2.3");
        let slice = Api::<EndpointSlice>::namespaced(client, "default").get("kubernetes").await.unwrap();
        assert_eq!(slice.endpoints.unwrap()[0].addresses, ["192.0.2.3"]);
    })
    .await;
}

#[tokio::test]
async fn ready_when_the_first_objects_are_there() {
    let server = server(&memory(), "10.244.1.1").await;
    let (router, latches) = (server.router(), server.latches());
    assert_eq!(latches.states(), [("bootstrap".to_owned(), false)]);
    let token = CancellationToken::new();
    let ready = async {
        while !latches.all_ready() {
            tokio::task::yield_now().await;
        }
        let answer = anonymous(&router, "GET", "/readyz").await;
        token.cancel();
        answer
    };
    let (answer, ()) = tokio::join!(ready, server.run(token.clone()));
    assert_eq!(answer, (StatusCode::OK, json!("ok")));
}

/// One request over TLS without any credential. A body that is no JSON comes back as a string.
async fn anonymous(router: &Router, method: &str, path: &str) -> (StatusCode, Value) {
    let remote = "192.0.2.7:1".parse().unwrap();
    let service = WithPeer::new(router.clone(), Peer::tls(None, remote));
    let request = Request::builder().method(method).uri(path).body(axum::body::Body::empty()).unwrap();
    let response = service.oneshot(request).await.unwrap();
    let status = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    let text = String::from_utf8_lossy(&bytes).into_owned();
    (status, serde_json::from_str(&text).unwrap_or(json!(text)))
}

#[tokio::test]
async fn nobody_may_look_at_health_and_version_only() {
    let server = server(&memory(), "10.244.1.1").await;
    let router = server.router();
    for path in ["/livez", "/version"] {
        assert_eq!(anonymous(&router, "GET", path).await.0, StatusCode::OK, "{path}");
    }
    for path in ["/api/v1/namespaces", "/api", "/openapi/v3", "/metrics", "/openid/v1/jwks", "/nowhere"] {
        let (status, body) = anonymous(&router, "GET", path).await;
        assert_eq!(status, StatusCode::FORBIDDEN, "{path}");
        assert_eq!((&body["kind"], &body["reason"]), (&json!("Status"), &json!("Forbidden")), "{path}");
    }
    // Without a peer there is nobody to be.
    let request = Request::get("/version").body(axum::body::Body::empty()).unwrap();
    assert_eq!(router.oneshot(request).await.unwrap().status(), StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn a_restart_remembers_what_services_hold() {
    let store = memory();
    let web: Service = serde_json::from_value(json!({
        "metadata": {"name": "web"}, "spec": {"clusterIP": "10.96.0.77", "ports": [{"port": 80}]}}))
    .unwrap();
    with_bootstrapped(&store, "10.244.1.1", async |client| {
        Api::<Service>::namespaced(client, "default").create(&Default::default(), &web).await.unwrap();
    })
    .await;
    let mut other = web.clone();
    other.metadata.name = Some("other".to_owned());
    with_bootstrapped(&store, "10.244.1.1", async |client| {
        let refused = Api::<Service>::namespaced(client, "default").create(&Default::default(), &other).await;
        assert!(refused.unwrap_err().to_string().contains("provided IP is already allocated"));
    })
    .await;
}

#[tokio::test]
async fn a_token_from_the_api_opens_the_api() {
    let store = memory();
    let server = server(&store, "10.244.1.1").await;
    let (client, router) = (server.client(User::component("test")), server.router());
    let post = async |path: &str, body: Value| -> Value {
        let request = Request::post(path)
            .header("content-type", "application/json")
            .body(body.to_string().into_bytes());
        client.request(request.unwrap()).await.unwrap()
    };
    post("/api/v1/namespaces", json!({"metadata": {"name": "default"}})).await;
    post("/api/v1/namespaces/default/serviceaccounts", json!({"metadata": {"name": "bot"}})).await;
    let answer = post("/api/v1/namespaces/default/serviceaccounts/bot/token", json!({"spec": {}})).await;
    let token = answer["status"]["token"].as_str().unwrap();

    let ask = async |method: &str, path: &str| {
        let remote = "192.0.2.7:1".parse().unwrap();
        let service = WithPeer::new(router.clone(), Peer::tls(None, remote));
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {token}"))
            .header("content-type", "application/json")
            .body(axum::body::Body::from("{}"))
            .unwrap();
        let response = service.oneshot(request).await.unwrap();
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice::<Value>(&bytes).unwrap())
    };
    let (status, who) = ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews").await;
    assert_eq!(status, StatusCode::CREATED);
    assert_eq!(who["status"]["userInfo"]["username"], "system:serviceaccount:default:bot");
    let (status, keys) = ask("GET", "/openid/v1/jwks").await;
    assert_eq!((status, &keys["keys"][0]["alg"]), (StatusCode::OK, &json!("ES256")));
    let (status, _) = ask("GET", "/api/v1/namespaces").await;
    assert_eq!(status, StatusCode::FORBIDDEN);

    Api::<k8s_openapi::api::core::v1::ServiceAccount>::namespaced(client.clone(), "default")
        .delete("bot", &DeleteParams::default())
        .await
        .unwrap();
    let (status, body) = ask("POST", "/apis/authentication.k8s.io/v1/selfsubjectreviews").await;
    assert_eq!((status, &body["reason"]), (StatusCode::UNAUTHORIZED, &json!("Unauthorized")));
}

#[tokio::test]
async fn kubectl_of_every_age_may_ask_who_it_is() {
    let server = server(&memory(), "10.244.1.1").await;
    let client = server.client(User::component("admin"));
    for version in ["v1", "v1beta1"] {
        let version = format!("authentication.k8s.io/{version}");
        let body = json!({"apiVersion": version, "kind": "SelfSubjectReview"}).to_string().into_bytes();
        let request = Request::post(format!("/apis/{version}/selfsubjectreviews"))
            .header("content-type", "application/json")
            .body(body)
            .unwrap();
        let answer: Value = client.request(request).await.unwrap();
        assert_eq!((&answer["apiVersion"], &answer["kind"]), (&json!(version), &json!("SelfSubjectReview")));
        assert_eq!(answer["status"]["userInfo"]["username"], "admin");
    }
}

#[tokio::test]
async fn bad_settings_are_named() {
    let refused = async |change: fn(&mut Config)| {
        let mut config = config("10.244.1.1");
        change(&mut config);
        Server::bind(config, memory(), Arc::new(NoNodes)).await.err().unwrap().to_string()
    };
    assert!(refused(|c| c.service_cidr = "10.96.0.0".to_owned()).await.contains("10.96.0.0"));
    assert!(refused(|c| c.serving_key = String::new()).await.contains("serving key"));
    assert!(refused(|c| c.service_account_key = "x".to_owned()).await.contains("ServiceAccount key"));
}
