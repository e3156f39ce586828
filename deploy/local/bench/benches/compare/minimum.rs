//! Requests at each minimum. Their latency must not depend on it, nor reveal it.

use std::collections::BTreeMap;

use rand::seq::SliceRandom;

use crate::Scale;
use crate::env::{Env, Servers};
use crate::load::{self, LoadResult};
use crate::plot::{Axis, Line, Plot};
use crate::report::{Bound, Report, Table};
use crate::samples::{Samples, Unit, with_separators};

/// At this number, p99 varies less between seconds than at 64 connections (see TRIED.md), apart
/// from seconds with a stall.
const CONNECTIONS: usize = 256;
/// Latency does not depend on the number of users (see the part `growth`). Each measurement needs a
/// round, which is short with few users.
const USERS: i64 = 100_000;
/// Of a hundred minima, a few look bad by chance. So this many of the worst are measured again.
const REMEASURED: usize = 5;
/// Repetitions of the first measurement, of all minima.
const FIRST_REPETITIONS: usize = 3;
/// Repetitions of the second, relative to those of other parts.
const REMEASURE_FACTOR: usize = 3;

pub(crate) async fn compare(scale: Scale, report: &mut Report) -> anyhow::Result<()> {
    let env = Env::with_points(USERS).await?;
    let step = if scale.full { 1 } else { 20 };
    let minima: Vec<i64> = (0..=100).step_by(step).collect();
    let replica = env.start_replica().await;
    let first = measure(&env, &replica, &minima, FIRST_REPETITIONS).await?;
    let mut by_p99 = minima.clone();
    by_p99.sort_by(|one, other| {
        let median = |minimum| first[minimum].p99.median();
        median(one).total_cmp(&median(other))
    });
    let half = by_p99.len() / 2;
    let middle = by_p99[half];
    // Only minima worse than the middle one, which matters in short mode.
    let worst = by_p99.split_off((half + 1).max(by_p99.len().saturating_sub(REMEASURED)));
    let remeasured = [&worst[..], &[middle]].concat();
    let repetitions = REMEASURE_FACTOR * scale.repetitions;
    let second = measure(&env, &replica, &remeasured, repetitions).await?;
    drop(replica);
    // Before the first round, no user has points and the planner has no statistics.
    let fresh = Env::seeded(USERS).await?;
    let replica = fresh.start_replica().await;
    let mut seeded = Latencies::default();
    for _ in 0..scale.repetitions {
        seeded.push(load::run(replica.address, CONNECTIONS, 1).await?);
    }

    #[allow(clippy::cast_precision_loss, reason = "a hundred thousand users")]
    let users = with_separators(USERS as f64);
    let mut table = Table::new(
        "Requests at each minimum",
        format!(
            "{CONNECTIONS} connections, one replica, {users} users, {FIRST_REPETITIONS} times. The \
             plot shows all minima. For the goal, the {} worst and the median one were measured \
             again, {repetitions} times.",
            worst.len()
        ),
        &[
            ("p50, ms", Unit::Milliseconds),
            ("p99, ms", Unit::Milliseconds),
        ],
        &[],
    );
    for minimum in minima.iter().filter(|&minimum| minimum % 10 == 0) {
        table.row(format!("minimum {minimum}"), first[minimum].row());
    }
    table.row("seeded, before the first round", seeded.row());
    for minimum in worst.iter().rev().chain([&middle]) {
        let name = format!("minimum {minimum}, measured again");
        table.row(name, second[minimum].row());
    }
    report.unrecorded_table(table);

    let ratio_to_middle = |latencies: &BTreeMap<i64, Latencies>, minimum: &i64| {
        latencies[minimum].p99.ratio_to(&latencies[&middle].p99)
    };
    let worst_ratio = worst
        .iter()
        .map(|minimum| ratio_to_middle(&second, minimum))
        .max_by(|one, other| one.median().total_cmp(&other.median()))
        .expect("with several minima, one is worse than the middle");
    let first_worst = worst
        .last()
        .expect("with several minima, one is worse than the middle");
    report
        .goal(
            "p99 at the worst minimum ÷ at the median one, both measured again",
            Bound::AtMost(1.2),
            Unit::Ratio,
            worst_ratio,
        )
        .reference(
            "in the first measurement",
            ratio_to_middle(&first, first_worst),
        );
    report.plot(plot(&first));
    Ok(())
}

fn plot(latencies: &BTreeMap<i64, Latencies>) -> Plot {
    #[allow(clippy::cast_precision_loss, reason = "a hundred minima")]
    let line = |name: &str, percentile: fn(&Latencies) -> &Samples| Line {
        name: name.to_owned(),
        points: latencies
            .iter()
            .map(|(&minimum, latencies)| (minimum as f64, percentile(latencies).median()))
            .collect(),
    };
    Plot {
        file: "minimum.svg",
        title: "Latency by minimum",
        x: Axis {
            label: "minimum",
            logarithmic: false,
        },
        y: Axis {
            label: "milliseconds",
            logarithmic: false,
        },
        lines: vec![
            line("p50", |latencies| &latencies.p50),
            line("p99", |latencies| &latencies.p99),
        ],
    }
}

/// Latencies at one minimum, in milliseconds.
#[derive(Debug, Default)]
struct Latencies {
    p50: Samples,
    p99: Samples,
}

impl Latencies {
    fn push(&mut self, load: LoadResult) {
        self.p50.push(load.p50);
        self.p99.push(load.p99);
    }

    fn row(&self) -> Vec<Samples> {
        vec![self.p50.clone(), self.p99.clone()]
    }
}

/// Measures each minimum once per repetition, in random order.
async fn measure(
    env: &Env,
    replica: &Servers,
    minima: &[i64],
    repetitions: usize,
) -> anyhow::Result<BTreeMap<i64, Latencies>> {
    let mut latencies: BTreeMap<i64, Latencies> = BTreeMap::new();
    let mut order = minima.to_vec();
    for _ in 0..repetitions {
        order.shuffle(&mut rand::rng());
        for &minimum in &order {
            env.run_round(Some(minimum)).await?;
            // The measurement must not pay for the dirty pages of the round.
            env.database.run("checkpoint").await;
            let load = load::run(replica.address, CONNECTIONS, 1).await?;
            latencies.entry(minimum).or_default().push(load);
        }
    }
    Ok(latencies)
}
