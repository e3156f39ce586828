//! The users and their points.

use std::ops::RangeInclusive;

use rand::RngExt;
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

/// How the table is stored, which decides how a round renews it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// On one server.
    SingleNode,
    /// By `id`, over the nodes of a Citus cluster, each of which renews its own shards.
    Distributed,
}

/// Asks the database how the table is stored.
///
/// # Errors
/// When it can't be reached.
pub async fn layout(connection: &mut PgConnection) -> Result<Layout, Error> {
    let citus = sqlx::query!(
        r#"select to_regclass('pg_catalog.pg_dist_partition') is not null as "is_here!""#
    )
    .fetch_one(&mut *connection)
    .await?;
    if !citus.is_here {
        return Ok(Layout::SingleNode);
    }
    // Not checked at compile time: an ordinary database has no such table.
    let distributed = sqlx::query_scalar(
        "select exists (select from pg_catalog.pg_dist_partition where logicalrelid = 'users'::regclass and partmethod = 'h')",
    )
    .fetch_one(connection)
    .await?;
    Ok(if distributed {
        Layout::Distributed
    } else {
        Layout::SingleNode
    })
}

/// Gives every user new points, 0 to 100 and each value equally likely, and returns how many users there are.
pub(crate) async fn renew_points(
    connection: &mut PgConnection,
    layout: Layout,
) -> Result<u64, Error> {
    let renewed = match layout {
        Layout::SingleNode => {
            sqlx::query!("update users set points = floor(random() * 101), updated_at = now()")
                .execute(connection)
                .await?
        }
        // Nodes are sent nothing volatile, so chance is drawn here, once a round: a key, with which each node hashes its
        // own ids. As text, for the hash of a bigint is the same for an id and for another one about 2^32 away. The
        // mask takes the sign off (`abs` fails for the lowest bigint); what 2^63 leaves over 101 favours no value by
        // more than 1 in 10^16.
        Layout::Distributed => {
            let key: i64 = rand::rng().random();
            sqlx::query!(
                "update users \
                 set points = (hashtextextended(id::text, $1) & 9223372036854775807) % 101, updated_at = now()",
                key
            )
            .execute(connection)
            .await?
        }
    };
    Ok(renewed.rows_affected())
}
