//! Answers and the synchronous standby: what an answer waits for, and what a failover keeps.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::{TestDatabase, eventually};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_waits_for_the_standby_but_the_next_query_does_not_wait_for_the_answer() {
    let primary = TestDatabase::with_own_server().await;
    let standby = primary.standby().await;
    let mut first = primary.replica_session().await;
    let mut second = primary.replica_session().await;
    first.answer().await.unwrap();
    second.answer().await.unwrap();
    first.answer().await.unwrap();
    let answered = second.answer().await.unwrap();
    // Nothing reaches the standby any more.
    let walsender = primary.value("select pid from pg_stat_replication").await;
    let walsender = Pid::from_raw(walsender);
    kill(walsender, Signal::SIGSTOP).unwrap();
    let unanswered = [first, second].map(|mut session| {
        tokio::spawn(async move {
            let answer = session.answer().await;
            panic!("the standby has acknowledged nothing: {answer:?}");
        })
    });
    let waiting = "select count(*) from pg_stat_activity \
                   where usename = 'max_two_api' and wait_event = 'SyncRep'";
    eventually("both have moved the chain and wait", async || {
        primary.value::<i64>(waiting).await == 2
    })
    .await;
    let moved: DateTime<Utc> = primary.value("select previous_at from last_query").await;
    assert!(moved > answered.queried_at, "two moves are visible");
    standby.promote().await;
    let next = standby.replica_session().await.answer().await.unwrap();
    assert_eq!(next.previous_at, Some(answered.queried_at));
    for session in unanswered {
        assert!(!session.is_finished(), "{:?}", session.await);
    }
    // Otherwise the server waits for it when it stops.
    kill(walsender, Signal::SIGCONT).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failover_under_load_loses_and_repeats_nothing_that_was_answered() {
    let primary = TestDatabase::with_own_server().await;
    let standby = primary.standby().await;
    let answered = Arc::new(Semaphore::new(0));
    let mut replicas = JoinSet::new();
    for _ in 0..4 {
        let mut api = primary.replica_session().await;
        let answered = Arc::clone(&answered);
        replicas.spawn(async move {
            let mut answers = Vec::new();
            while let Ok(answer) = api.answer().await {
                answers.push((answer.queried_at, answer.previous_at));
                answered.add_permits(1);
            }
            answers
        });
    }
    answered.acquire_many(2_000).await.unwrap().forget();
    primary.server.lock().await.crash();
    let mut chain = replicas.join_all().await.concat();
    standby.promote().await;
    let next = standby.replica_session().await.answer().await.unwrap();
    chain.push((next.queried_at, next.previous_at));
    chain.sort();
    for pair in chain.windows(2) {
        // Queries that got no answer may stand in between.
        assert!(
            pair[1].1 >= Some(pair[0].0),
            "a fork or a lost answer: {pair:?}"
        );
    }
}
