//! Requests during rounds, compared with requests without rounds and beside a busy CPU core.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::env::Env;
use crate::load::{self, LoadResult};
use crate::machine::Usage;
use crate::report::{Bound, ERRORS, Report, Table};
use crate::samples::{Samples, Unit};
use crate::{Scale, shuffled};

const CONNECTIONS: usize = 64;

const NO_ROUNDS: usize = 0;
const BUSY_CORE: usize = 1;
const ROUNDS: usize = 2;
const NAMES: [&str; 3] = [
    "no rounds",
    "no rounds, a busy loop on one core",
    "rounds back to back",
];

pub(crate) async fn compare(env: &Env, scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    // Long enough for several rounds.
    let seconds = 3 * scale.load_seconds;
    env.warm_up_wal().await?;
    let replica = env.start_replica().await;
    let run_load = || load::run(replica.address, CONNECTIONS, seconds);
    let mut loads = [const { Vec::new() }; NAMES.len()];
    let (mut megabytes, mut rounds) = (Samples::default(), Samples::default());
    for _ in 0..scale.repetitions {
        for background in shuffled(NAMES.len()) {
            match background {
                NO_ROUNDS => loads[NO_ROUNDS].push(run_load().await?),
                BUSY_CORE => {
                    let _busy_core = BusyCore::start();
                    loads[BUSY_CORE].push(run_load().await?);
                }
                _ => {
                    let mut worker = env.start_worker();
                    worker.wait_for_event("round_done").await;
                    let before = env.count_rounds().await;
                    loads[ROUNDS].push(run_load().await?);
                    rounds.push(env.count_rounds().await - before);
                    megabytes.push(Usage::of([worker.id().as_raw()])?.max_megabytes());
                    worker.stop().await;
                    // The next measurement must not pay for the dirty pages of these rounds.
                    env.database.run("checkpoint").await;
                }
            }
        }
    }
    let mut table = Table::new(
        "Requests during rounds",
        "64 connections, one replica, one worker with a tick each second and no cooldown.",
        &[
            ("rounds", Unit::Number),
            ("requests/s", Unit::Number),
            ("p50, ms", Unit::Milliseconds),
            ("p99, ms", Unit::Milliseconds),
        ],
        &[("p99.9, ms", Unit::Milliseconds), ERRORS],
    );
    let samples = |background: usize, figure: fn(&LoadResult) -> f64| {
        loads[background].iter().map(figure).collect::<Samples>()
    };
    for (background, name) in NAMES.into_iter().enumerate() {
        table.row(
            name,
            vec![
                if background == ROUNDS {
                    rounds.clone()
                } else {
                    Samples::from(0.0)
                },
                samples(background, LoadResult::per_second),
                samples(background, |load| load.p50),
                samples(background, |load| load.p99),
                samples(background, |load| load.p999),
                samples(background, |load| load.errors),
            ],
        );
    }
    report.table(table);
    let p99 = |background| samples(background, |load| load.p99);
    report
        .goal(
            "p99 during rounds back to back ÷ p99 beside a busy loop on one core",
            Bound::AtMost(1.15),
            Unit::Ratio,
            p99(ROUNDS).ratio_to(&p99(BUSY_CORE)),
        )
        .reference("without either", p99(NO_ROUNDS).ratio_to(&p99(BUSY_CORE)));
    report.goal(
        "memory of a worker, MB",
        Bound::AtMost(25.0),
        Unit::Megabytes,
        megabytes,
    );
    Ok(())
}

/// Keeps one core busy, as a round does, until it is dropped.
struct BusyCore(Arc<AtomicBool>);

impl BusyCore {
    fn start() -> Self {
        let stopped = Arc::new(AtomicBool::new(false));
        let flag = Arc::clone(&stopped);
        thread::spawn(move || while !flag.load(Ordering::Relaxed) {});
        Self(stopped)
    }
}

impl Drop for BusyCore {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}
