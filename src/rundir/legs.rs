//! The record of a mirror's legs: which of them have every acknowledged write. A mirror whose dirty
//! log is in memory has no other place for this record, and a server that takes over must not
//! recover from a leg that has missed writes (I10).
//!
//! The file is durably replaced before the request that depends on it is acknowledged;
//! `dm_targets::mirror::leg_state` decides its content. It is trusted only in the boot in which it
//! was written: no device survives a reboot, and the content of a disk's cache may not either.
//!
//! Rule kept here: a record that is there can be written whether the directory has room or not. The
//! file is a page long, filled up with spaces, and where it cannot be replaced it is overwritten.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use dm_targets::mirror::leg_flags::NO_IDENTITY;
use dm_targets::mirror::leg_state::{KnownLeg, LegState};
use serde::{Deserialize, Serialize};

use super::boot::boot_id;
use super::directory::RunDir;
use super::durable;
use crate::failure::Failure;

/// Version of the format; a file of another version is rejected.
const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    /// The boot in which it was written.
    boot: String,
    legs: Vec<Leg>,
    in_sync: bool,
    log_works: bool,
    /// The identity of the disk of that log, in hexadecimal; not in records of earlier versions.
    #[serde(default)]
    log: String,
    /// Not in records of earlier versions.
    #[serde(default)]
    was_in_sync: bool,
}

#[derive(Serialize, Deserialize)]
struct Leg {
    /// The leg's lasting identity, in hexadecimal.
    identity: String,
    /// See [`KnownLeg::number`]; not in records of earlier versions.
    #[serde(default)]
    number: u64,
    path: String,
    source: bool,
}

impl RunDir {
    pub(super) fn legs_file(&self, key: &str) -> PathBuf {
        self.path.join(format!("{key}.legs"))
    }

    /// Durably records the state of a mirror's legs. Called by one thread of a server.
    pub fn write_legs(&self, key: &str, state: &LegState) -> io::Result<()> {
        // The directory may have been removed: the record is for a later server.
        self.make()?;
        let path = self.legs_file(key);
        let mut bytes = encode(state, boot_id()?)?;
        bytes.resize(bytes.len().max(durable::PAGE_BYTES), b' ');
        durable::replace(&path, &bytes).or_else(|error| {
            let in_doubt = durable::is_in_doubt(&error);
            let written = if in_doubt { Err(()) } else { overwrite(&path, &bytes) };
            written.map_err(|()| error)
        })
    }

    /// Removes the record of a mirror's legs.
    ///
    /// # Errors
    /// The reason, with the file's path.
    pub fn forget_legs(&self, key: &str) -> Result<(), Failure> {
        let path = self.legs_file(key);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Failure::at(&path, error)),
            _ => Ok(()),
        }
    }

    /// The recorded state of a mirror's legs.
    ///
    /// # Errors
    /// There is no record, or it is damaged or from another boot.
    pub fn legs(&self, key: &str) -> Result<LegState, String> {
        let path = self.legs_file(key);
        let name = path.display();
        let bytes = fs::read(&path).map_err(|error| format!("{name}: {error}"))?;
        let boot = boot_id().map_err(|error| format!("{name}: {error}"))?;
        decode(&bytes, &boot).map_err(|why| format!("{name}: {why}"))
    }
}

/// Writes a record in the place of the one that is there, which claims more than is true.
fn overwrite(path: &Path, bytes: &[u8]) -> Result<(), ()> {
    durable::overwrite(path, bytes)
        .map_err(|error| log::debug!("{}: it cannot be overwritten: {error}", path.display()))
}

/// A record as it is written.
pub(super) fn encode(state: &LegState, boot: String) -> io::Result<Vec<u8>> {
    let leg = |leg: &KnownLeg| Leg {
        identity: format!("{:016x}", leg.identity),
        number: leg.number,
        path: leg.name.clone(),
        source: leg.source,
    };
    let content = Content {
        version: VERSION,
        boot,
        legs: state.legs.iter().map(leg).collect(),
        in_sync: state.in_sync,
        log_works: state.log_works,
        log: format!("{:016x}", state.log),
        was_in_sync: state.was_in_sync,
    };
    Ok(serde_json::to_vec_pretty(&content)?)
}

/// The record in a file's bytes; `None` if it was written in another boot.
pub(super) fn decode_in_boot(bytes: &[u8], boot: &str) -> Result<Option<LegState>, String> {
    let content: Content =
        serde_json::from_slice(bytes).map_err(|error| format!("damaged: {error}"))?;
    if content.boot == boot { decode(bytes, boot).map(Some) } else { Ok(None) }
}

