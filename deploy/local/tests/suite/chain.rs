//! Many queries of several replicas, while rounds follow each other without a pause.

use shared::domain::users::Layout;
use shared::domain::{MinPoints, rounds};
use testkit::{Checker, TEST_TIMEOUT, TestDatabase};
use tokio::task::JoinSet;

use crate::service::Service;

const REPLICAS: usize = 3;
const CLIENTS: usize = 96;
const REQUESTS: usize = 100_000;

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_answers_around_rounds_form_one_chain_and_show_the_users_of_their_place()
{
    // Replicas wait for the row while another's commit waits for the disk.
    let database = TestDatabase::with_durable_server().await;
    database.seed(1_000).await;
    let checker = Checker::install(&database).await;
    let mut service = Service::start(&database, &[database.port().await], 0, REPLICAS).await;
    let mut requests = JoinSet::new();
    for number in 0..CLIENTS {
        let (checker, client) = (checker.clone(), service.client(number % REPLICAS));
        requests.spawn(async move {
            for _ in 0..REQUESTS.div_ceil(CLIENTS) {
                assert_eq!(checker.query(&client).await, Some(200));
            }
        });
    }
    let mut worker = database.connect(&database.worker).await;
    // Every round then chooses other users.
    let minimum: MinPoints = "0".parse().unwrap();
    let mut rounds = 0;
    while !requests.is_empty() {
        rounds::run_now(&mut worker, Layout::SingleNode, minimum, TEST_TIMEOUT)
            .await
            .unwrap();
        rounds += 1;
        while let Some(ended) = requests.try_join_next() {
            ended.unwrap();
        }
    }
    service.stop().await;
    let report = checker.report(&database).await;
    assert!(report.is_clean(), "{report}");
    assert!(
        report.answers >= REQUESTS && report.error_responses == 0,
        "{report}"
    );
    assert_eq!(report.rounds, rounds);
    assert!(rounds > 50, "{report}");
}
