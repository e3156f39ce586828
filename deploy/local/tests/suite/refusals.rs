//! What keeps a launcher from starting: a bad setting, or another launcher.

use std::fs;

use nix::unistd::{Uid, User};
use testkit::free_address;

use crate::service::EXECUTABLE;
use crate::{fake_postgres, folder, launcher, ready, start};

#[tokio::test]
async fn a_bad_setting_is_named_before_anything_starts() {
    let folder = folder();
    let version = "echo 'postgres (PostgreSQL) 13.20'";
    let older = &*fake_postgres(&folder.path().join("13"), version);
    for (arguments, part) in [
        (["--replicas", "0"], "--replicas"),
        (["--schedule", "often"], "--schedule"),
        (["--listen", "4000"], "--listen"),
        (["--postgres-bin", "/nowhere"], "POSTGRES_BIN: /nowhere"),
        (
            ["--postgres-bin", older],
            "is Postgres 13, and Max Two needs 15 or newer",
        ),
    ] {
        let mut program = launcher(folder.path(), &arguments);
        assert_eq!(program.wait().await.code(), Some(2), "{}", program.output());
        let output = program.output();
        assert!(output.contains(part), "{output}");
        assert_eq!(output.lines().count(), 1);
    }
    assert!(!folder.path().join("data").exists());
}

#[tokio::test]
async fn of_two_launchers_on_the_same_port_or_folder_one_is_refused() {
    let folder = folder();
    let address = free_address().to_string();
    let arguments = ["--listen", &address];
    let folders = ["first", "second"].map(|name| folder.path().join(name));
    // At the same moment.
    let [mut first, mut second] = folders
        .each_ref()
        .map(|folder| launcher(folder, &arguments));
    let (status, is_first) = tokio::select! {
        status = first.wait() => (status, true),
        status = second.wait() => (status, false),
    };
    assert_eq!(status.code(), Some(1));
    let (refused, mut other, folder) = if is_first {
        (first, second, &folders[1])
    } else {
        (second, first, &folders[0])
    };
    let reason = format!("LISTEN {address} can't be used");
    let output = refused.output();
    assert!(output.contains(&reason), "{output}");
    // Also once replicas share the port.
    ready(&mut other).await;
    for (arguments, reason) in [
        (&arguments[..], &*reason),
        (&[], "is in use by another max-two"),
    ] {
        let mut third = launcher(folder, arguments);
        assert_eq!(third.wait().await.code(), Some(1));
        assert!(third.output().contains(reason), "{}", third.output());
    }
    assert!(other.stop().await.success());
}

/// They inherit the launcher's environment.
#[tokio::test]
async fn a_bad_setting_of_its_processes_ends_the_launcher() {
    let folder = folder();
    let arguments = ["REQUEST_TIMEOUT=soon", EXECUTABLE];
    let mut program = start("env", &arguments, &folder.path().join("data"));
    assert_eq!(program.wait().await.code(), Some(1));
    let output = program.output();
    assert!(output.contains("--request-timeout"), "{output}");
    assert!(output.contains("the replicas refuse a setting"), "{output}");
}

#[tokio::test]
async fn a_folder_of_another_account_is_named_with_its_owner() {
    let folder = folder();
    let data = folder.path().join("data");
    // What root has made is not for others. Only root can start this as another account.
    let (data, account) = if Uid::effective().is_root() {
        let mut first = launcher(folder.path(), &[]);
        ready(&mut first).await;
        assert!(first.stop().await.success());
        (data, User::from_name("nobody").unwrap().unwrap().uid)
    } else {
        ("/".into(), Uid::effective())
    };
    let program = folder.path().join("max-two");
    fs::copy(EXECUTABLE, &program).unwrap();
    let account = format!("--reuid={account}");
    let mut program = start("setpriv", &[&account, program.to_str().unwrap()], &data);
    assert_eq!(program.wait().await.code(), Some(1));
    let output = program.output();
    let error = output.lines().last().unwrap();
    assert!(error.contains("belongs to the account root"), "{output}");
    assert!(!error.contains("denied"), "{output}");
}
