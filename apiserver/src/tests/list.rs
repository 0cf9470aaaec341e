//! Lists: selectors, pages, revisions, forms.

use super::*;

const TABLE: &str = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json";
const PARTIAL: &str = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io";

async fn filled(count: usize) -> Server {
    let server = Server::new();
    for i in 0..count {
        let mut object = map(&format!("m{i}"), &json!({"n": i.to_string()}));
        object["metadata"]["labels"] = json!({"odd": (i % 2 == 1).to_string()});
        server.create(MAPS, &object).await;
    }
    server
}

fn names(list: &Value) -> Vec<&str> {
    list["items"].as_array().unwrap().iter().map(|o| o["metadata"]["name"].as_str().unwrap()).collect()
}

#[tokio::test]
async fn a_list_holds_the_objects_as_they_are() {
    let server = filled(3).await;
    let list = server.get(MAPS).await.expect(200);
    assert_eq!((&list["kind"], &list["apiVersion"]), (&json!("ConfigMapList"), &json!("v1")));
    assert_eq!(
        list["metadata"],
        json!({"resourceVersion": server.app.registry.store().revision().to_string()})
    );
    assert_eq!(list["items"][1], server.get(&format!("{MAPS}/m1")).await.json());
    let empty = server.get("/api/v1/namespaces/none/configmaps").await.expect(200);
    assert_eq!(empty["items"], json!([]));
    assert_eq!(names(&server.get("/api/v1/configmaps").await.json()).len(), 3);
    server.get("/api/v1/nonsense").await.refused(404, "NotFound", "could not find the requested resource");
    server.get("/apis/nonsense/v1/configmaps").await.refused(404, "NotFound", "could not find");
}

#[tokio::test]
async fn selectors() {
    let server = filled(4).await;
    for (query, expected) in [
        ("labelSelector=odd%3Dtrue", vec!["m1", "m3"]),
        ("labelSelector=odd+notin+(true)", vec!["m0", "m2"]),
        ("labelSelector=!odd", vec![]),
        ("fieldSelector=metadata.name%3Dm2", vec!["m2"]),
        ("fieldSelector=metadata.name!%3Dm2&labelSelector=odd%3Dfalse", vec!["m0"]),
        ("fieldSelector=metadata.name%3Dm1&labelSelector=odd%3Dfalse", vec![]),
        ("fieldSelector=metadata.namespace%3Dother", vec![]),
    ] {
        let list = server.get(&format!("{MAPS}?{query}")).await.expect(200);
        assert_eq!(names(&list), expected, "{query}");
        let everywhere = server.get(&format!("/api/v1/configmaps?{query}")).await.expect(200);
        assert_eq!(names(&everywhere), expected, "{query}");
    }
    server.create(PODS, &pod("a")).await;
    server.create(PODS, &pod("b")).await;
    server.post(&format!("{PODS}/b/binding"), &json!({"target": {"name": "n1"}})).await.expect(201);
    assert_eq!(names(&server.get(&format!("{PODS}?fieldSelector=spec.nodeName%3Dn1")).await.json()), ["b"]);
    assert_eq!(names(&server.get(&format!("{PODS}?fieldSelector=spec.nodeName%3D")).await.json()), ["a"]);
    server.get(&format!("{PODS}?fieldSelector=spec.nonsense%3D1")).await.refused(
        400,
        "BadRequest",
        "field label not supported: spec.nonsense",
    );
    server.get(&format!("{PODS}?labelSelector=a+b+c")).await.refused(400, "BadRequest", "");
}

