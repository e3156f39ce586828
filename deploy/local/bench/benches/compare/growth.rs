//! Costs that grow with the number of users, and tables that must not grow with the rounds.

use private_postgres::roles;
use testkit::{TestDatabase, eventually};

use crate::Scale;
use crate::env::{Env, wal_bytes};
use crate::load;
use crate::plot::{Axis, Line, Plot};
use crate::report::{Bound, Report, Table};
use crate::samples::{Samples, Unit, with_separators};

/// All tables but `rounds`, which keeps a week of rows.
const TABLES: [&str; 3] = ["users", "settings", "last_query"];
const CONNECTIONS: usize = 64;

/// Measures the growth of the tables over many rounds.
pub(crate) async fn over_rounds(
    env: &Env,
    scale: Scale,
    report: &mut Report,
) -> anyhow::Result<()> {
    let rounds = if scale.full { 200 } else { 20 };
    env.run_round(None).await?;
    env.run_round(None).await?;
    // The first vacuum adds the visibility and free space maps, and autovacuum may start it at any
    // time.
    let vacuum = "vacuum users, settings, last_query";
    env.database.run(vacuum).await;
    let before = Sizes::of(&env.database).await;
    for _ in 2..rounds {
        env.run_round(None).await?;
    }
    let after = Sizes::of(&env.database).await;
    let mut table = Table::new(
        format!("Growth in {rounds} rounds"),
        "Bytes after the second round, and growth since then.",
        &[("bytes", Unit::Bytes), ("growth", Unit::Bytes)],
        &[],
    );
    for ((part, before), (_, after)) in before.parts.iter().zip(&after.parts) {
        table.row(
            part,
            vec![Samples::from(*before), Samples::from(after - before)],
        );
    }
    report.unrecorded_table(table);
    let name = if scale.full {
        "growth in 200 rounds, after the second, bytes"
    } else {
        "growth in 20 rounds, after the second, bytes"
    };
    let growth = Samples::from(after.sum() - before.sum());
    let moved = Samples::from(after.moved - before.moved);
    report
        .goal(name, Bound::AtMost(0.0), Unit::Bytes, growth)
        .reference("user rows moved to another page", moved);
    Ok(())
}

/// The sizes of the tables.
struct Sizes {
    /// Rows, maps and indexes of each table, in bytes.
    parts: Vec<(String, f64)>,
    /// Updates of users that were not HOT: each moved a row to another page.
    moved: f64,
}

impl Sizes {
    async fn of(database: &TestDatabase) -> Self {
        // A session reports its statistics when it ends, which may be after its client has ended.
        let sessions = format!(
            "select count(*) from pg_stat_activity where usename = '{}'",
            roles::WORKER
        );
        eventually("the round's session has ended", async || {
            database.value::<i64>(&sessions).await == 0
        })
        .await;
        let mut parts = Vec::new();
        for table in TABLES {
            for (part, bytes) in [
                ("rows", "pg_relation_size(name)"),
                ("maps", "pg_table_size(name) - pg_relation_size(name)"),
                ("indexes", "pg_indexes_size(name)"),
            ] {
                let query = format!(
                    "select ({bytes})::float8 from (select '{table}'::regclass as name) as it"
                );
                parts.push((format!("{table}, {part}"), database.value(&query).await));
            }
        }
        let moved = "select (n_tup_upd - n_tup_hot_upd)::float8 \
                     from pg_stat_user_tables where relname = 'users'";
        let moved = database.value(moved).await;
        Self { parts, moved }
    }

    fn sum(&self) -> f64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// Measures databases of increasing size.
pub(crate) async fn by_users(scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let sizes: &[i64] = if scale.full {
        &[10_000, 100_000, 1_000_000, 10_000_000]
    } else {
        &[10_000, 100_000, 1_000_000]
    };
    let mut table = Table::new(
        "Cost by number of users",
        "Requests over 64 connections.",
        &[
            ("round, µs/user", Unit::Microseconds),
            ("WAL of a round, bytes/user", Unit::Number),
            ("bytes/user", Unit::Number),
            ("requests/s", Unit::Number),
        ],
        &[
            ("seeding, µs/user", Unit::Microseconds),
            ("round, s", Unit::Seconds),
            ("p99, ms", Unit::Milliseconds),
        ],
    );
    let mut costs = Vec::new();
    for &users in sizes {
        #[allow(clippy::cast_precision_loss, reason = "millions")]
        let number = users as f64;
        let env = Env::empty().await?;
        let seeding = env.seed(users).await?.as_secs_f64() * 1e6 / number;
        // The second round is the first to update a table that already has a round's dead rows.
        env.run_round(None).await?;
        env.run_round(None).await?;
        let (mut seconds, mut wal) = (Samples::default(), Samples::default());
        for _ in 0..scale.repetitions {
            let before = wal_bytes(&env.database).await;
            seconds.push(env.run_round_by_database_clock().await?);
            wal.push((wal_bytes(&env.database).await - before) / number);
        }
        let bytes: f64 = env
            .database
            .value("select pg_total_relation_size('users')::float8")
            .await;
        let replica = env.start_replica().await;
        let (mut per_second, mut p99) = (Samples::default(), Samples::default());
        for _ in 0..scale.repetitions {
            let load = load::run(replica.address, CONNECTIONS, scale.load_seconds).await?;
            per_second.push(load.per_second());
            p99.push(load.p99);
        }
        let cost = seconds.scaled(1e6 / number);
        table.row(
            format!("{} users", with_separators(number)),
            vec![
                cost.clone(),
                wal,
                Samples::from(bytes / number),
                per_second,
                Samples::from(seeding),
                seconds,
                p99,
            ],
        );
        costs.push((number, cost.median()));
    }
    report.table(table);
    if let [.., (_, one_million), (_, ten_million)] = costs[..]
        && scale.full
    {
        report.goal(
            "round, µs/user: 10 million ÷ 1 million users",
            Bound::AtMost(1.15),
            Unit::Ratio,
            Samples::from(ten_million / one_million),
        );
    }
    report.plot(Plot {
        file: "growth.svg",
        title: "Cost of a round by number of users",
        x: Axis {
            label: "users",
            logarithmic: true,
        },
        y: Axis {
            label: "microseconds per user",
            logarithmic: false,
        },
        lines: vec![Line {
            name: "a round".to_owned(),
            points: costs,
        }],
    });
    Ok(())
}
