//! A snapshot is to be merged under its origin's device while a disk falls silent: `resume` ends,
//! and when the disk answers the device has the merge, or the origin beside its snapshot.

use dm_targets::disk::Errno;
use dm_targets::request::RequestKind;
use dm_targets::sim::disk::{Class, Fault, Matcher};

use super::merging::{self, O, S};
use super::town::Town;
use crate::server::admin::mutant::{self, Mutant};

/// More operations than the change takes.
pub(super) const OPERATIONS: u32 = 24;
/// The disks of the origin and of the COW.
pub(super) const DISKS: [usize; 2] = [0, 1];

/// A machine on which what waits for a disk that hangs is given up.
pub(super) fn town() -> Town {
    let town = merging::town();
    town.site.gives_up.set(true);
    town
}

/// Everything that can happen happens.
pub(super) fn come_to_rest(town: &Town) {
    if let Some(process) = town.processes.get("o") {
        drop(town.site.run(&process.executor.clone(), || false));
    }
}

/// The disks answer, and the server, if it lives, takes notice.
pub(super) fn answer(town: &mut Town) {
    for disk in &town.site.disks {
        disk.hangs.set(false);
        disk.hangs_after.set(None);
    }
    for _ in 0..3 {
        come_to_rest(town);
        if let Some(process) = town.processes.get_mut("o") {
            process.admin.finish_late_jobs();
        }
    }
    come_to_rest(town);
    town.collect_replies();
}

/// The user does as he was told, and everything is there.
fn judge(town: &mut Town, why: &str) -> Result<(), String> {
    let mut merged = town.snaps[0].as_ref().ok_or("no snapshot")?.content.clone();
    let mut plain = town.origin.clone();
    if town.on_record().1 {
        if town.read(O).is_some() {
            return Err("it runs, and is on record as suspended".into());
        }
        town.resume(O)?;
    }
    town.strike_gone();
    let (merges, suspended) = town.on_record();
    if suspended || why.contains("with the table loaded") && !merges {
        return Err(format!("it is not resumed: {merges} {suspended}"));
    }
    town.shows(if merges { &mut merged } else { &mut plain })?;
    match town.read(S) {
        Some(read) if !merges => merged.judge(&read?).map(drop),
        None if merges => Ok(()),
        _ => Err(format!("merges: {merges}; its snapshot is there or is not")),
    }
}

/// Changes the table while a disk falls silent after so many operations; `dies`: and the server
/// dies then. Returns whether that was in time.
fn change(disk: usize, operations: u32, suspended: bool, dies: bool) -> Result<bool, String> {
    let mut town = town();
    town.load_table(true)?;
    if suspended {
        town.suspend(O)?;
    }
    town.site.disks[disk].hangs_after.set(Some(operations));
    let error = town.resume(O).err();
    come_to_rest(&town);
    let why = error.clone().unwrap_or_default();
    if error.is_some() && !why.contains("has not answered") {
        return Err(format!("another error: {why}"));
    }
    if dies {
        town.kill("o");
    }
    answer(&mut town);
    if dies {
        town.recover()?;
    }
    judge(&mut town, &why).map_err(|wrong| format!("{wrong}; it was said: {why}"))?;
    Ok(error.is_none())
}

#[test]
fn a_disk_that_falls_silent_while_a_merge_begins_is_not_waited_for() {
    for (disk, suspended, dies) in DISKS
        .into_iter()
        .flat_map(|disk| [false, true].map(|suspended| (disk, suspended)))
        .flat_map(|(disk, suspended)| [false, true].map(|dies| (disk, suspended, dies)))
    {
        let (mut late, mut in_time) = (0, 0);
        for operations in 0..OPERATIONS {
            let is_in_time = change(disk, operations, suspended, dies).unwrap_or_else(|wrong| {
                panic!("disk {disk}, {operations}, suspended {suspended}, dies {dies}: {wrong}")
            });
            *(if is_in_time { &mut in_time } else { &mut late }) += 1;
        }
        assert!(in_time > 0 && (late > 0 || disk == 0), "{disk}: {late} {in_time}");
    }
}

/// A merge is under way on a COW that falls silent after so many operations, and its device is to
/// be suspended: the command ends, and the device runs on as before. Returns whether it had to.
fn suspended_beside_a_silent_cow(operations: u32) -> Result<bool, String> {
    let mut town = Town::new(1, true);
    town.site.gives_up.set(true);
    town.add(O).unwrap();
    town.add(S).unwrap();
    [0, 3].into_iter().for_each(|sector| town.write(S, sector));
    town.flush(S);
    town.load_table(true)?;
    town.site.disks[1].hangs_after.set(Some(operations));
    if town.resume(O).is_err() {
        return Ok(false);
    }
    come_to_rest(&town);
    let Err(why) = town.suspend(O) else { return Ok(false) };
    if !why.contains("has not answered") {
        return Err(format!("another error: {why}"));
    }
    // A chunk that only the origin has.
    let read = town.send(O, RequestKind::Read, 6, vec![0; 512]).ok_or("no device")?;
    let ends = matches!(&*read.result.borrow(), Some(Ok(())));
    answer(&mut town);
    let mut merged = town.snaps[0].as_ref().ok_or("no snapshot")?.content.clone();
    town.shows(&mut merged)?;
    if ends { Ok(true) } else { Err(format!("a read waits for the COW; it was said: {why}")) }
}

#[test]
fn a_suspension_that_a_silent_cow_ends_leaves_the_device_running() {
    let all = (0..OPERATIONS).map(|after| suspended_beside_a_silent_cow(after).unwrap());
    assert!(all.filter(|had_to| *had_to).count() > 0, "no suspension was given up");
}

/// The COW cannot be read any more: there is neither a merge nor the snapshot, and the origin waits
/// until there is one of them.
fn snapshot_that_cannot_be_given_back() -> Result<(), String> {
    let mut town = merging::town();
    let mut snap = town.snaps[0].as_ref().ok_or("no snapshot")?.content.clone();
    let mut plain = town.origin.clone();
    town.load_table(true)?;
    let matcher = Matcher::all(Class::Read);
    let fault = Fault { matcher, skip: 0, times: u32::MAX, errno: Errno::EIO };
    town.site.disks[1].disk.borrow().inject(fault);
    let Err(why) = town.resume(O) else { return Err("it is merged".into()) };
    if !why.contains("is suspended as well") || !why.contains("stays suspended") {
        return Err(format!("it is said: {why}"));
    }
    if !town.on_record().1 || town.read(O).is_some() {
        return Err("the origin runs".into());
    }
    let Err(why) = town.resume(O) else { return Err("it runs without its snapshot".into()) };
    if !why.contains("has no table") {
        return Err(format!("it is said: {why}"));
    }
    town.site.disks[1].disk.borrow().mend();
    town.resume(O)?;
    town.shows(&mut plain)?;
    snap.judge(&town.read(S).ok_or("the snapshot does not answer")??).map(drop)
}

#[test]
fn an_origin_waits_for_the_snapshot_that_a_merge_has_not_taken() {
    snapshot_that_cannot_be_given_back().unwrap();
    mutant::set(Some(Mutant::SnapshotLeftBehind));
    let wrong = snapshot_that_cannot_be_given_back();
    mutant::set(None);
    assert!(wrong.is_err(), "nothing is noticed");
}
