//! Flushes of a mirror: users' flushes, and flushes before regions are cleaned.
//!
//! Rule kept here: if a flush fails on a leg, the leg may have lost its earlier writes, and a
//! concurrent flush does not restore them even if it succeeds. So a flush has succeeded only when
//! all flushes started before its end have ended too, and the legs that they made stale are
//! recorded.

use super::leg_set::LegSet;
use super::legs::Failure;
use super::stretch::Outcome;
use super::target::{Mirror, State};
use super::write::Done;
use crate::disk::{Memory, Op, OpKind};
use crate::mutant::{self, Mutant};
use crate::request::{Request, TargetError};
use crate::units::{Sector, Sectors};

impl Mirror {
    /// Flushes all legs.
    pub(super) async fn flush(&self, _: &Request) -> Result<(), TargetError> {
        loop {
            let log_failed = self.handle_errors && self.log.health().has_failed();
            let done = if log_failed {
                self.resolve(true, true, None).await?
            } else {
                self.flush_once().await?
            };
            if done == Done::Yes {
                return Ok(());
            }
        }
    }

    async fn flush_once(&self) -> Result<Done, TargetError> {
        let sources = self.state.borrow().legs.sources();
        let outcome = self.flush_legs().await;
        if outcome.missed().is_empty() {
            self.state.borrow_mut().legs.mark_flushed(sources);
            // Another flush that failed meanwhile may have made legs stale: only the other legs
            // have the data that this flush makes durable.
            return if self.until_legs_remembered().await {
                Ok(Done::Yes)
            } else {
                Err(self.eio(None))
            };
        }
        if outcome.failed.is_empty() {
            return Err(outcome.first_error().map_or(TargetError::Unsupported, TargetError::Disk));
        }
        self.blame(&outcome);
        let kept = self.flush_missed(outcome.failed);
        self.resolve(false, kept, outcome.first_error()).await
    }

    /// Legs that could not be flushed may have lost writes to dirty regions. Returns whether a
    /// source leg is left.
    pub(super) fn flush_missed(&self, failed: LegSet) -> bool {
        let kept = {
            let State { regions, legs } = &mut *self.state.borrow_mut();
            regions.fail_flush();
            legs.miss(failed)
        };
        self.remember_stale();
        self.requests.released.wake_all();
        kept
    }

    async fn flush_legs(&self) -> Outcome {
        let turn = self.flushes.begin();
        let counts = self.state.borrow_mut().regions.begin_flush();
        let (mut ios, mut outcome) = (self.ios.take(), Outcome::default());
        for (leg, parts) in self.disks.borrow().iter().enumerate() {
            if parts.disk.limits().volatile_cache {
                let op = Op {
                    kind: OpKind::Flush,
                    sector: Sector(0),
                    count: Sectors(0),
                    memory: Memory::None,
                };
                ios.push((leg, parts.disk.start(op)));
            }
        }
        for (leg, io) in &mut ios {
            if let Err(error) = io.await {
                outcome.add(*leg, error);
            }
        }
        self.ios.give_back(ios);
        let begun = self.flushes.end(turn);
        if outcome.missed().is_empty() && !mutant::is(Mutant::FailedFlushOvertaken) {
            self.flushes.until_ended(begun).await;
        }
        if counts {
            self.state.borrow_mut().regions.end_flush(outcome.missed().is_empty());
        }
        outcome
    }

    /// Flushes all legs before regions are cleaned; returns the legs that failed. A leg that does
    /// not support flushes needs none.
    pub(super) async fn flush_before_cleaning(&self) -> LegSet {
        let outcome = self.flush_legs().await;
        for (leg, error) in outcome.errors.iter().filter(|(leg, _)| outcome.failed.has(*leg)) {
            self.leg_failed(*leg, Failure::Flush, error);
        }
        outcome.failed
    }
}
