//! `max-two-api`: see the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    match shared::cli::parse::<api::Settings>() {
        Ok(settings) => api::main(settings),
        Err(status) => status,
    }
}
