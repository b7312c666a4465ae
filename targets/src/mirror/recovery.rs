//! Recovery of a mirror: regions that are out of sync are copied from the default leg.
//!
//! [`LANES`] tasks recover concurrently, each its own regions. Small contiguous regions are copied
//! together, up to the copy engine's largest slice, and one by one if that fails. A region is
//! withheld from users' writes from the moment it is chosen until its copy has ended; no other
//! region is.
//!
//! Rules kept here: the source is the default leg, or another source leg if the default leg cannot
//! be read; a region counts as in sync only when every leg has been written; data that could not be
//! read is not written.

use super::leg_set::LegSet;
use super::legs::Failure;
use super::regions::Span;
use super::status::Progress;
use super::target::{Mirror, State};
use crate::copy::{Flags, Part, SLICE_SECTORS};
use crate::disk::DiskError;
use crate::mutant::{self, Mutant};
use crate::units::RegionIndex;

/// Concurrent copies. Each takes at most 4 MiB, so together they take half of the server's memory.
pub const LANES: usize = 8;

/// The result of a copy of regions.
enum Copied {
    Yes,
    /// The source could not be read.
    Unreadable(DiskError),
    /// A leg could not be written.
    Unwritten,
}

impl Mirror {
    /// Recovers regions until the mirror is closed.
    pub(super) async fn recovery_lane(&self) {
        while let Some(span) = self.recovery.work.until(|| self.next_recovery()).await {
            self.operation_ended
                .until(|| self.state.borrow().regions.is_drained(span).then_some(()))
                .await;
            self.recover(span).await;
            self.recovery.running.set(self.recovery.running.get() - 1);
            if self.recovery.running.get() == 0 {
                if self.recovery.paused.get() > 0 || !self.state.borrow().regions.has_recovery() {
                    self.recovery.progress.set(None);
                }
                self.operation_ended.wake_all();
            }
        }
    }

    /// The next regions to recover; `Some(None)` at the mirror's end.
    fn next_recovery(&self) -> Option<Option<Span>> {
        if self.requests.gate.is_closed() {
            return Some(None);
        }
        if self.recovery.paused.get() > 0 || !self.may_copy() {
            return None;
        }
        let most = (SLICE_SECTORS / self.region_size.sectors().0).max(1);
        let (span, lost) = {
            let regions = &mut self.state.borrow_mut().regions;
            let lost = regions.count() - regions.in_sync_count();
            (regions.next_recovery(most)?, lost)
        };
        self.recovery.running.set(self.recovery.running.get() + 1);
        if self.recovery.progress.get().is_none() {
            let progress =
                Progress { done: 0, total: lost, bytes: 0, started_ms: self.host.now_ms() };
            self.recovery.progress.set(Some(progress));
        }
        Some(Some(span))
    }

    /// Recovers withheld regions and releases them.
    async fn recover(&self, span: Span) {
        if matches!(self.copy_regions(span, self.default_leg()).await, Copied::Yes) {
            self.recovered(span, true);
        } else {
            for region in span.numbers() {
                let one = Span::one(RegionIndex(region));
                let copied = self.recover_one(one).await;
                self.recovered(one, copied);
            }
        }
    }

    fn default_leg(&self) -> usize {
        self.state.borrow().legs.default_leg()
    }

    /// Copies one region, trying one source leg after the other until one can be read.
    async fn recover_one(&self, span: Span) -> bool {
        let mut tried = LegSet::default();
        loop {
            let source = self.state.borrow_mut().legs.pick_source(tried);
            let Some(source) = source else { return false };
            match self.copy_regions(span, source).await {
                Copied::Yes => return true,
                Copied::Unwritten => return false,
                Copied::Unreadable(error) => {
                    self.leg_failed(source, Failure::Sync, &error);
                    tried.add(source);
                }
            }
        }
    }

    /// Copies regions from one leg to all legs that may differ from it.
    async fn copy_regions(&self, span: Span, source: usize) -> Copied {
        let (sector, count) =
            (self.region_size.start_of(span.first), self.len_of(span.first, span.count));
        let (mut source, mut targets) = {
            let legs = &self.state.borrow().legs;
            (source, legs.targets_of(source))
        };
        if mutant::is(Mutant::WrongSource) {
            source = targets.iter().next().unwrap_or(source);
            targets = self.state.borrow().legs.all().without(LegSet::one(source));
        }
        let (from, at) = self.place(source, sector);
        let mut job = self.copy.job();
        for leg in targets.iter() {
            let (to, to_at) = self.place(leg, sector);
            job.parts.push(Part { from: at, count, to, at: to_at, failed: false });
        }
        // A failed write to one leg does not stop the writes to the others.
        self.copy.run_parts(&mut job, &from, Flags { independent: true, ..Flags::default() }).await;
        self.count(span.count, count.bytes());
        if let Some(error) = job.read_error.clone() {
            return Copied::Unreadable(error);
        }
        let Some(error) = &job.write_error else { return Copied::Yes };
        if span.count == 1 {
            for (leg, _) in targets.iter().zip(&job.parts).filter(|(_, part)| part.failed) {
                self.leg_failed(leg, Failure::Sync, error);
            }
        }
        Copied::Unwritten
    }

    fn count(&self, regions: u64, bytes: u64) {
        let mut copied = self.recovery.copied.get();
        copied.regions += regions;
        copied.bytes += bytes;
        self.recovery.copied.set(copied);
        if let Some(mut progress) = self.recovery.progress.get() {
            progress.bytes += bytes;
            self.recovery.progress.set(Some(progress));
        }
    }

    fn recovered(&self, span: Span, copied: bool) {
        let now_ms = self.host.now_ms();
        let wake = {
            let State { regions, .. } = &mut *self.state.borrow_mut();
            regions.end_recovery(span, copied, now_ms)
        };
        self.wake(wake);
        self.requests.released.wake_all();
        if let Some(mut progress) = self.recovery.progress.get().filter(|_| copied) {
            progress.done += span.count;
            progress.total = progress.total.max(progress.done);
            self.recovery.progress.set(Some(progress));
        }
        if copied {
            self.report_in_sync();
        }
    }

    /// Restarts recovery of all regions out of sync, including those that could not be recovered
    /// before.
    pub fn recover_again(&self) {
        self.state.borrow_mut().regions.restart();
        self.recovery.work.wake_all();
    }

    /// Pauses recovery until [`Mirror::go_on`], and waits until none is under way.
    pub(super) async fn pause_recovery(&self) {
        self.recovery.paused.set(self.recovery.paused.get() + 1);
        self.operation_ended.until(|| (self.recovery.running.get() == 0).then_some(())).await;
    }

    /// Ends a pause of recovery.
    pub(super) fn go_on(&self) {
        self.recovery.paused.set(self.recovery.paused.get().saturating_sub(1));
        self.recovery.work.wake_all();
    }
}
