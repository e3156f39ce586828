//! Filling the table of users.

use std::io::{IsTerminal, stderr};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use shared::db::{Database, Error, close};
use shared::users;
use tracing::info;

/// Users per transaction: large enough to cost nothing, small enough to be seen to progress.
const CHUNK: i64 = 20_000;
/// How long the database may take to be reached.
const CONNECT: Duration = Duration::from_secs(10);
/// How often the log says how far it is, where there is no terminal to show a bar on.
const REPORT: Duration = Duration::from_secs(2);

/// Adds the users 1 to `users` that are missing, with 0 points. What was added before an error stays; the next call
/// goes on from there.
///
/// # Errors
/// When the database can't be reached or the role may not insert.
pub async fn seed(database: &Database, users: i64) -> Result<(), Error> {
    let began = Instant::now();
    let mut connection = database.connect(CONNECT).await?;
    let mut progress = Progress::new(users);
    let mut added = 0;
    let mut first = 1;
    while first <= users {
        let last = users.min(first + CHUNK - 1);
        added += users::seed(&mut connection, first..=last).await?;
        progress.reach(last);
        first = last + 1;
    }
    close(connection).await;
    drop(progress);
    info!(
        users,
        added,
        seconds = began.elapsed().as_secs_f64(),
        "seeded"
    );
    Ok(())
}

/// A bar on a terminal, now and then a log line elsewhere.
struct Progress {
    bar: ProgressBar,
    users: i64,
    reported: Instant,
}

impl Progress {
    fn new(users: i64) -> Self {
        let bar = if stderr().is_terminal() {
            ProgressBar::new(users.cast_unsigned()).with_style(
                ProgressStyle::with_template(
                    "seeding {wide_bar} {human_pos} of {human_len} users, {eta} left",
                )
                .expect("the template is a constant"),
            )
        } else {
            ProgressBar::hidden()
        };
        Self {
            bar,
            users,
            reported: Instant::now(),
        }
    }

    fn reach(&mut self, user: i64) {
        self.bar.set_position(user.cast_unsigned());
        if self.bar.is_hidden() && self.reported.elapsed() > REPORT {
            self.reported = Instant::now();
            info!(reached = user, of = self.users, "seeding");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
