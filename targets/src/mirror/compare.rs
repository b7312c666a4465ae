//! Comparing the legs of a mirror, and repairing them where they differ.
//!
//! Both go through the mirror region by region, under users' I/O: a region is withheld from writes
//! while it is compared, so a difference is never a write in flight. This is the only place that
//! reads users' data.
//!
//! Repair makes one leg the only source. This is recorded in the log first; then each region that
//! differs is put out of sync, durably, and recovery copies it. So a crash during repair leaves
//! each region unchanged or equal to the named leg.

use std::fmt;
use std::rc::Rc;

use super::config::RecordError;
use super::leg_set::{LegSet, MAX_LEGS};
use super::legs::Failure;
use super::target::{Mirror, Phase};
use crate::disk::{Buffer, Io};
use crate::units::{RegionIndex, SECTOR_BYTES, Sector, Sectors};

/// Bytes of each leg compared at a time.
const PIECE_BYTES: u32 = 128 * 1024;
/// Bytes of a sector, as a length.
const SECTOR_LEN: usize = 512;

/// A range in which the legs differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Difference {
    /// The first sector.
    pub sector: Sector,
    /// The length.
    pub count: Sectors,
    /// The legs that differ from the default leg.
    pub differing: LegSet,
    /// The legs that could not be read.
    pub unreadable: LegSet,
    /// The region is in sync, so the legs should be equal there. If not, it is still to be
    /// recovered.
    pub in_sync: bool,
}

/// Why legs could not be compared or repaired.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CheckError {
    /// No memory for the data.
    NoMemory,
    /// The mirror was suspended or closed.
    Stopped,
    /// The user stopped the operation.
    Unwanted,
    /// There is no such leg.
    NoSuchLeg(usize),
    /// The leg to repair from missed a write, or is not known to have all data: its index and disk.
    NotRight(usize, Rc<str>),
    /// The state of the legs could not be recorded.
    Record(RecordError),
}

impl fmt::Display for CheckError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CheckError::NoMemory => write!(f, "no memory to compare the legs"),
            CheckError::Stopped => write!(f, "the mirror was suspended in the meantime"),
            CheckError::Unwanted => write!(f, "canceled before its end"),
            CheckError::NoSuchLeg(leg) => {
                write!(f, "there is no leg {leg} (legs are counted from 0)")
            }
            CheckError::NotRight(leg, disk) => {
                write!(
                    f,
                    "leg {leg} ({disk}) is not up to date everywhere: it cannot be the source of a \
                     repair"
                )
            }
            CheckError::Record(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for CheckError {}

/// The result of a repair.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Repaired {
    /// Regions that differed.
    pub regions: u64,
    /// Regions that are out of sync at the end.
    pub left: u64,
}

/// Buffers for comparing.
struct Scratch {
    buffers: Vec<Buffer>,
    /// The data of the default leg, and of another leg.
    bytes: [Vec<u8>; 2],
}

impl Mirror {
    /// Calls `on_range` with every range in which the legs differ. Ranges of different regions may
    /// be adjacent. Ends between two regions once `stopped` returns `true`.
    ///
    /// # Errors
    /// It was stopped, the mirror is suspended, or there is no memory.
    pub async fn compare_until(
        &self,
        stopped: impl Fn() -> bool,
        mut on_range: impl FnMut(Difference),
    ) -> Result<(), CheckError> {
        let mut scratch = self.scratch()?;
        for region in (0..self.regions()).map(RegionIndex) {
            if stopped() {
                return Err(CheckError::Unwanted);
            }
            self.withhold(region).await?;
            self.compare_region(region, &mut scratch, &mut on_range).await;
            self.release(region);
        }
        Ok(())
    }

