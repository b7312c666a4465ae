//! The records of mirrors that have ended while a leg was not up to date: it had missed writes, was
//! not recovered yet, or had been replaced or removed. A core log remembers nothing, and the same
//! `add` would copy the stale leg over the good one.
//!
//! One file for each mirror, found by the identities of its legs, whatever the next mirror's name
//! and other legs are. It is valid in the boot in which it was written.
//!
//! Rules kept here: I10 (what a file says of a leg ends only when another mirror with that leg
//! ends, which speaks for its own legs and no others), and what cannot be read is an error.

use std::fs;
use std::io::ErrorKind;
use std::path::PathBuf;

use dm_targets::mirror::leg_flags::identity_of;
use dm_targets::mirror::leg_state::LegState;

use super::boot::boot_id;
use super::directory::RunDir;
use super::durable;
use super::legs::{decode_in_boot, encode};
use crate::failure::{Failure, Reason};

/// Extension of the files.
const ENDING: &str = "ended";

impl RunDir {
    /// Keeps the record of a mirror that has ended, if a later one must know it, and returns the
    /// record then. What earlier mirrors have left of its legs ends.
    ///
    /// # Errors
    /// The reason, with a file's path. The record stays where it was.
    pub fn keep_legs(&self, key: &str) -> Result<Option<LegState>, Reason> {
        let from = self.legs_file(key);
        let bytes = match fs::read(&from) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(|error| Failure::at(&from, error))?,
        };
        let boot = boot_id().map_err(|error| Failure::at(&from, error))?;
        // A damaged record names no legs: no file can be found by them.
        let Ok(Some(state)) = decode_in_boot(&bytes, &boot) else { return Ok(None) };
        // Other families change the files of ended mirrors as well.
        let _directory = self.lock()?;
        let to = self.ended_file(&state);
        let stale = state.has_stale();
        if stale {
            fs::rename(&from, &to).map_err(|error| Failure::at(&from, error))?;
        }
        for (path, other) in self.ended_files(&boot)? {
            let shares = other.legs.iter().any(|leg| state.knows(leg.identity));
            if !shares || stale && path == to {
                continue;
            }
            let done = match other.outdated_by(&state) {
                Some(rest) => {
                    encode(&rest, boot.clone()).and_then(|bytes| durable::replace(&path, &bytes))
                }
                None => fs::remove_file(&path),
            };
            done.map_err(|error| Failure::at(&path, error))?;
        }
        Ok(stale.then_some(state))
    }

    /// What the mirrors have left that have ended in this boot and had legs with these identities,
    /// each for itself.
    ///
    /// # Errors
    /// A file cannot be read: whose legs it names is not known.
    pub fn ended_legs(&self, identities: &[u64]) -> Result<Vec<LegState>, Reason> {
        let boot = boot_id().map_err(|error| Failure::at(&self.path, error))?;
        let files = self.ended_files(&boot)?.into_iter().map(|(_, state)| state);
        let concerns = |state: &LegState| identities.iter().any(|id| state.knows(*id));
        Ok(files.filter(concerns).collect())
    }

    fn ended_file(&self, state: &LegState) -> PathBuf {
        let known: Vec<_> = state.legs.iter().map(|leg| leg.identity.to_string()).collect();
        self.path.join(format!("legs-{:016x}.{ENDING}", identity_of(&known.join(" "))))
    }

    /// The records of ended mirrors. Those of another boot say nothing.
    fn ended_files(&self, boot: &str) -> Result<Vec<(PathBuf, LegState)>, Reason> {
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|error| Failure::at(&self.path, error))?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry.map_err(|error| Failure::at(&self.path, error))?.path();
            if path.extension().is_none_or(|end| end != ENDING) {
                continue;
            }
            let bytes = match fs::read(&path) {
                // Another family has removed it.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                bytes => bytes.map_err(|error| Failure::at(&path, error))?,
            };
            let state = decode_in_boot(&bytes, boot);
            files.extend(state.map_err(|why| Failure::at(&path, why))?.map(|state| (path, state)));
        }
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use dm_targets::mirror::leg_state::KnownLeg;

    use super::*;

    fn rundir() -> (tempfile::TempDir, RunDir) {
        let dir = tempfile::tempdir().unwrap();
        let rundir = RunDir::trusted(dir.path().to_owned());
        (dir, rundir)
    }

    fn state(legs: &[(u64, bool)]) -> LegState {
        let leg = |&(identity, source): &(u64, bool)| KnownLeg {
            identity,
            number: 0,
            name: format!("/dev/leg{identity}"),
            source,
        };
        LegState { legs: legs.iter().map(leg).collect(), ..LegState::default() }
    }

    #[test]
    fn a_record_of_a_stale_leg_outlives_its_mirror_and_is_found_by_any_of_its_legs() {
        let (dir, rundir) = rundir();
        let left = state(&[(1, false), (2, true), (3, false)]);
        rundir.write_legs("mirror-a", &left).unwrap();
        rundir.remove("mirror-a");
        for leg in 1..=3 {
            assert_eq!(rundir.ended_legs(&[9, leg]), Ok(vec![left.clone()]), "leg {leg}");
        }
        assert_eq!(rundir.ended_legs(&[8, 9]), Ok(vec![]));
        assert!(rundir.legs("mirror-a").is_err(), "the next mirror has its own record");
        // One leg is in sync again, in a mirror with another name, and then all are.
        rundir.write_legs("mirror-b", &state(&[(2, true), (9, true)])).unwrap();
        rundir.remove("mirror-b");
        assert_eq!(rundir.ended_legs(&[2, 9]), Ok(vec![]));
        assert_eq!(rundir.ended_legs(&[3]), Ok(vec![state(&[(1, false), (3, false)])]));
        rundir.write_legs("mirror-b", &state(&[(3, true), (1, true)])).unwrap();
        rundir.remove("mirror-b");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_later_record_replaces_the_earlier_ones_of_its_legs() {
        let (_dir, rundir) = rundir();
        let keep = |key: &str, legs: &[(u64, bool)]| {
            rundir.write_legs(key, &state(legs)).unwrap();
            rundir.keep_legs(key).unwrap()
        };
        assert_eq!(keep("m", &[(1, false), (2, true)]), Some(state(&[(1, false), (2, true)])));
        assert!(keep("n", &[(5, true), (6, false)]).is_some());
        assert!(keep("m", &[(1, true), (2, false)]).is_some());
        assert_eq!(rundir.ended_legs(&[2]), Ok(vec![state(&[(1, true), (2, false)])]));
        assert_eq!(rundir.ended_legs(&[6]), Ok(vec![state(&[(5, true), (6, false)])]));
        assert_eq!(keep("m", &[(1, true), (2, true)]), None);
        assert_eq!(rundir.ended_legs(&[1, 2]), Ok(vec![]));
    }

    #[test]
    fn a_record_that_cannot_be_kept_stays_and_one_that_cannot_be_read_is_an_error() {
        let (dir, rundir) = rundir();
        let left = state(&[(1, false), (2, true)]);
        rundir.write_legs("m", &left).unwrap();
        // A file cannot replace a directory.
        fs::create_dir(rundir.ended_file(&left)).unwrap();
        rundir.keep_legs("m").unwrap_err();
        rundir.remove("m");
        assert_eq!(rundir.legs("m"), Ok(left.clone()));
        fs::remove_dir(rundir.ended_file(&left)).unwrap();
        rundir.remove("m");
        assert_eq!(rundir.ended_legs(&[1]), Ok(vec![left]));
        fs::write(dir.path().join("legs-1.ended"), "{").unwrap();
        let why = rundir.ended_legs(&[1]).unwrap_err();
        assert!(why.contains("legs-1.ended: damaged"), "{why}");
    }
}
