//! Devices that get no server again: what becomes of their COWs.
//!
//! Rules kept here: I9 (a COW whose origin has changed without it is marked, or recorded as lost),
//! I10 (what a dead server had acknowledged is on its COW before that can be used by another).
//! Nothing is opened that does not answer: what is owed to it stays on record.

use std::rc::Rc;

use dm_targets::snapshot::losses::{Loss, LossRecord};
use dm_targets::table::TargetParams;
use dm_targets::target::Target;

use super::devices::{Directory, changes_origin, is_persistent_snapshot};
use super::machine::{Losses, Machine, OpenDisk, Records, Thread};
use super::mutant::{self, Mutant};
use super::silent::Silent;
use super::state::Administrator;
use super::waiting::Errand;
use crate::failure::Reason;
use crate::protocol::{DeviceSpec, DeviceState};
use crate::rundir::departed::Departure;
use crate::storage::silent::no_answer;
use crate::storage::{Access, Claim};

/// Leaves the COW of a deleted device as it must be: with what its dead server had noted, or marked
/// if it is lost. The machine is the deleted device's own, without a server.
///
/// # Errors
/// What is missing on the COW, and what to do about it.
pub fn complete<M: Machine>(machine: M, device: &DeviceState) -> Result<(), Incomplete> {
    let mut admin = Administrator::new(machine, Directory::default());
    let completed = admin.complete(device);
    // What a disk has been given that does not answer ends with this process.
    if admin.is_waiting() {
        return completed;
    }
    let ended = admin.machine.end().map_err(|why| Incomplete { why, owed: device.lost });
    completed.and(ended)
}

/// What is missing on the COW of a deleted device.
#[derive(Debug)]
pub struct Incomplete {
    /// Why, and what to do about it.
    pub why: Reason,
    /// That the snapshot is lost stands in the state file alone, which must be kept.
    pub owed: bool,
}

