//! `max-two`: runs the whole service on this machine, for a first try and for development.
//!
//! Settings enter. A private Postgres (unless `DATABASE_URL` is set), workers and replicas leave,
//! as processes that end with this one. Workers and replicas are this program again, started with
//! a hidden subcommand.

mod address;
mod database;
mod launch;
mod programs;
mod settings;

use std::process::ExitCode;
use std::time::Duration;

use settings::{Role, Settings};
use tokio::runtime::Runtime;
use tracing::error;

/// The default log filters. They hide the retries of a download.
const LOG_FILTERS: &str = "info,reqwest_retry=error";

/// How long the launcher waits for a connection to the database.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let settings = match shared::cli::parse::<Settings>() {
        Ok(settings) => settings,
        Err(status) => return status,
    };
    match settings.role {
        Some(Role::Api(settings)) => return api::main(*settings),
        Some(Role::Worker(settings)) => return worker::main(*settings),
        None => {}
    }
    if let Err(error) = shared::telemetry::start(settings.log_format, LOG_FILTERS) {
        return shared::cli::bad_setting(&error);
    }
    if let Err(error) = settings.check() {
        return shared::cli::bad_setting(&format_args!("{error:#}"));
    }
    let launched = Runtime::new()
        .map_err(anyhow::Error::from)
        .and_then(|runtime| runtime.block_on(launch::launch(settings)));
    match launched {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("max-two failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}
