//! The IPAddress objects of services, as clients see them.

use super::{Server, revision};
use serde_json::{Value, json};

const SERVICES: &str = "/api/v1/namespaces/default/services";
const ADDRESSES: &str = "/apis/networking.k8s.io/v1/ipaddresses";

fn service(name: &str, spec: Value) -> Value {
    let mut spec = spec;
    spec["ports"] = json!([{"port": 80}]);
    json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": spec})
}

fn by_hand(address: &str) -> Value {
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "IPAddress", "metadata": {"name": address},
           "spec": {"parentRef": {"group": "example.com", "resource": "things", "name": "a"}}})
}

async fn object(server: &Server, address: &str) -> Option<Value> {
    let answer = server.get(&format!("{ADDRESSES}/{address}")).await;
    (answer.code == 200).then(|| answer.json())
}

/// Names of all objects.
async fn all(server: &Server) -> Vec<String> {
    let list = server.get(ADDRESSES).await.expect(200);
    let name = |o: &Value| o["metadata"]["name"].as_str().unwrap().to_owned();
    list["items"].as_array().unwrap().iter().map(name).collect()
}

fn address(service: &Value) -> &str {
    service["spec"]["clusterIP"].as_str().unwrap_or_default()
}

#[tokio::test]
async fn an_address_has_an_object_as_long_as_a_service_holds_it() {
    let server = Server::new();
    let made = server.create(SERVICES, &service("web", json!({}))).await;
    let found = object(&server, address(&made)).await.unwrap();
    assert_eq!(
        found["metadata"]["labels"],
        json!({"ipaddress.kubernetes.io/ip-family": "IPv4", "ipaddress.kubernetes.io/managed-by": "ipallocator.k8s.io"})
    );
    assert_eq!(
        found["spec"]["parentRef"],
        json!({"resource": "services", "namespace": "default", "name": "web"})
    );
    // In one commit, right after the service.
    assert_eq!(revision(&found), revision(&made) + 1);
    let web = format!("{SERVICES}/web");
    server.call("DELETE", &format!("{web}?dryRun=All"), "", &[]).await.expect(200);
    assert!(object(&server, address(&made)).await.is_some());
    server.delete(&web, &Value::Null).await.expect(200);
    assert!(all(&server).await.is_empty());
    // Nothing without an address has one, and nothing that only might be made.
    server.create(SERVICES, &service("headless", json!({"clusterIP": "None"}))).await;
    server.post(&format!("{SERVICES}?dryRun=All"), &service("dry", json!({}))).await.expect(201);
    server.post(SERVICES, &service("bad", json!({"externalTrafficPolicy": "None"}))).await.refused(
        422,
        "Invalid",
        "externalTrafficPolicy",
    );
    assert!(all(&server).await.is_empty());
}

#[tokio::test]
async fn a_service_that_changes_its_type_gives_up_and_gets() {
    let server = Server::new();
    let made = server.create(SERVICES, &service("web", json!({}))).await;
    let web = format!("{SERVICES}/web");
    let external = json!({"spec": {"type": "ExternalName", "externalName": "a.example.com"}});
    server.patch(&format!("{web}?dryRun=All"), "merge", &external).await.expect(200);
    assert_eq!(all(&server).await, [address(&made)]);
    server.patch(&web, "merge", &external).await.expect(200);
    assert!(all(&server).await.is_empty());
    // Somebody else may have it now.
    let other = server.create(SERVICES, &service("other", json!({"clusterIP": address(&made)}))).await;
    let back = server.patch(&web, "merge", &json!({"spec": {"type": "ClusterIP"}})).await.expect(200);
    let mut wanted = [address(&other), address(&back)];
    wanted.sort_unstable();
    assert_eq!(all(&server).await, wanted);
    // Other changes change nothing about them.
    let before = object(&server, address(&back)).await;
    server.patch(&web, "merge", &json!({"metadata": {"labels": {"a": "b"}}})).await.expect(200);
    assert_eq!(object(&server, address(&back)).await, before);
    server.call("DELETE", SERVICES, "", &[]).await.expect(200);
    assert!(all(&server).await.is_empty());
}