    /// Makes all legs equal to one of them wherever they differ. Ends between two regions once
    /// `stopped` returns `true`; regions put out of sync by then are still recovered.
    ///
    /// # Errors
    /// The leg must be a source leg: no other is up to date in regions out of sync.
    pub async fn repair_until(
        &self,
        source_leg: usize,
        stopped: impl Fn() -> bool,
    ) -> Result<Repaired, CheckError> {
        let mut scratch = self.scratch()?;
        self.may_be_source(source_leg)?;
        let mut repaired = Repaired::default();
        for region in (0..self.regions()).map(RegionIndex) {
            if stopped() {
                self.recovery.work.wake_all();
                return Err(CheckError::Unwanted);
            }
            self.withhold(region).await?;
            let mut differs = false;
            self.compare_region(region, &mut scratch, &mut |difference| {
                differs |= difference.in_sync
            })
            .await;
            let result = if differs { self.desync(region, source_leg).await } else { Ok(()) };
            self.release(region);
            result?;
            repaired.regions += u64::from(differs);
        }
        self.recovery.work.wake_all();
        self.operation_ended.until(|| (stopped() || self.recovery_ended()).then_some(())).await;
        if !self.recovery_ended() {
            return Err(CheckError::Unwanted);
        }
        self.report_in_sync();
        let regions = &self.state.borrow().regions;
        repaired.left = regions.count() - regions.in_sync_count();
        Ok(repaired)
    }

    fn recovery_ended(&self) -> bool {
        let nothing_left =
            self.recovery.paused.get() > 0 || !self.state.borrow().regions.has_recovery();
        self.recovery.running.get() == 0 && nothing_left
    }

    fn may_be_source(&self, leg: usize) -> Result<(), CheckError> {
        let legs = &self.state.borrow().legs;
        if leg >= legs.count() {
            Err(CheckError::NoSuchLeg(leg))
        } else if legs.sources().has(leg) {
            Ok(())
        } else {
            Err(self.not_right(leg))
        }
    }

    fn not_right(&self, leg: usize) -> CheckError {
        CheckError::NotRight(leg, self.disks.borrow()[leg].disk.name().clone())
    }

    /// Puts a withheld region out of sync, durably, with one leg as the only source. The source is
    /// made durable first, or a crash could recover the region from another leg.
    async fn desync(&self, region: RegionIndex, source_leg: usize) -> Result<(), CheckError> {
        // Recovery of another region may have put all regions in sync meanwhile, which makes all
        // legs sources.
        while self.state.borrow().legs.sources() != LegSet::one(source_leg) {
            self.may_be_source(source_leg)?;
            self.state.borrow_mut().legs.trust_only(source_leg);
            self.remember_stale();
            if !self.until_legs_remembered().await {
                return Err(self.not_right(source_leg));
            }
        }
        self.record().map_err(CheckError::Record)?;
        {
            let regions = &mut self.state.borrow_mut().regions;
            if regions.desync(region) {
                self.log.mark(region);
            }
            regions.search_again(region);
        }
        if self.log.on_disk() {
            self.log.until_ended(self.log.collecting()).await;
        }
        Ok(())
    }

    fn scratch(&self) -> Result<Scratch, CheckError> {
        let buffers = 0..self.disks.borrow().len();
        let buffers: Option<Vec<Buffer>> =
            buffers.map(|_| Buffer::acquire(&self.host, PIECE_BYTES)).collect();
        let bytes = [vec![0; PIECE_BYTES as usize], vec![0; PIECE_BYTES as usize]];
        Ok(Scratch { buffers: buffers.ok_or(CheckError::NoMemory)?, bytes })
    }

    /// Withholds a region once no other holder has it, and waits until no write is in flight in it.
    async fn withhold(&self, region: RegionIndex) -> Result<(), CheckError> {
        loop {
            let decided =
                || !matches!(self.requests.phase.get(), Phase::Changing | Phase::Suspending);
            self.requests.gate.until(|| decided().then_some(())).await;
            if self.requests.phase.get() != Phase::Running {
                return Err(CheckError::Stopped);
            }
            if self.state.borrow_mut().regions.withhold(region) {
                break;
            }
            let ours =
                || self.state.borrow().regions.access(region) != super::regions::Access::Withheld;
            self.requests.released.until(|| ours().then_some(())).await;
        }
        self.requests.gate.enter();
        let span = super::regions::Span::one(region);
        self.operation_ended
            .until(|| self.state.borrow().regions.is_drained(span).then_some(()))
            .await;
        Ok(())
    }

