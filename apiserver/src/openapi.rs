//! What the API looks like: facts about its types, and the OpenAPI documents made from them.

pub mod markers;
