//! Adds users in batches, each a transaction, with a progress bar.

use std::io::{IsTerminal, stderr};
use std::ops::RangeInclusive;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use shared::db::{Database, Error, Session, with_timeout};
use shared::domain::users;
use tracing::{info, warn};

/// Large enough for speed, small enough to show progress.
const USERS_PER_TRANSACTION: i64 = 20_000;
/// Bounds a transaction, far above the time that it takes: the network may have gone silent.
const TRANSACTION_TIMEOUT: Duration = Duration::from_mins(1);
/// How often progress is logged where there is no terminal for the bar.
const PROGRESS_INTERVAL: Duration = Duration::from_secs(2);

/// Adds the users 1 to `users` that are missing, with 0 points. It only reads those that exist, and
/// it waits while another session locks the table.
///
/// Returns how many it has added.
///
/// # Errors
/// When the connection fails or the role may not insert. What was added before stays; call
/// it again to add the rest.
pub async fn seed(database: &Database, users: i64) -> Result<u64, Error> {
    let started_at = Instant::now();
    let mut session = database.connect().await?;
    let mut progress = Progress::new(users);
    let mut added = 0;
    let mut first = 1;
    while first <= users {
        let last = users.min(first + USERS_PER_TRANSACTION - 1);
        added += seed_range(&mut session, first..=last).await?;
        progress.update(last);
        first = last + 1;
    }
    drop(progress);
    info!(
        event = "seeded",
        users,
        added,
        duration_seconds = started_at.elapsed().as_secs_f64(),
        "seeded"
    );
    Ok(added)
}

/// Adds the missing users of `ids`, and waits for the locks for as long as it takes.
async fn seed_range(session: &mut Session, ids: RangeInclusive<i64>) -> Result<u64, Error> {
    let mut is_logged = false;
    loop {
        let adding = users::add_missing(session, ids.clone());
        match with_timeout(TRANSACTION_TIMEOUT, adding).await {
            // No pause is needed: each attempt has waited for the session's `lock_timeout`.
            Err(error) if error.is_lock_timeout() => {
                if !is_logged {
                    is_logged = true;
                    warn!(
                        event = "seed_waiting",
                        first_user = ids.start(),
                        "users are locked; retrying"
                    );
                }
            }
            result => return result,
        }
    }
}

/// A bar on a terminal, a log line from time to time elsewhere.
struct Progress {
    bar: ProgressBar,
    users: i64,
    logged_at: Instant,
}

impl Progress {
    fn new(users: i64) -> Self {
        let bar = if stderr().is_terminal() {
            ProgressBar::new(users.cast_unsigned()).with_style(
                ProgressStyle::with_template(
                    "seeding [{wide_bar}] {human_pos} of {human_len} users, {eta} left",
                )
                .expect("the constant template is valid")
                .progress_chars("=> "),
            )
        } else {
            ProgressBar::hidden()
        };
        Self {
            bar,
            users,
            logged_at: Instant::now(),
        }
    }

    fn update(&mut self, last_user: i64) {
        self.bar.set_position(last_user.cast_unsigned());
        if self.bar.is_hidden() && self.logged_at.elapsed() > PROGRESS_INTERVAL {
            self.logged_at = Instant::now();
            info!(last_user, users = self.users, "seeding");
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
    }
}
