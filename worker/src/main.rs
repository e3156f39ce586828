//! The program `max-two-worker`: parses the settings and runs the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    match shared::program::cli::parse::<worker::Settings>() {
        Ok(settings) => worker::main(settings),
        Err(status) => status,
    }
}
