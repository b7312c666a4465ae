//! The `snapshot` target: carries out what [`super::exceptions`] decides.
//!
//! Rules kept here: I1 and I3 with the store (the committer takes what is ready, in order), I6 (everything started is
//! awaited before a request ends), I9 (the committer makes the invalid mark durable before it releases anyone), I10 (a
//! write is acknowledged after its record).

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::exceptions::{Exceptions, Health, OriginStep, PendingId, ReadStep, WriteStep};
use super::format::{Record, Usage};
use super::store::{OpenStore, Store, StoreError};
use super::{Cause, Event, Request, RequestKind, TargetError};
use crate::copy::{self, Flags, Job, Part};
use crate::disk::{Disk, DiskError, Host, Io, Memory, OpKind};
use crate::exec::{Executor, WaitQueue};
use crate::mutant::{self, Mutant};
use crate::units::{Chunk, ChunkSize, CowChunk, SECTOR_BYTES, Sector, Sectors};

/// Records a commit takes at most; the rest is taken by the next one. Bounds how long a waiter sits in one commit.
const RECORDS_PER_COMMIT: usize = 4096;
/// Ranges of one request in flight together; a request that needs more does the rest afterwards.
const RUNS: usize = 16;
/// Exceptions of one snapshot that may be pending. The kernel's limit on copies in flight (2048) serves the same end:
/// memory and the length of commits stay bounded when an origin is written faster than a COW.
pub const MAX_PENDING: usize = 2048;
/// Percentages of COW use that are announced: time to grow it.
const ANNOUNCED: [u8; 4] = [50, 80, 90, 95];

/// What a write to the snapshot does when the COW is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFull {
    /// The snapshot becomes invalid (store type `P`).
    Invalidate,
    /// The snapshot stays readable (store type `PO`).
    Overflow,
}

/// What the user chose.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What a full COW does to snapshot writes.
    pub on_full: OnFull,
    /// Whole-chunk discards write zeroes to the COW chunk; without it discards are not supported.
    pub discard_zeroes_cow: bool,
    /// Discards also go to the origin.
    pub discard_passdown_origin: bool,
}

/// Numbers since the snapshot was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Chunks copied or written in full to a new COW chunk.
    pub copies: u64,
    /// Bytes read from the origin for them.
    pub copy_bytes: u64,
}

/// What is needed to make a snapshot.
pub struct Parts<'a> {
    /// Runs its committer.
    pub executor: &'a Executor,
    /// Lends its buffers.
    pub host: &'a Rc<dyn Host>,
    /// Copies its chunks: the family's client.
    pub copy: &'a copy::Client,
    /// The disk it is a snapshot of.
    pub origin: &'a Disk,
    /// Where it keeps chunks.
    pub cow: &'a Disk,
    /// Chunk size of a new store.
    pub chunk_size: Option<ChunkSize>,
    /// Whether the store outlives the server.
    pub persistent: bool,
    /// Treat a foreign COW as empty.
    pub overwrite: bool,
    /// The content of a transient store is gone: the snapshot is invalid from the start.
    pub lost: bool,
    /// Length of the snapshot device; `None` for the origin's.
    pub len: Option<Sectors>,
    /// What the user chose.
    pub options: Options,
    /// Hears of what an administrator should know.
    pub listener: Rc<dyn Fn(Event)>,
}

/// A snapshot.
pub struct Snapshot {
    origin: Disk,
    cow: Disk,
    store: Store,
    chunk_size: ChunkSize,
    len: Sectors,
    options: Options,
    copy: copy::Client,
    listener: Rc<dyn Fn(Event)>,
    state: RefCell<Exceptions>,
    /// Waiters of each pending exception, by slot.
    waiting: RefCell<Vec<Rc<WaitQueue>>>,
    /// Waiters for anything else: drained reads, the end of invalidation, room for more pending exceptions.
    changed: WaitQueue,
    commit_wanted: WaitQueue,
    cause: RefCell<Option<Cause>>,
    closing: Cell<bool>,
    ended: Cell<bool>,
    /// The origin has no other snapshot.
    alone: Cell<bool>,
    announced: Cell<u8>,
    stats: Cell<Stats>,
    /// Lists of created exceptions, kept for the next request.
    lists: RefCell<Vec<Vec<PendingId>>>,
}

