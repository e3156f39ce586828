//! Rounds: the worker's against other ways to give all users new points.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use sqlx::AssertSqlSafe;
use testkit::{TestDatabase, eventually};
use tokio::task::JoinSet;

use crate::report::{Report, Runs, Table, Unit, Wanted};
use crate::stage::{Stage, wal_bytes};
use crate::{Extent, shuffled};

/// Ids that the paging way reads at a time, as the original program did.
const PAGE: i64 = 20_000;
/// Ids that each of the parallel statements renews, and how many run at a time.
const RANGE: i64 = 1_000;
const PARALLEL: usize = 10;

const WORKER: usize = 0;
const BARE: usize = 1;
const POINTS_ALONE: usize = 2;
/// From here on, ways have a table of their own.
const FIRST_RIVAL: usize = 3;
const DEFAULT: usize = 3;
const INDEXED: usize = 4;
const SWAP: usize = 5;
const PAGING: usize = 6;
const RANGES: usize = 7;
const NAMES: [&str; 8] = [
    "Max Two's worker",
    "the bare UPDATE of the same columns in psql, same table",
    "the bare UPDATE of `points` alone in psql, same table",
    "the UPDATE, on a default table",
    "the UPDATE, on a default table with an index on `points`",
    "a new table, swapped in (the limit)",
    "pages of 20,000 ids, an UPDATE per distinct value, default table",
    "ranges of 1,000 ids, 10 in parallel, default table",
];
const UPDATE: &str = "set points = floor(random() * 101), updated_at = now()";

/// All ways, turn by turn.
pub(crate) async fn compare(
    stage: &Stage,
    extent: Extent,
    report: &mut Report,
) -> anyhow::Result<()> {
    let turns = if extent.full { 20 } else { 3 };
    let rivals = rivals(extent.users).await;
    let databases: Vec<_> = [&stage.database; FIRST_RIVAL]
        .into_iter()
        .chain(&rivals)
        .collect();
    // The second round is the first that finds the worker's table as all later ones do.
    for (way, database) in databases.iter().enumerate() {
        renew(stage, database, way).await?;
    }
    let before = states(&databases).await;
    let mut seconds = vec![Runs::default(); NAMES.len()];
    let mut wal = vec![Runs::default(); NAMES.len()];
    for _ in 0..turns {
        for way in shuffled(NAMES.len()) {
            if way < FIRST_RIVAL {
                settle(&stage.database).await;
            }
            let written = wal_bytes(databases[way]).await;
            let took = renew(stage, databases[way], way).await?;
            wal[way].push((wal_bytes(databases[way]).await - written) / 1e6);
            seconds[way].push(took.as_secs_f64());
        }
    }
    let after = states(&databases).await;

    let mut table = Table::new(
        format!("Rounds over {} users, {turns} turns", extent.users),
        "Worker and psql from the start of their process to its end. Growth of table and indexes over all turns. The first \
         three share a table; each other one is on a server of its own.",
        &[
            ("seconds", Unit::Seconds),
            ("of the worker's", Unit::Times),
            ("MB of WAL", Unit::Megabytes),
            ("MB of growth", Unit::Megabytes),
            ("HOT updates", Unit::Percent),
        ],
    );
    for (way, name) in NAMES.into_iter().enumerate() {
        let (growth, hot) = match way {
            BARE | POINTS_ALONE => (Runs::default(), Runs::default()),
            _ => after[way].since(&before[way]),
        };
        table.row(
            name,
            vec![
                seconds[way].clone(),
                seconds[way].over(&seconds[WORKER]),
                wal[way].clone(),
                growth,
                hot,
            ],
        );
    }
    report.table(table);
    goals(&seconds, report);
    Ok(())
}

fn goals(seconds: &[Runs], report: &mut Report) {
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
        report
            .goal(what, Wanted::AtLeast(least), Unit::Times, of(way, WORKER))
            .beside("of a new table, swapped in", of(way, SWAP));
    }
}

