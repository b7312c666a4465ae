//! Devices that get no new server: what happens to their COWs.
//!
//! Rules kept here: I9 (a COW whose origin has changed without it is marked invalid or recorded as
//! lost), I10 (writes that a dead server acknowledged are on its COW before another device can use
//! it). A disk that does not answer is not opened: what is missing on it stays on record.

use std::rc::Rc;

use dm_targets::snapshot::losses::{Loss, LossRecord};
use dm_targets::table::TargetParams;
use dm_targets::target::Target;

use super::devices::{Directory, is_persistent_snapshot};
use super::left_alone::unmerged_of;
use super::machine::{Losses, Machine, OpenDisk, Records, Thread};
use super::merging::is_merged;
use super::mutant::{self, Mutant};
use super::origins::changes_origin_of;
use super::silent::Silent;
use super::state::Administrator;
use super::waiting::Errand;
use crate::failure::{Failure, Reason};
use crate::protocol::{DeviceSpec, DeviceState, KnownDisk, MergeOptions};
use crate::rundir::departed::Departure;
use crate::storage::silent::no_answer;
use crate::storage::{Access, Claim};

/// Completes the COW of a deleted device: commits what its dead server had journaled, or marks the
/// COW invalid if the snapshot is lost. The machine is the deleted device's own, without a server.
///
/// # Errors
/// What is missing on the COW, and how to repair that.
pub fn complete<M: Machine>(machine: M, device: &DeviceState) -> Result<(), Incomplete> {
    let mut admin = Administrator::new(machine, Directory::default());
    let completed = admin.complete(device);
    // I/O to a disk that does not answer ends with this process.
    if admin.is_waiting() {
        return completed;
    }
    let ended = admin.machine.end().map_err(|why| Incomplete { why, owed: device.lost });
    completed.and(ended)
}

impl<M: Machine> Administrator<M> {
    /// Completes the COW of a device that this server has left out and that is deleted now, on a
    /// machine beside its own. If the COW's disk does not answer, that machine ends when it does,
    /// which frees the COW.
    pub(super) fn complete_beside(&mut self, device: &DeviceState) -> Result<(), Reason> {
        let mut beside = Administrator::new(self.machine.beside()?, Directory::default());
        let completed = beside.complete(device).map_err(|incomplete| incomplete.why);
        self.beside.push(beside);
        completed.and(self.end_beside())
    }

    /// Ends the machines beside this server's own whose disks have answered.
    pub(super) fn end_beside(&mut self) -> Result<(), Reason> {
        let mut ended = Ok(());
        for mut beside in std::mem::take(&mut self.beside) {
            beside.finish_late_jobs();
            if beside.is_waiting() {
                self.beside.push(beside);
            } else {
                ended = ended.and(beside.machine.end());
            }
        }
        ended
    }
}

/// What is missing on the COW of a deleted device.
#[derive(Debug)]
pub struct Incomplete {
    /// The reason, and how to repair it.
    pub why: Reason,
    /// Only the state file records that the snapshot is lost, so it must be kept.
    pub owed: bool,
}

/// Completes deleted devices of a dead server, none of whose devices exists any more. `leave`
/// records the departure of each, which [`record_left_behind`] does. Returns the failures, and the
/// devices that must stay in the state file.
pub fn complete_gone(
    gone: &[DeviceState],
    mut leave: impl FnMut(&DeviceState) -> Result<(), Reason>,
    mut complete: impl FnMut(&DeviceState) -> Result<(), Incomplete>,
) -> (Vec<Reason>, Vec<DeviceState>) {
    let (mut problems, mut owed) = (Vec::new(), Vec::new());
    for device in gone {
        if let Err(why) = leave(device) {
            problems.push(why);
            owed.push(device.clone());
            continue;
        }
        if let Err(incomplete) = complete(device) {
            problems.push(incomplete.why);
            if incomplete.owed && !mutant::is(Mutant::OwedForgotten) {
                owed.push(device.clone());
            }
        }
    }
    (problems, owed)
}

