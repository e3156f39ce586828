//! What grows with the number of users, and what must not grow at all.

use testkit::TestDatabase;

use crate::Extent;
use crate::load::load;
use crate::plot::Plot;
use crate::report::{Report, Runs, Table, Unit, Wanted};
use crate::stage::{Stage, wal_bytes};

/// The tables, and their indexes.
const SIZE: &str = "select sum(pg_total_relation_size(name::regclass))::float8 \
    from unnest(array['users', 'settings', 'last_query', 'rounds']) as name";
/// A round's own row is kept for a week.
const ROUNDS: &str = "select pg_total_relation_size('rounds')::float8";
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
    let before = size(&stage.database).await;
    for _ in 2..rounds {
        stage.round(None).await?;
    }
    let grown = size(&stage.database).await - before;
    let what = if extent.full {
        "bytes of growth in 200 rounds, after the second"
    } else {
        "bytes of growth in 20 rounds, after the second"
    };
    report.goal(what, Wanted::AtMost(0.0), Unit::Bytes, Runs::from(grown));
    Ok(())
}

/// All tables but the rows of the rounds themselves, which are kept for a week.
async fn size(database: &TestDatabase) -> f64 {
    database.value::<f64>(SIZE).await - database.value::<f64>(ROUNDS).await
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
