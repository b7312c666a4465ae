//! Undoing commands: their clients have disconnected before the end and have told their users that
//! the command failed, or could not report a device that was added.
//!
//! Rule kept here: what a snapshot's new store has overwritten is remembered until the next
//! command, so that undoing an unreported `add` restores the COW.

use dm_targets::snapshot::store::Unmade;
use dm_targets::table::TargetParams;

use super::devices::is_persistent_snapshot;
use super::machine::Machine;
use super::mutant::{self, Mutant};
use super::state::Administrator;
use super::unconfirmed::Unconfirmed;
use crate::failure::Reason;
use crate::protocol::{Command, DeviceRef, Reply};

/// How to undo a command whose client has disconnected.
#[derive(Clone, Copy)]
pub enum Undo {
    Add,
    Suspend(u32),
    /// No undo: the command's effect stays.
    No,
}

impl Undo {
    /// Returns the undo for a command. A device that was suspended before stays suspended.
    pub fn of<M: Machine>(command: &Command, admin: &Administrator<M>) -> Undo {
        let runs = |id: &u32| admin.devices.get(id).is_some_and(|entry| !entry.suspended);
        match command {
            Command::Add { .. } => Undo::Add,
            Command::Suspend { device, .. }
                if runs(&device.id) || mutant::is(Mutant::ResumedUnasked) =>
            {
                Undo::Suspend(device.id)
            }
            _ => Undo::No,
        }
    }
}

impl<M: Machine> Administrator<M> {
    /// Undoes a command whose client has disconnected without waiting for the reply: the client has
    /// told its user that the command failed.
    pub fn take_back(&mut self, undo: Undo, reply: &Reply) {
        let taken_back = match (undo, reply) {
            (Undo::Add, Reply::Added { .. }) if mutant::is(Mutant::AddNotTakenBack) => return,
            (Undo::Add, Reply::Added { device, .. }) => self.take_back_added(*device),
            // Not `resume`, which would also activate a loaded table. A suspend that failed because
            // data was lost has suspended the device all the same. Requests continue whether the
            // state can be recorded or not.
            (Undo::Suspend(id), Reply::Done | Reply::Failed(_)) if self.is_suspended(id) => {
                let passes = self.let_through(id, true, "suspend");
                passes.and(self.record_suspended(id, false)).map(|()| Reply::Done)
            }
            _ => return,
        };
        match taken_back {
            Ok(Reply::TakenBack { note: Some(note) }) => {
                log::warn!("taken back: the client of the command has left before its end; {note}");
            }
            Ok(_) => log::warn!("taken back: the client of the command has left before its end"),
            Err(error) => log::warn!(
                "cannot be taken back, though the client of the command has left: {error}"
            ),
        }
    }
    fn is_suspended(&self, id: u32) -> bool {
        self.devices.get(&id).is_some_and(|entry| entry.suspended)
    }

    /// Keeps the device that was added last: forgets what its store has overwritten.
    pub(super) fn confirm(&mut self) {
        if let Some(new) = self.unconfirmed.take() {
            if let Err(why) = self.forget_ticket(new.ticket) {
                log::warn!("{why}");
            }
        }
    }

    /// Deletes a device that was not reported to its user, and restores what its store has
    /// overwritten. Its COW is closed last.
    pub(super) fn take_back_added(&mut self, device: DeviceRef) -> Result<Reply, Reason> {
        let Some(spec) = self.devices.get(&device.id).map(|entry| entry.spec.clone()) else {
            return self.del(&[device.id], true);
        };
        let new = self.unconfirmed.take_if(|new| new.device == device);
        let deleted = self.del(&[device.id], true);
        if self.devices.contains_key(&device.id) {
            self.unconfirmed = new.or(self.unconfirmed.take());
            return deleted;
        }
        let cow = if let TargetParams::Snapshot(snapshot) = &spec.table.params {
            snapshot.cow.clone()
        } else {
            String::new()
        };
        let unmade = match new {
            Some(new) => self.unmake_again(new),
            None if is_persistent_snapshot(&spec) => Ok(Unmade::Stays),
            None => Ok(Unmade::NotNew),
        };
        match (deleted, unmade) {
            (Ok(_), Ok(unmade)) => Ok(Reply::TakenBack { note: left_on(&cow, unmade) }),
            (Err(why), Ok(unmade)) => {
                Err(left_on(&cow, unmade)
                    .map_or(why.clone(), |note| format!("{why}; {note}").into()))
            }
            (deleted, Err(error)) => {
                let why = format!(
                    "what its new store has overwritten on {cow} cannot be put back: {error}"
                );
                Err(deleted.err().map_or(why.clone(), |first| format!("{first}; {why}")).into())
            }
        }
    }

    fn unmake_again(&self, new: Unconfirmed) -> Result<Unmade, Reason> {
        let unmade = self.unmake(new.ticket)?;
        if let Some(cow) = new.cow.filter(|_| unmade.is_gone()) {
            self.forget_departure(&cow);
        }
        Ok(unmade)
    }
}

/// What undoing an `add` has left on the COW.
fn left_on(cow: &str, unmade: Unmade) -> Option<String> {
    match unmade {
        Unmade::NotNew => None,
        Unmade::Copies => Some(format!("chunks have been copied onto {cow}")),
        Unmade::Whole => Some(format!("what its new store had overwritten on {cow} is put back")),
        Unmade::ButCopies => Some(format!(
            "what its new store had overwritten on {cow} is put back, but chunks have been copied \
             onto the rest of it"
        )),
        Unmade::OnlyStart => Some(format!(
            "of what its new store had overwritten on {cow} only the first block is put back: its \
             chunks are too large"
        )),
        Unmade::Stays => Some(format!("if a new store was made on {cow}, it stays there")),
    }
}
