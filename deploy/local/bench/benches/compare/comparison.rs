//! The comparisons, and the table of their results.

use std::path::{Path, PathBuf};

use indicatif::HumanFloatCount;

use crate::work::Work;

/// Replicas, and the connections to all of them together.
const LOADS: [(usize, u32); 5] = [(1, 1), (1, 64), (1, 512), (4, 64), (16, 64)];

/// Contestants, of which the first is compared with all others.
pub(crate) struct Comparison {
    /// The names of the values that [`Work::measure`] returns, or of the first one only.
    figures: Vec<String>,
    pub(crate) contestants: Vec<Contestant>,
}

/// One way to do the work.
pub(crate) struct Contestant {
    pub(crate) name: &'static str,
    pub(crate) program: PathBuf,
    pub(crate) work: Work,
    /// What [`Work::measure`] has returned in each turn.
    pub(crate) values: Vec<[f64; 2]>,
}

impl Contestant {
    fn new(name: &'static str, program: &Path, work: Work) -> Self {
        Self {
            name,
            program: program.to_owned(),
            work,
            values: Vec::new(),
        }
    }

    /// The median of all turns, of the figure at this index.
    pub(crate) fn median(&self, index: usize) -> f64 {
        summary(self.values.iter().map(|values| values[index]))[1]
    }
}

/// All comparisons, each also with the baseline if there is one.
///
/// Rounds come first, so that requests meet the minimum of a measured round.
pub(crate) fn all(own: &Path, baseline: Option<&Path>) -> Vec<Comparison> {
    let compare = |figures: &[&str], max_two: Work, others: &[(&'static str, Work)]| {
        let mut contestants = vec![Contestant::new("Max Two", own, max_two)];
        for &(name, work) in others {
            contestants.push(Contestant::new(name, own, work));
        }
        if let Some(program) = baseline {
            contestants.push(Contestant::new("the baseline", program, max_two));
        }
        Comparison {
            figures: figures.iter().map(ToString::to_string).collect(),
            contestants,
        }
    };
    let mut comparisons = vec![compare(
        &["a round, s", "WAL of a round, MB"],
        Work::Round,
        &[
            ("bare `UPDATE` of the table", Work::Update),
            (
                "bare `UPDATE`, default table, index on `points`",
                Work::UpdateDefaultTable,
            ),
        ],
    )];
    for (replicas, connections) in LOADS {
        let figure = format!("requests/s (replicas: {replicas}, connections: {connections})");
        let load = |subcommand, replicas| Work::Load(subcommand, replicas, connections);
        let others: &[_] = if replicas == 1 {
            &[
                ("bare warp", load("bare-warp", 1)),
                ("a message per request", load("message-per-request", 1)),
            ]
        } else {
            &[("one replica", load("api", 1))]
        };
        comparisons.push(compare(&[&figure], load("api", replicas), others));
    }
    comparisons.push(compare(
        &["requests/s during rounds", "p99 during rounds, ms"],
        Work::LoadDuringRounds(64),
        &[("without rounds", Work::Load("api", 1, 64))],
    ));
    comparisons
}

/// Markdown: medians, and the ratios of the first contestant to the others with the lowest and the
/// highest.
pub(crate) fn table(comparisons: &[Comparison]) -> String {
    let mut lines = vec![
        "| | Max Two | beside | | ratio: median (lowest–highest) |".to_owned(),
        "|---|--:|---|--:|--:|".to_owned(),
    ];
    for comparison in comparisons {
        let own = &comparison.contestants[0];
        for (index, figure) in comparison.figures.iter().enumerate() {
            for other in &comparison.contestants[1..] {
                let turns = own.values.iter().zip(&other.values);
                let ratios = turns.map(|(own, other)| own[index] / other[index]);
                let [lowest, median, highest] = summary(ratios);
                lines.push(format!(
                    "| {figure} | {} | {} | {} | {median:.2} ({lowest:.2}–{highest:.2}) |",
                    number(own.median(index)),
                    other.name,
                    number(other.median(index)),
                ));
            }
        }
    }
    lines.join("\n")
}

/// The lowest value, the median (of an even number of values, the upper one) and the highest value.
fn summary(values: impl Iterator<Item = f64>) -> [f64; 3] {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    [
        values[0],
        values[values.len() / 2],
        values[values.len() - 1],
    ]
}

/// From 100 as a whole number.
fn number(value: f64) -> String {
    let decimals = if value < 100.0 { 2 } else { 0 };
    format!("{:.decimals$}", HumanFloatCount(value))
}
