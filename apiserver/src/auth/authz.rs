//! May this user do this? One function, so that RBAC can come behind it.

use super::{AUTHENTICATED, MASTERS, User};
use crate::error::{ApiError, Result};
use k8s_openapi::api::authorization::v1::{NonResourceRule, ResourceRule, SubjectRulesReviewStatus};

/// What is asked, in the authorizer's words. `request::RequestInfo` and access reviews convert into it
/// (`impl From<&RequestInfo> for Attributes`), so `authorize(&user, &info)` reads well.
#[derive(Debug, Clone, Copy, Default)]
pub struct Attributes<'a> {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`, `deletecollection`; for paths that are no
    /// resource the lower-case HTTP method.
    pub verb: &'a str,
    pub group: &'a str,
    pub version: &'a str,
    /// Plural; empty for a path that is no resource.
    pub resource: &'a str,
    pub subresource: &'a str,
    pub namespace: &'a str,
    pub name: &'a str,
    /// The URL path; matters only where `resource` is empty.
    pub path: &'a str,
}

/// Read by everyone, as Kubernetes' role `system:public-info-viewer` allows.
const PUBLIC_PATHS: &[&str] = &["/healthz", "/livez", "/readyz", "/version", "/version/"];
/// Read by everyone who is somebody (`system:discovery`, `system:service-account-issuer-discovery`).
const DISCOVERY_PATHS: &[&str] = &[
    "/api",
    "/api/*",
    "/apis",
    "/apis/*",
    "/openapi",
    "/openapi/*",
    "/.well-known/openid-configuration",
    "/openid/v1/jwks",
];
/// What everyone who is somebody may ask about themselves (`system:basic-user`).
const SELF_REVIEWS: &[(&str, &str)] = &[
    ("authentication.k8s.io", "selfsubjectreviews"),
    ("authorization.k8s.io", "selfsubjectaccessreviews"),
    ("authorization.k8s.io", "selfsubjectrulesreviews"),
];

/// `Forbidden` with Kubernetes' own sentence if the user may not.
pub fn authorize<'a>(user: &User, what: impl Into<Attributes<'a>>) -> Result<()> {
    let what = what.into();
    if allowed(user, &what) { Ok(()) } else { Err(refusal(user, &what)) }
}

/// The decision alone.
pub fn allowed(user: &User, what: &Attributes<'_>) -> bool {
    if user.is_in(MASTERS) {
        return true;
    }
    let somebody = user.is_in(AUTHENTICATED);
    if what.resource.is_empty() {
        // `get` is a GET; a HEAD asks for no more.
        let reads = matches!(what.verb, "get" | "head");
        return reads
            && (PUBLIC_PATHS.iter().any(|p| *p == what.path || is_below(what.path, p))
                || (somebody && DISCOVERY_PATHS.iter().any(|p| matches(p, what.path))));
    }
    somebody
        && what.verb == "create"
        && what.subresource.is_empty()
        && SELF_REVIEWS.contains(&(what.group, what.resource))
}

/// Everything the user may do, for `kubectl auth can-i --list`: what [`allowed`] decides by, as rules.
pub fn rules(user: &User) -> SubjectRulesReviewStatus {
    let list = |all: &[&str]| -> Vec<String> { all.iter().map(|s| (*s).to_owned()).collect() };
    let mut status = SubjectRulesReviewStatus::default();
    if user.is_in(MASTERS) {
        status.resource_rules.push(ResourceRule {
            verbs: list(&["*"]),
            api_groups: Some(list(&["*"])),
            resources: Some(list(&["*"])),
            resource_names: None,
        });
        let everywhere = NonResourceRule { verbs: list(&["*"]), non_resource_urls: Some(list(&["*"])) };
        status.non_resource_rules.push(everywhere);
        return status;
    }
    let mut paths = list(PUBLIC_PATHS);
    if user.is_in(AUTHENTICATED) {
        for (group, resource) in SELF_REVIEWS {
            status.resource_rules.push(ResourceRule {
                verbs: list(&["create"]),
                api_groups: Some(list(&[group])),
                resources: Some(list(&[resource])),
                resource_names: None,
            });
        }
        paths.extend(list(DISCOVERY_PATHS));
    }
    status.non_resource_rules.push(NonResourceRule { verbs: list(&["get"]), non_resource_urls: Some(paths) });
    status
}

