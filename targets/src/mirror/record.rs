//! The journal record of a mirror's legs: written whenever it changes, for a later server.
//!
//! Rule kept here (I10): no write, discard or flush is acknowledged, and no leg is copied over,
//! while the record claims more than is true. If the record cannot be written, requests that depend
//! on it fail; each such request retries the record, so requests succeed again as soon as there is
//! room. A record that claims less than is true is safe, but costs a later server more copying.

use super::config::{LegParts, RecordError};
use super::leg_claims::Claims;
use super::leg_flags::NO_IDENTITY;
use super::leg_set::LegSet;
use super::leg_state::{KnownLeg, Left, LegState, remember_former};
use super::target::{Mirror, State};
use crate::mutant::{self, Mutant};
use crate::request::TargetError;

impl Mirror {
    /// The claims that are true of the legs now.
    fn claims(&self) -> Claims {
        let State { regions, legs } = &*self.state.borrow();
        // A log that has not been written yet may be that of another time, and does not name the
        // sources.
        let log_works = self.log_written.get() && !self.log.health().is_dead();
        if let Some(Left { stay, in_sync }) = self.left.get() {
            let sources = legs.sources().without(legs.all().without(stay));
            return Claims { sources, in_sync, log_works: false };
        }
        Claims {
            sources: legs.sources(),
            in_sync: regions.all_in_sync() && legs.sources() == legs.all(),
            log_works,
        }
    }

    /// Journals that the mirror, which is suspended, will be left for one of its legs: from now on
    /// the others may miss writes. Its log on disk says that no leg is up to date, see
    /// [`Mirror::leave_log`]. A resume takes that back, and recovers all regions then.
    ///
    /// # Errors
    /// As for [`Mirror::leave_log`].
    pub async fn record_left(&self, leg: usize, force: bool) -> Result<bool, RecordError> {
        self.leave(Left { stay: LegSet::one(leg), in_sync: false }, force).await
    }

    /// Journals that the mirror, which is suspended, will be left for one with another log, and
    /// that its log knows nothing from now on. The log itself says then that no leg is up to date:
    /// who opens a mirror with it in another boot must name the source. A resume takes that back,
    /// and recovers all regions then. Returns whether the log says it.
    ///
    /// # Errors
    /// It cannot be journaled, or, without `force`, the log cannot be written. What was journaled
    /// counts as before.
    pub async fn leave_log(&self, force: bool) -> Result<bool, RecordError> {
        let Claims { in_sync, .. } = self.claims();
        let stay = self.state.borrow().legs.all();
        self.leave(Left { stay, in_sync }, force).await
    }

    async fn leave(&self, left: Left, force: bool) -> Result<bool, RecordError> {
        let has_log = self.log.on_disk() && !mutant::is(Mutant::LeftLogUntold);
        let force = force || mutant::is(Mutant::DeadLogLeft);
        // Before anything is changed: a mirror that stays has nothing to recover then.
        if has_log && !self.write_log().await && !force {
            return Err(self.unwritable_log());
        }
        self.left.set(Some(left));
        self.record_again().inspect_err(|_| self.left.set(None))?;
        if !has_log {
            return Ok(true);
        }
        self.state.borrow_mut().regions.set_all(false);
        self.log.change_all();
        self.log.name_legs();
        self.remember_stale();
        let is_told = self.write_log().await;
        // The record must not call it a log that works before a resume has written it again.
        self.log_written.set(false);
        if is_told || force {
            return Ok(is_told);
        }
        self.left.set(None);
        self.try_record();
        Err(self.unwritable_log())
    }

    fn unwritable_log(&self) -> RecordError {
        let why = self.log.failure.borrow().as_ref().map(|error| format!(" ({error})"));
        RecordError(format!(
            "its log cannot be written{}, and after a restart would call legs up to date that have \
             missed writes by then: repair the log's disk, or leave the log as it is with `load \
             --force`",
            why.unwrap_or_default()
        ))
    }

    /// Journals the current claims, unless they are journaled already.
    ///
    /// # Errors
    /// The journaled record claims more than is true, and cannot be replaced.
    pub(super) fn record(&self) -> Result<(), RecordError> {
        let names = || {
            let disks = self.disks.borrow();
            disks.iter().map(LegParts::known).collect()
        };
        self.put(self.claims(), names)
    }

    /// Journals the current claims if that is possible now; a request that depends on them retries.
    pub(super) fn try_record(&self) {
        if self.record().is_err() {
            // Nothing is acknowledged until it succeeds: see `acknowledge`.
        }
    }

    /// Journals the current claims again: what was journaled has been removed since.
    ///
    /// # Errors
    /// They cannot be journaled. What was journaled counts as there, as before.
    pub fn record_again(&self) -> Result<(), RecordError> {
        let before = self.recorded.take();
        let put = self.record();
        if put.is_err() {
            self.recorded.set(before);
        }
        put
    }

