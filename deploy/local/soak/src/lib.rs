//! Runs the whole service under faults and reports which promises were broken.
//!
//! The program draws the faults at random. The tests in `tests/suite` use the same processes for
//! single faults: crashes, a standby, wrong clocks, a full disk, a pooler, minutes of silence; and
//! for users that Citus spreads over nodes.
//!
//! The seed of the plan decides the faults and their order. The moment that each one hits depends
//! on the machine.

#![allow(
    clippy::missing_panics_doc,
    reason = "everything here panics where a test can't go on"
)]

mod fault;
mod plan;
mod processes;
mod run;

pub use fault::{Fault, Target};
pub use plan::Plan;
pub use processes::{Process, Processes, start_load};
pub use run::run;
