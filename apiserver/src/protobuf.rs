//! Kubernetes' protobuf form of built-in kinds: bodies of requests read into the JSON tree of every other body, answers
//! and watch frames written from the JSON that is stored.
//!
//! Go clients send it for typed objects (`kubectl create configmap`, `kubectl auth whoami`) and do not fall back on 415. An object
//! is the four bytes `k8s\0` and a `runtime.Unknown`: kind, version, and the object's own message. What the messages
//! look like is a table of facts ([`table`]), not code per kind: JSON stays the one form that is stored, and a kind
//! that the table lacks (a custom resource) is answered in JSON, as Kubernetes does.

mod read;
mod table;
pub(crate) mod wire;
mod write;

pub use read::parse;
pub use table::zero_is_unset;
pub use write::{object, watch_event};

use table::Message;

/// The message of the schemas within definitions of custom resources.
const SCHEMA: &str = "apiextensions.v1.JSONSchemaProps";

/// The media type; a watch's has `;stream=watch` after it.
pub const MEDIA: &str = "application/vnd.kubernetes.protobuf";
/// What every object begins with.
const MAGIC: &[u8] = b"k8s\0";
/// Nesting of messages: deeper than any built-in type, shallow enough for the stack.
const MAX_DEPTH: usize = 64;

/// Whether objects of this kind have a protobuf form.
pub fn knows(api_version: &str, kind: &str) -> bool {
    message_of(api_version, kind).is_some()
}

/// The message of a kind; the kinds of `meta` (`Status`, `DeleteOptions`) are part of every group.
fn message_of(api_version: &str, kind: &str) -> Option<&'static Message> {
    let (group, version) = api_version.rsplit_once('/').unwrap_or(("core", api_version));
    let package = group.split('.').next().unwrap_or_default();
    table::message(&format!("{package}.{version}.{kind}"))
        .or_else(|| table::message(&format!("meta.v1.{kind}")))
}

#[cfg(test)]
mod tests;
