//! Many queries of several replicas, while rounds follow each other without a pause.

use shared::domain::rounds;
use testkit::{Checker, TEST_TIMEOUT, TestDatabase};
use tokio::task::JoinSet;

use crate::service::{connected, start_process};

const REPLICAS: usize = 3;
const CLIENTS_PER_REPLICA: usize = 32;
const REQUESTS: usize = 100_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_answers_around_rounds_form_one_chain_and_show_the_users_of_their_place()
{
    // Replicas wait for the row while another's commit waits for the disk.
    let database = TestDatabase::with_own_server(&["fsync=on"]).await;
    database.seed(1_000).await;
    let checker = Checker::install(&database).await;
    let mut replicas = [0; REPLICAS].map(|_| start_process("api", &database.api_url, &[]));
    let mut requests = JoinSet::new();
    for replica in &mut replicas {
        let client = connected(replica).await;
        for _ in 0..CLIENTS_PER_REPLICA {
            let (checker, client) = (checker.clone(), client.clone());
            requests.spawn(async move {
                for _ in 0..REQUESTS.div_ceil(REPLICAS * CLIENTS_PER_REPLICA) {
                    assert_eq!(checker.query(&client).await, Some(200));
                }
            });
        }
    }
    let mut worker = database.connect(&database.worker_url).await;
    while !requests.is_empty() {
        // With this minimum, every round chooses two users.
        let minimum = "0".parse().unwrap();
        rounds::run_now(&mut worker, minimum, TEST_TIMEOUT)
            .await
            .unwrap();
        while let Some(ended) = requests.try_join_next() {
            ended.unwrap();
        }
    }
    for mut replica in replicas {
        assert!(replica.stop().await.success(), "{}", replica.output());
    }
    let (rounds, answers) = checker.assert_clean(&database).await;
    assert!(answers >= REQUESTS && rounds > 50);
}
