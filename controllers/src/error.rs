//! What can go wrong in a run of a controller, and how loudly to say it.

use std::{error::Error as _, fmt::Write as _};

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Api(#[from] kube::Error),
    /// An object that cannot be acted upon until someone changes it.
    #[error("{0}")]
    Object(String),
    /// Something that must happen first, elsewhere; tried again after a back-off.
    #[error("{0}")]
    NotYet(String),
    #[error("input/output")]
    Io(#[from] std::io::Error),
    #[error("the controller {0}")]
    Panicked(api::guard::Panicked),
    #[error("no result within {} s", crate::run::RUN_DEADLINE.as_secs())]
    Deadline,
}

pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// Whether it only says that someone else was faster: the next run sees the newer state and decides again.
    pub fn is_conflict(&self) -> bool {
        matches!(self, Self::Api(error) if is_conflict(error) || is_already_exists(error))
    }

    /// The whole chain in one line. An answer of the API server says it all in its message.
    pub fn chain(&self) -> String {
        let mut text = message(self);
        if matches!(self, Self::Api(kube::Error::Api(_))) {
            return text;
        }
        let mut source = self.source();
        while let Some(error) = source {
            let next = error.to_string();
            if !text.contains(&next) {
                let _ = write!(text, ": {next}");
            }
            source = error.source();
        }
        text
    }
}

/// What the API server said, without the client's decoration: what events and conditions show.
fn message(error: &Error) -> String {
    match error {
        Error::Api(error) => api_message(error),
        other => other.to_string(),
    }
}

/// As [`Error::chain`] begins: the Status' own message where there is one.
pub fn api_message(error: &kube::Error) -> String {
    match error {
        kube::Error::Api(status) if !status.message.is_empty() => status.message.clone(),
        other => other.to_string(),
    }
}

pub fn is_not_found(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_not_found())
}

pub fn is_conflict(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_conflict())
}

pub fn is_already_exists(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_already_exists())
}

/// Whether the namespace is going away: nothing can be created in it and trying again is pointless.
pub fn is_namespace_terminating(error: &kube::Error) -> bool {
    matches!(error, kube::Error::Api(status) if status.is_forbidden()
        && status.details.as_ref().is_some_and(|d| d.causes.iter().any(|c| c.reason == "NamespaceTerminating")))
}

/// A deleted object is what a delete wants: not found counts as done.
pub fn ignore_not_found<T>(result: Result<T, kube::Error>) -> Result<(), kube::Error> {
    match result {
        Ok(_) => Ok(()),
        Err(error) if is_not_found(&error) => Ok(()),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_read_as_one_sentence() {
        let status = kube::core::Status::failure("pods \"a\" not found", "NotFound").with_code(404);
        let error = Error::from(kube::Error::Api(status.boxed()));
        assert_eq!(error.chain(), "pods \"a\" not found");
        let error = Error::from(std::io::Error::other("disk full"));
        assert_eq!(error.chain(), "input/output: disk full");
    }
}
