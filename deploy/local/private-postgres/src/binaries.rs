//! Finds the folder of the installed Postgres binaries, or downloads them: a folder with `initdb`
//! and `postgres`. Other programs may be missing there, as in a download.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use shared::db::MIN_POSTGRES_VERSION;

use crate::account::Account;
use crate::download::{self, cache};
use crate::{Error, failed};

/// Folders with one subfolder per version, whose programs are in `bin`: those of Debian, of the
/// RPMs of postgresql.org (and /usr/local), of a build from source, of EDB on Linux and on macOS,
/// of Homebrew on Apple silicon and on Intel, and of Postgres.app.
const INSTALL_FOLDERS: [&str; 8] = [
    "/usr/lib/postgresql",
    "/usr",
    "/usr/local",
    "/opt/PostgreSQL",
    "/Library/PostgreSQL",
    "/opt/homebrew/opt",
    "/usr/local/opt",
    "/Applications/Postgres.app/Contents/Versions",
];

/// The command that installs Postgres on this system.
fn install_command() -> &'static str {
    match fs::read_to_string("/etc/redhat-release") {
        _ if cfg!(target_os = "macos") => "brew install postgresql@17",
        // Their default is 10 or 13.
        Ok(name) if name.contains(" release 8.") || name.contains(" release 9") => {
            "sudo dnf module install -y postgresql:15/server"
        }
        Ok(_) => "sudo dnf install -y postgresql-server",
        Err(_) => "sudo apt-get install -y postgresql",
    }
}

/// The folder that holds `initdb` and `postgres`.
#[derive(Clone, Debug)]
pub struct Binaries {
    folder: PathBuf,
    major: u32,
}

impl Binaries {
    /// Finds the binaries in the folder that the setting `POSTGRES_BIN` names.
    ///
    /// # Errors
    /// When there are none, or they are too old.
    pub fn named(postgres_bin: &Path) -> Result<Self, Error> {
        let what = match Self::at(postgres_bin) {
            None => "holds no initdb and postgres that can be run".to_owned(),
            Some(Self { major, .. }) if major < MIN_POSTGRES_VERSION => {
                format!("is Postgres {major}, and Max Two needs {MIN_POSTGRES_VERSION} or newer")
            }
            Some(binaries) => return Ok(binaries),
        };
        let folder = postgres_bin.display();
        Err(Error(format!("POSTGRES_BIN: {folder} {what}")))
    }

    /// Finds the binaries that the variable `POSTGRES_BIN` names, else installed or downloaded
    /// ones: for tests, which have no settings.
    ///
    /// # Errors
    /// As for [`Self::find`].
    pub fn from_env() -> Result<Self, Error> {
        let postgres_bin = env::var_os("POSTGRES_BIN").filter(|folder| !folder.is_empty());
        Self::find(postgres_bin.as_deref().map(Path::new), None, || {})
    }

    /// Finds the binaries in `postgres_bin`, if it is given; else installed or downloaded ones. If
    /// the server's `folder` holds data, they have the major version that made the data.
    /// `downloading` is called before a download, which may take long.
    ///
    /// # Errors
    /// As for [`Self::named`]; when the data need a version that is not there; and when no binaries
    /// are installed and the download fails.
    pub fn find(
        postgres_bin: Option<&Path>,
        folder: Option<&Path>,
        downloading: impl FnOnce(),
    ) -> Result<Self, Error> {
        let data_major = folder.map(major_of_data).transpose()?.flatten();
        let is_right = |found: &Self| {
            data_major.map_or(found.major >= MIN_POSTGRES_VERSION, |major| {
                found.major == major
            })
        };
        let found = match postgres_bin {
            Some(postgres_bin) => Some(Self::named(postgres_bin)?).filter(is_right),
            None => Self::installed(is_right),
        };
        if let Some(found) = found {
            return Ok(found);
        }
        match data_major {
            Some(major) if postgres_bin.is_some() || major != download::MAJOR => {
                Err(Error(format!(
                    "the data were made by Postgres {major}; install that version and name its \
                     folder with POSTGRES_BIN, or name another --data-dir for new data"
                )))
            }
            _ => {
                downloading();
                Self::download()
            }
        }
    }

    fn download() -> Result<Self, Error> {
        let downloaded = download::download().and_then(|folder| {
            Self::at(&folder.join("bin"))
                .ok_or_else(|| Error(format!("{} can't be run", folder.display())))
        });
        downloaded.map_err(|error| {
            Error(format!(
                "no Postgres {MIN_POSTGRES_VERSION} or newer is on PATH or in the usual folders, and the \
                 download failed ({error}); install it with: {}",
                install_command()
            ))
        })
    }

    /// The path of one of the programs.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Finds the binaries in a folder, if the server's account can run them. Some managers of
    /// versions put programs on `PATH` that fail while no version is chosen.
    fn at(folder: &Path) -> Option<Self> {
        // A folder on PATH may link to only some of the programs. The target folder has them all.
        let initdb = fs::canonicalize(folder.join("initdb")).ok()?;
        let folder = initdb.parent()?.to_owned();
        let account = Account::for_server(&folder).ok()?;
        let mut postgres = account.command(&folder.join("postgres"));
        let output = postgres.arg("--version").output().ok()?;
        // Such as `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)` or `… 19devel`.
        let text = String::from_utf8_lossy(&output.stdout);
        let (_, version) = text.split_once("(PostgreSQL) ")?;
        let major = first_number(version)?;
        output.status.success().then_some(Self { folder, major })
    }

    /// The first ones on `PATH`, else the newest in the usual folders, else downloaded ones.
    fn installed(is_right: impl Fn(&Self) -> bool) -> Option<Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        let mut on_path = env::split_paths(&path).filter_map(|folder| Self::at(&folder));
        let folders = INSTALL_FOLDERS.iter().map(Path::new);
        let usual = folders.flat_map(in_versions_of).filter(&is_right);
        on_path
            .find(&is_right)
            .or_else(|| usual.max_by_key(|binaries| binaries.major))
            .or_else(|| in_versions_of(&cache()?).find(&is_right))
    }
}

/// The major version that made the data in a server's folder, if there are any.
fn major_of_data(folder: &Path) -> Result<Option<u32>, Error> {
    match fs::read_to_string(folder.join("cluster/PG_VERSION")) {
        Ok(text) => Ok(first_number(&text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("reading", folder)(error)),
    }
}

fn first_number(text: &str) -> Option<u32> {
    let mut numbers = text.split(|character: char| !character.is_ascii_digit());
    numbers.next()?.parse().ok()
}

fn in_versions_of(folder: &Path) -> impl Iterator<Item = Binaries> + use<> {
    let versions = fs::read_dir(folder).into_iter().flatten().flatten();
    versions.filter_map(|version| Binaries::at(&version.path().join("bin")))
}
