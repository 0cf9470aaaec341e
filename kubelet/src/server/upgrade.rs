//! From an HTTP request to a byte stream: which protocol both sides speak, and the 101 that says so.

use super::Failure;
use crate::stream::websocket;
use axum::{body::Body, extract::Request, response::Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use std::time::Duration;
use tokio::time::timeout;
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{handshake::derive_accept_key, protocol::Role},
};

const STREAM_PROTOCOL: HeaderName = HeaderName::from_static("x-stream-protocol-version");
pub(super) const ACCEPTED_PROTOCOLS: HeaderName =
    HeaderName::from_static("x-accepted-stream-protocol-versions");
const SPDY: &str = "SPDY/3.1";

/// From our 101 until the connection is free for what comes after it: as long as it takes to write one head.
const UPGRADE_DEADLINE: Duration = Duration::from_secs(10);

pub(super) type Socket = WebSocketStream<TokioIo<Upgraded>>;

/// What the client wants to become of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wanted {
    WebSocket,
    Spdy,
}

/// `None` for an ordinary request.
pub(super) fn wanted(headers: &HeaderMap) -> Option<Wanted> {
    if !listed(headers, &header::CONNECTION).any(|token| token.eq_ignore_ascii_case("upgrade")) {
        return None;
    }
    let wants = |name: &str| listed(headers, &header::UPGRADE).any(|token| token.eq_ignore_ascii_case(name));
    if wants("websocket") {
        Some(Wanted::WebSocket)
    } else if wants(SPDY) {
        Some(Wanted::Spdy)
    } else {
        None
    }
}

/// The values of a header that is a list, over however many lines.
fn listed<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a str> {
    let lines = headers.get_all(name).into_iter().filter_map(|line| line.to_str().ok());
    lines.flat_map(|line| line.split(',')).map(str::trim).filter(|value| !value.is_empty())
}

