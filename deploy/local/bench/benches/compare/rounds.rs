//! Rounds: Max Two's worker, and other ways to give all users new points.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use sqlx::AssertSqlSafe;
use testkit::{TestDatabase, eventually};
use tokio::task::JoinSet;

use crate::env::{Env, wal_bytes};
use crate::report::{Bound, Report, Table};
use crate::samples::{Samples, Unit, with_separators};
use crate::{Scale, shuffled};

/// Ids that [`update_by_page`] reads at a time, as the original program did.
const PAGE_SIZE: i64 = 20_000;
/// Ids that each statement of [`update_by_range`] updates.
const RANGE_SIZE: i64 = 1_000;
const PARALLEL_SESSIONS: usize = 10;

const WORKER: usize = 0;
const BARE_UPDATE: usize = 1;
const POINTS_ONLY: usize = 2;
/// The contestants from here on have a table of their own, [`PLAIN_USERS`].
const FIRST_PLAIN: usize = 3;
const DEFAULT: usize = 3;
const INDEXED: usize = 4;
const SWAP: usize = 5;
const BY_PAGE: usize = 6;
const BY_RANGE: usize = 7;
const NAMES: [&str; 8] = [
    "Max Two's worker",
    "bare UPDATE of the same columns in psql, same table",
    "bare UPDATE of `points` only in psql, same table",
    "UPDATE of a default table",
    "UPDATE of a default table with an index on `points`",
    "new table, swapped in (lower limit)",
    "pages of 20,000 ids, an UPDATE per distinct value, default table",
    "ranges of 1,000 ids, 10 in parallel, default table",
];

/// A table with the default storage parameters and without constraints on its columns.
const PLAIN_USERS: &str = "create table plain_users as table users; \
    drop table users; \
    alter table plain_users add primary key (id)";
const SET_CLAUSE: &str = "set points = floor(random() * 101), updated_at = now()";
const SWAP_TABLES: &str = "begin; \
    create table new_users as \
    select id, inserted_at, now() as updated_at, floor(random() * 101)::integer as points \
    from plain_users; \
    alter table new_users add primary key (id); \
    drop table plain_users; \
    alter table new_users rename to plain_users; \
    alter index new_users_pkey rename to plain_users_pkey; \
    commit";

pub(crate) async fn compare(env: &Env, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let repetitions = if scale.full { 10 } else { 3 };
    let plain = create_plain_databases(scale.users).await;
    let databases: Vec<_> = [&env.database; FIRST_PLAIN]
        .into_iter()
        .chain(&plain)
        .collect();
    // The second round is the first to update a table that already has a round's dead rows.
    for (contestant, database) in databases.iter().enumerate() {
        run_round(env, database, contestant).await?;
    }
    let before = table_stats(&databases).await;
    let mut seconds = vec![Samples::default(); NAMES.len()];
    let mut wal = vec![Samples::default(); NAMES.len()];
    for _ in 0..repetitions {
        for contestant in shuffled(NAMES.len()) {
            if contestant < FIRST_PLAIN {
                wait_for_old_snapshots(&env.database).await;
            }
            let database = databases[contestant];
            let wal_before = wal_bytes(database).await;
            let duration = run_round(env, database, contestant).await?;
            wal[contestant].push((wal_bytes(database).await - wal_before) / 1e6);
            seconds[contestant].push(duration.as_secs_f64());
        }
    }
    let after = table_stats(&databases).await;

    #[allow(clippy::cast_precision_loss, reason = "millions")]
    let users = with_separators(scale.users as f64);
    let mut table = Table::new(
        format!("Rounds over {users} users, {repetitions} repetitions"),
        "Seconds of the worker's or psql's whole process. Growth of table and indexes over all \
         repetitions. The first three share a table; each of the others has a server of its own.",
        &[
            ("seconds", Unit::Seconds),
            ("÷ worker", Unit::Ratio),
            ("WAL, MB", Unit::Megabytes),
            ("growth, MB", Unit::Megabytes),
            ("HOT updates", Unit::Percent),
        ],
        &[],
    );
    for (contestant, name) in NAMES.into_iter().enumerate() {
        let (growth, hot_updates) = match contestant {
            BARE_UPDATE | POINTS_ONLY => (Samples::default(), Samples::default()),
            _ => after[contestant].since(&before[contestant]),
        };
        table.row(
            name,
            vec![
                seconds[contestant].clone(),
                seconds[contestant].ratio_to(&seconds[WORKER]),
                wal[contestant].clone(),
                growth,
                hot_updates,
            ],
        );
    }
    report.table(table);
    add_goals(&seconds, report);
    Ok(())
}

fn add_goals(seconds: &[Samples], report: &mut Report) {
    let ratio = |this: usize, that: usize| seconds[this].ratio_to(&seconds[that]);
    report.goal(
        "worker's round ÷ bare UPDATE of the same table",
        Bound::AtMost(1.1),
        Unit::Ratio,
        ratio(WORKER, BARE_UPDATE),
    );
    report
        .goal(
            // Nothing that renews all users can write less.
            "worker's round ÷ new table, swapped in",
            Bound::AtMost(1.15),
            Unit::Ratio,
            ratio(WORKER, SWAP),
        )
        .reference("UPDATE of a default table", ratio(DEFAULT, SWAP));
    report
        .goal(
            "pages of ids ÷ worker's round",
            Bound::AtLeast(5.0),
            Unit::Ratio,
            ratio(BY_PAGE, WORKER),
        )
        .reference("pages of ids ÷ new table, swapped in", ratio(BY_PAGE, SWAP));
}

