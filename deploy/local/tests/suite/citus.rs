//! Users spread over the nodes of a Citus cluster, which is set up with the operators' script,
//! `deploy/citus/set-up`. `POSTGRES_BIN` names the folder of a Postgres' programs with Citus.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use private_postgres::{Binaries, Server, roles};
use serde_json::Value as Json;
use shared::db::{Database, Session};
use testkit::sql::{self, run, value};
use testkit::{Client, Program, eventually};
use tokio::task::{JoinHandle, block_in_place};

use crate::service::{EXECUTABLE, connected, replica, worker};

const SET_UP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../citus/set-up");
const DATABASE: &str = "max_two";
const USERS: i64 = 100_000;
/// The password of the roles, with all that has to be escaped somewhere, and how a URL spells it.
const PASSWORD: [&str; 2] = [r"o'w\n %@", "o%27w%5Cn%20%25%40"];
const SETTINGS: [&str; 3] = [
    "shared_preload_libraries=citus",
    // A minute by default, as long as `eventually` waits.
    "citus.recover_2pc_interval=5s",
    // With TLS, libpq would look for a certificate in the home of the account that runs the test.
    "citus.node_conninfo=sslmode=disable",
];

/// Records every choice. `users` is distributed, and can't have the checker's triggers.
const AUDIT: &str = "
    create schema audit;
    create table audit.choices (number bigserial primary key, users jsonb not null);
    create function audit.choice() returns trigger language plpgsql security definer as $$
    begin
        insert into audit.choices (users) values (new.shown_users);
        return null;
    end
    $$;
    create trigger audit after update on settings for each row execute function audit.choice();
    update settings set min_points = min_points;";

/// True if rounds were done one after the other, each over all users.
const ARE_ROUNDS_WHOLE: &str = "
    select bool_and(users_updated = 100000) and not bool_or(started_at < before_finished)
    from (
        select *, lag(finished_at) over (order by started_at) as before_finished from rounds
        where scheduled
    ) as rounds";

struct Cluster {
    coordinator: Server,
    nodes: Vec<Server>,
    /// A superuser's, on the coordinator.
    session: Session,
}

impl Cluster {
    /// A coordinator and this many nodes, as the page sets them up, with users and an audit.
    async fn start(nodes: usize) -> Self {
        let coordinator = start_server();
        let nodes: Vec<_> = (0..nodes).map(|_| start_server()).collect();
        for node in &nodes {
            // The superuser has the same password everywhere.
            let set = format!("alter role postgres password '{}'", coordinator.password());
            run(&mut connect(&node.url("postgres", "postgres")).await, &set).await;
        }
        let mut cluster = Self {
            session: connect(&coordinator.url("postgres", "postgres")).await,
            coordinator,
            nodes,
        };
        cluster.set_up().await;
        cluster.job(roles::OWNER, &["migrate"]).await;
        cluster.set_up().await;
        let seed = ["seed", "--users", &USERS.to_string()];
        cluster.job(roles::OWNER, &seed).await;
        cluster.session = connect(&cluster.coordinator.url("postgres", DATABASE)).await;
        run(&mut cluster.session, AUDIT).await;
        // When a test holds commits, replicas do not wait.
        let local = "alter role max_two_api in database max_two set synchronous_commit = local";
        run(&mut cluster.session, local).await;
        cluster
    }

    /// Runs the operators' script.
    async fn set_up(&self) {
        let password = self.coordinator.password();
        let environment = [
            ("PGPASSWORD", password),
            // The account of a test's servers has no .pgpass.
            ("STORED_SUPERUSER_PASSWORD", password),
            ("OWNER_PASSWORD", PASSWORD[0]),
            ("WORKER_PASSWORD", PASSWORD[0]),
            ("API_PASSWORD", PASSWORD[0]),
        ];
        let servers = [&self.coordinator].into_iter().chain(&self.nodes);
        let addresses: Vec<_> = servers
            .map(|server| format!("127.0.0.1:{}", server.port()))
            .collect();
        let addresses: Vec<_> = addresses.iter().map(|address| &**address).collect();
        let mut script = Program::start(SET_UP, &addresses, environment);
        assert!(script.wait().await.success(), "{}", script.output());
    }

    fn url(&self, role: &str) -> String {
        let url = self.coordinator.url(role, DATABASE);
        url.replace(self.coordinator.password(), PASSWORD[1])
    }

    /// Runs a command of the worker to its end, which must be successful.
    async fn job(&self, role: &str, arguments: &[&str]) {
        let url = self.url(role);
        let environment = [("DATABASE_URL", &*url)];
        let mut program =
            Program::start(EXECUTABLE, &[&["worker"], arguments].concat(), environment);
        assert!(program.wait().await.success(), "{}", program.output());
    }

    /// The single value that a query on the coordinator returns.
    async fn value<T: sql::Value>(&mut self, query: &str) -> T {
        value(&mut self.session, query).await
    }

    /// Waits until a query on the coordinator returns true.
    async fn wait_until(&mut self, query: &str) {
        let session = &mut self.session;
        eventually(query, async || value(session, query).await).await;
    }

    /// Waits until this many more rounds are done.
    async fn wait_for_rounds(&mut self, number: i64) {
        let before: i64 = self.value("select count(*) from rounds").await;
        let query = format!("select count(*) >= {} from rounds", before + number);
        self.wait_until(&query).await;
    }

