//! Rounds: the worker's against other ways to give all users new points.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use sqlx::{AssertSqlSafe, Row as _};
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
const SWAP: usize = 5;
const DEFAULT: usize = 3;
const PAGING: usize = 6;
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
        "indexed_users",
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
const UPDATE: &str = "set points = floor(random() * 101), updated_at = now()";

/// All ways, turn by turn.
pub(crate) async fn compare(
    stage: &Stage,
    extent: Extent,
    report: &mut Report,
) -> anyhow::Result<()> {
    let repetitions = if extent.full { 20 } else { 3 };
    prepare(stage).await;
    // The second round is the first that finds a table as all later ones do.
    for way in 0..WAYS.len() {
        renew(stage, way).await?;
    }
    let sizes_before = sizes(stage).await;
    let hot_before = hot(stage).await;
    let mut seconds = vec![Runs::default(); WAYS.len()];
    let mut wal = vec![Runs::default(); WAYS.len()];
    for repetition in 0..repetitions {
        for place in 0..WAYS.len() {
            let way = (place + repetition) % WAYS.len();
            let written = stage.wal_bytes().await;
            let took = renew(stage, way).await?;
            wal[way].push((stage.wal_bytes().await - written) / 1e6);
            seconds[way].push(took.as_secs_f64());
        }
    }
    let sizes_after = sizes(stage).await;
    let hot_after = hot(stage).await;

    let mut table = Table::new(
        format!(
            "Rounds over {} users",
            stage
                .database
                .value::<i64>("select count(*) from users")
                .await
        ),
        "Worker and psql from the start of their process to its end. Growth of table and indexes over all repetitions.",
        &[
            ("seconds", Unit::Seconds),
            ("of the worker's", Unit::Times),
            ("MB of WAL", Unit::Megabytes),
            ("MB of growth", Unit::Megabytes),
            ("HOT updates", Unit::Percent),
        ],
    );
    for (way, (name, renewed)) in WAYS.into_iter().enumerate() {
        let hot = hot_after[renewed].since(hot_before.get(renewed).copied().unwrap_or_default());
        table.row(
            name,
            vec![
                seconds[way].clone(),
                seconds[way].over(&seconds[WORKER]),
                wal[way].clone(),
                Runs::from((sizes_after[renewed] - sizes_before[renewed]) / 1e6),
                hot.map_or_else(Runs::default, Runs::from),
            ],
        );
    }
    report.table(table);
    for (what, wanted, figures) in [
        (
            "the worker's round, of the bare UPDATE on its table",
            Wanted::AtMost(1.1),
            seconds[WORKER].over(&seconds[BARE]),
        ),
        (
            "…, of the limit, a new table swapped in",
            Wanted::AtMost(1.4),
            seconds[WORKER].over(&seconds[SWAP]),
        ),
        (
            "paging, of the worker's round",
            Wanted::AtLeast(5.0),
            seconds[PAGING].over(&seconds[WORKER]),
        ),
        (
            "the UPDATE on a default table, of the worker's round",
            Wanted::AtLeast(3.5),
            seconds[DEFAULT].over(&seconds[WORKER]),
        ),
    ] {
        report.goal(what, wanted, Unit::Times, figures);
    }
    for (_, renewed) in &WAYS[DEFAULT..] {
        stage.database.run(&format!("drop table {renewed}")).await;
    }
    Ok(())
}

/// Tables as others have them: with what Postgres gives a table by default.
async fn prepare(stage: &Stage) {
    for (_, table) in &WAYS[DEFAULT..] {
        stage
            .database
            .run(&format!(
                "create table {table} as select * from users; alter table {table} add primary key (id)"
            ))
            .await;
    }
    stage
        .database
        .run("create index on indexed_users (points)")
        .await;
    stage.database.run("checkpoint").await;
}

async fn renew(stage: &Stage, way: usize) -> anyhow::Result<Duration> {
    let (_, table) = WAYS[way];
    match way {
        WORKER => stage.round(None).await,
        SWAP => stage.psql(SWAPPING).await,
        PAGING => paging(stage, table).await,
        2 => {
            stage
                .psql("update users set points = floor(random() * 101)")
                .await
        }
        7 => ranges(stage, table).await,
        _ => stage.psql(&format!("update {table} {UPDATE}")).await,
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
async fn paging(stage: &Stage, table: &str) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut connection = stage.database.superuser().await;
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
async fn ranges(stage: &Stage, table: &str) -> anyhow::Result<Duration> {
    let highest: i64 = stage
        .database
        .value(&format!("select max(id) from {table}"))
        .await;
    let began = Instant::now();
    let mut sessions: JoinSet<sqlx::Result<()>> = JoinSet::new();
    for first in 0..PARALLEL {
        let mut connection = stage.database.superuser().await;
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

/// Bytes of each table with its indexes.
async fn sizes(stage: &Stage) -> BTreeMap<String, f64> {
    let query =
        "select relname::text, pg_total_relation_size(relid)::float8 from pg_stat_user_tables";
    let mut connection = stage.database.superuser().await;
    let rows = sqlx::query(query)
        .fetch_all(&mut connection)
        .await
        .expect("a superuser may look");
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// Updates so far, and how many of them touched no index.
#[derive(Clone, Copy, Default)]
struct Updates {
    all: f64,
    hot: f64,
}

impl Updates {
    /// The share of HOT updates since then, in percent.
    fn since(self, then: Self) -> Option<f64> {
        let all = self.all - then.all;
        (all > 0.0).then(|| 100.0 * (self.hot - then.hot) / all)
    }
}

async fn hot(stage: &Stage) -> BTreeMap<String, Updates> {
    let query =
        "select relname::text, n_tup_upd::float8, n_tup_hot_upd::float8 from pg_stat_user_tables";
    let mut connection = stage.database.superuser().await;
    let rows = sqlx::query(query)
        .fetch_all(&mut connection)
        .await
        .expect("a superuser may look");
    let updates = |row: &sqlx::postgres::PgRow| Updates {
        all: row.get(1),
        hot: row.get(2),
    };
    rows.iter().map(|row| (row.get(0), updates(row))).collect()
}
