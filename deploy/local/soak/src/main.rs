//! `soak`: a compressed day under random faults. Its workers and replicas are this program again,
//! started with a hidden subcommand.

use std::process::ExitCode;

use clap::Parser;
use soak::Plan;
use tokio::runtime::Runtime;

/// Runs workers, replicas and clients over a private Postgres, injects random faults, and reports
/// which promises were broken.
#[derive(Parser)]
struct Settings {
    #[command(subcommand)]
    subcommand: Option<Subcommand>,
    #[command(flatten)]
    plan: Plan,
}

/// The program that this process runs instead, when a soak has started it.
#[derive(clap::Subcommand)]
enum Subcommand {
    #[command(hide = true)]
    Api(Box<api::Settings>),
    #[command(hide = true)]
    Worker(Box<worker::Settings>),
}

fn main() -> ExitCode {
    let settings = match shared::program::cli::parse::<Settings>() {
        Ok(settings) => settings,
        Err(status) => return status,
    };
    match settings.subcommand {
        Some(Subcommand::Api(settings)) => return api::main(*settings),
        Some(Subcommand::Worker(settings)) => return worker::main(*settings),
        None => {}
    }
    let executable = std::env::current_exe().expect("a running program has an executable file");
    let runtime = Runtime::new().expect("a runtime starts");
    if runtime.block_on(soak::run(&executable, settings.plan)) {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}
