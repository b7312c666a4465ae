//! Deleting devices: in which order, and what is lost with them.
//!
//! Rules kept here: I9 (an origin ends before its snapshots, so that no write is missing in them; a
//! snapshot that is deleted alone while its origin is in use is marked invalid first) and I10 (what
//! is lost at the end of a device is an error).

use std::rc::Rc;

use super::deferred::canceled_with;
use super::devices::Device;
use super::machine::{Machine, Removed, Thread, Waited};
use super::mutant::{self, Mutant};
use super::notes::joined;
use super::state::Administrator;
use super::waiting::Errand;
use crate::failure::{Failure, Reason};
use crate::protocol::{DeviceRef, Reply};
use crate::server::events::tell;

/// The result of deleting a device.
#[derive(Default)]
pub(super) struct End {
    /// Why acknowledged writes are lost, if they are.
    pub(super) lost: Option<Reason>,
    /// Why the kernel's device could not be deleted, if so.
    pub(super) wrong: Option<Reason>,
    /// What the user must know of the disks: which legs are stale, that a merge has not ended, that
    /// a snapshot is lost.
    pub(super) note: Option<String>,
    /// For a merge: whether it has not ended ([`Removed::is_left`]).
    pub(super) is_left: Option<bool>,
}

impl<M: Machine> Administrator<M> {
    /// Stops a device, closes its target and deletes it. A device that may be in use fails its
    /// requests first: the kernel waits for them, and a mirror may hold some forever. If a disk
    /// does not answer these, the device continues; if the disk falls silent later, the device is
    /// deleted when the disk answers.
    pub(super) fn take_down(&mut self, id: u32, cookie: u64, force: bool) -> Result<End, Reason> {
        self.refuse_unfinished(id)?;
        let left_origin = self.left_origin(id);
        let recorded = if self.is_outlived(id) { Ok(()) } else { self.record_departure(id, false) };
        let unrecorded = match recorded {
            // Another program has ended it, which cannot be refused: its COW is marked instead if
            // its origin can change in this family.
            Err(why) if self.machine.has_ended(id) => {
                log::error!("{why}");
                self.goes_on_without(id)
            }
            recorded => recorded.map(|()| false)?,
        };
        match self.put_legs_back(id) {
            // That cannot be refused.
            Err(why) if self.machine.has_ended(id) => log::error!("{why}"),
            put => put.map_err(|why| why.context(format!("/dev/ublkb{id}: not deleted")))?,
        }
        // Another program may have deleted it; its number may then be another device's.
        let ours = self.ours(id, cookie)?.is_some();
        let force = force || mutant::is(Mutant::UseIgnored);
        if !ours || force || !self.machine.try_stop(id)? {
            self.begin_end(id)?;
            let stopped = if ours { self.machine.stop(id) } else { Ok(()) };
            if let Err(error) = stopped {
                log::warn!("{error}");
            }
        }
        let outlived = unrecorded || self.is_outlived(id);
        if let Err(why) = if outlived { self.record_departure(id, true) } else { Ok(()) } {
            log::warn!("{why}");
        }
        if ours {
            self.leave_made_of(id);
        }
        let Removed { closed, is_left } = match self.machine.remove(id, outlived) {
            Ok(removed) => self.removed(id, cookie, removed)?,
            Err(why) => Removed { closed: Err(why), is_left: None },
        };
        let deleted = if ours { self.machine.delete(id) } else { Ok(()) };
        let lost = closed.err().filter(|_| !mutant::is(Mutant::LastCommitIgnored));
        if let (Some(why), Some(entry)) = (&lost, self.devices.get(&id)) {
            tell(log::Level::Error, "commit-failed", &entry.name, &[], why);
        }
        let (stale, unkept) = match self.keep_legs(id) {
            Ok(stale) => (stale, None),
            Err(why) => (None, Some(why.but(format!("/dev/ublkb{id}: deleted")))),
        };
        let wrong = Failure::all(deleted.err().into_iter().chain(unkept).collect());
        let alone = left_origin.and_then(|origin| self.left_alone(id, &origin, outlived));
        let served = self.devices.get(&id).map(Device::state);
        let wish = served.as_ref().and_then(|device| canceled_with(&device.spec));
        let unmerged = served.and_then(|device| self.left_by_merge(&device, is_left));
        let note = joined(stale.or(unmerged).or(alone).into_iter().chain(wish));
        Ok(End { lost, wrong, note, is_left })
    }

    /// Makes a device fail its requests.
    fn begin_end(&mut self, id: u32) -> Result<(), Reason> {
        let job = move |thread: Rc<M::Thread>| async move {
            if let Some(device) = thread.group().device(id) {
                device.begin_delete().await;
            }
        };
        let then = move |admin: &mut Administrator<M>, ()| admin.run_on(id, "del");
        self.wait_for(Errand::on(id, "del"), job, then).map_err(|why| {
            self.give_up(id);
            why.context(format!("/dev/ublkb{id}: not deleted"))
        })?;
        self.machine.call(move |thread| async move {
            if let Some(device) = thread.group().device(id) {
                device.end_requests();
            }
        })
    }

