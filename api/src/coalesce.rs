//! Coalescing: requests that arrive while a statement runs wait together, and the next statement answers all of them.
//!
//! The chain of queries stays exact: the first request of a batch gets the time of the query before, and all others get
//! the batch's own time, for they come right after each other at that very instant. That is what answering them one by
//! one would have said. The statement runs in this task alone, so a client that hangs up cancels nothing.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use chrono::{DateTime, Utc};
use serde::Serialize;
use shared::db::{Connection, Database, Error, backoff, ping, with_deadline};
use shared::last_query::{self, Answer};
use shared::users::User;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Interval, MissedTickBehavior, interval, sleep};
use tracing::{error, info, warn};
use utoipa::ToSchema;

use crate::health::Health;
use crate::metrics::Metrics;
use crate::problem::Problem;

/// The longest pause between two attempts to reach the database, but for chance.
const PAUSE: Duration = Duration::from_millis(200);
/// How long an attempt may take; those who wait for it are refused much earlier.
const CONNECT: Duration = Duration::from_secs(5);
/// How often an idle connection is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How many callers' traces the log line of a failed batch names.
const NAMED_TRACES: usize = 8;

/// The body of an answer.
#[derive(Serialize, ToSchema)]
#[schema(title = "Answer")]
pub(crate) struct Body<'a> {
    /// At most two users whose points are above the minimum, in the order of their ids.
    #[schema(value_type = Vec<crate::openapi::User>, max_items = 2)]
    users: &'a [User],
    /// When the previous query was answered, in UTC; null for the very first.
    #[schema(
        example = "2020-07-30 17:09:33",
        pattern = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d$"
    )]
    timestamp: Option<String>,
}

/// One request that waits.
struct Question {
    asked_at: Instant,
    /// Of the caller's trace, for the log if it fails.
    traceparent: Option<String>,
    reply: oneshot::Sender<Result<Bytes, Problem>>,
}

/// The line in which requests wait for the next statement.
#[derive(Clone)]
pub(crate) struct Line(mpsc::Sender<Question>);

impl Line {
    /// Waits for the next statement, and returns the body of the answer.
    ///
    /// # Errors
    /// [`Problem::Overloaded`] at once when the line is full; [`Problem::Unavailable`] when the database does not answer
    /// in time.
    pub(crate) async fn ask(&self, traceparent: Option<String>) -> Result<Bytes, Problem> {
        let (reply, answer) = oneshot::channel();
        let question = Question {
            asked_at: Instant::now(),
            traceparent,
            reply,
        };
        self.0.try_send(question).map_err(|_| Problem::Overloaded)?;
        answer.await.unwrap_or(Err(Problem::Unavailable))
    }

    /// How many are waiting.
    pub(crate) fn length(&self) -> usize {
        self.0.max_capacity() - self.0.capacity()
    }
}

/// Opens a line for `capacity` requests, and starts the task that serves it, which ends only with the process. A request
/// is answered within `timeout`: a statement may take four fifths of it, and whoever has waited for as long, behind the
/// statement before and in its own, is refused. A disk may stall for a moment without costing anybody an answer.
pub(crate) fn open(
    database: &Database,
    capacity: usize,
    timeout: Duration,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
) -> (Line, JoinHandle<()>) {
    let (sender, waiting) = mpsc::channel(capacity);
    let deadline = timeout * 4 / 5;
    let coalescer = Coalescer {
        database: database.clone().statement_timeout(deadline),
        deadline,
        waiting,
        batch: Vec::new(),
        health,
        metrics,
    };
    (Line(sender), tokio::spawn(coalescer.run()))
}

struct Coalescer {
    database: Database,
    /// For each statement, and for each request.
    deadline: Duration,
    waiting: mpsc::Receiver<Question>,
    /// Those whose statement runs.
    batch: Vec<Question>,
    health: Arc<Health>,
    metrics: Arc<Metrics>,
}

impl Coalescer {
    async fn run(mut self) {
        loop {
            let connection = self.reach().await;
            info!("the database is reached");
            self.health.reached_database();
            self.metrics.database_is_up(true);
            let Err(error) = self.serve(connection).await else {
                // Nobody can ask any more.
                return;
            };
            self.metrics.database_is_up(false);
            complain(&error);
            self.refuse_all();
        }
    }

    /// Tries until the database is reached and has what an answer needs; meanwhile nobody waits for long.
    async fn reach(&mut self) -> Connection {
        let database = self.database.clone();
        let attempts = async move {
            let mut last_reason = String::new();
            let mut pauses = backoff(PAUSE);
            loop {
                let error = match attempt(&database).await {
                    Ok(connection) => return connection,
                    Err(error) => error,
                };
                // One line for a reason, however often it is met.
                let reason = error.to_string();
                if reason != last_reason {
                    complain(&error);
                    last_reason = reason;
                }
                sleep(pauses.next().unwrap_or(PAUSE)).await;
            }
        };
        tokio::pin!(attempts);
        let mut patience = interval(self.deadline);
        patience.reset();
        loop {
            tokio::select! {
                connection = &mut attempts => return connection,
                _ = patience.tick() => self.refuse_all(),
            }
        }
    }

