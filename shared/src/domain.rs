//! The domain: who the users are, what a round does and how a query is answered, with all of their
//! SQL.
//!
//! [`users`], [`rounds`] and [`last_query`] are named for the table that they write. `choice`
//! writes `settings`, a word that means the settings of a program everywhere else.

mod choice;
pub mod last_query;
pub mod rounds;
pub mod users;

pub use choice::MinPoints;
