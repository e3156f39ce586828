//! A soak: faults, one after the other, until the ticks are over; then the report.

use std::path::Path;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use testkit::{Checker, TestDatabase, eventually};
use tokio::time::sleep;

use crate::{Fault, Fleet, Plan, load};

/// The advisory lock of somebody else, whom nothing of ours may mind.
const DECOY: &str = "select pg_advisory_lock(1)";

/// Runs the plan with the programs of `executable`, prints what happens and the report, and returns whether every promise
/// was kept.
pub async fn run(executable: &Path, plan: Plan) -> bool {
    let seed = plan.seed.unwrap_or_else(rand::random);
    println!("seed {seed}: {plan:?}");
    let mut random = StdRng::seed_from_u64(seed);
    let database = TestDatabase::with_own_server().await;
    database.seed(plan.users.into()).await;
    let checker = Checker::install(&database).await;
    let schedule = format!("*/{} * * * * *", plan.pace);
    let (workers, replicas) = (plan.workers.get(), plan.replicas.get());
    let mut fleet = Fleet::start(executable, &database, workers, replicas, &schedule).await;
    let load = load(&checker, &fleet.addresses, plan.clients.get());
    let mut decoy = decoy(&database).await;
    eventually("the first rounds are done", async || {
        last_tick(&database).await.is_some()
    })
    .await;
    let size_at_start = sizes(&database).await;

    let length = Duration::from_secs(u64::from(plan.ticks) * u64::from(plan.pace));
    let began = Instant::now();
    let (mut faults, mut slowest) = (0, Duration::ZERO);
    while began.elapsed() < length {
        let fault = Fault::draw(&mut random, fleet.workers.len(), fleet.replicas.len());
        println!("{:>8.1} s  {fault}", began.elapsed().as_secs_f64());
        fault.strike(&mut fleet, &database).await;
        let over = Instant::now();
        // Whatever it was: from here on, rounds go on.
        let before = last_tick(&database).await;
        eventually("the next round is done", async || {
            last_tick(&database).await > before
        })
        .await;
        slowest = slowest.max(over.elapsed());
        faults += 1;
        if matches!(fault, Fault::Crash) {
            decoy = self::decoy(&database).await;
        }
        let rest = Duration::from_millis(random.random_range(0..=u64::from(plan.rest) * 1000));
        sleep(rest.min(length.saturating_sub(began.elapsed()))).await;
    }
    drop(load);
    fleet.stop().await;
    drop(decoy);

    let report = checker.report(&database).await;
    let due = report.due(TimeDelta::seconds(plan.pace.into()));
    println!("\n{report}");
    println!("{faults} faults; the slowest next round came {slowest:.1?} after the end of one");
    println!(
        "ticks done / due          {} / {due} (those that fell into an outage are one round)",
        report.rounds
    );
    println!("users, last_query, bytes  {size_at_start:?} at the start");
    println!(
        "                          {:?} at the end",
        sizes(&database).await
    );
    let clean = report.is_clean();
    println!(
        "seed {seed}: {}",
        if clean {
            "every promise was kept"
        } else {
            "PROMISES WERE BROKEN"
        }
    );
    clean
}

async fn decoy(database: &TestDatabase) -> shared::db::Connection {
    let mut session = database.superuser().await;
    sqlx::raw_sql(DECOY)
        .execute(&mut session)
        .await
        .unwrap_or_else(|error| panic!("{DECOY}: {error}"));
    session
}

async fn last_tick(database: &TestDatabase) -> Option<DateTime<Utc>> {
    database.value("select max(tick_at) from rounds").await
}

async fn sizes(database: &TestDatabase) -> (i64, i64) {
    let size = async |table| {
        database
            .value(&format!("select pg_total_relation_size('{table}')"))
            .await
    };
    (size("users").await, size("last_query").await)
}
