//! What a device does whose data cannot move as its new table asks; and what later mirrors know of
//! the legs of one that was left.

use dm_targets::disk::Errno;
use dm_targets::request::RequestKind;
use dm_targets::sim::disk::{Class, Fault, Matcher};
use dm_targets::table::Table;
use dm_targets::units::{Sector, Sectors};

use super::model;
use super::process::Process;
use super::town::{Town, What};
use crate::protocol::{Command, DeviceSpec, Reply};

const L: What = What::Lines;
const MIRROR: &str = "0 8 mirror core 1 2 2 /a 0 /b 0";

pub(super) fn spec(lines: &str) -> DeviceSpec {
    DeviceSpec { table: Table::parse_table(lines).unwrap(), ..Town::spec(L) }
}

pub(super) fn town() -> Town {
    let mut town = Town::new(1, true);
    town.add(L).unwrap();
    write(&mut town, 7);
    town
}

pub(super) fn write(town: &mut Town, value: u32) {
    let kind = RequestKind::Write { fua: false };
    let pending = town.send(L, kind, 0, model::sector(value)).unwrap();
    assert_eq!(*pending.result.borrow(), Some(Ok(())));
    town.strike(&pending);
}

pub(super) fn put(town: &mut Town, spec: DeviceSpec) -> Result<(), String> {
    let device = town.devices[&L].device();
    town.ask(L.key(), Command::Load { device, spec })?;
    town.resume(L)
}

pub(super) fn rest(town: &Town) {
    drop(town.site.run(&town.processes[L.key()].executor, || false));
}

pub(super) fn read(town: &mut Town) -> u32 {
    let pending = town.send(L, RequestKind::Read, 0, vec![0; 512]).unwrap();
    town.strike(&pending);
    model::values(&town.site.take_payload(pending.payload))[0]
}

/// The next writes to a disk fail.
fn fail(town: &Town, disk: usize) {
    let matcher = Matcher::all(Class::Write);
    let fault = Fault { matcher, skip: 0, times: 9, errno: Errno::EIO };
    town.site.disks[disk].disk.borrow().inject(fault);
}

#[test]
fn a_mirror_is_not_left_for_a_leg_that_is_not_in_sync_or_has_missed_a_write() {
    for in_sync in [false, true] {
        let mut town = town();
        fail(&town, if in_sync { 5 } else { 4 });
        put(&mut town, spec(MIRROR)).unwrap();
        rest(&town);
        if in_sync {
            fail(&town, 4);
            write(&mut town, 8);
        }
        for suspended in [false, true] {
            if suspended {
                town.suspend(L).unwrap();
            }
            let why = put(&mut town, spec("0 8 linear /b 0")).unwrap_err();
            let what = if in_sync { "it has missed writes" } else { "it is not in sync" };
            let now = if suspended { "stays suspended" } else { "continues to run" };
            let parts = ["/b: leg 1 ", what, "up to date: leg 0 (/a)", now];
            assert!(parts.iter().all(|part| why.contains(part)), "{why}");
            assert_eq!(town.state(L.key()).unwrap()[0].suspended, suspended);
        }
        town.resume(L).unwrap();
        assert_eq!(read(&mut town), if in_sync { 8 } else { 7 });
        put(&mut town, spec("0 8 linear /a 0")).unwrap();
        assert_eq!(read(&mut town), if in_sync { 8 } else { 7 });
    }
}

#[test]
fn ranges_are_where_the_mirror_has_its_data() {
    let mut town = town();
    put(&mut town, spec(MIRROR)).unwrap();
    rest(&town);
    for (lines, what) in [
        ("0 4 linear /b 4\n4 4 linear /b 0", "not where the mirror has that part"),
        ("0 4 linear /a 0\n4 4 linear /b 4", "more than one leg"),
        ("0 8 linear /absent 0", "cannot open /absent"),
    ] {
        let why = put(&mut town, spec(lines)).unwrap_err();
        let stays = "the old table is still in place, and the device continues to run";
        assert!(why.contains(what) && why.contains(stays), "{why}");
        assert_eq!(read(&mut town), 7);
    }
    let claimed = town.site.disks[4].claim.get();
    put(&mut town, spec("0 4 linear /b 0\n4 4 error")).unwrap();
    assert_eq!(read(&mut town), 7);
    assert_eq!((town.site.disks[3].claim.get(), town.site.disks[4].claim.get()), (None, claimed));
}

