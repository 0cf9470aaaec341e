//! Everything seen from outside: the built server, real kubectl, real containers. One module per subject.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod bad_input;
mod certificates;
mod clients;
mod control_plane;
mod custom_resources;
mod debug;
mod deployments;
mod dns;
mod kubectl;
mod node_failure;
mod operator;
mod policies;
mod protection;
mod rbac;
mod replica_sets;
mod restart;
mod side_by_side;
mod story;
mod streams;
mod tidy;
