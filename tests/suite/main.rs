//! Everything seen from outside: the built server, real kubectl, real containers. One module per subject.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::print_stdout)]

mod control_plane;
mod tidy;
