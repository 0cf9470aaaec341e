//! exec and attach, by WebSocket and by SPDY.

use super::*;

const EXEC: &str = "/exec/default/web/app?command=sh&command=-c&command=ls%20%2F&input=1&output=1&error=1";

#[tokio::test]
async fn exec_by_websocket() {
    let kubelet = Kubelet::new();
    let mut process = kubelet.session();
    let mut socket = kubelet.socket(EXEC, "v9.channel.k8s.io, v5.channel.k8s.io").await;
    assert_eq!(message(&mut socket).await, (1, String::new()));
    send(&mut socket, b"\x00in").await;
    send(&mut socket, b"\x00put").await;
    // Closes stdin alone.
    send(&mut socket, b"\xff\x00").await;
    assert_eq!(process.read_to_end().await, "input");
    process.out("out").await;
    assert_eq!(message(&mut socket).await, (1, "out".into()));
    process.err("err").await;
    assert_eq!(message(&mut socket).await, (2, "err".into()));
    process.ends(7);
    let (channel, status) = message(&mut socket).await;
    let status: Value = serde_json::from_str(&status).unwrap();
    assert_eq!((channel, &status["reason"]), (3, &json!("NonZeroExitCode")));
    assert_eq!(status["details"]["causes"][0]["message"], "7");
    closed(socket).await;
    assert_eq!(kubelet.script.asked(), [r#"exec id-app ["sh", "-c", "ls /"] tty=false stderr=true"#]);
    kubelet.ends().await;
}

#[tokio::test]
async fn a_terminal_is_resized_and_has_one_output() {
    let kubelet = Kubelet::new();
    let mut process = kubelet.session();
    let mut socket = kubelet.socket(&format!("{EXEC}&tty=1"), "v4.channel.k8s.io").await;
    assert_eq!(message(&mut socket).await, (1, String::new()));
    send(&mut socket, b"\x04{\"Width\":80,\"Height\":24}\n").await;
    assert_eq!(process.sizes.recv().await, Some((80, 24)));
    // Were there error output after all, the client would not know the channel.
    process.err("lost").await;
    process.out("$ ").await;
    assert_eq!(message(&mut socket).await, (1, "$ ".into()));
    process.ends(0);
    assert_eq!(message(&mut socket).await, (3, r#"{"metadata":{},"status":"Success"}"#.into()));
    closed(socket).await;
    assert!(kubelet.script.asked()[0].ends_with("tty=true stderr=false"));
}

#[tokio::test]
async fn the_first_protocols_get_text_or_base64() {
    let kubelet = Kubelet::new();
    let process = kubelet.session();
    let mut socket = kubelet.socket(EXEC, "").await;
    assert_eq!(message(&mut socket).await, (1, String::new()));
    process.ends(0);
    // Success says nothing.
    closed(socket).await;

    let mut process = kubelet.session();
    let mut socket = kubelet.socket(EXEC, "base64.channel.k8s.io").await;
    assert_eq!(message(&mut socket).await, (b'1', String::new()));
    socket.send(Message::text("0aW5wdXQ=")).await.unwrap();
    let mut input = [0; 5];
    process.stdin.read_exact(&mut input).await.unwrap();
    assert_eq!(&input, b"input");
    process.ends(2);
    let (channel, text) = message(&mut socket).await;
    assert_eq!((channel, text.starts_with("Y29tbWFuZCB0ZXJtaW5hdGVk")), (b'3', true));
    closed(socket).await;
}

#[tokio::test]
async fn a_command_that_cannot_start_is_an_internal_error() {
    let kubelet = Kubelet::new();
    kubelet.script.sessions.lock().unwrap().push_back(Err(rt::Error::Other("no such file".into())));
    let mut socket = kubelet.socket(EXEC, "v5.channel.k8s.io").await;
    assert_eq!(message(&mut socket).await.0, 1);
    let (_, status) = message(&mut socket).await;
    let status: Value = serde_json::from_str(&status).unwrap();
    let message = "Internal error occurred: error executing command in container: no such file";
    assert_eq!((&status["reason"], &status["message"]), (&json!("InternalError"), &json!(message)));
    closed(socket).await;
}

#[tokio::test]
async fn a_client_that_goes_ends_the_session() {
    let kubelet = Kubelet::new();
    let mut process = kubelet.session();
    let socket = kubelet.socket(EXEC, "v5.channel.k8s.io").await;
    drop(socket);
    assert_eq!(process.read_to_end().await, "");
    process.output.closed().await;
    kubelet.ends().await;
}

#[tokio::test]
async fn a_message_that_is_wrong_ends_the_connection() {
    let kubelet = Kubelet::new();
    let process = kubelet.session();
    let mut socket = kubelet.socket(EXEC, "v5.channel.k8s.io").await;
    send(&mut socket, b"\xff").await;
    process.output.closed().await;
    kubelet.ends().await;
}

#[tokio::test]
async fn a_ping_is_answered() {
    let kubelet = Kubelet::new();
    let _process = kubelet.session();
    let mut socket = kubelet.socket(EXEC, "v5.channel.k8s.io").await;
    assert_eq!(message(&mut socket).await.0, 1);
    socket.send(Message::Ping(Bytes::from_static(b"?"))).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::Pong(Bytes::from_static(b"?")));
}

#[tokio::test]
async fn a_stopping_kubelet_says_so() {
    let kubelet = Kubelet::new();
    let _process = kubelet.session();
    let mut socket = kubelet.socket(EXEC, "v5.channel.k8s.io").await;
    assert_eq!(message(&mut socket).await.0, 1);
    kubelet.state.token.cancel();
    assert!(message(&mut socket).await.1.contains("shutting down"));
    closed(socket).await;
    kubelet.ends().await;
}

#[tokio::test]
async fn exec_by_spdy() {
    let kubelet = Kubelet::new();
    let mut process = kubelet.session();
    let mut client = kubelet.spdy(EXEC, "v4.channel.k8s.io, v3.channel.k8s.io", "v4.channel.k8s.io").await;
    for (stream, name) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr")] {
        client.opened(stream, &[("streamtype", name)]).await;
    }
    client.data(3, b"input").await;
    client.fin(3).await;
    assert_eq!(process.read_to_end().await, "input");
    process.out("out").await;
    process.err("err").await;
    process.ends(3);
    let mut all = client.until(Got::GoAway).await;
    let Got::Data(1, status) = all.remove(0) else { panic!("{all:?}") };
    let status: Value = serde_json::from_slice(&status).unwrap();
    assert_eq!(status["details"]["causes"][0]["message"], "3");
    let expected =
        [Got::Fin(1), Got::Data(5, b"out".into()), Got::Fin(5), Got::Data(7, b"err".into()), Got::Fin(7)];
    assert_eq!(all, expected);
    drop(client);
    kubelet.ends().await;
}

#[tokio::test]
async fn a_terminal_by_spdy() {
    let kubelet = Kubelet::new();
    let mut process = kubelet.session();
    let path = format!("{EXEC}&tty=1");
    let mut client = kubelet.spdy(&path, "v4.channel.k8s.io", "v4.channel.k8s.io").await;
    for (stream, name) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "resize")] {
        client.opened(stream, &[("streamtype", name)]).await;
    }
    client.data(7, b"{\"Width\":100,\"Height\":30}").await;
    assert_eq!(process.sizes.recv().await, Some((100, 30)));
    // A gone client ends it.
    drop(client);
    process.output.closed().await;
    kubelet.ends().await;
}

