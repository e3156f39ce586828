//! Runs a test's SQL. If it fails, the test panics and shows the SQL.

use shared::db::Session;
use sqlx::{AssertSqlSafe, raw_sql};

/// What a column of a query can be read as.
pub trait Value:
    Send + Unpin + for<'row> sqlx::Decode<'row, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>
{
}

impl<T> Value for T where
    T: Send + Unpin + for<'row> sqlx::Decode<'row, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>
{
}

/// Runs statements.
pub async fn run(session: &mut Session, statements: &str) {
    raw_sql(AssertSqlSafe(statements.to_owned()))
        .execute(session)
        .await
        .unwrap_or_else(|error| panic!("{statements}: {error}"));
}

/// The single value that a query returns.
pub async fn value<T: Value>(session: &mut Session, query: &str) -> T {
    sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
        .fetch_one(session)
        .await
        .unwrap_or_else(|error| panic!("{query}: {error}"))
}
