use std::collections::HashSet;

use chrono::{DateTime, SubsecRound, TimeDelta, Utc};
use shared::MinPoints;
use shared::clock::{TimeAhead, time_ahead};
use shared::rounds::{self, FenceReading, Outcome};
use shared::users::Layout;
use sqlx::{AssertSqlSafe, PgConnection, raw_sql};
use testkit::{TestDatabase, eventually};

use crate::ROUND_TIMEOUT;

const NO_COOLDOWN: TimeDelta = TimeDelta::zero();

fn min_points(points: i32) -> MinPoints {
    points.to_string().parse().unwrap()
}

/// Runs the due round of a schedule with a single tick, so that tests don't depend on the time.
async fn run_only_tick(session: &mut PgConnection) -> Outcome {
    rounds::run_due(
        session,
        Layout::SingleNode,
        |_| Some(DateTime::UNIX_EPOCH),
        NO_COOLDOWN,
        ROUND_TIMEOUT,
    )
    .await
    .unwrap()
}

/// A chi-square test: the rows of `cells` are uniform over this many different values. A fair draw
/// fails it less than once in a million times.
async fn assert_uniform(database: &TestDatabase, values: u32, cells: &str) {
    let chi_square: f64 = database
        .value(&format!(
            "with counts as (select count(*) as count from ({cells}) as cells group by cells), \
                  fair as ( \
                      select sum(count) / {values} as share, {values} - count(*) as missing \
                      from counts \
                  ) \
             select (sum((count - share) ^ 2 / share) + min(missing * share))::float8 \
             from counts, fair"
        ))
        .await;
    let freedom = f64::from(values - 1);
    assert!(
        chi_square < freedom + 6.0 * (2.0 * freedom).sqrt(),
        "{chi_square} at {freedom} degrees of freedom: {cells}"
    );
}

#[tokio::test]
async fn every_user_is_renewed_and_points_are_uniform_and_independent() {
    for layout in [Layout::SingleNode, Layout::Distributed] {
        let database = TestDatabase::with_users(300_000).await;
        // Ids that equal another id shifted by 32 bits: a hash of the bigint would be the same.
        database
            .run(
                "insert into users (id) \
                 select id << 32 from generate_series(1::bigint, 100000) as id",
            )
            .await;
        let mut worker = database.connect(&database.worker).await;
        let mut round = async || {
            let round = rounds::run_now(&mut worker, layout, min_points(50), ROUND_TIMEOUT)
                .await
                .unwrap();
            assert_eq!(round.users_updated, 400_000);
            let renewed = format!(
                "select count(*) from users where updated_at = '{}'",
                round.started_at
            );
            assert_eq!(database.value::<i64>(&renewed).await, 400_000);
        };
        round().await;
        database
            .run("create table before as select id, points from users")
            .await;
        round().await;

        let has_both_ends = "select min(points) = 0 and max(points) = 100 from users";
        assert!(database.value::<bool>(has_both_ends).await);
        assert_uniform(&database, 101, "select points from users").await;
        for (other, is_other) in [
            ("before", "other.id = users.id"),
            ("users", "other.id = users.id + 1"),
            ("users", "other.id = users.id << 32"),
        ] {
            let pairs = format!(
                "select users.points, other.points from users join {other} as other on {is_other}"
            );
            assert_uniform(&database, 101 * 101, &pairs).await;
        }
    }
}

#[tokio::test]
async fn a_tick_is_done_once_however_many_race_for_it() {
    let database = TestDatabase::with_users(2_000).await;
    let mut racers = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let mut worker = database.connect(&database.worker).await;
        racers.spawn(async move {
            let mut done = 0;
            for _ in 0..20 {
                match run_only_tick(&mut worker).await {
                    Outcome::Done(_) => done += 1,
                    Outcome::Busy | Outcome::NotDue(FenceReading { fence: Some(_), .. }) => {}
                    other => panic!("{other:?}"),
                }
            }
            done
        });
    }
    assert_eq!(racers.join_all().await.iter().sum::<i32>(), 1);
    assert_eq!(
        database.value::<i64>("select count(*) from rounds").await,
        1
    );
}