/// A contiguous range of one disk that a request touches.
struct Run {
    disk: Disk,
    at: Sector,
    count: Sectors,
    offset: Sectors,
    /// The range is in COW chunks whose record does not exist yet.
    fresh: bool,
}

/// The ranges of a stretch of a request.
#[derive(Default)]
struct Runs {
    items: [Option<Run>; RUNS],
    len: usize,
}

impl Runs {
    fn full(&self) -> bool {
        self.len == RUNS
    }

    /// Adds a range, joined with the last one if it continues it.
    fn push(&mut self, run: Run) {
        if let Some(last) = self.len.checked_sub(1).and_then(|index| self.items[index].as_mut()) {
            let follows = last.at.plus(last.count) == run.at && last.fresh == run.fresh;
            if follows && last.disk.same(&run.disk) {
                last.count.0 += run.count.0;
                return;
            }
        }
        self.items[self.len] = Some(run);
        self.len += 1;
    }

    /// Starts the operation on every range.
    fn start(&self, mut op: impl FnMut(&Run) -> Io) -> [Option<Io>; RUNS] {
        std::array::from_fn(|index| self.items[index].as_ref().map(&mut op))
    }
}

/// Awaits every operation, also after an error (I6), and gives the first error of the old and of the fresh ranges.
async fn finish(runs: &Runs, ios: &mut [Option<Io>; RUNS]) -> (Option<DiskError>, Option<DiskError>) {
    let (mut old, mut fresh) = (None, None);
    for (index, io) in ios.iter_mut().enumerate() {
        let Some(io) = io.take() else { continue };
        if let Err(error) = io.await {
            let is_fresh = runs.items[index].as_ref().is_some_and(|run| run.fresh);
            if is_fresh { &mut fresh } else { &mut old }.get_or_insert(error);
        }
    }
    (old, fresh)
}

/// How far the decisions for a write got.
enum Stop {
    /// To the end of the request, or to as many ranges as fit.
    Done,
    /// Another request's exception must be there first.
    Wait(PendingId),
    /// Too many exceptions are pending.
    Crowded,
    /// No COW chunk is left.
    Full,
    /// The snapshot is invalid or full already.
    Failed,
}

impl Snapshot {
    /// Opens a snapshot without writing anything. [`Snapshot::activate`] makes it usable.
    pub async fn open(parts: Parts<'_>) -> Result<Rc<Snapshot>, StoreError> {
        let open = OpenStore {
            executor: parts.executor,
            host: parts.host,
            origin: parts.origin,
            cow: parts.cow,
            chunk_size: parts.chunk_size,
            persistent: parts.persistent,
            overwrite: parts.overwrite,
        };
        let (store, mut exceptions) = Store::open(open).await?;
        if parts.lost {
            exceptions.invalidate();
        }
        Ok(Rc::new(Snapshot {
            origin: parts.origin.clone(),
            cow: parts.cow.clone(),
            chunk_size: store.chunk_size(),
            store,
            len: whole_blocks(parts.len.unwrap_or(parts.origin.size()), parts.origin, parts.cow),
            options: parts.options,
            copy: parts.copy.clone(),
            listener: parts.listener,
            state: RefCell::new(exceptions),
            waiting: RefCell::default(),
            changed: WaitQueue::default(),
            commit_wanted: WaitQueue::default(),
            cause: RefCell::default(),
            closing: Cell::new(false),
            ended: Cell::new(false),
            alone: Cell::new(false),
            announced: Cell::new(0),
            stats: Cell::default(),
            lists: RefCell::default(),
        }))
    }

