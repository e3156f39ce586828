//! The report of a run: tables, goals and plots, written as Markdown, SVG and JSON.

use std::fmt::Write as _;
use std::fs;
use std::path::Path;

use anyhow::Context;
use serde::Serialize;

use crate::Scale;
use crate::names::{LEGEND, Name};
use crate::plot::Plot;
use crate::samples::{Samples, Unit};

type Column = (&'static str, Unit);

/// Requests that failed. RESULTS.md tells them only where there were any.
pub(crate) const ERRORS: Column = ("errors", Unit::Number);

/// Figures of several contestants. The terminal and results.json have all columns.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    title: String,
    description: String,
    columns: Vec<Column>,
    /// How many of the columns RESULTS.md has. Without any it leaves out the table.
    recorded_columns: usize,
    rows: Vec<(String, Vec<Samples>)>,
}

impl Table {
    /// A table with these columns. A row has the figures of the recorded ones first.
    pub(crate) fn new(
        title: impl Into<String>,
        description: impl Into<String>,
        recorded: &[Column],
        unrecorded: &[Column],
    ) -> Self {
        Self {
            title: title.into(),
            description: description.into(),
            columns: [recorded, unrecorded].concat(),
            recorded_columns: recorded.len(),
            rows: Vec::new(),
        }
    }

    pub(crate) fn row(&mut self, name: impl Into<String>, figures: Vec<Samples>) {
        self.rows.push((name.into(), figures));
    }

    /// The first columns, as Markdown.
    fn markdown(&self, columns: usize) -> String {
        let columns = &self.columns[..columns];
        let mut text = format!("## {}\n\n", self.title);
        if !self.description.is_empty() {
            let _ = write!(text, "{}\n\n", self.description);
        }
        let names: Vec<_> = columns.iter().map(|(name, _)| *name).collect();
        let _ = writeln!(text, "| | {} |", names.join(" | "));
        let _ = writeln!(text, "|---|{}", "--:|".repeat(names.len()));
        for (name, figures) in &self.rows {
            let cells: Vec<_> = figures
                .iter()
                .zip(columns)
                .map(|(samples, (_, unit))| samples.median_text(*unit))
                .collect();
            let _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
        }
        text
    }
}

/// The limit that a goal sets.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

#[derive(Debug, Serialize)]
pub(crate) struct Goal {
    name: String,
    bound: Bound,
    unit: Unit,
    samples: Samples,
    median: f64,
    met: bool,
    reference: Option<(String, Samples)>,
}

impl Goal {
    /// Adds a reference from the same run: something that does less work, and so shows how far
    /// the goal can be met on this machine.
    pub(crate) fn reference(&mut self, name: impl Into<String>, samples: Samples) {
        self.reference = Some((name.into(), samples));
    }
}

/// The results of a run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    full: bool,
    repetitions: usize,
    machine: Vec<String>,
    goals: Vec<Goal>,
    tables: Vec<Table>,
    plots: Vec<Plot>,
}

impl Report {
    pub(crate) fn new(machine: Vec<String>, scale: Scale) -> Self {
        Self {
            full: scale.full,
            repetitions: scale.repetitions,
            machine,
            goals: Vec::new(),
            tables: Vec::new(),
            plots: Vec::new(),
        }
    }

    /// Adds a table, and prints it.
    pub(crate) fn table(&mut self, table: Table) {
        println!("{}", table.markdown(table.columns.len()));
        self.tables.push(table);
    }

    /// The same, but RESULTS.md leaves it out.
    pub(crate) fn unrecorded_table(&mut self, mut table: Table) {
        table.recorded_columns = 0;
        self.table(table);
    }

    pub(crate) fn plot(&mut self, plot: Plot) {
        self.plots.push(plot);
    }

    /// Adds a goal. It is met if the median is within the bound.
    pub(crate) fn goal(
        &mut self,
        name: impl Into<String>,
        bound: Bound,
        unit: Unit,
        samples: Samples,
    ) -> &mut Goal {
        let median = samples.median();
        let met = match bound {
            Bound::AtLeast(least) => median >= least,
            Bound::AtMost(most) => median <= most,
        };
        self.goals.push(Goal {
            name: name.into(),
            bound,
            unit,
            samples,
            median,
            met,
            reference: None,
        });
        self.goals.last_mut().expect("it has just been added")
    }

