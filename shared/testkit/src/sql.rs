//! Runs a test's SQL. If it fails, the test panics and shows the SQL.

use shared::db::Session;
use sqlx::{AssertSqlSafe, Decode, Postgres, Type, raw_sql};

/// Runs statements.
pub async fn run(session: &mut Session, statements: &str) {
    raw_sql(AssertSqlSafe(statements.to_owned()))
        .execute(session)
        .await
        .unwrap_or_else(|error| panic!("{statements}: {error}"));
}

/// The single value that a query returns.
pub async fn value<T>(session: &mut Session, query: &str) -> T
where
    T: Send + Unpin + for<'row> Decode<'row, Postgres> + Type<Postgres>,
{
    sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
        .fetch_one(session)
        .await
        .unwrap_or_else(|error| panic!("{query}: {error}"))
}
