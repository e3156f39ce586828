//! A Citus cluster on this machine: empty servers that preload Citus, set up as operators do.

use std::fs;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use private_postgres::{Binaries, Server, postgres_variables, roles};
use shared::db::Session;
use sqlx::ConnectOptions;
use sqlx::postgres::{PgConnectOptions, PgSslMode};
use testkit::sql::{self, run, value};
use testkit::{Client, Program, eventually};
use tokio::process::Command;
use tokio::task::block_in_place;

use crate::{EVERY_SECOND, EXECUTABLE};

/// The script that operators run.
const SET_UP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../citus/set-up");
const DATABASE: &str = "max_two";
/// The password of the roles, with all that has to be escaped somewhere.
const PASSWORD: &str = r"o'w\n %@";
const SETTINGS: [&str; 2] = [
    // A minute by default, as long as `eventually` waits.
    "citus.recover_2pc_interval=5s",
    // With TLS, libpq would look for a certificate in the home of the account that runs the test.
    "citus.node_conninfo=sslmode=disable",
];
/// The key of the rounds' advisory lock (`shared/src/domain/rounds/statements.rs`).
const LOCK_KEY: i64 = 0x6d_6178_2074_776f;

/// A coordinator and its nodes.
pub(crate) struct Cluster {
    coordinator: Server,
    nodes: Vec<Server>,
    shards: u16,
    /// A superuser's, on the coordinator.
    session: Option<Session>,
}

impl Cluster {
    /// Starts empty servers, and sets up all but the last `spare` nodes.
    pub(crate) async fn start(nodes: usize, spare: usize, shards: u16) -> Self {
        let coordinator = start_server(&SETTINGS);
        let nodes: Vec<_> = (0..nodes).map(|_| start_server(&SETTINGS)).collect();
        for node in &nodes {
            // The superuser has the same password everywhere.
            let mut session = connect(node, node.password(), "postgres").await;
            let password = coordinator.password();
            run(
                &mut session,
                &format!("alter role postgres password '{password}'"),
            )
            .await;
        }
        let cluster = Self {
            coordinator,
            nodes,
            shards,
            session: None,
        };
        let used = cluster.nodes.len() - spare;
        cluster.set_up(used).await;
        cluster.job(roles::OWNER, &["worker", "migrate"]).await;
        cluster.set_up(used).await;
        cluster
    }

    /// Runs the operators' script for this many of the nodes.
    pub(crate) async fn set_up(&self, nodes: usize) {
        let mut command = Command::new(SET_UP);
        for variable in postgres_variables() {
            command.env_remove(variable);
        }
        command
            .env("PGPASSWORD", self.coordinator.password())
            .env("SHARDS", self.shards.to_string());
        for variable in ["OWNER_PASSWORD", "WORKER_PASSWORD", "API_PASSWORD"] {
            command.env(variable, PASSWORD);
        }
        command.arg(address(&self.coordinator));
        command.args(self.nodes[..nodes].iter().map(address));
        let mut script = Program::spawn(command);
        let status = script.wait().await;
        let output = script.output();
        assert!(status.success(), "{output}");
        let is_expected =
            |line: &str| line.contains(" shards of users") || line.contains("migrate");
        assert!(output.lines().all(is_expected), "{output}");
    }

    /// Starts one of the programs with the URL of this role.
    fn program(&self, role: &str, arguments: &[&str], environment: &[(&str, &str)]) -> Program {
        let url = options(&self.coordinator, PASSWORD, DATABASE)
            .username(role)
            .to_url_lossy();
        let common = [
            ("DATABASE_URL", url.as_str()),
            ("ADMIN_LISTEN", "127.0.0.1:0"),
            ("LOG_FORMAT", "json"),
        ];
        Program::start(
            EXECUTABLE,
            arguments,
            common.iter().chain(environment).copied(),
        )
    }

