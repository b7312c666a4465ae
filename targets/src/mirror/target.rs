//! The `mirror` target: its state, and the queries on it. Requests are in `read`, `write` and
//! `flush`, opening, suspend, resume and close in `lifecycle`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::Event;
use super::bits::{Bits, WithBits};
pub use super::config::{LegParts, LegReport, LogParts, MirrorConfig, RecordError, Recorder};
use super::flushes::Flushes;
use super::leg_claims::Claims;
use super::leg_ios::IdleLegIos;
use super::leg_state::{KnownLeg, Left};
use super::legs::{Failure, Legs};
use super::log::{Letter, Log};
pub use super::open_error::OpenError;
pub(super) use super::parts::{Cleaner, Phase, Recovery, Requests};
use super::regions::{Regions, Wake};
use super::status::DiskLogState;
pub use super::status::{CopyCounts, Progress, Status};
use super::table::InitialSync;
use crate::copy;
use crate::disk::{Disk, DiskError, Host, Limits};
use crate::exec::WaitQueue;
use crate::gate::Closed;
use crate::mutant::{self, Mutant};
use crate::request::{Request, RequestKind, TargetError};
use crate::units::{RegionIndex, RegionSize, Sector, Sectors};

/// How long a region stays dirty after its last write: long enough that repeated writes cost no
/// writes of the log, short enough that few regions need recovery after a crash.
pub const CLEAN_DELAY_MS: u64 = 500;

pub(super) struct State {
    pub(super) regions: Regions,
    pub(super) legs: Legs,
}

/// A mirror.
pub struct Mirror {
    pub(super) host: Rc<dyn Host>,
    pub(super) copy: copy::Client,
    pub(super) disks: RefCell<Vec<LegParts>>,
    pub(super) state: RefCell<State>,
    pub(super) log: Log,
    pub(super) len: Cell<Sectors>,
    pub(super) region_size: RegionSize,
    pub(super) initial_sync: InitialSync,
    pub(super) handle_errors: bool,
    pub(super) listener: Rc<dyn Fn(Event)>,
    pub(super) recorder: Rc<Recorder>,
    /// The most that the record of the legs may claim; `None` if unknown or before the first
    /// record.
    pub(super) recorded: Cell<Option<Claims>>,
    /// The mirror is being left for another table: all that the record claims from then on.
    pub(super) left: Cell<Option<Left>>,
    /// Legs that left this mirror, for the record of the legs.
    pub(super) former: RefCell<Vec<KnownLeg>>,
    /// Every region has been in sync, under this server or an earlier one.
    pub(super) was_in_sync: Cell<bool>,
    /// The identity of the log's disk; [`super::leg_flags::NO_IDENTITY`] for a log in memory.
    pub(super) log_identity: u64,
    /// The log on disk has been written as a whole, and names the legs that are not sources: it is
    /// this mirror's.
    pub(super) log_written: Cell<bool>,
    pub(super) requests: Requests,
    pub(super) recovery: Recovery,
    pub(super) cleaner: Cleaner,
    pub(super) flushes: Flushes,
    pub(super) ios: IdleLegIos,
    /// Tasks that have not ended.
    pub(super) tasks: Cell<usize>,
    /// Woken when an internal operation has ended: writes in a withheld region, a recovery, a batch
    /// of the cleaner, a task.
    pub(super) operation_ended: WaitQueue,
}

impl WithBits for RefCell<State> {
    fn with_bits(&self, work: impl FnOnce(&Bits)) {
        work(self.borrow().regions.clean_bits());
    }
}

impl Mirror {
    /// The mirror's length.
    pub fn len(&self) -> Sectors {
        self.len.get()
    }

    /// The size of a region.
    pub fn region_size(&self) -> Sectors {
        self.region_size.sectors()
    }

    /// The device's logical block size: the largest of its legs.
    pub fn logical_block_bytes(&self) -> u32 {
        let blocks =
            self.disks.borrow().iter().map(|leg| leg.disk.limits().logical_block_bytes).max();
        blocks.unwrap_or(512)
    }

    /// The largest discard: zero unless every leg supports discards.
    pub fn max_discard(&self) -> Sectors {
        self.disks
            .borrow()
            .iter()
            .map(|leg| leg.disk.limits().max_discard)
            .min()
            .unwrap_or_default()
    }