#[test]
fn a_mirror_is_not_recovered_over_the_data_of_its_device() {
    let mut town = town();
    let other = |force| DeviceSpec { source: Some(1), force, ..spec(MIRROR) };
    let why = put(&mut town, other(false)).unwrap_err();
    let parts = ["/b: the data of the device are on /a", "--force", "continues to run"];
    assert!(parts.iter().all(|part| why.contains(part)), "{why}");
    assert_eq!(read(&mut town), 7);
    put(&mut town, spec("0 8 mirror core 1 2 2 /b 0 /a 0")).unwrap();
    rest(&town);
    assert_eq!(read(&mut town), 7);
}

/// What was written to ranges is in no log: a log that was clean before says nothing of it.
#[test]
fn an_old_log_is_not_trusted_after_writes_to_ranges() {
    for line in
        ["0 8 mirror disk 2 /c0 2 2 /a 0 /b 0", "0 8 mirror disk 3 /c0 2 nosync 2 /a 0 /b 0"]
    {
        let mut town = town();
        put(&mut town, spec("0 8 mirror disk 2 /c0 2 2 /a 0 /b 0")).unwrap();
        rest(&town);
        put(&mut town, spec("0 8 linear /a 0")).unwrap();
        write(&mut town, 9);
        put(&mut town, spec(line)).unwrap();
        rest(&town);
        put(&mut town, spec("0 8 linear /b 0")).unwrap();
        assert_eq!(read(&mut town), 9, "{line}");
    }
}

/// Writes are held when the log cannot be written.
const HOLDS: &str = " 1 handle_errors";

/// In another boot a log that could not be told would call stale legs up to date.
#[test]
fn a_log_that_cannot_be_written_is_not_left_without_force() {
    let logged = "0 8 mirror disk 2 /c0 2 2 /a 0 /b 0";
    let tables = ["0 8 mirror disk 2 /c1 2 2 /a 0 /b 0", MIRROR, "0 8 linear /b 0"];
    for (next, features) in tables.iter().flat_map(|next| [(next, ""), (next, HOLDS)]) {
        let mut town = town();
        put(&mut town, spec(&format!("{logged}{features}"))).unwrap();
        rest(&town);
        let matcher = Matcher::all(Class::Write);
        let fault = Fault { matcher, skip: 0, times: u32::MAX, errno: Errno::EIO };
        town.site.disks[1].disk.borrow().inject(fault);
        let why = put(&mut town, spec(next)).unwrap_err();
        let parts = ["its log cannot be written", "`load --force`", "continues to run"];
        assert!(parts.iter().all(|part| why.contains(part)), "{next}: {why}");
        assert_eq!(read(&mut town), 7, "{next}");
        rest(&town);
        put(&mut town, DeviceSpec { force: true, ..spec(next) }).unwrap();
        rest(&town);
        write(&mut town, 9);
        assert_eq!(read(&mut town), 9, "{next}");
    }
}

#[cfg(feature = "mutants")]
#[test]
fn a_log_that_is_left_unwritten_is_noticed() {
    use dm_targets::mutant::{Mutant, set};
    set(Some(Mutant::DeadLogLeft));
    let lived = std::panic::catch_unwind(a_log_that_cannot_be_written_is_not_left_without_force);
    set(None);
    assert!(lived.is_err(), "nothing is noticed");
}

/// No leg has all data of the device: none is copied over the others.
#[test]
fn a_mirror_is_not_put_over_data_that_no_leg_has_whole() {
    let old = "0 4 linear /a 0\n4 4 linear /b 4";
    for mirror in [MIRROR, "0 8 mirror core 1 2 2 /b 0 /c 0", "0 8 mirror core 1 2 2 /c 0 /a 0"] {
        let mut town = town();
        put(&mut town, spec(old)).unwrap();
        for source in [None, Some(0)] {
            let mirror = DeviceSpec { source, ..spec(mirror) };
            let why = put(&mut town, mirror).unwrap_err();
            let parts = ["a part of the device's data", "--force", "continues to run"];
            assert!(parts.iter().all(|part| why.contains(part)), "{why}");
            assert_eq!(read(&mut town), 7);
        }
    }
    let mut town = town();
    put(&mut town, spec(old)).unwrap();
    put(&mut town, DeviceSpec { force: true, ..spec(MIRROR) }).unwrap();
}