    /// Runs a program to its end, which must be successful.
    pub(crate) async fn job(&self, role: &str, arguments: &[&str]) {
        let mut program = self.program(role, arguments, &[]);
        assert!(program.wait().await.success(), "{}", program.output());
    }

    /// A worker with a tick every second.
    pub(crate) fn worker(&self, environment: &[(&str, &str)]) -> Program {
        let common = [
            ("SCHEDULE", EVERY_SECOND),
            ("COOLDOWN", "0s"),
            ("ROUND_TIMEOUT", "20s"),
        ];
        let environment: Vec<_> = common.iter().chain(environment).copied().collect();
        self.program(roles::WORKER, &["worker"], &environment)
    }

    /// A replica that answers. A machine that also runs all servers may take longer than a second.
    pub(crate) async fn replica(&self) -> (Program, Client) {
        let environment = [
            ("LISTEN", "127.0.0.1:0"),
            ("DRAIN_DELAY", "0s"),
            ("REQUEST_TIMEOUT", "10s"),
        ];
        let mut program = self.program(roles::API, &["api"], &environment);
        program.wait_for_event("database_connected").await;
        let client = Client::new(program.address("listen").await);
        (program, client)
    }

    /// A superuser's session on the coordinator.
    pub(crate) async fn session(&mut self) -> &mut Session {
        if self.session.is_none() {
            self.session = Some(self.connect().await);
        }
        self.session.as_mut().unwrap()
    }

    async fn connect(&self) -> Session {
        connect(&self.coordinator, self.coordinator.password(), DATABASE).await
    }

    async fn connect_to_node(&self, node: usize) -> Session {
        connect(&self.nodes[node], self.coordinator.password(), DATABASE).await
    }

    /// Runs statements on the coordinator.
    pub(crate) async fn run(&mut self, statements: &str) {
        run(self.session().await, statements).await;
    }

    /// The single value that a query on the coordinator returns.
    pub(crate) async fn value<T: sql::Value>(&mut self, query: &str) -> T {
        value(self.session().await, query).await
    }

    /// Waits until a query on the coordinator returns true.
    pub(crate) async fn wait_until(&mut self, query: &str) {
        let session = self.session().await;
        eventually(query, async || value(session, query).await).await;
    }

    /// Waits until a query on a node returns true.
    pub(crate) async fn wait_until_node(&self, node: usize, query: &str) {
        let mut session = self.connect_to_node(node).await;
        eventually(query, async || value(&mut session, query).await).await;
    }

    /// Waits until this many more rounds are done.
    pub(crate) async fn wait_for_rounds(&mut self, number: i64) {
        let before: i64 = self.value("select count(*) from rounds").await;
        self.wait_until(&format!(
            "select count(*) >= {} from rounds",
            before + number
        ))
        .await;
    }

    /// Keeps rounds from starting, and waits until all nodes have committed the last one.
    pub(crate) async fn pause_rounds(&mut self) -> Session {
        let mut lock = self.connect().await;
        run(&mut lock, "set lock_timeout = '1min'").await;
        run(&mut lock, &format!("select pg_advisory_lock({LOCK_KEY})")).await;
        self.wait_until(
            "select bool_and(success and result = '0') \
             from run_command_on_workers('select count(*) from pg_prepared_xacts')",
        )
        .await;
        lock
    }

    /// Locks a user on this node, so that a round waits there, and waits until one does.
    pub(crate) async fn hold_round_on(&mut self, node: usize) -> Session {
        let port = self.nodes[node].port();
        let shard: i64 = self
            .value(&format!(
                "select min(shardid) from citus_shards where nodeport = {port}"
            ))
            .await;
        let mut session = self.connect_to_node(node).await;
        run(
            &mut session,
            &format!("begin; select from users_{shard} limit 1 for update"),
        )
        .await;
        self.wait_until_node(
            node,
            "select exists ( \
                 select from pg_stat_activity \
                 where usename = 'max_two_worker' and wait_event_type = 'Lock' \
             )",
        )
        .await;
        session
    }