    /// The mirror's limits as a disk of another target.
    pub fn limits(&self) -> Limits {
        let disks = self.disks.borrow();
        let limits = || disks.iter().map(|leg| leg.disk.limits());
        let logical_block_bytes = self.logical_block_bytes();
        let granularity = limits()
            .map(|leg| leg.discard_granularity_bytes)
            .max()
            .unwrap_or(0)
            .max(logical_block_bytes);
        let max_discard = self.max_discard();
        Limits {
            logical_block_bytes,
            physical_block_bytes: limits()
                .map(|leg| leg.physical_block_bytes)
                .max()
                .unwrap_or(logical_block_bytes),
            volatile_cache: limits().any(|leg| leg.volatile_cache),
            read_only: false,
            max_discard,
            discard_granularity_bytes: if max_discard.0 == 0 { 0 } else { granularity },
            max_write_zeroes: Sectors(0),
        }
    }

    /// Numbers and letters for a status line.
    pub fn status(&self) -> Status {
        let State { regions, legs } = &*self.state.borrow();
        let log = self.log.on_disk().then(|| match self.log.health().letter() {
            Some(Letter::Flush) => DiskLogState::FlushFailed,
            Some(Letter::Device) => DiskLogState::Dead,
            None => DiskLogState::Alive,
        });
        Status {
            legs: (0..legs.count()).map(|leg| legs.health(leg)).collect(),
            in_sync_regions: regions.in_sync_count(),
            regions: regions.count(),
            log,
        }
    }

    /// The disk of a leg, if there is such a leg.
    pub fn leg_disk(&self, leg: usize) -> Option<Disk> {
        self.disks.borrow().get(leg).map(|parts| parts.disk.clone())
    }

    /// A report on each leg, in table order.
    pub fn legs(&self) -> Vec<LegReport> {
        let legs = &self.state.borrow().legs;
        let report = |(leg, parts): (usize, &LegParts)| LegReport {
            name: parts.disk.name().clone(),
            offset: parts.offset,
            health: legs.health(leg),
            default: leg == legs.default_leg(),
            source: legs.sources().has(leg),
            flushed: legs.flushed().has(leg),
            stale: legs.stale().has(leg),
            errors: legs.totals(leg),
        };
        self.disks.borrow().iter().enumerate().map(report).collect()
    }

    /// The number of regions.
    pub fn regions(&self) -> u64 {
        self.state.borrow().regions.count()
    }

    /// Regions in sync that are dirty in the log.
    pub fn dirty_regions(&self) -> u64 {
        self.state.borrow().regions.dirty_count()
    }

    /// Writes and flushes that are held.
    pub fn held(&self) -> usize {
        self.requests.held.get()
    }

    /// The progress of recovery, if it is under way.
    pub fn recovery(&self) -> Option<Progress> {
        self.recovery.progress.get()
    }

    /// What recovery has copied since the mirror was opened.
    pub fn copied(&self) -> CopyCounts {
        self.recovery.copied.get()
    }

    /// The share of wall time, in percent, during which recovery may copy.
    pub fn set_throttle(&self, percent: u32) {
        self.copy.set_throttle_percent(percent);
    }

    /// Sets how long regions stay dirty after their last write, instead of [`CLEAN_DELAY_MS`]: the
    /// simulator explores both.
    #[cfg(any(test, feature = "sim"))]
    pub fn set_clean_delay_ms(&self, delay_ms: u64) {
        self.cleaner.delay_ms.set(delay_ms);
        self.cleaner.wanted.wake_all();
    }

    /// Carries out a request. When this returns, no operation of the request is in flight. Requests
    /// that arrive while the mirror is suspended wait until it is resumed or closed.
    pub async fn handle(&self, request: &Request) -> Result<(), TargetError> {
        if !self.requests.gate.is_open() {
            if let Err(Closed) = self.requests.gate.opened().await {
                return Err(TargetError::Requeue);
            }
        }
        self.requests.gate.enter();
        let result = match request.kind {
            RequestKind::Read => self.read(request).await,
            RequestKind::Write { .. } | RequestKind::Discard => self.write(request).await,
            RequestKind::Flush => self.flush(request).await,
        };
        self.requests.gate.leave();
        if request.kind == RequestKind::Read || result.is_err() {
            result
        } else {
            self.acknowledge()
        }
    }

    /// Wakes the tasks in `wake`, after a write or a recovery has ended.
    pub(super) fn wake(&self, wake: Wake) {
        if wake.drained {
            self.operation_ended.wake_all();
        }
        if wake.cleaner {
            self.cleaner.wanted.wake_all();
        }
        if wake.room {
            self.requests.released.wake_all();
        }
    }

