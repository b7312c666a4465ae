//! The run directory: a socket and a state file per server, notes per COW, and the locks that commands take turns with
//! ([`lock`]); and in `log/` the logs of servers, which stay when those are gone.
//!
//! State files are replaced durably and as a whole ([`durable`]). The directory belongs to its user alone (mode 0700), because
//! what stands in it is believed.

pub mod departed;
pub mod durable;
pub mod journal;
mod legs;
mod lock;
pub mod lost;
mod state;

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

pub use lock::FamilyLock;
use rustix::fs::{Access, access};
pub use state::State;

use crate::failure::Reason;
use crate::protocol::{self, DeviceState};
use crate::storage::DiskId;

/// Where it is unless [`VARIABLE`] says otherwise.
const DEFAULT: &str = "/run/ublk-dm";

/// Names another run directory.
pub const VARIABLE: &str = "UBLK_DM_RUN_DIR";

/// The run directory.
#[derive(Clone, Debug)]
pub struct RunDir {
    path: PathBuf,
}

/// A server's files, whether it lives or not.
pub struct Server {
    pub key: String,
    pub state: Option<State>,
    /// Why its state file cannot be used, with its path.
    pub damaged: Option<Reason>,
    /// A connection to it; `None` if it takes none.
    pub connection: Option<UnixStream>,
    /// There is a process that listens, whether it answers or not.
    pub lives: bool,
}

/// What is wrong with the run directory, with its path and the way out.
fn of_directory(path: &Path, what: &str, error: &io::Error) -> io::Error {
    let hint = format!("set {VARIABLE} to a directory that can be written");
    io::Error::new(error.kind(), format!("the run directory {} {what}: {error}; {hint}", path.display()))
}

/// The name of a disk in the directory; a family has its origin's.
pub fn family_key(origin: DiskId) -> String {
    match origin {
        DiskId::Block { major, minor } => format!("block-{major}-{minor}"),
        DiskId::File { dev, ino } => format!("file-{dev}-{ino}"),
    }
}

impl RunDir {
    /// Opens the run directory. One that does not exist yet has no servers; the first lock makes it.
    pub fn open() -> io::Result<RunDir> {
        let path = match std::env::var_os(VARIABLE) {
            Some(path) if path.is_empty() => {
                let what = format!("{VARIABLE} is empty: set it to a directory, or unset it for {DEFAULT}");
                return Err(io::Error::new(ErrorKind::InvalidInput, what));
            }
            Some(path) => PathBuf::from(path),
            None => PathBuf::from(DEFAULT),
        };
        // A server has another working directory.
        let path = std::path::absolute(&path).map_err(|error| of_directory(&path, "cannot be used", &error))?;
        match fs::metadata(&path) {
            Ok(found) if !found.is_dir() => {
                Err(of_directory(&path, "cannot be used", &ErrorKind::NotADirectory.into()))
            }
            Err(error) if error.kind() != ErrorKind::NotFound => Err(of_directory(&path, "cannot be used", &error)),
            _ => Ok(RunDir { path }),
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Makes the directory if it does not exist, and fails if nothing can be written there.
    fn make(&self) -> io::Result<()> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.path);
        made.map_err(|error| of_directory(&self.path, "cannot be made", &error))?;
        let writable = access(&self.path, Access::WRITE_OK);
        writable.map_err(|error| of_directory(&self.path, "cannot be used", &error.into()))
    }

    /// A server's socket.
    pub fn socket(&self, key: &str) -> PathBuf {
        self.path.join(format!("{key}.sock"))
    }

    fn state_file(&self, key: &str) -> PathBuf {
        self.path.join(format!("{key}.json"))
    }

    /// Where a server's log is. It stays when the server is gone.
    pub fn log_path(&self, key: &str) -> PathBuf {
        self.path.join("log").join(format!("{key}.log"))
    }