fn decode(bytes: &[u8], boot: &str) -> Result<LegState, String> {
    let content: Content =
        serde_json::from_slice(bytes).map_err(|error| format!("damaged: {error}"))?;
    if content.version != VERSION {
        return Err(format!("has format {}, which is unknown to this version", content.version));
    }
    if content.boot != boot {
        return Err("was written before the machine was restarted".to_owned());
    }
    let number =
        |text: &str| u64::from_str_radix(text, 16).map_err(|error| format!("damaged: {error}"));
    let leg = |leg: Leg| {
        Ok::<_, String>(KnownLeg {
            identity: number(&leg.identity)?,
            number: leg.number,
            name: leg.path,
            source: leg.source,
        })
    };
    let legs = content.legs.into_iter().map(leg).collect::<Result<_, _>>()?;
    let Content { in_sync, log_works, log, was_in_sync, .. } = content;
    let log = if log.is_empty() { NO_IDENTITY } else { number(&log)? };
    Ok(LegState { legs, in_sync, log_works, log, was_in_sync })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rundir() -> RunDir {
        let path = std::env::temp_dir().join(format!("ublk-dm-legs-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        RunDir::trusted(path)
    }

    #[test]
    fn what_is_written_is_read_and_anything_else_is_refused() {
        let (rundir, key) = (rundir(), "mirror");
        let leg = |identity, source| KnownLeg {
            identity,
            number: 3,
            name: format!("/dev/leg{identity}"),
            source,
        };
        let state = LegState {
            legs: vec![leg(1, false), leg(u64::MAX, true)],
            in_sync: false,
            log_works: true,
            log: 77,
            was_in_sync: true,
        };
        assert!(rundir.legs(key).unwrap_err().ends_with("No such file or directory (os error 2)"));
        rundir.write_legs(key, &state).unwrap();
        assert_eq!(rundir.legs(key), Ok(state));
        let bytes = fs::read(rundir.legs_file(key)).unwrap();
        assert_eq!(
            decode(&bytes, "another"),
            Err("was written before the machine was restarted".to_owned())
        );
        let whole = bytes.trim_ascii_end().len();
        for len in 0..whole {
            assert!(
                decode(&bytes[..len], "another").unwrap_err().starts_with("damaged: "),
                "{len} bytes"
            );
        }
        let later = String::from_utf8(bytes).unwrap().replace("\"version\": 1", "\"version\": 2");
        assert_eq!(
            decode(later.as_bytes(), ""),
            Err("has format 2, which is unknown to this version".to_owned())
        );
        fs::remove_dir_all(&rundir.path).unwrap();
    }

    /// No file can be made in the directory, as if it were full.
    #[test]
    fn a_record_that_is_there_needs_no_room() {
        let dir = tempfile::tempdir().unwrap();
        let rundir = RunDir::trusted(dir.path().to_owned());
        let leg = |identity: u64, source| KnownLeg {
            identity,
            number: 0,
            name: format!("/dev/mapper/leg-{identity}"),
            source,
        };
        let state = |stale: u64, legs: u64| LegState {
            legs: (0..legs).map(|id| leg(id, id != stale)).collect(),
            ..LegState::default()
        };
        rundir.write_legs("mirror", &state(9, 9)).unwrap();
        let room = dir.path().join("mirror.legs-new");
        fs::create_dir(&room).unwrap();
        for stale in 0..9 {
            rundir.write_legs("mirror", &state(stale, 9)).unwrap();
            assert_eq!(rundir.legs("mirror"), Ok(state(stale, 9)));
        }
        // What does not fit in the place of a record leaves it as it is.
        rundir.write_legs("mirror", &state(0, 256)).unwrap_err();
        assert_eq!(rundir.legs("mirror"), Ok(state(8, 9)));
        rundir.write_legs("another", &state(0, 2)).unwrap();
        fs::remove_dir(&room).unwrap();
        rundir.write_legs("mirror", &state(0, 256)).unwrap();
        assert_eq!(rundir.legs("mirror"), Ok(state(0, 256)));
    }

    #[test]
    fn a_record_that_cannot_be_written_is_an_error() {
        let rundir = RunDir::trusted(PathBuf::from("/proc/self/no-such-directory"));
        assert!(rundir.write_legs("mirror", &LegState::default()).is_err());
    }
}
