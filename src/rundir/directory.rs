//! The run directory itself: where it is, how its files are named, and which families it has.
//!
//! Rules kept here: what stands in the directory is trusted, so only root and the user of this
//! process may be able to write to it; a process that finds it otherwise when it begins is refused.
//! A server that runs goes on with its records whatever becomes of the directory's mode: a record
//! that is not written fails its users' requests. A path that is itself a symbolic link, to
//! something that does not exist, is not taken for an empty directory: the servers whose files are
//! behind it may live. (A link in the directories above it is not looked at: where one leads
//! nowhere there is no run directory, and none can be made.)

use std::fs::{self, DirBuilder, Metadata};
use std::io::{self, ErrorKind};
use std::num::NonZeroU16;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Access, Mode, access};
use rustix::process::geteuid;

use crate::failure::{Failure, Kind};
use crate::storage::DiskId;

/// Path of the run directory unless [`VARIABLE`] is set.
const DEFAULT: &str = "/run/ublk-dm";

/// Extension of a file of events, which is beside the log of its server.
pub const EVENTS: &str = "events";
/// What is appended to the name of a log or a file of events that has become too long.
pub const OLDER: &str = ".1";

/// Environment variable that names another run directory.
pub const VARIABLE: &str = "UBLK_DM_RUN_DIR";

/// Start and factor of the hash FNV-1a.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

/// The run directory.
#[derive(Clone, Debug)]
pub struct RunDir {
    pub(super) path: PathBuf,
    /// It was judged when it was opened or, if it did not exist then, when it was made.
    trusted: Arc<AtomicBool>,
}

/// An error of a file in the run directory, with its path.
pub(super) fn at(path: &Path, error: io::Error) -> io::Error {
    Failure::at(path, error).into()
}

/// An error of the run directory, with its path and a hint.
fn of_directory(path: &Path, what: &str, error: io::Error) -> io::Error {
    let hint = format!("set {VARIABLE} to a writable directory");
    let what = format!("the run directory {} {what}", path.display());
    Failure::from(error).context(what).ending(format!("; {hint}")).into()
}

/// Why a directory cannot be trusted, and what to do: its owner, or others, may change it.
fn refuse_foreign(path: &Path, found: &Metadata) -> io::Result<()> {
    let (uid, own, mode) = (found.uid(), geteuid().as_raw(), found.mode() & 0o7777);
    let shown = path.display();
    let why = if uid != own && uid != 0 {
        format!(
            "belongs to user {uid}, who may change what is recorded there: run `chown {own} \
             {shown}` if you trust its content"
        )
    } else if mode & (Mode::WGRP | Mode::WOTH).bits() != 0 {
        format!(
            "has mode {mode:04o}, so that other users may change what is recorded there: run \
             `chmod 700 {shown}` if you trust its content"
        )
    } else {
        return Ok(());
    };
    let why = format!("the run directory {shown} {why}, or set {VARIABLE} to another directory");
    Err(Failure::new(Kind::Refused, why).into())
}

/// What is at the path of the run directory, by `metadata`, which follows links; `None`: nothing.
fn look(
    path: &Path,
    metadata: impl Fn(&Path) -> io::Result<Metadata>,
) -> io::Result<Option<Metadata>> {
    let mut has_appeared = false;
    loop {
        let error = match metadata(path) {
            Ok(found) if found.is_dir() => return Ok(Some(found)),
            Ok(_) => ErrorKind::NotADirectory.into(),
            Err(error) => error,
        };
        if error.kind() != ErrorKind::NotFound {
            return Err(of_directory(path, "cannot be used", error));
        }
        match fs::symlink_metadata(path) {
            Ok(found) if found.is_symlink() => {
                let what = "is a link to a directory that does not exist";
                return Err(of_directory(path, what, error));
            }
            // Another command has made it in between.
            Ok(_) if !has_appeared => has_appeared = true,
            _ => return Ok(None),
        }
    }
}

/// The name of a disk in the directory; a family is named after its origin.
pub fn family_key(origin: DiskId) -> String {
    match origin {
        DiskId::Block { major, minor } => format!("block-{major}-{minor}"),
        DiskId::File { dev, ino } => format!("file-{dev}-{ino}"),
    }
}

impl RunDir {
    /// Opens the run directory. A directory that does not exist yet has no servers; the first lock
    /// creates it.
    pub fn open() -> io::Result<RunDir> {
        let path = match std::env::var_os(VARIABLE) {
            Some(path) if path.is_empty() => {
                let what = format!(
                    "{VARIABLE} is empty: set it to a directory, or unset it for {DEFAULT}"
                );
                return Err(io::Error::new(ErrorKind::InvalidInput, what));
            }
            Some(path) => PathBuf::from(path),
            None => PathBuf::from(DEFAULT),
        };
        // A server runs in another working directory.
        let path = std::path::absolute(&path)
            .map_err(|error| of_directory(&path, "cannot be used", error))?;
        let found = look(&path, |path| fs::metadata(path))?;
        found.iter().try_for_each(|found| refuse_foreign(&path, found))?;
        Ok(RunDir { path, trusted: Arc::new(found.is_some().into()) })
    }

