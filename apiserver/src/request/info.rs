//! What a request is about, read from its method and path alone: authentication, authorization, admission, routing and
//! metrics all look at this and never at the path again.
//!
//! The grammar is Kubernetes' (`/api/v1/namespaces/NS/RESOURCE/NAME/SUBRESOURCE/…`, `/apis/GROUP/VERSION/…`, and the old
//! `/api/v1/watch/…`). Nothing here knows which resources exist.

use super::options::Query;
use crate::{
    auth::authz,
    error::{ApiError, Result},
};
use api::selector::FieldSelector;
use http::{Method, Uri};

/// Subresources of a namespace itself; any other third segment is a resource inside it.
const NAMESPACE_SUBRESOURCES: [&str; 2] = ["status", "finalize"];

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RequestInfo {
    /// False for discovery, health, version and the like: then only `path` and `verb` are set.
    pub is_resource: bool,
    /// As sent, without the query, without a trailing slash (but `/`).
    pub path: String,
    /// `get list watch create update patch delete deletecollection`; for other paths the method in lower case.
    pub verb: &'static str,
    /// Empty for the core group.
    pub group: String,
    pub version: String,
    /// The plural: `pods`.
    pub resource: String,
    pub subresource: String,
    /// Empty for cluster-scoped resources and for all namespaces. For a namespace itself: its own name, as in Kubernetes.
    pub namespace: String,
    pub name: String,
    /// The only name that a list or a watch can be about, by its field selector: for authorization it is the request's name,
    /// so that who may see some objects by their names may list and watch each of them.
    pub selected: String,
    /// What follows the subresource, as sent (still percent-encoded), with its leading slash: the path a proxy passes on.
    /// Empty when nothing follows; `/` when only a slash does.
    pub remainder: String,
}

impl RequestInfo {
    pub fn parse(method: &Method, uri: &Uri) -> Result<Self> {
        let path = uri.path();
        let trimmed = path.trim_end_matches('/');
        let mut info = Self {
            path: if trimmed.is_empty() { "/".to_owned() } else { trimmed.to_owned() },
            verb: method_name(method),
            ..Self::default()
        };
        // Where each segment ends is remembered for the remainder, which must be passed on byte for byte.
        let segments = Segments::of(path);
        let mut parts = segments.parts.as_slice();
        match parts.first().map(|p| p.text) {
            Some("api") if parts.len() >= 3 => {
                info.version = decode(parts[1].text)?;
                parts = &parts[2..];
            }
            Some("apis") if parts.len() >= 4 => {
                info.group = decode(parts[1].text)?;
                info.version = decode(parts[2].text)?;
                parts = &parts[3..];
            }
            _ => return Ok(info),
        }
        info.is_resource = true;
        info.verb = match *method {
            Method::POST => "create",
            Method::GET | Method::HEAD => "get",
            Method::PUT => "update",
            Method::PATCH => "patch",
            Method::DELETE => "delete",
            _ => method_name(method),
        };
        let old_watch = parts.first().is_some_and(|p| p.text == "watch") && parts.len() > 1;
        if old_watch {
            info.verb = "watch";
            parts = &parts[1..];
        }
        if parts.first().is_some_and(|p| p.text == "namespaces") && parts.len() > 1 {
            info.namespace = decode(parts[1].text)?;
            if parts.len() > 2 && !NAMESPACE_SUBRESOURCES.contains(&parts[2].text) {
                parts = &parts[2..];
            }
        }
        if let Some(part) = parts.first() {
            info.resource = decode(part.text)?;
        }
        if let Some(part) = parts.get(1) {
            info.name = decode(part.text)?;
        }
        if let Some(part) = parts.get(2) {
            info.subresource = decode(part.text)?;
            info.remainder = path[part.end..].to_owned();
        }
        if info.name.is_empty() {
            info.verb = match info.verb {
                "get" if wants_watch(uri) => "watch",
                "get" => "list",
                "delete" => "deletecollection",
                verb => verb,
            };
            if matches!(info.verb, "list" | "watch") {
                info.selected = selected(uri);
            }
        }
        Ok(info)
    }

