//! What a page behind a proxy says about itself, told so that a browser comes back through the proxy.
//!
//! The rules are those of Kubernetes' proxy transport: absolute paths, and absolute URLs of the same host, get the
//! proxy's path in front; relative links and foreign hosts stay.

use super::html;
use crate::error::{ApiError, Result};
use axum::{body::Body, response::Response};
use bytes::Bytes;
use flate2::read::MultiGzDecoder;
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt;
use std::{borrow::Cow, io::Read};

/// Pages larger than this go through as they are: they would have to be held in memory to be changed.
const MAX_PAGE: usize = 8 << 20;

/// Where the backend appears to be.
#[derive(Debug, Clone)]
pub(super) struct Prefix {
    /// `/api/v1/namespaces/NS/pods/NAME/proxy`
    pub(super) path: String,
    /// Host (and port) of the backend.
    pub(super) backend: String,
    /// Host (and port) the client asked for.
    pub(super) client: String,
}

impl Prefix {
    /// A link as the client must follow it.
    pub(super) fn url<'a>(&self, url: &'a str) -> Cow<'a, str> {
        let (origin, host, path) = split(url);
        // No path, or a relative one.
        if !path.starts_with('/') {
            return Cow::Borrowed(url);
        }
        if host.is_some_and(|h| h != self.backend && h != self.client) {
            return Cow::Borrowed(url);
        }
        // A link that names the client's own host keeps it; the backend's own address means nothing outside.
        let origin = if host == Some(self.client.as_str()) { origin } else { "" };
        let inside = path.strip_prefix(self.path.as_str());
        if inside.is_some_and(|rest| rest.is_empty() || rest.starts_with(['/', '?', '#'])) {
            return Cow::Owned(format!("{origin}{path}"));
        }
        Cow::Owned(format!("{origin}{}{path}", self.path))
    }

    /// A cookie for an absolute path belongs below the proxy, not to the whole API server.
    fn cookie(&self, cookie: &str) -> String {
        let attributes = cookie.split(';').enumerate().map(|(i, attribute)| {
            let Some((key, value)) = attribute.split_once('=').filter(|_| i > 0) else {
                return attribute.to_owned();
            };
            if key.trim().eq_ignore_ascii_case("path") && value.trim().starts_with('/') {
                format!("{key}={}", self.url(value.trim()))
            } else {
                attribute.to_owned()
            }
        });
        attributes.collect::<Vec<_>>().join(";")
    }
}

/// `scheme://host`, host, and what follows.
fn split(url: &str) -> (&str, Option<&str>, &str) {
    let after = match url.find("//") {
        Some(0) => 2,
        Some(at) if is_scheme(&url[..at]) => at + 2,
        _ => return ("", None, url),
    };
    let end = url[after..].find(['/', '?', '#']).map_or(url.len(), |at| after + at);
    (&url[..end], Some(&url[after..end]), &url[end..])
}

/// `http:`
fn is_scheme(text: &str) -> bool {
    let Some(name) = text.strip_suffix(':') else { return false };
    name.starts_with(|c: char| c.is_ascii_alphabetic())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || "+-.".contains(c))
}

/// The backend's answer, with its links turned.
pub(super) async fn response(prefix: &Prefix, method: &Method, mut response: Response) -> Result<Response> {
    let headers = response.headers_mut();
    let cookies: Vec<HeaderValue> = headers.get_all(header::SET_COOKIE).iter().cloned().collect();
    if !cookies.is_empty() {
        headers.remove(header::SET_COOKIE);
        for cookie in cookies {
            let turned = cookie.to_str().ok().and_then(|c| HeaderValue::try_from(prefix.cookie(c)).ok());
            headers.append(header::SET_COOKIE, turned.unwrap_or(cookie));
        }
    }
    if let Some(location) = headers.get(header::LOCATION).and_then(|l| l.to_str().ok()) {
        if let Ok(turned) = HeaderValue::try_from(prefix.url(location).as_ref()) {
            headers.insert(header::LOCATION, turned);
        }
        return Ok(response);
    }
    let bodiless = *method == Method::HEAD
        || matches!(
            response.status(),
            StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED | StatusCode::PARTIAL_CONTENT
        );
    if bodiless || !is_html(&response) {
        return Ok(response);
    }
    page(prefix, response).await
}

fn is_html(response: &Response) -> bool {
    let content_type = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    content_type.and_then(|v| v.split(';').next()).is_some_and(|v| v.trim().eq_ignore_ascii_case("text/html"))
}

async fn page(prefix: &Prefix, response: Response) -> Result<Response> {
    let gzip = match response.headers().get(header::CONTENT_ENCODING).map(|v| v.as_bytes()) {
        None | Some(b"identity") => false,
        Some(b"gzip") => true,
        // Not understood, so not touched.
        Some(_) => return Ok(response),
    };
    let (mut parts, body) = response.into_parts();
    let (held, rest) = gather(body).await?;
    if let Some(rest) = rest {
        return Ok(Response::from_parts(parts, rest));
    }
    let plain = if gzip { gunzip(&held) } else { Some(held.clone()) };
    let Some(plain) = plain else { return Ok(Response::from_parts(parts, Body::from(held))) };
    let turned = html::rewrite(&plain, |url| prefix.url(url).into_owned());
    // The page is another one now: its length, its coding and its digest were the old one's.
    for name in [header::CONTENT_LENGTH, header::CONTENT_ENCODING, header::ETAG] {
        parts.headers.remove(name);
    }
    Ok(Response::from_parts(parts, Body::from(turned)))
}