#[tokio::test]
async fn much_output_arrives_whole() {
    let kubelet = Kubelet::new();
    let process = kubelet.session();
    let mut client = kubelet.spdy(EXEC, "v4.channel.k8s.io", "v4.channel.k8s.io").await;
    for (stream, name) in [(1, "error"), (3, "stdin"), (5, "stdout"), (7, "stderr")] {
        client.opened(stream, &[("streamtype", name)]).await;
    }
    let writing = tokio::spawn(async move {
        for number in 0..200u8 {
            process.output.send(Ok(Output::Stdout(vec![number; 30_000].into()))).await.unwrap();
        }
        process.ends(0);
    });
    let all = client.until(Got::GoAway).await;
    writing.await.unwrap();
    let Some(Got::Data(_, data)) = all.iter().find(|got| matches!(got, Got::Data(5, _))) else { panic!() };
    assert_eq!(data.len(), 6_000_000);
    assert!(data.chunks(30_000).enumerate().all(|(number, chunk)| chunk.iter().all(|b| *b == number as u8)));
}

#[tokio::test]
async fn attach_ends_in_success_whatever_the_exit_code() {
    let kubelet = Kubelet::new();
    let process = kubelet.session();
    let mut socket = kubelet.socket("/attach/default/web/app?input=1&output=1", "v5.channel.k8s.io").await;
    assert_eq!(message(&mut socket).await.0, 1);
    process.out("hello").await;
    assert_eq!(message(&mut socket).await, (1, "hello".into()));
    process.ends(9);
    assert!(message(&mut socket).await.1.contains("Success"));
    closed(socket).await;
    assert_eq!(kubelet.script.asked(), ["attach id-app stdin=true replay=true"]);
}

