//! A soak: one fault after the other until the ticks are over, and then the report.

use std::path::Path;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use shared::db::Session;
use testkit::{Checker, TestDatabase, eventually, sql};
use tokio::time::sleep;

use crate::{Fault, Plan, Processes, start_load};

/// Another program's advisory lock, which must not disturb the worker's.
const FOREIGN_LOCK: &str = "select pg_advisory_lock(1)";

/// Runs the plan with the programs of `executable`, prints the faults and the report, and returns
/// whether every promise was kept.
pub async fn run(executable: &Path, plan: Plan) -> bool {
    let seed = plan.seed.unwrap_or_else(rand::random);
    println!("seed {seed}: {plan:?}");
    let mut random = StdRng::seed_from_u64(seed);
    let database = TestDatabase::with_own_server().await;
    database.seed(plan.users.into()).await;
    let checker = Checker::install(&database).await;
    let schedule = format!("*/{} * * * * *", plan.pace);
    let (workers, replicas) = (plan.workers.get(), plan.replicas.get());
    let mut processes = Processes::start(executable, &database, workers, replicas, &schedule).await;
    let load = start_load(&checker, &processes.addresses(), plan.clients.get());
    let mut foreign_lock = take_foreign_lock(&database).await;
    eventually("the first rounds are done", async || {
        last_tick(&database).await.is_some()
    })
    .await;
    let size_at_start = sizes(&database).await;

    let length = Duration::from_secs(u64::from(plan.ticks) * u64::from(plan.pace));
    let began = Instant::now();
    let (mut faults, mut slowest_round) = (0, Duration::ZERO);
    while began.elapsed() < length {
        let fault = Fault::draw(&mut random, &processes);
        println!("{:>8.1} s  {fault}", began.elapsed().as_secs_f64());
        fault.inject(&mut processes, &database).await;
        let fault_end = Instant::now();
        // After every fault, rounds must continue.
        let before = last_tick(&database).await;
        eventually("the next round is done", async || {
            last_tick(&database).await > before
        })
        .await;
        slowest_round = slowest_round.max(fault_end.elapsed());
        faults += 1;
        if matches!(fault, Fault::CrashPostgres) {
            foreign_lock = take_foreign_lock(&database).await;
        }
        let delay = Duration::from_millis(random.random_range(0..=u64::from(plan.rest) * 1000));
        sleep(delay.min(length.saturating_sub(began.elapsed()))).await;
    }
    drop(load);
    processes.stop().await;
    drop(foreign_lock);

    let report = checker.report(&database).await;
    let due = report.ticks_due(TimeDelta::seconds(plan.pace.into()));
    println!("\n{report}");
    println!("{faults} faults; at most {slowest_round:.1?} from the end of one to the next round");
    println!(
        "ticks done / due          {} / {due} (ticks missed in an outage become one round)",
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

async fn take_foreign_lock(database: &TestDatabase) -> Session {
    let mut session = database.superuser().await;
    sql::run(&mut session, FOREIGN_LOCK).await;
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
