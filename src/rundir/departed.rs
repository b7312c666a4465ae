//! Deleted snapshots whose origin may stay in use: each is valid until the origin's next change,
//! and wrong afterwards.
//!
//! One file for each, next to the records of lost stores ([`super::lost`]). The file outlives the
//! family, because another server may serve the origin before it is changed; that server takes the
//! file over when it opens the origin.
//!
//! Rules kept here: I9 (the file is durable before the command that deletes the snapshot ends), and
//! a file is removed only when its store has been recorded as lost or a snapshot is served from its
//! COW again. An origin matches a file only if it is known to be the same: writes to another origin
//! would lose a valid snapshot.

use std::fs;
use std::io::{self, ErrorKind};
use std::path::PathBuf;

use dm_targets::mirror::leg_flags::identity_of;
use dm_targets::snapshot::losses::Loss;
use serde::{Deserialize, Serialize};

use super::boot::boot_id;
use super::directory::{RunDir, at};
use super::durable;
use crate::protocol::Cow;
use crate::storage::certainly_differ;

/// Extension of the files.
const ENDING: &str = "departed";

/// A snapshot that has left its origin.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Departure {
    /// Identifies the COW; includes the lasting name of its origin.
    pub cow: Cow,
    /// The COW could not be marked when the snapshot became invalid; otherwise the store is valid
    /// until the origin changes.
    pub mark_failed: bool,
    /// The origin's number in that boot; zero if it has none.
    pub origin_number: u64,
    /// The merge that has not ended, if it was one that left.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unmerged: Option<Unmerged>,
}

/// A merge without a device: a part of the snapshot is on its COW only, so the origin's disk alone
/// is a mixture.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unmerged {
    /// The name that its device had.
    pub name: String,
    /// Its table line.
    pub line: String,
    /// Its server had died, or could not open it: the merge may have ended.
    #[serde(default)]
    pub may_have_ended: bool,
}

/// Content of a file.
#[derive(Serialize, Deserialize)]
struct Content {
    /// The origin's family, and the boot in which the family's key and all numbers are valid.
    key: String,
    boot: String,
    departure: Departure,
}

impl Departure {
    /// Why the store must not be used after the origin has changed.
    pub fn loss(&self) -> Loss {
        if self.mark_failed { Loss::MarkFailed } else { Loss::OriginChanged }
    }
}

impl Content {
    /// Whether the snapshot has left this origin. A lasting name decides; without one, the number
    /// does.
    fn is_of(&self, key: &str, boot: &str, origin: &str, number: u64) -> bool {
        let known = &self.departure.cow.origin;
        // A disk has its number in whichever family; one without a number has its family's name.
        let here = self.boot == boot
            && self.departure.origin_number == number
            && (number != 0 || self.key == key);
        if !known.is_empty() && !origin.is_empty() {
            return known == origin || here && !certainly_differ(known, origin);
        }
        here
    }
}

impl RunDir {
    /// Durably records that a snapshot has left the origin of a family.
    ///
    /// # Errors
    /// The reason, with the file's path.
    pub fn write_departure(&self, key: &str, departure: &Departure) -> io::Result<()> {
        let path = self.departed_file(&departure.cow);
        let write = || {
            let content =
                Content { key: key.to_owned(), boot: boot_id()?, departure: departure.clone() };
            // The directory may have been removed: the record is for a later server.
            self.make()?;
            // If this fails, the snapshot is not deleted, and no file may be left.
            durable::create(&path, &serde_json::to_vec_pretty(&content)?)
        };
        write().map_err(|error| at(&path, error))
    }

    /// The snapshots that have left an origin: the disk with this name and number, of this family.
    ///
    /// # Errors
    /// A file cannot be read, so its origin is not known.
    pub fn departures(&self, key: &str, origin: &str, number: u64) -> io::Result<Vec<Departure>> {
        let boot = boot_id()?;
        let mut found = Vec::new();
        for (_, mut content) in self.departed_files()? {
            if !content.is_of(key, &boot, origin, number) {
                continue;
            }
            if content.boot != boot {
                // In this boot another disk may have the same number.
                content.departure.cow.number = 0;
            }
            found.push(content.departure);
        }
        Ok(found)
    }

    /// Whether the store on a COW has left an origin that has another number, in this boot.
    ///
    /// # Errors
    /// A file cannot be read.
    pub fn left_another(&self, cow: &Cow, number: u64) -> io::Result<bool> {
        let boot = boot_id()?;
        let another = |content: &Content| {
            let Content { departure, boot: then, .. } = content;
            *then == boot && departure.origin_number != number && is_same(&departure.cow, cow)
        };
        Ok(self.departed_files()?.iter().any(|(_, content)| another(content)))
    }

