//! What grows with the number of users, and what must not grow at all.

use private_postgres::roles;
use testkit::{TestDatabase, eventually};

use crate::Extent;
use crate::load::load;
use crate::plot::Plot;
use crate::report::{Report, Runs, Table, Unit, Wanted};
use crate::stage::{Stage, wal_bytes};

/// All tables but the rows of the rounds themselves, which are kept for a week.
const TABLES: [&str; 3] = ["users", "settings", "last_query"];
const CONNECTIONS: usize = 64;

/// Many rounds over the same tables.
pub(crate) async fn of_tables(
    stage: &Stage,
    extent: Extent,
    report: &mut Report,
) -> anyhow::Result<()> {
    let rounds = if extent.full { 200 } else { 20 };
    stage.round(None).await?;
    stage.round(None).await?;
    // The first vacuum adds the maps of visibility and of free space; it may come at any time.
    let vacuum = "vacuum users, settings, last_query";
    stage.database.run(vacuum).await;
    let before = Sizes::of(&stage.database).await;
    for _ in 2..rounds {
        stage.round(None).await?;
    }
    let after = Sizes::of(&stage.database).await;
    let mut table = Table::new(
        format!("Growth in {rounds} rounds"),
        "Bytes after the second round, and what came to them.",
        &[("bytes", Unit::Bytes), ("growth", Unit::Bytes)],
    );
    for ((part, before), (_, after)) in before.parts.iter().zip(&after.parts) {
        table.row(part, vec![Runs::from(*before), Runs::from(after - before)]);
    }
    report.table(table);
    let what = if extent.full {
        "bytes of growth in 200 rounds, after the second"
    } else {
        "bytes of growth in 20 rounds, after the second"
    };
    let grown = Runs::from(after.sum() - before.sum());
    let moved = Runs::from(after.moved - before.moved);
    report
        .goal(what, Wanted::AtMost(0.0), Unit::Bytes, grown)
        .beside("times that a user had to move to another page", moved);
    Ok(())
}

/// How much room the tables take.
struct Sizes {
    /// Each table's rows, maps and indexes, with their bytes.
    parts: Vec<(String, f64)>,
    /// How often a user had to move to another page.
    moved: f64,
}

impl Sizes {
    async fn of(database: &TestDatabase) -> Self {
        // A session is counted when it ends, which may be after its program.
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
        let moved = "select (n_tup_upd - n_tup_hot_upd)::float8 from pg_stat_user_tables where relname = 'users'";
        let moved = database.value(moved).await;
        Self { parts, moved }
    }

    fn sum(&self) -> f64 {
        self.parts.iter().map(|(_, bytes)| bytes).sum()
    }
}

/// Databases with ever more users.
pub(crate) async fn by_users(extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    let sizes: &[i64] = if extent.full {
        &[10_000, 100_000, 1_000_000, 10_000_000]
    } else {
        &[10_000, 100_000, 1_000_000]
    };
    let mut table = Table::new(
        "Growth with the number of users",
        "Microseconds for each user; requests over 64 connections.",
        &[
            ("seeding, µs a user", Unit::Microseconds),
            ("a round, µs a user", Unit::Microseconds),
            ("a round, seconds", Unit::Seconds),
            ("bytes a user", Unit::Number),
            ("WAL of a round, bytes a user", Unit::Number),
            ("requests/s", Unit::Number),
            ("p99, ms", Unit::Milliseconds),
        ],
    );
    let mut costs = Vec::new();
    for &users in sizes {
        #[allow(clippy::cast_precision_loss, reason = "millions")]
        let number = users as f64;
        let stage = Stage::empty().await?;
        let seeding = stage.seed(users).await?.as_secs_f64() * 1e6 / number;
        // The second round is the first that finds the table as all later ones do.
        stage.round(None).await?;
        stage.round(None).await?;
        let (mut rounds, mut wal) = (Runs::default(), Runs::default());
        for _ in 0..extent.repetitions {
            let written = wal_bytes(&stage.database).await;
            rounds.push(stage.round_alone().await?);
            wal.push((wal_bytes(&stage.database).await - written) / number);
        }
        let bytes: f64 = stage
            .database
            .value("select pg_total_relation_size('users')::float8")
            .await;
        let replica = stage.replicas(1, true).await;
        let (mut per_second, mut p99) = (Runs::default(), Runs::default());
        for _ in 0..extent.repetitions {
            let load = load(replica.address, CONNECTIONS, extent.seconds).await?;
            per_second.push(load.per_second());
            p99.push(load.p99);
        }
        let cost = rounds.times(1e6 / number);
        table.row(
            format!("{users} users"),
            vec![
                Runs::from(seeding),
                cost.clone(),
                rounds,
                Runs::from(bytes / number),
                wal,
                per_second,
                p99,
            ],
        );
        costs.push((number, cost.median()));
    }
    report.table(table);
    if let [.., (_, one), (_, ten)] = costs[..]
        && extent.full
    {
        report.goal(
            "a round's cost per user, 10 million against 1 million",
            Wanted::AtMost(1.15),
            Unit::Times,
            Runs::from(ten / one),
        );
    }
    report.plot(Plot {
        file: "growth.svg",
        title: "A round's cost for each user",
        across: "users",
        up: "microseconds",
        lines: vec![("a round".to_owned(), costs)],
        logarithmic: true,
    });
    Ok(())
}
