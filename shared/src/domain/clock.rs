//! Finds recorded times that lie ahead of the database's clock: it was ahead when they were
//! recorded, or is behind now.

use chrono::TimeDelta;

use crate::db::{Error, Session};

/// How far a recorded time may be ahead of the database's clock and still count. Longer than
/// synchronised clocks of two servers differ, so that after a failover the new primary does not
/// repeat a tick. Short, because rounds wait until the clock has passed the fence. Beyond it the
/// clock was wrong, and a tick may be done again.
pub const CLOCK_TOLERANCE: TimeDelta = TimeDelta::minutes(1);

/// How far the newest times that are recorded lie ahead of the database's clock. Zero, unless the
/// clock was ahead before, or the database has failed over to a server whose clock is behind.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TimeAhead {
    /// Of the rounds, in seconds.
    pub rounds_seconds: f64,
    /// Of the last query, in seconds.
    pub last_query_seconds: f64,
}

/// Reads how far the newest times lie ahead.
///
/// # Errors
/// When the statement fails or the connection breaks.
pub async fn read_time_ahead(session: &mut Session) -> Result<TimeAhead, Error> {
    let row = sqlx::query!(
        r#"select greatest(0, extract(epoch from (select max(finished_at) from rounds)
                                                 - clock_timestamp()))::float8 as "rounds!",
                  greatest(0, extract(epoch from (select queried_at from last_query where only_row)
                                                 - clock_timestamp()))::float8 as "last_query!""#
    )
    .fetch_one(session)
    .await?;
    Ok(TimeAhead {
        rounds_seconds: row.rounds,
        last_query_seconds: row.last_query,
    })
}
