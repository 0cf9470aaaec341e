use super::{
    testing::{Got, TestClient},
    *,
};
use tokio::{io::DuplexStream, task::JoinHandle};

/// A client, the server's connection, and its driver.
fn pair(buffer: usize) -> (TestClient<DuplexStream>, Connection, JoinHandle<()>) {
    let (ours, theirs) = tokio::io::duplex(buffer);
    let (connection, driver) = serve(theirs);
    (TestClient::new(ours), connection, tokio::spawn(driver))
}

#[tokio::test]
async fn a_stream_carries_both_ways_and_half_closes() {
    let (mut client, mut connection, driver) = pair(1 << 10);
    client.opened(1, &[("streamtype", "stdin")]).await;
    let mut stream = connection.accept().await.unwrap();
    assert_eq!((stream.id, stream.headers.get("streamType")), (1, Some("stdin")));
    client.data(1, b"hello").await;
    client.fin(1).await;
    assert_eq!(stream.reader.next().await.as_deref(), Some(&b"hello"[..]));
    assert_eq!(stream.reader.next().await, None);
    // The other half is still open.
    stream.writer.send(Bytes::from_static(b"and back")).await.unwrap();
    stream.writer.finish().await;
    assert_eq!(client.next().await, Got::Data(1, b"and back".to_vec()));
    assert_eq!(client.next().await, Got::Fin(1));
    connection.close().await;
    assert_eq!(client.next().await, Got::GoAway);
    assert_eq!(client.next().await, Got::Eof);
    drop(client);
    driver.await.unwrap();
}

#[tokio::test]
async fn large_data_goes_through_in_pieces() {
    const SIZE: usize = 3 << 20;
    let (mut client, mut connection, _driver) = pair(10_000);
    client.opened(1, &[]).await;
    let stream = connection.accept().await.unwrap();
    let (mut reader, mut writer) = (stream.reader, stream.writer);
    let echo = tokio::spawn(async move {
        while let Some(bytes) = reader.next().await {
            assert!(bytes.len() <= CHUNK);
            writer.send(bytes).await.unwrap();
        }
        writer.finish().await;
    });
    let (mut back, mut updates) = (Vec::new(), 0);
    // In frames of 64 KiB, reading between them: echo and updates come along.
    for number in 0..SIZE / 65536 {
        client.data(1, &[number as u8; 65536]).await;
        while back.len() < number * 65536 {
            match client.next().await {
                Got::Data(1, data) => back.extend(data),
                Got::Other(9) => updates += 1,
                other => panic!("{other:?}"),
            }
        }
    }
    client.fin(1).await;
    loop {
        match client.next().await {
            Got::Data(1, data) => back.extend(data),
            Got::Other(9) => updates += 1,
            Got::Fin(1) => break,
            other => panic!("{other:?}"),
        }
    }
    echo.await.unwrap();
    assert_eq!(back.len(), SIZE);
    assert!(
        back.chunks(65536).enumerate().all(|(number, chunk)| chunk.iter().all(|byte| *byte == number as u8))
    );
    assert!(updates > 0);
}

#[tokio::test]
async fn who_does_not_read_is_not_read_from() {
    let (ours, theirs) = tokio::io::duplex(1 << 10);
    let (mut connection, driver) = serve(theirs);
    tokio::spawn(driver);
    let mut client = TestClient::new(ours);
    client.opened(1, &[]).await;
    let mut stream = connection.accept().await.unwrap();
    let sent = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = sent.clone();
    let sending = tokio::spawn(async move {
        for _ in 0..1000 {
            client.data(1, &[0; CHUNK]).await;
            count.fetch_add(CHUNK, std::sync::atomic::Ordering::SeqCst);
        }
        // Kept: a client that closes is gone both ways.
        client
    });
    // Every task runs until it must wait.
    for _ in 0..10_000 {
        tokio::task::yield_now().await;
    }
    let stuck = sent.load(std::sync::atomic::Ordering::SeqCst);
    assert!(stuck < (STREAM_QUEUE + 4) * CHUNK, "{stuck} bytes were taken although nobody reads");
    let mut read = 0;
    while read < 1000 * CHUNK {
        read += stream.reader.next().await.unwrap().len();
    }
    sending.await.unwrap();
}

#[tokio::test]
async fn pings_are_answered_and_not_echoed_for_ever() {
    let (mut client, _connection, _driver) = pair(1 << 10);
    client.ping(2).await;
    client.ping(7).await;
    assert_eq!(client.next().await, Got::Ping(7));
}

#[tokio::test]
async fn a_reset_ends_one_stream_only() {
    let (mut client, mut connection, _driver) = pair(1 << 10);
    client.opened(1, &[]).await;
    client.opened(3, &[]).await;
    let mut first = connection.accept().await.unwrap();
    let mut second = connection.accept().await.unwrap();
    client.reset(1).await;
    first.writer.given_up().await;
    assert_eq!(first.reader.next().await, None);
    assert_eq!(first.writer.send(Bytes::from_static(b"x")).await, Err(Gone));
    second.writer.send(Bytes::from_static(b"y")).await.unwrap();
    assert_eq!(client.next().await, Got::Data(3, b"y".to_vec()));
    second.writer.reset().await;
    assert_eq!(client.next().await, Got::Reset(3));
    // What is said to streams that are gone is dropped.
    client.data(1, b"late").await;
    client.fin(3).await;
    client.ping(1).await;
    assert_eq!(client.next().await, Got::Ping(1));
}

