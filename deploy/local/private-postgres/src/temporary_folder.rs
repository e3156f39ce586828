//! A new folder, removed when its value is dropped. If this process is killed, it stays, unless a
//! [`ParentDeathGuard`](crate::ParentDeathGuard) removes it.

use std::fs::{self, DirBuilder};
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use rand::distr::{Alphanumeric, SampleString};

/// A new folder, which is removed when this is dropped.
#[derive(Debug)]
pub(crate) struct TemporaryFolder(PathBuf);

impl TemporaryFolder {
    /// Creates a folder in `parent` that only the account of this process can enter.
    pub(crate) fn create(parent: &Path, prefix: &str) -> io::Result<Self> {
        let path = parent.join(format!("{prefix}{}", random_name()));
        DirBuilder::new().mode(0o700).create(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // Its guard may have removed it already.
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A name that nobody else has, of letters and digits.
pub(crate) fn random_name() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), 16)
}
