//! A connection pooler in front of the database. Needs PgBouncer.

use std::fs;

use private_postgres::roles;
use shared::db::Database;
use testkit::{TestDatabase, TestProgram, free_address};
use tokio::process::Command;

use crate::folder;

#[tokio::test]
#[ignore = "needs PgBouncer"]
async fn behind_a_pooler_connecting_fails_with_an_error_that_names_it_and_lasts() {
    let database = TestDatabase::new().await;
    let server = database.server.lock().await;
    let pool = format!(
        "host=127.0.0.1 port={} dbname={} user={} password={}",
        server.port(),
        database.name,
        roles::API,
        server.password()
    );
    drop(server);
    let folder = folder();
    let file = folder.path().join("pgbouncer.ini");
    for settings in [
        "pool_mode = transaction",
        "pool_mode = transaction\nignore_startup_parameters = extra_float_digits,options",
        "pool_mode = session\nignore_startup_parameters = extra_float_digits,options",
    ] {
        let address = free_address();
        let text = format!(
            "[databases]\npool = {pool}\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {}\n\
             auth_type = any\n{settings}\n",
            address.port()
        );
        fs::write(&file, text).unwrap();
        // It refuses to run as root, and has to read the file as another account.
        let mut command = Command::new("pgbouncer");
        if nix::unistd::Uid::effective().is_root() {
            command.args(["-u", "postgres"]);
        }
        command.arg(&file);
        let mut program = TestProgram::spawn(command);
        program.wait_for_output("process up").await;
        let database = Database::parse(&format!("postgres://anybody@{address}/pool"), "test");
        let error = database.unwrap().connect().await.unwrap_err();
        assert!(error.to_string().contains("behind a pooler"), "{error}");
        assert!(!error.is_transient(), "{error}");
    }
}