    /// Whether a later mirror must know the state of the legs: one, present or former, is not a
    /// source.
    pub fn has_stale(&self) -> bool {
        let disks = self.disks.borrow();
        let present: Vec<_> = disks.iter().map(|leg| leg.known().identity).collect();
        let former = &*self.former.borrow();
        let legs = &self.state.borrow().legs;
        legs.sources() != legs.all() || former.iter().any(|leg| !present.contains(&leg.identity))
    }

    /// Journals that one leg will be replaced, added or removed: before the change, and with no
    /// claim that is not already true before it.
    pub(super) fn record_change(
        &self,
        index: usize,
        new: Option<KnownLeg>,
    ) -> Result<(), RecordError> {
        let truth = self.claims();
        let mut names: Vec<_> = self.disks.borrow().iter().map(LegParts::known).collect();
        let sources = truth.sources.without(LegSet::one(index));
        let taken_out = new.is_none();
        let sources = if taken_out { sources.closed_at(index) } else { sources };
        if let Some(left) = names.get(index).cloned() {
            remember_former(&mut self.former.borrow_mut(), left);
        }
        match new {
            Some(new) if index < names.len() => names[index] = new,
            Some(new) => names.push(new),
            None => drop(names.remove(index)),
        }
        let claims = Claims { sources, in_sync: truth.in_sync && taken_out, ..truth };
        let before = self.recorded.take();
        let put = self.put(claims, || names);
        // Until the legs have changed, the record claims less than is true of the present ones.
        self.recorded.set(if put.is_ok() { None } else { before });
        put
    }

    /// Journals that the legs, also those that are sources, are about to differ in some regions:
    /// before they do. The default leg is the source from then on.
    pub(super) fn record_divergence(&self) -> Result<(), RecordError> {
        let truth = self.claims();
        let sources = LegSet::one(self.state.borrow().legs.default_leg());
        let names = || self.disks.borrow().iter().map(LegParts::known).collect();
        self.put(Claims { sources, in_sync: false, ..truth }, names)
    }

    fn put(&self, truth: Claims, names: impl FnOnce() -> Vec<KnownLeg>) -> Result<(), RecordError> {
        let before = self.recorded.get();
        if before == Some(truth) {
            return Ok(());
        }
        let leg = |(leg, known): (usize, KnownLeg)| {
            let unreadable = || self.state.borrow().legs.totals(leg).reads > 0;
            let miscounted = mutant::is(Mutant::ReadErrorIsMiss) && unreadable();
            let source =
                truth.sources.has(leg) && !mutant::is(Mutant::SourceForgotten) && !miscounted;
            KnownLeg { source, ..known }
        };
        let mut legs: Vec<_> = names().into_iter().enumerate().map(leg).collect();
        let present = |former: &&KnownLeg| legs.iter().all(|leg| leg.identity != former.identity);
        let former: Vec<_> = self.former.borrow().iter().filter(present).cloned().collect();
        legs.extend(former);
        let was_in_sync = self.was_in_sync.get() || truth.in_sync;
        self.was_in_sync.set(was_in_sync);
        let (in_sync, log_works) = (truth.in_sync, truth.log_works);
        let log = if log_works { self.log_identity } else { NO_IDENTITY };
        let state = LegState { legs, in_sync, log_works, log, was_in_sync };
        match (self.recorder)(&state) {
            Ok(()) => {
                self.recorded.set(Some(truth));
                if before.is_none_or(|before| before.exceed(truth)) {
                    self.recovery.work.wake_all();
                }
                Ok(())
            }
            Err(why) => {
                // The record may have been replaced nevertheless.
                let claimed = before.map(|before| before.or(truth));
                self.recorded.set(claimed);
                let harmless = claimed.is_some_and(|claimed| !claimed.exceed(truth));
                if harmless { Ok(()) } else { Err(RecordError(why)) }
            }
        }
    }

    /// Whether a leg may be copied over: the record does not name it as a source.
    pub(super) fn may_copy(&self) -> bool {
        self.recorded.get() == Some(self.claims()) || self.record().is_ok()
    }

    /// The last step of a request that has been carried out: succeeds if every claim in the record,
    /// which a later server trusts, is true.
    pub(super) fn acknowledge(&self) -> Result<(), TargetError> {
        let claims_too_much =
            self.recorded.get().is_none_or(|recorded| recorded.exceed(self.claims()));
        if !claims_too_much || mutant::is(Mutant::AckBeforeLegState) || self.record().is_ok() {
            return Ok(());
        }
        Err(self.eio(None))
    }

    /// For a mutant: treats the current claims as journaled although they are not.
    pub(super) fn pretend_recorded(&self) {
        self.recorded.set(Some(self.claims()));
    }
}
