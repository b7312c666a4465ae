//! Disks that fall silent while a loaded table replaces the old one: `resume` ends, says which disk
//! and what the device is then, and nothing is lost.

use dm_targets::mirror::table::MirrorLog;
use dm_targets::table::TargetParams;

use super::exchanged::{ERROR, OWN, exchange, set_use};
use super::town::{Town, What};
use crate::protocol::{Command, DeviceSpec};
use dm_targets::sim::disk::Class;

const M: What = What::Mirror;
const SNAP: What = What::Snap(0);
/// More operations than a table takes to come or to go.
const OPERATIONS: u32 = 8;

/// A machine on which what waits for a disk that hangs is given up, with a mirror that was written.
fn town() -> Town {
    let mut town = Town::new(1, true);
    town.site.gives_up.set(true);
    town.add(M).unwrap();
    town.write(M, 1);
    town
}

/// The table of the mirror, with its log in memory or on a disk.
fn load(town: &mut Town, on_disk: bool) {
    let mut spec: DeviceSpec = town.mirror_table(false);
    if let TargetParams::Mirror(mirror) = &mut spec.table.params {
        let device = "/c".to_owned();
        mirror.log = if on_disk { MirrorLog::Disk { device } } else { MirrorLog::Core };
    }
    let device = town.devices[&M].device();
    town.ask(M.key(), Command::Load { device, spec }).unwrap();
}

/// Everything that can happen happens.
fn come_to_rest(town: &Town, what: What) {
    let executor = town.processes[what.key()].executor.clone();
    drop(town.site.run(&executor, || false));
}

/// The disk answers, and the server takes notice.
fn answer(town: &mut Town, what: What) {
    for disk in &town.site.disks {
        disk.hangs.set(false);
        disk.hangs_after.set(None);
    }
    come_to_rest(town, what);
    town.processes.get_mut(what.key()).unwrap().admin.finish_late_jobs();
    come_to_rest(town, what);
    town.collect_replies();
}

/// Replaces the table while the log's disk falls silent after so many operations; returns the
/// error.
fn replace(town: &mut Town, on_disk: bool, suspended: bool, operations: u32) -> Option<String> {
    load(town, on_disk);
    if suspended {
        town.suspend(M).unwrap();
    }
    town.site.disks[5].hangs_after.set(Some(operations));
    let error = town.resume(M).err();
    come_to_rest(town, M);
    error
}

/// What was said is so: now, when the disk answers, and when the user does as he was told.
fn assert_so(town: &mut Town, why: &str, suspended: bool) {
    assert!(why.contains("/c has not answered"), "{why}");
    let between = why.contains("the device stays suspended, with the table loaded");
    let recorded = |town: &Town| town.state(M.key()).unwrap().remove(0);
    if between {
        assert!(recorded(town).suspended && recorded(town).loaded.is_some(), "{why}");
        let device = town.devices[&M].device();
        let again = town.ask(M.key(), Command::Resume { device }).map(drop).unwrap_err();
        assert!(
            again.contains("its `resume` has not ended, because /c does not answer"),
            "{again}"
        );
    }
    answer(town, M);
    if between {
        assert!(recorded(town).suspended && town.read(M).is_none(), "{why}: it runs");
        town.resume(M).unwrap();
    } else if suspended && why.contains("the old table stays") {
        town.resume(M).unwrap();
    }
    assert!(!recorded(town).suspended, "{why}");
    assert!(matches!(town.read(M), Some(Ok(_))), "{why}: it does not run");
    town.write(M, 5);
    town.judge(M).unwrap();
    town.end().unwrap();
}

#[test]
fn a_disk_that_falls_silent_between_two_tables_is_not_waited_for() {
    for (on_disk, suspended) in [(true, true), (true, false), (false, true), (false, false)] {
        let (mut between, mut in_time) = (0, 0);
        for operations in 0..OPERATIONS {
            let mut town = town();
            if !on_disk {
                load(&mut town, true);
                town.resume(M).unwrap();
            }
            match replace(&mut town, on_disk, suspended, operations) {
                Some(why) => {
                    between += u32::from(why.contains("between two tables"));
                    assert_so(&mut town, &why, suspended);
                }
                None => in_time += 1,
            }
        }
        assert!(between > 0 && in_time > 0, "{on_disk} {suspended}: {between} {in_time}");
    }
}