/// Each database is on a server of its own: an autovacuum worker that analyzes one of the tables
/// holds a snapshot, which keeps new sessions of the whole server from pruning (see TRIED.md).
async fn create_plain_databases(users: i64) -> Vec<TestDatabase> {
    let mut databases = Vec::new();
    for contestant in FIRST_PLAIN..NAMES.len() {
        let database = TestDatabase::with_durable_server().await;
        database.seed(users).await;
        database.run(PLAIN_USERS).await;
        if contestant == INDEXED {
            let index = "create index on plain_users (points)";
            database.run(index).await;
        }
        database.run("checkpoint").await;
        databases.push(database);
    }
    databases
}

/// Waits until no snapshot is older than the last round, as the worker does before a round. A bare
/// UPDATE could not prune otherwise: the table would grow, and all later rounds would be slower.
async fn wait_for_old_snapshots(database: &TestDatabase) {
    let old_snapshots = "select count(*) from pg_stat_activity \
         where datname = current_database() and \
         greatest(age(backend_xmin), age(backend_xid)) >= (select age(xmin) from users limit 1)";
    eventually("no snapshot is older than the last round", async || {
        database.value::<i64>(old_snapshots).await == 0
    })
    .await;
}

async fn run_round(
    env: &Env,
    database: &TestDatabase,
    contestant: usize,
) -> anyhow::Result<Duration> {
    let statement = match contestant {
        WORKER => return env.run_round(None).await,
        BY_PAGE => return update_by_page(database).await,
        BY_RANGE => return update_by_range(database).await,
        SWAP => SWAP_TABLES.to_owned(),
        BARE_UPDATE => format!("update users {SET_CLAUSE}"),
        POINTS_ONLY => "update users set points = floor(random() * 101)".to_owned(),
        _ => format!("update plain_users {SET_CLAUSE}"),
    };
    env.run_psql(database, &statement).await
}

/// As the original program did it: reads a page of ids, draws points for each, and runs one UPDATE
/// for all ids with the same points.
async fn update_by_page(database: &TestDatabase) -> anyhow::Result<Duration> {
    let started = Instant::now();
    let mut session = database.superuser().await;
    let page = format!("select id from plain_users where id > $1 order by id limit {PAGE_SIZE}");
    let update = "update plain_users set points = $1, updated_at = now() where id = any($2)";
    let mut last = 0;
    loop {
        let ids: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(page.clone()))
            .bind(last)
            .fetch_all(&mut session)
            .await?;
        let Some(&highest) = ids.last() else {
            return Ok(started.elapsed());
        };
        last = highest;
        let mut by_points: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
        for id in ids {
            let points = rand::rng().random_range(0..=100);
            by_points.entry(points).or_default().push(id);
        }
        for (points, ids) in by_points {
            sqlx::query(update)
                .bind(points)
                .bind(ids)
                .execute(&mut session)
                .await?;
        }
    }
}

/// Session n updates the ranges n, n + 10, n + 20 and so on.
async fn update_by_range(database: &TestDatabase) -> anyhow::Result<Duration> {
    let highest: i64 = database.value("select max(id) from plain_users").await;
    let started = Instant::now();
    let mut updates: JoinSet<sqlx::Result<()>> = JoinSet::new();
    for first in 0..PARALLEL_SESSIONS {
        let mut session = database.superuser().await;
        let update = format!("update plain_users {SET_CLAUSE} where id between $1 and $2");
        updates.spawn(async move {
            let starts = (1..=highest).step_by(usize::try_from(RANGE_SIZE).unwrap_or(1));
            for start in starts.skip(first).step_by(PARALLEL_SESSIONS) {
                sqlx::query(AssertSqlSafe(update.clone()))
                    .bind(start)
                    .bind(start + RANGE_SIZE - 1)
                    .execute(&mut session)
                    .await?;
            }
            Ok(())
        });
    }
    while let Some(update) = updates.join_next().await {
        update??;
    }
    Ok(started.elapsed())
}

struct TableStats {
    /// Of the table with its indexes.
    bytes: f64,
    updates: f64,
    hot_updates: f64,
}

impl TableStats {
    /// The growth since `earlier` in megabytes, and the percentage of updates that were HOT.
    fn since(&self, earlier: &Self) -> (Samples, Samples) {
        let updates = self.updates - earlier.updates;
        let hot_updates = self.hot_updates - earlier.hot_updates;
        let percentage = (updates > 0.0).then(|| 100.0 * hot_updates / updates);
        (
            Samples::from((self.bytes - earlier.bytes) / 1e6),
            percentage.map_or_else(Samples::default, Samples::from),
        )
    }
}

async fn table_stats(databases: &[&TestDatabase]) -> Vec<TableStats> {
    let mut stats = Vec::new();
    for database in databases {
        let figures: Vec<f64> = database
            .value(
                "select array[pg_total_relation_size(relid), n_tup_upd, n_tup_hot_upd]::float8[] \
                 from pg_stat_user_tables where relname in ('users', 'plain_users')",
            )
            .await;
        stats.push(TableStats {
            bytes: figures[0],
            updates: figures[1],
            hot_updates: figures[2],
        });
    }
    stats
}
