//! Logs, as a body and over a WebSocket.

use super::*;

async fn body(mut connection: DuplexStream) -> String {
    let mut text = String::new();
    connection.read_to_string(&mut text).await.unwrap();
    text
}

#[tokio::test]
async fn logs_are_a_body() {
    let kubelet = Kubelet::new();
    let line = |text: &'static str| Ok(Output::Stdout(Bytes::from_static(text.as_bytes())));
    let lines = [line("2026-11-22T15:00:00.000000000Z one\n"), line("2026-11-22T15:00:01.000000000Z two\n")];
    *kubelet.script.logs.lock().unwrap() = Some(futures::stream::iter(lines).boxed());
    let path = "/containerLogs/default/web/init?tailLines=2";
    let (code, head, connection) = kubelet.request(path, &[("Connection", "close")]).await;
    assert_eq!(code, 200);
    assert!(head.contains("content-type: text/plain"), "{head}");
    assert_eq!(body(connection).await, "8\r\none\ntwo\n\r\n0\r\n\r\n");
    assert_eq!(kubelet.script.asked(), ["logs id-init follow=false tail=Some(2)"]);
    let (code, message) = kubelet.status(path, &[]).await;
    assert_eq!((code, message.as_str()), (404, "the log not found"));
}

#[tokio::test]
async fn a_followed_log_comes_as_it_is_written_and_ends_with_the_kubelet() {
    let kubelet = Kubelet::new();
    let (lines, log) = mpsc::channel(1);
    *kubelet.script.logs.lock().unwrap() = Some(ReceiverStream::new(log).boxed());
    let path = "/containerLogs/default/web/app?follow=true";
    let (_, _, mut connection) = kubelet.request(path, &[("Connection", "close")]).await;
    for _ in 0..3 {
        lines.send(Ok(Output::Stdout(Bytes::from_static(b"2026-11-22T15:00:00Z x\n")))).await.unwrap();
        let mut chunk = [0; 7];
        connection.read_exact(&mut chunk).await.unwrap();
        assert_eq!(&chunk, b"2\r\nx\n\r\n");
    }
    kubelet.state.token.cancel();
    assert_eq!(body(connection).await, "0\r\n\r\n");
    lines.closed().await;
    kubelet.ends().await;
}

#[tokio::test]
async fn logs_come_over_a_websocket_too() {
    let kubelet = Kubelet::new();
    for (protocol, text) in [("binary.k8s.io", "x\n"), ("base64.binary.k8s.io", "eAo=")] {
        let line = Ok(Output::Stderr(Bytes::from_static(b"2026-11-22T15:00:00Z x\n")));
        *kubelet.script.logs.lock().unwrap() = Some(futures::stream::iter([line]).boxed());
        let mut socket = kubelet.socket("/containerLogs/default/web/app", protocol).await;
        assert_eq!(socket.next().await.unwrap().unwrap().into_data(), text);
        closed(socket).await;
    }
    kubelet.ends().await;
}
