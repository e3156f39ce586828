//! The protocol of lock, fence and cooldown: `shared/src/domain/rounds.rs`, step by step, by several
//! workers at once.
//!
//! A worker may begin at any time, whatever its own clock shows, and may be paused between any two
//! steps. The server may abort any transaction between any two steps. That covers timeouts, lost
//! connections, crashes of Postgres, and killed workers that are started again. The reply to a
//! commit may be lost. The database's clock may advance at any moment, and may go back once. It may
//! have been far ahead before: then there is a round whose tick, or only its end, is far ahead.

mod fence;
mod properties;
mod state;
mod steps;

use stateright::{Model, Property};

pub use state::State;
use state::{Progress, Row, Worker};

/// A tick is due every this many units of the clock.
const TICK: i8 = 2;
/// How long a cooldown lasts.
const COOLDOWN: i8 = 3;
/// How far a recorded time may be ahead of the clock and still count. The clock goes back by this.
const TOLERANCE: i8 = 2;
/// The time of a clock that was ahead: never reached here.
const FAR_AHEAD: i8 = 20;
/// The clock stops here, during the third tick. It bounds the exploration.
const LAST_MOMENT: i8 = 5;

/// The protocol as implemented, or with one defect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// No defect.
    AsImplemented,
    /// Nothing records which ticks are done; there is only the lock.
    NoFence,
    /// Each worker keeps the fence in its own memory.
    FenceInMemory,
    /// The fence is read before the lock is taken.
    FenceBeforeLock,
    /// The lock is released before the commit.
    LockReleasedEarly,
    /// Points are committed before the minimum.
    TwoCommits,
    /// Each worker keeps the end of its last round in its own memory.
    CooldownInMemory,
    /// A fence counts, however far ahead of the clock it is.
    FenceFarAhead,
    /// A cooldown is counted from the end of a round, however far ahead of the clock that is.
    CooldownFarAhead,
    /// A fence ahead of the clock never counts.
    NoTolerance,
    /// How far ahead a fence is, is counted from the begin of the transaction.
    AheadOfBegin,
}

/// Workers over one database.
#[derive(Clone, Debug)]
pub struct Rounds {
    /// The protocol that they follow.
    pub variant: Variant,
    /// The number of workers.
    pub workers: usize,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the fields number the workers")]
pub enum Action {
    /// The database's clock advances.
    ClockAdvances,
    /// The database's clock is set back.
    ClockGoesBack,
    /// A worker takes its next step.
    Step { worker: usize },
    /// A worker's commit succeeds, but the reply is lost.
    LoseCommitReply { worker: usize },
    /// The server aborts a worker's transaction.
    Abort { worker: usize },
    /// A worker is killed, and a new one starts.
    Restart { worker: usize },
}

impl Model for Rounds {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        let start = State {
            clock: 0,
            clock_went_back: false,
            lock_holder: None,
            points: None,
            minimum: None,
            rows: Vec::new(),
            ticks_done: Vec::new(),
            workers: vec![Worker::default(); self.workers],
        };
        let fence_ahead = Row {
            tick: FAR_AHEAD / TICK,
            started: FAR_AHEAD,
            finished: FAR_AHEAD,
        };
        let end_ahead = Row {
            tick: 0,
            started: 0,
            finished: FAR_AHEAD,
        };
        let with_row = |row| State {
            rows: vec![row],
            ticks_done: vec![row.tick],
            ..start.clone()
        };
        vec![with_row(fence_ahead), with_row(end_ahead), start.clone()]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.clock < LAST_MOMENT {
            actions.push(Action::ClockAdvances);
        }
        if !state.clock_went_back && state.clock >= TICK {
            actions.push(Action::ClockGoesBack);
        }
        // A transaction that has written the points holds the row locks.
        let rows_are_locked = (state.workers.iter())
            .any(|worker| worker.transaction.is_some_and(|open| open.points_written));
        for (worker, own) in state.workers.iter().enumerate() {
            let waits_for_rows = own.progress == Progress::Due && rows_are_locked;
            if !waits_for_rows {
                actions.push(Action::Step { worker });
            }
            if own.transaction.is_some() {
                actions.push(Action::Abort { worker });
                if own.progress == Progress::Recorded {
                    actions.push(Action::LoseCommitReply { worker });
                }
            }
            actions.push(Action::Restart { worker });
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::ClockAdvances => state.clock += 1,
            Action::ClockGoesBack => {
                state.clock -= TICK;
                state.clock_went_back = true;
            }
            Action::Step { worker } => self.step(&mut state, worker),
            Action::LoseCommitReply { worker } => {
                self.step(&mut state, worker);
                state.workers[worker].remembered = last.workers[worker].remembered;
            }
            // The worker finds out by its next step.
            Action::Abort { worker } => state.end_transaction(worker),
            Action::Restart { worker } => {
                state.end_transaction(worker);
                state.workers[worker] = Worker::default();
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        properties::all()
    }
}
