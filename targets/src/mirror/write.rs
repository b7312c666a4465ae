//! Writes and discards of a mirror.
//!
//! Rules kept here: I6 (every leg's operation is awaited before a request ends), I7 (no leg is
//! written before the log batch with the mark has ended), I10 (a write that only some legs have is
//! acknowledged only after the log names these legs).

use super::Event;
use super::leg_ios::LegIos;
use super::leg_set::LegSet;
use super::legs::{Failure, Verdict};
use super::regions::{Access, Regions, Span};
use super::stretch::{Outcome, Stretch};
use super::target::{LegParts, Mirror, Phase, State};
use crate::disk::{DiskError, Errno, FailedOp, Io, Memory, Op, OpKind};
use crate::mutant::{self, Mutant};
use crate::request::{Request, RequestKind, TargetError, payload};
use crate::units::{RegionIndex, Sector, Sectors};

/// What the next part of a write has to do.
enum Plan {
    Go(Stretch),
    /// Wait until the region is released.
    Withheld(RegionIndex),
    /// Wait until there is room for its regions.
    NoRoom(Span),
}

/// Whether a part of a request has been carried out.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Done {
    Yes,
    /// It was held, and the legs have changed since: retry.
    Again,
}

impl Mirror {
    /// Carries out a write or discard.
    pub(super) async fn write(&self, request: &Request) -> Result<(), TargetError> {
        let most =
            if request.kind == RequestKind::Discard { self.max_discard() } else { request.count };
        if most.0 == 0 {
            return Err(TargetError::Unsupported);
        }
        let mut done = Sectors(0);
        while done < request.count {
            let left = Sectors((request.count.0 - done.0).min(most.0));
            let stretch = match self.plan(request.sector.plus(done), done, left) {
                Plan::Go(stretch) => stretch,
                Plan::Withheld(region) => {
                    self.until_released(region).await;
                    continue;
                }
                Plan::NoRoom(span) => {
                    self.until_room(span).await;
                    continue;
                }
            };
            let mut carried_out = None;
            if !self.is_ready(&stretch) {
                carried_out = self.until_ready(&stretch).await?;
            }
            let carried_out = match carried_out {
                Some(carried_out) => carried_out,
                None => {
                    let (mut ios, mut outcome) = (self.ios.take(), Outcome::default());
                    let targets = self.start_legs(request, &stretch, &mut ios);
                    // Each is awaited where it is: moved out of the list, it would be copied. All
                    // are, also after an error (I6).
                    for (leg, io) in &mut ios {
                        if let Err(error) = io.await {
                            outcome.add(*leg, error);
                        }
                    }
                    self.ios.give_back(ios);
                    // In regions in sync nothing follows a write that all legs have.
                    if stretch.in_sync && outcome.missed().is_empty() {
                        self.end(&stretch);
                        Done::Yes
                    } else {
                        self.end_unlike(request, &stretch, targets, outcome).await?
                    }
                }
            };
            if carried_out == Done::Yes {
                done.0 += stretch.count.0;
            }
        }
        Ok(())
    }

    /// Decides what a write may do from a sector on, up to the first region with a different
    /// access, and begins the write in these regions.
    fn plan(&self, sector: Sector, offset: Sectors, left: Sectors) -> Plan {
        let State { regions, .. } = &mut *self.state.borrow_mut();
        let (first, last) = (self.region_of(sector), self.region_of(Sector(sector.0 + left.0 - 1)));
        let (mark, marked) = (self.log.collecting(), |region| self.log.mark(region));
        let begun = if first == last { regions.begin_one(first, mark, marked) } else { None };
        if let Some((access, batch, entry)) = begun {
            let (span, in_sync, entry) = (Span::one(first), access == Access::InSync, Some(entry));
            return Plan::Go(Stretch { span, sector, offset, count: left, in_sync, batch, entry });
        }
        let most = if mutant::is(Mutant::SpanUnbounded) { u64::MAX } else { Regions::MAX_SPAN };
        let last = RegionIndex(last.0.min(first.0.saturating_add(most - 1)));
        let (access, span) = regions.alike(first, last);
        if access == Access::Withheld {
            return Plan::Withheld(first);
        }
        if !regions.has_room(span) {
            return Plan::NoRoom(span);
        }
        let batch = regions.begin_write(span, mark, marked);
        let count = self.until_end_of(RegionIndex(first.0 + span.count - 1), sector, left);
        let (in_sync, entry) = (access == Access::InSync, None);
        Plan::Go(Stretch { span, sector, offset, count, in_sync, batch, entry })
    }