    /// Writes what the store needs and starts the committer, which runs until [`Snapshot::close`].
    pub async fn activate(self: &Rc<Self>, executor: &Executor) -> Result<(), DiskError> {
        self.store.activate().await?;
        let snapshot = self.clone();
        executor.spawn(async move { snapshot.commit_loop().await });
        Ok(())
    }

    /// Waits until nothing is pending and the committer has ended. Requests must have ended before.
    pub async fn close(&self) {
        self.closing.set(true);
        self.commit_wanted.wake_all();
        self.changed.until(|| self.ended.get().then_some(())).await;
    }

    /// The COW device.
    pub fn cow(&self) -> &Disk {
        &self.cow
    }

    /// The chunk size in use.
    pub fn chunk_size(&self) -> ChunkSize {
        self.chunk_size
    }

    /// The device's length.
    pub fn len(&self) -> Sectors {
        self.len
    }

    /// Whether the device has no sectors at all.
    pub fn is_empty(&self) -> bool {
        self.len.0 == 0
    }

    /// The device's block size: the larger of its disks'.
    pub fn logical_block_bytes(&self) -> u32 {
        self.cow.limits().logical_block_bytes.max(self.origin.limits().logical_block_bytes)
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// What the user chose.
    pub fn options(&self) -> Options {
        self.options
    }

    /// Whether it can be used.
    pub fn health(&self) -> Health {
        self.state.borrow().health()
    }

    /// Complete exceptions.
    pub fn exceptions(&self) -> usize {
        self.state.borrow().complete()
    }

    /// The status line's numbers.
    pub fn usage(&self) -> Usage {
        self.store.usage()
    }

    /// Numbers since it was opened.
    pub fn stats(&self) -> Stats {
        self.stats.get()
    }

    /// Carries a request out. When this returns, nothing of the request is in flight any more.
    pub async fn handle(&self, request: &Request) -> Result<(), TargetError> {
        match request.kind {
            RequestKind::Read => self.read(request).await,
            RequestKind::Write { fua } => self.write(request, fua).await,
            // Everything that was written through the snapshot is in the COW.
            RequestKind::Flush => Ok(self.cow.flush().await?),
            RequestKind::Discard => self.discard(request).await,
        }
    }

    async fn read(&self, request: &Request) -> Result<(), TargetError> {
        let mut done = Sectors(0);
        while done < request.count {
            let (mut runs, from) = (Runs::default(), done);
            let tracked = self.map_read(request, &mut done, &mut runs)?;
            let mut ios = runs.start(|run| run.disk.read(run.at, run.count, payload(request, run.offset)));
            let (error, _) = finish(&runs, &mut ios).await;
            if let Some(key) = tracked {
                self.state.borrow_mut().untrack_read(key);
                self.changed.wake_all();
            }
            if let Some(error) = error {
                return Err(error.into());
            }
            // Origin writes do not wait for the reads of an invalid snapshot (I4), so this one may have been overtaken.
            if tracked.is_some() && !self.health().is_kept() {
                return Err(TargetError::Invalid);
            }
            debug_assert!(done > from);
        }
        Ok(())
    }

    /// Decides where the next ranges of a read are; the key says that some are on the origin and must be untracked.
    fn map_read(&self, request: &Request, done: &mut Sectors, runs: &mut Runs) -> Result<Option<u32>, TargetError> {
        let mut state = self.state.borrow_mut();
        let first = self.chunk_size.chunk_of(request.sector.plus(*done));
        let mut last_on_origin = None;
        while *done < request.count && !runs.full() {
            let sector = request.sector.plus(*done);
            let (chunk, count) = self.piece(sector, Sectors(request.count.0 - done.0));
            let (disk, at) = match state.before_snapshot_read(chunk) {
                ReadStep::Fail => return Err(TargetError::Invalid),
                ReadStep::Cow(new) => (&self.cow, self.in_cow(new, sector)),
                ReadStep::Origin => {
                    last_on_origin = Some(chunk);
                    (&self.origin, sector)
                }
            };
            runs.push(Run { disk: disk.clone(), at, count, offset: *done, fresh: false });
            done.0 += count.0;
        }
        Ok(last_on_origin.map(|last| state.track_read(first, last)))
    }

    /// The chunk of a sector, and how much of a range starting there lies in it.
    fn piece(&self, sector: Sector, left: Sectors) -> (Chunk, Sectors) {
        let room = self.chunk_size.sectors().0 - self.chunk_size.offset_of(sector).0;
        (self.chunk_size.chunk_of(sector), Sectors(room.min(left.0)))
    }

    fn in_cow(&self, chunk: CowChunk, sector: Sector) -> Sector {
        self.chunk_size.start_of_cow(chunk).plus(self.chunk_size.offset_of(sector))
    }

    async fn write(&self, request: &Request, fua: bool) -> Result<(), TargetError> {
        let mut done = Sectors(0);
        while done < request.count {
            let mut runs = Runs::default();
            let mut job = self.copy.job();
            let mut created = self.lists.borrow_mut().pop().unwrap_or_default();
            let stop = self.map_write(request, &mut done, &mut runs, &mut job, &mut created);
            let result = self.write_stretch(request, fua, &runs, &mut job, &created).await;
            created.clear();
            self.lists.borrow_mut().push(created);
            result?;
            match stop {
                Stop::Done => {}
                Stop::Wait(id) => self.pending_done(id).await,
                Stop::Crowded => self.room_for_pending().await,
                Stop::Failed => return Err(self.why_failed()),
                Stop::Full => {
                    self.cow_is_full_for_writer().await;
                    return Err(TargetError::Full);
                }
            }
        }
        Ok(())
    }

    /// Decides what the next ranges of a write need: existing COW chunks, or new ones with the rest of their chunk
    /// copied beside.
    fn map_write(
        &self,
        request: &Request,
        done: &mut Sectors,
        runs: &mut Runs,
        job: &mut Job,
        created: &mut Vec<PendingId>,
    ) -> Stop {
        let mut state = self.state.borrow_mut();
        while *done < request.count && !runs.full() {
            let sector = request.sector.plus(*done);
            let (chunk, count) = self.piece(sector, Sectors(request.count.0 - done.0));
            let (new, fresh) = match state.before_snapshot_write(chunk) {
                WriteStep::Fail => return Stop::Failed,
                WriteStep::Wait(id) => return Stop::Wait(id),
                WriteStep::Redirect(new) => (new, false),
                WriteStep::Create => {
                    if state.pending() >= MAX_PENDING {
                        return Stop::Crowded;
                    }
                    let Some(new) = self.store.allocate() else { return Stop::Full };
                    created.push(state.begin(Record { old: chunk, new }));
                    self.copy_around(chunk, new, sector, count, job);
                    (new, true)
                }
            };
            let at = self.in_cow(new, sector);
            runs.push(Run { disk: self.cow.clone(), at, count, offset: *done, fresh });
            done.0 += count.0;
        }
        Stop::Done
    }

    /// Adds to a job what a write of `count` at `sector` leaves alone of its chunk.
    fn copy_around(&self, chunk: Chunk, new: CowChunk, sector: Sector, count: Sectors, job: &mut Job) {
        if mutant::is(Mutant::PartialNotCopied) {
            return;
        }
        let (start, end) = (self.chunk_size.start_of(chunk), sector.plus(count));
        let chunk_end = start.plus(self.origin_part(chunk));
        for (from, to) in [(start, sector), (end, chunk_end)] {
            if from < to {
                let (count, at) = (Sectors(to.0 - from.0), self.in_cow(new, from));
                job.parts.push(Part { from, count, to: self.cow.clone(), at, failed: false });
            }
        }
    }

    /// How much of a chunk the origin has; less than a chunk only at its end. What is left there of a block of the COW
    /// cannot be reached through the snapshot, whose blocks are no smaller.
    fn origin_part(&self, chunk: Chunk) -> Sectors {
        let start = self.chunk_size.start_of(chunk);
        let size = whole_blocks(self.origin.size(), &self.origin, &self.cow);
        Sectors(self.chunk_size.sectors().0.min(size.0.saturating_sub(start.0)))
    }

    async fn write_stretch(
        &self,
        request: &Request,
        fua: bool,
        runs: &Runs,
        job: &mut Job,
        created: &[PendingId],
    ) -> Result<(), TargetError> {
        // The flush before the record covers fresh data; only data in chunks that exist needs FUA of its own.
        let mut ios =
            runs.start(|run| run.disk.write(run.at, run.count, payload(request, run.offset), fua && !run.fresh));
        if !job.parts.is_empty() {
            self.copy.run_parts(job, &self.origin, Flags::default()).await;
        }
        let (error, fresh_error) = finish(runs, &mut ios).await;
        let copy_error = job.read_error.clone().or_else(|| job.write_error.clone()).or(fresh_error);
        if !created.is_empty() {
            self.count_copies(created.len() as u64, job.parts.iter().map(|part| part.count.bytes()).sum());
            let ok = copy_error.is_none();
            self.copied(created.iter().map(|id| (*id, ok)), copy_error);
            for id in created {
                if !mutant::is(Mutant::AckBeforeRecord) {
                    self.pending_done(*id).await;
                }
            }
            if self.health() == Health::Invalid {
                return Err(TargetError::Invalid);
            }
        }
        error.map_or(Ok(()), |error| Err(error.into()))
    }

    fn count_copies(&self, chunks: u64, bytes: u64) {
        let mut stats = self.stats.get();
        stats.copies += chunks;
        stats.copy_bytes += bytes;
        self.stats.set(stats);
    }

    /// Reports the data of pending exceptions as written or not, and wakes the committer.
    pub(super) fn copied(&self, results: impl Iterator<Item = (PendingId, bool)>, error: Option<DiskError>) {
        let mut state = self.state.borrow_mut();
        for (id, ok) in results {
            state.copied(id, ok);
        }
        if let Some(error) = error {
            self.cause.borrow_mut().get_or_insert(Cause::Copy(error));
        }
        self.commit_wanted.wake_all();
    }

    /// What a write to an origin chunk must do about this snapshot.
    pub(super) fn before_origin_write(&self, chunk: Chunk) -> OriginStep {
        self.state.borrow().before_origin_write(chunk)
    }

    /// Allocates an exception for an origin write and adds its copy to the job. `Err` if there is no room for more pending
    /// ones; `Ok(None)` if the COW is full, in which case invalidation has begun.
    pub(super) fn begin_copy_out(&self, chunk: Chunk, job: &mut Job) -> Result<Option<PendingId>, Crowded> {
        let mut state = self.state.borrow_mut();
        if state.pending() >= MAX_PENDING {
            return Err(Crowded);
        }
        let Some(new) = self.store.allocate() else {
            drop(state);
            self.begin_invalidation(Cause::Full);
            return Ok(None);
        };
        let id = state.begin(Record { old: chunk, new });
        let (from, count) = (self.chunk_size.start_of(chunk), self.origin_part(chunk));
        let at = self.chunk_size.start_of_cow(new);
        job.parts.push(Part { from, count, to: self.cow.clone(), at, failed: false });
        self.count_copies(1, count.bytes());
        Ok(Some(id))
    }

    /// Waits until a pending exception is complete or given up.
    pub(super) async fn pending_done(&self, id: PendingId) {
        let slot = id.slot as usize;
        let queue = {
            let mut waiting = self.waiting.borrow_mut();
            while waiting.len() <= slot {
                waiting.push(Rc::default());
            }
            waiting[slot].clone()
        };
        queue.until(|| (!self.state.borrow().is_pending(id)).then_some(())).await;
    }

    /// Waits until there is room for pending exceptions, or the snapshot is no longer kept.
    pub(super) async fn room_for_pending(&self) {
        let room = |state: &Exceptions| state.pending() < MAX_PENDING || !state.health().is_kept();
        self.changed.until(|| room(&self.state.borrow()).then_some(())).await;
    }

    /// Waits until no snapshot read is on its way to a chunk of the origin, or the snapshot is durably invalid.
    pub(super) async fn origin_write_allowed(&self, chunk: Chunk) {
        let waits = |step| matches!(step, OriginStep::WaitReads | OriginStep::WaitInvalid);
        self.changed.until(|| (!waits(self.before_origin_write(chunk))).then_some(())).await;
    }

    fn why_failed(&self) -> TargetError {
        if self.health() == Health::Overflowed { TargetError::Full } else { TargetError::Invalid }
    }

    async fn cow_is_full_for_writer(&self) {
        if self.options.on_full == OnFull::Overflow {
            let first = self.health() == Health::Valid;
            self.state.borrow_mut().overflow();
            if first {
                (self.listener)(Event::Overflowed);
            }
            return;
        }
        self.begin_invalidation(Cause::Full);
        self.changed.until(|| (self.health() == Health::Invalid).then_some(())).await;
    }

    fn begin_invalidation(&self, cause: Cause) {
        if self.state.borrow_mut().begin_invalidation() {
            self.cause.borrow_mut().get_or_insert(cause);
            self.commit_wanted.wake_all();
        }
    }

    async fn discard(&self, request: &Request) -> Result<(), TargetError> {
        if !self.options.discard_zeroes_cow {
            return Err(TargetError::Unsupported);
        }
        let mut done = Sectors(0);
        while done < request.count {
            let sector = request.sector.plus(done);
            let (chunk, count) = self.piece(sector, Sectors(request.count.0 - done.0));
            let step = self.state.borrow().before_snapshot_read(chunk);
            match step {
                ReadStep::Fail => return Err(TargetError::Invalid),
                // The snapshot goes on showing the origin: a discarded range may have any content.
                ReadStep::Origin => {}
                ReadStep::Cow(new) if count == self.chunk_size.sectors() => {
                    let region =
                        crate::io::IoRegion { disk: self.cow.clone(), sector: self.in_cow(new, sector), count };
                    let outcome = self.copy.zero(&[region], Flags::default()).await;
                    if let Some(error) = outcome.first_error {
                        return Err(error.into());
                    }
                }
                // Part of a chunk: nothing has to happen.
                ReadStep::Cow(_) => {}
            }
            done.0 += count.0;
        }
        self.pass_discard_down(request).await
    }

    /// Discards the origin's range as well. The kernel does so under all other snapshots of the origin, which then show
    /// undefined data; here a discard stays in this snapshot as long as there are others.
    async fn pass_discard_down(&self, request: &Request) -> Result<(), TargetError> {
        let limits = self.origin.limits();
        let able = limits.max_discard >= request.count && !limits.read_only;
        if !self.options.discard_passdown_origin || !self.alone.get() || !able {
            return Ok(());
        }
        let last = Sector(request.sector.0 + request.count.0.saturating_sub(1));
        let (first, last) = (self.chunk_size.chunk_of(request.sector), self.chunk_size.chunk_of(last));
        let key = self.state.borrow_mut().track_read(first, last);
        let result = pass_through(&self.origin, request).await;
        self.state.borrow_mut().untrack_read(key);
        self.changed.wake_all();
        Ok(result?)
    }

    /// Says whether the origin has no other snapshot.
    pub(super) fn set_alone(&self, alone: bool) {
        self.alone.set(alone);
    }

    /// Makes exceptions durable as they become ready, and the invalid mark when it is wanted.
    async fn commit_loop(&self) {
        let mut records = Vec::with_capacity(RECORDS_PER_COMMIT);
        loop {
            match self.commit_wanted.until(|| self.next_work(&mut records)).await {
                Work::Commit => match self.store.commit(&records).await {
                    Ok(()) => self.publish(records.len()),
                    Err(error) => self.begin_invalidation(Cause::Commit(error)),
                },
                Work::Invalidate => self.invalidate().await,
                Work::End => break,
            }
        }
        self.ended.set(true);
        self.changed.wake_all();
    }

    fn next_work(&self, records: &mut Vec<Record>) -> Option<Work> {
        let mut state = self.state.borrow_mut();
        if state.health().is_kept() && state.ready(RECORDS_PER_COMMIT, records).is_err() {
            state.begin_invalidation();
        }
        match state.health() {
            Health::Invalidating => return Some(Work::Invalidate),
            Health::Valid | Health::Overflowed if !records.is_empty() => return Some(Work::Commit),
            _ => {}
        }
        (self.closing.get() && state.pending() == 0).then_some(Work::End)
    }

    fn publish(&self, count: usize) {
        for _ in 0..count {
            let slot = self.state.borrow_mut().publish();
            let waiting = self.waiting.borrow();
            if let Some(queue) = slot.and_then(|slot| waiting.get(slot as usize)) {
                queue.wake_all();
            }
        }
        self.changed.wake_all();
        let usage = self.store.usage();
        let percent = usage.allocated.0 * 100 / usage.total.0.max(1);
        if let Some(level) = ANNOUNCED.iter().rev().find(|level| percent >= u64::from(**level)) {
            if *level > self.announced.replace((*level).max(self.announced.get())) {
                (self.listener)(Event::Filling(*level));
            }
        }
    }

    async fn invalidate(&self) {
        if let Err(error) = self.store.invalidate().await {
            (self.listener)(Event::MarkFailed(error));
        }
        self.state.borrow_mut().invalidate();
        for queue in self.waiting.borrow().iter() {
            queue.wake_all();
        }
        self.changed.wake_all();
        let cause = self.cause.borrow_mut().take().unwrap_or(Cause::Full);
        (self.listener)(Event::Invalidated(cause));
    }
}

enum Work {
    Commit,
    Invalidate,
    End,
}

/// A length in whole blocks of both disks, which are those of the snapshot's device.
fn whole_blocks(len: Sectors, origin: &Disk, cow: &Disk) -> Sectors {
    let block_bytes = origin.limits().logical_block_bytes.max(cow.limits().logical_block_bytes);
    let block = u64::from(block_bytes) / SECTOR_BYTES;
    Sectors(len.0 / block * block)
}

/// Too many exceptions are pending.
pub(super) struct Crowded;

fn payload(request: &Request, offset: Sectors) -> Memory {
    // A request is shorter than 4 GiB: its length arrives as a 32-bit sector count below the transport's buffer size.
    let offset_bytes = u32::try_from(offset.0 * SECTOR_BYTES).unwrap_or(u32::MAX);
    Memory::Payload { id: request.payload, offset_bytes }
}

/// The operation of a request that passes through a target unchanged.
pub(super) fn pass_through(disk: &Disk, request: &Request) -> Io {
    let memory = payload(request, Sectors(0));
    match request.kind {
        RequestKind::Write { fua } => disk.write(request.sector, request.count, memory, fua),
        RequestKind::Discard => disk.start(crate::disk::Op {
            kind: OpKind::Discard,
            sector: request.sector,
            count: request.count,
            memory: Memory::None,
        }),
        RequestKind::Read | RequestKind::Flush => disk.read(request.sector, request.count, memory),
    }
}
