//! From a connection and its headers to a user.

use super::{Peer, User};
use crate::{
    admission::Lookup,
    error::{ApiError, Result},
};
use http::HeaderMap;

/// What is needed to tell users apart.
pub struct Authenticator {}

impl Authenticator {
    /// The user of a request, anonymous if it shows no credential. `lookup` finds the ServiceAccount behind a token.
    pub async fn authenticate(&self, lookup: &dyn Lookup, peer: &Peer, headers: &HeaderMap) -> Result<User> {
        authenticate(self, lookup, peer, headers).await
    }
}

/// As [`Authenticator::authenticate`].
pub async fn authenticate(
    authenticator: &Authenticator,
    lookup: &dyn Lookup,
    peer: &Peer,
    headers: &HeaderMap,
) -> Result<User> {
    let _ = (authenticator, lookup, headers);
    match peer {
        Peer::Internal(user) => Ok(user.clone()),
        Peer::Tls { .. } => Err(ApiError::NotImplemented("authentication is being written".to_owned())),
    }
}
