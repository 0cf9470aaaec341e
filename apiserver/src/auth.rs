//! Who is asking, and may they.
//!
//! `authn` turns a connection and its headers into a [`User`]; `rbac` answers whether that user may do
//! what the request asks, in `authz`' words. A credential that is presented and wrong is refused: it never counts as anonymous.

pub mod authn;
pub mod authz;
pub mod node;
pub mod rbac;
pub mod token;

pub use authn::Authenticator;
pub use rbac::Authorizer;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc};

/// Everyone who showed a good credential.
pub const AUTHENTICATED: &str = "system:authenticated";
/// Everyone who showed none.
pub const UNAUTHENTICATED: &str = "system:unauthenticated";
/// May do everything, whatever the rules say.
pub const MASTERS: &str = "system:masters";
pub const ANONYMOUS: &str = "system:anonymous";

/// Who makes a request, as `kubectl auth whoami` shows it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct User {
    pub name: String,
    pub uid: String,
    pub groups: Vec<String>,
    pub extra: BTreeMap<String, Vec<String>>,
}

impl User {
    /// Somebody of this name, in these groups beside that of all who are somebody.
    pub fn of(name: &str, groups: &[&str]) -> Self {
        let groups = groups.iter().copied().chain([AUTHENTICATED]).map(str::to_owned).collect();
        Self { name: name.to_owned(), groups, ..Self::default() }
    }

    /// A component of our own process: authenticated, and in `system:masters`.
    pub fn component(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            groups: vec![MASTERS.to_owned(), AUTHENTICATED.to_owned()],
            ..Self::default()
        }
    }

    /// A ServiceAccount, as its tokens name it.
    pub fn service_account(namespace: &str, name: &str) -> Self {
        Self {
            name: authn::service_account_name(namespace, name),
            groups: authn::service_account_groups(namespace),
            ..Self::default()
        }
    }

    pub fn anonymous() -> Self {
        Self { name: ANONYMOUS.to_owned(), groups: vec![UNAUTHENTICATED.to_owned()], ..Self::default() }
    }

    pub fn is_in(&self, group: &str) -> bool {
        self.groups.iter().any(|g| g == group)
    }
}

/// Where a request came from: a request extension, put there by the listener or the in-process client,
/// never by anything a client can send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Peer {
    /// A component of this process, which is who it says it is.
    Internal(Arc<User>),
    /// A TLS connection.
    Tls {
        /// Who a client certificate that our CA signed is for; without a name if it names nobody we understand.
        user: Option<Arc<User>>,
        remote: SocketAddr,
    },
}

impl Peer {
    pub fn internal(user: User) -> Self {
        Self::Internal(Arc::new(user))
    }

    /// `subject`: common name and organizations of the client's certificate, if it showed one.
    pub fn tls(subject: Option<(String, Vec<String>)>, remote: SocketAddr) -> Self {
        let user = subject.map(|(name, mut groups)| {
            groups.push(AUTHENTICATED.to_owned());
            Arc::new(User { name, groups, ..User::default() })
        });
        Self::Tls { user, remote }
    }
}