    /// The directory at a path that has been judged.
    pub fn trusted(path: PathBuf) -> RunDir {
        RunDir { path, trusted: Arc::new(true.into()) }
    }

    /// Path of the directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A number for the directory's path, which the kernel keeps with the devices that are added
    /// for it (FNV-1a, folded: it must not change with the version of the program).
    pub fn mark(&self) -> NonZeroU16 {
        let path = self.path.as_os_str().as_bytes();
        let hash = path
            .iter()
            .fold(FNV_OFFSET, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME));
        let [.., a, b, c, d] = (hash ^ hash >> 32).to_be_bytes();
        NonZeroU16::new(u16::from_be_bytes([a ^ c, b ^ d])).unwrap_or(NonZeroU16::MIN)
    }

    /// Creates the directory if it does not exist, and fails if it is not writable.
    pub(super) fn make(&self) -> io::Result<()> {
        let made = DirBuilder::new().recursive(true).mode(0o700).create(&self.path);
        made.map_err(|error| of_directory(&self.path, "cannot be created", error))?;
        if !self.trusted.load(Ordering::Relaxed) {
            // Another program may have made it since this one was started.
            refuse_foreign(&self.path, &fs::metadata(&self.path)?)?;
            self.trusted.store(true, Ordering::Relaxed);
        }
        let writable = access(&self.path, Access::WRITE_OK);
        writable.map_err(|error| of_directory(&self.path, "cannot be used", error.into()))
    }

    /// A server's socket.
    pub fn socket(&self, key: &str) -> PathBuf {
        self.path.join(format!("{key}.sock"))
    }

    pub(super) fn state_file(&self, key: &str) -> PathBuf {
        self.path.join(format!("{key}.json"))
    }

    /// Path of a server's log, which outlives the server.
    pub fn log_path(&self, key: &str) -> PathBuf {
        self.log_dir().join(format!("{key}.log"))
    }

    /// The directory of the servers' logs, and of the events of their devices beside them
    /// ([`EVENTS`]).
    pub fn log_dir(&self) -> PathBuf {
        self.path.join("log")
    }

    /// Removes the socket of a server that could not take over, and leaves its predecessor's other
    /// files.
    pub fn remove_socket(&self, key: &str) {
        if let Err(error) = fs::remove_file(self.socket(key)) {
            log::debug!("{key}: {error}");
        }
    }

    /// The names of all families that have a server, dead or alive.
    pub fn keys(&self) -> io::Result<Vec<String>> {
        let mut keys = Vec::new();
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => None,
            entries => {
                Some(entries.map_err(|error| of_directory(&self.path, "cannot be read", error))?)
            }
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

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::fs::Permissions;
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn allow_others(path: &Path) {
        fs::set_permissions(path, Permissions::from_mode(0o770)).unwrap();
    }

    #[test]
    fn a_server_that_runs_goes_on_with_its_records() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let rundir = RunDir { path: path.clone(), trusted: Arc::default() };
        rundir.make().unwrap();
        allow_others(&path);
        for rundir in [&rundir, &rundir.clone(), &RunDir::trusted(path.clone())] {
            rundir.make().unwrap();
        }
        // The directory may be removed, too.
        fs::remove_dir(&path).unwrap();
        rundir.make().unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
    }

    #[test]
    fn a_directory_that_others_have_made_meanwhile_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        allow_others(dir.path());
        let rundir = RunDir { path: dir.path().to_owned(), trusted: Arc::default() };
        for _ in 0..2 {
            let why = rundir.make().unwrap_err().to_string();
            assert!(why.contains("has mode 0770"), "{why}");
        }
    }

    #[test]
    fn a_directory_that_is_made_meanwhile_is_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run");
        let looks = Cell::new(0);
        let found = look(&path, |path| {
            let found = fs::metadata(path);
            looks.set(looks.get() + 1);
            if looks.get() == 1 {
                fs::create_dir(path)?;
            }
            found
        });
        assert!(found.unwrap().is_some_and(|found| found.is_dir()));
        assert_eq!(looks.get(), 2);
        assert!(look(&dir.path().join("other"), |path| fs::metadata(path)).unwrap().is_none());
    }

    #[test]
    fn the_mark_of_a_directory_stays() {
        let mark = |path: &str| RunDir::trusted(path.into()).mark().get();
        assert_eq!(mark("/run/ublk-dm"), 0x6a88);
        assert_ne!(mark("/run/ublk-dm"), mark("/tmp/ublk-dm"));
    }
}
