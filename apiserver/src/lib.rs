//! The cluster's one door: every read and write of an object goes through here, whoever makes it.
//!
//! client ─► request ─► auth ─► admission ─► kind rules ─► storage, and back as watch events.

pub mod admission;
pub mod audit;
pub mod auth;
pub mod bootstrap;
pub mod config;
pub mod custom;
pub mod dial;
pub mod error;
pub mod handlers;
pub mod kinds;
pub mod lanes;
pub mod latch;
pub mod listen;
pub mod metrics;
pub mod openapi;
pub mod protobuf;
pub mod registry;
pub mod request;
pub mod router;
pub mod server;
pub mod state;
#[cfg(test)]
mod tests;

pub use auth::{User, node::NODES};
pub use config::Config;
pub use dial::{NodeDialer, Power, PowerError, Stream};
pub use latch::{Latch, Latches};
pub use server::{Error, Server};
