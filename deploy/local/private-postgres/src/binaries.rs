//! Finds the folder of the installed Postgres binaries, or downloads them: a folder with `initdb`
//! and `postgres`. Other programs may be missing there, as in a download.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::{Error, download};

/// The command that installs Postgres on this system.
pub(crate) fn install_command() -> &'static str {
    if cfg!(target_os = "macos") {
        "brew install postgresql@17"
    } else if Path::new("/etc/redhat-release").exists() {
        "sudo dnf install -y postgresql-server"
    } else {
        "sudo apt-get install -y postgresql"
    }
}

/// Folders with one subfolder per version, whose programs are in `bin`: Debian's, Homebrew's on
/// Apple silicon and on Intel, Postgres.app's, and the one of /usr/local/pgsql.
const INSTALL_FOLDERS: [&str; 5] = [
    "/usr/lib/postgresql",
    "/opt/homebrew/opt",
    "/usr/local/opt",
    "/Applications/Postgres.app/Contents/Versions",
    "/usr/local",
];

/// The folder that holds `initdb` and `postgres`.
#[derive(Clone, Debug)]
pub struct Binaries(PathBuf);

impl Binaries {
    /// Those in `postgres_bin`; else those on `PATH` (as on Fedora); else the newest in the usual
    /// folders; else downloaded ones.
    ///
    /// # Errors
    /// [`Error::NotBinaries`] when `postgres_bin` is a folder without them. [`Error::NoBinaries`],
    /// with the command that installs them, when none are installed and the download fails.
    pub fn find(postgres_bin: Option<&Path>) -> Result<Self, Error> {
        Self::find_or_download(postgres_bin, &|_, _| {})
    }

    /// Those in `POSTGRES_BIN`, or as [`Self::find`] finds them: for tests, which have no settings.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn of_environment() -> Result<Self, Error> {
        Self::find(env::var_os("POSTGRES_BIN").map(PathBuf::from).as_deref())
    }

    /// Those of the major version that made the data in a server's folder; without data, as
    /// [`Self::find`] finds them. During a download `progress` is called several times a second,
    /// with the number of bytes that have arrived and with that of all.
    ///
    /// # Errors
    /// [`Error::OtherMajor`] when there are none of that version; else as [`Self::find`].
    pub fn find_for(
        folder: &Path,
        postgres_bin: Option<&Path>,
        progress: &dyn Fn(u64, u64),
    ) -> Result<Self, Error> {
        let path = folder.join("cluster/PG_VERSION");
        let major = match fs::read_to_string(&path) {
            Ok(text) => text.trim().to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Self::find_or_download(postgres_bin, progress);
            }
            Err(error) => return Err(Error::io("reading", &path)(error)),
        };
        // What the setting POSTGRES_BIN names is not replaced.
        if postgres_bin.is_none()
            && let Some(installed) = Self::installed().find(|binaries| binaries.is_of(&major))
        {
            return Ok(installed);
        }
        let found = Self::find_or_download(postgres_bin, progress)?;
        if found.is_of(&major) {
            return Ok(found);
        }
        Err(Error::OtherMajor {
            folder: folder.to_owned(),
            major,
            found: found.0,
        })
    }

    /// Whether they are of this major version.
    fn is_of(&self, major: &str) -> bool {
        // Such as `postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)` or `… 19devel`.
        let version = Command::new(self.program("postgres"))
            .arg("--version")
            .output();
        version.is_ok_and(|output| {
            String::from_utf8_lossy(&output.stdout)
                .split_once("(PostgreSQL) ")
                .and_then(|(_, version)| version.strip_prefix(major))
                .is_some_and(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
        })
    }

    /// The path of one of the programs.
    #[must_use]
    pub fn program(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }

    fn find_or_download(
        postgres_bin: Option<&Path>,
        progress: &dyn Fn(u64, u64),
    ) -> Result<Self, Error> {
        if let Some(folder) = postgres_bin {
            return Self::at(folder).ok_or_else(|| Error::NotBinaries(folder.to_owned()));
        }
        Self::on_path()
            .or_else(Self::in_install_folders)
            .map_or_else(|| Self::download(progress), Ok)
    }

    fn at(folder: &Path) -> Option<Self> {
        // A folder on PATH may link to only some of the programs. The target folder has them all.
        let initdb = fs::canonicalize(folder.join("initdb")).ok()?;
        let folder = initdb.parent()?;
        folder
            .join("postgres")
            .is_file()
            .then(|| Self(folder.to_owned()))
    }

    fn on_path() -> Option<Self> {
        env::split_paths(&env::var_os("PATH")?).find_map(|folder| Self::at(&folder))
    }

    /// The highest version in the usual folders.
    fn in_install_folders() -> Option<Self> {
        Self::all_in_install_folders().max_by_key(|binaries| version_of(&binaries.0))
    }

    fn all_in_install_folders() -> impl Iterator<Item = Self> {
        INSTALL_FOLDERS
            .iter()
            .filter_map(|parent| fs::read_dir(parent).ok())
            .flat_map(Iterator::flatten)
            .filter_map(|version| Self::at(&version.path().join("bin")))
    }

    /// All that are on this machine already.
    fn installed() -> impl Iterator<Item = Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        let folders: Vec<_> = env::split_paths(&path).collect();
        folders
            .into_iter()
            .filter_map(|folder| Self::at(&folder))
            .chain(Self::all_in_install_folders())
            .chain(Self::downloaded())
    }

    /// Those of this and of earlier downloads.
    fn downloaded() -> impl Iterator<Item = Self> {
        let folder = download::folder();
        let cache = folder.parent().expect("the folder is in a cache");
        fs::read_dir(cache)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|version| Self::at(&version.path().join("bin")))
    }

    /// Downloads them into this account's cache, unless they are there already.
    fn download(progress: &dyn Fn(u64, u64)) -> Result<Self, Error> {
        let folder = download::folder();
        let programs = folder.join("bin");
        let downloaded =
            Self::at(&programs).map_or_else(|| download::download(&folder, progress), |_| Ok(()));
        Self::at(&programs).ok_or_else(|| Error::NoBinaries {
            looked_in: format!("PATH, {}", INSTALL_FOLDERS.join(", ")),
            download: downloaded
                .err()
                .unwrap_or_else(|| "the archive holds none".to_owned()),
        })
    }
}

/// The first number in the name of the version's folder; 0 when there is none.
fn version_of(folder: &Path) -> u32 {
    let version = folder.parent().and_then(Path::file_name);
    version
        .and_then(|name| name.to_str())
        .and_then(|name| {
            name.split(|character: char| !character.is_ascii_digit())
                .find(|digits| !digits.is_empty())
        })
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}
