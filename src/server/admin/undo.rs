//! Undoing commands: an `add` has failed; or a client has disconnected before the end and has told
//! its user that the command failed, or could not report a device that was added.
//!
//! Rules kept here: what an `add` has done is undone in one place, whatever it has come to; what a
//! snapshot's new store has overwritten is remembered until the next command, so that undoing an
//! unreported `add` restores the COW; what a silent disk delays is undone when the disk answers.

use std::rc::Rc;

use dm_targets::snapshot::store::Unmade;
use dm_targets::table::TargetParams;

use super::devices::is_persistent_snapshot;
use super::ending::End;
use super::machine::{Machine, Thread};
use super::mutant::{self, Mutant};
use super::notes::joined;
use super::state::Administrator;
use super::unconfirmed::Unconfirmed;
use super::waiting::Errand;
use crate::failure::{Failure, Reason};
use crate::protocol::{Command, DeviceRef, DeviceSpec, DeviceState, Reply};

/// How to undo a command whose client has disconnected.
#[derive(Clone, Copy)]
pub enum Undo {
    Add,
    Suspend(u32),
    Leave,
    /// No undo: the command's effect stays.
    No,
}

impl Undo {
    /// Returns the undo for a command. A device that was suspended before stays suspended.
    pub fn of<M: Machine>(command: &Command, admin: &Administrator<M>) -> Undo {
        let runs = |id: &u32| admin.devices.get(id).is_some_and(|entry| !entry.suspended);
        match command {
            Command::Add { .. } => Undo::Add,
            Command::Leave => Undo::Leave,
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
            (Undo::Leave, Reply::Left { .. }) => self.stay().map(|()| Reply::Done),
            _ => return,
        };
        match taken_back {
            Ok(Reply::TakenBack { note: Some(note) }) => {
                log::warn!("undone, because the client of the command left before its end; {note}");
            }
            Ok(_) => log::warn!("undone, because the client of the command left before its end"),
            Err(error) => {
                log::warn!("cannot be undone, although the client of the command has left: {error}")
            }
        }
    }

    fn is_suspended(&self, id: u32) -> bool {
        self.devices.get(&id).is_some_and(|entry| entry.suspended)
    }

    /// Keeps the device that was added last: forgets what its store has overwritten.
    pub(super) fn confirm(&mut self) {
        if let Some(new) = self.unconfirmed.take() {
            if let Err(why) = self.keep_store(&new.target) {
                log::warn!("{why}");
            }
        }
    }

    /// Undoes an `add`: the kernel's device, its queues, its entry in the state file, and what its
    /// new store has overwritten. A step that fails keeps no later one from being done, and what a
    /// silent disk delays is done when it answers. Returns what the user should know of the COW.
    ///
    /// # Errors
    /// What is left.
    pub(super) fn undo(&mut self, new: Unconfirmed<M::Handle>) -> Result<Option<String>, Reason> {
        let DeviceRef { id, cookie } = new.state.device();
        let is_served = self.devices.contains_key(&id);
        if !is_served && self.refuse_unfinished(id).is_err() {
            self.undone_later.push(new);
            return Err("the add is undone when the disk answers".into());
        }
        if let Err(why) = if is_served { Ok(()) } else { self.record_begun_merge(&new.state) } {
            self.undone_later.push(new);
            return Err(why.ending("; its `add` is undone when it can be"));
        }
        let End { lost, wrong, note, is_left } = match self.take_down(id, cookie, true) {
            Ok(end) => end,
            // It runs on.
            Err(why) if is_served && !self.machine.has_ended(id) => {
                self.unconfirmed = Some(new);
                return Err(why);
            }
            Err(why) if mutant::is(Mutant::UndoForgotten) => return Err(why),
            Err(why) => {
                self.undone_later.push(new);
                return Err(why.ending("; the rest of its `add` is undone then"));
            }
        };
        let lost = lost.filter(|_| is_served);
        self.lost_at_end |= lost.is_some();
        let mut left = Vec::new();
        left.extend(lost.map(|lost| lost.but(format!("/dev/ublkb{id}: deleted"))));
        let stays = wrong.is_some();
        left.extend(wrong);
        left.extend(match is_served {
            true => self.forget(id).err(),
            // There may be no room for what is on record already.
            false if self.is_all_recorded() => None,
            false => self.save().err(),
        });
        let note = if is_served { note } else { self.left_by_merge(&new.state, is_left) };
        let (cow, passed_on) = (cow_path(&new.state.spec), new.passed_on.clone());
        let unmade = match stays && mutant::is(Mutant::UndoneInPart) {
            true => Ok(Unmade::NotNew),
            false => self.unmake(new),
        };
        // A snapshot cannot be added again if its store is gone.
        let stays = cow.is_none() || matches!(unmade, Ok(Unmade::NotNew | Unmade::Stays));
        let note = note.filter(|_| stays);
        let unmade = unmade.map(|unmade| left_on(&cow.unwrap_or_default(), unmade));
        let unmade = unmade.unwrap_or_else(|why| {
            left.push(why);
            None
        });
        left.extend(passed_on.and_then(|before| self.give_mirror_back(&before).err()));
        left.iter().for_each(|why| log::error!("{why}"));
        let notes = note.into_iter().chain(unmade);
        match Failure::all(left) {
            None => Ok(joined(notes)),
            Some(why) => Err(why.and_notes(notes)),
        }
    }

