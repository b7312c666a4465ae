//! The run directory: a socket, a state file and a log per server, notes per COW, and the locks that commands take turns
//! with ([`lock`]).
//!
//! State files are replaced by renaming, so a reader sees one whole version. The directory belongs to its user alone
//! (mode 0700), because what stands in it is believed.

pub mod journal;
mod lock;

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

pub use lock::FamilyLock;
use serde::{Deserialize, Serialize};

use crate::protocol::{self, DeviceState};
use crate::storage::DiskId;

/// Where it is unless `UBLK_DM_RUN_DIR` says otherwise.
const DEFAULT: &str = "/run/ublk-dm";

/// The run directory.
#[derive(Clone, Debug)]
pub struct RunDir {
    path: PathBuf,
}

/// What a server leaves for whoever comes after it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct State {
    pub pid: u32,
    pub devices: Vec<DeviceState>,
}

/// What has become of a mirror's legs.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct MirrorNote {
    /// Legs that have missed something, by their paths: places change.
    pub failed: Vec<String>,
    /// All regions were in sync at last.
    pub in_sync: bool,
}

/// A server's files, whether it lives or not.
pub struct Server {
    pub key: String,
    pub state: Option<State>,
    /// A connection to it; `None` if it takes none.
    pub connection: Option<UnixStream>,
    /// There is a process that listens, whether it answers or not.
    pub lives: bool,
}

/// The name of a disk in the directory; a family has its origin's.
pub fn family_key(origin: DiskId) -> String {
    match origin {
        DiskId::Block { major, minor } => format!("block-{major}-{minor}"),
        DiskId::File { dev, ino } => format!("file-{dev}-{ino}"),
    }
}

impl RunDir {
    /// Opens the run directory, making it if it is not there.
    pub fn open() -> io::Result<RunDir> {
        let path = std::env::var_os("UBLK_DM_RUN_DIR").map_or_else(|| PathBuf::from(DEFAULT), PathBuf::from);
        DirBuilder::new().recursive(true).mode(0o700).create(&path)?;
        Ok(RunDir { path })
    }

    /// A server's socket.
    pub fn socket(&self, key: &str) -> PathBuf {
        self.path.join(format!("{key}.sock"))
    }

    fn state_file(&self, key: &str) -> PathBuf {
        self.path.join(format!("{key}.json"))
    }

    /// A server's log, appended to.
    pub fn log(&self, key: &str) -> io::Result<File> {
        OpenOptions::new().create(true).append(true).mode(0o600).open(self.log_path(key))
    }

    /// Where a server's log is.
    pub fn log_path(&self, key: &str) -> PathBuf {
        self.path.join(format!("{key}.log"))
    }

    /// Replaces a server's state file.
    pub fn write_state(&self, key: &str, state: &State) -> io::Result<()> {
        let (path, new) = (self.state_file(key), self.path.join(format!("{key}.new")));
        fs::write(&new, serde_json::to_vec_pretty(state)?)?;
        fs::rename(new, path)
    }

    /// Where records of a COW are noted that are not on it yet. No server's file: the next one needs it.
    pub fn records(&self, cow: DiskId) -> PathBuf {
        self.path.join(format!("{}.records", family_key(cow)))
    }

    fn note_file(&self, key: &str) -> PathBuf {
        self.path.join(format!("{key}.legs"))
    }

    /// Changes what is noted of a mirror's legs. Called by one thread of a server.
    pub fn change_mirror_note(&self, key: &str, change: impl FnOnce(&mut MirrorNote)) -> io::Result<()> {
        let mut note = self.mirror_note(key).unwrap_or_default();
        change(&mut note);
        let (path, new) = (self.note_file(key), self.path.join(format!("{key}.legs-new")));
        fs::write(&new, serde_json::to_vec(&note)?)?;
        fs::rename(new, path)
    }

    /// What is noted of a mirror's legs.
    pub fn mirror_note(&self, key: &str) -> Option<MirrorNote> {
        fs::read(self.note_file(key)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok())
    }

    /// Removes all files of a server.
    pub fn remove(&self, key: &str) {
        self.remove_stale_lock(key);
        for path in [self.socket(key), self.state_file(key), self.note_file(key), self.log_path(key)] {
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
        let state = self.state(key);
        let connection = protocol::connect(&self.socket(key));
        let lives = connection.as_ref().err().is_none_or(|error| !protocol::is_absent(error));
        let known = state.is_some() || lives;
        known.then(|| Server { key: key.to_owned(), state, connection: connection.ok(), lives })
    }

    /// What all servers, dead ones included, have said of their devices.
    pub fn states(&self) -> io::Result<Vec<State>> {
        Ok(self.keys()?.iter().filter_map(|key| self.state(key)).collect())
    }

    /// What a server has said of its devices.
    pub fn state(&self, key: &str) -> Option<State> {
        fs::read(self.state_file(key)).ok().and_then(|bytes| serde_json::from_slice(&bytes).ok())
    }

    /// All servers. Each is connected to when it is come to: one that is kept waiting for a question hangs up.
    pub fn servers(&self) -> io::Result<impl Iterator<Item = Server>> {
        Ok(self.keys()?.into_iter().filter_map(|key| self.server(&key)))
    }

    /// The names of all families that have a server, dead or alive.
    pub fn keys(&self) -> io::Result<Vec<String>> {
        let mut keys = Vec::new();
        for entry in fs::read_dir(&self.path)? {
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
