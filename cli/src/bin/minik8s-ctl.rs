//! `minik8s-ctl`: kubectl's verbs over the same API.

use clap::Parser;
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = cli::ctl::Arguments::parse();
    let runtime = match tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the async runtime: {error}");
            return ExitCode::FAILURE;
        }
    };
    let outcome = runtime.block_on(cli::ctl::run(arguments));
    // A read of standard input cannot be cancelled; it must not hold the exit back.
    runtime.shutdown_background();
    match outcome {
        Ok(code) => ExitCode::from(code),
        Err(error) if cli::ctl::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}", cli::ctl::explain(&error));
            ExitCode::FAILURE
        }
    }
}
