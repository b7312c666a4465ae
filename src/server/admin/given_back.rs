//! Snapshots whose target was closed for a merge, and that get it back if the merge cannot begin.
//!
//! Rules kept here: while such a snapshot has no target its origin is suspended, because nothing
//! would be preserved for it (I5); and no silent disk is waited for: what has to wait for a disk is
//! done when that disk answers, or with the next `resume`.

use std::rc::Rc;

use super::devices::{Deps, no_device};
use super::machine::{Machine, Thread};
use super::mutant::{self, Mutant};
use super::new_device::NewDevice;
use super::state::Administrator;
use super::waiting::Errand;
use crate::failure::{Kind, Reason};

impl<M: Machine> Administrator<M> {
    /// Closes the target of a snapshot whose store is wanted by a merge into an origin's device.
    /// Its device stays, suspended, without a claim to its COW.
    pub(super) fn take_target_for(&mut self, origin: u32, id: u32) -> Result<(), Reason> {
        let before = self.unfinished.len();
        let held = self.hold(id, false, "resume")?;
        let job = move |thread: Rc<M::Thread>| async move { thread.group().take_target(id).await };
        let then = move |admin: &mut Administrator<M>, closed: Result<(), String>| {
            closed.unwrap_or_else(|lost| log::error!("/dev/ublkb{id}: {lost}"));
            admin.give_back_late(id);
        };
        let entry = self.devices.get(&id).ok_or_else(|| no_device(id))?;
        self.taken.insert(id, entry.deps.clone());
        let taken = self.wait_for(Errand::on(id, "resume"), job, then);
        let closed = taken.and_then(|taken| held.and(taken.map_err(Reason::from)));
        if let Err(why) = closed {
            return Err(self.given_back(origin, id, before, why));
        }
        if let Some(entry) = self.devices.get_mut(&id) {
            let origin = entry.spec.table.params.family().disk.map(str::to_owned);
            entry.deps.retain(&origin.into_iter().collect::<Vec<_>>());
        }
        Ok(())
    }

    /// Gives a snapshot the target back that it had; the error that led to this says so if it has
    /// to wait. If a job that has begun since there were `before` of them waits for a disk, the
    /// snapshot waits for that job.
    pub(super) fn given_back(
        &mut self,
        origin: u32,
        id: u32,
        before: usize,
        why: Reason,
    ) -> Reason {
        if let (Some(entry), Some(deps)) = (self.devices.get_mut(&id), self.taken.get(&id)) {
            entry.deps = deps.clone();
        }
        let waits = self.unfinished.len() > before;
        let back = if waits {
            self.give_back_after(id, before);
            "its disk has not answered".into()
        } else {
            match self.give_target_back(id) {
                Ok(()) => return why,
                Err(back) => back,
            }
        };
        let entry = self.devices.get_mut(&origin);
        if let Some(entry) = entry.filter(|_| !mutant::is(Mutant::SnapshotLeftBehind)) {
            entry.suspended = true;
        }
        why.ending(format!("; /dev/ublkb{id}, the snapshot, is suspended as well: {back}"))
    }

    /// Tries again to give a device its snapshot back, or an origin all of its snapshots.
    ///
    /// # Errors
    /// A snapshot has no target: its origin must not be changed.
    pub(super) fn give_back_taken(&mut self, id: u32) -> Result<(), Reason> {
        let origin = self.devices.get(&id).filter(|entry| entry.is_origin());
        let origin = origin.map(|entry| entry.deps.carrier());
        let is_its = |(other, deps): &(&u32, &Deps)| {
            **other == id || origin.is_some_and(|carrier| deps.carrier() == carrier)
        };
        let taken: Vec<u32> = self.taken.iter().filter(is_its).map(|(taken, _)| *taken).collect();
        for snapshot in taken {
            let back = self.refuse_unfinished(snapshot);
            back.and_then(|()| self.give_target_back(snapshot)).map_err(|why| {
                let hint = format!("`ublk-dm del {snapshot}` continues without this snapshot");
                why.context(format!(
                    "/dev/ublkb{id}: not resumed: /dev/ublkb{snapshot} has no table"
                ))
                .ending(format!("; {hint}"))
            })?;
        }
        Ok(())
    }

    fn give_back_late(&mut self, id: u32) {
        match self.give_target_back(id) {
            Ok(()) => log::warn!("/dev/ublkb{id}: its disk answers again, and it continues to run"),
            Err(why) => log::error!("/dev/ublkb{id}: its disk answers again, but {why}"),
        }
    }

    /// Gives a snapshot its target back when the jobs have ended that wait for its disks.
    fn give_back_after(&mut self, id: u32, before: usize) {
        for one in self.unfinished.iter_mut().skip(before) {
            if one.errand.id == Some(id) {
                // That is done at its own end.
                continue;
            }
            one.errand = Errand::on(id, "resume");
            let mut finish = std::mem::replace(&mut one.finish, Box::new(|_| true));
            one.finish = Box::new(move |admin: &mut Administrator<M>| {
                let ended = finish(admin);
                if ended {
                    admin.give_back_late(id);
                }
                ended
            });
        }
    }

    pub(super) fn give_target_back(&mut self, id: u32) -> Result<(), Reason> {
        let Some(known) = self.taken.get(&id).map(Deps::known) else { return Ok(()) };
        let Some(entry) = self.devices.get(&id) else { return Ok(()) };
        let (name, spec) = (entry.name.clone(), entry.spec.clone());
        let before = self.unfinished.len();
        let prepared = self.prepare(spec, Some(&name), Some(&known)).inspect_err(|why| {
            if why.kind == Kind::NoAnswer {
                self.give_back_after(id, before);
            }
        })?;
        let NewDevice { target, deps, .. } = prepared;
        if let Some(entry) = self.devices.get_mut(&id) {
            entry.deps = deps;
        }
        let job = target.last_job(move |thread: Rc<M::Thread>, opened| async move {
            thread.group().put_target(id, opened).await
        });
        let then = move |admin: &mut Administrator<M>, put: Result<(), String>| {
            let back = put.map_err(Reason::from).and_then(|()| admin.is_back(id));
            back.unwrap_or_else(|why| log::error!("/dev/ublkb{id}: {why}"));
        };
        self.wait_for(Errand::on(id, "resume"), job, then)??;
        self.is_back(id)
    }

    /// A snapshot has its target again.
    fn is_back(&mut self, id: u32) -> Result<(), Reason> {
        self.taken.remove(&id);
        let suspended = self.devices.get(&id).is_none_or(|entry| entry.suspended);
        if suspended { Ok(()) } else { self.let_through(id, false, "resume") }
    }
}