    /// Removes the departures of a COW that has a snapshot again or is recorded as lost.
    ///
    /// # Errors
    /// A file cannot be read or removed.
    pub fn forget_departure(&self, cow: &Cow) -> io::Result<()> {
        for (path, content) in self.departed_files()? {
            if is_same(&content.departure.cow, cow) {
                fs::remove_file(&path).map_err(|error| at(&path, error))?;
            }
        }
        Ok(())
    }

    /// Removes the departures of stores that were on the COW's disk, in this boot and attachment,
    /// and are gone. `here`: the COW's store is on the disk, and has replaced them; otherwise no
    /// store is.
    ///
    /// # Errors
    /// A file cannot be read or removed.
    pub(super) fn tidy_departures(&self, cow: &Cow, here: bool) -> io::Result<()> {
        let boot = boot_id()?;
        let is_gone = |content: &Content| {
            let other = &content.departure.cow;
            let same_number = cow.number != 0 && other.number == cow.number;
            let same_disk = other.names.iter().any(|name| cow.names.contains(name));
            content.boot == boot && same_number && same_disk && !(here && other.store == cow.store)
        };
        for (path, _) in self.departed_files()?.iter().filter(|(_, content)| is_gone(content)) {
            fs::remove_file(path).map_err(|error| at(path, error))?;
        }
        Ok(())
    }

    fn departed_file(&self, cow: &Cow) -> PathBuf {
        let name = cow.names.first().map_or("", String::as_str);
        let known = format!("{} on {name}", cow.store.word().unwrap_or_default());
        self.path.join(format!("cow-{:016x}.{ENDING}", identity_of(&known)))
    }

    fn departed_files(&self) -> io::Result<Vec<(PathBuf, Content)>> {
        let entries = match fs::read_dir(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(|error| at(&self.path, error))?,
        };
        let mut files = Vec::new();
        for entry in entries {
            let path = entry?.path();
            if path.extension().is_none_or(|end| end != ENDING) {
                continue;
            }
            let bytes = match fs::read(&path) {
                // Another family has removed its file.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                bytes => bytes.map_err(|error| at(&path, error))?,
            };
            let damaged = |error| {
                io::Error::new(
                    ErrorKind::InvalidData,
                    format!("{}: damaged: {error}", path.display()),
                )
            };
            let content = serde_json::from_slice(&bytes).map_err(damaged)?;
            files.push((path, content));
        }
        Ok(files)
    }
}

/// Whether two are the same store on the same disk.
fn is_same(one: &Cow, other: &Cow) -> bool {
    let same_disk = one.names.iter().any(|name| other.names.contains(name));
    one.store == other.store && same_disk
}

#[cfg(test)]
mod tests {
    use dm_targets::snapshot::format::StoreId;

    use super::*;
    use crate::protocol::Which;
    use crate::rundir::lost::LostStore;
    use dm_targets::snapshot::losses::LossRecord;

    fn departure(id: u8, name: &str, origin: &str) -> Departure {
        let store = Which::Id(StoreId([id; 16]));
        let (names, former) = (vec![name.to_owned()], String::new());
        let cow = Cow { store, names, former, number: 7, origin: origin.to_owned() };
        Departure { cow, mark_failed: false, origin_number: 3, unmerged: None }
    }

    fn rundir() -> (tempfile::TempDir, RunDir) {
        let dir = tempfile::tempdir().unwrap();
        let rundir = RunDir::trusted(dir.path().to_owned());
        (dir, rundir)
    }

    #[test]
    fn a_departure_is_found_by_its_origin_and_by_no_other() {
        let (_dir, rundir) = rundir();
        let (named, nameless) = (departure(1, "wwid a", "wwid o"), departure(2, "wwid b", ""));
        for departure in [&named, &nameless] {
            rundir.write_departure("block-1-2", departure).unwrap();
        }
        let found = |key, origin, number| rundir.departures(key, origin, number).unwrap();
        assert_eq!(found("block-1-2", "", 3).len(), 2, "what has no name is what has the number");
        assert_eq!(
            found("block-8-8", "wwid o", 9),
            std::slice::from_ref(&named),
            "attached anew, by its name"
        );
        assert_eq!(found("block-1-2", "wwid p", 3), [nameless], "another disk at the same place");
        assert_eq!(found("block-1-2", "", 4), [], "another disk at the same place, without a name");
        assert_eq!(found("block-1-3", "", 3).len(), 2, "the same disk, in another family");
        let unnumbered = Departure { origin_number: 0, ..departure(3, "wwid c", "") };
        rundir.write_departure("block-1-2", &unnumbered).unwrap();
        assert_eq!(found("block-1-2", "", 0), [unnumbered], "of the family that it has left");
        assert_eq!(found("block-1-3", "", 0), []);
    }