impl<M: Machine> Administrator<M> {
    /// Commits what a dead server journaled for a snapshot that gets no new server, so that its COW
    /// is complete for the next device that opens it.
    fn commit_journaled(&mut self, device: &DeviceState) -> Result<(), Reason> {
        let (TargetParams::Snapshot(snapshot) | TargetParams::SnapshotMerge(snapshot)) =
            &device.spec.table.params
        else {
            return Ok(());
        };
        if !self.machine.is_journal_left(&snapshot.cow)? {
            return Ok(());
        }
        Silent::among(&self.machine, [device].into_iter()).refuse(device)?;
        // Only the origin's size is needed, so other users of the origin do not matter.
        // A merge must not go on: the records are put on the COW, and that is all.
        let merge = Some(MergeOptions { paused: true, ..MergeOptions::default() });
        let spec = DeviceSpec { force: true, merge, ..device.spec.clone() };
        let target = self.prepare(spec, Some(&device.name), Some(&device.known))?.target;
        let record = target.last_job(|thread: Rc<M::Thread>, opened| async move {
            opened.target.activate(&thread.group().executor).await?;
            Ok(opened.target.close().await?)
        });
        self.wait_for(Errand::on(device.id, "del"), record, |_, _| {})?
    }

    /// Marks the COW of a snapshot invalid: the origin has changed without it.
    pub(super) fn mark_lost(&mut self, device: &DeviceState) -> Result<(), Reason> {
        let (TargetParams::Snapshot(snapshot) | TargetParams::SnapshotMerge(snapshot)) =
            &device.spec.table.params
        else {
            return Ok(());
        };
        if device.is_unmade() {
            // A store that is not made yet has lost nothing, and that it has must not be on record
            // when it is made. If it is made, that record tells.
            let made = self.look_at(&snapshot.cow)?.store()?.is_some();
            if let Some(cow) = device.cow.as_ref().filter(|_| !made) {
                self.machine.records().losses(cow.clone()).forget();
            }
            return Ok(());
        }
        let target =
            self.prepare(device.spec.clone(), Some(&device.name), Some(&device.known))?.target;
        let mark = target.last_job(|_, opened| async move {
            match opened.target {
                Target::Snapshot(snapshot) => {
                    snapshot.store().invalidate().await.map_err(Failure::from)
                }
                Target::Merge(merge) => merge.invalidate().await.map_err(Failure::from),
                _ => Ok(()),
            }
        });
        self.wait_for(Errand::on(device.id, "recover"), mark, |_, _| {})??;
        if let Some(cow) = &device.cow {
            // The COW itself is marked now.
            self.machine.records().losses(cow.clone()).forget();
        }
        // The journal belongs to a store that is no longer valid.
        if let Err(why) = self.machine.discard_journal(&snapshot.cow) {
            log::debug!("{}: {why}", snapshot.cow);
        }
        log::warn!(
            "{}: marked invalid: the snapshot's origin was changed while this COW could not be \
             opened",
            snapshot.cow
        );
        Ok(())
    }

    fn complete(&mut self, device: &DeviceState) -> Result<(), Incomplete> {
        self.completes = true;
        if matches!(device.spec.table.params, TargetParams::Mirror(_)) {
            return self.keep_legs_left(device).map_err(|why| Incomplete { why, owed: false });
        }
        if !device.lost {
            // On failure the writes stay in their journal.
            return self.commit_journaled(device).map_err(|why| {
                let what = "deleted, but some of its acknowledged writes are not on its COW yet";
                let why = why
                    .context(format!("{}: {what}", device.name))
                    .ending("; add the snapshot again to record them");
                Incomplete { why, owed: false }
            });
        }
        // Only the origin's size is needed, so other users of the origin do not matter.
        let spec = DeviceSpec { force: true, ..device.spec.clone() };
        let answers = Silent::among(&self.machine, [device].into_iter()).refuse(device);
        let marked = answers.and_then(|()| self.mark_lost(&DeviceState { spec, ..device.clone() }));
        marked.map_err(|why| {
            let what =
                "deleted, but its COW could not be marked invalid and must not be used again";
            let recorded = record_lost(&self.machine, device).err();
            let owed = recorded.is_some();
            let recorded = recorded.map_or_else(String::new, |unrecorded| {
                let hint = "`ublk-dm recover --all` tries again";
                format!("; the loss is not recorded: {unrecorded}; {hint}")
            });
            let why = why
                .context(format!("{}: {what}, because its origin has changed", device.name))
                .ending(recorded);
            Incomplete { why, owed }
        })
    }
}

