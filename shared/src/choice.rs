//! The secret minimum, and the row that keeps it.

use std::fmt;
use std::str::FromStr;

use rand::RngExt;
use sqlx::PgConnection;

use crate::db::Error;

/// The most points that a user can have, and the highest minimum.
const MOST_POINTS: i32 = 100;

/// The points that a user must exceed to qualify: 0 to 100, both included.
///
/// It is a secret: it has no `Display`, no `Serialize`, and its `Debug` shows nothing.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MinPoints(i32);

impl MinPoints {
    /// Draws one with the thread's cryptographic generator, every value equally likely.
    #[must_use]
    pub fn draw() -> Self {
        Self(rand::rng().random_range(0..=MOST_POINTS))
    }
}

impl FromStr for MinPoints {
    type Err = NotMinPoints;

    fn from_str(text: &str) -> Result<Self, NotMinPoints> {
        match text.parse() {
            Ok(points @ 0..=MOST_POINTS) => Ok(Self(points)),
            _ => Err(NotMinPoints),
        }
    }
}

impl fmt::Debug for MinPoints {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("MinPoints(secret)")
    }
}

/// A minimum that is no integer from 0 to 100.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the minimum is an integer from 0 to {MOST_POINTS}")]
pub struct NotMinPoints;

/// Stores the new minimum and the two users that the round shows: drawn from all that qualify, each pair equally likely.
pub(crate) async fn renew(
    connection: &mut PgConnection,
    min_points: MinPoints,
) -> Result<(), Error> {
    sqlx::query_file!("src/choice/renew.sql", min_points.0)
        .execute(connection)
        .await?;
    Ok(())
}
