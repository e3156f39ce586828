//! A private Postgres for each test binary, with a fresh database for each test.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use private_postgres::{Binaries, Server, roles};
use shared::db::{Database, Session};
use shared::domain::last_query::ChainSession;
use shared::domain::users;
use sqlx::{Connection as _, Decode, Postgres, Type};
use tokio::sync::{Mutex, OnceCell};
use tokio::task::block_in_place;

use crate::{eventually, sql};

/// Takes the lock of the rounds (`shared/src/domain/rounds/statements.rs`) until a transaction
/// ends.
pub const LOCK_ROUNDS: &str = "select pg_advisory_xact_lock(x'6d61782074776f'::bigint)";
/// The migrated database that the tests' databases are copied from.
const TEMPLATE: &str = "template_max_two";

/// The server that the tests of this binary share. It stops with the process.
static SERVER: OnceCell<Arc<Mutex<Server>>> = OnceCell::const_new();

/// Starts a server with these settings and with the template.
async fn start(settings: &[&str]) -> Arc<Mutex<Server>> {
    let server = Binaries::from_env()
        .and_then(|binaries| Server::start_temporary(&binaries, settings))
        .unwrap_or_else(|error| panic!("{error}"));
    let set_up = roles::set_up(&server, TEMPLATE).await;
    set_up.expect("a new server is set up");
    Arc::new(Mutex::new(server))
}

/// A database with schema, roles and grants, used by one test alone.
#[derive(Debug)]
pub struct TestDatabase {
    /// Its server: the shared one, or one of its own.
    pub server: Arc<Mutex<Server>>,
    /// Its name.
    pub name: String,
    /// The owner's URL.
    pub owner_url: String,
    /// The worker's URL.
    pub worker_url: String,
    /// The api's URL.
    pub api_url: String,
    superuser_url: String,
}

impl TestDatabase {
    /// An empty database on the shared server.
    pub async fn new() -> Self {
        let server = SERVER.get_or_init(|| start(&[])).await;
        Self::copy(Arc::clone(server)).await
    }

    /// An empty database on a server of its own with these settings, which the test may stop and
    /// start.
    pub async fn with_own_server(settings: &[&str]) -> Self {
        Self::copy(start(settings).await).await
    }

    /// A database on the shared server with the users 1 to `number`, with 0 points.
    pub async fn with_users(number: i64) -> Self {
        let database = Self::new().await;
        database.seed(number).await;
        database
    }

    /// Adds the users 1 to `number`.
    pub async fn seed(&self, number: i64) {
        let mut session = self.connect(&self.owner_url).await;
        let added = users::add_missing(&mut session, 1..=number).await;
        added.expect("the owner may seed");
    }

    async fn copy(server: Arc<Mutex<Server>>) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test_{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        let owner = roles::OWNER;
        let create = format!("create database {name} template {TEMPLATE} owner {owner}");
        let database = Self::existing(server, name).await;
        let url = database.server.lock().await.url("postgres", "postgres");
        let mut session = database.connect(&url).await;
        sql::run(&mut session, &create).await;
        database
    }

    /// The database of this name on this server.
    pub async fn existing(server: Arc<Mutex<Server>>, name: String) -> Self {
        let running = server.lock().await;
        let [owner_url, worker_url, api_url, superuser_url] =
            [roles::OWNER, roles::WORKER, roles::API, "postgres"]
                .map(|role| running.url(role, &name));
        drop(running);
        Self {
            server,
            name,
            owner_url,
            worker_url,
            api_url,
            superuser_url,
        }
    }

    /// Its server's port.
    pub async fn port(&self) -> u16 {
        self.server.lock().await.port()
    }

    /// A session at one of the URLs.
    pub async fn connect(&self, url: &str) -> Session {
        let database = Database::parse(url, "test").expect("the private server's URLs are valid");
        let session = database.connect().await;
        session.unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    /// A session of the api that answers queries, as a replica's session does.
    pub async fn replica_session(&self) -> ChainSession {
        ChainSession::new(self.connect(&self.api_url).await)
            .await
            .expect("the api may answer")
    }

    /// A superuser's session.
    pub async fn superuser(&self) -> Session {
        self.connect(&self.superuser_url).await
    }

    /// A superuser's session with an open transaction that has run these statements. It keeps its
    /// locks and its snapshot until it ends.
    pub async fn begin(&self, statements: &str) -> Session {
        let mut session = self.superuser().await;
        let begin = "set idle_in_transaction_session_timeout = 0; begin";
        sql::run(&mut session, &format!("{begin}; {statements}")).await;
        session
    }

    /// Whether a session of this database meets a condition on `pg_stat_activity`.
    pub async fn has_session(&self, condition: &str) -> bool {
        self.value(&format!(
            "select exists (select from pg_stat_activity \
             where datname = current_database() and {condition})"
        ))
        .await
    }

    /// Waits until [`Self::has_session`].
    pub async fn wait_for_session(&self, condition: &str) {
        eventually(condition, async || self.has_session(condition).await).await;
    }

    /// Waits until a query returns true to a superuser.
    pub async fn wait_until(&self, query: &str) {
        eventually(query, async || self.value(query).await).await;
    }

    /// Runs statements as a superuser.
    pub async fn run(&self, statements: &str) {
        sql::run(&mut self.superuser().await, statements).await;
    }

    /// The single value that a query returns to a superuser.
    pub async fn value<T>(&self, query: &str) -> T
    where
        T: Send + Unpin + for<'row> Decode<'row, Postgres> + Type<Postgres>,
    {
        sql::value(&mut self.superuser().await, query).await
    }

    /// Inserts a round that began at its tick. Both times are SQL expressions.
    pub async fn insert_round(&self, tick_at: &str, finished_at: &str) {
        self.run(&format!(
            "insert into rounds (tick_at, scheduled, started_at, finished_at, users_updated) \
             values ({tick_at}, true, {tick_at}, {finished_at}, 10)"
        ))
        .await;
    }

    /// Changes the configuration of its server by an `alter system` with this rest. It takes effect
    /// some time later.
    pub async fn configure(&self, change: &str) {
        self.run(&format!("alter system {change}")).await;
        self.run("select pg_reload_conf()").await;
    }

    /// Ends its server at once, like a crash, and starts it again.
    pub async fn crash_and_restart(&self) {
        let mut server = self.server.lock().await;
        server.crash();
        block_in_place(|| server.start()).expect("it starts");
    }

    /// Starts a synchronous standby of its server, and returns this database on the standby. From
    /// now on every commit waits for it. The server's open sessions end, so it must not be the
    /// shared one.
    pub async fn standby(&self) -> Self {
        let mut server = self.server.lock().await;
        let standby = block_in_place(|| server.start_standby()).expect("it starts");
        drop(server);
        self.configure("set synchronous_standby_names = '*'").await;
        Self::existing(Arc::new(Mutex::new(standby)), self.name.clone()).await
    }

    /// Promotes its server, which is a standby.
    pub async fn promote(&self) {
        // `Database::connect` would refuse a standby.
        let mut session = sqlx::PgConnection::connect(&self.superuser_url)
            .await
            .unwrap_or_else(|error| panic!("{}: {error}", self.superuser_url));
        sql::run(&mut session, "select pg_promote()").await;
    }
}
