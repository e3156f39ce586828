//! `cargo bench -p bench`: compares Max Two with other ways to do the same work, on one machine and
//! in one run. Prints one table. Needs `wrk`.
//!
//! Everything under test is a process of its own, over a durable Postgres. Each turn measures every
//! contestant once, in random order, and compares figures of the same turn only. The median of the
//! turns' ratios counts. Absolute figures hold for this machine at this hour.

mod figures;
mod load;
mod plot;
mod programs;
mod requests;
mod rounds;
mod servers;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};
use rand::seq::SliceRandom as _;
use shared::program::cli;
use testkit::TestDatabase;
use tokio::process::Command;
use tokio::runtime::Runtime;

use figures::{BASELINE, Figures, MAX_TWO};
use programs::Programs;

/// With this minimum about half of the users qualify, so that every answer shows two.
const MINIMUM: &str = "50";
/// The plot, beside this package's Cargo.toml.
const PLOT: &str = "requests.svg";

/// Compares Max Two with other ways to do the same work
#[derive(Parser)]
#[command(name = "bench")]
struct Settings {
    #[command(subcommand)]
    server: Option<Server>,

    /// Folder with the programs to measure; by default they are built with the profile `release`
    #[arg(long, value_name = "PATH", value_parser = Programs::find)]
    programs: Option<Programs>,

    /// Folder with the programs of another commit, to measure them too
    #[arg(long, value_name = "PATH", value_parser = Programs::find)]
    baseline: Option<Programs>,

    /// How often to measure everything; 9 with --record
    #[arg(long, default_value_t = 3, default_value_if("record", "true", "9"), value_parser = clap::value_parser!(u32).range(1..=99))]
    turns: u32,

    /// Seconds of load in each measurement
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=600))]
    seconds: u32,

    /// Users in the table
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(i64).range(2..=100_000_000))]
    users: i64,

    /// Draw the plot, deploy/local/bench/requests.svg
    #[arg(long)]
    record: bool,

    /// Cargo passes this flag to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// The servers that this program starts itself as, in child processes.
#[derive(Subcommand)]
enum Server {
    #[command(hide = true)]
    BareWarp,
    #[command(hide = true)]
    MessagePerRequest { url: String },
}

/// What all parts of a run share.
struct Bench {
    settings: Settings,
    /// Those of this commit, or of [`Settings::programs`].
    programs: Programs,
    database: TestDatabase,
}

impl Bench {
    /// Max Two and, if there is one, the baseline.
    fn versions(&self) -> Vec<(&'static str, &Programs)> {
        let baseline = self.settings.baseline.as_ref();
        let baseline = baseline.map(|programs| (BASELINE, programs));
        [(MAX_TWO, &self.programs)]
            .into_iter()
            .chain(baseline)
            .collect()
    }
}

/// In random order, so that none always follows the same other.
fn shuffled<Item>(mut items: Vec<Item>) -> Vec<Item> {
    items.shuffle(&mut rand::rng());
    items
}

/// A database with these users, on a server of its own: with `fsync`, and with all the WAL files
/// that it keeps. It recycles them from then on, as a server does that has run for a while.
async fn create_database(users: i64) -> TestDatabase {
    let database = TestDatabase::with_durable_server().await;
    let fill_wal = "select count(pg_logical_emit_message(false, '', repeat(' ', 1000000))) \
        from generate_series(1, pg_size_bytes(current_setting('min_wal_size')) / 1000000)";
    database.run(fill_wal).await;
    database.seed(users).await;
    database.run("checkpoint").await;
    database
}

fn main() -> ExitCode {
    let settings = match cli::parse::<Settings>() {
        Ok(settings) => settings,
        Err(status) => return status,
    };
    let outcome = Runtime::new()
        .context("starting the runtime")
        .and_then(|runtime| runtime.block_on(run(settings)));
    if let Err(error) = outcome {
        eprintln!("error: {error:#}");
        return ExitCode::FAILURE;
    }
    ExitCode::SUCCESS
}

async fn run(settings: Settings) -> anyhow::Result<()> {
    match settings.server {
        Some(Server::BareWarp) => servers::bare_warp().await,
        Some(Server::MessagePerRequest { url }) => servers::message_per_request(&url).await,
        None => compare(settings).await,
    }
}

async fn compare(settings: Settings) -> anyhow::Result<()> {
    let wrk = Command::new("wrk").arg("-v").output().await;
    wrk.context("wrk is missing (apt-get install -y wrk)")?;
    let programs = match &settings.programs {
        Some(programs) => programs.clone(),
        None => Programs::build()?,
    };
    eprintln!("creating {} users, twice", settings.users);
    let bench = Bench {
        programs,
        database: create_database(settings.users).await,
        settings,
    };
    let settings = &bench.settings;
    let default_table = rounds::create_default_table(settings.users).await;
    let mut figures = Figures::default();
    for turn in 1..=settings.turns {
        eprintln!("turn {turn} of {}", settings.turns);
        let arguments = &["--min-points", MINIMUM];
        bench.programs.round(&bench.database, arguments).await?;
        bench.database.run("checkpoint").await;
        requests::measure(&bench, &mut figures).await?;
        rounds::measure(&bench, &default_table, &mut figures).await?;
        requests::measure_during_rounds(&bench, &mut figures).await?;
    }
    println!("{}", figures.table());
    if settings.record {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(PLOT);
        fs::write(path, requests::plot(&figures))?;
    }
    Ok(())
}