/// Completes deleted devices of a dead server. Returns what could not be done, and those of which
/// the state file must go on telling.
pub fn settle(
    gone: &[DeviceState],
    mut complete: impl FnMut(&DeviceState) -> Result<(), Incomplete>,
) -> (Vec<Reason>, Vec<DeviceState>) {
    let (mut problems, mut owed) = (Vec::new(), Vec::new());
    for device in gone {
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
    /// Records what a server that died has noted for a snapshot that gets no server again, so that
    /// its COW is complete for the next one that opens it.
    fn record_noted(&mut self, device: &DeviceState) -> Result<(), Reason> {
        let TargetParams::Snapshot(snapshot) = &device.spec.table.params else { return Ok(()) };
        if !self.machine.is_journal_left(&snapshot.cow)? {
            return Ok(());
        }
        Silent::among(&self.machine, [device].into_iter()).refuse(device)?;
        // Of the origin only the size is wanted, whatever uses it.
        let spec = DeviceSpec { force: true, ..device.spec.clone() };
        let ticket = self.prepare(spec, Some(&device.name), Some(&device.known))?.ticket;
        let record = move |thread: Rc<M::Thread>| async move {
            let opened = thread.group().take_opened(ticket).ok_or("the snapshot is not open")?;
            opened.target.activate(&thread.group().executor).await?;
            Ok(opened.target.close().await?)
        };
        self.wait_for(Errand::on(device.id, "del"), record, |_, _| {})?
    }

    /// Marks the COW of a snapshot invalid whose origin has changed without it.
    pub(super) fn mark_lost(&mut self, device: &DeviceState) -> Result<(), Reason> {
        let TargetParams::Snapshot(snapshot) = &device.spec.table.params else { return Ok(()) };
        let ticket =
            self.prepare(device.spec.clone(), Some(&device.name), Some(&device.known))?.ticket;
        let mark = move |thread: Rc<M::Thread>| async move {
            let opened = thread.group().take_opened(ticket).ok_or("the snapshot is not open")?;
            match opened.target {
                Target::Snapshot(snapshot) => {
                    snapshot.store().invalidate().await.map_err(|error| error.to_string())
                }
                _ => Ok(()),
            }
        };
        self.wait_for(Errand::on(device.id, "recover"), mark, |_, _| {})??;
        if let Some(cow) = &device.cow {
            // It says so itself now.
            self.machine.records().losses(cow.clone()).forget();
        }
        // What was noted belongs to a store that is right no longer.
        if let Err(why) = self.machine.discard_journal(&snapshot.cow) {
            log::debug!("{}: {why}", snapshot.cow);
        }
        log::warn!(
            "{}: marked invalid: its origin was changed while it could not be opened",
            snapshot.cow
        );
        Ok(())
    }

    fn complete(&mut self, device: &DeviceState) -> Result<(), Incomplete> {
        if !device.lost {
            // They stay in their journal.
            return self.record_noted(device).map_err(|why| {
                let what = "deleted, but writes that it had acknowledged are not on its COW yet";
                let why = why.context(format!("{}: {what}", device.name)).ending("; add it again");
                Incomplete { why, owed: false }
            });
        }
        // Of the origin only the size is wanted, whatever uses it.
        let spec = DeviceSpec { force: true, ..device.spec.clone() };
        let answers = Silent::among(&self.machine, [device].into_iter()).refuse(device);
        let marked = answers.and_then(|()| self.mark_lost(&DeviceState { spec, ..device.clone() }));
        marked.map_err(|why| {
            let what =
                "deleted, but its COW could not be marked invalid and must not be used again";
            let recorded = record_lost(&self.machine, device).err();
            let owed = recorded.is_some();
            let recorded = recorded.map_or_else(String::new, |why| {
                format!("; that is not recorded: {why}; `ublk-dm recover --all` tries again")
            });
            let why = why
                .context(format!("{}: {what}, because its origin has changed", device.name))
                .ending(recorded);
            Incomplete { why, owed }
        })
    }
}

/// Records that a deleted snapshot's COW must not be used again: a device that stays may change its
/// origin without it.
///
/// # Errors
/// That cannot be recorded, and the device must not be deleted.
pub fn record_left_behind<M: Machine>(
    machine: &M,
    deleted: &DeviceState,
    staying: &[DeviceState],
) -> Result<(), Reason> {
    if staying.is_empty()
        || !is_persistent_snapshot(&deleted.spec)
        || mutant::is(Mutant::LeftBehindForgotten)
    {
        return Ok(());
    }
    if !staying.iter().any(|device| changes_origin(&device.spec)) {
        // Its origin may be added beside those that stay, by their next server.
        return note_departure(machine, deleted).map(drop).map_err(|why| {
            why.context(format!(
                "{}: not deleted: that it leaves its origin cannot be noted",
                deleted.name
            ))
        });
    }
    record_lost(machine, deleted).map_err(|why| {
        why.context(format!(
            "{}: not deleted: that its COW is lost then cannot be recorded",
            deleted.name
        ))
    })
}

/// Has a later `add` refuse the COW of a snapshot that is gone, whether its disk is there or not.
pub(super) fn record_lost<M: Machine>(machine: &M, device: &DeviceState) -> Result<(), Reason> {
    let cow = device
        .cow
        .clone()
        .ok_or("the state file of an earlier version does not say what its COW is known by")?;
    Ok(machine.records().losses(cow).record(Loss::OriginChanged)?)
}

/// Notes that a snapshot of a dead server leaves an origin that nothing of its family changes, and
/// returns what was noted.
pub(super) fn note_departure<M: Machine>(
    machine: &M,
    device: &DeviceState,
) -> Result<Option<Departure>, Reason> {
    let (TargetParams::Snapshot(snapshot), Some(cow)) =
        (&device.spec.table.params, device.cow.clone())
    else {
        return Ok(None);
    };
    if !machine.silent(&[snapshot.origin.clone()].into()).is_empty() {
        return Err(no_answer(&snapshot.origin));
    }
    let origin = machine
        .open(&snapshot.origin, Access::ReadOnly, Claim::Shared)
        .map_err(|error| error.to_string())?;
    let origin_number = origin.number_in_boot();
    let departure = Departure { cow, mark_failed: device.lost, origin_number };
    machine.records().note_departure(&departure)?;
    Ok(Some(departure))
}
