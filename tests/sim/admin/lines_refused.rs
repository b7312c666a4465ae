//! What a device made of ranges does when a table cannot replace its own, or when that table's disk
//! fails at that moment.

use dm_targets::disk::Errno;
use dm_targets::request::RequestKind;
use dm_targets::sim::disk::{Class, Fault, Matcher};
use dm_targets::table::Table;
use dm_targets::units::Sectors;

use super::model;
use super::town::{Town, What};
use crate::protocol::{Command, DeviceSpec};

const L: What = What::Lines;

fn spec(lines: &str) -> DeviceSpec {
    DeviceSpec { table: Table::parse_table(lines).unwrap(), ..Town::spec(L) }
}

/// A device on `/a` whose first sector has been written.
fn town() -> Town {
    let mut town = Town::new(1, true);
    town.add(L).unwrap();
    let write = RequestKind::Write { fua: false };
    let pending = town.send(L, write, 0, model::sector(7)).unwrap();
    assert_eq!(*pending.result.borrow(), Some(Ok(())));
    town.strike(&pending);
    town
}

fn load(town: &mut Town, lines: &str) -> Result<(), String> {
    let device = town.devices[&L].device();
    town.ask(L.key(), Command::Load { device, spec: spec(lines) }).map(drop)
}

/// The value of a sector, if the device runs and can be read there.
fn read(town: &mut Town, sector: usize) -> Option<u32> {
    let pending = town.send(L, RequestKind::Read, sector, vec![0; 512])?;
    let result = pending.result.borrow().clone();
    town.strike(&pending);
    let bytes = town.site.take_payload(pending.payload);
    result?.ok().map(|()| model::values(&bytes)[0])
}

#[test]
fn a_table_of_another_length_or_kind_is_not_loaded() {
    let mut town = town();
    for lines in ["0 4 linear /a 0", "0 8 linear /b 0\n8 1 zero"] {
        let why = load(&mut town, lines).unwrap_err();
        assert!(why.contains("its length cannot change"), "{why}");
    }
    let why = load(&mut town, "0 8 snapshot-merge /a /c0 P 2").unwrap_err();
    assert!(why.contains("replaces the table of its origin's device only"), "{why}");
    town.resume(L).unwrap();
    assert_eq!(read(&mut town, 0), Some(7));
}

#[test]
fn a_table_that_cannot_be_used_holds_nothing_up() {
    let mut town = town();
    for (lines, why) in [
        ("0 8 linear /absent 0", "cannot open /absent"),
        ("0 4 zero\n4 4 linear /b 5", "do not fit on a disk of 8 sectors"),
    ] {
        for suspended in [false, true] {
            load(&mut town, lines).unwrap();
            if suspended {
                town.suspend(L).unwrap();
            }
            let error = town.resume(L).unwrap_err();
            let now = if suspended { "stays suspended" } else { "continues to run" };
            let stays = format!("the old table is still in place, and the device {now}");
            assert!(error.contains(why) && error.contains(&stays), "{error}");
            assert!(error.ends_with("; the new table is no longer loaded"), "{error}");
            let state = town.state(L.key()).unwrap().remove(0);
            assert_eq!((state.suspended, state.loaded), (suspended, None));
            if suspended {
                town.resume(L).unwrap();
            }
            assert_eq!(read(&mut town, 0), Some(7));
        }
    }
}

/// What is loaded can be dropped, and stays if that cannot be recorded.
#[test]
fn a_loaded_table_is_dropped() {
    let mut town = town();
    let device = town.devices[&L].device();
    let clear = |town: &mut Town| town.ask(L.key(), Command::Clear { device });
    let loaded = |town: &Town| town.state(L.key()).unwrap().remove(0).loaded.is_some();
    clear(&mut town).unwrap();
    load(&mut town, "0 8 zero").unwrap();
    town.fill(true);
    let why = clear(&mut town).unwrap_err();
    assert!(why.contains("its table stays loaded") && loaded(&town), "{why}");
    town.fill(false);
    clear(&mut town).unwrap();
    assert!(!loaded(&town));
    town.suspend(L).unwrap();
    town.resume(L).unwrap();
    assert_eq!(read(&mut town, 0), Some(7));
}

/// A disk with another user, be it another program or another device of the same server, is not
/// shared without force; and the disk that both tables have is claimed all the time.
#[test]
fn a_disk_with_another_user_is_not_taken() {
    let mut town = town();
    town.site.disks[4].claim.set(Some(77));
    load(&mut town, "0 8 linear /b 0").unwrap();
    let why = town.resume(L).unwrap_err();
    assert!(why.contains("/b") && why.contains("in use"), "{why}");
    town.site.disks[4].claim.set(None);
    let pid = town.site.disks[3].claim.get();
    load(&mut town, "0 2 zero\n2 6 linear /a 2").unwrap();
    town.resume(L).unwrap();
    assert_eq!((read(&mut town, 0), town.site.disks[3].claim.get()), (Some(0), pid));
    load(&mut town, "0 8 linear /b 0").unwrap();
    town.resume(L).unwrap();
    assert_eq!(town.site.disks[3].claim.get(), None, "a disk is free when no table has it");
    let add = Command::Add { name: None, id: None, spec: spec("0 8 linear /b 0") };
    let why = town.ask(L.key(), add).unwrap_err();
    assert!(why.contains("in use by /dev/ublkb0"), "{why}");
}

/// The disk of the old table fails when it is flushed: the user is told, and the table is in place,
/// because that disk may be the reason for the new table.
#[test]
fn what_the_old_table_has_lost_is_told() {
    for suspended in [false, true] {
        let mut town = town();
        let matcher = Matcher::all(Class::Flush);
        let fault = Fault { matcher, skip: 0, times: 1, errno: Errno::EIO };
        town.site.disks[3].disk.borrow().inject(fault);
        load(&mut town, "0 8 linear /b 0").unwrap();
        let why = if suspended {
            let why = town.suspend(L).unwrap_err();
            town.resume(L).unwrap();
            why
        } else {
            town.resume(L).unwrap_err()
        };
        let what = if suspended { "suspended" } else { "the new table is in place" };
        assert!(why.contains(what) && why.contains("may be lost"), "{why}");
        assert_eq!(read(&mut town, 1), Some(201));
        assert!(!town.state(L.key()).unwrap()[0].suspended);
    }
}

/// The handle that the old table has was opened before the disk grew.
#[test]
fn a_table_on_the_new_part_of_a_disk_works() {
    let mut town = town();
    town.site.disks[3].disk.borrow().grow(Sectors(16));
    load(&mut town, "0 8 linear /a 8").unwrap();
    town.resume(L).unwrap();
    assert_eq!(read(&mut town, 7), Some(0));
}