#[tokio::test]
async fn who_makes_an_object_by_hand_reserves_the_address() {
    let server = Server::new();
    let wish = json!({"clusterIP": "10.96.0.77"});
    // A try reserves nothing.
    server.post(&format!("{ADDRESSES}?dryRun=All"), &by_hand("10.96.0.77")).await.expect(201);
    server.create(ADDRESSES, &by_hand("10.96.0.77")).await;
    let refusal = "failed to allocate IP 10.96.0.77: provided IP is already allocated";
    server.post(SERVICES, &service("web", wish.clone())).await.refused(422, "Invalid", refusal);
    // Deleted, it is free again; then the service has it, and nobody else can.
    server.delete(&format!("{ADDRESSES}/10.96.0.77"), &Value::Null).await.expect(200);
    server.create(SERVICES, &service("web", wish)).await;
    server.post(ADDRESSES, &by_hand("10.96.0.77")).await.refused(
        409,
        "AlreadyExists",
        "ipaddresses.networking.k8s.io \"10.96.0.77\" already exists",
    );
    // What lies outside of the range is nobody's.
    server.create(ADDRESSES, &by_hand("255.255.255.255")).await;
    server.create(ADDRESSES, &by_hand("fd00::1")).await;
}

#[tokio::test]
async fn the_object_of_a_service_cannot_be_taken_away() {
    let server = Server::new();
    let made = server.create(SERVICES, &service("web", json!({}))).await;
    let path = format!("{ADDRESSES}/{}", address(&made));
    let uid = |object: Value| object["metadata"]["uid"].clone();
    let first = uid(object(&server, address(&made)).await.unwrap());
    server.delete(&path, &Value::Null).await.expect(200);
    let second = uid(object(&server, address(&made)).await.unwrap());
    assert_ne!(first, second);
    server.call("DELETE", ADDRESSES, "", &[]).await.expect(200);
    assert_ne!(uid(object(&server, address(&made)).await.unwrap()), second);
    server.post(ADDRESSES, &by_hand(address(&made))).await.refused(409, "AlreadyExists", "");
}

#[tokio::test]
async fn finalizers_keep_an_object_and_its_address() {
    let server = Server::new();
    let spec = json!({"clusterIP": "10.96.0.77"});
    server.create(SERVICES, &service("web", spec.clone())).await;
    let path = format!("{ADDRESSES}/10.96.0.77");
    let finalizers = |list: Value| json!({"metadata": {"finalizers": list}});
    server.patch(&path, "merge", &finalizers(json!(["example.com/f"]))).await.expect(200);
    server.delete(&format!("{SERVICES}/web"), &Value::Null).await.expect(200);
    let kept = object(&server, "10.96.0.77").await.unwrap();
    assert!(kept["metadata"]["deletionTimestamp"].is_string(), "{kept}");
    server.post(SERVICES, &service("web", spec.clone())).await.refused(422, "Invalid", "already allocated");
    server.patch(&path, "merge", &finalizers(json!([]))).await.expect(200);
    assert_eq!(object(&server, "10.96.0.77").await, None);
    server.create(SERVICES, &service("web", spec)).await;
}

/// A store of an earlier version, which wrote services without these objects, and kept any that people made.
#[tokio::test]
async fn old_data_gets_its_objects_at_start() {
    let server = Server::new();
    for (name, address) in [("a", "10.96.0.20"), ("b", "10.96.0.21")] {
        server.create(SERVICES, &service(name, json!({"clusterIP": address}))).await;
    }
    let store = server.app.registry.store();
    for address in ["10.96.0.20", "10.96.0.21"] {
        let key = storage::Key::new(format!("/networking.k8s.io/ipaddresses/{address}"));
        let kv = store.get(&key).await.unwrap().unwrap();
        store.delete(key.clone(), kv.modified, storage::Payload::plain(kv.value)).await.unwrap();
        if address == "10.96.0.21" {
            store.create(key, storage::Payload::plain(by_hand(address).to_string())).await.unwrap();
        }
    }
    server.app.registry.restore_addresses().await.unwrap();
    for (address, name) in [("10.96.0.20", "a"), ("10.96.0.21", "b")] {
        let found = object(&server, address).await.unwrap();
        assert_eq!(found["spec"]["parentRef"]["name"], name, "{found}");
    }
    // All is as it should be: nothing is written.
    let before = server.app.registry.store().revision();
    server.app.registry.restore_addresses().await.unwrap();
    assert_eq!(server.app.registry.store().revision(), before);
}

/// Many at once, for few addresses: never two services with one.
#[tokio::test(flavor = "multi_thread")]
async fn an_address_is_given_once() {
    let server = std::sync::Arc::new(Server::new());
    let tries = (0..64).map(|i| {
        let server = server.clone();
        tokio::spawn(async move {
            let wish = json!({"clusterIP": format!("10.96.0.{}", 20 + i % 8)});
            if i % 3 == 0 {
                server.post(ADDRESSES, &by_hand(wish["clusterIP"].as_str().unwrap())).await.code
            } else {
                server.post(SERVICES, &service(&format!("s{i}"), wish)).await.code
            }
        })
    });
    let codes = futures::future::join_all(tries).await;
    let made = codes.iter().filter(|code| code.as_ref().unwrap().as_u16() == 201).count();
    assert_eq!((made, all(&server).await.len()), (8, 8));
}