    #[test]
    fn a_store_that_has_left_another_origin_is_found_by_its_cow() {
        let (_dir, rundir) = rundir();
        let (one, other) = (departure(1, "wwid a", ""), departure(2, "wwid a", ""));
        rundir.write_departure("k", &one).unwrap();
        assert!(rundir.left_another(&one.cow, 4).unwrap());
        assert!(!rundir.left_another(&one.cow, 3).unwrap(), "the same origin");
        assert!(!rundir.left_another(&other.cow, 4).unwrap(), "another store");
    }

    #[test]
    fn records_of_stores_are_written_though_the_directory_was_removed() {
        let (dir, rundir) = rundir();
        let one = departure(1, "wwid a", "wwid o");
        for _ in 0..2 {
            std::fs::remove_dir_all(dir.path()).unwrap();
            rundir.write_departure("k", &one).unwrap();
        }
        assert_eq!(rundir.departures("k", "wwid o", 3).unwrap(), std::slice::from_ref(&one));
        std::fs::remove_dir_all(dir.path()).unwrap();
        LostStore::of(&rundir, one.cow.clone()).record(one.loss()).unwrap();
        assert!(LostStore::of(&rundir, one.cow).found().unwrap().is_some());
    }

    #[test]
    fn a_departure_ends_when_its_cow_is_used_again_or_recorded_as_lost() {
        let (_dir, rundir) = rundir();
        let (one, two) = (departure(1, "wwid a", "wwid o"), departure(2, "wwid b", "wwid o"));
        for departure in [&one, &two] {
            rundir.write_departure("k", departure).unwrap();
        }
        rundir.forget_departure(&departure(2, "wwid a", "").cow).unwrap();
        assert_eq!(
            rundir.departures("k", "wwid o", 3).unwrap().len(),
            2,
            "another store, on another disk"
        );
        rundir.forget_departure(&Cow { number: 9, ..one.cow }).unwrap();
        assert_eq!(rundir.departures("k", "wwid o", 3).unwrap(), std::slice::from_ref(&two));
        LostStore::of(&rundir, two.cow.clone()).record(two.loss()).unwrap();
        assert_eq!(rundir.departures("k", "wwid o", 3).unwrap(), []);
    }

    #[test]
    fn a_departure_ends_when_its_store_is_gone_from_the_disk() {
        let (_dir, rundir) = rundir();
        let [old, elsewhere] =
            [(1, "wwid a"), (2, "wwid b")].map(|(id, name)| departure(id, name, "wwid o"));
        let attached_before = departure(3, "wwid a", "wwid o");
        let attached_before =
            Departure { cow: Cow { number: 6, ..attached_before.cow.clone() }, ..attached_before };
        let all = [&old, &elsewhere, &attached_before];
        all.iter().for_each(|departure| rundir.write_departure("k", departure).unwrap());
        let tidied = |cow: Cow, here: bool| {
            LostStore::of(&rundir, cow).tidy(here);
            rundir.departures("k", "wwid o", 3).unwrap()
        };
        let new = departure(4, "wwid a", "wwid o").cow;
        assert_eq!(tidied(old.cow.clone(), true).len(), 3, "the same store");
        assert_eq!(tidied(Cow { number: 0, ..new.clone() }, true).len(), 3, "no certain disk");
        let left = tidied(new.clone(), true);
        assert!(left.len() == 2 && left.contains(&elsewhere) && left.contains(&attached_before));
        // The disk was wiped; the id is the next store's.
        rundir.write_departure("k", &old).unwrap();
        assert_eq!(tidied(new, false).len(), 2);
    }

    #[test]
    fn one_that_cannot_be_read_keeps_the_origin_away() {
        let (dir, rundir) = rundir();
        fs::write(dir.path().join("cow-1.departed"), "{").unwrap();
        let why = rundir.departures("k", "", 0).unwrap_err().to_string();
        assert!(why.contains("cow-1.departed: damaged"), "{why}");
    }
}
