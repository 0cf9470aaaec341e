//! Kubernetes' vocabulary and rules, pure: no I/O, no async, no clock of its own.
//!
//! Every other crate of the workspace may import this one; it imports none of them.

pub mod age;
pub mod cidr;
pub mod clock;
pub mod conditions;
pub mod duration;
pub mod field;
#[cfg(any(test, feature = "testing"))]
pub mod fuzz;
pub mod guard;
pub mod names;
pub mod owner;
pub mod pod;
pub mod quantity;
pub mod quota;
pub mod resource;
pub mod schedule;
pub mod selector;

pub use cidr::Cidr;
