//! Lost stores: COWs that look valid and must not be used, because their snapshot became wrong and the COW could not say so.
//!
//! A file for each COW, named after what the disk is called for good, so that it is found however the disk is attached.
//!
//! Rules kept here: I9 (a file is whole and durable before the change of the origin that it speaks of: written, flushed,
//! renamed, and its directory flushed), and a file goes only when the COW has been wiped, never by itself. The run
//! directory is in memory unless it is put elsewhere: a server must never wait for a file system that it may serve itself.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use dm_targets::mirror::format::identity_of;
use dm_targets::snapshot::losses::{Loss, LossRecord};
use serde::{Deserialize, Serialize};

use super::RunDir;

/// What stands in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Entry {
    /// What the COW and its origin are called for good.
    cow: String,
    origin: String,
    /// The mark failed; else the origin was changed without the snapshot.
    mark_failed: bool,
}

/// The record of one COW.
pub struct LostStore {
    path: PathBuf,
    cow: String,
    origin: String,
}

impl LostStore {
    /// The record of a COW and its origin, by what they are called for good.
    pub fn of(rundir: &RunDir, cow: &str, origin: &str) -> LostStore {
        let path = rundir.path.join(format!("cow-{:016x}.lost", identity_of(cow)));
        LostStore { path, cow: cow.to_owned(), origin: origin.to_owned() }
    }

    /// Why the store on the COW is lost, if it is; with the file that says so.
    ///
    /// # Errors
    /// The file cannot be read. What it says cannot be known then, and the COW must not be used.
    pub fn found(&self) -> io::Result<Option<String>> {
        let text = match fs::read(&self.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            text => text.map_err(|error| self.unreadable(&error))?,
        };
        let entry: Entry = serde_json::from_slice(&text).map_err(|error| self.unreadable(&error.into()))?;
        if entry.cow != self.cow {
            return Ok(None); // another disk, whose name has the same number
        }
        let file = self.path.display();
        Ok(match entry.mark_failed {
            true => Some(format!("it became invalid and its COW could not be marked ({file})")),
            // The store may be another origin's by now.
            false if entry.origin != self.origin => None,
            false => Some(format!("its origin was changed, or could be, after the snapshot had been deleted ({file})")),
        })
    }

    fn unreadable(&self, error: &io::Error) -> io::Error {
        io::Error::other(format!("{}: {error}", self.path.display()))
    }

    /// The COW has been wiped: nothing is lost on it any more.
    pub fn forget(&self) -> io::Result<()> {
        match fs::remove_file(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(self.unreadable(&error)),
            _ => Ok(()),
        }
    }

    fn write(&self, entry: &Entry) -> io::Result<()> {
        let new = self.path.with_extension("lost-new");
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
        file.write_all(&serde_json::to_vec(entry)?)?;
        file.sync_all()?;
        fs::rename(&new, &self.path)?;
        self.path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
    }
}

impl LossRecord for LostStore {
    fn cow(&self) -> &str {
        &self.cow
    }

    fn record(&self, loss: Loss) -> Result<(), String> {
        let mark_failed = loss == Loss::MarkFailed;
        let entry = Entry { cow: self.cow.clone(), origin: self.origin.clone(), mark_failed };
        self.write(&entry).map_err(|error| self.unreadable(&error).to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rundir() -> (tempfile::TempDir, RunDir) {
        let dir = tempfile::tempdir().unwrap();
        let rundir = RunDir { path: dir.path().to_owned() };
        (dir, rundir)
    }

    #[test]
    fn a_lost_store_is_found_by_its_name_until_it_is_forgotten() {
        let (_dir, rundir) = rundir();
        let store = LostStore::of(&rundir, "wwid 1", "wwid 2");
        assert_eq!(store.found().unwrap(), None);
        store.record(Loss::MarkFailed).unwrap();
        let again = LostStore::of(&rundir, "wwid 1", "wwid 3");
        assert!(again.found().unwrap().unwrap().contains("could not be marked"), "whatever its origin is now");
        assert_eq!(LostStore::of(&rundir, "wwid 4", "wwid 2").found().unwrap(), None);
        again.forget().unwrap();
        again.forget().unwrap();
        assert_eq!(store.found().unwrap(), None);
    }

    #[test]
    fn a_store_that_left_is_lost_for_its_own_origin_only() {
        let (_dir, rundir) = rundir();
        LostStore::of(&rundir, "wwid 1", "wwid 2").record(Loss::OriginChanged).unwrap();
        assert!(LostStore::of(&rundir, "wwid 1", "wwid 2").found().unwrap().is_some());
        assert_eq!(LostStore::of(&rundir, "wwid 1", "wwid 3").found().unwrap(), None);
    }

    #[test]
    fn what_cannot_be_written_or_read_is_said() {
        let (dir, rundir) = rundir();
        let store = LostStore::of(&rundir, "wwid 1", "wwid 2");
        fs::write(&store.path, b"{").unwrap();
        assert!(store.found().unwrap_err().to_string().contains(".lost"));
        drop(dir);
        assert!(store.record(Loss::MarkFailed).unwrap_err().contains(".lost"));
    }
}