/// Records that a deleted snapshot's COW must not be used again if a remaining device may change
/// its origin.
///
/// # Errors
/// The record cannot be written; the device must not be deleted then.
pub fn record_left_behind<M: Machine>(
    machine: &M,
    deleted: &DeviceState,
    staying: &[DeviceState],
) -> Result<(), Reason> {
    if !is_persistent_snapshot(&deleted.spec)
        || is_merged(deleted, staying)
        || mutant::is(Mutant::LeftBehindForgotten)
    {
        return Ok(());
    }
    // Its COW is marked when it is completed, or the loss is recorded then.
    let is_done = deleted.lost || mutant::is(Mutant::LastForgotten);
    if staying.is_empty() && is_done {
        return Ok(());
    }
    if !staying.iter().any(|other| changes_origin_of(deleted, other)) {
        // A later server may add the origin.
        return record_departure(machine, deleted).map(drop).map_err(|why| {
            why.context(format!(
                "{}: not deleted: the departure of its snapshot cannot be recorded",
                deleted.name
            ))
        });
    }
    record_lost(machine, deleted).map_err(|why| {
        why.context(format!(
            "{}: not deleted: the loss of the store on its COW cannot be recorded",
            deleted.name
        ))
    })
}

/// Makes a later `add` refuse the COW of a deleted snapshot, whether its disk is present or not.
pub(super) fn record_lost<M: Machine>(machine: &M, device: &DeviceState) -> Result<(), Reason> {
    let cow = device
        .cow
        .clone()
        .ok_or("the state file, written by an earlier version, does not identify the COW")?;
    Ok(machine.records().losses(cow).record(Loss::OriginChanged)?)
}

/// Records that a snapshot of a dead server has left an origin that no device of its family
/// changes. If the origin cannot be opened, it is the disk that the state file names. Returns the
/// record.
pub(super) fn record_departure<M: Machine>(
    machine: &M,
    device: &DeviceState,
) -> Result<Option<Departure>, Reason> {
    let (TargetParams::Snapshot(snapshot) | TargetParams::SnapshotMerge(snapshot), Some(cow)) =
        (&device.spec.table.params, device.cow.clone())
    else {
        return Ok(None);
    };
    let recorded = device.known.get(&snapshot.origin).cloned();
    // A device that carries the origin has no server, and does not answer.
    let carried = recorded.clone().filter(|_| device.carrier().is_some());
    let now = || known_now(machine, &snapshot.origin);
    let origin = match (carried.map_or_else(now, Ok), recorded) {
        (Ok(known), _) | (Err(_), Some(known)) => known,
        // Its lasting name identifies it.
        (Err(_), None) if !cow.origin.is_empty() => KnownDisk::default(),
        (Err(why), None) => return Err(why),
    };
    let unmerged = unmerged_of(&device.spec, &device.name, true);
    let departure = Departure::of(cow, device.lost, &origin, unmerged);
    machine.records().record_departure(&departure)?;
    Ok(Some(departure))
}

/// The number of the disk at a path in this boot, and where its bytes are.
fn known_now<M: Machine>(machine: &M, path: &str) -> Result<KnownDisk, Reason> {
    if !machine.silent(&[path.to_owned()].into()).is_empty() {
        return Err(no_answer(path));
    }
    let opened = machine.open(path, Access::ReadOnly, Claim::Shared)?;
    let (number, place) = (opened.number_in_boot(), opened.place());
    Ok(KnownDisk { number, place, ..KnownDisk::default() })
}
