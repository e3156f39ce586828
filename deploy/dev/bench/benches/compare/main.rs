//! `cargo bench -p bench`: Max Two beside other ways to do the same, on one machine and in one run.
//!
//! All contestants are processes, and take turns: what is compared are the ratios of neighbours in time, of which the
//! median counts. Absolute figures are this machine's, and that minute's.

mod contestant;
mod growth;
mod load;
mod machine;
mod plot;
mod report;
mod requests;
mod rounds;
mod stage;
mod threshold;

use std::net::SocketAddr;
use std::path::Path;

use clap::{Parser, Subcommand, ValueEnum};
use rand::seq::SliceRandom as _;
use tokio::runtime::Runtime;

use report::Report;
use stage::Stage;

/// Compares Max Two with other ways to do the same
#[derive(Parser)]
#[command(name = "bench")]
struct Settings {
    #[command(subcommand)]
    role: Option<Role>,
    /// For the record: all sizes and levels, a million users, more repetitions; half an hour
    #[arg(long)]
    full: bool,
    /// Only these parts
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// Writes RESULTS.md, results.json and the plots into deploy/dev/bench
    #[arg(long, requires = "full", conflicts_with = "only")]
    record: bool,
    /// What cargo passes to a benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// The parts of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Requests: against bare warp, and against a statement per request
    Requests,
    /// Requests while rounds are done
    During,
    /// Requests for each minimum
    Threshold,
    /// Rounds, against other ways to renew all points
    Rounds,
    /// What grows with the number of users, and what must not grow
    Growth,
}

/// Processes of the run.
#[derive(Subcommand)]
enum Role {
    #[command(hide = true)]
    Api(Box<api::Settings>),
    #[command(hide = true)]
    Worker(Box<worker::Settings>),
    /// A contestant's replica
    #[command(hide = true)]
    Serve {
        way: contestant::Way,
        listen: SocketAddr,
        url: String,
    },
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
struct Extent {
    full: bool,
    /// How often each contestant has its turn.
    repetitions: usize,
    /// Users where their number is not what is looked at.
    users: i64,
    /// Seconds that a load lasts.
    seconds: u64,
}

/// The numbers below this one in an order of chance, so that nobody always has the same one before him.
fn shuffled(number: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..number).collect();
    order.shuffle(&mut rand::rng());
    order
}

fn main() -> anyhow::Result<std::process::ExitCode> {
    let settings = match shared::cli::parse::<Settings>() {
        Ok(settings) => settings,
        Err(status) => return Ok(status),
    };
    match settings.role {
        Some(Role::Api(settings)) => return Ok(api::main(*settings)),
        Some(Role::Worker(settings)) => return Ok(worker::main(*settings)),
        Some(Role::Serve { way, listen, url }) => {
            Runtime::new()?.block_on(contestant::serve(way, listen, &url))?;
            return Ok(std::process::ExitCode::SUCCESS);
        }
        None => {}
    }
    let extent = if settings.full {
        Extent {
            full: true,
            repetitions: 5,
            users: 1_000_000,
            seconds: 2,
        }
    } else {
        Extent {
            full: false,
            repetitions: 3,
            users: 200_000,
            seconds: 2,
        }
    };
    let is_wanted = |part| settings.only.is_empty() || settings.only.contains(&part);
    let report = Runtime::new()?.block_on(run(extent, is_wanted))?;
    let folder = if settings.record {
        Path::new(env!("CARGO_MANIFEST_DIR"))
    } else {
        Path::new(env!("CARGO_TARGET_TMPDIR"))
    };
    report.write(folder)?;
    println!("\nRESULTS.md, results.json and plots: {}", folder.display());
    Ok(std::process::ExitCode::SUCCESS)
}

async fn run(extent: Extent, is_wanted: impl Fn(Part) -> bool) -> anyhow::Result<Report> {
    machine::open_many_files()?;
    let stage = Stage::open(extent.users).await?;
    let mut report = Report::new(machine::description(&stage).await?, extent);
    if is_wanted(Part::Requests) {
        requests::compare(&stage, extent, &mut report).await?;
        requests::start(&stage, extent, &mut report).await?;
    }
    if is_wanted(Part::During) {
        requests::during_rounds(&stage, extent, &mut report).await?;
    }
    if is_wanted(Part::Threshold) {
        threshold::compare(extent, &mut report).await?;
    }
    if is_wanted(Part::Rounds) {
        rounds::compare(&stage, extent, &mut report).await?;
    }
    if is_wanted(Part::Growth) {
        growth::of_tables(&stage, extent, &mut report).await?;
        drop(stage);
        growth::by_users(extent, &mut report).await?;
    }
    report.print_goals();
    Ok(report)
}
