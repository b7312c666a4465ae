//! The end of a snapshot: its last commit, the error if that fails, and leaving an origin that
//! stays in use.
//!
//! Rules kept here: I9 (a snapshot that can no longer be valid is marked so on its COW or recorded
//! elsewhere; until then its origin does not change), I10 (an end that loses acknowledged writes is
//! an error, never silent).

use super::exceptions::Health;
use super::losses::Loss;
use super::state::Phase;
use super::target::Snapshot;
use super::{Cause, Event};
use crate::mutant::{self, Mutant};

impl Snapshot {
    /// Waits until nothing is pending and the committer has ended. Requests must have ended before.
    /// The error says why writes that were acknowledged but not flushed are lost with the snapshot.
    pub async fn close(&self) -> Result<(), Cause> {
        let kept = self.health().is_kept();
        self.committer.close();
        let ended = || self.committer.phase.get() == Phase::Ended;
        self.changed.until(|| ended().then_some(())).await;
        self.lost_since(kept)
    }

    /// Waits until every write is recorded, so that the next program that opens the COW finds it.
    /// The error says why it is not recorded: the snapshot is invalid then.
    pub async fn commit_all(&self) -> Result<(), Cause> {
        let kept = self.health().is_kept();
        self.record_journaled().await;
        self.changed.until(|| (self.health() != Health::Invalidating).then_some(())).await;
        self.lost_since(kept)
    }

    /// Whether a valid snapshot has become invalid, and why.
    fn lost_since(&self, kept: bool) -> Result<(), Cause> {
        if !kept || self.health().is_kept() || mutant::is(Mutant::LastCommitIgnored) {
            return Ok(());
        }
        Err(self.cause.borrow().clone().unwrap_or(Cause::Full))
    }

    /// Ends a snapshot whose origin continues to change: its store could not be used afterwards, so
    /// it is marked invalid, or recorded as lost, before this returns.
    pub async fn give_up(&self) {
        self.begin_invalidation(Cause::Left);
        self.changed.until(|| (self.health() != Health::Invalidating).then_some(())).await;
    }

    /// Why its store could become wrong after it has left its origin, if it could.
    pub fn loss_when_left(&self) -> Option<Loss> {
        match self.health() {
            _ if !self.store.is_persistent() => None,
            Health::Valid | Health::Overflowed => Some(Loss::OriginChanged),
            Health::Invalidating | Health::Unmarked => Some(Loss::MarkFailed),
            Health::Invalid => None,
        }
    }

    /// Makes the snapshot's end durable: on the COW or, if that fails, in the record of lost
    /// stores.
    pub(super) async fn mark(&self) -> bool {
        let Err(error) = self.store.invalidate().await else { return true };
        let recorded = if mutant::is(Mutant::LossForgotten) {
            Ok(())
        } else {
            self.losses.record(Loss::MarkFailed)
        };
        let marked = recorded.is_ok();
        // Each origin write retries the mark: its failure is reported once, and its success.
        if marked || !self.told.mark_failed.replace(true) {
            (self.listener)(Event::MarkFailed(error, recorded));
        }
        marked
    }

    /// Retries to make the end of a snapshot durable; returns `false` if that is impossible and the
    /// origin must not change.
    pub(super) async fn mark_again(&self) -> bool {
        self.state.borrow_mut().mark_again();
        self.committer.wanted.wake_all();
        self.changed.until(|| (self.health() != Health::Invalidating).then_some(())).await;
        self.health() != Health::Unmarked
    }

    /// Writes the mark that an earlier server could not write to the COW. If that fails again, the
    /// record of lost stores remains.
    pub(super) async fn mark_inherited_loss(&self) {
        if self.store.is_persistent() && !self.store.is_new() {
            if let Err(error) = self.store.invalidate().await {
                (self.listener)(Event::MarkFailed(error, Ok(())));
            }
        }
    }
}
