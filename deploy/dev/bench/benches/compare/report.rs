//! Tables, goals and plots, as Markdown and as JSON.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use crate::Extent;
use crate::plot::Plot;

/// What was tried and what came of it, in the words of who tried it.
const TRIED: &str = include_str!("../../TRIED.md");

/// The figures of one thing from its repetitions, in their order.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Runs(Vec<f64>);

impl Runs {
    pub(crate) fn push(&mut self, figure: f64) {
        self.0.push(figure);
    }

    /// The middle one, or the mean of the two in the middle.
    pub(crate) fn median(&self) -> f64 {
        let sorted = self.sorted();
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            length if length % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    /// Each repetition's ratio to the same repetition of another thing.
    pub(crate) fn over(&self, other: &Self) -> Self {
        self.with(other, |this, that| this / that)
    }

    /// Each repetition's figure and that of the same repetition of another thing, together.
    pub(crate) fn plus(&self, other: &Self) -> Self {
        self.with(other, |this, that| this + that)
    }

    fn with(&self, other: &Self, operation: fn(f64, f64) -> f64) -> Self {
        assert_eq!(self.0.len(), other.0.len(), "both had as many turns");
        let pairs = self.0.iter().zip(&other.0);
        Self(pairs.map(|(&this, &that)| operation(this, that)).collect())
    }

    /// Each figure times a factor.
    pub(crate) fn times(&self, factor: f64) -> Self {
        Self(self.0.iter().map(|figure| figure * factor).collect())
    }

    fn sorted(&self) -> Vec<f64> {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        sorted
    }

    /// The median, and between what the figures lie where they differ.
    fn text(&self, unit: Unit) -> String {
        let sorted = self.sorted();
        let median = unit.text(self.median());
        match (sorted.first(), sorted.last()) {
            (None, _) => "–".to_owned(),
            (Some(&least), Some(&most)) if unit.text(least) != unit.text(most) => {
                format!("{median} ({} – {})", unit.text(least), unit.text(most))
            }
            _ => median,
        }
    }
}

impl From<f64> for Runs {
    fn from(figure: f64) -> Self {
        Self(vec![figure])
    }
}

impl FromIterator<f64> for Runs {
    fn from_iter<Figures: IntoIterator<Item = f64>>(figures: Figures) -> Self {
        Self(figures.into_iter().collect())
    }
}

/// What a figure counts.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) enum Unit {
    Number,
    Times,
    Seconds,
    Milliseconds,
    Microseconds,
    Megabytes,
    Bytes,
    Percent,
}

impl Unit {
    fn text(self, figure: f64) -> String {
        match self {
            Self::Number | Self::Bytes => grouped(figure),
            Self::Times if figure < 10.0 => format!("{figure:.2}×"),
            Self::Times => format!("{figure:.0}×"),
            Self::Seconds | Self::Milliseconds | Self::Microseconds if figure < 10.0 => {
                format!("{figure:.2}")
            }
            Self::Percent => format!("{figure:.0} %"),
            _ => format!("{figure:.1}"),
        }
    }
}

