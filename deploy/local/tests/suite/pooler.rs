//! A connection pooler in front of the database. Needs PgBouncer.

use std::fs;
use std::path::Path;

use testkit::{Client, Program, TestDatabase, free_address};
use tokio::process::Command;

use crate::folder;
use crate::service::{replica, worker};

/// Starts PgBouncer in front of the database, and returns the URL of the role's pool.
async fn start_pooler(
    database: &TestDatabase,
    folder: &Path,
    settings: &str,
) -> (Program, impl Fn(&str) -> String) {
    let address = free_address();
    let server = database.server.lock().await;
    let pools = ["max_two_api", "max_two_worker"].map(|role| {
        format!(
            "{role} = host=127.0.0.1 port={} dbname={} user={role} password={}\n",
            server.port(),
            database.name,
            server.password()
        )
    });
    let file = folder.join("pgbouncer.ini");
    let text = format!(
        "[databases]\n{}[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\n\
         auth_type = any\n{settings}\n",
        pools.concat(),
        address.port()
    );
    fs::write(&file, text).unwrap();
    // It refuses to run as root, and has to read the file as another account.
    let mut command = Command::new("pgbouncer");
    if nix::unistd::Uid::effective().is_root() {
        command.args(["-u", "postgres"]);
    }
    command.arg(&file);
    let mut program = Program::spawn(command);
    program.wait_for_output("process up").await;
    (program, move |role| {
        format!("postgres://anybody@{address}/{role}")
    })
}

#[tokio::test]
#[ignore = "needs PgBouncer"]
async fn behind_a_pooler_both_programs_log_at_once_what_they_need() {
    let database = TestDatabase::with_users(100).await;
    let folder = folder();
    for settings in [
        "pool_mode = transaction",
        "pool_mode = transaction\nignore_startup_parameters = extra_float_digits,options",
        "pool_mode = session\nignore_startup_parameters = extra_float_digits,options",
    ] {
        let (_pooler, url) = start_pooler(&database, folder.path(), settings).await;
        let mut worker = worker(&url("max_two_worker"), &[]);
        let mut replica = replica(&url("max_two_api"));
        for program in [&mut worker, &mut replica] {
            program
                .wait_for_output("the database is behind a pooler")
                .await;
            program.wait_for_output("\"ERROR\"").await;
        }
        worker.wait_for_event("round_failed").await;
        replica.wait_for_event("database_refused").await;
        let client = Client::new(replica.address("listen").await);
        assert_eq!(client.get("/readyz").await.status, 503);
        assert!(worker.stop().await.success());
        assert!(replica.stop().await.success());
    }
    assert_eq!(
        database.value::<i64>("select count(*) from rounds").await,
        0
    );
}
