//! What a request asks for.

pub mod body;
