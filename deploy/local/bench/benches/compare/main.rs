//! `cargo bench -p bench`: compares Max Two with other ways to do the same work, on one machine and
//! in one run. Prints one table. Needs `wrk`.
//!
//! Everything under test is a process of its own, over a durable Postgres. Each turn measures every
//! contestant once, in random order, and compares figures of the same turn only. The median of the
//! turns' ratios counts. Absolute figures hold for this machine at this hour.

mod comparison;
mod plot;
mod servers;
mod work;

use std::env::current_exe;
use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, value_parser};
use rand::seq::SliceRandom as _;
use testkit::TestDatabase;
use tokio::process::Command;
use tokio::runtime::Runtime;

/// Compares Max Two with other ways to do the same work
#[derive(Parser)]
#[command(name = "bench")]
struct Settings {
    #[command(subcommand)]
    subcommand: Option<Subcommand>,

    /// Absolute path of a folder with the `max-two` of another commit, to measure it too
    #[arg(long, value_name = "FOLDER")]
    baseline: Option<PathBuf>,

    /// How often to measure everything
    #[arg(long, default_value_t = 3, value_parser = value_parser!(u32).range(1..=99))]
    turns: u32,

    /// Seconds of load in each measurement
    #[arg(long, default_value_t = 2, value_parser = value_parser!(u32).range(1..=600))]
    seconds: u32,

    /// Users in the table
    #[arg(long, default_value_t = 1_000_000, value_parser = value_parser!(i64).range(2..=100_000_000))]
    users: i64,

    /// Draw the plot, deploy/local/bench/requests.svg
    #[arg(long)]
    record: bool,

    /// Cargo passes this flag to every benchmark
    #[arg(long, hide = true)]
    bench: bool,
}

/// The program that this process runs instead, when a benchmark has started it to measure it.
#[derive(clap::Subcommand)]
enum Subcommand {
    #[command(hide = true)]
    Api(Box<api::Settings>),
    #[command(hide = true)]
    Worker(Box<worker::Settings>),
    #[command(hide = true)]
    BareWarp,
    #[command(hide = true)]
    MessagePerRequest,
}

/// Gives the table `users` default storage parameters and an index on the points.
const MAKE_DEFAULT_TABLE: &str = "alter table users rename to original; \
    create table users as table original; \
    alter table users add primary key (id); \
    create index on users (points)";

/// What all measurements share.
struct Bench {
    database: TestDatabase,
    /// A second database, on a server of its own because it writes several times the WAL.
    default_table: TestDatabase,
    /// Seconds of load in each measurement.
    seconds: u32,
}

fn main() -> anyhow::Result<ExitCode> {
    let settings = Settings::parse();
    match settings.subcommand {
        Some(Subcommand::Api(settings)) => return Ok(api::main(*settings)),
        Some(Subcommand::Worker(settings)) => return Ok(worker::main(*settings)),
        Some(Subcommand::BareWarp) => Runtime::new()?.block_on(servers::bare_warp())?,
        Some(Subcommand::MessagePerRequest) => {
            Runtime::new()?.block_on(servers::message_per_request())?;
        }
        None => Runtime::new()?.block_on(compare(settings))?,
    }
    Ok(ExitCode::SUCCESS)
}

async fn compare(settings: Settings) -> anyhow::Result<()> {
    let wrk = Command::new("wrk").arg("-v").output().await;
    wrk.context("wrk is missing (apt-get install -y wrk)")?;
    let baseline = settings
        .baseline
        .map(|folder| folder.join("max-two").canonicalize());
    let baseline = baseline.transpose().context("max-two at --baseline")?;
    let mut comparisons = comparison::all(&current_exe()?, baseline.as_deref());
    eprintln!("creating {} users, twice", settings.users);
    let bench = Bench {
        database: create_database(settings.users).await,
        default_table: create_database(settings.users).await,
        seconds: settings.seconds,
    };
    bench.default_table.run(MAKE_DEFAULT_TABLE).await;
    for turn in 1..=settings.turns {
        eprintln!("turn {turn} of {}", settings.turns);
        for comparison in &mut comparisons {
            // In random order, so that none always follows the same other.
            let mut contestants: Vec<_> = comparison.contestants.iter_mut().collect();
            contestants.shuffle(&mut rand::rng());
            for contestant in contestants {
                let measured = contestant.work.measure(&contestant.program, &bench).await?;
                contestant.values.push(measured);
            }
        }
    }
    println!("{}", comparison::table(&comparisons));
    if settings.record {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/requests.svg");
        fs::write(path, plot::draw(&comparisons))?;
    }
    Ok(())
}

/// A database with these users, on a server of its own: with `fsync`, and with all the WAL files
/// that it keeps. It recycles them from then on, as a server does that has run for a while.
async fn create_database(users: i64) -> TestDatabase {
    let database = TestDatabase::with_own_server(&["fsync=on"]).await;
    let fill_wal = "select count(pg_logical_emit_message(false, '', repeat(' ', 1000000))) \
        from generate_series(1, pg_size_bytes(current_setting('min_wal_size')) / 1000000)";
    database.run(fill_wal).await;
    database.seed(users).await;
    database
}
