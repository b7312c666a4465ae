//! Journals that hold nothing and that nobody needs: what is left of a server that was killed
//! while it added a snapshot, before the device was on record.
//!
//! Rule kept here: only what no server uses and no device on record may ask for again is removed. A
//! journal without records still counts those that it had, for the COW of a waiting device.

use std::fs::{self, OpenOptions};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::layout::MAGIC;
use super::{existing, left_in, paths_in};
use crate::failure::{Failure, Reason};
use crate::protocol::DeviceState;
use crate::rundir::RunDir;
use crate::sys::disk as sys;

/// The journals that hold nothing and that nobody needs. None younger than `least_age`: its device
/// may just be added. None while a state file cannot be read: it may tell of a device that needs
/// one.
///
/// # Errors
/// The directory or a journal cannot be read.
pub fn unused(rundir: &RunDir, least_age: Duration) -> Result<Vec<PathBuf>, Reason> {
    let directory = rundir.path();
    let paths = paths_in(directory).map_err(|error| Failure::at(directory, error))?;
    let (mut found, mut devices) = (Vec::new(), Vec::new());
    for path in paths {
        if is_empty(&path, least_age).map_err(|error| Failure::at(&path, error))? {
            found.push(path);
        }
    }
    if found.is_empty() {
        return Ok(found);
    }
    for (_, recorded) in rundir.devices_by_family(None)? {
        let Ok(recorded) = recorded else { return Ok(Vec::new()) };
        devices.extend(recorded);
    }
    found.retain(|path| !devices.iter().any(|device| may_need(device, path)));
    Ok(found)
}

/// Whether a journal is old, holds no record, and is used by no server.
fn is_empty(path: &Path, least_age: Duration) -> io::Result<bool> {
    let Ok(Some((file, words))) = existing(path) else { return Ok(false) };
    let made = file.metadata()?.modified()?;
    let age = SystemTime::now().duration_since(made).unwrap_or_default();
    let is_whole = words.get(0) == MAGIC && left_in(&words).records.is_empty();
    Ok(is_whole && age >= least_age && !sys::is_locked(&file)?)
}

/// Whether the journal may be that of a device's COW, by the number at the end of its name. A disk
/// without a number may be any.
fn may_need(device: &DeviceState, journal: &Path) -> bool {
    let name = journal.file_stem().map(|name| name.to_string_lossy()).unwrap_or_default();
    let number = name.rsplit('-').next().and_then(|word| u64::from_str_radix(word, 16).ok());
    let is_it = |known: u64| known == 0 || number.is_none_or(|number| number == known);
    let mut known = device.known.values().chain(&device.coming).map(|known| known.number);
    device.known.is_empty() || known.any(is_it)
}

/// Removes a journal, if it is still unused; returns whether it was.
///
/// # Errors
/// It cannot be opened or removed.
pub fn remove(path: &Path, least_age: Duration) -> io::Result<bool> {
    let file = match OpenOptions::new().read(true).write(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        file => file?,
    };
    if !is_empty(path, least_age)? || sys::lock(&file, true).is_err() {
        return Ok(false);
    }
    // A server replaces a journal before it locks it: this one may be another file by now.
    let (own, now) = (file.metadata()?, fs::metadata(path)?);
    if (own.dev(), own.ino()) != (now.dev(), now.ino()) {
        return Ok(false);
    }
    fs::remove_file(path)?;
    Ok(true)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::super::FileJournal;
    use super::super::layout::EXTENSION;
    use super::super::owner::Owner;
    use super::*;
    use crate::protocol::KnownDisk;

    const OWNER: Owner = Owner { boot: (1, 2), number: 40, store: (5, 6), name: 9, former: 10 };

    fn waiting(number: u64) -> DeviceState {
        let known = KnownDisk { number, ..KnownDisk::default() };
        let known = BTreeMap::from([("/c".to_owned(), known)]);
        DeviceState { known, ..DeviceState::of_line(3, "s", "0 8 snapshot /o /c P 8") }
    }

    #[test]
    fn a_journal_goes_that_nobody_uses_and_no_device_may_need() {
        let dir = tempfile::tempdir().unwrap();
        let rundir = RunDir::trusted(dir.path().to_owned());
        let path = dir.path().join(format!("block-7-0-28.{EXTENSION}"));
        let unused = |age| unused(&rundir, Duration::from_secs(age)).unwrap();
        let journal = FileJournal::open(&path, &OWNER).unwrap();
        assert!(unused(0).is_empty(), "a server uses it");
        // As a server leaves it that is killed.
        let bytes = fs::read(&path).unwrap();
        drop(journal);
        fs::write(&path, bytes).unwrap();
        assert!(unused(60).is_empty(), "its device may just be added");
        for (number, needs) in [(0x28, true), (0, true), (0x29, false)] {
            rundir.write_state("block-8-0", vec![waiting(number)]).unwrap();
            assert_eq!(unused(0).is_empty(), needs, "{number:x}");
        }
        fs::write(dir.path().join("block-8-16.json"), "{").unwrap();
        assert!(unused(0).is_empty(), "a state file cannot be read");
        fs::remove_file(dir.path().join("block-8-16.json")).unwrap();
        assert_eq!(unused(0), std::slice::from_ref(&path));
        assert!(!remove(&path, Duration::from_secs(60)).unwrap());
        assert!(remove(&path, Duration::ZERO).unwrap() && !fs::exists(&path).unwrap());
        assert!(!remove(&path, Duration::ZERO).unwrap(), "another command has removed it");
    }
}
