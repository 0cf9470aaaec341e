//! What holds for every request, and the paths that are no resources.

use super::*;
use std::time::Duration;

#[tokio::test]
async fn bodies_are_bounded() {
    let limits = Limits { body_bytes: 1000, ..Limits::default() };
    let server = Server::with(limits, storage::Limits::default());
    let body = map("a", &json!({"x": "y".repeat(2000)}));
    server.post(MAPS, &body).await.refused(413, "RequestEntityTooLarge", "limit is 1000");
    // Also when nobody says beforehand how long the body is.
    let chunks = futures::stream::iter((0..20).map(|_| Ok::<_, io::Error>("y".repeat(100))));
    let answer = server.call("POST", MAPS, Body::from_stream(chunks), &[]).await;
    answer.refused(413, "RequestEntityTooLarge", "limit is 1000");
}

#[tokio::test]
async fn too_many_requests_at_once_are_sent_away() {
    let lanes = crate::lanes::Bounds { reading: 0, mutating: 1, system: 0, queue: 0, wait: Duration::ZERO };
    let mut server = Server::with(Limits { lanes, ..Limits::default() }, storage::Limits::default());
    let remote = "127.0.0.1:1".parse().unwrap();
    let subject = Some(("admin".to_owned(), vec!["system:masters".to_owned()]));
    let outside = WithPeer::new(crate::router::router(server.app.clone()), Peer::tls(subject, remote));
    let inside = std::mem::replace(&mut server.router, outside);
    let answer = server.get(MAPS).await;
    assert_eq!(answer.headers["retry-after"], "1");
    answer.refused(429, "TooManyRequests", "try again later");
    // Those who write have a lane of their own.
    server.create(MAPS, &map("a", &json!({}))).await;
    // Watches and health do not take part.
    assert_eq!(server.get(&format!("{MAPS}?watch=1&timeoutSeconds=1")).await.code, 200);
    assert_eq!(server.get("/livez").await.text(), "ok");
    // Nor do the server's own components.
    server.router = inside;
    server.get(MAPS).await.expect(200);
}

#[tokio::test]
async fn a_request_has_a_deadline() {
    let server = Server::with(
        Limits { request: Duration::from_millis(10), ..Limits::default() },
        storage::Limits::default(),
    );
    let never = Body::from_stream(futures::stream::pending::<io::Result<String>>());
    server.call("POST", MAPS, never, &[]).await.refused(504, "Timeout", "request did not complete");
}

#[tokio::test]
async fn a_client_may_ask_for_less_time() {
    let server = Server::new();
    let never = Body::from_stream(futures::stream::pending::<io::Result<String>>());
    let path = format!("{MAPS}?timeout=10ms");
    server.call("POST", &path, never, &[]).await.refused(504, "Timeout", "within the allotted timeout");
    server.get(&format!("{MAPS}?timeout=soon")).await.refused(400, "BadRequest", "invalid timeout specified");
    server.get(&format!("{MAPS}?timeout=32s")).await.expect(200);
}

#[tokio::test]
async fn a_handler_that_panics_answers_500_and_the_server_lives() {
    let server = Server::new();
    // In the request's own task, as reads run, and in the one that writes run in.
    let read = server.get("/api/v1/nodes/panic/proxy/x").await;
    read.refused(500, "InternalError", "the request handler panicked");
    let tea = futures::stream::poll_fn(|_| -> std::task::Poll<Option<io::Result<String>>> { panic!("tea") });
    let write = server.call("POST", MAPS, Body::from_stream(tea), &[]).await;
    let status = write.refused(500, "InternalError", "the request handler panicked");
    assert_eq!(status["message"], "Internal error occurred: the request handler panicked: tea");
    server.get(MAPS).await.expect(200);
}

#[tokio::test]
async fn a_request_from_nowhere_is_nobodys() {
    let server = Server::new();
    let router = crate::router::router(server.app.clone());
    let response = router.oneshot(Request::get(MAPS).body(Body::empty()).unwrap()).await.unwrap();
    assert_eq!(response.status(), 401);
}