#[tokio::test]
async fn a_tick_is_not_done_again_and_not_out_of_order() {
    let database = TestDatabase::with_users(10).await;
    let mut worker = database.connect(&database.worker).await;
    let hours_ago =
        |hours| move |now: DateTime<Utc>| Some(now.trunc_subsecs(0) - TimeDelta::hours(hours));
    let done = rounds::run_due(
        &mut worker,
        Layout::SingleNode,
        hours_ago(1),
        NO_COOLDOWN,
        ROUND_TIMEOUT,
    )
    .await
    .unwrap();
    assert!(matches!(done, Outcome::Done(_)), "{done:?}");
    // The clock went back, as after a failover to a server whose clock is behind.
    let behind = rounds::run_due(
        &mut worker,
        Layout::SingleNode,
        hours_ago(2),
        NO_COOLDOWN,
        ROUND_TIMEOUT,
    )
    .await
    .unwrap();
    assert!(
        matches!(behind, Outcome::NotDue(FenceReading { fence: Some(_), .. })),
        "{behind:?}"
    );
}

#[tokio::test]
async fn missed_ticks_are_one_round() {
    let database = TestDatabase::with_users(10).await;
    database
        .run(
            "insert into rounds (tick_at, scheduled, started_at, finished_at, users_updated) \
             select tick_at, true, tick_at, tick_at + interval '1 second', 10 \
             from (select now() - interval '10 minutes' as tick_at) as tick",
        )
        .await;
    let mut worker = database.connect(&database.worker).await;
    let every_ten_seconds =
        |at: DateTime<Utc>| DateTime::from_timestamp(at.timestamp() / 10 * 10, 0);
    let mut done = 0;
    for _ in 0..3 {
        let outcome = rounds::run_due(
            &mut worker,
            Layout::SingleNode,
            every_ten_seconds,
            NO_COOLDOWN,
            ROUND_TIMEOUT,
        )
        .await
        .unwrap();
        done += i64::from(matches!(outcome, Outcome::Done(_)));
    }
    let ticks: i64 = database.value("select count(*) from rounds").await;
    assert_eq!(ticks, 1 + done);
    // Two if a tick came between the first call and the last.
    assert!(matches!(done, 1 | 2), "{done}");
}

#[tokio::test]
async fn a_round_that_overran_is_followed_by_a_cooldown() {
    let cooldown = TimeDelta::hours(1);
    for (began, ended, is_cooling_down) in [
        // Ended in the minute after its own, half an hour ago.
        ("31 minutes", "30 minutes", true),
        // The same, but two hours ago: the cooldown is over.
        ("121 minutes", "120 minutes", false),
        // Ended within its own minute.
        ("30 minutes", "30 minutes", false),
    ] {
        let database = TestDatabase::with_users(10).await;
        database
            .run(&format!(
                "insert into rounds (tick_at, scheduled, started_at, finished_at, users_updated) \
                 select tick_at, true, tick_at, \
                        tick_at + (interval '{began}' - interval '{ended}'), 10 \
                 from (select date_trunc('minute', now()) - interval '{began}' as tick_at) as tick"
            ))
            .await;
        let mut worker = database.connect(&database.worker).await;
        let minute = |at: DateTime<Utc>| DateTime::from_timestamp(at.timestamp() / 60 * 60, 0);
        let outcome = rounds::run_due(
            &mut worker,
            Layout::SingleNode,
            minute,
            cooldown,
            ROUND_TIMEOUT,
        )
        .await
        .unwrap();
        assert_eq!(
            outcome == Outcome::CoolingDown,
            is_cooling_down,
            "{began} {ended}: {outcome:?}"
        );
    }
}

/// Inserts a round for a tick. Each argument is a time in SQL.
async fn insert_round(database: &TestDatabase, tick_at: &str, finished_at: &str) {
    database
        .run(&format!(
            "insert into rounds (tick_at, scheduled, started_at, finished_at, users_updated) \
             values ({tick_at}, true, {tick_at}, {finished_at}, 10)"
        ))
        .await;
}

#[tokio::test]
async fn a_fence_of_a_clock_that_was_ahead_does_not_stop_rounds() {
    let database = TestDatabase::with_users(10).await;
    let ahead = "now() + interval '2 hours'";
    insert_round(&database, ahead, ahead).await;
    let mut worker = database.connect(&database.worker).await;
    let done = run_only_tick(&mut worker).await;
    assert!(matches!(done, Outcome::Done(_)), "{done:?}");
    let again = run_only_tick(&mut worker).await;
    assert!(
        matches!(again, Outcome::NotDue(FenceReading { fence: Some(_), .. })),
        "{again:?}"
    );
    // Otherwise it would stop rounds when the clock comes near it.
    let rounds: i64 = database.value("select count(*) from rounds").await;
    assert_eq!(rounds, 1, "the fence ahead is gone");
}

