//! One subscriber for the process. Logs go to standard error; standard output is for data.

use crate::config::LogFormat;
use std::io::IsTerminal;
use tracing_subscriber::{EnvFilter, fmt, prelude::*};

/// `RUST_LOG` wins over `-v`. hickory's server writes two lines a query, and one for every packet that it cannot answer:
/// any pod could fill the log.
pub fn start(format: LogFormat, verbosity: u8) {
    let default = match verbosity {
        0 => "warn,cli=info,sled=error,hickory_server=error,hickory_net=error",
        1 => "info,hyper=warn,sled=warn,hickory_server=warn",
        2 => {
            "debug,hyper=info,h2=info,rustls=info,sled=info,bollard=info,hickory_server=warn,hickory_net=info"
        }
        _ => "trace",
    };
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(default));
    let registry = tracing_subscriber::registry().with(filter);
    // A second start in one process (tests) keeps the first subscriber.
    let _ = match format {
        LogFormat::Text => registry
            .with(fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()))
            .try_init(),
        LogFormat::Json => registry.with(fmt::layer().json().with_writer(std::io::stderr)).try_init(),
    };
}
