//! `cargo bench -p bench`: compares Max Two with other ways to do the same work, on one machine
//! and in one run.
//!
//! Every contestant is a process of its own. Contestants alternate in random order, each
//! repetition compares figures measured close together, and the median of these ratios counts.
//! Absolute figures are promised for no other machine and no other hour.

mod contestant;
mod during_rounds;
mod env;
mod growth;
mod load;
mod machine;
mod minimum;
mod names;
mod network;
mod plot;
mod relay;
mod replicas;
mod report;
mod requests;
mod rounds;
mod samples;
mod startup;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::{Parser, Subcommand, ValueEnum};
use rand::seq::SliceRandom as _;
use tokio::runtime::Runtime;

use env::Env;
use report::Report;

/// Compares Max Two with other ways to do the same work
#[derive(Parser)]
#[command(name = "bench")]
struct Settings {
    #[command(subcommand)]
    command: Option<ChildCommand>,
    /// Measure everything, with a million users; it takes three quarters of an hour
    #[arg(long)]
    full: bool,
    /// Measure only these parts
    #[arg(long, value_delimiter = ',')]
    only: Vec<Part>,
    /// A max-two-api of another commit to measure beside this one: built with the profile dist, and
    /// named for its commit
    #[arg(long)]
    baseline: Option<PathBuf>,
    /// Write RESULTS.md and the plots into deploy/local/bench
    #[arg(long, requires = "full", conflicts_with = "only")]
    record: bool,
    /// Cargo passes this flag to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// The parts of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Requests, compared with bare warp and with a message per request
    Requests,
    /// Fleets of replicas, compared with replicas that hold the row of the chain
    Replicas,
    /// Fleets whose database is a network away, and fleets under a light load
    Network,
    /// Requests during rounds
    During,
    /// Requests at each minimum
    Minimum,
    /// Rounds, compared with other ways to renew all points
    Rounds,
    /// Cost by number of users, and growth of the tables
    Growth,
}

/// The commands by which the benchmark starts itself as a child process.
#[derive(Subcommand)]
enum ChildCommand {
    #[command(hide = true)]
    Api(Box<api::Settings>),
    #[command(hide = true)]
    Worker(Box<worker::Settings>),
    #[command(hide = true)]
    Contestant {
        contestant: contestant::Contestant,
        listen: SocketAddr,
        url: String,
    },
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
struct Scale {
    full: bool,
    /// Measurements of each contestant.
    repetitions: usize,
    /// Users, in the parts that do not vary their number.
    users: i64,
    /// Seconds of load in one measurement.
    load_seconds: u64,
}

impl Scale {
    const FULL: Self = Self {
        full: true,
        repetitions: 5,
        users: 1_000_000,
        load_seconds: 2,
    };
    const SHORT: Self = Self {
        full: false,
        repetitions: 3,
        users: 200_000,
        load_seconds: 2,
    };
}

/// The indices below `count` in random order, so that no contestant always follows the same one.
fn shuffled(count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..count).collect();
    order.shuffle(&mut rand::rng());
    order
}

fn main() -> anyhow::Result<std::process::ExitCode> {
    let settings = match shared::program::cli::parse::<Settings>() {
        Ok(settings) => settings,
        Err(status) => return Ok(status),
    };
    match settings.command {
        Some(ChildCommand::Api(settings)) => return Ok(api::main(*settings)),
        Some(ChildCommand::Worker(settings)) => return Ok(worker::main(*settings)),
        Some(ChildCommand::Contestant {
            contestant,
            listen,
            url,
        }) => {
            Runtime::new()?.block_on(contestant::serve(contestant, listen, &url))?;
            return Ok(std::process::ExitCode::SUCCESS);
        }
        None => {}
    }
    let scale = if settings.full {
        Scale::FULL
    } else {
        Scale::SHORT
    };
    let is_wanted = |part| settings.only.is_empty() || settings.only.contains(&part);
    let report = Runtime::new()?.block_on(run(scale, settings.baseline.as_deref(), is_wanted))?;
    let target = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let folder = if settings.record {
        Path::new(env!("CARGO_MANIFEST_DIR"))
    } else {
        target
    };
    report.write(folder)?;
    report.write_json(target)?;
    println!("\nRESULTS.md and plots: {}", folder.display());
    println!("results.json: {}", target.display());
    Ok(std::process::ExitCode::SUCCESS)
}

async fn run(
    scale: Scale,
    baseline: Option<&Path>,
    is_wanted: impl Fn(Part) -> bool,
) -> anyhow::Result<Report> {
    machine::raise_open_file_limit()?;
    let env = Env::with_points(scale.users).await?;
    let mut report = Report::new(machine::describe(&env, baseline).await?, scale);
    if is_wanted(Part::Requests) {
        requests::compare(&env, scale, baseline, &mut report).await?;
        startup::measure(&env, scale, &mut report).await?;
    }
    if is_wanted(Part::Replicas) {
        replicas::compare(scale, &mut report).await?;
    }
    if is_wanted(Part::Network) {
        network::compare(scale, &mut report).await?;
    }
    if is_wanted(Part::During) {
        during_rounds::compare(&env, scale, &mut report).await?;
    }
    if is_wanted(Part::Minimum) {
        minimum::compare(scale, &mut report).await?;
    }
    if is_wanted(Part::Rounds) {
        rounds::compare(&env, scale, &mut report).await?;
    }
    if is_wanted(Part::Growth) {
        growth::over_rounds(&env, scale, &mut report).await?;
        drop(env);
        growth::by_users(scale, &mut report).await?;
    }
    report.print_goals();
    Ok(report)
}