/// The whole body, or, if it is too large, a body that is as it was.
async fn gather(mut body: Body) -> Result<(Bytes, Option<Body>)> {
    let mut held = Vec::new();
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| ApiError::BadGateway(format!("error trying to reach service: {e}")))?;
        let Ok(data) = frame.into_data() else { continue };
        held.extend_from_slice(&data);
        if held.len() > MAX_PAGE {
            let first = futures::stream::once(std::future::ready(Ok(Bytes::from(held))));
            let all = futures::StreamExt::chain(first, body.into_data_stream());
            return Ok((Bytes::new(), Some(Body::from_stream(all))));
        }
    }
    Ok((held.into(), None))
}

/// `None` if it is no gzip or grows beyond the bound.
fn gunzip(bytes: &[u8]) -> Option<Bytes> {
    let mut plain = Vec::new();
    let limit = u64::try_from(MAX_PAGE).unwrap_or(u64::MAX) + 1;
    MultiGzDecoder::new(bytes).take(limit).read_to_end(&mut plain).ok()?;
    (plain.len() <= MAX_PAGE).then(|| plain.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prefix() -> Prefix {
        Prefix {
            path: "/api/v1/namespaces/d/pods/web/proxy".to_owned(),
            backend: "10.244.1.5:8080".to_owned(),
            client: "localhost:8001".to_owned(),
        }
    }

    #[test]
    fn links_to_the_same_server_come_back_through_the_proxy() {
        let p = "/api/v1/namespaces/d/pods/web/proxy";
        let table = [
            ("/", format!("{p}/")),
            ("/a/b?x=/y#z", format!("{p}/a/b?x=/y#z")),
            ("a/b", "a/b".into()),
            ("", "".into()),
            ("?q=1", "?q=1".into()),
            ("#top", "#top".into()),
            ("mailto:a@b", "mailto:a@b".into()),
            ("a//b", "a//b".into()),
            ("http://10.244.1.5:8080/a", format!("{p}/a")),
            ("http://10.244.1.5:8080", "http://10.244.1.5:8080".into()),
            ("//10.244.1.5:8080/a", format!("{p}/a")),
            ("http://localhost:8001/a", format!("http://localhost:8001{p}/a")),
            ("https://example.com/a", "https://example.com/a".into()),
            ("//example.com/a", "//example.com/a".into()),
            ("/api/v1/namespaces/d/pods/web/proxy/a", format!("{p}/a")),
            ("/api/v1/namespaces/d/pods/web/proxyless", format!("{p}{p}less")),
        ];
        for (given, expected) in table {
            assert_eq!(prefix().url(given), expected, "{given}");
        }
    }

    #[test]
    fn cookies_stay_below_the_proxy() {
        let p = "/api/v1/namespaces/d/pods/web/proxy";
        let table = [
            ("a=b; Path=/; HttpOnly", format!("a=b; Path={p}/; HttpOnly")),
            ("a=b;path=/x", format!("a=b;path={p}/x")),
            ("a=b", "a=b".to_owned()),
            ("path=/x; Secure", "path=/x; Secure".to_owned()),
        ];
        for (given, expected) in table {
            assert_eq!(prefix().cookie(given), expected);
        }
    }

    async fn turned(encoding: Option<&str>, body: Vec<u8>) -> (http::HeaderMap, Bytes) {
        let mut page = Response::new(Body::from(body));
        page.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
        if let Some(encoding) = encoding {
            page.headers_mut().insert(header::CONTENT_ENCODING, HeaderValue::from_str(encoding).unwrap());
        }
        let page = response(&prefix(), &Method::GET, page).await.unwrap();
        let (parts, body) = page.into_parts();
        (parts.headers, body.collect().await.unwrap().to_bytes())
    }

    #[tokio::test]
    async fn pages_are_turned_whatever_their_coding() {
        let page = b"<a href='/x'>x</a>".to_vec();
        let expected = "<a href='/api/v1/namespaces/d/pods/web/proxy/x'>x</a>";
        assert_eq!(turned(None, page.clone()).await.1, expected);

        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        std::io::Write::write_all(&mut gzip, &page).unwrap();
        let (headers, body) = turned(Some("gzip"), gzip.finish().unwrap()).await;
        assert_eq!((headers.get(header::CONTENT_ENCODING), body.as_ref()), (None, expected.as_bytes()));

        // Not understood: as it came.
        let (headers, body) = turned(Some("br"), page.clone()).await;
        assert_eq!(
            (headers[header::CONTENT_ENCODING].as_bytes(), body.as_ref()),
            (b"br".as_ref(), page.as_slice())
        );
        let (headers, body) = turned(Some("gzip"), page.clone()).await;
        assert_eq!(
            (headers[header::CONTENT_ENCODING].as_bytes(), body.as_ref()),
            (b"gzip".as_ref(), page.as_slice())
        );
    }

    #[tokio::test]
    async fn a_huge_page_goes_through_as_it_is() {
        let mut huge = b"<a href='/x'>".to_vec();
        huge.resize(MAX_PAGE + 1, b' ');
        let (_, body) = turned(None, huge.clone()).await;
        assert!(body == huge);
    }

    #[tokio::test]
    async fn redirects_and_other_types() {
        let mut moved = Response::new(Body::empty());
        *moved.status_mut() = StatusCode::FOUND;
        moved.headers_mut().insert(header::LOCATION, HeaderValue::from_static("/login"));
        let moved = response(&prefix(), &Method::GET, moved).await.unwrap();
        assert_eq!(moved.headers()[header::LOCATION], "/api/v1/namespaces/d/pods/web/proxy/login");

        let mut text = Response::new(Body::from("<a href='/x'>"));
        text.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain"));
        let text = response(&prefix(), &Method::GET, text).await.unwrap();
        assert_eq!(text.into_body().collect().await.unwrap().to_bytes(), "<a href='/x'>");
    }
}