    /// Undoes what had to wait, unless it still has to.
    pub(super) fn undo_late(&mut self) {
        for new in std::mem::take(&mut self.undone_later) {
            let id = new.state.id;
            if self.refuse_unfinished(id).is_err() {
                self.undone_later.push(new);
                continue;
            }
            match self.undo(new) {
                Ok(note) => {
                    let note = note.map_or_else(String::new, |note| format!("; {note}"));
                    log::warn!("/dev/ublkb{id}: its `add` has been undone{note}");
                }
                Err(why) if self.undone_later.iter().any(|new| new.state.id == id) => {
                    log::error!("/dev/ublkb{id}: its `add` is not undone yet: {why}");
                }
                Err(why) => log::error!("/dev/ublkb{id}: its `add` is undone, but {why}"),
            }
        }
    }

    /// Why the server must not end yet, if it can choose: what is left of each `add` to be undone.
    pub(super) fn not_undone(&self) -> Vec<Reason> {
        let devices = self.undone_later.iter().map(|new| {
            let id = new.state.id;
            let why = self.refuse_unfinished(id).err();
            let why = why.unwrap_or_else(|| format!("/dev/ublkb{id}: not deleted").into());
            why.ending(format!("; `ublk-dm del --force {id}` deletes what is left of it"))
        });
        let stores = self.unfinished.iter().filter(|one| one.errand.keeps_server);
        let stores = stores.map(|one| {
            format!("the content that a new store has overwritten on {} is not restored", one.disk)
                .into()
        });
        devices.chain(stores).collect()
    }

    /// Restores what the store of a new snapshot has overwritten, and closes the target. The COW
    /// stays claimed until then.
    fn unmake(
        &mut self,
        Unconfirmed { state, target, .. }: Unconfirmed<M::Handle>,
    ) -> Result<Unmade, Reason> {
        let unmake =
            |thread: Rc<M::Thread>, opened| async move { thread.group().unmake(opened).await };
        let (cow, later) = (cow_path(&state.spec).unwrap_or_default(), state.clone());
        let then = move |admin: &mut Administrator<M>, unmade| match admin.unmade(&later, unmade) {
            Ok(unmade) => {
                let path = cow_path(&later.spec).unwrap_or_default();
                let note = left_on(&path, unmade).unwrap_or_default();
                log::warn!("{}: undone; {note}", later.name);
            }
            Err(why) => log::error!("{}: {why}", later.name),
        };
        let errand = Errand { id: None, verb: "add", keeps_server: true };
        let unmade = self.wait_for(errand, target.last_job(unmake), then).map_err(|why| {
            why.context(format!(
                "the content that its new store has overwritten on {cow} is not restored yet"
            ))
            .ending("; that is done when the disk answers")
        })?;
        self.unmade(&state, unmade)
    }

    fn unmade(
        &self,
        state: &DeviceState,
        unmade: Result<Unmade, String>,
    ) -> Result<Unmade, Reason> {
        let unmade = unmade.map_err(|why| {
            let path = cow_path(&state.spec).unwrap_or_default();
            Failure::from(why).context(format!(
                "the content that its new store has overwritten on {path} cannot be restored"
            ))
        })?;
        if let Some(cow) = state.cow.as_ref().filter(|_| unmade.is_gone()) {
            self.forget_departure(cow);
        }
        Ok(unmade)
    }

    /// Deletes a device that was not reported to its user, and restores what its store has
    /// overwritten if that is still known.
    pub(super) fn take_back_added(&mut self, device: DeviceRef) -> Result<Reply, Reason> {
        if let Some(new) = self.unconfirmed.take_if(|new| new.state.device() == device) {
            return self.undo(new).map(|note| Reply::TakenBack { note });
        }
        let Some(spec) = self.devices.get(&device.id).map(|entry| entry.spec.clone()) else {
            return self.del(&[device.id], true);
        };
        let deleted = self.del(&[device.id], true);
        let stays = is_persistent_snapshot(&spec) && !self.devices.contains_key(&device.id);
        let cow = cow_path(&spec).filter(|_| stays);
        let note = cow.and_then(|cow| left_on(&cow, Unmade::Stays));
        match deleted.map_err(|why| why.and_notes(&note))? {
            Reply::DeletedNoted { notes } => {
                let own = format!("/dev/ublkb{}: deleted; ", device.id);
                let notes = notes.iter().map(|note| note.strip_prefix(&own).unwrap_or(note));
                let notes = notes.map(str::to_owned).chain(note);
                Ok(Reply::TakenBack { note: joined(notes) })
            }
            _ => Ok(Reply::TakenBack { note }),
        }
    }
}

/// The path of a snapshot's COW.
fn cow_path(spec: &DeviceSpec) -> Option<String> {
    match &spec.table.params {
        TargetParams::Snapshot(snapshot) => Some(snapshot.cow.clone()),
        _ => None,
    }
}

/// What undoing an `add` has left on the COW.
fn left_on(cow: &str, unmade: Unmade) -> Option<String> {
    match unmade {
        Unmade::NotNew => None,
        Unmade::Copies => Some(format!("chunks have been copied onto {cow}")),
        Unmade::Whole => {
            Some(format!("the content that its new store had overwritten on {cow} is restored"))
        }
        Unmade::ButCopies => Some(format!(
            "the content that its new store had overwritten on {cow} is restored, but chunks have \
             been copied onto the rest of the disk"
        )),
        Unmade::OnlyStart => Some(format!(
            "only the first block of the content that its new store had overwritten on {cow} is \
             restored: its chunks are too large"
        )),
        Unmade::Stays => Some(format!("if a new store was created on {cow}, it stays there")),
    }
}
