//! The secret minimum of the current round, and the two users that answers show until the next
//! round. They are stored in the one row of `settings`, in `min_points` and `shown_users`. Until
//! the next release, its other columns serve the previous one (migration 10).

use std::str::FromStr;

use rand::RngExt;
use sqlx::types::Json;

use crate::db::{Error, Session};
use crate::domain::users::{MAX_POINTS, User};

/// The points that a user must exceed to qualify: 0 to 100, both included.
///
/// It is a secret: it has no `Display`, no `Debug` and no `Serialize`.
#[derive(Clone, Copy)]
pub struct MinPoints(i32);

impl MinPoints {
    /// Draws a minimum with the thread's cryptographic generator, every value equally likely.
    #[must_use]
    pub fn draw() -> Self {
        Self(rand::rng().random_range(0..=MAX_POINTS))
    }
}

impl FromStr for MinPoints {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(points @ 0..=MAX_POINTS) => Ok(Self(points)),
            _ => Err(format!(
                "the minimum must be an integer from 0 to {MAX_POINTS}"
            )),
        }
    }
}

/// Stores the new minimum and two users drawn from all that qualify, each pair equally likely.
///
/// # Errors
/// When there is no row to store them in, or a statement fails.
pub(crate) async fn renew(session: &mut Session, min_points: MinPoints) -> Result<(), Error> {
    let mut shown = sqlx::query_file_as!(User, "src/domain/shown_users/sample.sql", min_points.0)
        .fetch_all(&mut *session)
        .await?;
    if shown.len() < 2 {
        // Too few qualify for a sample. This reads every user.
        shown = sqlx::query_as!(
            User,
            "select id, points from users where points > $1 order by random() limit 2",
            min_points.0,
        )
        .fetch_all(&mut *session)
        .await?;
    }
    shown.sort_by_key(|user| user.id);
    // The update reads no user, so a Citus cluster runs it on the coordinator alone.
    let renewed = sqlx::query!(
        "update settings set min_points = $1, shown_users = $2",
        min_points.0,
        Json(&shown) as _,
    )
    .execute(session)
    .await?;
    match renewed.rows_affected() {
        1 => Ok(()),
        _ => Err(Error::row_missing("settings")),
    }
}