#[tokio::test]
async fn a_fence_ahead_by_no_more_than_clocks_differ_counts() {
    let database = TestDatabase::with_users(10).await;
    let ahead = "now() + interval '30 seconds'";
    insert_round(&database, ahead, ahead).await;
    let mut worker = database.connect(&database.worker).await;
    let outcome = run_only_tick(&mut worker).await;
    assert!(
        matches!(
            outcome,
            Outcome::NotDue(FenceReading { fence: Some(_), .. })
        ),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_tick_stays_done_when_the_clock_went_ahead_during_its_round() {
    let database = TestDatabase::with_users(10).await;
    insert_round(&database, "'epoch'", "now() + interval '2 hours'").await;
    let mut worker = database.connect(&database.worker).await;
    rounds::run_now(
        &mut worker,
        Layout::SingleNode,
        min_points(0),
        ROUND_TIMEOUT,
    )
    .await
    .unwrap();
    let outcome = run_only_tick(&mut worker).await;
    assert!(
        matches!(
            outcome,
            Outcome::NotDue(FenceReading { fence: Some(_), .. })
        ),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn a_round_that_ended_by_a_clock_that_was_ahead_causes_no_cooldown() {
    let database = TestDatabase::with_users(10).await;
    let an_hour_ago = "date_trunc('minute', now()) - interval '1 hour'";
    insert_round(&database, an_hour_ago, "now() + interval '2 hours'").await;
    let mut worker = database.connect(&database.worker).await;
    let outcome = rounds::run_due(
        &mut worker,
        Layout::SingleNode,
        |at| DateTime::from_timestamp(at.timestamp() / 60 * 60, 0),
        TimeDelta::seconds(10),
        ROUND_TIMEOUT,
    )
    .await
    .unwrap();
    assert!(matches!(outcome, Outcome::Done(_)), "{outcome:?}");
}

#[tokio::test]
async fn times_ahead_of_the_clock_are_noticed() {
    let database = TestDatabase::with_users(10).await;
    let mut worker = database.connect(&database.worker).await;
    let none = TimeAhead {
        rounds_seconds: 0.0,
        last_query_seconds: 0.0,
    };
    assert_eq!(time_ahead(&mut worker).await.unwrap(), none);
    insert_round(&database, "'epoch'", "now() - interval '1 second'").await;
    database
        .run("update last_query set queried_at = now()")
        .await;
    assert_eq!(time_ahead(&mut worker).await.unwrap(), none);
    insert_round(&database, "now()", "now() + interval '1 hour'").await;
    database
        .run("update last_query set queried_at = now() + interval '2 hours'")
        .await;
    let ahead = time_ahead(&mut worker).await.unwrap();
    assert!(
        (3_400.0..=3_600.0).contains(&ahead.rounds_seconds),
        "{ahead:?}"
    );
    assert!(
        (7_000.0..=7_200.0).contains(&ahead.last_query_seconds),
        "{ahead:?}"
    );
}

#[tokio::test]
async fn without_a_due_round_the_lock_is_released() {
    let database = TestDatabase::with_users(10).await;
    let mut first = database.connect(&database.worker).await;
    let mut second = database.connect(&database.worker).await;
    assert!(matches!(run_only_tick(&mut first).await, Outcome::Done(_)));
    for _ in 0..3 {
        assert!(matches!(
            run_only_tick(&mut first).await,
            Outcome::NotDue(_)
        ));
        assert!(matches!(
            run_only_tick(&mut second).await,
            Outcome::NotDue(_)
        ));
    }
}

#[tokio::test]
async fn another_advisory_lock_does_not_block_a_round() {
    let database = TestDatabase::with_users(10).await;
    let mut other = database.superuser().await;
    sqlx::query("select pg_advisory_lock(1), pg_advisory_lock(0, 1)")
        .execute(&mut other)
        .await
        .unwrap();
    let mut worker = database.connect(&database.worker).await;
    assert!(matches!(run_only_tick(&mut worker).await, Outcome::Done(_)));
}

#[tokio::test]
async fn an_operators_round_counts_for_no_tick() {
    let database = TestDatabase::with_users(10).await;
    let mut worker = database.connect(&database.worker).await;
    rounds::run_now(
        &mut worker,
        Layout::SingleNode,
        min_points(0),
        ROUND_TIMEOUT,
    )
    .await
    .unwrap();
    rounds::run_now(
        &mut worker,
        Layout::SingleNode,
        min_points(0),
        ROUND_TIMEOUT,
    )
    .await
    .unwrap();
    // At first another test on this server may have a snapshot open that is older than the round.
    eventually("the tick's round is done", async || {
        matches!(run_only_tick(&mut worker).await, Outcome::Done(_))
    })
    .await;
    assert_eq!(
        database
            .value::<i64>("select count(*) from rounds where not scheduled")
            .await,
        2
    );
}

#[tokio::test]
async fn a_reader_never_sees_half_a_round() {
    let database = TestDatabase::with_users(20_000).await;
    let mut worker = database.connect(&database.worker).await;
    rounds::run_now(
        &mut worker,
        Layout::SingleNode,
        min_points(50),
        ROUND_TIMEOUT,
    )
    .await
    .unwrap();
    let rounds = tokio::spawn(async move {
        for _ in 0..40 {
            rounds::run_now(
                &mut worker,
                Layout::SingleNode,
                min_points(50),
                ROUND_TIMEOUT,
            )
            .await
            .unwrap();
        }
    });
    let mut reader = database.superuser().await;
    let mut seen = HashSet::new();
    while !rounds.is_finished() {
        // Points and settings are of one round: the chosen users qualify.
        let (times, newest, qualifying): (i64, DateTime<Utc>, i64) = sqlx::query_as(
            "select count(distinct updated_at), max(updated_at), \
                    count(*) filter ( \
                        where id in (first_user_id, second_user_id) and points > min_points \
                    ) \
             from users, settings",
        )
        .fetch_one(&mut reader)
        .await
        .unwrap();
        assert_eq!((times, qualifying), (1, 2));
        seen.insert(newest);
    }
    rounds.await.unwrap();
    assert!(seen.len() > 3, "the reader saw only {} rounds", seen.len());
}

#[tokio::test]
async fn an_answer_holds_two_users_of_one_round() {
    let database = TestDatabase::with_users(500).await;
    let mut worker = database.connect(&database.worker).await;
    let mut api = database.replica_session().await;
    rounds::run_now(
        &mut worker,
        Layout::SingleNode,
        min_points(20),
        ROUND_TIMEOUT,
    )
    .await
    .unwrap();
    let mut shown = vec![api.answer().await.unwrap().users];
    let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
    let rounds = tokio::spawn({
        let mut observer = database.replica_session().await;
        async move {
            let mut shown = Vec::new();
            for _ in 0..100 {
                rounds::run_now(
                    &mut worker,
                    Layout::SingleNode,
                    min_points(20),
                    ROUND_TIMEOUT,
                )
                .await
                .unwrap();
                shown.push(observer.answer().await.unwrap().users);
                let _ = sender.try_send(());
            }
            shown
        }
    });
    let mut answers = Vec::new();
    while receiver.try_recv() != Err(tokio::sync::mpsc::error::TryRecvError::Disconnected) {
        answers.push(api.answer().await.unwrap().users);
    }
    shown.extend(rounds.await.unwrap());
    for users in &answers {
        assert!(shown.contains(users), "no round chose {users:?}");
    }
}

#[tokio::test]
async fn the_two_users_are_drawn_from_all_that_qualify() {
    let database = TestDatabase::with_users(2_000).await;
    // A gap as large as all other ids: the user after it must not be favoured.
    database.run("insert into users (id) values (4000)").await;
    let mut worker = database.connect(&database.worker).await;
    let mut api = database.replica_session().await;
    let mut quarters = [0_i32; 4];
    for _ in 0..400 {
        rounds::run_now(
            &mut worker,
            Layout::SingleNode,
            min_points(90),
            ROUND_TIMEOUT,
        )
        .await
        .unwrap();
        let users = api.answer().await.unwrap().users;
        let [first, second] = users[..] else {
            panic!("{users:?}")
        };
        assert!(first.id < second.id);
        assert!(first.points > 90 && second.points > 90);
        for id in [first.id, second.id] {
            if id <= 2_000 {
                quarters[usize::try_from((id - 1) / 500).unwrap()] += 1;
            }
        }
    }
    // One user of two thousand: expected in ten of ten thousand rounds.
    let after_gap = 800 - quarters.iter().sum::<i32>();
    assert!(
        after_gap <= 6,
        "the user after the gap was drawn {after_gap} times"
    );
    // A fair draw of 800 puts 200 ± 12 into each quarter. This allows six standard deviations.
    assert!(
        quarters.iter().all(|count| (128..=272).contains(count)),
        "{quarters:?}"
    );
}

#[tokio::test]
async fn at_every_minimum_an_answer_shows_two_qualifying_users_if_there_are_two() {
    let database = TestDatabase::with_users(150).await;
    let mut worker = database.connect(&database.worker).await;
    let mut api = database.replica_session().await;
    for minimum in 0..=100 {
        rounds::run_now(
            &mut worker,
            Layout::SingleNode,
            min_points(minimum),
            ROUND_TIMEOUT,
        )
        .await
        .unwrap();
        let users = api.answer().await.unwrap().users;
        assert!(
            users.iter().all(|user| user.points > minimum),
            "minimum {minimum}: {users:?}"
        );
        let qualifying: i64 = database
            .value(&format!(
                "select count(*) from users where points > {minimum}"
            ))
            .await;
        assert_eq!(
            users.len(),
            usize::try_from(qualifying.min(2)).unwrap(),
            "minimum {minimum}"
        );
    }
    assert_eq!(api.answer().await.unwrap().users, []);
}

#[tokio::test]
async fn the_two_users_stay_the_same_for_the_whole_round_and_must_exceed_the_minimum() {
    let database = TestDatabase::with_users(1_000).await;
    let mut worker = database.connect(&database.worker).await;
    let mut api = database.replica_session().await;
    rounds::run_now(
        &mut worker,
        Layout::SingleNode,
        min_points(30),
        ROUND_TIMEOUT,
    )
    .await
    .unwrap();
    let users = api.answer().await.unwrap().users;
    assert_eq!(users.len(), 2);
    for _ in 0..50 {
        assert_eq!(api.answer().await.unwrap().users, users);
    }
    // An answer depends on the round's choice and minimum only, not on `users`.
    database.run("update users set points = 0").await;
    assert_eq!(api.answer().await.unwrap().users, users);
    for (points, left) in [
        (users[0].points.min(users[1].points), 1),
        (users[0].points.max(users[1].points), 0),
    ] {
        database
            .run(&format!("update settings set min_points = {points}"))
            .await;
        let still = api.answer().await.unwrap().users;
        assert!(still.iter().all(|user| user.points > points));
        assert!(still.len() <= left);
    }
}

#[tokio::test]
async fn a_round_without_users_is_done() {
    let database = TestDatabase::new().await;
    let mut worker = database.connect(&database.worker).await;
    let mut api = database.replica_session().await;
    let Outcome::Done(round) = run_only_tick(&mut worker).await else {
        panic!("there is no other worker")
    };
    assert_eq!(round.users_updated, 0);
    assert_eq!(api.answer().await.unwrap().users, []);
}

#[tokio::test]
async fn only_a_week_of_rounds_is_kept() {
    let database = TestDatabase::with_users(10).await;
    database
        .run(
            "insert into rounds (tick_at, scheduled, started_at, finished_at, users_updated) \
             select at, true, at, at, 10 \
             from generate_series( \
                      now() - interval '9 days', now() - interval '1 day', interval '1 hour' \
                  ) as at",
        )
        .await;
    let mut worker = database.connect(&database.worker).await;
    let done = rounds::run_due(
        &mut worker,
        Layout::SingleNode,
        |now| Some(now.trunc_subsecs(0)),
        NO_COOLDOWN,
        ROUND_TIMEOUT,
    )
    .await
    .unwrap();
    assert!(matches!(done, Outcome::Done(_)), "{done:?}");
    let (are_recent, kept): (bool, i64) = (
        database
            .value("select min(finished_at) > now() - interval '7 days 1 hour' from rounds")
            .await,
        database.value("select count(*) from rounds").await,
    );
    assert!(are_recent);
    assert!((6 * 24..=6 * 24 + 2).contains(&kept), "{kept}");
}

#[tokio::test]
async fn the_round_that_is_the_fence_is_kept_however_old_it_is() {
    let a_month_ago = "date_trunc('day', now()) - interval '30 days'";
    for ahead in [None, Some("now() + interval '2 hours'")] {
        let database = TestDatabase::with_users(10).await;
        insert_round(&database, a_month_ago, a_month_ago).await;
        if let Some(ahead) = ahead {
            insert_round(&database, ahead, ahead).await;
        }
        let mut worker = database.connect(&database.worker).await;
        rounds::run_now(
            &mut worker,
            Layout::SingleNode,
            min_points(0),
            ROUND_TIMEOUT,
        )
        .await
        .unwrap();
        let outcome = run_only_tick(&mut worker).await;
        assert!(
            matches!(
                outcome,
                Outcome::NotDue(FenceReading { fence: Some(_), .. })
            ),
            "{ahead:?}: {outcome:?}"
        );
    }
}

#[tokio::test]
async fn an_operators_round_waits_for_a_running_one_outside_a_transaction() {
    let database = TestDatabase::with_users(10).await;
    let mut running = database.superuser().await;
    sqlx::raw_sql("begin; select pg_advisory_xact_lock(x'6d61782074776f'::bigint)")
        .execute(&mut running)
        .await
        .unwrap();
    let mut worker = database.connect(&database.worker).await;
    assert_eq!(run_only_tick(&mut worker).await, Outcome::Busy);
    let waiting = tokio::spawn(async move {
        rounds::run_now(
            &mut worker,
            Layout::SingleNode,
            min_points(0),
            ROUND_TIMEOUT,
        )
        .await
        .unwrap()
    });
    let has_rolled_back = "select exists ( \
                               select from pg_stat_activity \
                               where datname = current_database() \
                                 and usename = 'max_two_worker' \
                                 and query = 'ROLLBACK' and state = 'idle' \
                           )";
    testkit::eventually("it waits outside a transaction", async || {
        database.value(has_rolled_back).await
    })
    .await;
    assert!(!waiting.is_finished());
    sqlx::raw_sql("rollback")
        .execute(&mut running)
        .await
        .unwrap();
    assert_eq!(waiting.await.unwrap().users_updated, 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_round_waits_two_seconds_for_a_snapshot_older_than_the_last_round() {
    let database = TestDatabase::with_own_server().await;
    database.seed(10).await;
    let mut worker = database.connect(&database.worker).await;
    let mut run_due = async || {
        let every_moment = |at: DateTime<Utc>| Some(at);
        rounds::run_due(
            &mut worker,
            Layout::SingleNode,
            every_moment,
            NO_COOLDOWN,
            ROUND_TIMEOUT,
        )
        .await
        .unwrap()
    };
    let elsewhere = database.server.lock().await.url("postgres", "postgres");
    for (url, begin) in [
        (
            &database.owner,
            "begin isolation level repeatable read; select from users",
        ),
        // In another database: it holds back the snapshots of ours.
        (&elsewhere, "begin; select pg_current_xact_id()"),
    ] {
        let mut reader = database.connect(url).await;
        raw_sql(AssertSqlSafe(begin))
            .execute(&mut reader)
            .await
            .unwrap();
        // No round has been done since the snapshot.
        assert!(matches!(run_due().await, Outcome::Done(_)), "{begin}");
        assert_eq!(run_due().await, Outcome::OldSnapshot, "{begin}");
        // The same snapshot, but the last round is older than two seconds.
        database
            .run(
                "update rounds \
                 set tick_at = tick_at - interval '1 h', \
                     started_at = started_at - interval '1 h', \
                     finished_at = finished_at - interval '1 h'",
            )
            .await;
        assert!(matches!(run_due().await, Outcome::Done(_)), "{begin}");
        assert_eq!(run_due().await, Outcome::OldSnapshot, "{begin}");
        // The same snapshot, but the last round ended by a clock that was ahead.
        database
            .run("update rounds set finished_at = finished_at + interval '2 h'")
            .await;
        assert!(matches!(run_due().await, Outcome::Done(_)), "{begin}");
        raw_sql("rollback").execute(&mut reader).await.unwrap();
        assert!(matches!(run_due().await, Outcome::Done(_)), "{begin}");
    }
}
