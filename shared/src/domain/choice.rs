//! The current round's choice: the secret minimum and the two users that answers show until the
//! next round. It is stored in the one row of the table `settings`.

use std::fmt;
use std::str::FromStr;

use rand::RngExt;
use sqlx::types::Json;

use crate::db::{Error, Session};
use crate::domain::users::{self, MAX_POINTS};

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
/// [`Error::RowMissing`] when there is no row to store them in, otherwise when a statement fails.
pub(crate) async fn renew(session: &mut Session, min_points: MinPoints) -> Result<(), Error> {
    let mut ids = sample(session, min_points).await?;
    if ids.len() < 2 {
        ids = scan(session, min_points).await?;
    }
    let shown = users::read(session, &ids).await?;
    // The replicas of the release before read a column for each value. The next release drops them.
    let [first, second] = [shown.first(), shown.get(1)];
    // It reads no user, so a Citus cluster runs it on the coordinator alone. Its values are
    // parameters: Citus 13.2 and 14.0 crash where `set` has an element of an array (`pair.ids[1]`)
    // beside a distributed table, because they take it for an assignment to an element.
    let renewed = sqlx::query!(
        "update settings \
         set min_points = $1, shown_users = $2, \
             first_user_id = $3, first_points = $4, \
             second_user_id = $5, second_points = $6",
        min_points.0,
        Json(&shown) as _,
        first.map(|user| user.id),
        first.map(|user| user.points),
        second.map(|user| user.id),
        second.map(|user| user.points),
    )
    .execute(session)
    .await?;
    match renewed.rows_affected() {
        1 => Ok(()),
        _ => Err(Error::RowMissing("settings")),
    }
}

/// The ids of two users that qualify, from a random sample; fewer if they are too rare for it.
async fn sample(session: &mut Session, min_points: MinPoints) -> Result<Vec<i64>, Error> {
    let ids = sqlx::query_file_scalar!("src/domain/choice/sample.sql", min_points.0)
        .fetch_all(session)
        .await?;
    Ok(ids)
}

/// The ids of two users that qualify, from all; fewer only if no more qualify. Reads every user.
async fn scan(session: &mut Session, min_points: MinPoints) -> Result<Vec<i64>, Error> {
    let ids = sqlx::query_scalar!(
        "select id from users where points > $1 order by random() limit 2",
        min_points.0,
    )
    .fetch_all(session)
    .await?;
    Ok(ids)
}
