//! Neither the minimum nor a password is logged, at any level.

use std::collections::HashSet;

use testkit::TestDatabase;

use crate::{start, worker};

/// All numbers in the output of a round with this minimum, at the most verbose log level.
async fn numbers(database: &TestDatabase, minimum: &str) -> HashSet<String> {
    let trace = [("RUST_LOG", "trace"), ("LOG_FORMAT", "text")];
    let mut program = worker(database, &["round", "--min-points", minimum], &trace);
    assert!(program.wait().await.success(), "{}", program.output());
    let output = program.output();
    assert!(output.contains("round done"), "{output}");
    output
        .split(|character: char| !character.is_ascii_digit())
        .map(ToOwned::to_owned)
        .collect()
}

/// A number in the output of every round with one minimum, and of no round with the other, would be
/// that minimum.
#[tokio::test]
async fn no_log_line_contains_the_minimum() {
    let database = TestDatabase::with_users(100).await;
    let mut seen = [Vec::new(), Vec::new()];
    for (index, minimum) in [(0, "86"), (1, "13")].repeat(4) {
        seen[index].push(numbers(&database, minimum).await);
    }
    for (index, minimum) in [(0, "86"), (1, "13")] {
        let always = seen[index].iter().all(|numbers| numbers.contains(minimum));
        let with_the_other = seen[1 - index]
            .iter()
            .any(|numbers| numbers.contains(minimum));
        assert!(
            !always || with_the_other,
            "the logs of every round with the minimum {minimum} contain it"
        );
    }
}

#[tokio::test]
async fn no_log_line_contains_the_password() {
    let database = TestDatabase::new().await;
    let password = database.server.lock().await.password().to_owned();
    let wrong = database.owner_url.replace(&password, "canary-password");
    for (arguments, url, status) in [
        (&["migrate"][..], &database.owner_url, 0),
        (&["seed", "--users", "5"], &database.owner_url, 0),
        (&["round"], &database.owner_url, 0),
        (&["round"], &wrong, 1),
    ] {
        let environment = [("DATABASE_URL", &**url), ("RUST_LOG", "trace")];
        let mut program = start(arguments, &environment);
        assert_eq!(program.wait().await.code(), Some(status), "{arguments:?}");
        let output = program.output();
        let is_refused = output.contains("password authentication failed");
        assert_eq!(is_refused, status == 1, "{output}");
        for secret in [&password, "canary-password"] {
            assert!(!output.contains(secret), "{output}");
        }
    }
}
