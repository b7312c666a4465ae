//! How long commands wait for disks: as long as the disks answer.
//!
//! Rules kept here: the thread that carries out commands waits for no silent disk, so other
//! commands continue. An unfinished command is undone or completed when the disk answers, as its
//! reply has said, and that is logged; until then no other command changes that device. What a
//! later server must know of it stays on record.

use std::future::Future;
use std::rc::Rc;

use dm_targets::device::OpenTarget;

use super::held::Held;
use super::machine::{Late, Machine, Waited};
use super::mutant::{self, Mutant};
use super::state::Administrator;
pub(super) use super::unfinished::Errand;
use super::unfinished::Unfinished;
use crate::failure::{Failure, Kind, Reason};
use crate::storage::silent::no_answer;

impl<M: Machine> Administrator<M> {
    /// Runs a job on the thread that has the targets and waits for its result while disks answer. A
    /// later result is passed to `then` if the job's device is still the same one.
    ///
    /// # Errors
    /// The thread has died, or a disk does not answer.
    pub(super) fn wait_for<T, F>(
        &mut self,
        errand: Errand,
        job: impl FnOnce(Rc<M::Thread>) -> F + Send + 'static,
        then: impl FnOnce(&mut Administrator<M>, T) + 'static,
    ) -> Result<T, Reason>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static,
    {
        if mutant::is(Mutant::SilentDiskAwaited) {
            return self.machine.call(job);
        }
        let served = move |admin: &Administrator<M>| {
            errand.id.and_then(|id| Some(admin.devices.get(&id)?.info.target_flags))
        };
        let cookie = served(self);
        let then = move |admin: &mut Administrator<M>, result| {
            // Its number may be another device's by now.
            if served(admin) == cookie || mutant::is(Mutant::NumberTrusted) {
                then(admin, result);
            }
        };
        let waited = self.machine.call_while_answered(job)?;
        self.unless_silent(errand, waited, then)
    }

    /// Returns a job's result, or registers the job as unfinished.
    ///
    /// # Errors
    /// A disk does not answer.
    pub(super) fn unless_silent<T: 'static>(
        &mut self,
        errand: Errand,
        waited: Waited<T>,
        then: impl FnOnce(&mut Administrator<M>, T) + 'static,
    ) -> Result<T, Reason> {
        let (disk, mut late): (String, Late<T>) = match waited {
            Waited::Done(result) => return Ok(result),
            Waited::Silent(disk, late) => (disk, late),
        };
        let mut then = Some(then);
        let finish = move |admin: &mut Administrator<M>| {
            let Some(result) = late() else { return false };
            if let Some(then) = then.take() {
                then(admin, result);
            }
            true
        };
        let why = no_answer(&disk);
        self.unfinished.push(Unfinished { errand, disk, finish: Box::new(finish) });
        Err(why)
    }

    /// Handles the results of unfinished jobs that have ended since.
    pub fn finish_late_jobs(&mut self) {
        if let Err(why) = self.end_beside() {
            log::error!("{why}");
        }
        let (mut at, before) = (0, self.unfinished.len());
        // One at a time: what is written down meanwhile tells of all others.
        while at < self.unfinished.len() {
            let mut one = self.unfinished.remove(at);
            if !(one.finish)(self) {
                self.unfinished.insert(at, one);
                at += 1;
            }
        }
        if self.unfinished.len() < before {
            self.lose_kept();
        }
        self.undo_late();
    }

    /// Whether a job waits for a disk that does not answer, or an `add` for being undone.
    pub fn is_waiting(&self) -> bool {
        !self.unfinished.is_empty() || !self.undone_later.is_empty()
    }

    /// Opens a target while its disks answer. What `open` returns beside the target is returned,
    /// too. A target that is opened later is closed again.
    ///
    /// # Errors
    /// As `open`; the thread has died, or a disk does not answer.
    pub(super) fn open_target<T, F>(
        &mut self,
        open: impl FnOnce(Rc<M::Thread>) -> F + Send + 'static,
    ) -> Result<(Held<M::Handle>, T), Reason>
    where
        T: Send + 'static,
        F: Future<Output = Result<(OpenTarget, T), Reason>> + 'static,
    {
        let target = Held::new(self.machine.handle());
        let errand = Errand { id: None, verb: "add", keeps_server: false };
        let found = self.wait_for(errand, target.opening(open), |_, _| {})??;
        Ok((target, found))
    }

    /// Refuses a device that has an unfinished command.
    pub(super) fn refuse_unfinished(&self, id: u32) -> Result<(), Reason> {
        match self.unfinished.iter().find(|one| one.errand.id == Some(id)) {
            None => Ok(()),
            Some(Unfinished { errand: Errand { verb, .. }, disk, .. }) => Err(Failure::new(
                Kind::NoAnswer,
                format!(
                    "/dev/ublkb{id}: its `{verb}` has not ended, because {disk} does not answer; \
                     try again when the disk answers"
                ),
            )),
        }
    }
}
