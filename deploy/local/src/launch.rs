//! Starts the database, does the first round, then starts workers and replicas. Stops all in
//! reverse.

use std::convert::Infallible;
use std::env;
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::process::exit;
use std::time::Duration;

use anyhow::{Context, anyhow};
use chrono::TimeDelta;
use clap::ValueEnum;
use private_postgres::DATABASE_URL_FILE;
use shared::db::Database;
use shared::domain::MinPoints;
use shared::domain::rounds::{self, Outcome};
use shared::program::shutdown::StopSignals;
use shared::program::{cli, healthcheck, logs};
use socket2::{Domain, SockRef, Socket, Type};
use tokio::task::block_in_place;
use tokio::time::sleep;
use tracing::info;

use crate::database::{self, connect};
use crate::logs_to_terminal;
use crate::postgres::Postgres;
use crate::processes::{Environment, Processes};
use crate::settings::Settings;

/// How long the writes of the first round may take.
const ROUND_TIMEOUT: Duration = Duration::from_mins(2);
/// How often to check a condition while waiting for it.
pub(crate) const POLL_INTERVAL: Duration = Duration::from_millis(50);

/// What runs, in the order of stopping.
#[derive(Default)]
struct Running {
    replicas: Processes,
    workers: Processes,
    postgres: Postgres,
}

/// Starts everything, and stops it after a signal or an error.
///
/// # Errors
/// When something can't be started.
pub(crate) async fn launch(settings: Settings) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen().context("registering signal handlers")?;
    let mut running = Running::default();
    let worker_refused = running.workers.bad_setting.clone();
    let replica_refused = running.replicas.bad_setting.clone();
    let outcome = tokio::select! {
        result = run(&settings, &mut running) => result.map(|never| match never {}),
        _ = signals.next() => Ok(()),
        () = worker_refused.cancelled() => Err(anyhow!("the workers refuse a setting")),
        () = replica_refused.cancelled() => Err(anyhow!("the replicas refuse a setting")),
    };
    info!("stopping");
    tokio::select! {
        () = running.stop() => info!("Max Two has stopped"),
        signal = signals.next() => {
            // The guards end the processes that are left.
            info!(signal, "second signal: exiting at once");
            logs::flush();
            exit(1);
        }
    }
    outcome
}

/// Starts everything, and then keeps Postgres running forever.
async fn run(settings: &Settings, running: &mut Running) -> anyhow::Result<Infallible> {
    // Held to the end: the port must stay reserved while a replica is restarted.
    let (_reservation, listen) = reserve(settings.listen)
        .with_context(|| format!("LISTEN {} can't be used", settings.listen))?;
    let urls = database::prepare(settings, &mut running.postgres).await?;
    let owner = Database::parse(&urls.owner, "max-two")?;
    info!("adding users, up to {}", settings.users);
    let added = worker::seed(&owner, settings.users)
        .await
        .context("seeding")?;
    info!("doing the first round");
    let mut session = connect(&urls.worker).await?;
    let latest_tick = |at| settings.schedule.latest_tick(at);
    let no_cooldown = TimeDelta::zero();
    let outcome = rounds::run_due(&mut session, latest_tick, no_cooldown, ROUND_TIMEOUT).await?;
    if added > 0 && !matches!(outcome, Outcome::Done(_)) {
        // Otherwise the users would have no points until the next tick.
        rounds::run_now(&mut session, MinPoints::draw(), ROUND_TIMEOUT).await?;
    }
    let environment = environment(settings, listen);
    running
        .workers
        .start("worker", settings.workers, &urls.worker, &environment)?;
    info!("starting the replicas");
    running
        .replicas
        .start("api", settings.replicas, &urls.api, &environment)?;
    wait_until_ready(listen).await;
    print_ready(listen, urls.folder.as_deref());
    Ok(running.postgres.supervise().await)
}

/// Binds the address without listening on it, and returns it with the port that it got. While the
/// socket exists, the replicas can share the address and no other process can take it.
fn reserve(address: SocketAddr) -> io::Result<(Socket, SocketAddr)> {
    // SO_REUSEADDR allows binding while earlier connections are in TIME_WAIT. But on Linux several
    // sockets with it can share an address until one of them listens. So a listener, of which there
    // can be only one, holds the address until the reservation no longer needs SO_REUSEADDR.
    let listener = TcpListener::bind(address)?;
    let address = listener.local_addr()?;
    SockRef::from(&listener).set_reuse_port(true)?;
    let reservation = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    reservation.set_reuse_address(true)?;
    reservation.set_reuse_port(true)?;
    reservation.bind(&address.into())?;
    reservation.set_reuse_address(false)?;
    Ok((reservation, address))
}

/// Prints how to go on. A database's URL may hold a password, so it is not printed.
fn print_ready(listen: SocketAddr, folder: Option<&Path>) {
    let ready = format!("Max Two is ready: http://{listen}/\n    curl http://{listen}/");
    let database = match folder {
        None => "Its database: that of DATABASE_URL".to_owned(),
        Some(folder) => format!(
            "The next start goes on with the data in {}\nIts database: psql \"$(cat {})\"",
            folder.display(),
            shell_word(&folder.join(DATABASE_URL_FILE))
        ),
    };
    cli::print(&format_args!("{ready}\nCtrl-C stops it.\n{database}"));
}

impl Running {
    async fn stop(&mut self) {
        self.replicas.stop().await;
        self.workers.stop().await;
        self.postgres.stop().await;
    }
}

/// The environment of all processes. Each takes the settings that it knows.
fn environment(settings: &Settings, listen: SocketAddr) -> Environment {
    let mut environment = vec![
        // Any free port, for each of them.
        ("ADMIN_LISTEN", "127.0.0.1:0".to_owned()),
        ("SCHEDULE", settings.schedule.to_string()),
        ("LISTEN", listen.to_string()),
        ("REUSE_PORT", "true".to_owned()),
        // There is no load balancer that must notice the stop.
        ("DRAIN_DELAY", "0s".to_owned()),
    ];
    if env::var_os("RUST_LOG").is_none_or(|filters| filters.is_empty()) && logs_to_terminal() {
        environment.push(("RUST_LOG", "warn".to_owned()));
    }
    let format = settings.log_format.as_ref();
    if let Some(format) = format.and_then(ValueEnum::to_possible_value) {
        environment.push(("LOG_FORMAT", format.get_name().to_owned()));
    }
    environment
}

/// Waits until a replica is ready. It sends no query, because the very first query gets a special
/// answer, which belongs to the user.
async fn wait_until_ready(listen: SocketAddr) {
    while block_in_place(|| healthcheck::check(listen, "/readyz")).is_err() {
        sleep(POLL_INTERVAL).await;
    }
}

/// A path as one word for a shell; as bash and zsh read it if it holds special characters.
fn shell_word(path: &Path) -> String {
    let bytes = path.as_os_str().as_bytes();
    let is_plain = |byte: &u8| byte.is_ascii_alphanumeric() || b"/._-".contains(byte);
    if bytes.iter().all(is_plain) {
        path.display().to_string()
    } else {
        format!("$'{}'", bytes.escape_ascii())
    }
}
