//! The protocol of lock, fence and cooldown: `shared/src/rounds.rs`, step by step, by several workers at once.
//!
//! Any worker may begin at any time, which covers whatever its own clock says. A worker that is paused takes no step. The
//! server may end any transaction between any two steps: that is a time-out, a lost connection, a crash of Postgres, and a
//! killed worker whose successor begins anew. The answer to a commit may be lost. The database's clock goes on at any
//! moment, and may once go back.

use stateright::{Model, Property};

/// How long a cooldown lasts; a tick is due every [`TICK`].
const COOLDOWN: i8 = 3;
const TICK: i8 = 2;
/// The exploration ends here, with the third tick under way.
const END: i8 = 5;

/// As the code does it, or broken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Variant {
    /// As the code does it.
    Faithful,
    /// There is a lock, and nothing says which tick was done.
    NoFence,
    /// Each worker remembers which tick it has done.
    FenceInMemory,
    /// The fence is read before the lock is taken.
    FenceBeforeLock,
    /// The lock is let go before the commit.
    LockLetGoEarly,
    /// Points are committed before the minimum.
    TwoCommits,
    /// Each worker remembers when its last round ended.
    CooldownInMemory,
}

/// Workers over one database.
#[derive(Clone, Debug)]
pub struct Rounds {
    /// What they do.
    pub variant: Variant,
    /// How many they are.
    pub workers: usize,
}

/// A round's row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Row {
    tick: i8,
    started: i8,
    finished: i8,
}

/// A transaction on the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Transaction {
    began: i8,
    points: bool,
    row: Option<Row>,
}

/// How far a worker believes to be.
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
    /// What it keeps in memory, in variants that do.
    last: Option<Row>,
}

/// What there is at a moment.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct State {
    clock: i8,
    went_back: bool,
    lock: Option<usize>,
    /// Whose round the committed points and minimum are.
    points: Option<(usize, i8)>,
    minimum: Option<(usize, i8)>,
    rows: Vec<Row>,
    workers: Vec<Worker>,
}

/// What can happen next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// The database's clock goes on.
    Clock,
    /// The database's clock is set back.
    ClockBack,
    /// A worker takes its next step.
    Step(usize),
    /// A worker's commit is done, and the answer to it is lost.
    CommitUnheard(usize),
    /// The server ends a worker's transaction.
    End(usize),
    /// A worker is killed, and another takes its place.
    Replace(usize),
}

impl Rounds {
    /// Whether a round is to be done, seen from a transaction's beginning.
    fn is_due(&self, began: i8, last: Option<Row>) -> bool {
        let Some(last) = last else { return true };
        let fenced = self.variant != Variant::NoFence && last.tick >= began / TICK;
        !fenced && !is_cooling_down(last, began)
    }

    /// The last round, as this worker sees it now.
    fn last(&self, state: &State, worker: usize) -> Option<Row> {
        let committed = state.rows.iter().copied().max_by_key(|row| row.tick);
        let remembered = state.workers[worker].last;
        match self.variant {
            Variant::FenceInMemory => remembered,
            // The tick is the table's, the end the worker's own.
            Variant::CooldownInMemory => committed.map(|row| Row {
                finished: remembered.map_or(row.tick * TICK, |own| own.finished),
                ..row
            }),
            _ => committed,
        }
    }

