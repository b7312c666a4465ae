//! The run directory itself: where it is, how its files are named, and which families it has.
//!
//! Rule kept here: what stands in the directory is believed, so only root and the user of this
//! process may be able to write to it. A link that leads nowhere is not taken for an empty
//! directory: the servers whose files are behind it may live.

use std::fs::{self, DirBuilder, Metadata};
use std::io::{self, ErrorKind};
use std::num::NonZeroU16;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Access, Mode, access};
use rustix::process::geteuid;

use crate::failure::{Failure, Kind};
use crate::storage::DiskId;

/// Path of the run directory unless [`VARIABLE`] is set.
const DEFAULT: &str = "/run/ublk-dm";

/// Environment variable that names another run directory.
pub const VARIABLE: &str = "UBLK_DM_RUN_DIR";

/// Start and factor of the hash FNV-1a.
const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

/// The run directory.
#[derive(Clone, Debug)]
pub struct RunDir {
    pub(super) path: PathBuf,
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

/// Why a directory cannot be believed, and what to do: its owner, or others, may change it.
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
        match fs::metadata(&path) {
            Ok(found) if !found.is_dir() => {
                Err(of_directory(&path, "cannot be used", ErrorKind::NotADirectory.into()))
            }
            Ok(found) => refuse_foreign(&path, &found).map(|()| RunDir { path }),
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(of_directory(&path, "cannot be used", error))
            }
            Err(error) if fs::symlink_metadata(&path).is_ok() => {
                let what = "is a link to a directory that does not exist";
                Err(of_directory(&path, what, error))
            }
            Err(_) => Ok(RunDir { path }),
        }
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
        // Another program may have made it since this one was started.
        refuse_foreign(&self.path, &fs::metadata(&self.path)?)?;
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
        self.path.join("log").join(format!("{key}.log"))
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
    use super::*;

    #[test]
    fn the_mark_of_a_directory_stays() {
        let mark = |path: &str| RunDir { path: path.into() }.mark().get();
        assert_eq!(mark("/run/ublk-dm"), 0x6a88);
        assert_ne!(mark("/run/ublk-dm"), mark("/tmp/ublk-dm"));
    }
}
