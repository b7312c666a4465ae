//! Disks that fall silent while a loaded table replaces the old one: `resume` ends, says which disk
//! and what the device is then, and nothing is lost.

use dm_targets::mirror::table::MirrorLog;
use dm_targets::table::TargetParams;

use super::town::{Town, What};
use crate::protocol::{Command, DeviceSpec};

const M: What = What::Mirror;
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
fn come_to_rest(town: &Town) {
    let executor = town.processes[M.key()].executor.clone();
    drop(town.site.run(&executor, || false));
}

/// The disk answers, and the server takes notice.
fn answer(town: &mut Town) {
    for disk in &town.site.disks {
        disk.hangs.set(false);
        disk.hangs_after.set(None);
    }
    come_to_rest(town);
    town.processes.get_mut(M.key()).unwrap().admin.finish_late_jobs();
    come_to_rest(town);
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
    come_to_rest(town);
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
    answer(town);
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
