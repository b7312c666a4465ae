//! The end of a snapshot: its last commit, what is said when that fails, and leaving an origin that
//! goes on.
//!
//! Rules kept here: I9 (a snapshot that cannot be right any more says so on its COW or is recorded
//! elsewhere; until then its origin does not change), I10 (an end that loses acknowledged writes is
//! an error, never silent).

use super::exceptions::Health;
use super::losses::Loss;
use super::state::Life;
use super::target::Snapshot;
use super::{Cause, Event};
use crate::mutant::{self, Mutant};

impl Snapshot {
    /// Waits until nothing is pending and the committer has ended. Requests must have ended before.
    /// The error says why writes that had been acknowledged, and not flushed, are lost with the
    /// snapshot.
    pub async fn close(&self) -> Result<(), Cause> {
        let kept = self.health().is_kept();
        self.committer.close();
        let ended = || self.committer.life.get() == Life::Ended;
        self.changed.until(|| ended().then_some(())).await;
        self.lost_since(kept)
    }

    /// Waits until everything that was written is recorded, so that whoever opens the COW finds it
    /// there. The error says why it is not: the snapshot is invalid then.
    pub async fn commit_all(&self) -> Result<(), Cause> {
        let kept = self.health().is_kept();
        self.record_noted().await;
        self.changed.until(|| (self.health() != Health::Invalidating).then_some(())).await;
        self.lost_since(kept)
    }

    /// Whether a snapshot that was right is so no longer, and why.
    fn lost_since(&self, kept: bool) -> Result<(), Cause> {
        if !kept || self.health().is_kept() || mutant::is(Mutant::LastCommitIgnored) {
            return Ok(());
        }
        Err(self.cause.borrow().clone().unwrap_or(Cause::Full))
    }

    /// Ends a snapshot whose origin goes on being changed: nobody could use its store afterwards,
    /// so the store is marked invalid, or recorded as lost, before this returns.
    pub async fn give_up(&self) {
        self.begin_invalidation(Cause::Left);
        self.changed.until(|| (self.health() != Health::Invalidating).then_some(())).await;
    }

    /// Why its store could come to be wrong when it has left its origin, if it could.
    pub fn loss_when_left(&self) -> Option<Loss> {
        match self.health() {
            _ if !self.store.is_persistent() => None,
            Health::Valid | Health::Overflowed => Some(Loss::OriginChanged),
            Health::Invalidating | Health::Unmarked => Some(Loss::MarkFailed),
            Health::Invalid => None,
        }
    }

    /// Makes the snapshot's end durable: on the COW, or, where that fails, in the record of lost
    /// stores.
    pub(super) async fn mark(&self) -> bool {
        let Err(error) = self.store.invalidate().await else { return true };
        let recorded = if mutant::is(Mutant::LossForgotten) {
            Ok(())
        } else {
            self.losses.record(Loss::MarkFailed)
        };
        let marked = recorded.is_ok();
        // It is tried again for each write of the origin: that is said once, and when it has
        // worked.
        if marked || !self.told.mark_failed.replace(true) {
            (self.listener)(Event::MarkFailed(error, recorded));
        }
        marked
    }

    /// Tries once more to make the end of a snapshot durable; `false` if that cannot be, and the
    /// origin must not change.
    pub(super) async fn mark_again(&self) -> bool {
        self.state.borrow_mut().mark_again();
        self.committer.wanted.wake_all();
        self.changed.until(|| (self.health() != Health::Invalidating).then_some(())).await;
        self.health() != Health::Unmarked
    }

    /// Writes the mark that an earlier server could not write to the COW. If it still cannot be
    /// written, the record of lost stores goes on saying it.
    pub(super) async fn mark_inherited_loss(&self) {
        if self.store.is_persistent() && !self.store.is_new() {
            if let Err(error) = self.store.invalidate().await {
                (self.listener)(Event::MarkFailed(error, Ok(())));
            }
        }
    }
}
