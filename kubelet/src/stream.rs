//! Exec, attach, port-forward and log streams (see `server`).