    /// Handles the result of a device's removal, or defers that until its disk answers.
    fn removed(
        &mut self,
        id: u32,
        cookie: u64,
        removed: Waited<Removed>,
    ) -> Result<Removed, Reason> {
        let then = move |admin: &mut Administrator<M>, Removed { closed, is_left }: Removed| {
            let ours = admin.ours(id, cookie).is_ok_and(|info| info.is_some());
            let deleted = if ours { admin.machine.delete(id) } else { Ok(()) };
            admin.lost_at_end |= closed.is_err();
            admin.log_left_by_merge(DeviceRef { id, cookie }, is_left);
            // Its number may be another device's by now.
            let entry = admin.devices.get(&id);
            let is_it = entry.is_some_and(|entry| entry.info.target_flags == cookie);
            let forgotten = if is_it { admin.forget(id) } else { Ok(()) };
            let wrong = [closed.err(), deleted.err(), forgotten.err()];
            wrong.iter().flatten().for_each(|why| log::error!("/dev/ublkb{id}: {why}"));
        };
        let what = "it is stopped, and is deleted when the disk answers; its acknowledged writes \
                    stay on record";
        self.unless_silent(Errand::on(id, "del"), removed, then).map_err(|why| {
            why.context(format!("/dev/ublkb{id}: not deleted yet")).ending(format!("; {what}"))
        })
    }

    /// Logs what the user must know of a merge whose device was deleted when its disk answered.
    fn log_left_by_merge(&self, which: DeviceRef, is_left: Option<bool>) {
        let served = self.devices.values().map(Device::state);
        let undone = self.undone_later.iter().map(|new| new.state.clone());
        let Some(device) = served.chain(undone).find(|device| device.device() == which) else {
            return;
        };
        if let Some(note) = self.left_by_merge(&device, is_left) {
            log::warn!("/dev/ublkb{}: deleted; {note}", which.id);
        }
    }

    pub(super) fn del(&mut self, ids: &[u32], force: bool) -> Result<Reply, Reason> {
        // First what force does not overrule: whoever reads that it does is refused once more.
        ids.iter().try_for_each(|id| self.refuse_carrier(*id, ids, "delete that first"))?;
        if !force && !mutant::is(Mutant::UseIgnored) {
            // All or none: no device has been deleted when one is refused here.
            let mut served = ids.iter().filter(|id| self.devices.contains_key(id));
            served.try_for_each(|id| self.refuse_used(*id))?;
        }
        let mut ids = ids.to_vec();
        self.sort_top_down(&mut ids);
        origins_first(&mut ids, |id| self.is_origin(id));
        let (mut failed, mut saved, mut notes) = (Vec::new(), Ok(()), Vec::new());
        for id in &ids {
            match self.del_left_out(*id, force) {
                Ok(note) => notes.extend(note),
                Err(why) => failed.push(why),
            }
        }
        let cookie = |id: &u32| Some((*id, self.devices.get(id)?.info.target_flags));
        for (id, cookie) in ids.iter().filter_map(cookie).collect::<Vec<_>>() {
            // What was to go first may still be there.
            let alone = self.refuse_carrier(id, &[], "that one stays");
            let alone = if mutant::is(Mutant::DeletedBelow) { Ok(()) } else { alone };
            match alone.and_then(|()| self.take_down(id, cookie, force)) {
                Err(error) => {
                    failed.push(error);
                    if self.is_origin(id) {
                        // The origin stays, and would be written without its snapshots.
                        break;
                    }
                    continue;
                }
                Ok(End { lost, wrong, note, .. }) => {
                    notes.extend(note.map(|note| format!("/dev/ublkb{id}: deleted; {note}")));
                    self.lost_at_end |= lost.is_some();
                    failed.extend(lost.map(|lost| lost.but(format!("/dev/ublkb{id}: deleted"))));
                    failed.extend(wrong);
                }
            }
            saved = self.forget(id).map_err(|why| why.but(format!("/dev/ublkb{id}: deleted")));
        }
        failed.extend(saved.err());
        failed.iter().for_each(|error| log::error!("{error}"));
        notes.iter().for_each(|note| log::warn!("{note}"));
        if let Some(why) = Failure::all(failed) {
            return Err(why.and_notes(notes));
        }
        Ok(if notes.is_empty() { Reply::Deleted } else { Reply::DeletedNoted { notes } })
    }

    /// Removes a deleted device from the list.
    ///
    /// # Errors
    /// The state file still contains the device.
    pub(super) fn forget(&mut self, id: u32) -> Result<(), Reason> {
        if self.unconfirmed.as_ref().is_some_and(|new| new.state.id == id) {
            self.confirm();
        }
        self.taken.remove(&id);
        if let Some(entry) = self.devices.remove(&id) {
            // The information whether it was written is lost with it.
            self.note_change_by(&entry.state());
            self.origins.end(id);
            self.forget_node(id);
            self.forget_kept(&entry);
            log::info!("{}: deleted", entry.name);
        }
        self.save()
    }

    pub(super) fn is_origin(&self, id: u32) -> bool {
        self.devices.get(&id).is_some_and(Device::is_origin)
    }

    /// Whether the origin has another device that stays and is in use: the origin will be written
    /// without the deleted snapshot.
    pub(super) fn is_outlived(&self, id: u32) -> bool {
        let Some(state) = self.devices.get(&id).map(Device::state) else { return false };
        let mut others = self.origins_devices_of(&state);
        others.any(|origin| self.machine.not_in_use(origin.info.id).is_err())
    }
}

/// Ends origins before their snapshots: an origin is not written any more when they leave.
pub(super) fn origins_first(ids: &mut [u32], is_origin: impl Fn(u32) -> bool) {
    ids.sort_by_key(|id| !is_origin(*id));
}

#[cfg(test)]
mod tests {
    use super::origins_first;

    #[test]
    fn an_origin_ends_before_its_snapshots_whatever_their_numbers() {
        let mut ids = [0, 1, 2, 3];
        origins_first(&mut ids, |id| id == 2);
        assert_eq!(ids, [2, 0, 1, 3]);
    }
}
