//! Foreign disks at the paths of a device's disks: attached or put there while the device had no
//! server.
//!
//! Rule kept here: a server that takes a device over opens for writing, by a path, only what may be
//! the disk that was there. A disk that is certainly another one, and the device, are left alone.

use dm_targets::snapshot::format::Identity;

use super::machine::{Machine, OpenDisk};
use super::mutant::{self, Mutant};
use super::state::Administrator;
use crate::failure::Reason;
use crate::protocol::{KnownDisk, KnownDisks, Which};
use crate::storage::{are_of_one_kind, certainly_differ};

impl<M: Machine> Administrator<M> {
    /// How an open disk is recognized later.
    pub(super) fn known_disk(&self, disk: &M::Open) -> KnownDisk {
        let (name, number, place) = (disk.name(), disk.number_in_boot(), disk.place());
        let (store, joined) = (Which::Unknown, disk.own());
        KnownDisk { name, number, store, place, joined, ..KnownDisk::default() }
    }

    /// The same for a disk of a device; `again`: what the device's disks were, if it exists
    /// already.
    pub(super) fn recognized(
        &self,
        word: &str,
        disk: &M::Open,
        again: Option<&KnownDisks>,
    ) -> Result<KnownDisk, Reason> {
        let here = self.known_disk(disk);
        refuse_foreign_disk(word, again, &here)?;
        Ok(here)
    }
}

/// Refuses a disk that is not the one that a table's word named before.
pub(super) fn refuse_foreign_disk(
    word: &str,
    again: Option<&KnownDisks>,
    here: &KnownDisk,
) -> Result<(), Reason> {
    let Some(was) = again.and_then(|known| known.get(word)).filter(|was| is_foreign(was, here))
    else {
        return Ok(());
    };
    let (was, is) = (called(was), called(here));
    let hint = "attach the right disk, or delete the device (`del --force`) and add it again with \
                this disk";
    Err(format!("{word}: another disk is at this path: it was {was} and is now {is}; {hint}")
        .into())
}

/// Refuses a COW that is the right disk but holds another snapshot's store by now: that store is
/// neither served nor marked. A COW without a store is refused when it is opened.
pub(super) fn refuse_other_store(
    word: &str,
    again: Option<&KnownDisks>,
    here: Option<Option<Identity>>,
) -> Result<(), Reason> {
    let Some(was) = again.and_then(|known| known.get(word)) else { return Ok(()) };
    let Some(here) =
        here.map(|found| found.map_or(Which::WithoutId, |identity| Which::Id(identity.store)))
    else {
        return Ok(());
    };
    if was.store == Which::Unknown || was.store == here {
        return Ok(());
    }
    let hint = "delete the device (`del --force`) and add it again with this store";
    Err(format!("{word}: it now holds another snapshot's store; {hint}").into())
}

/// Whether two disks certainly differ. A disk with the same name may have been reattached under
/// another number; if the names cannot be compared, the number in this boot decides.
fn is_foreign(was: &KnownDisk, here: &KnownDisk) -> bool {
    if mutant::is(Mutant::ForeignDiskTrusted) {
        return false;
    }
    let named = !was.name.is_empty() && !here.name.is_empty();
    if !named || !are_of_one_kind(&was.name, &here.name) {
        return was.number != 0 && here.number != 0 && was.number != here.number;
    }
    certainly_differ(&was.name, &here.name)
}

fn called(disk: &KnownDisk) -> String {
    match disk.name.trim_end() {
        "" => format!("disk {} of this boot, which has no name", disk.number),
        name => format!("'{name}'"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn disk(name: &str, number: u64) -> KnownDisk {
        KnownDisk { name: name.to_owned(), number, ..KnownDisk::default() }
    }

    fn judged(was: KnownDisk, here: &KnownDisk) -> Result<(), Reason> {
        refuse_foreign_disk("/dev/x", Some(&KnownDisks::from([("/dev/x".to_owned(), was)])), here)
    }

    #[test]
    fn a_disk_with_another_name_is_another() {
        for (was, here) in
            [("serial A", "serial B"), ("wwid a", "wwid b"), ("file 1-2 /a", "file 3-4 /b")]
        {
            let why = judged(disk(was, 1), &disk(here, 1)).unwrap_err();
            assert!(
                why.starts_with("/dev/x: another disk") && why.contains(was) && why.contains(here),
                "{why}"
            );
            assert!(why.contains("attach the right disk") && why.contains("del --force"), "{why}");
        }
    }

    #[test]
    fn a_disk_that_keeps_its_name_may_come_under_another_number() {
        // A restored file keeps its path, and a moved one its birth.
        for (was, here) in [
            ("serial A", "serial A "),
            ("file 1-2 /a", "file 3-4 /a"),
            ("file 1-2 /a", "file 1-2 /b"),
        ] {
            assert_eq!(judged(disk(was, 1), &disk(here, 2)), Ok(()), "{was} and {here}");
        }
    }

    #[test]
    fn a_disk_without_a_name_is_known_by_its_number_in_this_boot() {
        for (was, here) in [("", ""), ("serial A", ""), ("", "serial B")] {
            assert!(judged(disk(was, 1), &disk(here, 2)).is_err(), "{was} and {here}");
            assert_eq!(judged(disk(was, 1), &disk(here, 1)), Ok(()), "{was} and {here}");
            assert_eq!(judged(disk(was, 1), &disk(here, 0)), Ok(()), "nothing is known of it");
        }
        let why = judged(disk("", 7), &disk("serial B", 9)).unwrap_err();
        assert!(
            why.contains("it was disk 7 of this boot, which has no name and is now 'serial B'"),
            "{why}"
        );
    }

    #[test]
    fn names_of_two_kinds_say_nothing_of_each_other() {
        let names = ["wwid a", "device/serial a", "serial a", "file 1-2 /a", "dm/uuid a"];
        for (at, was) in names.iter().enumerate() {
            for here in names.iter().skip(at + 1) {
                for (was, here) in [(was, here), (here, was)] {
                    let judged = |number| judged(disk(was, 1), &disk(here, number));
                    assert!(judged(2).unwrap_err().contains("another disk"), "{was}, {here}");
                    assert_eq!(judged(1), Ok(()), "{was} and {here}: one number in this boot");
                    assert_eq!(judged(0), Ok(()), "nothing is known of it");
                }
            }
        }
        // A stack has several names, and may be recreated.
        for (was, here) in [("dm/uuid a", "dm/name b"), ("md/uuid a", "dm/uuid b")] {
            assert_eq!(judged(disk(was, 1), &disk(here, 2)), Ok(()), "{was} and {here}");
        }
    }

    #[test]
    fn what_no_server_has_written_down_is_trusted() {
        assert_eq!(refuse_foreign_disk("/dev/x", None, &disk("serial A", 1)), Ok(()));
        assert_eq!(
            refuse_foreign_disk("/dev/x", Some(&KnownDisks::default()), &disk("serial A", 1)),
            Ok(())
        );
    }
}
