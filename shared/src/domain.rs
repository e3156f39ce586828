//! The domain: who the users are, what a round does and how a query is answered, with all of their
//! SQL.
//!
//! [`users`], [`rounds`] and [`last_query`] are named for the table that they write. `shown_users`
//! writes `settings`, a word that means the settings of a program everywhere else.

pub mod last_query;
pub mod rounds;
mod shown_users;
pub mod users;

pub use shown_users::MinPoints;
