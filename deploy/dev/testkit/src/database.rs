//! A private Postgres for each test binary, and in it a fresh database for each test.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use private_postgres::{Binaries, Server, roles};
use shared::db::{Connection, Database, close};
use shared::{schema, users};
use sqlx::{AssertSqlSafe, Connection as _, raw_sql};
use tokio::sync::{Mutex, OnceCell};

const CONNECT: Duration = Duration::from_secs(30);
/// The migrated database that the tests' databases are copies of.
const TEMPLATE: &str = "template_max_two";

/// The server that the tests of this binary share. It ends with the process.
static SERVER: LazyLock<Arc<Mutex<Server>>> = LazyLock::new(|| Arc::new(Mutex::new(start(&[]))));
static SERVER_TEMPLATE: OnceCell<()> = OnceCell::const_new();

fn start(settings: &[&str]) -> Server {
    Binaries::find(None)
        .and_then(|binaries| Server::start_temporary(&binaries, settings))
        .unwrap_or_else(|error| panic!("{error}"))
}

/// A database with schema, roles and grants, that nobody else uses.
#[derive(Debug)]
pub struct TestDatabase {
    /// The server it is on; the tests' common one, unless the test needs to stop it.
    pub server: Arc<Mutex<Server>>,
    name: String,
    /// As the owner.
    pub owner: String,
    /// As the worker.
    pub worker: String,
    /// As the api.
    pub api: String,
    superuser: String,
}

impl TestDatabase {
    /// An empty one, on the common server.
    pub async fn new() -> Self {
        let server = Arc::clone(&SERVER);
        SERVER_TEMPLATE.get_or_init(|| make_template(&server)).await;
        Self::copy(server).await
    }

    /// An empty one, on a server of its own, which can be stopped and started.
    pub async fn with_own_server() -> Self {
        Self::on_own_server(&[]).await
    }

    /// An empty one, on a server of its own that waits for the disk, as the launcher's does: for measurements.
    pub async fn with_durable_server() -> Self {
        Self::on_own_server(&["fsync=on"]).await
    }

    async fn on_own_server(settings: &[&str]) -> Self {
        let server = Arc::new(Mutex::new(tokio::task::block_in_place(|| start(settings))));
        make_template(&server).await;
        Self::copy(server).await
    }

    /// One with the users 1 to `number`, who have no points yet.
    pub async fn with_users(number: i64) -> Self {
        let database = Self::new().await;
        database.seed(number).await;
        database
    }

    /// Adds the users 1 to `number`.
    pub async fn seed(&self, number: i64) {
        let mut connection = self.connect(&self.owner).await;
        users::seed(&mut connection, 1..=number)
            .await
            .expect("the owner may seed");
        close(connection).await;
    }

    async fn copy(server: Arc<Mutex<Server>>) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let running = server.lock().await;
        let url = |role| running.url(role, &name);
        let [owner, worker, api] = [roles::OWNER, roles::WORKER, roles::API].map(url);
        let superuser = url("postgres");
        let mut connection = connect(&running.url("postgres", "postgres")).await;
        raw_sql(AssertSqlSafe(format!(
            "create database {name} template {TEMPLATE} owner {}",
            roles::OWNER
        )))
        .execute(&mut connection)
        .await
        .expect("a superuser may make databases");
        close(connection).await;
        drop(running);
        Self {
            server,
            name,
            owner,
            worker,
            api,
            superuser,
        }
    }

    /// Its name on the server.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A session, by one of the URLs.
    pub async fn connect(&self, url: &str) -> Connection {
        connect(url).await
    }

    /// A session that may do anything.
    pub async fn superuser(&self) -> Connection {
        connect(&self.superuser).await
    }

    /// Runs statements as a superuser.
    pub async fn run(&self, statements: &str) {
        let mut connection = self.superuser().await;
        raw_sql(AssertSqlSafe(statements.to_owned()))
            .execute(&mut connection)
            .await
            .unwrap_or_else(|error| panic!("{statements}: {error}"));
        close(connection).await;
    }

    /// The single value that a query returns, read as a superuser.
    pub async fn value<T>(&self, query: &str) -> T
    where
        T: Send + Unpin + for<'row> sqlx::Decode<'row, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        let mut connection = self.superuser().await;
        let value = sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
            .fetch_one(&mut connection)
            .await
            .unwrap_or_else(|error| panic!("{query}: {error}"));
        close(connection).await;
        value
    }

    /// All values of a query's single column, read as a superuser.
    pub async fn values<T>(&self, query: &str) -> Vec<T>
    where
        T: Send + Unpin + for<'row> sqlx::Decode<'row, sqlx::Postgres> + sqlx::Type<sqlx::Postgres>,
    {
        let mut connection = self.superuser().await;
        let values = sqlx::query_scalar(AssertSqlSafe(query.to_owned()))
            .fetch_all(&mut connection)
            .await
            .unwrap_or_else(|error| panic!("{query}: {error}"));
        close(connection).await;
        values
    }

    /// Starts a standby of its server, which becomes a leader when it is promoted, and returns it with this database on
    /// it. It is part of every commit from now on.
    pub async fn standby(&self) -> Self {
        let server = self.server.lock().await;
        let standby = tokio::task::block_in_place(|| server.start_standby())
            .unwrap_or_else(|error| panic!("{error}"));
        drop(server);
        self.run("alter system set synchronous_standby_names = '*'")
            .await;
        self.run("select pg_reload_conf()").await;
        let url = |role| standby.url(role, &self.name);
        let [owner, worker, api] = [roles::OWNER, roles::WORKER, roles::API].map(url);
        let superuser = url("postgres");
        Self {
            server: Arc::new(Mutex::new(standby)),
            name: self.name.clone(),
            owner,
            worker,
            api,
            superuser,
        }
    }

    /// Makes its server, a standby, a leader.
    pub async fn promote(&self) {
        // Not by our own way, which refuses a standby.
        let mut connection = sqlx::PgConnection::connect(&self.superuser)
            .await
            .unwrap_or_else(|error| panic!("{}: {error}", self.superuser));
        raw_sql("select pg_promote()")
            .execute(&mut connection)
            .await
            .unwrap_or_else(|error| panic!("the promotion: {error}"));
    }
}

async fn make_template(server: &Mutex<Server>) {
    let server = server.lock().await;
    let mut connection = connect(&server.url("postgres", "postgres")).await;
    roles::create(&mut connection, server.password(), TEMPLATE)
        .await
        .expect("we are superuser");
    close(connection).await;
    let mut connection = connect(&server.url(roles::OWNER, TEMPLATE)).await;
    schema::migrate(&mut connection)
        .await
        .expect("the migrations fit an empty database");
    close(connection).await;
    let mut connection = connect(&server.url("postgres", TEMPLATE)).await;
    roles::grant(&mut connection)
        .await
        .expect("we are superuser");
    close(connection).await;
}

async fn connect(url: &str) -> Connection {
    Database::parse(url, "test")
        .expect("the URL is ours")
        .connect(CONNECT)
        .await
        .unwrap_or_else(|error| panic!("{url}: {error}"))
}
