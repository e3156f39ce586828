//! Requests for each minimum: it must make no difference, and none be heard.

use rand::seq::SliceRandom;

use crate::load::load;
use crate::plot::Plot;
use crate::report::{Report, Runs, Table, Unit, Wanted};
use crate::stage::Stage;
use crate::{Extent, shuffled};

/// With so many, p99 differs less from one second to the next than with 64 (see TRIED.md), but for the few that stall.
const CONNECTIONS: usize = 256;
/// How often figures are dealt by chance.
const DEALS: usize = 200;
/// A request does not depend on their number (see the growth), and a hundred minima take as many rounds.
const USERS: i64 = 100_000;

/// Each minimum in its turn, in an order of chance.
pub(crate) async fn compare(extent: Extent, report: &mut Report) -> anyhow::Result<()> {
    let stage = Stage::open(USERS).await?;
    let step = if extent.full { 1 } else { 20 };
    let mut minima: Vec<i64> = (0..=100).step_by(step).collect();
    let mut latencies = vec![(Runs::default(), Runs::default()); 101];
    let mut seeded = (Runs::default(), Runs::default());
    let replica = stage.replicas(1, true).await;
    for _ in 0..extent.repetitions {
        minima.shuffle(&mut rand::rng());
        for &minimum in &minima {
            stage.round(Some(minimum)).await?;
            // What a round leaves to be written is not the minimum's doing.
            stage.database.run("checkpoint").await;
            let load = load(replica.address, CONNECTIONS, 1).await?;
            let (p50, p99) = &mut latencies[usize::try_from(minimum)?];
            p50.push(load.p50);
            p99.push(load.p99);
        }
    }
    drop(replica);
    // As it is before the first round: nobody has points, and statistics know nothing.
    let fresh = Stage::seeded(USERS).await?;
    let replica = fresh.replicas(1, true).await;
    for _ in 0..extent.repetitions {
        let load = load(replica.address, CONNECTIONS, 1).await?;
        seeded.0.push(load.p50);
        seeded.1.push(load.p99);
    }

    let mut table = Table::new(
        "Requests for each minimum",
        format!(
            "{CONNECTIONS} connections, one replica, {USERS} users; milliseconds. All minima are in the plot."
        ),
        &[("p50", Unit::Milliseconds), ("p99", Unit::Milliseconds)],
    );
    minima.sort_unstable();
    let figures = |minimum: i64| &latencies[usize::try_from(minimum).unwrap_or_default()];
    for &minimum in minima.iter().filter(|&minimum| minimum % 10 == 0) {
        let (p50, p99) = figures(minimum).clone();
        table.row(format!("minimum {minimum}"), vec![p50, p99]);
    }
    table.row("seeded, before the first round", vec![seeded.0, seeded.1]);
    let by_minimum: Vec<Runs> = minima
        .iter()
        .map(|&minimum| figures(minimum).1.clone())
        .collect();
    let measured = worst_of_median(&by_minimum);
    let by_chance = dealt_by_chance(&by_minimum);
    let as_bad = by_chance.figures().filter(|&dealt| dealt >= measured);
    let beside = format!(
        "the same figures, dealt to the minima by chance, in {} of {DEALS} deals as bad",
        as_bad.count()
    );
    report
        .goal(
            "p99 of the worst minimum, of the median minimum's",
            Wanted::AtMost(1.2),
            Unit::Times,
            Runs::from(measured),
        )
        .beside(beside, by_chance);
    #[allow(clippy::cast_precision_loss, reason = "a hundred minima")]
    let line = |name: &str, pick: fn(&(Runs, Runs)) -> &Runs| {
        let points = minima
            .iter()
            .map(|&minimum| (minimum as f64, pick(figures(minimum)).median()));
        (name.to_owned(), points.collect())
    };
    report.plot(Plot {
        file: "threshold.svg",
        title: "Latency for each minimum",
        across: "minimum",
        up: "milliseconds",
        lines: vec![line("p50", |runs| &runs.0), line("p99", |runs| &runs.1)],
        logarithmic: false,
    });
    report.table(table);
    Ok(())
}

/// The worst median, of the median of all medians.
fn worst_of_median(by_minimum: &[Runs]) -> f64 {
    let medians: Runs = by_minimum.iter().map(Runs::median).collect();
    medians.greatest() / medians.median()
}

/// What the worst of so many would be if the minimum made no difference: the figures of each repetition, handed out anew
/// many times.
fn dealt_by_chance(by_minimum: &[Runs]) -> Runs {
    let turns: Vec<Vec<f64>> = by_minimum
        .iter()
        .map(|runs| runs.figures().collect())
        .collect();
    let deal = |_| {
        let mut hands = vec![Runs::default(); turns.len()];
        for repetition in 0..turns[0].len() {
            for (hand, minimum) in hands.iter_mut().zip(shuffled(turns.len())) {
                hand.push(turns[minimum][repetition]);
            }
        }
        worst_of_median(&hands)
    };
    (0..DEALS).map(deal).collect()
}
