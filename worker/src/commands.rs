//! The commands that end by themselves. `seed` has a file of its own.

use std::time::Duration;

use anyhow::{Context, bail};
use shared::db::schema;
use shared::db::{Database, Error};
use shared::domain::{MinPoints, rounds};
use shared::program::cli;
use shared::program::shutdown::StopSignals;
use tracing::info;

/// Runs a one-off command. A signal ends it with an error: the connection closes, and the server
/// rolls the open transaction back.
pub(crate) async fn until_signal<T>(
    command: impl Future<Output = Result<T, Error>>,
) -> anyhow::Result<T> {
    let mut signals = StopSignals::listen().context("registering signal handlers")?;
    tokio::select! {
        result = command => Ok(result?),
        signal = signals.next() => bail!("stopped by {signal}"),
    }
}

/// Brings the schema up to date.
pub(crate) async fn migrate(database: &Database) -> Result<(), Error> {
    let mut session = database.connect().await?;
    schema::migrate(&mut session).await?;
    info!(event = "migrated", "the schema is up to date");
    Ok(())
}

/// Does a round now, and prints its result.
pub(crate) async fn round(
    database: &Database,
    min_points: MinPoints,
    timeout: Duration,
) -> Result<(), Error> {
    let database = database.clone().with_statement_timeout(timeout);
    let mut session = database.connect().await?;
    let round = rounds::run_now(&mut session, min_points, timeout).await?;
    // An operator runs this command to see its result. `migrate` and `seed` also run unattended, so
    // they report to the log.
    cli::print(&format_args!(
        "round done: {} users renewed in {} ms",
        round.users_updated,
        (round.finished_at - round.started_at).num_milliseconds()
    ));
    Ok(())
}
