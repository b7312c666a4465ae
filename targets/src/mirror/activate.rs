//! Making an open mirror usable: its record, its log, its tasks.
//!
//! Rule kept here: no log on disk names the legs before it says which of them are not sources. The
//! sources may be known from the record alone, which is of this boot; a log that named all legs
//! alike would have its reader, after a loss of power, copy the first one over the others.

use std::cell::Cell;
use std::rc::Rc;

use super::Event;
use super::config::RecordError;
use super::leg_set::LegSet;
use super::legs::Failure;
use super::recovery::LANES;
use super::target::{Mirror, State};
use crate::exec::Executor;
use crate::mutant::{self, Mutant};

impl Mirror {
    /// Writes the log, and starts the mirror's tasks: the log's task, the cleaner, recovery. They
    /// run until [`Mirror::close`].
    ///
    /// # Errors
    /// The state of the legs cannot be recorded; nothing has been written then. An unwritable log
    /// is not an error: the mirror runs without it, as its features allow.
    pub async fn activate(self: &Rc<Self>, executor: &Executor) -> Result<(), RecordError> {
        self.record()?;
        if self.log.health().is_dead() {
            (self.listener)(Event::LogFailed(self.log.failure.borrow().clone()));
        }
        // Recovery and cleaning must not begin before the log has been written.
        self.recovery.paused.set(1);
        self.spawn(executor, |mirror| async move { mirror.log_loop().await });
        let flushed = self.state.borrow().legs.any_flushed();
        self.flush_sources(executor).await;
        // From now on the log names the legs that its bits are about: another disk in the place of
        // one is recovered, also if no leg has ever missed a write.
        if !mutant::is(Mutant::LegsNamedLate) {
            self.log.name_legs();
        }
        self.report_in_sync();
        if self.state.borrow().legs.in_sync() && flushed {
            // The log recorded this durably before this server started.
            self.commit_all();
        } else {
            self.remember_stale();
        }
        self.write_log().await;
        self.try_record();
        self.spawn(executor, |mirror| async move { mirror.clean_loop().await });
        for _ in 0..LANES {
            self.spawn(executor, |mirror| async move { mirror.recovery_lane().await });
        }
        self.go_on();
        Ok(())
    }

    /// Flushes the sources, if none is known to have all data durably: only then may the log say
    /// that the other legs are not needed. One that answers well is enough, since another may hang.
    async fn flush_sources(self: &Rc<Self>, executor: &Executor) {
        let sources = self.state.borrow().legs.sources();
        if !self.log.on_disk() || self.is_nameable() || mutant::is(Mutant::SourceUnflushed) {
            return;
        }
        let (flushed, tasks) = (Rc::new(Cell::new(LegSet::default())), self.tasks.get());
        for leg in sources.iter() {
            let flushed = flushed.clone();
            self.spawn(executor, move |mirror| async move {
                if mirror.flush_leg(leg).await {
                    let mut all = flushed.get();
                    all.add(leg);
                    flushed.set(all);
                }
            });
        }
        let one = || !flushed.get().is_empty() || self.tasks.get() == tasks;
        self.operation_ended.until(|| one().then_some(())).await;
        let State { legs, .. } = &mut *self.state.borrow_mut();
        legs.mark_flushed(flushed.get());
        // The cleaner flushes the others.
        self.cleaner.flags_pending.set(legs.flushed() != legs.sources());
    }

    /// Flushes a leg, which may have lost what was written to it if that fails.
    async fn flush_leg(&self, leg: usize) -> bool {
        let disk = self.disks.borrow().get(leg).map(|parts| parts.disk.clone());
        let Some(disk) = disk else { return false };
        let Err(error) = disk.flush().await else { return true };
        self.leg_failed(leg, Failure::Flush, &error);
        if !mutant::is(Mutant::FirstFlushForgiven) {
            let State { regions, legs } = &mut *self.state.borrow_mut();
            regions.fail_flush();
            // What an earlier server has written since the last flush is not known.
            regions.lose_all();
            legs.miss(LegSet::one(leg));
            self.log.change_all();
        }
        // The log has its names by now, or gets them without this leg.
        self.cleaner.flags_pending.set(true);
        self.cleaner.wanted.wake_all();
        self.requests.released.wake_all();
        false
    }

    /// Whether the log's header can say which legs are not sources.
    fn is_nameable(&self) -> bool {
        self.state.borrow().legs.to_remember().is_some()
    }

    /// Writes all blocks that may differ from the log on disk, durably. If that succeeds, marks can
    /// be made again. A log that cannot say which legs are not sources is not used. Returns whether
    /// the log is written.
    pub(super) async fn write_log(&self) -> bool {
        // One that is left says of no leg that it is a source.
        let named = self.log_written.get() || self.is_nameable() || self.left.get().is_some();
        if self.log.on_disk() && !named && !mutant::is(Mutant::SourceUnflushed) {
            self.log.fail();
            (self.listener)(Event::LogUnused);
            return false;
        }
        self.log.begin_whole();
        let synced = self.log.sync().await;
        let is_written = synced.is_ok();
        if let Err(error) = synced {
            self.log.fail();
            self.tell_of_log(error);
        } else {
            self.log_written.set(self.log.on_disk());
        }
        is_written
    }
}
