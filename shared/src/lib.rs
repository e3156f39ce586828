//! The domain of Max Two with all of its SQL, and [`program`], which is what the programs have in
//! common besides.
//!
//! [`users`], [`rounds`] and [`last_query`] are named for the table that they write, and `choice`
//! writes `settings`. [`db`] opens database sessions, [`schema`] applies migrations, [`clock`]
//! finds recorded times that are ahead, and [`backoff`] delays retries. Nothing here serves HTTP or
//! depends on a scheduler.

pub mod backoff;
mod choice;
pub mod clock;
pub mod db;
pub mod last_query;
pub mod program;
pub mod rounds;
pub mod schema;
pub mod users;

pub use choice::MinPoints;