#[tokio::test]
async fn methods_that_a_resource_does_not_have() {
    let server = Server::new();
    for (method, path) in [
        ("PUT", MAPS),
        ("PATCH", MAPS),
        ("POST", "/api/v1/namespaces/default/configmaps/a"),
        ("OPTIONS", MAPS),
        ("POST", "/version"),
        ("GET", "/api/v1/namespaces/default/pods/p/binding"),
    ] {
        server.call(method, path, "{}", &[]).await.refused(
            405,
            "MethodNotAllowed",
            "does not allow this method",
        );
    }
    for path in ["/nonsense", "/api/v2", "/apis/apps/v9", "/openapi/v3/apis/none/v1"] {
        server.call("POST", path, "{}", &[]).await.refused(404, "NotFound", "could not find");
    }
    assert_eq!(server.call("POST", "/livez", "", &[]).await.text(), "ok");
    for path in [
        "/nonsense",
        "/api/v9",
        "/apis/apps/v9",
        "/api/v1/namespaces/x/nodes",
        "/api/v1/pods/p",
        "/api/v1/namespaces/x/pods/p/nonsense",
    ] {
        server.get(path).await.refused(404, "NotFound", "could not find the requested resource");
    }
}

#[tokio::test]
async fn version_and_metrics() {
    let server = Server::new();
    let version = server.get("/version").await.expect(200);
    assert_eq!((&version["major"], &version["minor"]), (&json!("1"), &json!("36")));
    assert!(version["gitVersion"].as_str().unwrap().starts_with("v1.36."));
    server.client().apiserver_version().await.unwrap();
    server.get(MAPS).await.expect(200);
    server.create(MAPS, &map("a", &json!({}))).await;
    server.get(&format!("{MAPS}/none")).await.expect(404);
    // A watch counts as running until its body is dropped.
    let watch = Request::get(format!("{MAPS}?watch=1")).body(Body::empty()).unwrap();
    let watch = server.router.clone().oneshot(watch).await.unwrap();
    let text = server.get("/metrics").await.text();
    let maps = r#"component="apiserver",dry_run="",group="",resource="configmaps""#;
    for line in [
        format!(
            "apiserver_request_total{{code=\"200\",{maps},scope=\"namespace\",subresource=\"\",verb=\"LIST\",version=\"v1\"}} 1"
        ),
        format!(
            "apiserver_request_total{{code=\"201\",{maps},scope=\"resource\",subresource=\"\",verb=\"POST\",version=\"v1\"}} 1"
        ),
        format!(
            "apiserver_request_total{{code=\"404\",{maps},scope=\"resource\",subresource=\"\",verb=\"GET\",version=\"v1\"}} 1"
        ),
        format!(
            "apiserver_longrunning_requests{{{maps},scope=\"namespace\",subresource=\"\",verb=\"WATCH\",version=\"v1\"}} 1"
        ),
        "apiserver_current_inflight_requests{request_kind=\"mutating\"} 0".to_owned(),
        "apiserver_storage_writes_total 1".to_owned(),
        "apiserver_storage_commit_duration_seconds_count 1".to_owned(),
        "apiserver_storage_watchers 1".to_owned(),
    ] {
        assert!(text.lines().any(|l| l == line), "{line}\n{text}");
    }
    drop(watch);
    let text = server.get("/metrics").await.text();
    assert!(text.contains("verb=\"WATCH\",version=\"v1\"} 0"), "{text}");
}