/// The client's first choice among ours. Only a WebSocket may name none, which is the protocol `""`.
fn choose<T: Copy>(offered: &[&str], ours: &[(&'static str, T)]) -> Option<(&'static str, T)> {
    let offered = if offered.is_empty() { &[""] } else { offered };
    offered.iter().find_map(|offer| ours.iter().find(|(name, _)| name == offer)).copied()
}

/// An upgrade both sides agree on.
pub(super) struct Agreed<T> {
    /// The answer, to be sent.
    pub(super) response: Response,
    /// What belongs to the chosen protocol.
    pub(super) choice: T,
    pub(super) upgrade: OnUpgrade,
}

/// The connection, once the answer is on its way; `None` if the client is gone by then.
pub(super) async fn bytes(upgrade: OnUpgrade) -> Option<TokioIo<Upgraded>> {
    match timeout(UPGRADE_DEADLINE, upgrade).await {
        Ok(Ok(upgraded)) => Some(TokioIo::new(upgraded)),
        Ok(Err(error)) => {
            tracing::debug!(%error, "an upgrade did not come about");
            None
        }
        Err(_) => {
            tracing::debug!("an upgrade did not come about in time");
            None
        }
    }
}

pub(super) async fn socket(upgrade: OnUpgrade) -> Option<Socket> {
    let bytes = bytes(upgrade).await?;
    Some(WebSocketStream::from_raw_socket(bytes, Role::Server, Some(websocket::config())).await)
}

/// Agrees on a WebSocket with one of our subprotocols (RFC 6455, section 4.2).
pub(super) fn websocket<T: Copy>(
    request: &mut Request,
    ours: &[(&'static str, T)],
) -> Result<Agreed<T>, Failure> {
    let headers = request.headers();
    if headers.get(header::SEC_WEBSOCKET_VERSION).is_none_or(|version| version != "13") {
        return Err(Failure::bad_request("unable to upgrade: the WebSocket version must be 13"));
    }
    let Some(key) = headers.get(header::SEC_WEBSOCKET_KEY) else {
        return Err(Failure::bad_request("unable to upgrade: the header Sec-WebSocket-Key is missing"));
    };
    let accept = derive_accept_key(key.as_bytes());
    let offered: Vec<&str> = listed(headers, &header::SEC_WEBSOCKET_PROTOCOL).collect();
    let Some((name, choice)) = choose(&offered, ours) else {
        return Err(unacceptable(&offered, ours));
    };
    let mut answer = vec![(header::UPGRADE, "websocket".to_owned()), (header::SEC_WEBSOCKET_ACCEPT, accept)];
    if !name.is_empty() {
        answer.push((header::SEC_WEBSOCKET_PROTOCOL, name.to_owned()));
    }
    agree(request, answer, choice)
}

/// Agrees on SPDY/3.1 with one of our stream protocols.
pub(super) fn spdy<T: Copy>(request: &mut Request, ours: &[(&'static str, T)]) -> Result<Agreed<T>, Failure> {
    let offered: Vec<&str> = listed(request.headers(), &STREAM_PROTOCOL).collect();
    if offered.is_empty() {
        let message = "unable to upgrade: the header X-Stream-Protocol-Version is missing";
        return Err(Failure::bad_request(message));
    }
    let Some((name, choice)) = choose(&offered, ours) else {
        return Err(unacceptable(&offered, ours));
    };
    agree(request, vec![(header::UPGRADE, SPDY.to_owned()), (STREAM_PROTOCOL, name.to_owned())], choice)
}

fn unacceptable<T>(offered: &[&str], ours: &[(&'static str, T)]) -> Failure {
    let accepted: Vec<_> = ours.iter().map(|(name, _)| *name).filter(|name| !name.is_empty()).collect();
    let message = format!(
        "unable to upgrade: unable to negotiate protocol: client supports [{}], server accepts [{}]",
        offered.join(" "),
        accepted.join(" "),
    );
    Failure { accepted, ..Failure::new(StatusCode::FORBIDDEN, "Forbidden", message) }
}

fn agree<T>(
    request: &mut Request,
    headers: Vec<(HeaderName, String)>,
    choice: T,
) -> Result<Agreed<T>, Failure> {
    let upgrade = hyper::upgrade::on(&mut *request);
    let mut response = Response::builder()
        .status(StatusCode::SWITCHING_PROTOCOLS)
        .header(header::CONNECTION, HeaderValue::from_static("Upgrade"));
    for (name, value) in headers {
        response = response.header(name, value);
    }
    let response = response.body(Body::empty());
    // Cannot fail: every value is one of ours, or base64.
    let response = response.map_err(|error| Failure::bad_request(error.to_string()))?;
    Ok(Agreed { response, choice, upgrade })
}

/// For a request without an upgrade to a path that needs one.
pub(super) fn required() -> Failure {
    Failure::bad_request("Upgrade request required")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    #[allow(clippy::type_complexity, reason = "a table")]
    fn upgrades_are_recognised() {
        let cases: [(&[(&str, &str)], Option<Wanted>); 6] = [
            (&[("connection", "Upgrade"), ("upgrade", "websocket")], Some(Wanted::WebSocket)),
            (&[("connection", "keep-alive, Upgrade"), ("upgrade", "WebSocket")], Some(Wanted::WebSocket)),
            (&[("connection", "upgrade"), ("upgrade", "SPDY/3.1")], Some(Wanted::Spdy)),
            (&[("connection", "upgrade"), ("upgrade", "h2c")], None),
            (&[("upgrade", "websocket")], None),
            (&[], None),
        ];
        for (pairs, expected) in cases {
            assert_eq!(wanted(&headers(pairs)), expected, "{pairs:?}");
        }
    }

    #[test]
    fn fuzz_upgrade_requests() {
        let ours = [("v5.channel.k8s.io", 5), ("v4.channel.k8s.io", 4), ("", 0)];
        let corpus: [&[u8]; 3] = [
            b"connection: keep-alive, Upgrade\nupgrade: websocket\nsec-websocket-version: 13\n\
              sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\nsec-websocket-protocol: v6.channel.k8s.io, v5.channel.k8s.io",
            b"connection: upgrade\nupgrade: SPDY/3.1\nx-stream-protocol-version: v4.channel.k8s.io\n\
              x-stream-protocol-version: channel.k8s.io",
            b"connection: upgrade\nconnection: close\nupgrade: h2c, websocket\nsec-websocket-key: x",
        ];
        api::fuzz::fuzz(5000, &corpus, |input| {
            let mut request = Request::new(Body::empty());
            for line in input.split(|b| *b == b'\n') {
                let Some(at) = line.iter().position(|b| *b == b':') else { continue };
                let name = HeaderName::from_bytes(line[..at].trim_ascii());
                let value = HeaderValue::from_bytes(line[at + 1..].trim_ascii());
                if let (Ok(name), Ok(value)) = (name, value) {
                    request.headers_mut().append(name, value);
                }
            }
            let agreed = match wanted(request.headers()) {
                Some(Wanted::WebSocket) => websocket(&mut request, &ours),
                Some(Wanted::Spdy) => spdy(&mut request, &ours[..2]),
                None => return false,
            };
            match agreed {
                Ok(agreed) => {
                    assert_eq!(agreed.response.status(), StatusCode::SWITCHING_PROTOCOLS);
                    true
                }
                // Told why, and never that it is our fault.
                Err(failure) => {
                    assert!(failure.code.is_client_error());
                    false
                }
            }
        });
    }

    #[test]
    fn the_clients_first_choice_that_we_speak_wins() {
        let ours = [("v4", 4), ("v5", 5), ("", 0)];
        assert_eq!(choose(&["v6", "v5", "v4"], &ours), Some(("v5", 5)));
        assert_eq!(choose(&["v4", "v5"], &ours), Some(("v4", 4)));
        assert_eq!(choose(&[], &ours), Some(("", 0)));
        assert_eq!(choose(&["v6"], &ours), None);
        assert_eq!(choose(&[], &ours[..2]), None);
    }
}
