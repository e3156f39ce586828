//! The protocol of lock, fence and cooldown: `shared/src/rounds.rs`, step by step, by several
//! workers at once.
//!
//! A worker may begin at any time, whatever its own clock shows, and may be paused between any two
//! steps. The server may abort any transaction between any two steps. That covers timeouts, lost
//! connections, crashes of Postgres, and killed workers that are started again. The reply to a
//! commit may be lost. The database's clock may advance at any moment, and may go back once. It may
//! have been far ahead before: then there is a round whose tick, or only its end, is far ahead.

use stateright::{Model, Property};

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

/// A row of the table `rounds`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    tick: i8,
    started: i8,
    finished: i8,
}

/// An open transaction on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Transaction {
    began: i8,
    points_written: bool,
    row: Option<Row>,
}

/// A worker's own view of its progress.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
enum Step {
    #[default]
    Idle,
    Begun,
    Locked,
    Fenced,
    Renewed,
    Recorded,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Worker {
    step: Step,
    transaction: Option<Transaction>,
    /// Its last round, for the variants that keep it in memory.
    remembered: Option<Row>,
}

/// The database and the workers at one moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    clock: i8,
    clock_went_back: bool,
    lock_holder: Option<usize>,
    /// The worker and the begin of the round that committed the points.
    points: Option<(usize, i8)>,
    /// The worker and the begin of the round that committed the minimum.
    minimum: Option<(usize, i8)>,
    rows: Vec<Row>,
    /// The ticks of all rounds, those included whose rows are gone.
    done: Vec<i8>,
    workers: Vec<Worker>,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The database's clock advances.
    ClockAdvances,
    /// The database's clock is set back.
    ClockGoesBack,
    /// A worker takes its next step.
    Step(usize),
    /// A worker's commit succeeds, but the reply is lost.
    CommitReplyLost(usize),
    /// The server aborts a worker's transaction.
    Abort(usize),
    /// A worker is killed, and a new one starts.
    Restart(usize),
}

impl Rounds {
    /// Whether a transaction that began at this time must do a round.
    fn is_due(&self, began: i8, last: Option<Row>) -> bool {
        let Some(last) = last else { return true };
        let fenced = self.variant != Variant::NoFence && last.tick >= began / TICK;
        let cooling_down = match self.variant {
            Variant::CooldownFarAhead => {
                outlasted_its_tick(last) && began - last.finished < COOLDOWN
            }
            _ => is_cooling_down(last, began),
        };
        !fenced && !cooling_down
    }

    /// The latest time that counts, for a transaction that began at this time.
    fn horizon(&self, clock: i8, began: Option<i8>) -> i8 {
        match self.variant {
            Variant::FenceFarAhead => clock + FAR_AHEAD,
            Variant::NoTolerance => clock,
            Variant::AheadOfBegin => began.unwrap_or(clock) + TOLERANCE,
            _ => clock + TOLERANCE,
        }
    }

    /// The last round, as this worker sees it now.
    fn last_round(&self, state: &State, number: usize) -> Option<Row> {
        let transaction = state.workers[number].transaction;
        let horizon = self.horizon(state.clock, transaction.map(|open| open.began));
        let counted = (state.rows.iter()).filter(|row| row.tick * TICK <= horizon);
        let committed = counted.copied().max_by_key(|row| row.tick);
        let remembered = state.workers[number].remembered;
        match self.variant {
            Variant::FenceInMemory => remembered,
            // The tick comes from the table, the end from the worker's memory.
            Variant::CooldownInMemory => committed.map(|row| Row {
                finished: remembered.map_or(row.tick * TICK, |own| own.finished),
                ..row
            }),
            _ => committed,
        }
    }