#[tokio::test]
async fn discovery_lists_every_kind() {
    let server = Server::new();
    let api = server.get("/api").await.expect(200);
    assert_eq!((&api["kind"], &api["versions"]), (&json!("APIVersions"), &json!(["v1"])));
    let groups = server.get("/apis/").await.expect(200);
    let group_names: Vec<_> =
        groups["groups"].as_array().unwrap().iter().map(|g| g["name"].as_str().unwrap()).collect();
    for kind in kinds::all() {
        let r = kind.resource();
        let path = match r.group {
            "" => format!("/api/{}", r.version),
            group => {
                assert!(group_names.contains(&group), "{group}");
                let one = server.get(&format!("/apis/{group}/")).await.expect(200);
                assert_eq!((&one["kind"], &one["name"]), (&json!("APIGroup"), &json!(group)));
                format!("/apis/{group}/{}", r.version)
            }
        };
        let list = server.get(&path).await.expect(200);
        assert_eq!(list["groupVersion"], r.api_version());
        let entry =
            list["resources"].as_array().unwrap().iter().find(|e| e["name"] == r.plural).unwrap().clone();
        assert_eq!((&entry["kind"], &entry["namespaced"]), (&json!(r.kind), &json!(r.namespaced)));
        assert!(entry["verbs"].as_array().unwrap().contains(&json!("watch")));
    }
    let apps = server.get("/apis/apps/v1").await.json();
    let scale =
        apps["resources"].as_array().unwrap().iter().find(|e| e["name"] == "statefulsets/scale").unwrap();
    assert_eq!((&scale["group"], &scale["kind"]), (&json!("autoscaling"), &json!("Scale")));
    let found = kube::discovery::Discovery::new(server.client()).run().await.unwrap();
    assert!(found.get("apps").unwrap().recommended_kind("StatefulSet").is_some());
}

#[tokio::test]
async fn discovery_in_the_encoding_that_is_asked_for() {
    let server = Server::new();
    for (path, kind) in [("/api", "APIVersions"), ("/apis", "APIGroupList"), ("/apis/apps", "APIGroup")] {
        let ask = async |accept: &str| server.call("GET", path, "", &[("accept", accept)]).await;
        let yaml = ask("application/yaml").await;
        assert_eq!(yaml.headers["content-type"], "application/yaml");
        assert!(yaml.text().contains(&format!("kind: {kind}\n")), "{}", yaml.text());
        let packed = ask(crate::protobuf::MEDIA).await;
        assert_eq!(packed.headers["content-type"], crate::protobuf::MEDIA);
        assert_eq!(crate::protobuf::parse(&packed.bytes).unwrap()["kind"], kind);
        assert_eq!(packed.headers["vary"], "Accept");
        for accept in ["text/html", "application/json;as=Table;v=v1;g=meta.k8s.io"] {
            ask(accept).await.refused(406, "NotAcceptable", "only the following media types are accepted");
        }
    }
}

#[tokio::test]
async fn aggregated_discovery() {
    let server = Server::new();
    for version in ["v2", "v2beta1"] {
        let media = format!("application/json;g=apidiscovery.k8s.io;v={version};as=APIGroupDiscoveryList");
        let accept = format!("{media},application/json");
        let answer = server.call("GET", "/apis", "", &[("accept", &accept)]).await;
        assert_eq!(answer.headers["content-type"], media.as_str());
        let list = answer.expect(200);
        assert_eq!(list["apiVersion"], format!("apidiscovery.k8s.io/{version}"));
        let apps =
            list["items"].as_array().unwrap().iter().find(|g| g["metadata"]["name"] == "apps").unwrap();
        let sets = apps["versions"][0]["resources"]
            .as_array()
            .unwrap()
            .iter()
            .find(|r| r["resource"] == "statefulsets")
            .unwrap();
        assert_eq!(
            (&sets["scope"], &sets["responseKind"]["kind"]),
            (&json!("Namespaced"), &json!("StatefulSet"))
        );
        assert!(sets["subresources"].as_array().unwrap().iter().any(|s| s["subresource"] == "status"));
        let core = server.call("GET", "/api", "", &[("accept", &accept)]).await.expect(200);
        assert_eq!(core["items"].as_array().unwrap().len(), 1);
    }
}

#[tokio::test]
async fn readiness_waits_for_every_latch() {
    let server = Server::new();
    let latch = server.app.latches.latch("informers");
    assert_eq!(server.get("/livez").await.text(), "ok");
    let answer = server.get("/readyz").await;
    assert_eq!(answer.code, 500);
    assert!(answer.text().contains("[-]informers failed: reason withheld\n"));
    latch.ready();
    assert_eq!(server.get("/readyz").await.text(), "ok");
    let verbose = server.get("/readyz?verbose").await.text();
    assert!(
        verbose.contains("[+]ping ok\n[+]informers ok\n") && verbose.ends_with("readyz check passed\n"),
        "{verbose}"
    );
    assert_eq!(server.get("/readyz/informers").await.text(), "ok");
    assert_eq!(server.get("/readyz/nonsense").await.code, 404);
    server.app.stop.cancel();
    assert_eq!(server.get("/readyz").await.code, 500);
    assert_eq!(server.get("/livez").await.code, 200);
}

