//! Users spread over the nodes of a Citus cluster, which is set up with the operators' script,
//! `deploy/citus/set-up`. `POSTGRES_BIN` names the folder of a Postgres' programs with Citus.

use std::sync::Arc;

use private_postgres::{Binaries, Server};
use shared::db::{Database, schema};
use shared::domain::rounds;
use testkit::{LOCK_ROUNDS, TEST_TIMEOUT, TestDatabase, TestProgram};
use tokio::sync::Mutex;

use crate::service::{start_process, wait_for_next_round};

const SET_UP: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../citus/set-up");
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

/// True if rounds were done one after the other, each over all users.
const ARE_ROUNDS_WHOLE: &str = "
    select bool_and(users_updated = 100000) and not bool_or(started_at < before_finished)
    from (
        select *, lag(finished_at) over (order by started_at) as before_finished from rounds
        where scheduled
    ) as rounds";

/// Starts a server that preloads Citus. Its database of this name may not exist yet.
async fn start_server(database: &str) -> TestDatabase {
    let server = Binaries::from_env()
        .and_then(|binaries| Server::start_temporary(&binaries, &SETTINGS))
        .unwrap_or_else(|error| {
            panic!("POSTGRES_BIN must name the programs of a Postgres with Citus: {error}")
        });
    TestDatabase::existing(Arc::new(Mutex::new(server)), database.to_owned()).await
}

/// Makes a cluster of the coordinator and these nodes, as the operators' page says, and adds users.
async fn make_cluster(coordinator: &mut TestDatabase, nodes: &[TestDatabase]) {
    let password = coordinator.server.lock().await.password().to_owned();
    let mut servers = vec![format!("127.0.0.1:{}", coordinator.port().await)];
    for node in nodes {
        servers.push(format!("127.0.0.1:{}", node.port().await));
        // The superuser has the same password everywhere.
        let set = format!("alter role postgres password '{password}'");
        node.run(&set).await;
    }
    for url in [
        &mut coordinator.owner_url,
        &mut coordinator.worker_url,
        &mut coordinator.api_url,
    ] {
        *url = url.replace(&password, PASSWORD[1]);
    }
    run_script(&servers, &password).await;
    let mut owner = coordinator.connect(&coordinator.owner_url).await;
    schema::migrate(&mut owner).await.unwrap();
    run_script(&servers, &password).await;
    let owner = Database::parse(&coordinator.owner_url, "test").unwrap();
    worker::seed(&owner, USERS).await.unwrap();
}

/// Runs the operators' script.
async fn run_script(servers: &[String], password: &str) {
    let environment = [
        ("PGPASSWORD", password),
        // The account of a test's servers has no .pgpass.
        ("STORED_SUPERUSER_PASSWORD", password),
        ("OWNER_PASSWORD", PASSWORD[0]),
        ("WORKER_PASSWORD", PASSWORD[0]),
        ("API_PASSWORD", PASSWORD[0]),
    ];
    let servers: Vec<_> = servers.iter().map(|server| &**server).collect();
    let mut script = TestProgram::start(SET_UP, &servers, environment);
    assert!(script.wait().await.success(), "{}", script.output());
}

/// Asserts that the tables hold all that one round wrote, and nothing of another.
async fn assert_one_round(database: &TestDatabase) {
    // No round starts meanwhile.
    let _paused = database
        .begin(&format!("set local lock_timeout = '1min'; {LOCK_ROUNDS}"))
        .await;
    // All nodes have committed the last one.
    database
        .wait_until(
            "select bool_and(success and result = '0') \
             from run_command_on_workers('select count(*) from pg_prepared_xacts')",
        )
        .await;
    let count = async |condition: &str| -> i64 {
        let query = format!("select count(*) from users where {condition}");
        database.value(&query).await
    };
    assert_eq!(
        count("updated_at = (select max(started_at) from rounds)").await,
        USERS
    );
    let qualifies = "points > (select min_points from settings)";
    let is_shown = "(select shown_users from settings) \
                    @> jsonb_build_array(jsonb_build_object('id', id, 'points', points))";
    let right = count(&format!("{qualifies} and {is_shown}")).await;
    assert_eq!(right, count(qualifies).await.min(2));
    let answer = database.replica_session().await.answer().await.unwrap();
    assert_eq!(usize::try_from(right).unwrap(), answer.users.len());
}

/// Kills a node between the two phases of a round's commit, and starts it again after that commit.
async fn kill_between_phases(coordinator: &TestDatabase, node: &TestDatabase) {
    // The coordinator's commit waits for a standby that does not exist.
    let hold = "set synchronous_standby_names = 'nobody'";
    coordinator.configure(hold).await;
    let is_held = "usename = 'max_two_worker' and wait_event = 'SyncRep'";
    coordinator.wait_for_session(is_held).await;
    let are_prepared = "select bool_and(result = 't') from run_command_on_workers( \
                        'select exists (select from pg_prepared_xacts)')";
    assert!(coordinator.value::<bool>(are_prepared).await);
    let before: i64 = coordinator.value("select count(*) from rounds").await;
    node.server.lock().await.crash();
    let release = "reset synchronous_standby_names";
    coordinator.configure(release).await;
    let is_committed = format!("select count(*) > {before} from rounds");
    coordinator.wait_until(&is_committed).await;
    node.server.lock().await.start().unwrap();
}

#[tokio::test]
#[ignore = "needs a Postgres with Citus"]
async fn with_users_spread_over_nodes_every_round_is_whole_also_when_a_node_dies_in_a_commit() {
    let mut coordinator = start_server("max_two").await;
    let nodes = [
        start_server("postgres").await,
        start_server("postgres").await,
    ];
    make_cluster(&mut coordinator, &nodes).await;
    let mut session = coordinator.connect(&coordinator.worker_url).await;
    for minimum in ["0", "99", "100"] {
        let minimum = minimum.parse().unwrap();
        let round = rounds::run_now(&mut session, minimum, TEST_TIMEOUT);
        round.await.unwrap();
        assert_one_round(&coordinator).await;
    }
    let workers = [0; 2].map(|_| start_process("worker", &coordinator.worker_url, &[]));
    for _ in 0..3 {
        wait_for_next_round(&coordinator).await;
    }
    kill_between_phases(&coordinator, &nodes[1]).await;
    wait_for_next_round(&coordinator).await;
    assert_one_round(&coordinator).await;
    assert!(coordinator.value::<bool>(ARE_ROUNDS_WHOLE).await);
    for mut worker in workers {
        assert!(worker.stop().await.success(), "{}", worker.output());
    }
}
