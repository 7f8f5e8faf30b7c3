//! What the command line is: one binary, a subcommand a program.
#![allow(clippy::print_stdout, clippy::print_stderr)] // this crate is the one that talks to a terminal
mod agent;
mod backup;
mod data_dir;
mod hollow;
mod kubeconfig;
mod limits;
mod node_flags;
mod options;
mod pki;
mod postgres;
mod server;
mod up;

use clap::Parser;
use options::{Cli, Command};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_env("PILOTHOUSE_LOG").unwrap_or_else(|_| EnvFilter::new(&cli.log));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();

    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("pilothouse: cannot start threads: {error}");
            return ExitCode::FAILURE;
        }
    };
    // Child processes are tied to the thread that spawned them (PR_SET_PDEATHSIG), so everything that spawns runs on
    // the main thread, which lives as long as the program.
    let outcome = runtime.block_on(async {
        match cli.command {
            Command::Up(options) => up::run(options).await,
            Command::Server(options) => server::run(options).await,
            Command::Agent(options) => agent::run(options).await,
            Command::Hollow(options) => hollow::run(options).await,
            Command::Backup(options) => backup::backup(&options).await,
            Command::Restore(options) => backup::restore(&options).await,
        }
    });
    runtime.shutdown_timeout(std::time::Duration::from_secs(2));
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // One line, causes joined: what failed, why.
            eprintln!("pilothouse: {error:#}");
            ExitCode::FAILURE
        }
    }
}