/// Tables as others have them, with what Postgres gives a table by default, and without our constraints. Each is on a server
/// of its own: what autovacuum holds while it analyzes one of them would keep a new session from pruning any other table of
/// the same server, in whichever database, as TRIED.md tells.
async fn rivals(users: i64) -> Vec<TestDatabase> {
    let mut databases = Vec::new();
    for way in FIRST_RIVAL..NAMES.len() {
        let database = TestDatabase::with_durable_server().await;
        database.seed(users).await;
        database
            .run("create table rivals as table users; drop table users; alter table rivals add primary key (id)")
            .await;
        if way == INDEXED {
            database.run("create index on rivals (points)").await;
        }
        database.run("checkpoint").await;
        databases.push(database);
    }
    databases
}

/// Waits, as the worker does before a round, until nobody reads what the last one replaced: the bare UPDATE would make the
/// table grow, and all that comes after it slower.
async fn settle(database: &TestDatabase) {
    let readers = "select count(*) from pg_stat_activity where datname = current_database() \
         and greatest(age(backend_xmin), age(backend_xid)) >= (select age(xmin) from users limit 1)";
    eventually("nobody reads what the last round replaced", async || {
        database.value::<i64>(readers).await == 0
    })
    .await;
}

async fn renew(stage: &Stage, database: &TestDatabase, way: usize) -> anyhow::Result<Duration> {
    let update = match way {
        WORKER => return stage.round(None).await,
        PAGING => return paging(database).await,
        RANGES => return ranges(database).await,
        SWAP => SWAPPING.to_owned(),
        BARE => format!("update users {UPDATE}"),
        POINTS_ALONE => "update users set points = floor(random() * 101)".to_owned(),
        _ => format!("update rivals {UPDATE}"),
    };
    stage.psql(database, &update).await
}

const SWAPPING: &str = "begin; \
    create table new_users as select id, inserted_at, now() as updated_at, floor(random() * 101)::integer as points \
    from rivals; \
    alter table new_users add primary key (id); \
    drop table rivals; \
    alter table new_users rename to rivals; \
    alter index new_users_pkey rename to rivals_pkey; \
    commit";

/// As the original program did it: read a page of ids, draw for each, and renew those with the same points at once.
async fn paging(database: &TestDatabase) -> anyhow::Result<Duration> {
    let began = Instant::now();
    let mut connection = database.superuser().await;
    let page = format!("select id from rivals where id > $1 order by id limit {PAGE}");
    let update = "update rivals set points = $1, updated_at = now() where id = any($2)";
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
            sqlx::query(update)
                .bind(points)
                .bind(ids)
                .execute(&mut connection)
                .await?;
        }
    }
}

/// Several sessions, each of which takes every tenth of the ranges.
async fn ranges(database: &TestDatabase) -> anyhow::Result<Duration> {
    let highest: i64 = database.value("select max(id) from rivals").await;
    let began = Instant::now();
    let mut sessions: JoinSet<sqlx::Result<()>> = JoinSet::new();
    for first in 0..PARALLEL {
        let mut connection = database.superuser().await;
        let update = format!("update rivals {UPDATE} where id between $1 and $2");
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
    /// The growth since then in megabytes, and the share of HOT updates in percent.
    fn since(&self, then: &Self) -> (Runs, Runs) {
        let updates = self.updates - then.updates;
        let hot = (updates > 0.0).then(|| 100.0 * (self.hot - then.hot) / updates);
        (
            Runs::from((self.bytes - then.bytes) / 1e6),
            hot.map_or_else(Runs::default, Runs::from),
        )
    }
}

/// The table of each way.
async fn states(databases: &[&TestDatabase]) -> Vec<State> {
    let mut states = Vec::new();
    for database in databases {
        let figures: Vec<f64> = database
            .value(
                "select array[pg_total_relation_size(relid), n_tup_upd, n_tup_hot_upd]::float8[] \
                 from pg_stat_user_tables where relname in ('users', 'rivals')",
            )
            .await;
        states.push(State {
            bytes: figures[0],
            updates: figures[1],
            hot: figures[2],
        });
    }
    states
}
