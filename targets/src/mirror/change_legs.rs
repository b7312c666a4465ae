//! Changing the legs of a mirror under I/O: replace, add, remove.
//!
//! Requests wait at the gate while legs are changed, which takes as long as the requests in flight
//! and two writes of the log. Requests held because of the old legs are retried with the new ones.
//!
//! Rules kept here, whatever table the mirror is opened with after a crash:
//!
//! * A new leg is stale everywhere. From the first change on, the log names its legs, and the same
//!   write puts all regions out of sync; only once that is durable is the new leg named, as stale;
//!   and only then is the new leg written.
//! * A removed leg is no longer up to date. It is removed from the log's names before the log
//!   records any region as in sync on its successor or the other legs, so if it comes back it is
//!   recovered like a new one.
//! * Before a leg is removed, another leg that the log can name must be known to have all data
//!   durably.
//! * A change is journaled in the record of the legs before it is made, so a server that takes over
//!   with the old or the new table finds no stale leg named as a source.

use std::fmt;
use std::rc::Rc;

use super::config::{LegParts, RecordError, check_leg};
use super::leg_set::{LegSet, MAX_LEGS};
use super::open_error::OpenError;
use super::target::{Mirror, Phase, State};
use crate::disk::DiskError;
use crate::mutant::{self, Mutant};
use crate::units::RegionIndex;

/// Why legs were not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeError {
    /// The new leg does not fit, or there would be too few or too many legs.
    Unfit(OpenError),
    /// No other leg is known to be up to date, durably: the leg's index and disk.
    LastSource(usize, Rc<str>),
    /// The state of the legs could not be recorded.
    Record(RecordError),
    /// The log could not be written, and with `handle_errors` the mirror requires it.
    Log,
    /// The log could not be read where it is to grow.
    LogUnreadable(DiskError),
    /// The mirror is suspended, or its legs are being changed already.
    Busy,
    /// The change was given up while requests were under way.
    GivenUp,
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChangeError::Unfit(error) => error.fmt(f),
            ChangeError::LastSource(leg, disk) => {
                write!(
                    f,
                    "leg {leg} ({disk}) is the only leg known to be up to date: wait until another \
                     leg is in sync (a failed one must be replaced for that), or add one"
                )
            }
            ChangeError::Record(error) => error.fmt(f),
            ChangeError::Log => write!(f, "the dirty log cannot be written"),
            ChangeError::LogUnreadable(error) => write!(f, "the dirty log cannot be read: {error}"),
            ChangeError::Busy => write!(f, "the mirror is suspended or being changed"),
            ChangeError::GivenUp => write!(f, "canceled; the legs are unchanged"),
        }
    }
}

impl std::error::Error for ChangeError {}

impl Mirror {
    /// Replaces a leg by another disk. All regions are recovered to it.
    ///
    /// # Errors
    /// The new leg does not fit, the old one is the only one up to date, or the log cannot be
    /// written. The legs are unchanged then.
    pub async fn replace_leg(&self, index: usize, leg: LegParts) -> Result<(), ChangeError> {
        self.existing(index)?;
        self.renew(index, leg).await
    }

    /// Adds a leg after the others. All regions are recovered to it.
    ///
    /// # Errors
    /// The leg does not fit, there are nine, or the log cannot be written. The legs are unchanged
    /// then.
    pub async fn add_leg(&self, leg: LegParts) -> Result<(), ChangeError> {
        let count = self.disks.borrow().len();
        if count == MAX_LEGS {
            return Err(ChangeError::Unfit(OpenError::LegCount(count + 1)));
        }
        self.renew(count, leg).await
    }

    /// Removes a leg. If all others are up to date, all regions are in sync afterwards.
    ///
    /// # Errors
    /// There are only two, the leg is the only one up to date, or the log cannot be written. The
    /// legs are unchanged then.
    pub async fn remove_leg(&self, index: usize) -> Result<(), ChangeError> {
        self.existing(index)?;
        let count = self.disks.borrow().len();
        if count == 2 {
            return Err(ChangeError::Unfit(OpenError::LegCount(1)));
        }
        self.begin_change().await?;
        let result = self.remove(index).await;
        self.end_change().await;
        result
    }

    async fn remove(&self, index: usize) -> Result<(), ChangeError> {
        if !self.spares(index).await {
            return Err(self.last_source(index));
        }
        self.record_change(index, None).map_err(ChangeError::Record)?;
        let names = self
            .identities()
            .into_iter()
            .enumerate()
            .filter(|(leg, _)| *leg != index)
            .map(|(_, id)| id);
        let stale = self.state.borrow().legs.to_remember().unwrap_or_default().closed_at(index);
        self.log.name_legs();
        self.log.set_flags(&names.collect::<Vec<_>>(), stale);
        if !mutant::is(Mutant::TrustedBeforeNamed) {
            self.write_change().await;
        }
        if self.log_refuses() {
            self.remember_stale();
            return Err(ChangeError::Log);
        }
        self.state.borrow_mut().legs.remove(index);
        self.disks.borrow_mut().remove(index);
        self.recorded.set(None);
        self.remember_stale();
        self.trust_remaining().await;
        Ok(())
    }