    /// Whether the answer lasts as long as the client likes: such requests take no in-flight slot and have no deadline.
    pub fn is_long_running(&self) -> bool {
        self.verb == "watch"
            || (self.is_resource
                && matches!(self.subresource.as_str(), "log" | "exec" | "attach" | "portforward" | "proxy"))
    }

    /// Whether the server is alive and ready: asked for when it is not well, and so never sent away.
    pub fn is_health(&self) -> bool {
        let first = self.path.split('/').nth(1).unwrap_or_default();
        !self.is_resource && matches!(first, "livez" | "readyz" | "healthz")
    }

    /// `pods/log`, as authorization and metrics name it.
    pub fn resource_path(&self) -> String {
        if self.subresource.is_empty() {
            self.resource.clone()
        } else {
            format!("{}/{}", self.resource, self.subresource)
        }
    }
}

impl<'a> From<&'a RequestInfo> for authz::Attributes<'a> {
    fn from(info: &'a RequestInfo) -> Self {
        Self {
            verb: info.verb,
            group: &info.group,
            version: &info.version,
            resource: &info.resource,
            subresource: &info.subresource,
            namespace: &info.namespace,
            name: if info.name.is_empty() { &info.selected } else { &info.name },
            path: &info.path,
        }
    }
}

struct Part<'a> {
    text: &'a str,
    /// Offset in the path just after this segment.
    end: usize,
}

struct Segments<'a> {
    parts: Vec<Part<'a>>,
}

impl<'a> Segments<'a> {
    /// Empty segments (`//`, leading and trailing slashes) count for nothing.
    fn of(path: &'a str) -> Self {
        let mut parts = Vec::with_capacity(8);
        let mut offset = 0;
        for text in path.split('/') {
            let end = offset + text.len();
            if !text.is_empty() {
                parts.push(Part { text, end });
            }
            offset = end + 1;
        }
        Self { parts }
    }
}

fn method_name(method: &Method) -> &'static str {
    match *method {
        Method::GET => "get",
        Method::HEAD => "head",
        Method::POST => "post",
        Method::PUT => "put",
        Method::PATCH => "patch",
        Method::DELETE => "delete",
        Method::OPTIONS => "options",
        _ => "",
    }
}

/// `?watch`, `?watch=1`, `?watch=true`; not `watch=0` and `watch=false`.
fn wants_watch(uri: &Uri) -> bool {
    uri.query().unwrap_or_default().split('&').any(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        name == "watch" && !matches!(value.to_ascii_lowercase().as_str(), "0" | "false")
    })
}

/// The name that `fieldSelector=metadata.name=NAME` asks for; empty without one.
fn selected(uri: &Uri) -> String {
    if !uri.query().is_some_and(|query| query.contains("fieldSelector")) {
        return String::new();
    }
    let query = Query::of(uri);
    let fields = FieldSelector::parse(query.get("fieldSelector").unwrap_or_default()).unwrap_or_default();
    let name = fields.exact("metadata.name").unwrap_or_default();
    if check_segment("Name", name).is_ok() { name.to_owned() } else { String::new() }
}

/// Percent-decodes one segment.
fn decode(segment: &str) -> Result<String> {
    if !segment.contains('%') {
        return Ok(segment.to_owned());
    }
    let bad = || ApiError::BadRequest(format!("invalid URL escape in path segment {segment:?}"));
    let mut out = Vec::with_capacity(segment.len());
    let mut bytes = segment.bytes();
    while let Some(byte) = bytes.next() {
        if byte != b'%' {
            out.push(byte);
            continue;
        }
        let hex = |b: Option<u8>| b.and_then(|b| char::from(b).to_digit(16));
        let (high, low) = (hex(bytes.next()), hex(bytes.next()));
        match (high, low) {
            (Some(high), Some(low)) => out.push(u8::try_from(high * 16 + low).map_err(|_| bad())?),
            _ => return Err(bad()),
        }
    }
    String::from_utf8(out).map_err(|_| bad())
}

