//! Runs the whole service under faults and reports which promises were broken.
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