/// `/livez/ping` is part of `/livez`.
fn is_below(path: &str, parent: &str) -> bool {
    path.strip_prefix(parent).is_some_and(|rest| rest.starts_with('/'))
}

fn matches(pattern: &str, path: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(prefix) => path.starts_with(prefix),
        None => pattern == path,
    }
}

fn refusal(user: &User, what: &Attributes<'_>) -> ApiError {
    let who = &user.name;
    if what.resource.is_empty() {
        return ApiError::Forbidden {
            group: String::new(),
            resource: String::new(),
            name: String::new(),
            detail: format!("User {who:?} cannot {} path {:?}", what.verb, what.path),
        };
    }
    let resource = match what.subresource {
        "" => what.resource.to_owned(),
        sub => format!("{}/{sub}", what.resource),
    };
    let place = match what.namespace {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace {namespace:?}"),
    };
    let group = what.group;
    let qualified =
        if group.is_empty() { what.resource.to_owned() } else { format!("{}.{group}", what.resource) };
    ApiError::Forbidden {
        group: group.to_owned(),
        resource: qualified,
        name: what.name.to_owned(),
        detail: format!(
            "User {who:?} cannot {} resource {resource:?} in API group {group:?} {place}",
            what.verb
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn somebody() -> User {
        User { name: "jane".to_owned(), groups: vec![AUTHENTICATED.to_owned()], ..User::default() }
    }

    fn path<'a>(verb: &'a str, path: &'a str) -> Attributes<'a> {
        Attributes { verb, path, ..Attributes::default() }
    }

    #[test]
    fn who_may_what() {
        let (admin, jane, anonymous) = (User::component("admin"), somebody(), User::anonymous());
        let pods = Attributes { verb: "list", version: "v1", resource: "pods", ..Attributes::default() };
        let whoami = Attributes {
            verb: "create",
            group: "authentication.k8s.io",
            version: "v1",
            resource: "selfsubjectreviews",
            ..Attributes::default()
        };
        // what, admin, jane, anonymous
        let table = [
            (pods, true, false, false),
            (whoami, true, true, false),
            (Attributes { verb: "get", ..whoami }, true, false, false),
            (path("get", "/healthz"), true, true, true),
            (path("get", "/livez/ping"), true, true, true),
            (path("get", "/readyz"), true, true, true),
            (path("get", "/version"), true, true, true),
            (path("get", "/versions"), true, false, false),
            (path("get", "/livezz"), true, false, false),
            (path("post", "/version"), true, false, false),
            (path("get", "/api"), true, true, false),
            (path("get", "/apis/apps/v1"), true, true, false),
            (path("get", "/apisx"), true, false, false),
            (path("get", "/openapi/v3"), true, true, false),
            (path("get", "/openid/v1/jwks"), true, true, false),
            (path("get", "/metrics"), true, false, false),
            (path("get", "/"), true, false, false),
        ];
        for (what, a, j, n) in table {
            let answers = (allowed(&admin, &what), allowed(&jane, &what), allowed(&anonymous, &what));
            assert_eq!(answers, (a, j, n), "{what:?}");
        }
    }

    #[test]
    fn a_refusal_reads_as_kubernetes_says_it() {
        let jane = somebody();
        let what = Attributes {
            verb: "get",
            group: "apps",
            version: "v1",
            resource: "statefulsets",
            subresource: "scale",
            namespace: "prod",
            name: "db",
            ..Attributes::default()
        };
        let error = authorize(&jane, what).unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"statefulsets.apps "db" is forbidden: User "jane" cannot get resource "statefulsets/scale" in API group "apps" in the namespace "prod""#
        );
        let error = authorize(&User::anonymous(), path("get", "/metrics")).unwrap_err();
        assert_eq!(error.to_string(), r#"forbidden: User "system:anonymous" cannot get path "/metrics""#);
        let list = Attributes { verb: "list", resource: "pods", ..Attributes::default() };
        assert_eq!(
            authorize(&jane, list).unwrap_err().to_string(),
            r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" at the cluster scope"#
        );
    }
}