    /// Holds a round between its two phases, and waits until one is there: all nodes have prepared,
    /// the coordinator's commit waits for a standby that does not exist.
    pub(crate) async fn hold_round_between_phases(&mut self) {
        self.run("alter system set synchronous_standby_names = 'nobody'")
            .await;
        self.run("select pg_reload_conf()").await;
        self.wait_until(
            "select exists ( \
                 select from pg_stat_activity \
                 where usename = 'max_two_worker' and wait_event = 'SyncRep' \
             )",
        )
        .await;
        for node in 0..self.nodes.len() {
            self.wait_until_node(node, "select exists (select from pg_prepared_xacts)")
                .await;
        }
    }

    /// Lets the round go on.
    pub(crate) async fn release_round(&mut self) {
        self.run("alter system reset synchronous_standby_names")
            .await;
        self.run("select pg_reload_conf()").await;
    }

    /// Ends a node at once, like a crash.
    pub(crate) fn crash_node(&mut self, node: usize) {
        // It keeps a connection to each node.
        self.session = None;
        block_in_place(|| self.nodes[node].crash());
    }

    /// Starts a node again.
    pub(crate) fn start_node(&mut self, node: usize) {
        block_in_place(|| self.nodes[node].start_again()).unwrap();
    }

    /// Ends the coordinator at once, like a crash, and starts it again.
    pub(crate) fn crash_coordinator(&mut self) {
        self.session = None;
        block_in_place(|| {
            self.coordinator.crash();
            self.coordinator.start_again()
        })
        .unwrap();
    }

    /// Stops all processes of a node, until the result is dropped.
    pub(crate) async fn stop_node(&self, node: usize) -> Stopped {
        let mut session = self.connect_to_node(node).await;
        let pid_file: String = value(&mut session, "select pg_read_file('postmaster.pid')").await;
        Stopped::new(Pid::from_raw(
            pid_file.lines().next().unwrap().parse().unwrap(),
        ))
    }
}

/// A server whose processes are all stopped. Dropping it continues them.
pub(crate) struct Stopped(Vec<Pid>);

impl Stopped {
    fn new(postmaster: Pid) -> Self {
        // First the postmaster, so that it starts no more.
        kill(postmaster, Signal::SIGSTOP).unwrap();
        let children = format!("/proc/{postmaster}/task/{postmaster}/children");
        let children = fs::read_to_string(children).unwrap();
        let children = children
            .split_whitespace()
            .map(|id| Pid::from_raw(id.parse().unwrap()));
        let processes: Vec<_> = children.chain([postmaster]).collect();
        for &process in &processes {
            // One may have ended.
            let _ = kill(process, Signal::SIGSTOP);
        }
        Self(processes)
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        for &process in &self.0 {
            let _ = kill(process, Signal::SIGCONT);
        }
    }
}

/// Starts an empty server that preloads Citus.
pub(crate) fn start_server(settings: &[&str]) -> Server {
    let binaries = Binaries::of_environment().unwrap();
    let settings = [&["shared_preload_libraries=citus"], settings].concat();
    block_in_place(|| Server::start_temporary(&binaries, &settings)).unwrap_or_else(|error| {
        panic!("POSTGRES_BIN must name the programs of a Postgres with Citus: {error}")
    })
}

fn address(server: &Server) -> String {
    format!("127.0.0.1:{}", server.port())
}

fn options(server: &Server, password: &str, database: &str) -> PgConnectOptions {
    PgConnectOptions::new_without_pgpass()
        .host("127.0.0.1")
        .port(server.port())
        .username("postgres")
        .password(password)
        .database(database)
        .ssl_mode(PgSslMode::Disable)
        .disable_statement_logging()
}

pub(crate) async fn connect(server: &Server, password: &str, database: &str) -> Session {
    options(server, password, database).connect().await.unwrap()
}
