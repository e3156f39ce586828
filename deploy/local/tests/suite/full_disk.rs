//! A disk without space. Needs root, to mount a small one.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use testkit::TestDatabase;

use crate::service::{connected, start_process};

/// A small file system in memory, unmounted when it is dropped.
struct SmallDisk(PathBuf);

impl SmallDisk {
    fn mount() -> Self {
        let path = std::env::temp_dir().join(format!("max-two-disk-{}", std::process::id()));
        fs::create_dir(&path).unwrap();
        let status = Command::new("mount")
            .args(["-t", "tmpfs", "-o", "size=16m,mode=777", "none"])
            .arg(&path)
            .status();
        assert!(status.unwrap().success(), "mounting needs root");
        Self(path)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily, because the server may still have files open there.
        let _ = Command::new("umount").arg("--lazy").arg(&self.0).status();
        let _ = fs::remove_dir(&self.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs root, to mount a disk"]
async fn a_full_disk_stops_rounds_until_there_is_space_and_no_reader() {
    let disk = SmallDisk::mount();
    let database = TestDatabase::with_own_server(&[]).await;
    database.seed(50_000).await;
    let tablespace = disk.0.join("tablespace");
    for statement in [
        // As the server's account, which under root is another than ours.
        &format!("copy (select) to program 'mkdir {}'", tablespace.display()),
        &format!(
            "create tablespace small location '{}'",
            tablespace.display()
        ),
        // A round finds no space on the table's own pages, nor on the disk.
        "alter table users set (fillfactor = 100)",
        "alter table users set tablespace small",
        "vacuum full users",
    ] {
        database.run(statement).await;
    }
    let filler = disk.0.join("filler");
    fs::write(&filler, vec![0; 16 * 1024 * 1024]).unwrap_err();
    let mut worker = start_process("worker", &database.worker_url, &[]);
    worker.wait_for_output("No space left on device").await;
    let mut replica = start_process("api", &database.api_url, &[]);
    let client = connected(&mut replica).await;
    assert_eq!(client.get("/").await.status, 200);
    let rounds: i64 = database.value("select count(*) from rounds").await;
    assert_eq!(rounds, 0);
    fs::remove_file(filler).unwrap();
    worker.wait_for_event("round_done").await;
    assert!(worker.stop().await.success());
    assert!(replica.stop().await.success());
}
