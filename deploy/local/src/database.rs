//! Prepares the database: a private server's, or the one of `DATABASE_URL`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::{env, io};

use anyhow::Context;
use private_postgres::{Binaries, is_accessible, roles};
use shared::db::schema;
use shared::db::{Database, close};
use tokio::task::spawn_blocking;
use tracing::info;

use crate::CONNECT_TIMEOUT;
use crate::postgres::Postgres;
use crate::screen::{Screen, Step};
use crate::settings::Settings;

/// The database in the private server.
const DATABASE_NAME: &str = "max_two";

/// The database's URL for each role.
#[derive(Clone)]
pub(crate) struct Urls {
    pub(crate) owner: String,
    pub(crate) worker: String,
    pub(crate) api: String,
    /// The folder of a private server, with the file of the owner's URL.
    pub(crate) folder: Option<PathBuf>,
}

/// Starts a private server unless `DATABASE_URL` is set, and brings roles and schema up to date.
///
/// # Errors
/// When Postgres can't be started, connected to or migrated.
pub(crate) async fn prepare(
    settings: &Settings,
    screen: Screen,
    postgres: &mut Postgres,
) -> anyhow::Result<Urls> {
    if let Some(url) = &settings.database_url {
        let owner = Database::parse(url, "max-two")?;
        // It may be set for another project, in which this is about to create tables.
        info!(
            event = "database_url_used",
            database = ?owner,
            "migrating and seeding the database of DATABASE_URL"
        );
        let step = screen.begin("migrating the database of DATABASE_URL");
        migrate(&owner).await?;
        step.end("the schema is up to date");
        return Ok(Urls {
            owner: url.clone(),
            worker: url.clone(),
            api: url.clone(),
            folder: None,
        });
    }
    let folder = settings.data_dir.clone().map_or_else(default_folder, Ok)?;
    info!(directory = %folder.display(), "starting a private Postgres");
    let step = screen.begin("looking for Postgres");
    let binaries = find_binaries(folder.clone(), settings.postgres_bin.clone(), &step).await?;
    let program = binaries.program("postgres");
    step.end(&format!("Postgres is {}", program.display()));
    let step = screen.begin("starting Postgres");
    let is_new = !folder.join("cluster").exists();
    let server = postgres.start(folder, binaries).await?;
    let superuser = |database| Database::parse(&server.url("postgres", database), "max-two");
    let mut session = superuser("postgres")?.connect(CONNECT_TIMEOUT).await?;
    roles::create(&mut session, server.password(), DATABASE_NAME).await?;
    close(session).await;
    let urls = Urls {
        owner: server.url(roles::OWNER, DATABASE_NAME),
        worker: server.url(roles::WORKER, DATABASE_NAME),
        api: server.url(roles::API, DATABASE_NAME),
        folder: Some(server.folder().to_owned()),
    };
    server.write_url(roles::OWNER, DATABASE_NAME)?;
    migrate(&Database::parse(&urls.owner, "max-two")?).await?;
    let mut session = superuser(DATABASE_NAME)?.connect(CONNECT_TIMEOUT).await?;
    roles::grant(&mut session).await?;
    close(session).await;
    step.end(if is_new {
        "Postgres runs, with a new database"
    } else {
        "Postgres runs, and goes on with the data of an earlier start"
    });
    Ok(urls)
}

/// Finds or downloads Postgres on a thread of its own, since a download may take long.
async fn find_binaries(
    folder: PathBuf,
    postgres_bin: Option<PathBuf>,
    step: &Step,
) -> anyhow::Result<Binaries> {
    let step = step.clone();
    let is_logged = AtomicBool::new(false);
    let progress = move |done, all| {
        step.download(done, all);
        if !is_logged.swap(true, Ordering::Relaxed) {
            info!(bytes = all, "downloading Postgres");
        }
    };
    spawn_blocking(move || Binaries::find_for(&folder, postgres_bin.as_deref(), &progress))
        .await
        .context("finding Postgres")?
        .map_err(anyhow::Error::from)
}

async fn migrate(owner: &Database) -> anyhow::Result<()> {
    let mut session = owner
        .connect(CONNECT_TIMEOUT)
        .await
        .context("connecting to the database")?;
    schema::migrate(&mut session)
        .await
        .context("migrating the database")?;
    close(session).await;
    Ok(())
}

/// `.max-two` in the current folder. When root starts this in a folder that Postgres' account can't
/// enter, such as /root: a folder in /var/lib/max-two, named for the current one.
fn default_folder() -> anyhow::Result<PathBuf> {
    let current = env::current_dir().context("finding the current folder")?;
    let in_current = current.join(".max-two");
    if is_accessible(&in_current.join("cluster"))? {
        return Ok(in_current);
    }
    let folder = Path::new("/var/lib/max-two").join(folder_name(&current)?);
    info!(directory = %folder.display(), "Postgres' account can't enter the current folder; using another data directory");
    Ok(folder)
}

/// A folder's path with `-` in place of `/`.
fn folder_name(folder: &Path) -> io::Result<String> {
    let path = folder.canonicalize()?;
    Ok(path
        .to_string_lossy()
        .trim_start_matches('/')
        .replace('/', "-"))
}
