//! `max-two`: the whole service on this machine, for a first look and for development.
//!
//! Settings come in; a private Postgres (or the one of `DATABASE_URL`), workers and replicas go out as processes of
//! their own, and end with this one. The processes are this program again, under a hidden name.

mod database;
mod launch;
mod programs;
mod settings;

use std::process::ExitCode;

use settings::{Role, Settings};
use tokio::runtime::Runtime;
use tracing::error;

/// What to log unless told otherwise: not each attempt at a download.
const LOG_FILTERS: &str = "info,reqwest_retry=error";

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
            error!("max-two ends: {error:#}");
            ExitCode::FAILURE
        }
    }
}
