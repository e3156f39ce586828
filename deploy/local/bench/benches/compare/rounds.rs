//! Rounds, beside other ways to give all users new points.

use std::time::Instant;

use testkit::TestDatabase;

use crate::figures::Figures;
use crate::{Bench, create_database, shuffled};

const BARE_UPDATE: &str = "bare `UPDATE` of the table";
const DEFAULT_TABLE: &str = "bare `UPDATE`, default table, index on `points`";

fn update(table: &str) -> String {
    format!("update {table} set points = floor(random() * 101), updated_at = now()")
}

/// A database with a table `default_users`: default storage parameters, and an index on the points.
/// On a server of its own, because it writes several times the WAL.
pub(crate) async fn create_default_table(users: i64) -> TestDatabase {
    let database = create_database(users).await;
    let create = "create table default_users as table users; \
        alter table default_users add primary key (id); \
        create index on default_users (points)";
    database.run(create).await;
    // The second round is the first to update a table that already has a round's dead rows.
    database.run(&update("default_users")).await;
    database.run("checkpoint").await;
    database
}

/// Measures a turn of rounds. Sessions and processes start and end within the measured time.
pub(crate) async fn measure(
    bench: &Bench,
    default_table: &TestDatabase,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    // The first round after a checkpoint also writes the whole pages, whoever runs it.
    bench.programs.round(&bench.database, &[]).await?;
    let mut contestants = vec![(BARE_UPDATE, None), (DEFAULT_TABLE, None)];
    let versions = bench.versions().into_iter();
    contestants.extend(versions.map(|(version, programs)| (version, Some(programs))));
    for (contestant, programs) in shuffled(contestants) {
        let (database, table) = if contestant == DEFAULT_TABLE {
            (default_table, "default_users")
        } else {
            (&bench.database, "users")
        };
        let wal_before = wal_megabytes(database).await;
        let started = Instant::now();
        if let Some(programs) = programs {
            programs.round(database, &[]).await?;
        } else {
            database.run(&update(table)).await;
        }
        let seconds = started.elapsed().as_secs_f64();
        let wal = wal_megabytes(database).await - wal_before;
        figures.add("a round, s", contestant, seconds);
        figures.add("WAL of a round, MB", contestant, wal);
    }
    Ok(())
}

/// The WAL that the server has written since it was created.
async fn wal_megabytes(database: &TestDatabase) -> f64 {
    let position = "select (pg_current_wal_insert_lsn() - '0/0'::pg_lsn)::float8 / 1e6";
    database.value(position).await
}