/// Why a name may not be used as a path segment of a storage key. A check on top of each kind's own rules: whatever
/// passes here cannot leave its place in the key space.
pub fn check_segment(what: &str, value: &str) -> Result<()> {
    let why = match value {
        "." | ".." => Some(format!("may not be '{value}'")),
        _ if value.contains('/') => Some("may not contain '/'".to_owned()),
        _ if value.contains('%') => Some("may not contain '%'".to_owned()),
        _ if value.chars().any(char::is_control) => Some("may not contain control characters".to_owned()),
        _ if value.len() > MAX_SEGMENT => Some(format!("must be no more than {MAX_SEGMENT} bytes")),
        _ => None,
    };
    match why {
        None => Ok(()),
        Some(why) => Err(ApiError::BadRequest(format!("{what} parameter invalid: {value:?}: {why}"))),
    }
}

/// Longer than any name Kubernetes allows (253), short enough that keys stay small.
const MAX_SEGMENT: usize = 512;

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(method: &str, path: &str) -> RequestInfo {
        RequestInfo::parse(&method.parse().unwrap(), &path.parse().unwrap()).unwrap()
    }

    /// (method, path) → verb, group, version, namespace, resource, subresource, name, remainder
    fn check(method: &str, path: &str, expected: [&str; 8]) {
        let i = parse(method, path);
        assert!(i.is_resource, "{method} {path}");
        let got =
            [i.verb, &i.group, &i.version, &i.namespace, &i.resource, &i.subresource, &i.name, &i.remainder];
        assert_eq!(got, expected, "{method} {path}");
    }

    #[test]
    fn resources() {
        check("GET", "/api/v1/namespaces", ["list", "", "v1", "", "namespaces", "", "", ""]);
        check("GET", "/api/v1/namespaces/", ["list", "", "v1", "", "namespaces", "", "", ""]);
        check("GET", "/api/v1/namespaces/a", ["get", "", "v1", "a", "namespaces", "", "a", ""]);
        check(
            "PUT",
            "/api/v1/namespaces/a/finalize",
            ["update", "", "v1", "a", "namespaces", "finalize", "a", ""],
        );
        check(
            "PATCH",
            "/api/v1/namespaces/a/status",
            ["patch", "", "v1", "a", "namespaces", "status", "a", ""],
        );
        check("GET", "/api/v1/namespaces/a/pods", ["list", "", "v1", "a", "pods", "", "", ""]);
        check("GET", "/api/v1/namespaces/a/pods?watch=true", ["watch", "", "v1", "a", "pods", "", "", ""]);
        check("GET", "/api/v1/pods?watch=1&x=y", ["watch", "", "v1", "", "pods", "", "", ""]);
        check("GET", "/api/v1/pods?watch=0", ["list", "", "v1", "", "pods", "", "", ""]);
        check("HEAD", "/api/v1/pods", ["list", "", "v1", "", "pods", "", "", ""]);
        check("GET", "/api/v1/watch/pods", ["watch", "", "v1", "", "pods", "", "", ""]);
        check("GET", "/api/v1/watch/namespaces/a/pods/b", ["watch", "", "v1", "a", "pods", "", "b", ""]);
        check("GET", "/api/v1/namespaces/a/pods/b?watch=1", ["get", "", "v1", "a", "pods", "", "b", ""]);
        check("DELETE", "/api/v1/namespaces/a/pods", ["deletecollection", "", "v1", "a", "pods", "", "", ""]);
        check("DELETE", "/api/v1/namespaces/a/pods/b", ["delete", "", "v1", "a", "pods", "", "b", ""]);
        check(
            "POST",
            "/apis/apps/v1/namespaces/a/statefulsets",
            ["create", "apps", "v1", "a", "statefulsets", "", "", ""],
        );
        check(
            "GET",
            "/apis/apps/v1/namespaces/a/statefulsets/b/scale",
            ["get", "apps", "v1", "a", "statefulsets", "scale", "b", ""],
        );
        check(
            "POST",
            "/api/v1/namespaces/a/pods/b/exec?command=ls",
            ["create", "", "v1", "a", "pods", "exec", "b", ""],
        );
    }

    #[test]
    fn the_one_name_of_a_list() {
        for (method, path, expected) in [
            ("GET", "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Db", "b"),
            ("GET", "/api/v1/pods?watch=1&fieldSelector=spec.nodeName%3Dn,metadata.name%3Db", "b"),
            ("GET", "/api/v1/pods?fieldSelector=metadata.name!%3Db", ""),
            ("GET", "/api/v1/pods?fieldSelector=spec.nodeName%3Dn", ""),
            ("GET", "/api/v1/pods?fieldSelector=metadata.name%3D../b", ""),
            ("GET", "/api/v1/pods?labelSelector=metadata.name%3Db", ""),
            ("GET", "/api/v1/pods/c?fieldSelector=metadata.name%3Db", ""),
            ("DELETE", "/api/v1/namespaces/a/pods?fieldSelector=metadata.name%3Db", ""),
        ] {
            let info = parse(method, path);
            assert_eq!(info.selected, expected, "{method} {path}");
            let asked: authz::Attributes<'_> = (&info).into();
            assert_eq!(asked.name, if info.name.is_empty() { expected } else { &info.name }, "{path}");
        }
    }

    #[test]
    fn the_remainder_is_passed_on_byte_for_byte() {
        for (path, remainder) in [
            ("/api/v1/namespaces/a/pods/b:80/proxy", ""),
            ("/api/v1/namespaces/a/pods/b:80/proxy/", "/"),
            ("/api/v1/namespaces/a/pods/b:80/proxy/x%2Fy//z/?q=1", "/x%2Fy//z/"),
        ] {
            assert_eq!(parse("GET", path).remainder, remainder, "{path}");
            assert_eq!(parse("GET", path).name, "b:80");
        }
        assert_eq!(parse("GET", "/api/v1/namespaces/a/services/https:s:web/proxy/").name, "https:s:web");
    }

    #[test]
    fn other_paths() {
        for (path, trimmed) in [
            ("/", "/"),
            ("/api", "/api"),
            ("/api/v1", "/api/v1"),
            ("/api/v1/", "/api/v1"),
            ("/apis/apps", "/apis/apps"),
            ("/apis/apps/v1/", "/apis/apps/v1"),
            ("/livez/ping?verbose", "/livez/ping"),
        ] {
            let info = parse("GET", path);
            assert!(!info.is_resource, "{path}");
            assert_eq!((info.path.as_str(), info.verb), (trimmed, "get"));
        }
    }

    #[test]
    fn escapes() {
        assert_eq!(parse("GET", "/api/v1/namespaces/a/pods/%62").name, "b");
        let uri: Uri = "/api/v1/namespaces/a/pods/%zz".parse().unwrap();
        assert!(RequestInfo::parse(&Method::GET, &uri).is_err());
        let slash = parse("GET", "/api/v1/namespaces/a/pods/..%2Fsecret");
        assert_eq!(slash.name, "../secret");
        assert!(check_segment("Name", &slash.name).is_err());
    }

    #[test]
    fn segments() {
        for good in ["web-0", "a.b", "system:node", "A_b"] {
            assert!(check_segment("Name", good).is_ok(), "{good}");
        }
        for bad in [".", "..", "a/b", "a%b", "a\0b", "a\nb"] {
            assert!(check_segment("Name", bad).is_err(), "{bad}");
        }
        assert!(check_segment("Name", &"a".repeat(600)).is_err());
    }

    proptest::proptest! {
        /// Any path that HTTP lets through is read without a panic, and its parts come from it.
        #[test]
        fn any_path_is_read(path in "/[a-z0-9./%:@-]{0,60}(\\?[a-z=&1]{0,10})?") {
            let Ok(uri) = path.parse::<Uri>() else { return Ok(()) };
            for method in [Method::GET, Method::DELETE, Method::POST] {
                if let Ok(info) = RequestInfo::parse(&method, &uri) {
                    proptest::prop_assert!(path.contains(&info.remainder));
                    proptest::prop_assert!(info.is_resource || info.resource.is_empty());
                }
            }
        }
    }
}
