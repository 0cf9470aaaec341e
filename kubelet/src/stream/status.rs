//! How an exec or attach ended, as the error stream says it.

use bytes::Bytes;
use serde_json::{Value, json};

/// The end of a remote command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ending {
    Success,
    /// The command ran and gave this exit code, not 0.
    ExitCode(i32),
    /// It could not be run or followed to its end.
    Failed(String),
}

impl Ending {
    pub(crate) fn of_exit_code(code: i32) -> Self {
        if code == 0 { Ending::Success } else { Ending::ExitCode(code) }
    }

    fn message(&self) -> String {
        match self {
            Ending::Success => String::new(),
            Ending::ExitCode(code) => format!("command terminated with non-zero exit code: exit code {code}"),
            Ending::Failed(message) => format!("Internal error occurred: {message}"),
        }
    }

    /// The bytes for the error stream: a `Status` (protocol v4 and later), or the bare message of the old protocols,
    /// where nothing at all means success.
    pub(crate) fn encode(&self, json: bool) -> Bytes {
        if json { self.status().to_string().into() } else { self.message().into() }
    }

    /// `meta/v1.Status`; the exit code is a cause, where kubectl and the client libraries look for it.
    fn status(&self) -> Value {
        match self {
            Ending::Success => json!({ "metadata": {}, "status": "Success" }),
            Ending::ExitCode(code) => json!({
                "metadata": {},
                "status": "Failure",
                "message": self.message(),
                "reason": "NonZeroExitCode",
                "details": { "causes": [{ "reason": "ExitCode", "message": code.to_string() }] },
            }),
            Ending::Failed(_) => json!({
                "metadata": {},
                "status": "Failure",
                "message": self.message(),
                "reason": "InternalError",
                "code": 500,
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Status;

    fn status(ending: &Ending) -> Status {
        serde_json::from_slice(&ending.encode(true)).unwrap()
    }

    #[test]
    fn endings_are_what_clients_look_for() {
        assert_eq!(status(&Ending::of_exit_code(0)).status.as_deref(), Some("Success"));
        let seven = status(&Ending::of_exit_code(7));
        assert_eq!(
            (seven.status.as_deref(), seven.reason.as_deref()),
            (Some("Failure"), Some("NonZeroExitCode"))
        );
        let causes = seven.details.unwrap().causes.unwrap();
        assert_eq!(
            (causes[0].reason.as_deref(), causes[0].message.as_deref()),
            (Some("ExitCode"), Some("7"))
        );
        let failed = status(&Ending::Failed("no such file".into()));
        assert_eq!((failed.reason.as_deref(), failed.code), (Some("InternalError"), Some(500)));
        assert_eq!(failed.message.as_deref(), Some("Internal error occurred: no such file"));
    }

    #[test]
    fn the_old_protocols_get_text() {
        assert_eq!(Ending::Success.encode(false), "");
        assert_eq!(
            Ending::ExitCode(3).encode(false),
            "command terminated with non-zero exit code: exit code 3"
        );
    }
}