    fn step(&self, state: &mut State, number: usize, reply: CommitReply) {
        let last_round = self.last_round(state, number);
        let clock = state.clock;
        let worker = &mut state.workers[number];
        if worker.step == Step::Idle {
            // The broken variant checks the fence here, and does not begin.
            if self.variant != Variant::FenceBeforeLock || self.is_due(clock, last_round) {
                worker.begin(clock);
            }
            return;
        }
        let Some(mut transaction) = worker.transaction else {
            // The statement fails, because the server aborted the transaction: start over.
            worker.step = Step::Idle;
            return;
        };
        let began = transaction.began;
        match worker.step {
            Step::Idle => {}
            Step::Begun if state.lock_holder.is_none() => {
                worker.step = Step::Locked;
                state.lock_holder = Some(number);
            }
            Step::Begun => end(state, number),
            Step::Locked => {
                if self.variant == Variant::FenceBeforeLock || self.is_due(began, last_round) {
                    worker.step = Step::Fenced;
                } else {
                    end(state, number);
                }
            }
            Step::Fenced => {
                transaction.points_written = true;
                worker.transaction = Some(transaction);
                worker.step = Step::Renewed;
                if self.variant == Variant::TwoCommits {
                    state.points = Some((number, began));
                }
            }
            Step::Renewed => {
                transaction.row = Some(Row {
                    tick: began / TICK,
                    started: began,
                    finished: clock.max(began),
                });
                worker.transaction = Some(transaction);
                worker.step = Step::Recorded;
                if self.variant == Variant::LockReleasedEarly {
                    state.lock_holder = None;
                }
            }
            Step::Recorded => {
                if reply == CommitReply::Arrives {
                    worker.remembered = transaction.row;
                }
                // The new row is the fence. Those far ahead would only count later.
                let horizon = self.horizon(clock, Some(began));
                state.rows.retain(|row| row.finished <= horizon);
                state.rows.extend(transaction.row);
                state.done.extend(transaction.row.map(|row| row.tick));
                state.points = Some((number, began));
                state.minimum = Some((number, began));
                end(state, number);
            }
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum CommitReply {
    Arrives,
    IsLost,
}

impl Worker {
    fn begin(&mut self, clock: i8) {
        self.step = Step::Begun;
        self.transaction = Some(Transaction {
            began: clock,
            points_written: false,
            row: None,
        });
    }
}

/// Ends a worker's transaction; the worker knows it.
fn end(state: &mut State, number: usize) {
    if state.lock_holder == Some(number) {
        state.lock_holder = None;
    }
    state.workers[number].transaction = None;
    state.workers[number].step = Step::Idle;
}

fn outlasted_its_tick(row: Row) -> bool {
    row.finished / TICK > row.tick
}

fn is_cooling_down(last: Row, began: i8) -> bool {
    outlasted_its_tick(last) && (-TOLERANCE..COOLDOWN).contains(&(began - last.finished))
}

/// Whether something holds a round back that is no further ahead than clocks differ: a round for
/// the tick that is due or for a later one, or a cooldown.
fn is_held_back(state: &State) -> bool {
    let horizon = state.clock + TOLERANCE;
    state.rows.iter().any(|&row| {
        let is_fence = row.tick >= state.clock / TICK && row.tick * TICK <= horizon;
        is_fence || row.finished <= horizon && is_cooling_down(row, state.clock)
    })
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
            done: Vec::new(),
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
            done: vec![row.tick],
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
        for (number, worker) in state.workers.iter().enumerate() {
            // A transaction that has written the points holds the row locks: the UPDATE waits.
            let waits_for_rows = worker.step == Step::Fenced
                && (state.workers.iter())
                    .any(|other| other.transaction.is_some_and(|open| open.points_written));
            if !waits_for_rows {
                actions.push(Action::Step(number));
            }
            if worker.transaction.is_some() {
                actions.push(Action::Abort(number));
                if worker.step == Step::Recorded {
                    actions.push(Action::CommitReplyLost(number));
                }
            }
            actions.push(Action::Restart(number));
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
            Action::Step(number) => self.step(&mut state, number, CommitReply::Arrives),
            Action::CommitReplyLost(number) => self.step(&mut state, number, CommitReply::IsLost),
            Action::Abort(number) => {
                // The worker finds out by its next step.
                let step = state.workers[number].step;
                end(&mut state, number);
                state.workers[number].step = step;
            }
            Action::Restart(number) => {
                end(&mut state, number);
                state.workers[number] = Worker::default();
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("each tick is done once", |_, state: &State| {
                let mut ticks = state.done.clone();
                ticks.sort_unstable();
                ticks.windows(2).all(|pair| pair[0] != pair[1])
            }),
            Property::always(
                "points and minimum come from one round",
                |_, state: &State| state.points == state.minimum,
            ),
            Property::always(
                "a round that outlasted its tick is followed by a cooldown",
                |_, state: &State| {
                    state
                        .rows
                        .windows(2)
                        .all(|pair| !is_cooling_down(pair[0], pair[1].started))
                },
            ),
            Property::always(
                "a time far ahead of the clock does not stop rounds",
                |model: &Self, state: &State| {
                    let last_round = model.last_round(state, 0);
                    is_held_back(state) || model.is_due(state.clock, last_round)
                },
            ),
            Property::sometimes("every tick is done", |_, state: &State| {
                state.rows.len() == 3
            }),
            Property::sometimes("missed ticks become one round", |_, state: &State| {
                state.rows.first().is_some_and(|row| row.tick == 2)
            }),
            Property::sometimes("a cooldown skips a tick", |_, state: &State| {
                state
                    .rows
                    .first()
                    .is_some_and(|&row| outlasted_its_tick(row) && row.finished <= LAST_MOMENT)
                    && state.clock == LAST_MOMENT
            }),
        ]
    }
}
