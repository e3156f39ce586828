//! The settings of a soak.

use std::num::NonZeroU16;

use clap::Args;

/// How long a soak lasts, with how many processes, and under which faults.
#[derive(Args, Clone, Copy, Debug)]
pub struct Plan {
    /// The seed of the faults; drawn, and printed, when it is not given
    #[arg(long)]
    pub seed: Option<u64>,
    /// How many ticks it lasts: 1440, as many as a day has minutes
    #[arg(long, default_value_t = 1440)]
    pub ticks: u32,
    /// Number of users
    #[arg(long, default_value_t = 10_000)]
    pub users: u32,
    /// Seconds from tick to tick: a divisor of 60, longer than a round
    #[arg(long, default_value = "1", value_parser = divisor_of_60)]
    pub pace: u32,
    /// Number of workers
    #[arg(long, default_value = "5")]
    pub workers: NonZeroU16,
    /// Number of replicas
    #[arg(long, default_value = "4")]
    pub replicas: NonZeroU16,
    /// Number of clients; each sends its next request shortly after an answer
    #[arg(long, default_value = "8")]
    pub clients: NonZeroU16,
    /// Maximum number of seconds from the first round after a fault to the next fault
    #[arg(long, default_value_t = 6)]
    pub rest: u32,
}

fn divisor_of_60(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(seconds @ 1..60) if 60 % seconds == 0 => Ok(seconds),
        _ => Err("not a divisor of 60".to_owned()),
    }
}
