//! The standard gRPC health check (grpc.health.v1.Health/Check), in plain text: one unary call over HTTP/2.

use bytes::Bytes;
use http::{Request, header};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;

/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u8 = 1;

pub(super) async fn check(address: &str, port: u16, service: &str) -> Result<(), String> {
    let text = |error: &dyn std::fmt::Display| error.to_string();
    let tcp = TcpStream::connect((address, port)).await;
    let tcp = tcp.map_err(|error| format!("timeout: failed to connect service {address}:{port}: {error}"))?;
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(tcp))
            .await
            .map_err(|error| text(&error))?;
    let request = Request::post(format!("http://{address}:{port}/grpc.health.v1.Health/Check"))
        .header(header::CONTENT_TYPE, "application/grpc")
        .header(header::TE, "trailers")
        .body(Full::new(request_frame(service)?))
        .map_err(|error| text(&error))?;
    let call = async {
        let response = sender.send_request(request).await.map_err(|error| text(&error))?;
        let body = response.into_body().collect().await.map_err(|error| text(&error))?;
        let code = body.trailers().and_then(|t| t.get("grpc-status")).cloned();
        if code.as_ref().is_some_and(|code| code != "0") {
            let message = body.trailers().and_then(|t| t.get("grpc-message")).cloned();
            return Err(format!("error: health rpc failed: status {code:?} {message:?}"));
        }
        match status(&body.to_bytes()) {
            SERVING => Ok(()),
            other => Err(format!("service unhealthy (responded with status {other})")),
        }
    };
    tokio::select! {
        done = call => done,
        ended = connection => Err(match ended {
            Ok(()) => "the connection was closed".to_owned(),
            Err(error) => text(&error),
        }),
    }
}

/// An uncompressed message of `HealthCheckRequest { string service = 1 }`.
fn request_frame(service: &str) -> Result<Bytes, String> {
    let length = u8::try_from(service.len()).ok().filter(|length| *length < 0x80);
    let length = length.ok_or("the service name of a gRPC probe is too long")?;
    let mut message = Vec::new();
    if length > 0 {
        message.extend([0x0a, length]);
        message.extend(service.as_bytes());
    }
    let mut frame = vec![0, 0, 0, 0, u8::try_from(message.len()).unwrap_or(u8::MAX)];
    frame.extend(message);
    Ok(frame.into())
}

/// Field 1 of `HealthCheckResponse`, behind the five bytes of the frame; a missing field is UNKNOWN (0).
fn status(body: &[u8]) -> u8 {
    match body.get(5..) {
        Some([0x08, value, ..]) => *value,
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames() {
        assert_eq!(request_frame("").unwrap().as_ref(), [0, 0, 0, 0, 0]);
        assert_eq!(request_frame("ab").unwrap().as_ref(), [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert!(request_frame(&"x".repeat(200)).is_err());
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), 1);
        assert_eq!(status(&[0, 0, 0, 0, 0]), 0);
    }
}
