//! The whole service under faults, and a checker's report on it.
//!
//! What enters is a plan, whose seed decides which faults come when; what leaves is a report, and whether every promise
//! was kept. The same seed brings the same faults in the same order; what they meet depends on the machine.

#![allow(
    clippy::missing_panics_doc,
    reason = "all of it panics where a test could not go on"
)]

mod fault;
mod fleet;
mod plan;
mod run;

pub use fault::Fault;
pub use fleet::{Fleet, Member, load};
pub use plan::Plan;
pub use run::run;
