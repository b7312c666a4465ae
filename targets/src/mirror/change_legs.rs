//! Changing the legs of a mirror under I/O: replace, add, remove.
//!
//! Requests wait at the gate while legs are changed, which takes no longer than what is in flight
//! and two writes of the log. What was held because of the old legs is tried again with the new
//! ones.
//!
//! Rules kept here, whatever the table that the mirror is opened with after a crash:
//!
//! * A new leg is right nowhere. The log names the legs that it is about from its first change on,
//!   and in that write nothing is in sync any more; only when that is durable the new leg is named,
//!   as stale; and only then it is written.
//! * A leg that is taken out is up to date no longer. Before its successor or the others are in
//!   sync anywhere in the log it is not named there any more, so if it comes back it is recovered
//!   like a new one.
//! * Before a leg goes another one must be known to have everything durably, for the log to name.
//! * The record of the legs has the change before it is made, so a server that takes over with the
//!   old table or with the new one finds no leg called right that is not.

use std::fmt;
use std::rc::Rc;

use super::config::{LegParts, RecordError, check_leg};
use super::legs::{LegSet, MAX_LEGS};
use super::open_error::OpenError;
use super::target::{Mirror, Phase, State};
use crate::mutant::{self, Mutant};
use crate::units::RegionIndex;

/// Why legs were not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeError {
    /// The new leg does not fit, or there would be too few or too many.
    Unfit(OpenError),
    /// No other leg is known to be right, durably: its place and its disk.
    LastSource(usize, Rc<str>),
    /// The state of the legs could not be recorded.
    Record(RecordError),
    /// The log could not be written, and with `handle_errors` the mirror cannot do without.
    Log,
    /// The mirror is suspended, or its legs are being changed already.
    Busy,
    /// It was given up while something was under way.
    GivenUp,
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChangeError::Unfit(error) => error.fmt(f),
            ChangeError::LastSource(leg, disk) => {
                write!(
                    f,
                    "leg {leg} ({disk}) is the only one known to be right: wait until the others \
                     are"
                )
            }
            ChangeError::Record(error) => error.fmt(f),
            ChangeError::Log => write!(f, "the dirty log cannot be written"),
            ChangeError::Busy => write!(f, "the mirror is suspended or being changed"),
            ChangeError::GivenUp => write!(f, "given up; the legs are as they were"),
        }
    }
}

impl std::error::Error for ChangeError {}

impl Mirror {
    /// Puts another disk in the place of a leg. Everything is recovered to it.
    ///
    /// # Errors
    /// The new leg does not fit, the old one is the only one that is right, or the log cannot be
    /// written. The legs are as they were then.
    pub async fn replace_leg(&self, index: usize, leg: LegParts) -> Result<(), ChangeError> {
        self.existing(index)?;
        self.renew(index, leg).await
    }

    /// Adds a leg behind the others. Everything is recovered to it.
    ///
    /// # Errors
    /// It does not fit, there are nine, or the log cannot be written. The legs are as they were
    /// then.
    pub async fn add_leg(&self, leg: LegParts) -> Result<(), ChangeError> {
        let count = self.disks.borrow().len();
        if count == MAX_LEGS {
            return Err(ChangeError::Unfit(OpenError::LegCount(count + 1)));
        }
        self.renew(count, leg).await
    }

    /// Takes a leg out. If all others are right, everything is in sync afterwards.
    ///
    /// # Errors
    /// There are only two, it is the only one that is right, or the log cannot be written. The legs
    /// are as they were then.
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
        if !mutant::is(Mutant::BelievedBeforeNamed) {
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
        self.believe_remaining().await;
        Ok(())
    }

    /// If all legs that are left are right, everything is in sync. They are flushed before the log
    /// says so.
    async fn believe_remaining(&self) {
        let all_right = {
            let State { regions, legs } = &*self.state.borrow();
            let right = legs.sources() == legs.all() || mutant::is(Mutant::RemainingNotRight);
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

    /// Whether another leg has everything durably, so that the log can name it when this one is
    /// gone. Legs that were recovered not long ago are flushed for it.
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
        check_leg(&leg, self.len, self.region_size).map_err(ChangeError::Unfit)?;
        self.begin_change().await?;
        let result = self.put_in(index, leg).await;
        self.end_change().await;
        result
    }

    async fn put_in(&self, index: usize, leg: LegParts) -> Result<(), ChangeError> {
        if !self.spares(index).await {
            return Err(self.last_source(index));
        }
        let name = leg.disk.name().to_string();
        self.record_change(index, Some((leg.identity, name))).map_err(ChangeError::Record)?;
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

    /// Whether the log could not be written, and the mirror cannot do without.
    fn log_refuses(&self) -> bool {
        self.handle_errors && self.log.health().has_failed()
    }

    /// Stops requests and recovery. What is held stays so. Given up, all goes on as it was.
    async fn begin_change(&self) -> Result<(), ChangeError> {
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

    /// Makes durable what the log says of the legs now.
    async fn write_change(&self) {
        if mutant::is(Mutant::ChangeNotDurable) {
            self.log.request();
        } else {
            self.write_log().await;
        }
    }

    async fn end_change(&self) {
        self.write_change().await;
        self.state.borrow_mut().regions.search_again(RegionIndex(0));
        self.requests.changes.set(self.requests.changes.get() + 1);
        self.requests.phase.set(Phase::Running);
        self.requests.gate.release();
        self.note_in_sync();
        self.go_on();
    }
}
