//! What a person at a terminal sees of start and stop: a line for each step. Elsewhere, and where
//! log lines are asked for, the steps are log lines.

use std::env;
use std::io::{IsTerminal, Write, stderr};

use tracing::info;

use crate::settings::Settings;

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

    /// Says what is being done.
    pub(crate) fn step(self, doing: &str) {
        if self.is_for_people {
            // It fails when the terminal is gone, which is no reason to stop.
            let _ = writeln!(stderr(), "{doing}");
        } else {
            info!("{doing}");
        }
    }
}
