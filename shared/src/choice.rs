//! The current round's choice: the secret minimum and the two users that answers show until the
//! next round. It is stored in the one row of the table `settings`.

use std::fmt;
use std::str::FromStr;

use rand::RngExt;

use crate::db::{Error, Session};

/// The highest minimum, which is also the most points that a user can have.
const MAX_POINTS: i32 = 100;

/// The points that a user must exceed to qualify: 0 to 100, both included.
///
/// It is a secret: it has no `Display`, no `Serialize`, and its `Debug` hides the value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct MinPoints(i32);

impl MinPoints {
    /// Draws a minimum with the thread's cryptographic generator, every value equally likely.
    #[must_use]
    pub fn draw() -> Self {
        Self(rand::rng().random_range(0..=MAX_POINTS))
    }
}

impl FromStr for MinPoints {
    type Err = InvalidMinPoints;

    fn from_str(text: &str) -> Result<Self, InvalidMinPoints> {
        match text.parse() {
            Ok(points @ 0..=MAX_POINTS) => Ok(Self(points)),
            _ => Err(InvalidMinPoints),
        }
    }
}

impl fmt::Debug for MinPoints {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("MinPoints(secret)")
    }
}

/// The text is not an integer from 0 to 100.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the minimum must be an integer from 0 to {MAX_POINTS}")]
pub struct InvalidMinPoints;

/// Stores the new minimum and two users drawn from all that qualify, each pair equally likely.
///
/// # Errors
/// [`Error::RowMissing`] when there is no row to store them in, otherwise when the statement fails.
pub(crate) async fn renew(session: &mut Session, min_points: MinPoints) -> Result<(), Error> {
    let renewed = sqlx::query_file!("src/choice/renew.sql", min_points.0)
        .execute(session)
        .await?;
    match renewed.rows_affected() {
        1 => Ok(()),
        _ => Err(Error::RowMissing("settings")),
    }
}