#[tokio::test]
async fn pages_are_one_snapshot() {
    let server = filled(5).await;
    let first = server.get(&format!("{MAPS}?limit=2")).await.expect(200);
    assert_eq!((names(&first), &first["metadata"]["remainingItemCount"]), (vec!["m0", "m1"], &json!(3)));
    let token = first["metadata"]["continue"].as_str().unwrap();
    server.create(MAPS, &map("m2a", &json!({}))).await;
    server.delete(&format!("{MAPS}/m3"), &Value::Null).await.expect(200);
    let second = server.get(&format!("{MAPS}?limit=2&continue={token}")).await.expect(200);
    assert_eq!((names(&second), &second["metadata"]["remainingItemCount"]), (vec!["m2", "m3"], &json!(1)));
    assert_eq!(second["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    let token = second["metadata"]["continue"].as_str().unwrap();
    let third = server.get(&format!("{MAPS}?limit=2&continue={token}")).await.expect(200);
    assert_eq!(names(&third), ["m4"]);
    assert_eq!(third["metadata"], json!({"resourceVersion": first["metadata"]["resourceVersion"]}));
    server.get(&format!("{MAPS}?continue=nonsense")).await.refused(
        400,
        "BadRequest",
        "continue key is not valid",
    );
}

#[tokio::test]
async fn pages_under_a_selector_are_full_and_uncounted() {
    let server = filled(8).await;
    let first = server.get(&format!("{MAPS}?limit=3&labelSelector=odd%3Dtrue")).await.expect(200);
    assert_eq!(names(&first), ["m1", "m3", "m5"]);
    assert!(first["metadata"].get("remainingItemCount").is_none());
    let token = first["metadata"]["continue"].as_str().unwrap();
    let second =
        server.get(&format!("{MAPS}?limit=3&labelSelector=odd%3Dtrue&continue={token}")).await.expect(200);
    assert_eq!((names(&second), second["metadata"].get("continue")), (vec!["m7"], None));
}

#[tokio::test]
async fn an_expired_token_is_exchanged() {
    let server = filled(4).await;
    let first = server.get(&format!("{MAPS}?limit=2")).await.expect(200);
    let token = first["metadata"]["continue"].as_str().unwrap();
    server.create(MAPS, &map("m9", &json!({}))).await;
    let store = server.app.registry.store();
    store.compact(store.revision()).await.unwrap();
    let status = server.get(&format!("{MAPS}?limit=2&continue={token}")).await.refused(
        410,
        "Expired",
        "continue parameter is too old",
    );
    let fresh = status["metadata"]["continue"].as_str().unwrap();
    let rest = server.get(&format!("{MAPS}?continue={fresh}")).await.expect(200);
    assert_eq!(names(&rest), ["m2", "m3", "m9"]);
    assert_ne!(rest["metadata"]["resourceVersion"], first["metadata"]["resourceVersion"]);
    server
        .get(&format!("{MAPS}?resourceVersion=1&resourceVersionMatch=Exact"))
        .await
        .refused(410, "Expired", "too old");
}

#[tokio::test]
async fn revisions() {
    let server = filled(3).await;
    let at = |rv: &str| format!("{MAPS}?resourceVersion={rv}");
    assert_eq!(
        names(&server.get(&format!("{}&resourceVersionMatch=Exact", at("2"))).await.expect(200)).len(),
        2
    );
    assert_eq!(names(&server.get(&at("2")).await.expect(200)).len(), 3);
    assert_eq!(names(&server.get(&at("0")).await.expect(200)).len(), 3);
    let answer = server.get(&at("1000")).await;
    assert_eq!(answer.headers["retry-after"], "1");
    let status = answer.refused(504, "Timeout", "Too large resource version: 1000, current: 3");
    assert_eq!(status["details"]["causes"][0]["reason"], "ResourceVersionTooLarge");
    server.get(&format!("{MAPS}/m0?resourceVersion=1000")).await.refused(
        504,
        "Timeout",
        "Too large resource version",
    );
}

#[tokio::test]
async fn tables_and_partial_objects() {
    let server = filled(2).await;
    let table = server.call("GET", MAPS, "", &[("accept", TABLE)]).await.expect(200);
    assert_eq!((&table["kind"], &table["apiVersion"]), (&json!("Table"), &json!("meta.k8s.io/v1")));
    assert_eq!(table["columnDefinitions"][0]["name"], "Name");
    assert_eq!((&table["rows"][0]["cells"][0], &table["rows"][0]["cells"][1]), (&json!("m0"), &json!(1)));
    let partial = &table["rows"][0]["object"];
    assert_eq!((&partial["kind"], partial.get("data")), (&json!("PartialObjectMetadata"), None));
    let whole = server
        .call("GET", &format!("{MAPS}?includeObject=Object"), "", &[("accept", TABLE)])
        .await
        .expect(200);
    assert_eq!(whole["rows"][0]["object"]["kind"], "ConfigMap");
    let one = server.call("GET", &format!("{MAPS}/m1"), "", &[("accept", TABLE)]).await.expect(200);
    assert_eq!((one["rows"].as_array().unwrap().len(), &one["rows"][0]["cells"][0]), (1, &json!("m1")));
    let list = server.call("GET", MAPS, "", &[("accept", PARTIAL)]).await.expect(200);
    assert_eq!((&list["kind"], names(&list)), (&json!("PartialObjectMetadataList"), vec!["m0", "m1"]));
    assert!(list["items"][0].get("data").is_none());
    let only_table = TABLE.trim_end_matches(",application/json").replace("v=v1;", "v=v9;");
    server.call("GET", MAPS, "", &[("accept", &only_table)]).await.refused(
        406,
        "NotAcceptable",
        "only the following media types",
    );
}

#[tokio::test]
async fn large_lists_are_packed_for_those_who_ask() {
    let server = Server::new();
    for i in 0..3 {
        server.create(MAPS, &map(&format!("m{i}"), &json!({"x": "y".repeat(60_000)}))).await;
    }
    let plain = server.get(MAPS).await;
    assert!(!plain.headers.contains_key("content-encoding"));
    let packed = server.call("GET", MAPS, "", &[("accept-encoding", "gzip")]).await;
    assert_eq!(
        (packed.headers["content-encoding"].as_bytes(), packed.bytes.len() < 10_000),
        (&b"gzip"[..], true)
    );
    let mut text = Vec::new();
    io::Read::read_to_end(&mut flate2::read::GzDecoder::new(&packed.bytes[..]), &mut text).unwrap();
    assert_eq!(text, plain.bytes);
    let small = server.call("GET", &format!("{MAPS}/m0"), "", &[("accept-encoding", "gzip")]).await;
    assert!(!small.headers.contains_key("content-encoding"));
}