    /// How many of the `left` sectors from `sector` on lie before the end of region `last`.
    pub(super) fn until_end_of(&self, last: RegionIndex, sector: Sector, left: Sectors) -> Sectors {
        let end = self.region_size.start_of(RegionIndex(last.0 + 1));
        Sectors(left.0.min(end.0 - sector.0))
    }

    /// The region of a sector.
    pub(super) fn region_of(&self, sector: Sector) -> RegionIndex {
        self.region_size.region_of(sector)
    }

    /// The length of `count` regions from `first` on; the mirror's last region may be short.
    pub(super) fn len_of(&self, first: RegionIndex, count: u64) -> Sectors {
        let start = self.region_size.start_of(first).0;
        Sectors((count * self.region_size.sectors().0).min(self.len.get().0.saturating_sub(start)))
    }

    /// A leg's disk, and the sector on it of a sector of the mirror.
    pub(super) fn place(&self, leg: usize, sector: Sector) -> (Disk, Sector) {
        let disks = self.disks.borrow();
        (disks[leg].disk.clone(), disks[leg].offset.plus(Sectors(sector.0)))
    }

    /// Counts an error of a leg, and notifies the listener of the first of its kind.
    pub(super) fn leg_failed(&self, leg: usize, failure: Failure, error: &DiskError) {
        let first = self.state.borrow_mut().legs.fail(leg, failure);
        if mutant::is(Mutant::ReadErrorIsMiss) {
            self.recorded.set(None);
            self.try_record();
        }
        if first {
            let disk = error.disk.clone();
            (self.listener)(Event::LegFailed { leg, disk, failure, error: error.clone() });
        }
    }

    /// Puts the stale legs into the log's header or, if a flush must come first, has the cleaner do
    /// so.
    pub(super) fn remember_stale(&self) {
        if !self.put_stale() {
            self.cleaner.flags_pending.set(true);
            self.cleaner.wanted.wake_all();
        }
    }

    /// Puts the stale legs into the log's header; `false` if a flush must come first.
    pub(super) fn put_stale(&self) -> bool {
        // A request that depends on the record retries it, and fails without it.
        self.try_record();
        // No task that still runs may take back what the log says once it is left.
        let flags = match self.left.get() {
            Some(_) => Some(self.state.borrow().legs.all()),
            None => self.state.borrow().legs.to_remember(),
        };
        if mutant::is(Mutant::StaleForgotten) {
            return true;
        }
        let Some(flags) = flags else { return false };
        self.log.set_flags(&self.identities(), flags);
        self.cleaner.flags_pending.set(false);
        self.cleaner.flags_lost.set(false);
        true
    }

    /// All legs are up to date and flushed.
    pub(super) fn commit_all(&self) {
        {
            let legs = &mut self.state.borrow_mut().legs;
            let all = legs.all();
            legs.mark_flushed(all);
        }
        self.put_stale();
    }

    /// Whether the stale legs are in the log's header on disk.
    pub(super) fn legs_remembered(&self) -> bool {
        !self.cleaner.flags_pending.get()
            && !self.cleaner.flags_lost.get()
            && self.log.remembers_legs()
    }

    /// Waits until the stale legs are in the log's header on disk; `false` if that is impossible
    /// because no remaining leg is known to have all data durably.
    pub(super) async fn until_legs_remembered(&self) -> bool {
        while !self.legs_remembered() {
            self.operation_ended.until(|| (!self.cleaner.flags_pending.get()).then_some(())).await;
            if self.cleaner.flags_lost.get() {
                return false;
            }
            self.log.until_legs_remembered().await;
        }
        true
    }

    /// The identities of the legs, in table order.
    pub(super) fn identities(&self) -> Vec<u64> {
        self.disks.borrow().iter().map(|leg| leg.identity).collect()
    }

    /// If every region is in sync, notifies the listener and clears the legs' failures.
    pub(super) fn report_in_sync(&self) {
        let news = {
            let State { regions, legs } = &mut *self.state.borrow_mut();
            // The log has the others as stale.
            let unflushed = legs.sources() != legs.all();
            let news = regions.all_in_sync() && legs.all_in_sync();
            if news {
                regions.forget_failed_flush();
                self.cleaner.flags_pending.set(unflushed);
            }
            news
        };
        if news {
            if mutant::is(Mutant::StaleClearedEarly) {
                self.commit_all();
            }
            // The record may claim less than is true.
            self.try_record();
            (self.listener)(Event::InSync);
            self.cleaner.wanted.wake_all();
        }
    }
}
