//! Changing the legs of a mirror under I/O: replace, add, remove.
//!
//! Requests wait at the gate while legs are changed, which takes no longer than what is in flight and one write of the
//! log. A new leg is right nowhere: before the first write reaches it the log says, durably, that nothing is in sync and
//! that this leg is stale, so a crash at any moment recovers it from one that was right before. What was held because of
//! the old legs is tried again with the new ones.

use std::fmt;

use super::legs::MAX_LEGS;
use super::parts::check_leg;
use super::target::{LegParts, Mirror, OpenError, Phase, State};
use crate::units::RegionIndex;

/// Why legs were not changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeError {
    /// The new leg does not fit, or there would be too few or too many.
    Unfit(OpenError),
    /// No other leg is known to be right.
    LastSource(usize),
    /// The mirror is suspended, or its legs are being changed already.
    Busy,
}

impl fmt::Display for ChangeError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ChangeError::Unfit(error) => error.fmt(f),
            ChangeError::LastSource(leg) => {
                write!(f, "leg {} is the only one known to be right: wait until the others are", leg + 1)
            }
            ChangeError::Busy => write!(f, "the mirror is suspended or being changed"),
        }
    }
}

impl std::error::Error for ChangeError {}

impl Mirror {
    /// Puts another disk in the place of a leg. Everything is recovered to it.
    ///
    /// # Errors
    /// The new leg does not fit, or the old one is the only one that is right. Nothing has changed then.
    pub async fn replace_leg(&self, index: usize, leg: LegParts) -> Result<(), ChangeError> {
        self.existing(index)?;
        self.renew(index, leg).await
    }

    /// Adds a leg behind the others. Everything is recovered to it.
    ///
    /// # Errors
    /// It does not fit, or there are nine. Nothing has changed then.
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
    /// There are only two, or it is the only one that is right. Nothing has changed then.
    pub async fn remove_leg(&self, index: usize) -> Result<(), ChangeError> {
        self.existing(index)?;
        let count = self.disks.borrow().len();
        if count == 2 {
            return Err(ChangeError::Unfit(OpenError::LegCount(1)));
        }
        self.begin_change().await?;
        let removed = self.state.borrow_mut().legs.remove(index);
        if removed {
            self.disks.borrow_mut().remove(index);
            self.remember_stale();
            self.believe_remaining().await;
        }
        self.end_change().await;
        if removed { Ok(()) } else { Err(ChangeError::LastSource(index)) }
    }

    /// If all legs that are left are right, everything is in sync. They are flushed before the log says so.
    async fn believe_remaining(&self) {
        let all_right = {
            let State { regions, legs } = &*self.state.borrow();
            legs.sources() == legs.all() && !regions.all_in_sync()
        };
        if !all_right {
            return;
        }
        let failed = self.flush_before_cleaning().await;
        if failed.is_empty() {
            self.state.borrow_mut().regions.set_all(true);
            self.log.change_all();
        } else {
            self.flush_missed(failed);
        }
    }

    fn existing(&self, index: usize) -> Result<(), ChangeError> {
        let exists = index < self.disks.borrow().len();
        if exists { Ok(()) } else { Err(ChangeError::Unfit(OpenError::NoSuchLeg(index))) }
    }

    async fn renew(&self, index: usize, leg: LegParts) -> Result<(), ChangeError> {
        check_leg(&leg, self.len, self.region_size).map_err(ChangeError::Unfit)?;
        self.begin_change().await?;
        let renewed = self.state.borrow_mut().legs.renew(index);
        if renewed {
            self.state.borrow_mut().regions.set_all(false);
            self.log.change_all();
            self.remember_stale();
            self.until_legs_remembered().await;
            self.write_log().await;
            {
                let mut disks = self.disks.borrow_mut();
                if index == disks.len() {
                    disks.push(leg);
                } else {
                    disks[index] = leg;
                }
            }
            // Now under its own identity.
            self.remember_stale();
        }
        self.end_change().await;
        if renewed { Ok(()) } else { Err(ChangeError::LastSource(index)) }
    }

    /// Stops requests and recovery. What is held stays so.
    async fn begin_change(&self) -> Result<(), ChangeError> {
        if self.phase.get() != Phase::Running {
            return Err(ChangeError::Busy);
        }
        self.phase.set(Phase::Changing);
        self.gate_closed.set(true);
        self.pause_recovery().await;
        self.quiet.until(|| (self.under_way.get() == 0 && self.cleaning.get() == 0).then_some(())).await;
        Ok(())
    }

    async fn end_change(&self) {
        self.write_log().await;
        self.state.borrow_mut().regions.search_again(RegionIndex(0));
        self.reshapes.set(self.reshapes.get() + 1);
        self.phase.set(Phase::Running);
        self.gate_closed.set(false);
        self.gate.wake_all();
        self.note_in_sync();
        self.go_on();
    }
}
