//! The database and the workers at one moment.

/// A row of the table `rounds`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Row {
    pub(super) tick: i8,
    pub(super) started: i8,
    pub(super) finished: i8,
}

/// An open transaction on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Transaction {
    pub(super) began: i8,
    pub(super) points_written: bool,
    pub(super) row: Option<Row>,
}

/// What a worker has done of its round, as far as it knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) enum Progress {
    #[default]
    Idle,
    Begun,
    Locked,
    /// No fence and no cooldown holds the round back.
    Due,
    Renewed,
    Recorded,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Worker {
    pub(super) progress: Progress,
    pub(super) transaction: Option<Transaction>,
    /// Its last round, for the variants that keep it in memory.
    pub(super) remembered: Option<Row>,
}

/// Tells a round from all others.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct RoundId {
    pub(super) worker: usize,
    pub(super) began: i8,
}

/// The database and the workers at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub(super) clock: i8,
    pub(super) clock_went_back: bool,
    /// The worker that holds the lock.
    pub(super) lock_holder: Option<usize>,
    /// The round that committed the points.
    pub(super) points: Option<RoundId>,
    /// The round that committed the minimum.
    pub(super) minimum: Option<RoundId>,
    pub(super) rows: Vec<Row>,
    /// The ticks of all rounds, those included whose rows are gone.
    pub(super) ticks_done: Vec<i8>,
    pub(super) workers: Vec<Worker>,
}

impl State {
    /// Ends a worker's transaction on the server.
    pub(super) fn end_transaction(&mut self, worker: usize) {
        if self.lock_holder == Some(worker) {
            self.lock_holder = None;
        }
        self.workers[worker].transaction = None;
    }
}