    async fn until_released(&self, region: RegionIndex) {
        let free = || self.state.borrow().regions.access(region) != Access::Withheld;
        self.requests.released.until(|| free().then_some(())).await;
    }

    async fn until_room(&self, span: Span) {
        self.cleaner.wanted.wake_all();
        self.requests
            .released
            .until(|| self.state.borrow().regions.has_room(span).then_some(()))
            .await;
    }

    /// Whether all legs can be written now, as nearly always: the regions are in sync and marked,
    /// and the log has not failed.
    fn is_ready(&self, stretch: &Stretch) -> bool {
        let log = &self.log;
        stretch.in_sync
            && log.has_ended(stretch.batch)
            && !log.is_behind()
            && !log.health().has_failed()
    }

    /// Waits until the legs can be written; returns whether the stretch has been carried out, if it
    /// has ended without that.
    async fn until_ready(&self, stretch: &Stretch) -> Result<Option<Done>, TargetError> {
        if !self.log.has_ended(stretch.batch) {
            if mutant::is(Mutant::LegBeforeMark) {
                self.log.request();
            } else {
                self.log.until_ended(stretch.batch).await;
            }
        }
        if self.log.is_behind() && !self.handle_errors {
            // Without `handle_errors` a failed log does not prevent the write, but it is retried
            // first.
            self.log.until_ended(self.log.collecting()).await;
        }
        // Also if the region is out of sync: its bit in the log on disk may still be set.
        let log_failed = self.handle_errors && self.log.health().has_failed();
        if log_failed || !stretch.in_sync && self.state.borrow().legs.holds_out_of_sync() {
            self.end(stretch);
            return self.resolve(log_failed, true, None).await.map(Some);
        }
        Ok(None)
    }

    /// Ends a stretch that not all legs have.
    pub(super) async fn end_unlike(
        &self,
        request: &Request,
        stretch: &Stretch,
        targets: LegSet,
        outcome: Outcome,
    ) -> Result<Done, TargetError> {
        if outcome.missed().is_empty() {
            self.end(stretch);
            if !self.until_legs_remembered().await {
                return Err(self.eio(None));
            }
            return Ok(Done::Yes);
        }
        if request.kind == RequestKind::Discard || outcome.failed.is_empty() {
            return Err(self.refused(request, stretch, targets, &outcome));
        }
        if !stretch.in_sync && targets.without(outcome.missed()).is_empty() {
            return Err(self.lost_out_of_sync(stretch, &outcome));
        }
        self.missed(stretch, outcome).await
    }

    /// Starts the writes of a stretch to all legs or, out of sync, to the source legs, which are
    /// returned.
    fn start_legs(&self, request: &Request, stretch: &Stretch, ios: &mut LegIos) -> LegSet {
        let targets = {
            let legs = &self.state.borrow().legs;
            if stretch.in_sync { legs.all() } else { legs.sources() }
        };
        let disks = self.disks.borrow();
        for (leg, parts) in disks.iter().enumerate().filter(|(leg, _)| targets.has(*leg)) {
            ios.push((leg, start(request, stretch, parts)));
        }
        targets
    }

    /// Ends a stretch, after its failures have been recorded in its regions.
    #[inline]
    pub(super) fn end(&self, stretch: &Stretch) {
        // The time is used only for cleaning, which a log in memory does not need.
        let now_ms = if self.log.on_disk() { self.host.now_ms() } else { 0 };
        let wake = {
            let regions = &mut self.state.borrow_mut().regions;
            match stretch.entry {
                Some(entry) => regions.end_one(stretch.span.first, entry, now_ms),
                None => regions.end_write(stretch.span, now_ms),
            }
        };
        self.wake(wake);
    }

    /// Some legs do not support an operation, or a discard failed: no leg counts as failed. If
    /// other legs completed it, the legs differ now, and recovery starts immediately.
    fn refused(
        &self,
        request: &Request,
        stretch: &Stretch,
        targets: LegSet,
        outcome: &Outcome,
    ) -> TargetError {
        let nothing_happened =
            outcome.failed.is_empty() && targets.without(outcome.refused).is_empty();
        if !nothing_happened {
            {
                let State { regions, legs } = &mut *self.state.borrow_mut();
                regions.fail(stretch.span);
                regions.search_again(stretch.span.first);
                legs.diverge();
            }
            if mutant::is(Mutant::DiscardNotRecorded) {
                self.pretend_recorded();
            }
            self.remember_stale();
        }
        self.end(stretch);
        self.recovery.work.wake_all();
        match outcome.first_error() {
            Some(error) if request.kind != RequestKind::Discard => error.into(),
            _ => TargetError::Unsupported,
        }
    }

