//! Rounds: the worker's against other ways to give all users new points.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use sqlx::AssertSqlSafe;
use testkit::TestDatabase;
use tokio::task::JoinSet;

use crate::Extent;
use crate::report::{Report, Runs, Table, Unit, Wanted};
use crate::stage::Stage;

/// Ids that the paging way reads at a time, as the original program did.
const PAGE: i64 = 20_000;
/// Ids that each of the parallel statements renews, and how many run at a time.
const RANGE: i64 = 1_000;
const PARALLEL: usize = 10;

const WORKER: usize = 0;
const BARE: usize = 1;
const POINTS_ALONE: usize = 2;
/// The first of the ways that have a table of their own.
const DEFAULT: usize = 3;
const SWAP: usize = 5;
const PAGING: usize = 6;
const RANGES: usize = 7;
/// Their names, and the table that each of them renews.
const WAYS: [(&str, &str); 8] = [
    ("Max Two's worker", "users"),
    (
        "the bare UPDATE of the same columns in psql, same table",
        "users",
    ),
    (
        "the bare UPDATE of `points` alone in psql, same table",
        "users",
    ),
    ("the UPDATE, on a default table", "default_users"),
    (
        "the UPDATE, on a default table with an index on `points`",
        INDEXED,
    ),
    ("a new table, swapped in (the limit)", "swapped_users"),
    (
        "pages of 20,000 ids, an UPDATE per distinct value, default table",
        "paged_users",
    ),
    (
        "ranges of 1,000 ids, 10 in parallel, default table",
        "ranged_users",
    ),
];
const INDEXED: &str = "indexed_users";
const UPDATE: &str = "set points = floor(random() * 101), updated_at = now()";

/// All ways, turn by turn.
pub(crate) async fn compare(
    stage: &Stage,
    extent: Extent,
    report: &mut Report,
) -> anyhow::Result<()> {
    let repetitions = if extent.full { 20 } else { 3 };
    let rivals = rivals(stage, extent.users).await;
    let databases: Vec<_> = (0..WAYS.len())
        .map(|way| {
            way.checked_sub(DEFAULT)
                .map_or(&stage.database, |rival| &rivals[rival])
        })
        .collect();
    // The second round is the first that finds a table as all later ones do.
    for (way, database) in databases.iter().enumerate() {
        renew(stage, database, way).await?;
    }
    let before = states(&databases).await;
    let mut seconds = vec![Runs::default(); WAYS.len()];
    let mut wal = vec![Runs::default(); WAYS.len()];
    for repetition in 0..repetitions {
        for place in 0..WAYS.len() {
            let way = (place + repetition) % WAYS.len();
            let written = stage.wal_bytes().await;
            let took = renew(stage, databases[way], way).await?;
            wal[way].push((stage.wal_bytes().await - written) / 1e6);
            seconds[way].push(took.as_secs_f64());
        }
    }
    let after = states(&databases).await;

    let mut table = Table::new(
        format!("Rounds over {} users", extent.users),
        "Worker and psql from the start of their process to its end. Growth of table and indexes over all repetitions. \
         Each table but the worker's is in a database of its own, on the same server.",
        &[
            ("seconds", Unit::Seconds),
            ("of the worker's", Unit::Times),
            ("MB of WAL", Unit::Megabytes),
            ("MB of growth", Unit::Megabytes),
            ("HOT updates", Unit::Percent),
        ],
    );
    for (way, (name, _)) in WAYS.into_iter().enumerate() {
        let hot = after[way].hot_since(&before[way]);
        table.row(
            name,
            vec![
                seconds[way].clone(),
                seconds[way].over(&seconds[WORKER]),
                wal[way].clone(),
                Runs::from((after[way].bytes - before[way].bytes) / 1e6),
                hot.map_or_else(Runs::default, Runs::from),
            ],
        );
    }
    report.table(table);
    let of = |this: usize, that: usize| seconds[this].over(&seconds[that]);
    report.goal(
        "the worker's round, of the bare UPDATE on its table",
        Wanted::AtMost(1.1),
        Unit::Times,
        of(WORKER, BARE),
    );
    report.goal(
        "…, of the limit, a new table swapped in",
        Wanted::AtMost(1.4),
        Unit::Times,
        of(WORKER, SWAP),
    );
    for (what, least, way) in [
        ("paging, of the worker's round", 5.0, PAGING),
        (
            "the UPDATE on a default table, of the worker's round",
            3.5,
            DEFAULT,
        ),
    ] {
        report.goal(what, Wanted::AtLeast(least), Unit::Times, of(way, WORKER));
        report.limit("of a new table, swapped in", of(way, SWAP));
    }
    Ok(())
}

