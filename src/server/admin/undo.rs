//! Commands that are taken back: their clients have left before the end, and have told their users
//! that the command failed; or they could not tell them of a device that was added.
//!
//! Rule kept here: what the new store of a snapshot has overwritten is remembered until the next
//! command, so that a device of which nobody was told leaves its COW as it was.

use dm_targets::snapshot::store::Unmade;
use dm_targets::table::TargetParams;

use super::devices::is_persistent_snapshot;
use super::machine::Machine;
use super::mutant::{self, Mutant};
use super::state::Administrator;
use super::unconfirmed::Unconfirmed;
use crate::failure::Reason;
use crate::protocol::{Command, DeviceRef, Reply};

/// How a command is taken back whose client has left.
#[derive(Clone, Copy)]
pub enum Undo {
    Add,
    Suspend(u32),
    /// It is not: it has been done, whoever knows.
    No,
}

impl Undo {
    /// The one for a command. What was suspended before stays so.
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
    /// Takes back what a command has done whose client has left without waiting for its end: it has
    /// told its user that the command failed.
    pub fn take_back(&mut self, undo: Undo, reply: &Reply) {
        let taken_back = match (undo, reply) {
            (Undo::Add, Reply::Added { .. }) if mutant::is(Mutant::AddNotTakenBack) => return,
            (Undo::Add, Reply::Added { device, .. }) => self.take_back_added(*device),
            // Not `resume`, which would put a loaded table in place that has not been asked for.
            // One that has lost something has suspended the device all the same. Requests go on
            // whether that can be recorded or not.
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

    /// The device that was added last stays: what its store has overwritten is forgotten.
    pub(super) fn confirm(&mut self) {
        if let Some(new) = self.unconfirmed.take() {
            if let Err(why) = self.forget_ticket(new.ticket) {
                log::warn!("{why}");
            }
        }
    }

    /// Deletes a device of which nobody was told, and puts back what its store has overwritten. Its
    /// COW is let go last.
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

/// What taking a device back has left on its COW.
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