    /// Answers batch after batch, each with one statement. After an error the batch is still there. When there is nothing
    /// to answer, it looks now and then whether the database is still there.
    async fn serve(&mut self, mut connection: Connection) -> Result<(), Error> {
        let most = self.waiting.max_capacity();
        let mut look = interval(LOOK);
        // One for all statements: a statement's own would always be the earliest of all timers, and to register that wakes
        // the runtime.
        let mut glance = interval(self.deadline / 16);
        glance.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                asked = self.waiting.recv_many(&mut self.batch, most) => {
                    if asked == 0 {
                        return Ok(());
                    }
                    let answer = self.ask_for_all(&mut connection, &mut glance).await?;
                    self.answer(&answer);
                    look.reset();
                }
                _ = look.tick() => with_deadline(self.deadline, ping(&mut connection)).await?,
            }
        }
    }

    /// Runs the statement of the batch. Who has waited for too long meanwhile is no longer part of it.
    async fn ask_for_all(
        &mut self,
        connection: &mut Connection,
        glance: &mut Interval,
    ) -> Result<Answer, Error> {
        let statement = with_deadline(self.deadline, last_query::answer(connection));
        tokio::pin!(statement);
        loop {
            tokio::select! {
                answer = &mut statement => return answer,
                _ = glance.tick() => self.refuse_late(),
            }
        }
    }

    fn answer(&mut self, answer: &Answer) {
        let first = body(&answer.users, answer.previous_at);
        let others = body(&answer.users, Some(answer.queried_at));
        self.metrics
            .answered(self.batch.iter().map(|question| question.asked_at));
        for (place, question) in self.batch.drain(..).enumerate() {
            let body = if place == 0 { &first } else { &others };
            // It fails when the client has hung up, and the answer has nowhere to go.
            let _ = question.reply.send(Ok(body.clone()));
        }
    }

    /// Those of the batch who have waited for too long; they are in the order in which they came. Nobody in line has: the
    /// line was empty when the statement began, which has the same deadline.
    fn refuse_late(&mut self) {
        let is_late = |question: &&Question| question.asked_at.elapsed() > self.deadline;
        let late = self.batch.iter().take_while(is_late).count();
        self.refuse(late);
    }

    /// Everybody, in the batch and in line.
    fn refuse_all(&mut self) {
        while let Ok(question) = self.waiting.try_recv() {
            self.batch.push(question);
        }
        self.refuse(self.batch.len());
    }

    /// Tells the first of the batch that there will be no answer, and the log how many these were.
    fn refuse(&mut self, requests: usize) {
        if requests == 0 {
            return;
        }
        let mut traces = Vec::new();
        for question in self.batch.drain(..requests) {
            traces.extend(question.traceparent);
            let _ = question.reply.send(Err(Problem::Unavailable));
        }
        traces.truncate(NAMED_TRACES);
        warn!(requests, traceparents = ?traces, "requests failed: the database did not answer in time");
    }
}

/// Reaches the database, and finds out whether it has what an answer needs.
async fn attempt(database: &Database) -> Result<Connection, Error> {
    with_deadline(CONNECT, async {
        let mut connection = database.connect(CONNECT).await?;
        last_query::check(&mut connection).await?;
        Ok(connection)
    })
    .await
}

/// Says why the database can't be used: as a warning if that can pass, else as an error, for then somebody must act.
fn complain(error: &Error) {
    if error.is_transient() {
        warn!("the database does not answer: {error}");
    } else {
        error!("the database refuses: {error}");
    }
}

fn body(users: &[User], timestamp: Option<DateTime<Utc>>) -> Bytes {
    let timestamp = timestamp.map(|at| at.format("%Y-%m-%d %H:%M:%S").to_string());
    serde_json::to_vec(&Body { users, timestamp })
        .expect("numbers and strings can be encoded")
        .into()
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot::error::TryRecvError;

    use super::*;

    const DEADLINE: Duration = Duration::from_millis(800);

    /// One that was asked so long ago, and where its answer comes.
    fn question(ago: Duration) -> (Question, oneshot::Receiver<Result<Bytes, Problem>>) {
        let (reply, answer) = oneshot::channel();
        let question = Question {
            asked_at: Instant::now()
                .checked_sub(ago)
                .expect("the machine has run for longer"),
            traceparent: None,
            reply,
        };
        (question, answer)
    }

    #[tokio::test]
    async fn of_those_who_share_a_slow_statement_only_who_waited_too_long_is_refused() {
        let (_line, waiting) = mpsc::channel(1);
        let (early, mut refused) = question(2 * DEADLINE);
        let (late, mut waits) = question(Duration::ZERO);
        let mut coalescer = Coalescer {
            database: Database::parse("postgres://nowhere/at_all", "test").expect("it is a URL"),
            deadline: DEADLINE,
            waiting,
            batch: vec![early, late],
            health: Arc::default(),
            metrics: Arc::new(Metrics::new()),
        };
        coalescer.refuse_late();
        assert!(matches!(refused.try_recv(), Ok(Err(Problem::Unavailable))));
        assert!(matches!(waits.try_recv(), Err(TryRecvError::Empty)));
        coalescer.refuse_all();
        assert!(matches!(waits.try_recv(), Ok(Err(Problem::Unavailable))));
    }
}
