//! The users and their points.

use std::collections::HashSet;
use std::ops::RangeInclusive;

use rand::RngExt;
use serde::{Deserialize, Serialize};

use crate::db::{Error, Session};

/// The most points that a user can have. The statements below contain `MAX_POINTS + 1`, the number
/// of possible values, as the literal 101.
pub(crate) const MAX_POINTS: i32 = 100;

/// A user as an answer shows it. A round stores this in `settings.shown_users`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Positive.
    pub id: i64,
    /// 0 to 100.
    pub points: i32,
}

/// Adds the users of `ids` that are missing, with 0 points, and returns how many it added.
///
/// It does not wait for a round, which holds the rows of the users that exist. Concurrent calls are
/// safe: all insert in the order of the ids, so one waits for the other, and then finds its users.
///
/// # Errors
/// When the connection breaks, the role may not insert, or a lock is not free in time; nothing was
/// added then.
pub async fn add_missing(session: &mut Session, ids: RangeInclusive<i64>) -> Result<u64, Error> {
    loop {
        let present = sqlx::query!(
            r#"select coalesce(array_agg(id), '{}') as "ids!" from users where id between $1 and $2"#,
            ids.start(),
            ids.end(),
        )
        .fetch_one(&mut *session)
        .await?;
        let present = HashSet::<i64>::from_iter(present.ids);
        let is_missing = |id: &i64| !present.contains(id);
        let missing: Vec<_> = ids.clone().filter(is_missing).collect();
        if missing.is_empty() {
            return Ok(0);
        }
        // Not `on conflict do nothing`: it takes twice as long, and at each user that exists it
        // waits for a running round. Nor an anti-join, which Citus refuses.
        let added = sqlx::query!(
            "insert into users (id) select unnest($1::bigint[])",
            &missing,
        )
        .execute(&mut *session)
        .await;
        match added {
            // A concurrent call has added them meanwhile.
            Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {}
            added => return Ok(added?.rows_affected()),
        }
    }
}

/// Gives every user new points, 0 to 100 and each value equally likely. Returns how many it
/// updated.
pub(crate) async fn renew_points(session: &mut Session) -> Result<u64, Error> {
    let renewed = if is_distributed(session).await? {
        // Citus does not send volatile functions to its nodes. So this process draws one random key
        // per round, with which each node hashes its own ids. The ids are hashed as text, because
        // the hash of a bigint is the same for pairs of ids about 2^32 apart. The mask clears the
        // sign bit (`abs` fails for the lowest bigint). The remainder of 2^63 by 101 favours no
        // value by more than 1 in 10^16.
        let key: i64 = rand::rng().random();
        sqlx::query!(
            "update users \
             set points = (hashtextextended(id::text, $1) & 9223372036854775807) % 101, \
                 updated_at = now()",
            key
        )
        .execute(session)
        .await?
    } else {
        sqlx::query!("update users set points = floor(random() * 101), updated_at = now()")
            .execute(session)
            .await?
    };
    Ok(renewed.rows_affected())
}

/// Whether the table is spread over the nodes of a Citus cluster. Each node renews its own users.
async fn is_distributed(session: &mut Session) -> Result<bool, Error> {
    let is_citus_installed = sqlx::query_scalar!(
        r#"select to_regclass('pg_catalog.pg_dist_partition') is not null as "is_installed!""#
    );
    if !is_citus_installed.fetch_one(&mut *session).await? {
        return Ok(false);
    }
    // Not checked at compile time: without Citus there is no such table.
    let is_distributed = sqlx::query_scalar(
        "select exists ( \
             select from pg_catalog.pg_dist_partition \
             where logicalrelid = 'users'::regclass and partmethod = 'h' \
         )",
    );
    Ok(is_distributed.fetch_one(session).await?)
}