    /// Replaces a server's state file, durably.
    ///
    /// # Errors
    /// Why not, with the file's path; the file is as it was.
    pub fn write_state(&self, key: &str, devices: Vec<DeviceState>) -> Result<(), Reason> {
        let path = self.state_file(key);
        let write = || {
            let bytes = serde_json::to_vec_pretty(&State::new(boot_id()?, devices))?;
            durable::replace(&path, &bytes)
        };
        write().map_err(|error: io::Error| format!("{}: {error}", path.display()))
    }

    /// Replaces the state file of a server that died, durably.
    pub fn rewrite_state(&self, key: &str, state: &State) -> Result<(), Reason> {
        let path = self.state_file(key);
        let write = || durable::replace(&path, &serde_json::to_vec_pretty(state)?);
        write().map_err(|error: io::Error| format!("{}: {error}", path.display()))
    }

    /// Reads a server's state file; `None`: there is none, or it is of another boot.
    pub fn state(&self, key: &str) -> Result<Option<State>, Reason> {
        let path = self.state_file(key);
        let why = |why: String| format!("{}: {why}", path.display());
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(|error| why(error.to_string()))?,
        };
        let boot_id = boot_id().map_err(|error| why(error.to_string()))?;
        State::parse(&bytes, &boot_id).map_err(why)
    }

    /// The names of all devices that state files tell of, but those of one server, and of those that are being added there.
    pub fn names_beside(&self, key: &str) -> Result<Vec<String>, Reason> {
        let keys = self.keys().map_err(|error| format!("{}: {error}", self.path.display()))?;
        // A file that cannot be read holds names that cannot be known.
        let states = keys.iter().filter(|other| *other != key).filter_map(|other| self.state(other).ok()?);
        let mut names: Vec<String> = states.flat_map(|state| state.devices).map(|device| device.name).collect();
        names.extend(self.wanted_names(key).map_err(|error| format!("{}: {error}", self.path.display()))?);
        Ok(names)
    }

    /// Removes all files of a server.
    pub fn remove(&self, key: &str) {
        self.remove_stale_lock(key);
        for path in [self.socket(key), self.state_file(key), self.legs_file(key)] {
            if let Err(error) = fs::remove_file(&path) {
                if error.kind() != io::ErrorKind::NotFound {
                    log::warn!("{}: {error}", path.display());
                }
            }
        }
    }

    /// Removes the socket of a server that could not take over, and leaves what it should have taken over.
    pub fn remove_socket(&self, key: &str) {
        if let Err(error) = fs::remove_file(self.socket(key)) {
            log::debug!("{key}: {error}");
        }
    }

    /// A server's files, if it has any.
    pub fn server(&self, key: &str) -> Option<Server> {
        let (state, damaged) = match self.state(key) {
            Ok(state) => (state, None),
            Err(why) => (None, Some(why)),
        };
        let connection = protocol::connect(&self.socket(key));
        let lives = connection.as_ref().err().is_none_or(|error| !protocol::is_absent(error));
        let known = state.is_some() || damaged.is_some() || lives;
        known.then(|| Server { key: key.to_owned(), state, damaged, connection: connection.ok(), lives })
    }

    /// What all servers, dead ones included, have said of their devices, as far as it can be read.
    pub fn states(&self) -> io::Result<Vec<State>> {
        Ok(self.keys()?.iter().filter_map(|key| self.state(key).ok()?).collect())
    }

    /// The names of all families that have a server, dead or alive.
    pub fn keys(&self) -> io::Result<Vec<String>> {
        let mut keys = Vec::new();
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            entries => Some(entries.map_err(|error| of_directory(&self.path, "cannot be read", &error))?),
        };
        for entry in entries.into_iter().flatten() {
            let name = entry?.file_name();
            let name = name.to_string_lossy();
            if let Some(key) = name.strip_suffix(".json").or_else(|| name.strip_suffix(".sock")) {
                keys.push(key.to_owned());
            }
        }
        keys.sort();
        keys.dedup();
        Ok(keys)
    }
}

/// The machine's boot, by a name that no other boot has.
fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string(journal::BOOT_ID)?.trim().to_owned())
}