    pub(crate) fn print_goals(&self) {
        println!("{}", self.goals_markdown());
    }

    fn goals_markdown(&self) -> String {
        let missed = self.goals.iter().filter(|goal| !goal.met).count();
        let mut text = format!(
            "## Goals\n\n\
             {missed} of {} are missed. Most references do less work, so they show how far a goal \
             can be met on this machine. [TRIED.md](TRIED.md) explains the limits.\n\n\
             | | goal | measured | | reference in the same run |\n\
             |---|--:|--:|---|---|\n",
            self.goals.len(),
        );
        for goal in &self.goals {
            let bound = match goal.bound {
                Bound::AtLeast(least) => format!("≥ {}", goal.unit.text(least)),
                Bound::AtMost(most) => format!("≤ {}", goal.unit.text(most)),
            };
            let _ = writeln!(
                text,
                "| {} | {bound} | {} | {} | {} |",
                goal.name,
                goal.samples.text(goal.unit),
                if goal.met { "met" } else { "**missed**" },
                goal.reference
                    .as_ref()
                    .map_or_else(String::new, |(name, samples)| {
                        format!("{name}: {}", samples.text(goal.unit))
                    })
            );
        }
        text
    }

    /// A line for each contestant with errors.
    fn errors_markdown(&self) -> String {
        let mut text = String::new();
        for table in &self.tables {
            let Some(column) = table.columns.iter().position(|column| column.0 == ERRORS.0) else {
                continue;
            };
            for (name, figures) in &table.rows {
                let errors = figures[column].sum();
                if errors > 0.0 {
                    let errors = ERRORS.1.text(errors);
                    let _ = writeln!(text, "- {}, {name}: {errors}", table.title);
                }
            }
        }
        if text.is_empty() {
            "Errors, where counted: none.\n".to_owned()
        } else {
            format!("Errors, of all repetitions together:\n\n{text}")
        }
    }

    fn markdown(&self) -> String {
        let mut text = format!(
            "# Results\n\n\
             Written by `cargo bench -p bench{}`{}. Contestants alternate in random order, {} \
             times each unless a table gives another number. A figure is a median; goals also show \
             the lowest and the highest figure, in brackets. A ratio (×) is the median of the \
             ratios within each repetition. Compare ratios: absolute figures hold for this machine \
             at this hour. `target/tmp/results.json` of a run has all tables and every single \
             figure.\n\n",
            if self.full { " -- --full" } else { "" },
            if self.full { "" } else { ", in short mode" },
            self.repetitions,
        );
        for line in &self.machine {
            let _ = writeln!(text, "- {line}");
        }
        text.push_str("\nNames of what is compared:\n\n");
        for Name { short, long } in LEGEND {
            let _ = writeln!(text, "- **{short}**: {long}");
        }
        let _ = write!(text, "\n{}", self.goals_markdown());
        for plot in &self.plots {
            let _ = write!(text, "\n![{}]({})\n", plot.title, plot.file);
        }
        let _ = write!(text, "\n{}", self.errors_markdown());
        let is_recorded = |table: &&Table| table.recorded_columns > 0;
        for table in self.tables.iter().filter(is_recorded) {
            let _ = write!(text, "\n{}", table.markdown(table.recorded_columns));
        }
        text
    }

    /// Writes RESULTS.md and the plots.
    pub(crate) fn write(&self, folder: &Path) -> anyhow::Result<()> {
        for plot in &self.plots {
            plot.draw(folder)?;
        }
        write(&folder.join("RESULTS.md"), &self.markdown())
    }

    /// Writes results.json, which holds every single figure.
    pub(crate) fn write_json(&self, folder: &Path) -> anyhow::Result<()> {
        let text = serde_json::to_string_pretty(self)? + "\n";
        write(&folder.join("results.json"), &text)
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("{}", path.display()))
}
