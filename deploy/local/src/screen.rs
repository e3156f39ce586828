//! What a person at a terminal sees of start and stop: a line for each step, with how far
//! it is. Elsewhere, and where log lines are asked for, the steps are log lines.

use std::env;
use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressFinish, ProgressStyle};

use crate::settings::Settings;

/// How often the spinner moves.
const SPINNER_INTERVAL: Duration = Duration::from_millis(100);

/// Standard error, as a screen or as a log.
#[derive(Clone, Copy)]
pub(crate) struct Screen {
    is_for_people: bool,
}

impl Screen {
    /// A screen if standard error is a terminal and neither `RUST_LOG` nor `LOG_FORMAT` is set.
    pub(crate) fn new(settings: &Settings) -> Self {
        let is_log_wanted = settings.log_format.is_some()
            || env::var_os("RUST_LOG").is_some_and(|filters| !filters.is_empty());
        Self {
            is_for_people: stderr().is_terminal() && !is_log_wanted,
        }
    }

    pub(crate) fn is_for_people(self) -> bool {
        self.is_for_people
    }

    /// The default log filters, of the launcher and of the processes that it starts.
    pub(crate) fn log_filters(self) -> &'static str {
        // Warnings are for people too.
        if self.is_for_people { "warn" } else { "info" }
    }

    /// Shows what is being done.
    pub(crate) fn begin(self, doing: &'static str) -> Step {
        let step = self.begin_without_line();
        if !self.is_for_people {
            return step;
        }
        let style = ProgressStyle::with_template("{spinner} {msg} {elapsed}")
            .expect("the constant template is valid")
            .tick_chars("-\\|/ ");
        let bar = ProgressBar::new_spinner()
            .with_style(style)
            .with_finish(ProgressFinish::AndClear)
            .with_message(doing);
        bar.enable_steady_tick(SPINNER_INTERVAL);
        Step { bar, ..step }
    }

    /// Begins a step that shows by itself how far it is.
    pub(crate) fn begin_without_line(self) -> Step {
        Step {
            screen: self,
            bar: ProgressBar::hidden(),
            started_at: Instant::now(),
        }
    }

    /// Shows a line that stays. False where it must be logged instead.
    pub(crate) fn show(self, line: &str) -> bool {
        if self.is_for_people {
            // It fails when the terminal is gone, which is no reason to stop.
            let _ = writeln!(stderr(), "{line}");
        }
        self.is_for_people
    }
}

/// A step that is going on. If it is dropped, its line vanishes.
#[derive(Clone)]
pub(crate) struct Step {
    screen: Screen,
    bar: ProgressBar,
    started_at: Instant,
}

impl Step {
    /// Shows instead that so many bytes of all have been downloaded.
    pub(crate) fn download(&self, done: u64, all: u64) {
        if self.screen.is_for_people && self.bar.length().is_none() {
            let style = ProgressStyle::with_template(
                "downloading Postgres [{wide_bar}] {bytes} of {total_bytes}, {eta} left",
            )
            .expect("the constant template is valid")
            .progress_chars("=> ");
            self.bar.set_style(style);
            self.bar.set_length(all);
        }
        self.bar.set_position(done);
    }

    /// Replaces the line by one that says what was reached.
    pub(crate) fn end(self, reached: &str) {
        self.bar.finish_and_clear();
        let seconds = self.started_at.elapsed().as_secs_f64();
        self.screen.show(&format!("  {reached} ({seconds:.1} s)"));
    }
}