/// The server dies between the two tables: the next one finds the device suspended.
#[test]
fn a_device_between_two_tables_is_taken_over() {
    for operations in [0, 2] {
        let mut town = town();
        let why = replace(&mut town, true, false, operations).unwrap();
        assert!(why.contains("between two tables"), "{why}");
        town.kill(M.key());
        answer_to_none(&town);
        town.recover().unwrap();
        assert!(town.read(M).is_none(), "it runs");
        town.resume(M).unwrap();
        town.judge(M).unwrap();
        town.end().unwrap();
    }
}

fn answer_to_none(town: &Town) {
    town.site.disks.iter().for_each(|disk| disk.hangs.set(false));
}

/// A device's table is replaced, and a COW falls silent after so many operations. Returns whether
/// that was between the two tables; `None`: no operation hung.
fn silent_between(town: &mut Town, lines: &str, cow: &str, operations: u32) -> Option<bool> {
    town.site.gives_up.set(true);
    let slot = town.site.slot(cow).unwrap();
    town.site.disks[slot].hangs_after.set(Some(operations));
    let why = exchange(town, SNAP, lines).err();
    come_to_rest(town, SNAP);
    Some(why?.contains("between two tables"))
}

/// A snapshot of `/o` that has been written.
fn snapshot() -> Town {
    let mut town = Town::new(1, true);
    for what in [What::Origin, SNAP] {
        town.add(what).unwrap();
        town.write(what, 2);
    }
    town
}

/// The new table's COW fails when it answers: the device is on record as what it is.
#[test]
pub(super) fn a_store_that_fails_late_leaves_the_old_table() {
    let mut failures = 0;
    for operations in 0.. {
        let mut town = snapshot();
        exchange(&mut town, SNAP, ERROR).unwrap();
        match silent_between(&mut town, "0 8 snapshot /o /c1 P 2", "/c1", operations) {
            None => break,
            Some(false) => continue,
            Some(true) => {}
        }
        let slot = town.site.slot("/c1").unwrap();
        town.break_down(slot, Class::Write, false);
        answer(&mut town, SNAP);
        let recorded = |town: &Town| {
            let id = town.devices[&SNAP].id;
            let devices = town.state(SNAP.key()).unwrap();
            devices.into_iter().find(|device| device.id == id).unwrap()
        };
        assert!(recorded(&town).suspended);
        let is_error = matches!(recorded(&town).spec.table.params, TargetParams::Error);
        assert!(is_error == recorded(&town).loaded.is_some(), "{operations}: {is_error}");
        // The last operations are not needed by a new store.
        failures += u32::from(is_error);
        town.mend();
        if !is_error {
            continue;
        }
        exchange(&mut town, SNAP, OWN).unwrap();
        town.judge(SNAP).unwrap();
        town.judge(What::Origin).unwrap();
        town.end().unwrap();
    }
    assert!(failures > 0, "no store failed between two tables");
}

/// The old table's COW answers at last: the snapshot is marked as lost, and so no longer known as
/// one that has left.
#[test]
pub(super) fn a_store_that_is_marked_late_has_not_left() {
    let mut silences = 0;
    for operations in 0.. {
        let mut town = snapshot();
        set_use(&town, true);
        match silent_between(&mut town, ERROR, "/c0", operations) {
            None => break,
            Some(false) => continue,
            Some(true) => silences += 1,
        }
        answer(&mut town, SNAP);
        let device = town.devices[&SNAP].device();
        town.ask(SNAP.key(), Command::Resume { device }).unwrap();
        assert!(town.site.files(|files| files.tells_of_no_cow()), "the COW says it");
        set_use(&town, false);
        town.judge(What::Origin).unwrap();
    }
    assert!(silences > 0, "no silence was between two tables");
}