/// The server ends between the record of the new table and that of what the mirror knew: the next
/// mirror of the device does not overwrite it.
#[test]
fn what_a_mirror_knew_of_its_legs_outlives_the_next_one() {
    for at in 1.. {
        let mut town = town();
        put(&mut town, spec(MIRROR)).unwrap();
        rest(&town);
        let changes = town.site.shared.lock().unwrap().changes;
        town.site.shared.lock().unwrap().crash_at = Some(changes + at);
        let left = put(&mut town, spec("0 8 linear /a 0"));
        let crashed = town.site.is_dead();
        town.site.shared.lock().unwrap().crash_at = None;
        if crashed {
            town.crash(false);
            let state = town.left(L.key()).unwrap();
            let process = Process::start(&town.site, L.key()).unwrap();
            town.processes.insert(L.key(), process);
            town.ask(L.key(), Command::Recover(state)).unwrap();
            town.resume(L).unwrap();
            put(&mut town, spec("0 8 linear /a 0")).unwrap();
        } else {
            left.unwrap();
        }
        write(&mut town, 9);
        // Another mirror of the device, without the leg that has missed that write.
        put(&mut town, spec("0 8 mirror core 1 2 2 /a 0 /c 0")).unwrap();
        rest(&town);
        let devices = vec![town.devices[&L].device()];
        town.ask(L.key(), Command::Del { devices, force: false }).unwrap();
        let process = Process::start(&town.site, "mirror-a").unwrap();
        town.processes.insert("mirror-a", process);
        let spec = spec("0 8 mirror core 1 2 2 /b 0 /c0 0");
        let add = Command::Add { name: None, id: None, spec };
        let why = town.ask("mirror-a", add).unwrap_err();
        assert!(why.starts_with("/b: it is not up to date"), "{why}");
        if !crashed {
            break;
        }
    }
}

/// The disk that the data are on cannot be read everywhere: the move can be given up, and by force
/// the data can be taken from the other disk as they are.
#[test]
fn a_move_off_a_disk_with_read_errors_can_be_given_up() {
    for (lines, force) in [("0 8 linear /a 0", false), ("0 8 linear /b 0", true)] {
        let mut town = town();
        let matcher = Matcher::all(Class::Read);
        let fault = Fault { matcher, skip: 0, times: 99, errno: Errno::EIO };
        town.site.disks[3].disk.borrow().inject(fault);
        put(&mut town, spec(MIRROR)).unwrap();
        rest(&town);
        let why = put(&mut town, spec("0 8 linear /b 0")).unwrap_err();
        let parts = ["/b: leg 1 ", "it is not in sync", "up to date: leg 0 (/a)", "--force"];
        assert!(parts.iter().all(|part| why.contains(part)), "{why}");
        put(&mut town, DeviceSpec { force, ..spec(lines) }).unwrap();
        town.site.disks[3].disk.borrow().mend();
        if !force {
            assert_eq!(read(&mut town), 7);
        }
    }
}

/// A device whose mirror could neither be replaced nor opened again is not left for a leg of it.
#[test]
fn a_leg_of_a_mirror_that_is_not_there_is_not_judged_as_right() {
    let mut town = town();
    put(&mut town, spec(MIRROR)).unwrap();
    rest(&town);
    town.site.disks[4].there.set(false);
    let why = put(&mut town, spec("0 8 mirror core 1 2 2 /a 0 /c 8")).unwrap_err();
    assert!(why.contains("cannot be restored either"), "{why}");
    let why = put(&mut town, spec("0 8 linear /a 0")).unwrap_err();
    assert!(why.contains("its mirror is not there"), "{why}");
    town.site.disks[4].there.set(true);
    put(&mut town, spec(MIRROR)).unwrap();
    assert_eq!(read(&mut town), 7);
}

/// Another family takes a leg under another name at the same moment: the mirror does not begin. It
/// leaves no record of its legs, which a later mirror would trust; and what the device has lost
/// when it was suspended is told as well.
#[test]
fn a_mirror_that_does_not_begin_leaves_no_record_of_its_legs() {
    let mut town = town();
    town.site.disks[5].same_as.set(Some(4));
    town.site.disks[5].number.set(town.site.disks[4].number.get());
    let process = Process::start(&town.site, "other").unwrap();
    town.processes.insert("other", process);
    let add = Command::Add { name: None, id: None, spec: spec("0 8 linear /c 0") };
    town.ask("other", add).unwrap();
    let registered = town.state("other").unwrap();
    town.site.files(|files| files.states.remove("other"));
    let device = town.devices[&L].device();
    town.ask(L.key(), Command::Load { device, spec: spec(MIRROR) }).unwrap();
    town.site.shared.lock().unwrap().before_lock = Some(("other".to_owned(), registered));
    let matcher = Matcher::all(Class::Flush);
    let fault = Fault { matcher, skip: 0, times: 1, errno: Errno::EIO };
    town.site.disks[3].disk.borrow().inject(fault);
    let why = town.resume(L).unwrap_err();
    let parts = ["/b: it is a disk of ", "continues to run", "; besides, ", "may be lost"];
    assert!(parts.iter().all(|part| why.contains(part)), "{why}");
    assert!(town.site.files(|files| files.no_legs()));
}

