//! Ports of pods, by SPDY, by SPDY in a WebSocket, and by channels.

use super::*;

const FORWARD: &str = "/portForward/default/web";

/// Opens the two streams of a connection: error `id`, data `id + 2`.
async fn pair(client: &mut TestClient<DuplexStream>, id: u32, request: &str) {
    client.opened(id, &[("streamtype", "error"), ("port", "80"), ("requestid", request)]).await;
    client.opened(id + 2, &[("streamtype", "data"), ("port", "80"), ("requestid", request)]).await;
}

#[tokio::test]
async fn forward_by_spdy() {
    let kubelet = Kubelet::new();
    let (mut first, mut second) = (kubelet.dial(), kubelet.dial());
    let mut client = kubelet.spdy(FORWARD, "portforward.k8s.io", "portforward.k8s.io").await;
    pair(&mut client, 1, "0").await;
    client.fin(1).await;
    client.data(3, b"ping").await;
    // The first pair has its connection before the second dials.
    let mut buffer = [0; 4];
    first.read_exact(&mut buffer).await.unwrap();
    assert_eq!(&buffer, b"ping");
    pair(&mut client, 5, "1").await;
    client.fin(7).await;
    // The client's half is closed, the pod answers, then closes.
    let mut rest = String::new();
    second.read_to_string(&mut rest).await.unwrap();
    second.write_all(b"late answer").await.unwrap();
    drop(second);
    assert_eq!(client.until(Got::Fin(5)).await, [Got::Data(7, b"late answer".into()), Got::Fin(7)]);
    // The first goes on; the client gives it up by a reset.
    first.write_all(b"pong").await.unwrap();
    assert_eq!(client.next().await, Got::Data(3, b"pong".into()));
    client.reset(3).await;
    assert_eq!(client.next().await, Got::Fin(1));
    let mut end = Vec::new();
    first.read_to_end(&mut end).await.unwrap();
    assert_eq!(kubelet.script.asked(), ["dial id-POD 80", "dial id-POD 80"]);
    drop(client);
    kubelet.ends().await;
}

#[tokio::test]
async fn a_port_nobody_listens_on_is_an_error_on_its_own_streams() {
    let kubelet = Kubelet::new();
    kubelet.script.dials.lock().unwrap().push_back(Err(rt::Error::Other("connection refused".into())));
    let mut client = kubelet.spdy(FORWARD, "portforward.k8s.io", "portforward.k8s.io").await;
    pair(&mut client, 1, "0").await;
    let text = b"error forwarding port 80 to pod web, uid u1: connection refused".to_vec();
    assert_eq!(client.until(Got::Fin(1)).await, [Got::Data(1, text), Got::Reset(3)]);
    // The connection serves the next one.
    let mut pod = kubelet.dial();
    pair(&mut client, 5, "1").await;
    client.data(7, b"x").await;
    assert_eq!(pod.read_u8().await.unwrap(), b'x');
}

#[tokio::test]
async fn wrong_forward_streams_are_reset() {
    let kubelet = Kubelet::new();
    let mut client = kubelet.spdy(FORWARD, "portforward.k8s.io", "portforward.k8s.io").await;
    let wrong: [&[(&str, &str)]; 4] = [
        &[("streamtype", "data"), ("requestid", "1")],
        &[("streamtype", "data"), ("port", "0"), ("requestid", "1")],
        &[("streamtype", "data"), ("port", "http"), ("requestid", "1")],
        &[("streamtype", "stdin"), ("port", "80"), ("requestid", "1")],
    ];
    for (number, headers) in (0..).zip(wrong) {
        client.opened(2 * number + 1, headers).await;
        assert_eq!(client.next().await, Got::Reset(2 * number + 1));
    }
    // The same half twice.
    client.opened(21, &[("streamtype", "data"), ("port", "80"), ("requestid", "1")]).await;
    client.opened(23, &[("streamtype", "data"), ("port", "80"), ("requestid", "1")]).await;
    assert_eq!(client.next().await, Got::Reset(23));
}

#[tokio::test]
async fn forward_by_spdy_inside_a_websocket() {
    let kubelet = Kubelet::new();
    let mut pod = kubelet.dial();
    let socket = kubelet.socket(FORWARD, "SPDY/3.1+portforward.k8s.io").await;
    let mut client = TestClient::new(crate::stream::tunnel::Tunnel::new(socket));
    client.opened(1, &[("streamtype", "error"), ("port", "80"), ("requestid", "0")]).await;
    client.opened(3, &[("streamtype", "data"), ("port", "80"), ("requestid", "0")]).await;
    client.data(3, &[7; 100_000]).await;
    client.fin(3).await;
    let mut seen = Vec::new();
    pod.read_to_end(&mut seen).await.unwrap();
    assert_eq!(seen.len(), 100_000);
    pod.write_all(b"answer").await.unwrap();
    drop(pod);
    let all = client.until(Got::Fin(1)).await;
    assert!(all.contains(&Got::Data(3, b"answer".into())) && all.contains(&Got::Fin(3)), "{all:?}");
    drop(client);
    kubelet.ends().await;
}

#[tokio::test]
async fn forward_by_channels() {
    let kubelet = Kubelet::new();
    let (mut http, _other) = (kubelet.dial(), kubelet.dial());
    let mut socket = kubelet.socket(&format!("{FORWARD}?ports=80,8080"), "v4.channel.k8s.io").await;
    let mut greetings = Vec::new();
    for _ in 0..4 {
        greetings.push(socket.next().await.unwrap().unwrap().into_data().to_vec());
    }
    greetings.sort();
    assert_eq!(greetings, [[0, 80, 0], [1, 80, 0], [2, 0x90, 0x1f], [3, 0x90, 0x1f]]);
    send(&mut socket, b"\x00ping").await;
    let mut buffer = [0; 4];
    http.read_exact(&mut buffer).await.unwrap();
    http.write_all(b"pong").await.unwrap();
    assert_eq!(message(&mut socket).await, (0, "pong".into()));
    drop(socket);
    let mut end = Vec::new();
    http.read_to_end(&mut end).await.unwrap();
    kubelet.ends().await;
}

#[tokio::test]
async fn a_channel_forward_that_fails_says_why_and_closes() {
    let kubelet = Kubelet::new();
    kubelet.script.dials.lock().unwrap().push_back(Err(rt::Error::Other("refused".into())));
    let mut socket = kubelet.socket(&format!("{FORWARD}?ports=80"), "portforward.k8s.io").await;
    assert_eq!(message(&mut socket).await.0, 0);
    assert_eq!(message(&mut socket).await.0, 1);
    assert_eq!(
        message(&mut socket).await,
        (1, "error forwarding port 80 to pod web, uid u1: refused".into())
    );
    closed(socket).await;
}
