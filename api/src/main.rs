//! The program `max-two-api`: parses the settings and runs the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    match shared::program::cli::parse::<api::Settings>() {
        Ok(settings) => api::main(settings),
        Err(status) => status,
    }
}
