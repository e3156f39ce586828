//! The three roles in a private server, created by the scripts that operators run on theirs:
//! `deploy/postgres/roles.sql` and `deploy/postgres/grants.sql`.

use shared::db::{Database, Error, Session, schema};
use sqlx::{AssertSqlSafe, raw_sql};

use crate::Server;

/// Owns the database, migrates and seeds it.
pub const OWNER: &str = "max_two_owner";
/// Does the rounds.
pub const WORKER: &str = "max_two_worker";
/// Answers queries.
pub const API: &str = "max_two_api";

/// Creates the roles, all with the server's password, and a migrated database in which each has
/// what it needs. What exists already stays. The roles get no connection limit, because nothing
/// else uses the server.
///
/// `database` becomes part of SQL text, so it must be a plain name.
///
/// # Errors
/// When connecting or a statement fails.
pub async fn set_up(server: &Server, database: &str) -> Result<(), Error> {
    let mut session = connect(server, "postgres", "postgres").await?;
    let create = include_str!("../../../postgres/roles.sql");
    run(&mut session, create.to_owned()).await?;
    for role in [OWNER, WORKER, API] {
        let password = server.password();
        let alter = format!("alter role {role} password '{password}' connection limit -1");
        run(&mut session, alter).await?;
    }
    let exists = "select exists (select from pg_database where datname = $1)";
    let exists = sqlx::query_scalar(exists).bind(database);
    if !exists.fetch_one(&mut session).await? {
        let create = format!("create database {database} owner {OWNER}");
        run(&mut session, create).await?;
    }

    let mut session = connect(server, OWNER, database).await?;
    schema::migrate(&mut session).await?;

    let mut session = connect(server, "postgres", database).await?;
    let grants = include_str!("../../../postgres/grants.sql");
    run(&mut session, grants.to_owned()).await?;
    Ok(())
}

async fn connect(server: &Server, role: &str, database: &str) -> Result<Session, Error> {
    let database = Database::parse(&server.url(role, database), "max-two")?;
    database.connect().await
}

async fn run(session: &mut Session, statements: String) -> Result<(), Error> {
    // Safe: it consists of our scripts, a plain name, and a password of letters and digits.
    raw_sql(AssertSqlSafe(statements)).execute(session).await?;
    Ok(())
}
