//! The words in which it is asked whether a user may do something, and in which it is refused.

use super::User;
use crate::error::ApiError;

/// What is asked, in the authorizer's words. `request::RequestInfo` and access reviews convert into it
/// (`impl From<&RequestInfo> for Attributes`), so `authorizer.authorize(&user, &info)` reads well.
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

/// Kubernetes' own sentence.
pub(crate) fn refusal(user: &User, what: &Attributes<'_>) -> ApiError {
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
    use crate::auth::AUTHENTICATED;

    fn somebody() -> User {
        User { name: "jane".to_owned(), groups: vec![AUTHENTICATED.to_owned()], ..User::default() }
    }

    fn path<'a>(verb: &'a str, path: &'a str) -> Attributes<'a> {
        Attributes { verb, path, ..Attributes::default() }
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
        let error = refusal(&jane, &what);
        assert_eq!(
            error.to_string(),
            r#"statefulsets.apps "db" is forbidden: User "jane" cannot get resource "statefulsets/scale" in API group "apps" in the namespace "prod""#
        );
        let error = refusal(&User::anonymous(), &path("get", "/metrics"));
        assert_eq!(error.to_string(), r#"forbidden: User "system:anonymous" cannot get path "/metrics""#);
        let list = Attributes { verb: "list", resource: "pods", ..Attributes::default() };
        assert_eq!(
            refusal(&jane, &list).to_string(),
            r#"pods is forbidden: User "jane" cannot list resource "pods" in API group "" at the cluster scope"#
        );
    }
}
