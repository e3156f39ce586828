//! What keeps a launcher from starting: a bad setting, or another launcher.

use testkit::free_address;

use crate::{folder, launcher, ready};

#[tokio::test]
async fn a_bad_setting_is_named_before_anything_starts() {
    let folder = folder();
    for (arguments, names) in [
        (&["--replicas", "0"][..], "--replicas"),
        (&["--schedule", "often"], "--schedule"),
        (&["--listen", "4000"], "--listen"),
        (&["--workers", "many"], "--workers"),
    ] {
        let mut program = launcher(folder.path(), arguments);
        assert_eq!(program.wait().await.code(), Some(2), "{}", program.output());
        assert!(program.output().contains(names), "{}", program.output());
        assert_eq!(program.output().lines().count(), 1);
    }
    let mut program = launcher(folder.path(), &["--postgres-bin", "/nowhere"]);
    assert_eq!(program.wait().await.code(), Some(2));
    assert!(
        program.output().contains("POSTGRES_BIN: /nowhere"),
        "{}",
        program.output()
    );
}

#[tokio::test]
async fn a_second_launcher_on_the_same_folder_or_port_is_refused() {
    let folder = folder();
    let mut first = launcher(folder.path(), &["--replicas", "1"]);
    ready(&mut first).await;
    let mut second = launcher(folder.path(), &[]);
    assert_eq!(second.wait().await.code(), Some(1));
    assert!(
        second.output().contains("is in use by another max-two"),
        "{}",
        second.output()
    );

    let address = first
        .output()
        .lines()
        .find_map(|line| {
            Some(
                line.strip_prefix("Max Two is ready: http://")?
                    .trim_end_matches('/')
                    .to_owned(),
            )
        })
        .unwrap();
    let mut third = launcher(&folder.path().join("other"), &["--listen", &address]);
    assert_eq!(third.wait().await.code(), Some(1));
    assert!(
        third
            .output()
            .contains(&format!("LISTEN {address} can't be used")),
        "{}",
        third.output()
    );
    assert!(first.stop().await.success());
}

#[tokio::test]
async fn of_two_launchers_that_start_at_once_on_a_port_one_is_refused() {
    let folder = folder();
    let address = free_address().to_string();
    let arguments = ["--replicas", "1", "--listen", &address];
    let mut first = launcher(&folder.path().join("first"), &arguments);
    let mut second = launcher(&folder.path().join("second"), &arguments);
    let (status, is_first) = tokio::select! {
        status = first.wait() => (status, true),
        status = second.wait() => (status, false),
    };
    assert_eq!(status.code(), Some(1));
    let (refused, mut other) = if is_first {
        (first, second)
    } else {
        (second, first)
    };
    assert_eq!(refused.output().lines().count(), 1, "{}", refused.output());
    assert!(
        refused
            .output()
            .contains(&format!("LISTEN {address} can't be used")),
        "{}",
        refused.output()
    );
    ready(&mut other).await;
    assert!(other.stop().await.success());
}
