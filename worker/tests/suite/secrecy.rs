use std::collections::HashSet;

use testkit::TestDatabase;

use crate::{start, worker};

/// All numbers in everything that a round with this minimum printed, at the most talkative level.
async fn numbers(database: &TestDatabase, minimum: &str) -> HashSet<String> {
    let trace = [("RUST_LOG", "trace"), ("LOG_FORMAT", "text")];
    let mut program = worker(database, &["round", "--min-points", minimum], &trace);
    assert!(program.wait().await.success(), "{}", program.output());
    let said = program.output();
    assert!(said.contains("round done"), "{said}");
    said.split(|character: char| !character.is_ascii_digit())
        .map(ToOwned::to_owned)
        .collect()
}

/// Numbers that recur in every round of a minimum, but in no round of the other, would be that minimum.
#[tokio::test]
async fn no_log_line_tells_the_minimum() {
    let database = TestDatabase::with_users(100).await;
    let mut seen = [Vec::new(), Vec::new()];
    for (place, minimum) in [(0, "86"), (1, "13")].repeat(4) {
        seen[place].push(numbers(&database, minimum).await);
    }
    for (place, minimum) in [(0, "86"), (1, "13")] {
        let always = seen[place].iter().all(|numbers| numbers.contains(minimum));
        let elsewhere = seen[1 - place]
            .iter()
            .any(|numbers| numbers.contains(minimum));
        assert!(
            !always || elsewhere,
            "{minimum} is in the logs of every round that has it as its minimum"
        );
    }
}

#[tokio::test]
async fn no_log_line_tells_the_password() {
    let database = TestDatabase::new().await;
    let password = database.server.lock().await.password().to_owned();
    for command in [&["migrate"][..], &["seed", "--users", "5"], &["round"]] {
        let mut program = start(
            command,
            &[("DATABASE_URL", &*database.owner), ("RUST_LOG", "trace")],
        );
        assert!(program.wait().await.success(), "{}", program.output());
        assert!(
            !program.output().contains(&password),
            "{}",
            program.output()
        );
    }
    let wrong = database.owner.replace(&password, "canary-password");
    let mut program = start(
        &["round"],
        &[("DATABASE_URL", &*wrong), ("RUST_LOG", "trace")],
    );
    assert_eq!(program.wait().await.code(), Some(1));
    assert!(
        program.output().contains("password authentication failed"),
        "{}",
        program.output()
    );
    assert!(
        !program.output().contains("canary-password"),
        "{}",
        program.output()
    );
}
