//! The checker finds nothing in a correct history, and each kind of violation in a broken one.

use serde_json::Value;
use shared::db::Session;

use super::{Checker, find_violations};
use crate::{TestDatabase, sql};

/// Four rounds of three writes each, the moves of the chain, and answers. The checker only compares
/// users, so here each list of them is a letter, and nobody qualifies in the last round.
const CORRECT_HISTORY: &str = r#"
    insert into writes (number, transaction_id, at, table_name, users, tick_at)
    select 3 * round + step - 3, round::text::xid8, tick_at + step * interval '1 second',
           (array['users', 'settings', 'rounds'])[step],
           case step when 2 then users end, case step when 3 then tick_at end
    from (values (1, '["A"]'::jsonb), (2, '["B"]'), (3, '["C"]'), (4, '[]')) as rounds (round, users),
         generate_series(1, 3) as step,
         lateral (select '2000-01-01 00:00:00Z'::timestamptz + round * interval '1 minute') as ticks (tick_at);
    insert into moves (previous_at, queried_at, choice) values
        (null, '2000-01-01 00:00:00Z', 0),
        ('2000-01-01 00:00:00Z', '2000-01-01 00:00:01Z', 2),
        ('2000-01-01 00:00:01Z', '2000-01-01 00:00:02Z', 2),
        ('2000-01-01 00:00:02Z', '2000-01-01 00:00:03Z', 5),
        ('2000-01-01 00:00:03Z', '2000-01-01 00:00:04Z', 8);
    create table answers (sent_at bigint, received_at bigint, users jsonb, timestamp text);
    insert into answers values
        (1, 2, '[]', null),
        (3, 4, '["A"]', '2000-01-01 00:00:00'),
        (5, 8, '["A"]', '2000-01-01 00:00:01'),
        -- The second answer of a message whose users were read after round B was done.
        (6, 7, '["B"]', '2000-01-01 00:00:02'),
        (9, 10, '["B"]', '2000-01-01 00:00:02'),
        (11, 12, '["C"]', '2000-01-01 00:00:03');"#;

/// Each kind of violation, and changes of the correct history that cause it and no other.
const VIOLATIONS: &str = r#"
a tick was done twice
    update writes set tick_at = '2000-01-01 00:01:00Z' where number = 6
two rounds ran at the same time
    update writes set at = '2000-01-01 00:02:02.5Z' where number = 7
a round is incomplete
    delete from writes where number = 10
    delete from writes where number = 11
    delete from writes where number = 12
the chain has a fork or a step back
    update moves set previous_at = '2000-01-01 00:00:02Z' where choice = 8
    update moves set queried_at = '2000-01-01 00:00:02Z' where choice = 8
several answers are the very first
    update answers set timestamp = null where sent_at = 3
an answer has an earlier time than one before it
    update answers set timestamp = '2000-01-01 00:00:01' where sent_at = 9
an answer has users of an older round than one before it
    update answers set users = '["A"]' where sent_at = 9
an answer has no place in the chain
    update answers set timestamp = '2999-07-30 17:09:33' where sent_at = 11
    update answers set users = '["D"]' where sent_at = 11
    update answers set users = '["A"]', sent_at = 5 where sent_at = 11
    update answers set timestamp = '2000-01-01 00:00:01', sent_at = 5 where sent_at = 11"#;

/// What the checker finds in the history once it is changed.
async fn find(session: &mut Session, change: &str) -> Vec<String> {
    sql::run(session, &format!("savepoint history; {change}")).await;
    let answers = "select array_agg(to_jsonb(answers)) from answers";
    let answers: Vec<Value> = sql::value(session, answers).await;
    let found = find_violations(session, &answers).await;
    sql::run(session, "rollback to history").await;
    found.into_iter().map(|(violation, ..)| violation).collect()
}

#[tokio::test]
async fn each_violation_is_found_and_none_in_a_correct_history() {
    let database = TestDatabase::new().await;
    Checker::install(&database).await;
    let history = format!("set search_path to audit, public; {CORRECT_HISTORY}");
    let mut session = database.begin(&history).await;
    assert!(find(&mut session, "").await.is_empty());
    let mut violation = "";
    for line in VIOLATIONS.trim_start().lines() {
        match line.strip_prefix(' ') {
            None => violation = line,
            Some(change) => assert_eq!(find(&mut session, change).await, [violation], "{change}"),
        }
    }
}