/// Errors come in the form that answers would have.
#[tokio::test]
async fn refusals_are_written_as_the_client_reads() {
    let server = Server::new();
    let path = format!("{MAPS}/none");
    let ask = async |accept: &str| server.call("GET", &path, Body::empty(), &[("accept", accept)]).await;
    let yaml = ask("application/yaml").await;
    assert_eq!(yaml.code, 404);
    assert_eq!(yaml.headers["content-type"], "application/yaml");
    assert_eq!(
        yaml.text(),
        "apiVersion: v1\ncode: 404\ndetails:\n  kind: configmaps\n  name: none\nkind: Status\nmessage: configmaps \
         \"none\" not found\nmetadata: {}\nreason: NotFound\nstatus: Failure\n"
    );
    let media = crate::protobuf::MEDIA;
    let protobuf = ask(media).await;
    assert_eq!(protobuf.code, 404);
    assert_eq!(protobuf.headers["content-type"], media);
    let status = crate::protobuf::parse(&protobuf.bytes).unwrap();
    assert_eq!(status["message"], "configmaps \"none\" not found");
    assert_eq!((&status["kind"], &status["code"]), (&json!("Status"), &json!(404)));
    let table = "application/json;as=Table;v=v1;g=meta.k8s.io";
    for accept in ["application/json", "*/*", table] {
        let json = ask(accept).await;
        assert_eq!(json.headers["content-type"], "application/json", "{accept}");
        json.refused(404, "NotFound", "not found");
    }
    // Who is told that nothing can be given is told so in JSON.
    ask("text/html").await.refused(406, "NotAcceptable", "");
}

/// A server as clients from outside meet it, with one place in each lane, and no queue.
fn narrow(limits: Limits) -> Server {
    let lanes = crate::lanes::Bounds { reading: 1, mutating: 1, system: 0, queue: 0, wait: Duration::ZERO };
    let mut server = Server::with(Limits { lanes, ..limits }, storage::Limits::default());
    let subject = Some(("admin".to_owned(), vec!["system:masters".to_owned()]));
    let peer = Peer::tls(subject, "127.0.0.1:1".parse().unwrap());
    server.router = WithPeer::new(crate::router::router(server.app.clone()), peer);
    server
}

/// Waits until so many writes have a place.
async fn writing(server: &Server, served: usize) {
    let reached = async {
        while server.app.lanes.states()[1].served != served {
            tokio::task::yield_now().await;
        }
    };
    let states = || server.app.lanes.states();
    tokio::time::timeout(Duration::from_secs(30), reached).await.unwrap_or_else(|_| panic!("{:?}", states()));
}

#[tokio::test]
async fn who_goes_away_keeps_the_place_until_the_write_has_ended() {
    let server = narrow(Limits::default());
    let (sender, body) = futures::channel::mpsc::unbounded::<io::Result<String>>();
    {
        let write = server.call("POST", MAPS, Body::from_stream(body), &[]);
        tokio::select! {
            _ = write => panic!("answered before the body was there"),
            () = writing(&server, 1) => {}
        }
    }
    // The client is gone; its write is not.
    server.post(MAPS, &map("a", &json!({}))).await.refused(429, "TooManyRequests", "");
    drop(sender);
    writing(&server, 0).await;
    server.create(MAPS, &map("a", &json!({}))).await;
}

#[tokio::test]
async fn a_body_that_never_ends_is_not_waited_for_longer_than_its_request() {
    let server = narrow(Limits { request: Duration::from_millis(50), ..Limits::default() });
    let (_sender, body) = futures::channel::mpsc::unbounded::<io::Result<String>>();
    let answer = server.call("POST", MAPS, Body::from_stream(body), &[]).await;
    answer.refused(504, "Timeout", "request did not complete within the allotted timeout");
    writing(&server, 0).await;
}
