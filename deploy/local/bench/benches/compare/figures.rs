//! What was measured of whom, and the table of it.

use std::collections::BTreeMap;

/// The contestant that all others are compared with.
pub(crate) const MAX_TWO: &str = "Max Two";
/// Another commit of Max Two.
pub(crate) const BASELINE: &str = "the baseline";

/// A figure of all contestants, one value a turn for each of them.
type Contestants = BTreeMap<&'static str, Vec<f64>>;

/// All figures of a run, by name, in the order in which they were first measured.
#[derive(Default)]
pub(crate) struct Figures {
    figures: Vec<(String, Contestants)>,
    /// Requests without a successful response.
    pub(crate) failed_requests: f64,
}

impl Figures {
    /// Adds a contestant's value of this turn.
    pub(crate) fn add(&mut self, figure: &str, contestant: &'static str, value: f64) {
        let known = self.figures.iter().position(|(name, _)| name == figure);
        let index = known.unwrap_or_else(|| {
            self.figures.push((figure.to_owned(), Contestants::new()));
            self.figures.len() - 1
        });
        let values = self.figures[index].1.entry(contestant).or_default();
        values.push(value);
    }

    /// A contestant's values of all turns so far; none if it was not measured.
    pub(crate) fn values(&self, figure: &str, contestant: &str) -> &[f64] {
        let mut figures = self.figures.iter();
        let contestants = figures.find(|(name, _)| name == figure);
        let values = contestants.and_then(|(_, contestants)| contestants.get(contestant));
        values.map_or(&[], Vec::as_slice)
    }

    /// Markdown: medians, and the ratios of Max Two to the others with the lowest and the highest.
    pub(crate) fn table(&self) -> String {
        let mut lines = vec![
            "| | Max Two | beside | | ratio: median (lowest–highest) |".to_owned(),
            "|---|--:|---|--:|--:|".to_owned(),
        ];
        for (figure, contestants) in &self.figures {
            let own = &contestants[MAX_TWO];
            let others = contestants.iter().filter(|(name, _)| **name != MAX_TWO);
            lines.extend(others.map(|(name, values)| {
                let ratios: Vec<_> = own.iter().zip(values).map(|(own, it)| own / it).collect();
                let ratios = sorted(&ratios);
                format!(
                    "| {figure} | {} | {name} | {} | {:.2} ({:.2}–{:.2}) |",
                    with_separators(median(own)),
                    with_separators(median(values)),
                    median(&ratios),
                    ratios[0],
                    ratios[ratios.len() - 1],
                )
            }));
        }
        lines.push(format!("\nFailed requests: {}", self.failed_requests));
        lines.join("\n")
    }
}

fn sorted(values: &[f64]) -> Vec<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted
}

/// The middle value, or the mean of the two middle ones; NaN without any.
pub(crate) fn median(values: &[f64]) -> f64 {
    let sorted = sorted(values);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[middle],
        _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
    }
}

/// A number that is not negative: from 100 as a whole number, with thousands separated by commas.
pub(crate) fn with_separators(value: f64) -> String {
    if value < 100.0 {
        return format!("{value:.2}");
    }
    let digits = format!("{value:.0}");
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}