/// Tables as others have them, with what Postgres gives a table by default. Each is in a database of its own: a snapshot
/// that is held in one, as autovacuum's while it analyzes, keeps nothing in another one from being pruned.
async fn rivals(stage: &Stage, users: i64) -> Vec<TestDatabase> {
    let mut databases = Vec::new();
    for (_, table) in &WAYS[DEFAULT..] {
        let database = stage.database.neighbour().await;
        database
            .run(&format!(
                "create table {table} as \
                     select id, now() as inserted_at, now() as updated_at, 0 as points from generate_series(1, {users}::bigint) as id; \
                 alter table {table} add primary key (id)"
            ))
            .await;
        if *table == INDEXED {
            database
                .run(&format!("create index on {table} (points)"))
                .await;
        }
        databases.push(database);
    }
    stage.database.run("checkpoint").await;
    databases
}

async fn renew(stage: &Stage, database: &TestDatabase, way: usize) -> anyhow::Result<Duration> {
    let (_, table) = WAYS[way];
    match way {
        WORKER => stage.round(None).await,
        SWAP => stage.psql(database, SWAPPING).await,
        PAGING => paging(database, table).await,
        POINTS_ALONE => {
            let update = "update users set points = floor(random() * 101)";
            stage.psql(database, update).await
        }
        RANGES => ranges(database, table).await,
        _ => {
            let update = format!("update {table} {UPDATE}");
            stage.psql(database, &update).await
        }
    }
}

const SWAPPING: &str = "begin; \
    create table new_users as select id, inserted_at, now() as updated_at, floor(random() * 101)::integer as points \
    from swapped_users; \
    alter table new_users add primary key (id); \
    drop table swapped_users; \
    alter table new_users rename to swapped_users; \
    alter index new_users_pkey rename to swapped_users_pkey; \
    commit";

/// As the original program did it: read a page of ids, draw for each, and renew those with the same points at once.
async fn paging(database: &TestDatabase, table: &str) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut connection = database.superuser().await;
    let page = format!("select id from {table} where id > $1 order by id limit {PAGE}");
    let update = format!("update {table} set points = $1, updated_at = now() where id = any($2)");
    let mut last = 0;
    loop {
        let ids: Vec<i64> = sqlx::query_scalar(AssertSqlSafe(page.clone()))
            .bind(last)
            .fetch_all(&mut connection)
            .await?;
        let Some(&highest) = ids.last() else {
            return Ok(began.elapsed());
        };
        last = highest;
        let mut by_points: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
        for id in ids {
            let points = rand::rng().random_range(0..=100);
            by_points.entry(points).or_default().push(id);
        }
        for (points, ids) in by_points {
            sqlx::query(AssertSqlSafe(update.clone()))
                .bind(points)
                .bind(ids)
                .execute(&mut connection)
                .await?;
        }
    }
}

/// Several sessions, each of which takes every tenth of the ranges.
async fn ranges(database: &TestDatabase, table: &str) -> anyhow::Result<Duration> {
    let highest: i64 = database
        .value(&format!("select max(id) from {table}"))
        .await;
    let began = Instant::now();
    let mut sessions: JoinSet<sqlx::Result<()>> = JoinSet::new();
    for first in 0..PARALLEL {
        let mut connection = database.superuser().await;
        let update = format!("update {table} {UPDATE} where id between $1 and $2");
        sessions.spawn(async move {
            let starts = (1..=highest).step_by(usize::try_from(RANGE).unwrap_or(1));
            for start in starts.skip(first).step_by(PARALLEL) {
                sqlx::query(AssertSqlSafe(update.clone()))
                    .bind(start)
                    .bind(start + RANGE - 1)
                    .execute(&mut connection)
                    .await?;
            }
            Ok(())
        });
    }
    while let Some(ended) = sessions.join_next().await {
        ended??;
    }
    Ok(began.elapsed())
}

/// How a table stands.
struct State {
    /// With its indexes.
    bytes: f64,
    /// So far.
    updates: f64,
    /// Those of them that touched no index.
    hot: f64,
}

impl State {
    /// The share of HOT updates since then, in percent.
    fn hot_since(&self, then: &Self) -> Option<f64> {
        let updates = self.updates - then.updates;
        (updates > 0.0).then(|| 100.0 * (self.hot - then.hot) / updates)
    }
}

/// The table of each way.
async fn states(databases: &[&TestDatabase]) -> Vec<State> {
    let mut states = Vec::new();
    for (database, (_, table)) in databases.iter().zip(WAYS) {
        let figures: Vec<f64> = database
            .value(&format!(
                "select array[pg_total_relation_size(relid), n_tup_upd, n_tup_hot_upd]::float8[] \
                 from pg_stat_user_tables where relname = '{table}'"
            ))
            .await;
        states.push(State {
            bytes: figures[0],
            updates: figures[1],
            hot: figures[2],
        });
    }
    states
}
