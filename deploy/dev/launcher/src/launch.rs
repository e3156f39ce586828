//! From nothing to a service that answers, and back.

use std::ffi::OsString;
use std::io;
use std::net::SocketAddr;
use std::process::exit;
use std::time::Duration;

use anyhow::Context;
use clap::ValueEnum;
use http_body_util::Empty;
use hyper::Uri;
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use private_postgres::Server;
use shared::db::{Database, close};
use shared::rounds;
use shared::shutdown::StopSignals;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::task::{block_in_place, spawn_blocking};
use tokio::time::{interval, sleep};
use tracing::{error, info};
use worker::Schedule;

use crate::database::{self, Urls};
use crate::programs::{Fleet, Program};
use crate::settings::Settings;

/// How often a condition is looked at while it is waited for.
const GLANCE: Duration = Duration::from_millis(50);
/// How often the private Postgres is looked after.
const LOOK: Duration = Duration::from_secs(1);
/// How long the database may take to be reached.
const CONNECT: Duration = Duration::from_secs(10);
/// Any free port, for the admin listeners: there are as many as processes.
const ANY_PORT: &str = "127.0.0.1:0";

/// What runs, in the order in which it stops.
#[derive(Default)]
struct Running {
    replicas: Option<Fleet>,
    workers: Option<Fleet>,
    postgres: Option<Server>,
}

/// Starts everything, and stops it after a signal, or after an error.
///
/// # Errors
/// When something can't be started.
pub(crate) async fn launch(settings: Settings) -> anyhow::Result<()> {
    let mut signals = StopSignals::listen().context("listening for signals")?;
    let mut running = Running::default();
    let outcome = tokio::select! {
        outcome = run(&settings, &mut running) => outcome,
        signal = signals.next() => {
            info!(signal, "stopping");
            Ok(())
        }
    };
    tokio::select! {
        () = running.stop() => {}
        signal = signals.next() => {
            // Leashes end what is left.
            info!(signal, "a second signal: not waiting any longer");
            exit(1);
        }
    }
    outcome
}

async fn run(settings: &Settings, running: &mut Running) -> anyhow::Result<()> {
    let (reserved, listen) = reserve(settings.listen)
        .with_context(|| format!("LISTEN {} can't be used", settings.listen))?;
    let (postgres, urls) = database::prepare(settings).await?;
    running.postgres = postgres;
    let owner = Database::parse(&urls.owner, "max-two")?;
    worker::seed(&owner, settings.users)
        .await
        .context("seeding")?;
    running.workers = Some(Fleet::start(workers(settings, &urls))?);
    first_round(&owner, &settings.schedule).await?;
    running.replicas = Some(Fleet::start(replicas(settings, listen, &urls))?);
    answered(listen).await?;
    println!("Max Two is ready: http://{listen}/");
    match running.postgres {
        Some(_) => println!("Its database: {}", urls.owner),
        // Its URL is known to whoever gave it, and may hold a password.
        None => println!("Its database: that of DATABASE_URL"),
    }
    // The port is the replicas' now, and stays reserved while one of them is started again.
    let _reserved = reserved;
    look_after(running.postgres.as_mut()).await
}

impl Running {
    /// Api, worker, Postgres.
    async fn stop(&mut self) {
        for fleet in [self.replicas.take(), self.workers.take()]
            .into_iter()
            .flatten()
        {
            fleet.stop().await;
        }
        if let Some(mut postgres) = self.postgres.take() {
            match spawn_blocking(move || postgres.stop()).await {
                Ok(()) => info!("Postgres has stopped"),
                Err(error) => error!("Postgres did not stop: {error}"),
            }
        }
    }
}

/// Takes the address, without listening on it, so that replicas can share it and nobody else can take it.
fn reserve(address: SocketAddr) -> io::Result<(Socket, SocketAddr)> {
    let bound = |address: SocketAddr, shared| {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(shared)?;
        socket.bind(&address.into())?;
        Ok::<_, io::Error>(socket)
    };
    // A socket that does not share finds out whether somebody else has the port, even one who would share it.
    drop(bound(address, false)?);
    let socket = bound(address, true)?;
    let address = socket
        .local_addr()?
        .as_socket()
        .expect("it was bound to one");
    Ok((socket, address))
}

/// The log format of this program, if it was chosen, is that of all.
fn log_format(settings: &Settings) -> Option<(&'static str, OsString)> {
    let format = settings.log_format?.to_possible_value()?;
    Some(("LOG_FORMAT", format.get_name().into()))
}

fn workers(settings: &Settings, urls: &Urls) -> impl Iterator<Item = Program> {
    let mut environment = vec![
        ("DATABASE_URL", urls.worker.clone().into()),
        ("ADMIN_LISTEN", ANY_PORT.into()),
        ("SCHEDULE", settings.schedule.to_string().into()),
    ];
    environment.extend(log_format(settings));
    (1..=settings.workers).map(move |number| Program {
        name: format!("worker {number}"),
        role: "worker",
        environment: environment.clone(),
    })
}

fn replicas(settings: &Settings, listen: SocketAddr, urls: &Urls) -> impl Iterator<Item = Program> {
    let mut environment = vec![
        ("DATABASE_URL", urls.api.clone().into()),
        ("LISTEN", listen.to_string().into()),
        ("REUSE_PORT", "true".into()),
        ("ADMIN_LISTEN", ANY_PORT.into()),
        // No load balancer has to be told.
        ("DRAIN_DELAY", "0s".into()),
    ];
    environment.extend(log_format(settings));
    (1..=settings.replicas).map(move |number| Program {
        name: format!("api replica {number}"),
        role: "api",
        environment: environment.clone(),
    })
}

/// Waits until the tick that is due now has been done, by whichever worker; if the schedule has had none, not at all.
async fn first_round(owner: &Database, schedule: &Schedule) -> anyhow::Result<()> {
    let mut connection = owner
        .connect(CONNECT)
        .await
        .context("reaching the database")?;
    let (now, _) = rounds::last_scheduled(&mut connection).await?;
    if let Some(due) = schedule.latest_tick(now) {
        info!(tick_at = %due, "waiting for the round that is due");
        while rounds::last_scheduled(&mut connection)
            .await?
            .1
            .is_none_or(|last| last.tick_at < due)
        {
            sleep(GLANCE).await;
        }
    }
    close(connection).await;
    Ok(())
}

/// Waits until a GET is answered. It asks for readiness, not for users: the first query ever is for somebody else.
async fn answered(listen: SocketAddr) -> anyhow::Result<()> {
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let url: Uri = format!("http://{listen}/readyz")
        .parse()
        .context("naming the replicas")?;
    while !client
        .get(url.clone())
        .await
        .is_ok_and(|response| response.status().is_success())
    {
        sleep(GLANCE).await;
    }
    Ok(())
}

/// Starts the private Postgres again whenever it has died, and tries until it runs. Never ends.
async fn look_after(mut postgres: Option<&mut Server>) -> anyhow::Result<()> {
    let mut look = interval(LOOK);
    loop {
        look.tick().await;
        if let Some(server) = &mut postgres
            && !server.is_running()
        {
            error!("Postgres died; starting it again");
            if let Err(error) = block_in_place(|| server.start_again()) {
                error!("{error}");
            }
        }
    }
}