    fn step(&self, state: &mut State, number: usize, heard: bool) {
        let last = self.last(state, number);
        let clock = state.clock;
        let free = state.lock.is_none();
        let worker = &mut state.workers[number];
        if worker.step == Step::Idle {
            worker.step = Step::Begun;
            worker.transaction = Some(Transaction {
                began: clock,
                points: false,
                row: None,
            });
            if self.variant == Variant::FenceBeforeLock && !self.is_due(clock, last) {
                *worker = Worker {
                    last: worker.last,
                    ..Worker::default()
                };
            }
            return;
        }
        // An error: whatever it was, it begins anew.
        let Some(mut transaction) = worker.transaction else {
            worker.step = Step::Idle;
            return;
        };
        let began = transaction.began;
        match worker.step {
            Step::Idle => {}
            Step::Begun if free => {
                worker.step = Step::Locked;
                state.lock = Some(number);
            }
            Step::Begun => end(state, number),
            Step::Locked => {
                if self.variant == Variant::FenceBeforeLock || self.is_due(began, last) {
                    worker.step = Step::Fenced;
                } else {
                    end(state, number);
                }
            }
            Step::Fenced => {
                transaction.points = true;
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
                if self.variant == Variant::LockLetGoEarly {
                    state.lock = None;
                }
            }
            Step::Recorded => {
                if heard {
                    worker.last = transaction.row;
                }
                state.rows.extend(transaction.row);
                state.points = Some((number, began));
                state.minimum = Some((number, began));
                end(state, number);
            }
        }
    }
}

/// The server ends a worker's transaction, and the worker knows.
fn end(state: &mut State, number: usize) {
    if state.lock == Some(number) {
        state.lock = None;
    }
    state.workers[number].transaction = None;
    state.workers[number].step = Step::Idle;
}

fn outlasted(row: Row) -> bool {
    row.finished / TICK > row.tick
}

fn is_cooling_down(last: Row, began: i8) -> bool {
    outlasted(last) && began - last.finished < COOLDOWN
}

impl Model for Rounds {
    type State = State;
    type Action = Action;

    fn init_states(&self) -> Vec<State> {
        vec![State {
            clock: 0,
            went_back: false,
            lock: None,
            points: None,
            minimum: None,
            rows: Vec::new(),
            workers: vec![Worker::default(); self.workers],
        }]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Action>) {
        if state.clock < END {
            actions.push(Action::Clock);
        }
        if !state.went_back && state.clock >= TICK {
            actions.push(Action::ClockBack);
        }
        for (number, worker) in state.workers.iter().enumerate() {
            // Users are locked by whoever renews them: another waits.
            let waits = worker.step == Step::Fenced
                && (state.workers.iter())
                    .any(|other| other.transaction.is_some_and(|open| open.points));
            if !waits {
                actions.push(Action::Step(number));
            }
            if worker.transaction.is_some() {
                actions.push(Action::End(number));
                if worker.step == Step::Recorded {
                    actions.push(Action::CommitUnheard(number));
                }
            }
            actions.push(Action::Replace(number));
        }
    }

    fn next_state(&self, last: &State, action: Action) -> Option<State> {
        let mut state = last.clone();
        match action {
            Action::Clock => state.clock += 1,
            Action::ClockBack => {
                state.clock -= TICK;
                state.went_back = true;
            }
            Action::Step(number) => self.step(&mut state, number, true),
            Action::CommitUnheard(number) => self.step(&mut state, number, false),
            Action::End(number) => {
                // The worker finds out by its next step.
                let believed = state.workers[number].step;
                end(&mut state, number);
                state.workers[number].step = believed;
            }
            Action::Replace(number) => {
                end(&mut state, number);
                state.workers[number] = Worker::default();
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always("each tick is done once", |_, state: &State| {
                let mut ticks: Vec<_> = state.rows.iter().map(|row| row.tick).collect();
                ticks.sort_unstable();
                ticks.windows(2).all(|pair| pair[0] != pair[1])
            }),
            Property::always("points and minimum are of one round", |_, state: &State| {
                state.points == state.minimum
            }),
            Property::always(
                "a round that outlasted its tick is followed by a cooldown",
                |_, state: &State| {
                    state
                        .rows
                        .windows(2)
                        .all(|pair| !is_cooling_down(pair[0], pair[1].started))
                },
            ),
            Property::sometimes("every tick is done", |_, state: &State| {
                state.rows.len() == 3
            }),
            Property::sometimes("missed ticks are one round", |_, state: &State| {
                state.rows.first().is_some_and(|row| row.tick == 2)
            }),
            Property::sometimes("a cooldown skips a tick", |_, state: &State| {
                state.rows.first().is_some_and(|&row| outlasted(row)) && state.clock == END
            }),
        ]
    }
}
