//! Prepares the database: a private server's, or the one of `DATABASE_URL`.

use std::env;
use std::path::{Path, PathBuf};

use anyhow::Context;
use private_postgres::{Binaries, is_accessible, roles};
use shared::db::{Database, Session, schema};
use tokio::task::spawn_blocking;
use tracing::info;

use crate::postgres::Postgres;
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
pub(crate) async fn prepare(settings: &Settings, postgres: &mut Postgres) -> anyhow::Result<Urls> {
    if let Some(url) = &settings.database_url {
        let owner = Database::parse(url, "max-two")?;
        // It may be set for another project, in which this is about to create tables.
        info!("migrating and seeding the database of DATABASE_URL: {owner:?}");
        let mut session = connect(url).await?;
        let migrated = schema::migrate(&mut session).await;
        migrated.context("migrating the database")?;
        return Ok(Urls {
            owner: url.clone(),
            worker: url.clone(),
            api: url.clone(),
            folder: None,
        });
    }
    let folder = settings.data_dir.clone().map_or_else(default_folder, Ok)?;
    let (data, postgres_bin) = (folder.clone(), settings.postgres_bin.clone());
    let downloading = || info!("downloading Postgres, since none is installed");
    // On a thread of its own: a download may take long. A stop does not wait for it.
    let binaries =
        spawn_blocking(move || Binaries::find(postgres_bin.as_deref(), Some(&data), downloading))
            .await
            .context("finding Postgres")??;
    let program = binaries.program("postgres");
    info!("starting {} on {}", program.display(), folder.display());
    let server = postgres.start(folder, binaries).await?;
    (roles::set_up(server, DATABASE_NAME).await).context("setting up the database")?;
    server.write_url(roles::OWNER, DATABASE_NAME)?;
    Ok(Urls {
        owner: server.url(roles::OWNER, DATABASE_NAME),
        worker: server.url(roles::WORKER, DATABASE_NAME),
        api: server.url(roles::API, DATABASE_NAME),
        folder: Some(server.folder().to_owned()),
    })
}

/// Opens a session with the database.
pub(crate) async fn connect(url: &str) -> anyhow::Result<Session> {
    let database = Database::parse(url, "max-two")?;
    let connected = database.connect().await;
    connected.context("connecting to the database")
}

/// `.max-two` in the current folder. When root starts this in a folder that Postgres' account can't
/// enter, such as /root: a folder in /var/lib/max-two, named for the current one.
fn default_folder() -> anyhow::Result<PathBuf> {
    let current = env::current_dir().context("finding the current folder")?;
    let in_current = current.join(".max-two");
    if is_accessible(&in_current)? {
        return Ok(in_current);
    }
    let name = current.to_string_lossy()[1..].replace('/', "-");
    Ok(Path::new("/var/lib/max-two").join(name))
}
