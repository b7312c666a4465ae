//! Disks that a command writes past all devices (`copy`, `zero`).
//!
//! Rule kept here: I9 (what has left a disk is recorded as lost before the disk is written).

use dm_targets::snapshot::losses::LossRecord;

use super::directory::RunDir;
use super::lost::LostStore;
use crate::failure::{Failure, Reason};
use crate::protocol::{Cow, KnownDisk, Part};

impl RunDir {
    /// Records as lost the deleted snapshots of a disk of which this part is about to be written,
    /// under whatever name. Returns whether there are any.
    ///
    /// # Errors
    /// A loss cannot be recorded, or a record cannot be read: the disk must not be written.
    pub fn lose_departures(&self, disk: &KnownDisk, part: Part) -> Result<bool, Reason> {
        self.part_from_gone(disk, &[part])?;
        let departures = self.departures("", disk, &[part])?;
        for departure in &departures {
            let record = LostStore::of(self, departure.cow.clone());
            record.record(departure.loss()).map_err(|why| {
                let what = "a snapshot of it was deleted, and that it is lost cannot be recorded";
                Failure::from(why).context(what)
            })?;
        }
        Ok(!departures.is_empty())
    }

    /// Removes the records of the stores that were on a disk whose start has been overwritten.
    pub fn forget_stores(&self, disk: Cow) {
        LostStore::of(self, disk).tidy(false);
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use dm_targets::snapshot::format::StoreId;
    use dm_targets::units::{Sector, Sectors};

    use super::*;
    use crate::protocol::{Place, Which};
    use crate::rundir::departed::Departure;

    const ONE: Part = (Sector(0), Sectors(1));

    fn departed() -> (tempfile::TempDir, RunDir, Cow, KnownDisk) {
        let dir = tempfile::tempdir().unwrap();
        let rundir = RunDir::trusted(dir.path().to_owned());
        let store = Which::Id(StoreId([1; 16]));
        let (names, former) = (vec!["wwid c".to_owned()], String::new());
        let cow = Cow { store, names, former, number: 7, origin: "wwid o".to_owned() };
        let place = Place { on: "block 8:0 5".to_owned(), start: 512, end: 1024 };
        let origin =
            KnownDisk { name: "wwid o".to_owned(), number: 3, place, ..KnownDisk::default() };
        rundir.write_departure("k", &Departure::of(cow.clone(), false, &origin, None)).unwrap();
        (dir, rundir, cow, origin)
    }

    #[test]
    fn what_has_left_a_disk_is_lost_before_the_disk_is_written() {
        let (_dir, rundir, cow, origin) = departed();
        let place = Place { start: 0, ..origin.place.clone() };
        let whole = KnownDisk { place, ..KnownDisk::default() };
        assert!(!rundir.lose_departures(&whole, ONE).unwrap(), "what is before the origin");
        assert!(LostStore::of(&rundir, cow.clone()).found(false).unwrap().is_none());
        assert!(rundir.lose_departures(&whole, (Sector(1), Sectors(1))).unwrap());
        assert!(LostStore::of(&rundir, cow).found(false).unwrap().is_some());
        assert!(!rundir.lose_departures(&origin, ONE).unwrap(), "it has been lost already");
    }

    #[test]
    fn a_disk_is_not_written_if_that_cannot_be_recorded() {
        let (dir, rundir, cow, origin) = departed();
        let Which::Id(id) = cow.store else { panic!("no id") };
        fs::create_dir(dir.path().join(format!("cow-store-{id}.lost"))).unwrap();
        let why = rundir.lose_departures(&origin, ONE).unwrap_err().to_string();
        assert!(why.contains("cannot be recorded"), "{why}");
        fs::write(dir.path().join("cow-1.departed"), "{").unwrap();
        let why = rundir.lose_departures(&origin, ONE).unwrap_err().to_string();
        assert!(why.contains("damaged"), "{why}");
    }

    #[test]
    fn a_departure_ends_with_its_store() {
        let (_dir, rundir, cow, origin) = departed();
        rundir.forget_stores(Cow { store: Which::Unknown, number: 6, ..cow.clone() });
        assert_eq!(rundir.departures("k", &origin, &[]).unwrap().len(), 1, "attached before");
        rundir.forget_stores(Cow { store: Which::Unknown, ..cow });
        assert!(rundir.departures("k", &origin, &[]).unwrap().is_empty());
    }
}
