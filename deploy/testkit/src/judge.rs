//! The judge: witnesses every change in the database and every answer, and says at the end what was not as promised.
//!
//! It knows nothing of how the programs do it: it compares what was committed and what was answered with the promises.

mod history;

use std::fmt;
use std::sync::{Arc, Mutex};
use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use hyper::Method;
use serde_json::Value;

use crate::{Client, TestDatabase};

use history::Known;
pub use history::Observation;

/// One who watches a database and its clients.
#[derive(Clone, Debug, Default)]
pub struct Judge {
    observations: Arc<Mutex<Vec<Observation>>>,
    refused: Arc<Mutex<u64>>,
}

impl Judge {
    /// Begins to watch. The database has its users, and nobody uses it yet.
    pub async fn of(database: &TestDatabase) -> Self {
        database.run(include_str!("judge/witness.sql")).await;
        Self::default()
    }

    /// Asks a replica, and remembers the answer. `None` where none came, as from a replica that is killed.
    pub async fn ask(&self, client: &Client) -> Option<u16> {
        let asked_at = Instant::now();
        let reply = client.send(Method::GET, "/").await.ok()?;
        let answered_at = Instant::now();
        let status = reply.status.as_u16();
        if status != 200 {
            *self.refused.lock().expect("nothing panics with this lock") += 1;
            return Some(status);
        }
        // A body that was cut off is no answer.
        let mut body: Value = serde_json::from_slice(&reply.body).ok()?;
        self.saw(Observation {
            asked_at,
            answered_at,
            users: body["users"].take(),
            timestamp: body["timestamp"].as_str().map(ToOwned::to_owned),
        });
        Some(status)
    }

    /// Remembers an answer.
    pub fn saw(&self, observation: Observation) {
        self.observations
            .lock()
            .expect("nothing panics with this lock")
            .push(observation);
    }

    /// Judges all that was seen up to now. Nobody uses the database any more.
    pub async fn verdict(&self, database: &TestDatabase) -> Verdict {
        let observations = self
            .observations
            .lock()
            .expect("nothing panics with this lock")
            .clone();
        let choices: Vec<Value> = database
            .values("select users from witness.choices order by number")
            .await;
        let seconds: Vec<String> = database
            .values("select distinct to_char(queried_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS') from witness.queries")
            .await;
        let known = Known {
            choices,
            seconds: seconds.into_iter().collect(),
        };
        Verdict {
            rounds: database.value("select count(*) from witness.rounds").await,
            first_tick: database
                .value("select min(tick_at) from witness.rounds where scheduled")
                .await,
            last_tick: database
                .value("select max(tick_at) from witness.rounds where scheduled")
                .await,
            duplicates: database.value(DUPLICATES).await,
            at_once: database.value(AT_ONCE).await,
            half_rounds: database.value(HALF_ROUNDS).await,
            wrong_choices: database
                .value("select count(*) from witness.choices where not good")
                .await,
            stale_users: database.value(STALE_USERS).await,
            batches: database.value("select count(*) from witness.queries").await,
            chain_errors: database.value(CHAIN_ERRORS).await,
            unclaimed: unclaimed(database, &observations).await,
            answers: observations.len(),
            refused: *self.refused.lock().expect("nothing panics with this lock"),
            contradictions: history::contradictions(&observations, &known),
        }
    }
}

/// Ticks for which more than one transaction was committed.
const DUPLICATES: &str = "
    select count(*) from (
        select tick_at from witness.rounds where scheduled group by tick_at having count(*) > 1
    ) as twice";

/// Rounds that began to write before another one had ended: two that held the lock.
const AT_ONCE: &str = "
    with rounds as (
        select transaction_id, min(begins.at) as began, max(rounds.at) as ended
        from witness.begins join witness.rounds using (transaction_id) group by 1
    )
    select count(*) from rounds
    where exists (select from rounds as other where other.began < rounds.began and rounds.began < other.ended)";

/// Transactions that did not do all three of a round's writes, each once.
const HALF_ROUNDS: &str = "
    select count(*) from (
        select transaction_id, max(renewals) as renewals, max(choices) as choices, max(rounds) as rounds
        from (
            select transaction_id, count(*) as renewals, 0 as choices, 0 as rounds from witness.renewals group by 1
            union all
            select transaction_id, 0, count(*), 0 from witness.choices group by 1
            union all
            select transaction_id, 0, 0, count(*) from witness.rounds group by 1
        ) as parts
        group by transaction_id
    ) as transactions
    where (renewals, choices, rounds) <> (1, 1, 1)";

