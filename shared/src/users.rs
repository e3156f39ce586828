//! The users and their points.

use std::ops::RangeInclusive;

use serde::Serialize;
use sqlx::PgConnection;

use crate::db::Error;

/// A user as an answer shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct User {
    /// Positive.
    pub id: i64,
    /// 0 to 100.
    pub points: i32,
}

/// Adds the users of `ids` that are missing, with 0 points, and returns how many these were.
///
/// Safe beside a second one: both add in the order of the ids, so that one waits for the other and then finds its
/// users.
///
/// # Errors
/// When the database can't be reached or the role may not insert; nothing was added then.
pub async fn seed(connection: &mut PgConnection, ids: RangeInclusive<i64>) -> Result<u64, Error> {
    let added = sqlx::query!(
        "insert into users (id) \
         select id from generate_series($1::bigint, $2::bigint) as id \
         order by id \
         on conflict do nothing",
        ids.start(),
        ids.end(),
    )
    .execute(connection)
    .await?;
    Ok(added.rows_affected())
}

/// Gives every user new points, 0 to 100 and each value equally likely, and returns how many users there are.
pub(crate) async fn renew_points(connection: &mut PgConnection) -> Result<u64, Error> {
    let renewed =
        sqlx::query!("update users set points = floor(random() * 101), updated_at = now()")
            .execute(connection)
            .await?;
    Ok(renewed.rows_affected())
}