    /// No source leg completed a write to a region out of sync: the user gets the disk's error
    /// unchanged.
    fn lost_out_of_sync(&self, stretch: &Stretch, outcome: &Outcome) -> TargetError {
        let several = {
            let legs = &mut self.state.borrow_mut().legs;
            let several = legs.sources() != LegSet::one(legs.default_leg());
            if several {
                // The source legs may differ now.
                legs.diverge();
            }
            several
        };
        if several {
            self.remember_stale();
        }
        self.end(stretch);
        outcome.first_error().map_or(TargetError::Unsupported, TargetError::Disk)
    }

    /// Some legs have completed a write and others have not.
    async fn missed(&self, stretch: &Stretch, outcome: Outcome) -> Result<Done, TargetError> {
        self.blame(&outcome);
        let kept = {
            let State { regions, legs } = &mut *self.state.borrow_mut();
            if !mutant::is(Mutant::MissedStaysInSync) {
                regions.fail(stretch.span);
            }
            legs.miss(outcome.missed())
        };
        self.remember_stale();
        self.end(stretch);
        self.resolve(false, kept, outcome.first_error()).await
    }

    pub(super) fn blame(&self, outcome: &Outcome) {
        for (leg, error) in outcome.errors.iter().filter(|(leg, _)| outcome.failed.has(*leg)) {
            self.leg_failed(*leg, Failure::Write, error);
        }
    }

    /// Completes or holds a request that did not reach all legs. `kept`: whether a source leg has
    /// it.
    pub(super) async fn resolve(
        &self,
        log_failed: bool,
        kept: bool,
        error: Option<DiskError>,
    ) -> Result<Done, TargetError> {
        let verdict = self.state.borrow().legs.verdict(log_failed, kept);
        let error = || error.clone().or_else(|| self.log.failure.borrow().clone());
        match verdict {
            Verdict::Fail => Err(self.eio(error())),
            Verdict::Hold => self.hold(error()).await,
            Verdict::Succeed if self.until_legs_remembered().await => Ok(Done::Yes),
            Verdict::Succeed => Err(self.eio(error())),
        }
    }

    /// The error of a request that the mirror as a whole failed: `EIO`, whatever the disk's errno.
    pub(super) fn eio(&self, error: Option<DiskError>) -> TargetError {
        let unknown = || FailedOp {
            kind: OpKind::Write { fua: false },
            disk: self.disks.borrow()[0].disk.name().clone(),
            sector: Sector(0),
            count: Sectors(0),
            errno: Errno::EIO,
        };
        let failed = error.map_or_else(unknown, |error| FailedOp::clone(&error));
        TargetError::Disk(FailedOp { errno: Errno::EIO, ..failed }.into())
    }

    /// Holds a request until the mirror is suspended or its legs are changed.
    async fn hold(&self, error: Option<DiskError>) -> Result<Done, TargetError> {
        let changes = self.requests.changes.get();
        self.requests.held.set(self.requests.held.get() + 1);
        if self.requests.held.get() == 1 {
            (self.listener)(Event::WritesHeld);
        }
        self.requests.gate.leave();
        let ended = || match self.requests.phase.get() {
            Phase::SuspendedNoflush => Some(Err(TargetError::Requeue)),
            Phase::SuspendedFlush => Some(Err(self.eio(error.clone()))),
            Phase::Running if self.requests.changes.get() != changes => Some(Ok(Done::Again)),
            _ => None,
        };
        let result = self.requests.gate.until(ended).await;
        self.requests.held.set(self.requests.held.get() - 1);
        self.requests.gate.enter();
        result
    }
}

/// Starts a stretch of a request on a leg.
fn start(request: &Request, stretch: &Stretch, leg: &LegParts) -> Io {
    let sector = leg.offset.plus(Sectors(stretch.sector.0));
    match request.kind {
        RequestKind::Write { fua } => {
            leg.disk.write(sector, stretch.count, payload(request, stretch.offset), fua)
        }
        _ => {
            let (kind, count, memory) = (OpKind::Discard, stretch.count, Memory::None);
            leg.disk.start(Op { kind, sector, count, memory })
        }
    }
}
