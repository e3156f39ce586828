//! Coalescing: queries wait in the queue while the database answers a message. The next message
//! then answers all of them that are equal.
//!
//! Batches come in from the queue; one message for each different query in a batch goes out over
//! the replica's session. This runs in its own task, so a client that hangs up cancels nothing.

use std::convert::Infallible;
use std::time::Duration;

use shared::db::{self, Database, Error, with_timeout};
use shared::domain::last_query::ChainSession;
use tokio::task::{JoinHandle, yield_now};
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::connector::{Connector, Lost};
use crate::health::Health;
use crate::metrics::Metrics;
use crate::query::Query;
use crate::queue::{Batch, Queue, QueueReceiver};

/// How often an idle session is checked.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// How many times this task yields before it answers a batch, while other replicas move the chain
/// too. With 16 replicas on two cores, requests/s relative to no early lock release: 1.84 without
/// yielding, 2.37 with 3 yields, 2.45 with 8.
const YIELDS_WHEN_CHAIN_SHARED: usize = 8;
/// How many times per timeout the batch is searched for queries that are past it.
const SWEEPS_PER_TIMEOUT: u32 = 16;

/// Opens a queue for `max_waiting` queries and starts the task that answers them. The task panics
/// if the queue is dropped.
///
/// Each query is answered or fails within `request_timeout`. To ensure that, each message and each
/// query has 4/5 of it, including the query's time in the queue. The rest is for noticing late
/// queries and for sending the responses. This holds while a batch takes one message, as it does
/// with a single query.
pub(crate) fn start(
    database: &Database,
    max_waiting: usize,
    request_timeout: Duration,
    health: &'static Health,
    metrics: &'static Metrics,
) -> (Queue, JoinHandle<Infallible>) {
    let answer_timeout = request_timeout * 4 / 5;
    let (queue, receiver) = Queue::new(max_waiting);
    let database = database.clone().with_statement_timeout(answer_timeout);
    let mut sweep = interval(answer_timeout / SWEEPS_PER_TIMEOUT);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let coalescer = Coalescer {
        connector: Connector::new(database, health, metrics),
        queue: receiver,
        batch: Batch::default(),
        answer_timeout,
        sweep,
        metrics,
    };
    (queue, tokio::spawn(coalescer.run()))
}

struct Coalescer {
    connector: Connector,
    queue: QueueReceiver,
    /// Empty between two batches. After a failed one it holds the queries without a reply.
    batch: Batch,
    /// Bounds each message, and each query including its time in the queue.
    answer_timeout: Duration,
    /// When to search the batch for late queries. One interval for all batches: a timer per batch
    /// would be the earliest deadline each time, and registering it would wake tokio's timer
    /// driver. (A message's timeout wakes nothing, because it is due later than this.)
    sweep: Interval,
    metrics: &'static Metrics,
}

impl Coalescer {
    async fn run(mut self) -> Infallible {
        loop {
            let session = self.connect().await;
            let lost = self.answer_batches(session).await;
            self.connector.on_lost(&lost);
            fail_all(&mut self.queue, &mut self.batch);
        }
    }

    /// Connects to the database. Until it has, all waiting queries fail once per answer timeout.
    async fn connect(&mut self) -> ChainSession {
        let connecting = self.connector.connect_with_backoff();
        tokio::pin!(connecting);
        let mut failing = interval(self.answer_timeout);
        failing.reset();
        loop {
            tokio::select! {
                session = &mut connecting => return session,
                _ = failing.tick() => fail_all(&mut self.queue, &mut self.batch),
            }
        }
    }

    /// Answers batch after batch, and checks the session while there is none. Returns when the
    /// session is lost; the queries without a reply are still in the batch.
    async fn answer_batches(&mut self, mut chain: ChainSession) -> Lost {
        let mut idle_check = interval(PING_INTERVAL);
        // The session has just answered its trial.
        idle_check.reset();
        loop {
            tokio::select! {
                () = self.queue.receive(&mut self.batch) => {
                    if chain.is_chain_shared() {
                        self.extend_batch().await;
                    }
                    if let Err(error) = self.answer_batch(&mut chain).await {
                        return Lost { error, by_message: true };
                    }
                    idle_check.reset();
                }
                _ = idle_check.tick() => {
                    let ping = db::ping(chain.session());
                    if let Err(error) = with_timeout(self.answer_timeout, ping).await {
                        return Lost { error, by_message: false };
                    }
                },
            }
        }
    }

    /// Yields, so that requests that have reached this machine are read, and adds their queries.
    ///
    /// While replicas share the chain, none waits for another's disk write. So each message returns
    /// soon, and few queries are queued by then. On a busy machine, larger batches save more time
    /// than the yields take. On an idle one, the yields take microseconds.
    async fn extend_batch(&mut self) {
        for _ in 0..YIELDS_WHEN_CHAIN_SHARED {
            yield_now().await;
        }
        self.queue.receive_now(&mut self.batch);
    }

    /// Sends one message for each different query in the batch.
    async fn answer_batch(&mut self, chain: &mut ChainSession) -> Result<(), Error> {
        self.metrics.observe_batch(self.batch.len());
        while let Some(query) = self.batch.next_query() {
            self.answer_query(chain, query).await?;
            self.connector.on_answer();
        }
        Ok(())
    }

    /// Answers all queries of the batch that equal this one. Meanwhile, queries of the batch that
    /// have waited for too long fail. Those in the queue are checked once they are in the next
    /// batch.
    async fn answer_query(&mut self, chain: &mut ChainSession, query: Query) -> Result<(), Error> {
        let answering = with_timeout(self.answer_timeout, query.answer(chain));
        tokio::pin!(answering);
        let replies = loop {
            tokio::select! {
                replies = &mut answering => break replies?,
                _ = self.sweep.tick() => self.batch.fail_late(self.answer_timeout),
            }
        };
        self.metrics.observe_answers(self.batch.queued_times(query));
        self.batch.reply(query, &replies);
        Ok(())
    }
}

/// Fails every query, in the batch and in the queue.
fn fail_all(queue: &mut QueueReceiver, batch: &mut Batch) {
    queue.receive_now(batch);
    batch.fail_all();
}