/// The record of the legs cannot be written: nothing has changed.
#[test]
fn a_table_that_cannot_be_recorded_is_not_put_in_place() {
    let mut town = town();
    for (lines, other) in [(MIRROR, "0 8 linear /a 0"), ("0 8 linear /b 0", MIRROR)] {
        let device = town.devices[&L].device();
        town.ask(L.key(), Command::Load { device, spec: spec(lines) }).unwrap();
        town.site.shared.lock().unwrap().full = true;
        let why = town.resume(L).unwrap_err();
        town.site.shared.lock().unwrap().full = false;
        assert!(why.contains("No space left") && why.contains("continues to run"), "{why}");
        assert_eq!(read(&mut town), 7);
        put(&mut town, spec(other)).unwrap();
        put(&mut town, spec(MIRROR)).unwrap();
        rest(&town);
    }
}

/// What is written to the ranges is missing on the other leg: no later mirror takes that one for
/// the source.
#[test]
fn a_leg_that_was_left_behind_is_no_source_of_a_later_mirror() {
    for killed in [false, true] {
        let mut town = town();
        put(&mut town, spec(MIRROR)).unwrap();
        rest(&town);
        put(&mut town, spec("0 8 linear /b 0")).unwrap();
        write(&mut town, 9);
        if killed {
            town.kill(L.key());
            let state = town.left(L.key()).unwrap();
            let process = Process::start(&town.site, L.key()).unwrap();
            town.processes.insert(L.key(), process);
            town.ask(L.key(), Command::Recover(state)).unwrap();
        }
        let devices = vec![town.devices[&L].device()];
        town.ask(L.key(), Command::Del { devices, force: false }).unwrap();
        let mut add = |legs| {
            let process = Process::start(&town.site, "mirror-a").unwrap();
            town.processes.insert("mirror-a", process);
            let line = format!("0 8 mirror core 1 2 2 {legs}");
            town.ask("mirror-a", Command::Add { name: None, id: None, spec: spec(&line) })
        };
        let why = add("/a 0 /b 0").unwrap_err();
        assert!(why.starts_with("/a: it is not up to date (up to date: /b)"), "{why}");
        assert!(matches!(add("/b 0 /a 0"), Ok(Reply::Added { .. })));
    }
}

/// What was flushed through the ranges and copied by the mirror is durable on the leg that it was
/// left for.
#[test]
fn the_leg_that_a_mirror_is_left_for_has_all_data_durably() {
    for line in [MIRROR, "0 8 mirror disk 2 /c0 2 2 /a 0 /b 0"] {
        let mut town = town();
        let flush = town.send(L, RequestKind::Flush, 0, Vec::new()).unwrap();
        assert_eq!(*flush.result.borrow(), Some(Ok(())));
        town.strike(&flush);
        put(&mut town, spec(line)).unwrap();
        rest(&town);
        put(&mut town, spec("0 8 linear /b 0")).unwrap();
        town.crash(true);
        let image = town.site.disks[4].disk.borrow().visible();
        let values = model::values(&image.read(Sector(0), Sectors(1)));
        assert_eq!(values, [7], "{line}");
    }
}

#[cfg(feature = "mutants")]
#[test]
fn what_a_mirror_knew_that_is_overwritten_is_noticed() {
    use crate::server::admin::mutant::{self, Mutant};
    mutant::set(Some(Mutant::LeftLegsOverwritten));
    let lived = std::panic::catch_unwind(what_a_mirror_knew_of_its_legs_outlives_the_next_one);
    mutant::set(None);
    assert!(lived.is_err());
}

#[cfg(feature = "mutants")]
#[test]
fn a_leg_that_is_not_recorded_as_left_behind_is_noticed() {
    use crate::server::admin::mutant::{self, Mutant};
    mutant::set(Some(Mutant::LeftUnrecorded));
    let lived = std::panic::catch_unwind(a_leg_that_was_left_behind_is_no_source_of_a_later_mirror);
    mutant::set(None);
    assert!(lived.is_err());
}