#[tokio::test]
async fn attach_ends_with_its_container_even_if_the_engine_waits_on() {
    let kubelet = Kubelet::new();
    let Process { stdin, output, sizes, exit } = kubelet.session();
    let mut socket = kubelet.socket("/attach/default/web/app?input=1&output=1", "v5.channel.k8s.io").await;
    assert_eq!(message(&mut socket).await.0, 1);
    exit.send(Ok(0)).unwrap();
    output.send(Ok(Output::Stdout(Bytes::from_static(b"last words")))).await.unwrap();
    assert_eq!(message(&mut socket).await, (1, "last words".into()));
    assert!(message(&mut socket).await.1.contains("Success"));
    closed(socket).await;
    drop((stdin, output, sizes));
    kubelet.ends().await;
}

#[tokio::test]
#[allow(clippy::type_complexity, reason = "a table")]
async fn what_cannot_be_streamed_is_refused_in_words() {
    let kubelet = Kubelet::new();
    let upgrade = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1")];
    let old = [&upgrade[..], &[("X-Stream-Protocol-Version", "v9.channel.k8s.io")]].concat();
    let cases: [(&str, &[(&str, &str)], u16, &str); 12] = [
        ("/exec/default/none/app?command=x&output=1", &upgrade, 404, "pod \"none\" not found"),
        (
            "/exec/default/web/none?command=x&output=1",
            &upgrade,
            400,
            "container none is not valid for pod web",
        ),
        ("/exec/default/web/late?command=x&output=1", &upgrade, 400, "waiting to start: ContainerCreating"),
        ("/exec/default/web/init?command=x&output=1", &upgrade, 400, "is terminated"),
        ("/exec/default/web/app?output=1", &upgrade, 400, "you must specify a command"),
        ("/exec/default/web/app?command=x", &upgrade, 400, "at least 1 of stdin, stdout, stderr"),
        ("/exec/default/web/app?command=x&output=1", &[], 400, "Upgrade request required"),
        ("/exec/default/web/app?command=x&output=1", &upgrade, 400, "X-Stream-Protocol-Version is missing"),
        ("/exec/default/web/app?command=x&output=1", &old, 403, "client supports [v9.channel.k8s.io]"),
        ("/portForward/default/none", &upgrade, 404, "pod \"none\" not found"),
        ("/containerLogs/default/web/app?previous=true", &[], 400, "previous terminated container \"app\""),
        ("/nothing", &[], 404, "no such path"),
    ];
    for (path, headers, code, message) in cases {
        let (got, text) = kubelet.status(path, headers).await;
        assert_eq!(got, code, "{path}: {text}");
        assert!(text.contains(message), "{path}: {text}");
    }
}