/// Users whom a round left out or gave another time than its own, and users who are not of the last round.
const STALE_USERS: &str = "
    select (select coalesce(sum(stale + (select count(*) from users) - renewed), 0)::bigint from witness.renewals)
         + (select count(*) from users where updated_at < (select max(started_at) from rounds))";

/// Queries that do not go on exactly where the one before ended, or go back in time.
const CHAIN_ERRORS: &str = "
    select count(*) from (
        select previous_at, queried_at, lag(queried_at) over (order by number) as before from witness.queries
    ) as queries
    where previous_at is distinct from before or queried_at < previous_at";

/// Batches whose first answer, the one with the time of the query before, nobody got: counted by the seconds that answers
/// show.
async fn unclaimed(database: &TestDatabase, observations: &[Observation]) -> i64 {
    let seen: Vec<String> = observations
        .iter()
        .map(|observation| observation.timestamp.clone().unwrap_or_default())
        .collect();
    let mut connection = database.superuser().await;
    sqlx::query_scalar(
        "select coalesce(sum(greatest(batches - coalesce(answers, 0), 0)), 0)::bigint
         from (
             select coalesce(to_char(previous_at at time zone 'utc', 'YYYY-MM-DD HH24:MI:SS'), '') as second,
                    count(*) as batches
             from witness.queries group by 1
         ) as queries
         left join (
             select second, count(*) as answers from unnest($1::text[]) as second group by 1
         ) as seen using (second)",
    )
    .bind(seen)
    .fetch_one(&mut connection)
    .await
    .expect("a superuser may read what the witness wrote")
}

/// What the judge found. As text it is a table, and then each complaint.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Rounds that were committed.
    pub rounds: i64,
    /// The first tick that was done.
    pub first_tick: Option<DateTime<Utc>>,
    /// The last one.
    pub last_tick: Option<DateTime<Utc>>,
    /// Ticks that were done more than once.
    pub duplicates: i64,
    /// Rounds that were done at the same time as another.
    pub at_once: i64,
    /// Transactions that did a part of a round.
    pub half_rounds: i64,
    /// Rounds whose users do not qualify, or are too few.
    pub wrong_choices: i64,
    /// Users who were left out of rounds.
    pub stale_users: i64,
    /// Statements that moved the chain of queries on.
    pub batches: i64,
    /// Forks and steps back in it.
    pub chain_errors: i64,
    /// Batches whose first answer reached nobody: none, unless answers were lost or others asked, too.
    pub unclaimed: i64,
    /// Answers with status 200.
    pub answers: usize,
    /// Other answers.
    pub refused: u64,
    /// What answers said that can't be.
    pub contradictions: Vec<String>,
}

impl Verdict {
    /// How many ticks were due from the first to the last that was done, when one is due every `pause`.
    #[must_use]
    pub fn due(&self, pause: TimeDelta) -> i64 {
        match (self.first_tick, self.last_tick) {
            (Some(first), Some(last)) => (last - first).num_seconds() / pause.num_seconds() + 1,
            _ => 0,
        }
    }

    /// Whether every promise was kept.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.contradictions.is_empty()
            && [
                self.duplicates,
                self.at_once,
                self.half_rounds,
                self.wrong_choices,
                self.stale_users,
                self.chain_errors,
            ]
            .iter()
            .all(|&count| count == 0)
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (what, count) in [
            ("rounds", self.rounds),
            ("ticks done twice", self.duplicates),
            ("rounds at the same time", self.at_once),
            ("half rounds", self.half_rounds),
            ("rounds with wrong users", self.wrong_choices),
            ("users left out", self.stale_users),
            ("statements in the chain", self.batches),
            ("errors in the chain", self.chain_errors),
            ("answers", i64::try_from(self.answers).unwrap_or(i64::MAX)),
            ("refused", i64::try_from(self.refused).unwrap_or(i64::MAX)),
        ] {
            writeln!(formatter, "{what:<26}{count:>10}")?;
        }
        writeln!(
            formatter,
            "{:<26}{:>10}",
            "contradicting answers",
            self.contradictions.len()
        )?;
        for contradiction in self.contradictions.iter().take(20) {
            writeln!(formatter, "  {contradiction}")?;
        }
        Ok(())
    }
}