    fn release(&self, region: RegionIndex) {
        self.state.borrow_mut().regions.release(region, self.host.now_ms());
        self.requests.released.wake_all();
        self.recovery.work.wake_all();
        self.requests.gate.leave();
    }

    async fn compare_region(
        &self,
        region: RegionIndex,
        scratch: &mut Scratch,
        on_range: &mut impl FnMut(Difference),
    ) {
        let in_sync = self.state.borrow().regions.is_in_sync(region);
        let (start, len) = (self.region_size.start_of(region), self.len_of(region, 1));
        let mut done = Sectors(0);
        let mut open: Option<Difference> = None;
        while done < len {
            let count = Sectors((len.0 - done.0).min(u64::from(PIECE_BYTES) / SECTOR_BYTES));
            let sector = start.plus(done);
            let unreadable = self.read_all_legs(sector, count, scratch).await;
            self.compare_piece(count, unreadable, scratch, |at, differing| {
                let found = Difference {
                    sector: sector.plus(Sectors(at)),
                    count: Sectors(1),
                    differing,
                    unreadable,
                    in_sync,
                };
                extend(&mut open, found, on_range);
            });
            done.0 += count.0;
        }
        if let Some(open) = open {
            on_range(open);
        }
    }

    /// Reads a range of all legs; returns the legs that could not be read.
    async fn read_all_legs(&self, sector: Sector, count: Sectors, scratch: &Scratch) -> LegSet {
        let mut ios: [Option<Io>; MAX_LEGS] = [const { None }; MAX_LEGS];
        for (leg, parts) in self.disks.borrow().iter().enumerate() {
            if let Some(buffer) = scratch.buffers.get(leg) {
                let at = parts.offset.plus(Sectors(sector.0));
                ios[leg] = Some(parts.disk.read(at, count, buffer.at(0)));
            }
        }
        let mut unreadable = LegSet::default();
        for (leg, io) in ios.iter_mut().enumerate() {
            let Some(io) = io.take() else { continue };
            if let Err(error) = io.await {
                self.leg_failed(leg, Failure::Read, &error);
                unreadable.add(leg);
            }
        }
        unreadable
    }

    /// Calls `differs` with every sector, counted from the start of the piece, in which legs differ
    /// from the default leg or are unreadable.
    fn compare_piece(
        &self,
        count: Sectors,
        unreadable: LegSet,
        scratch: &mut Scratch,
        mut differs: impl FnMut(u64, LegSet),
    ) {
        let len = usize::try_from(count.bytes()).unwrap_or(0);
        let (all, default) = {
            let legs = &self.state.borrow().legs;
            (legs.all(), legs.default_leg())
        };
        let readable = all.without(unreadable);
        let reference = if readable.has(default) { Some(default) } else { readable.iter().next() };
        let Scratch { buffers, bytes: [right, other] } = scratch;
        let mut sectors = vec![LegSet::default(); len / SECTOR_LEN];
        if let Some(reference) = reference {
            buffers[reference].read(0, &mut right[..len]);
            for leg in
                readable.without(LegSet::one(reference)).iter().filter(|leg| *leg < buffers.len())
            {
                buffers[leg].read(0, &mut other[..len]);
                let pairs = right[..len].chunks(SECTOR_LEN).zip(other[..len].chunks(SECTOR_LEN));
                for (set, (right, other)) in sectors.iter_mut().zip(pairs) {
                    if right != other {
                        set.add(leg);
                    }
                }
            }
        }
        for (at, set) in (0..).zip(sectors) {
            if !set.is_empty() || !unreadable.is_empty() {
                differs(at, set);
            }
        }
    }
}

/// Adds a sector to the open range, or reports that range and begins another.
fn extend(open: &mut Option<Difference>, found: Difference, on_range: &mut impl FnMut(Difference)) {
    if let Some(range) = open {
        let alike = range.differing == found.differing && range.unreadable == found.unreadable;
        if alike && range.sector.plus(range.count) == found.sector {
            range.count.0 += found.count.0;
            return;
        }
        on_range(*range);
    }
    *open = Some(found);
}
