//! `minik8s`: the cluster in one process.

use clap::Parser;
use cli::{Exit, args, cluster, config, logging, reset};
use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments = args::Minik8s::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(exit) => {
            eprintln!("minik8s: {}", exit.message);
            ExitCode::from(exit.code)
        }
    }
}

fn run(arguments: args::Minik8s) -> Result<(), Exit> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Exit::failed(format!("cannot start the async runtime: {e}")))?;
    match arguments.command {
        args::Command::Server(flags) => {
            let started = std::time::Instant::now();
            let settings = config::Settings::resolve(flags)?;
            logging::start(settings.log_format, settings.verbosity);
            runtime.block_on(cluster::run(settings, started))
        }
        args::Command::Reset(flags) => {
            let settings = config::Settings::resolve(flags)?;
            logging::start(settings.log_format, settings.verbosity);
            runtime.block_on(reset::run(settings))
        }
        args::Command::Agent => Err(Exit::usage(
            "`minik8s agent` is not built yet: this release runs its nodes inside `minik8s server`",
        )),
        args::Command::Token => {
            Err(Exit::usage("`minik8s token` is not built yet: join tokens come with `minik8s agent`"))
        }
    }
}
