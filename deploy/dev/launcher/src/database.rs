//! The database that everything meets in: a private one, or that of `DATABASE_URL`.

use std::path::{Path, PathBuf};
use std::time::Duration;
use std::{env, io};

use anyhow::Context;
use private_postgres::{Binaries, Server, is_accessible, roles};
use shared::db::{Database, close};
use shared::schema;
use tokio::task::spawn_blocking;
use tracing::info;

use crate::settings::Settings;

/// How long the database may take to be reached at the start.
const CONNECT: Duration = Duration::from_secs(10);
/// The name of the private server's database.
const NAME: &str = "max_two";

/// The URL of the same database for each of the roles.
#[derive(Clone)]
pub(crate) struct Urls {
    pub(crate) owner: String,
    pub(crate) worker: String,
    pub(crate) api: String,
}

/// Makes the database ready: started if it is ours, with the roles and the schema.
///
/// # Errors
/// When there is no Postgres, or it refuses.
pub(crate) async fn prepare(settings: &Settings) -> anyhow::Result<(Option<Server>, Urls)> {
    if let Some(url) = &settings.database_url {
        let owner = Database::parse(url, "max-two")?;
        migrate(&owner).await?;
        let urls = Urls {
            owner: url.clone(),
            worker: url.clone(),
            api: url.clone(),
        };
        return Ok((None, urls));
    }
    let directory = settings
        .data_dir
        .clone()
        .map_or_else(default_directory, Ok)?;
    info!(directory = %directory.display(), "starting a private Postgres");
    let binaries = settings.postgres_bin.clone();
    // Beside this task, which may be asked to stop meanwhile.
    let server = spawn_blocking(move || {
        let binaries = Binaries::find(binaries.as_deref())?;
        Server::start(&directory, &binaries)
    })
    .await
    .context("starting Postgres")??;
    let superuser = |database| Database::parse(&server.url("postgres", database), "max-two");
    let mut connection = superuser("postgres")?.connect(CONNECT).await?;
    roles::create(&mut connection, server.password(), NAME).await?;
    close(connection).await;
    let urls = Urls {
        owner: server.url(roles::OWNER, NAME),
        worker: server.url(roles::WORKER, NAME),
        api: server.url(roles::API, NAME),
    };
    migrate(&Database::parse(&urls.owner, "max-two")?).await?;
    let mut connection = superuser(NAME)?.connect(CONNECT).await?;
    roles::grant(&mut connection).await?;
    close(connection).await;
    Ok((Some(server), urls))
}

async fn migrate(owner: &Database) -> anyhow::Result<()> {
    let mut connection = owner
        .connect(CONNECT)
        .await
        .context("reaching the database")?;
    schema::migrate(&mut connection)
        .await
        .context("migrating the database")?;
    close(connection).await;
    Ok(())
}

/// `.max-two` in the current folder. Where root starts this in a folder of its own, as in /root, Postgres' account can't
/// enter that: then a folder for this one in /var/lib/max-two.
fn default_directory() -> anyhow::Result<PathBuf> {
    let current = env::current_dir().context("finding the current folder")?;
    let here = current.join(".max-two");
    if is_accessible(&here.join("cluster"))? {
        return Ok(here);
    }
    let elsewhere = Path::new("/var/lib/max-two").join(name_of(&current)?);
    info!(directory = %elsewhere.display(), "Postgres' account can't enter the current folder");
    Ok(elsewhere)
}

/// A name for a folder's own data: its path, in one word.
fn name_of(folder: &Path) -> io::Result<String> {
    let path = folder.canonicalize()?;
    Ok(path
        .to_string_lossy()
        .trim_start_matches('/')
        .replace('/', "-"))
}