#[tokio::test]
async fn streams_are_bounded_and_free_their_place() {
    let (mut client, mut connection, _driver) = pair(1 << 16);
    let mut streams = Vec::new();
    for number in 0..MAX_STREAMS as u32 {
        client.opened(2 * number + 1, &[]).await;
        streams.push(connection.accept().await.unwrap());
    }
    let next = 2 * MAX_STREAMS as u32 + 1;
    client.open(next, &[]).await;
    assert_eq!(client.next().await, Got::Reset(next));
    // Closed by both sides, each order; and reset.
    client.fin(1).await;
    for (place, stream) in streams.into_iter().take(3).enumerate() {
        if place == 2 { stream.writer.reset().await } else { stream.writer.finish().await }
    }
    assert_eq!(client.until(Got::Reset(5)).await, [Got::Fin(1), Got::Fin(3)]);
    client.fin(3).await;
    for more in 1..=3 {
        client.opened(next + 2 * more, &[]).await;
        connection.accept().await.unwrap();
    }
    client.open(next + 8, &[]).await;
    assert_eq!(client.next().await, Got::Reset(next + 8));
}

#[tokio::test]
async fn what_is_no_spdy_ends_the_connection() {
    let frames: [&[u8]; 6] = [
        b"\x80\x02\0\x01\0\0\0\0",                                 // SPDY/2
        b"\x80\x03\0\x01\0\xff\xff\xff",                           // 16 MiB of headers
        b"\x80\x03\0\x01\0\0\0\x0c\0\0\0\x01\0\0\0\0\0\0\xff\xff", // headers that deflate did not make
        b"\x80\x03\0\x01\0\0\0\x04\0\0\0\x01",                     // cut short
        b"\x80\x03\0\x03\0\0\0\0",                                 // a reset of nothing
        b"\x80\x03\0\x06\0\0\0\x01\0",                             // a ping without an id
    ];
    for frame in frames {
        let (mut client, mut connection, driver) = pair(1 << 10);
        client.raw(frame).await;
        assert_eq!(client.next().await, Got::GoAway, "{frame:?}");
        assert_eq!(client.next().await, Got::Eof);
        assert!(connection.accept().await.is_none());
        assert!(connection.token().is_cancelled());
        driver.await.unwrap();
    }
}

#[tokio::test]
async fn an_old_or_even_stream_id_ends_the_connection() {
    for bad in [1, 2, 3] {
        let (mut client, mut connection, _driver) = pair(1 << 10);
        client.opened(3, &[]).await;
        let _stream = connection.accept().await.unwrap();
        client.open(bad, &[]).await;
        assert_eq!(client.next().await, Got::GoAway, "{bad}");
    }
}

#[tokio::test]
async fn a_client_that_vanishes_ends_everything() {
    let (mut client, mut connection, driver) = pair(1 << 10);
    client.opened(1, &[]).await;
    let mut stream = connection.accept().await.unwrap();
    drop(client);
    assert_eq!(stream.reader.next().await, None);
    stream.writer.given_up().await;
    assert!(connection.accept().await.is_none());
    driver.await.unwrap();
}

#[test]
fn fuzz_frames() {
    use super::{
        frame,
        headers::{Deflater, Headers},
    };
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut deflater = Deflater::new();
    let open =
        frame::client::open(1, &Headers::of(&[("streamtype", "stdin"), ("port", "80")]), &mut deflater);
    let (data, end) = (frame::client::data(1, false, b"hello"), frame::client::data(1, true, b""));
    let (ping, reset) = (frame::client::ping(7), frame::client::reset(1));
    let (whole, broken_off) = ([&open[..], &ping, &data, &end].concat(), [&open[..], &data, &reset].concat());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    api::fuzz::fuzz(1500, &[&whole, &broken_off], |input| {
        runtime.block_on(async {
            let (mut ours, theirs) = tokio::io::duplex(1 << 20);
            let (mut connection, driver) = serve(theirs);
            let (mut streams, mut answer) = (0, Vec::new());
            let take = async {
                while let Some(mut stream) = connection.accept().await {
                    streams += 1;
                    while stream.reader.next().await.is_some() {}
                }
            };
            let client = async {
                ours.write_all(input).await.unwrap();
                ours.shutdown().await.unwrap();
                let _ = ours.read_to_end(&mut answer).await;
            };
            let all = async { tokio::join!(driver, take, client) };
            timeout(Duration::from_secs(60), all)
                .await
                .expect("the connection of a client that is gone goes on");
            streams > 0
        })
    });
}