/// A whole number with a comma after each three digits.
fn grouped(figure: f64) -> String {
    let digits = format!("{:.0}", figure.abs());
    let mut text = String::new();
    for (place, digit) in digits.chars().enumerate() {
        if place > 0 && (digits.len() - place).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if figure <= -0.5 {
        text.insert(0, '−');
    }
    text
}

/// Figures of several things.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    title: String,
    about: String,
    columns: Vec<(&'static str, Unit)>,
    rows: Vec<(String, Vec<Runs>)>,
}

impl Table {
    pub(crate) fn new(
        title: impl Into<String>,
        about: impl Into<String>,
        columns: &[(&'static str, Unit)],
    ) -> Self {
        Self {
            title: title.into(),
            about: about.into(),
            columns: columns.to_vec(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, name: impl Into<String>, figures: Vec<Runs>) {
        self.rows.push((name.into(), figures));
    }

    fn markdown(&self) -> String {
        let mut text = format!("## {}\n\n", self.title);
        if !self.about.is_empty() {
            let _ = write!(text, "{}\n\n", self.about);
        }
        let names: Vec<_> = self.columns.iter().map(|(name, _)| *name).collect();
        let _ = writeln!(text, "| | {} |", names.join(" | "));
        let _ = writeln!(text, "|---|{}", "--:|".repeat(names.len()));
        for (name, figures) in &self.rows {
            let cells: Vec<_> = figures
                .iter()
                .zip(&self.columns)
                .map(|(runs, (_, unit))| runs.text(*unit))
                .collect();
            let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
        }
        text
    }
}

/// What a figure should be.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) enum Wanted {
    AtLeast(f64),
    AtMost(f64),
}

#[derive(Debug, Serialize)]
pub(crate) struct Goal {
    what: &'static str,
    wanted: Wanted,
    unit: Unit,
    figures: Runs,
    median: f64,
    reached: bool,
    beside: Option<(String, Runs)>,
}

impl Goal {
    /// Puts something beside it that does less, or lacks just what the goal is about, in the same run: it shows about how
    /// far the goal can be reached there.
    pub(crate) fn beside(&mut self, what: impl Into<String>, figures: Runs) {
        self.beside = Some((what.into(), figures));
    }
}

/// All that a run has found.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    full: bool,
    repetitions: usize,
    machine: Vec<String>,
    goals: Vec<Goal>,
    tables: Vec<Table>,
    #[serde(skip)]
    plots: Vec<Plot>,
}

impl Report {
    pub(crate) fn new(machine: Vec<String>, extent: Extent) -> Self {
        Self {
            full: extent.full,
            repetitions: extent.repetitions,
            machine,
            goals: Vec::new(),
            tables: Vec::new(),
            plots: Vec::new(),
        }
    }

    /// Adds a table, and prints it.
    pub(crate) fn table(&mut self, table: Table) {
        println!("{}", table.markdown());
        self.tables.push(table);
    }

    pub(crate) fn plot(&mut self, plot: Plot) {
        self.plots.push(plot);
    }

    /// Adds a goal; the median decides.
    pub(crate) fn goal(
        &mut self,
        what: &'static str,
        wanted: Wanted,
        unit: Unit,
        figures: Runs,
    ) -> &mut Goal {
        let median = figures.median();
        let reached = match wanted {
            Wanted::AtLeast(least) => median >= least,
            Wanted::AtMost(most) => median <= most,
        };
        self.goals.push(Goal {
            what,
            wanted,
            unit,
            figures,
            median,
            reached,
            beside: None,
        });
        self.goals.last_mut().expect("it has just been added")
    }

    pub(crate) fn print_goals(&self) {
        println!("{}", self.goals());
    }

    fn goals(&self) -> String {
        let mut text = String::from(
            "## Goals\n\n| | goal | measured | | beside it, in the same run |\n|---|--:|--:|---|---|\n",
        );
        for goal in &self.goals {
            let wanted = match goal.wanted {
                Wanted::AtLeast(least) => format!("≥ {}", goal.unit.text(least)),
                Wanted::AtMost(most) => format!("≤ {}", goal.unit.text(most)),
            };
            let _ = writeln!(
                text,
                "| {} | {wanted} | {} | {} | {} |",
                goal.what,
                goal.figures.text(goal.unit),
                if goal.reached {
                    "reached"
                } else {
                    "**missed**"
                },
                goal.beside
                    .as_ref()
                    .map_or_else(String::new, |(what, figures)| {
                        format!("{what}: {}", figures.text(goal.unit))
                    })
            );
        }
        text
    }

    /// Writes RESULTS.md, results.json and the plots.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        let mut text = String::from("# Results\n\n");
        let _ = write!(
            text,
            "Written by `cargo bench -p bench{}`; the contestants took turns, {} times where nothing else is said{}. A figure is the median of its \
             repetitions, with the least and the greatest behind it; a ratio is the median of the ratios of neighbours. \
             Absolute figures are those of this machine at that hour, ratios are what to compare.\n\n",
            if self.full { " -- --full" } else { "" },
            self.repetitions,
            if self.full {
                ""
            } else {
                ": a quick look, not a record"
            },
        );
        for line in &self.machine {
            let _ = writeln!(text, "- {line}");
        }
        let _ = write!(text, "\n{}", self.goals());
        for plot in &self.plots {
            plot.draw(folder)?;
            let _ = write!(text, "\n![{}]({})\n", plot.title, plot.file);
        }
        for table in &self.tables {
            let _ = write!(text, "\n{}", table.markdown());
        }
        let _ = write!(text, "\n{TRIED}");
        let write = |name, text: String| {
            let path = folder.join(name);
            fs::write(&path, text).with_context(|| format!("{}", path.display()))
        };
        write("RESULTS.md", text)?;
        write("results.json", serde_json::to_string_pretty(self)? + "\n")
    }
}
