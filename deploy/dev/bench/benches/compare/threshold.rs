//! Requests for each minimum: it must make no difference, and none be heard.

use std::collections::BTreeMap;

use rand::seq::SliceRandom;

use crate::Extent;
use crate::load::{Load, load};
use crate::plot::Plot;
use crate::report::{Report, Runs, Table, Unit, Wanted};
use crate::stage::{Running, Stage};

/// With so many, p99 differs less from one second to the next than with 64 (see TRIED.md), but for the few that stall.
const CONNECTIONS: usize = 256;
/// How many of the worst are looked at once more: of a hundred, a few look bad by chance.
const SUSPECTS: usize = 5;
/// How many times as often as the first time.
const SECOND_LOOK: usize = 3;
/// A request does not depend on their number (see the growth), and a hundred minima take as many rounds.
const USERS: i64 = 100_000;

/// Each minimum in its turn, in an order of chance.
pub(crate) async fn compare(extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    let stage = Stage::open(USERS).await?;
    let step = if extent.full { 1 } else { 20 };
    let minima: Vec<i64> = (0..=100).step_by(step).collect();
    let replica = stage.replicas(1, true).await;
    let first = look(&stage, &replica, &minima, extent.repetitions).await?;
    let mut by_p99 = minima.clone();
    by_p99.sort_by(|one, other| {
        let median = |minimum| first[minimum].p99.median();
        median(one).total_cmp(&median(other))
    });
    let half = by_p99.len() / 2;
    let middle = by_p99[half];
    // Where there are few minima, all that are worse than the middle.
    let suspects = by_p99.split_off((half + 1).max(by_p99.len().saturating_sub(SUSPECTS)));
    let again = [&suspects[..], &[middle]].concat();
    let turns = SECOND_LOOK * extent.repetitions;
    let second = look(&stage, &replica, &again, turns).await?;
    drop(replica);
    // As it is before the first round: nobody has points, and statistics know nothing.
    let fresh = Stage::seeded(USERS).await?;
    let replica = fresh.replicas(1, true).await;
    let mut seeded = Latencies::default();
    for _ in 0..extent.repetitions {
        seeded.push(load(replica.address, CONNECTIONS, 1).await?);
    }

    let mut table = Table::new(
        "Requests for each minimum",
        format!(
            "{CONNECTIONS} connections, one replica, {USERS} users; milliseconds. All minima are in the plot. \
             For the goal, the {} worst and the median one were looked at again, {turns} times.",
            suspects.len()
        ),
        &[("p50", Unit::Milliseconds), ("p99", Unit::Milliseconds)],
    );
    for minimum in minima.iter().filter(|&minimum| minimum % 10 == 0) {
        table.row(format!("minimum {minimum}"), first[minimum].row());
    }
    table.row("seeded, before the first round", seeded.row());
    for minimum in suspects.iter().rev().chain([&middle]) {
        table.row(format!("minimum {minimum}, again"), second[minimum].row());
    }
    let of_middle = |looked: &BTreeMap<i64, Latencies>, minimum: &i64| {
        looked[minimum].p99.over(&looked[&middle].p99)
    };
    let worst = suspects
        .iter()
        .map(|minimum| of_middle(&second, minimum))
        .max_by(|one, other| one.median().total_cmp(&other.median()))
        .expect("some are worse than the middle");
    let looked_worst = suspects.last().expect("some are worse than the middle");
    report
        .goal(
            "p99 of the worst minimum, of the median minimum's",
            Wanted::AtMost(1.2),
            Unit::Times,
            worst,
        )
        .beside(
            "the one that looked worst, when it did",
            of_middle(&first, looked_worst),
        );
    #[allow(clippy::cast_precision_loss, reason = "a hundred minima")]
    let line = |name: &str, pick: fn(&Latencies) -> &Runs| {
        let points = first
            .iter()
            .map(|(&minimum, latencies)| (minimum as f64, pick(latencies).median()));
        (name.to_owned(), points.collect())
    };
    report.plot(Plot {
        file: "threshold.svg",
        title: "Latency for each minimum",
        across: "minimum",
        up: "milliseconds",
        lines: vec![
            line("p50", |latencies| &latencies.p50),
            line("p99", |latencies| &latencies.p99),
        ],
        logarithmic: false,
    });
    report.table(table);
    Ok(())
}

/// What the turns of a minimum had, in milliseconds.
#[derive(Debug, Default)]
struct Latencies {
    p50: Runs,
    p99: Runs,
}

impl Latencies {
    fn push(&mut self, load: Load) {
        self.p50.push(load.p50);
        self.p99.push(load.p99);
    }

    fn row(&self) -> Vec<Runs> {
        vec![self.p50.clone(), self.p99.clone()]
    }
}

/// Requests for each of these minima, turn by turn, in an order of chance.
async fn look(
    stage: &Stage,
    replica: &Running,
    minima: &[i64],
    turns: usize,
) -> anyhow::Result<BTreeMap<i64, Latencies>> {
    let mut latencies: BTreeMap<i64, Latencies> = BTreeMap::new();
    let mut order = minima.to_vec();
    for _ in 0..turns {
        order.shuffle(&mut rand::rng());
        for &minimum in &order {
            stage.round(Some(minimum)).await?;
            // What a round leaves to be written is not the minimum's doing.
            stage.database.run("checkpoint").await;
            let load = load(replica.address, CONNECTIONS, 1).await?;
            latencies.entry(minimum).or_default().push(load);
        }
    }
    Ok(latencies)
}