    /// Keeps rounds from starting until the result is dropped, and waits until all nodes have
    /// committed the last one.
    async fn pause_rounds(&mut self) -> Session {
        let mut lock = connect(&self.coordinator.url("postgres", DATABASE)).await;
        // The key of the rounds' lock (`shared/src/domain/rounds/statements.rs`).
        let take = "set lock_timeout = '1min'; select pg_advisory_lock(x'6d61782074776f'::bigint)";
        run(&mut lock, take).await;
        self.wait_until(
            "select bool_and(success and result = '0') \
             from run_command_on_workers('select count(*) from pg_prepared_xacts')",
        )
        .await;
        lock
    }

    /// Asserts that the tables hold all that one round wrote, and nothing of another.
    async fn assert_one_round(&mut self) {
        let _paused = self.pause_rounds().await;
        let choice = "select users from audit.choices order by number desc limit 1";
        let choice: Json = self.value(choice).await;
        let mut count = async |condition: &str| -> i64 {
            let query = format!("select count(*) from users where {condition}");
            self.value(&query).await
        };
        let is_new = "updated_at = (select max(started_at) from rounds)";
        assert_eq!(count(is_new).await, USERS);
        let qualifies = "points > (select min_points from settings)";
        let shown = choice.as_array().unwrap();
        let qualifying = usize::try_from(count(qualifies).await).unwrap();
        assert_eq!(shown.len(), qualifying.min(2));
        for user in shown {
            let (id, points) = (&user["id"], &user["points"]);
            let is_current = format!("id = {id} and points = {points} and {qualifies}");
            assert_eq!(count(&is_current).await, 1, "{choice}");
        }
    }

    async fn configure(&mut self, statement: &str) {
        run(&mut self.session, statement).await;
        run(&mut self.session, "select pg_reload_conf()").await;
    }

    /// Kills a node between the two phases of a commit: all nodes have prepared, and the commit of
    /// the coordinator waits for a standby that does not exist. Returns when that is committed.
    async fn kill_node_between_phases(&mut self, node: usize) {
        let before: i64 = self.value("select count(*) from rounds").await;
        let hold = "alter system set synchronous_standby_names = 'nobody'";
        self.configure(hold).await;
        self.wait_until(
            "select exists (select from pg_stat_activity \
             where usename = 'max_two_worker' and wait_event = 'SyncRep')",
        )
        .await;
        let are_prepared = "select bool_and(result = 't') from run_command_on_workers( \
                            'select exists (select from pg_prepared_xacts)')";
        assert!(self.value::<bool>(are_prepared).await);
        // The old session keeps connections to the nodes.
        self.session = connect(&self.coordinator.url("postgres", DATABASE)).await;
        block_in_place(|| self.nodes[node].crash());
        let release = "alter system reset synchronous_standby_names";
        self.configure(release).await;
        let is_done = format!("select count(*) > {before} from rounds");
        self.wait_until(&is_done).await;
    }
}

fn start_server() -> Server {
    let binaries = Binaries::of_environment().unwrap();
    block_in_place(|| Server::start_temporary(&binaries, &SETTINGS)).unwrap_or_else(|error| {
        panic!("POSTGRES_BIN must name the programs of a Postgres with Citus: {error}")
    })
}

async fn connect(url: &str) -> Session {
    let database = Database::parse(url, "test").unwrap();
    database.connect(Duration::from_secs(30)).await.unwrap()
}

/// A client that queries without a pause until `stop`, and gets an answer each time.
fn start_client(client: Client, stop: &Arc<AtomicBool>) -> JoinHandle<Vec<Json>> {
    let stop = Arc::clone(stop);
    tokio::spawn(async move {
        let mut answers = Vec::new();
        while !stop.load(Ordering::Relaxed) {
            let reply = client.get("/").await;
            assert_eq!(reply.status, 200, "{}", reply.body);
            answers.push(reply.json());
        }
        answers
    })
}

/// Asserts that each answer shows a choice, and none that is older than the one before, nor an
/// older time. `choices` is all choices in order.
fn assert_in_order(answers: &[Json], choices: &[Json]) {
    assert!(!answers.is_empty());
    assert!(answers.is_sorted_by_key(|answer| answer["timestamp"].as_str()));
    let mut choices = choices.iter().peekable();
    for answer in answers {
        let is_other = |users: &&Json| **users != answer["users"];
        while choices.next_if(is_other).is_some() {}
        assert!(choices.peek().is_some(), "wrong or older: {answer}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs a Postgres with Citus"]
async fn with_users_spread_over_nodes_every_promise_is_kept_also_when_a_node_dies_in_a_commit() {
    let mut cluster = Cluster::start(2).await;
    let mut programs: Vec<_> = (0..2)
        .map(|_| worker(&cluster.url(roles::WORKER), &[]))
        .collect();
    let mut answering = replica(&cluster.url(roles::API));
    let client = connected(&mut answering).await;
    programs.push(answering);
    let stop = Arc::default();
    let clients = [0, 1].map(|_| start_client(client.clone(), &stop));
    cluster.wait_for_rounds(3).await;
    for minimum in ["0", "99", "100"] {
        let round = ["round", "--min-points", minimum];
        cluster.job(roles::WORKER, &round).await;
        cluster.assert_one_round().await;
    }
    cluster.kill_node_between_phases(1).await;
    block_in_place(|| cluster.nodes[1].start_again()).unwrap();
    cluster.wait_for_rounds(2).await;
    cluster.assert_one_round().await;

    stop.store(true, Ordering::Relaxed);
    let choices = "select jsonb_agg(users order by number) from audit.choices";
    let choices: Json = cluster.value(choices).await;
    for client in clients {
        assert_in_order(&client.await.unwrap(), choices.as_array().unwrap());
    }
    assert!(cluster.value::<bool>(ARE_ROUNDS_WHOLE).await);
    for mut program in programs {
        assert!(program.stop().await.success(), "{}", program.output());
    }
}