    /// If all remaining legs are up to date, all regions are in sync. The legs are flushed before
    /// the log records it.
    async fn trust_remaining(&self) {
        let all_right = {
            let State { regions, legs } = &*self.state.borrow();
            let right = legs.all_equal() || mutant::is(Mutant::RemainingNotRight);
            right && !regions.all_in_sync()
        };
        if !all_right {
            return;
        }
        let unflushed = mutant::is(Mutant::RemainingUnflushed);
        let failed = if unflushed { LegSet::default() } else { self.flush_before_cleaning().await };
        if failed.is_empty() {
            self.state.borrow_mut().regions.set_all(true);
            self.log.change_all();
        } else {
            self.flush_missed(failed);
        }
    }

    fn last_source(&self, index: usize) -> ChangeError {
        ChangeError::LastSource(index, self.disks.borrow()[index].disk.name().clone())
    }

    fn existing(&self, index: usize) -> Result<(), ChangeError> {
        let exists = index < self.disks.borrow().len();
        if exists { Ok(()) } else { Err(ChangeError::Unfit(OpenError::NoSuchLeg(index))) }
    }

    /// Whether another leg has all data durably, so that the log can name it once this one is
    /// removed. Flushes legs that were recovered recently, if necessary.
    async fn spares(&self, index: usize) -> bool {
        if !self.state.borrow().legs.flushed_without(index) && !mutant::is(Mutant::UnflushedSource)
        {
            let sources = self.state.borrow().legs.sources();
            let failed = self.flush_before_cleaning().await;
            self.state.borrow_mut().legs.mark_flushed(sources.without(failed));
            if !failed.is_empty() {
                self.flush_missed(failed);
            }
        }
        self.state.borrow().legs.flushed_without(index) || mutant::is(Mutant::UnflushedSource)
    }

    async fn renew(&self, index: usize, leg: LegParts) -> Result<(), ChangeError> {
        check_leg(&leg, leg.disk.size(), self.len(), self.region_size)
            .map_err(ChangeError::Unfit)?;
        self.begin_change().await?;
        let result = self.put_in(index, leg).await;
        self.end_change().await;
        result
    }

    async fn put_in(&self, index: usize, leg: LegParts) -> Result<(), ChangeError> {
        if !self.spares(index).await {
            return Err(self.last_source(index));
        }
        self.record_change(index, Some(leg.known())).map_err(ChangeError::Record)?;
        if !mutant::is(Mutant::NewLegInSync) {
            self.state.borrow_mut().regions.set_all(false);
        }
        self.log.change_all();
        self.log.name_legs();
        self.remember_stale();
        if !mutant::is(Mutant::NamedBeforeCleared) {
            self.write_change().await;
        }
        if self.log_refuses() {
            self.state.borrow_mut().legs.diverge();
            self.remember_stale();
            return Err(ChangeError::Log);
        }
        self.state.borrow_mut().legs.renew(index);
        {
            let mut disks = self.disks.borrow_mut();
            if index == disks.len() {
                disks.push(leg);
            } else {
                disks[index] = leg;
            }
        }
        self.recorded.set(None);
        if !mutant::is(Mutant::OldIdentityKept) {
            self.remember_stale();
        }
        Ok(())
    }

    /// Whether the log could not be written, and the mirror requires it.
    pub(super) fn log_refuses(&self) -> bool {
        self.handle_errors && self.log.health().has_failed()
    }

    /// Stops requests and recovery. Held requests stay held. If given up, the mirror resumes as
    /// before.
    pub(super) async fn begin_change(&self) -> Result<(), ChangeError> {
        if self.requests.phase.get() != Phase::Running {
            return Err(ChangeError::Busy);
        }
        self.requests.phase.set(Phase::Changing);
        self.requests.gate.hold();
        let among_writes = mutant::is(Mutant::ChangeAmongWrites);
        if self.come_to_rest(|| self.requests.gate.inside() == 0 || among_writes).await {
            return Ok(());
        }
        self.run_on();
        Err(ChangeError::GivenUp)
    }

    /// Makes the log's current names and flags of the legs durable.
    pub(super) async fn write_change(&self) {
        if mutant::is(Mutant::ChangeNotDurable) {
            self.log.request();
        } else {
            self.write_log().await;
        }
    }

    pub(super) async fn end_change(&self) {
        self.write_change().await;
        self.state.borrow_mut().regions.search_again(RegionIndex(0));
        self.requests.changes.set(self.requests.changes.get() + 1);
        self.requests.phase.set(Phase::Running);
        self.requests.gate.release();
        self.report_in_sync();
        self.go_on();
    }
}
