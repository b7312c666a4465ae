//! The `snapshot` target: its life cycle, and what an origin asks of it. Requests are in `read` and
//! `write` beside this file, those that are one operation in `direct`; the committer is in
//! `commit`.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::Poll;

use super::exceptions::{Exceptions, Health, MAX_PENDING, OriginStep, PendingId};
use super::format::{Record, Usage};
use super::journal::Journal;
use super::losses::LossRecord;
use super::origin_gate::Gate;
pub use super::parts::{OnFull, Options, Parts};
use super::preserved;
use super::ranges::IdleRuns;
use super::state::{Committer, Inherited, Joined, Told, Waiters};
use super::store::Store;
use super::store_error::StoreError;
use super::store_open::OpenStore;
use super::{Cause, Event};
use crate::copy::{self, Job, Part};
use crate::disk::{Disk, DiskError, Host};
use crate::exec::WaitQueue;
use crate::mutant::{self, Mutant};
use crate::units::{Chunk, ChunkSize, CowChunk, Sector, Sectors};

/// Counters since the snapshot was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Chunks copied or written in full to a new COW chunk.
    pub copies: u64,
    /// Bytes read from the origin for them.
    pub copy_bytes: u64,
}

/// A snapshot.
pub struct Snapshot {
    /// Dropped before the disks: while they are open no other process can use the journal.
    pub(super) journal: Option<Rc<dyn Journal>>,
    pub(super) origin: Disk,
    pub(super) cow: Disk,
    pub(super) store: Store,
    pub(super) chunk_size: ChunkSize,
    pub(super) len: Cell<Sectors>,
    pub(super) options: Cell<Options>,
    pub(super) copy: copy::Client,
    pub(super) host: Rc<dyn Host>,
    pub(super) losses: Rc<dyn LossRecord>,
    pub(super) listener: Rc<dyn Fn(Event)>,
    pub(super) state: RefCell<Exceptions>,
    /// Waiters of each pending exception, by slot.
    pub(super) waiting: RefCell<Vec<Waiters>>,
    /// Waiters for anything else: drained reads, the end of invalidation, room for more pending
    /// exceptions.
    pub(super) changed: WaitQueue,
    /// Why it is invalid, or is becoming so.
    pub(super) cause: RefCell<Option<Cause>>,
    pub(super) committer: Committer,
    pub(super) inherited: Inherited,
    pub(super) joined: Joined,
    pub(super) told: Told,
    pub(super) stats: Cell<Stats>,
    /// Lists of created exceptions, kept for the next request.
    pub(super) lists: RefCell<Vec<Vec<PendingId>>>,
    pub(super) idle_runs: IdleRuns,
}

impl Snapshot {
    /// Opens a snapshot without writing anything. [`Snapshot::activate`] makes it usable.
    pub async fn open(parts: Parts<'_>) -> Result<Rc<Snapshot>, StoreError> {
        let (cow, origin) = (parts.cow.name().clone(), parts.origin.name().clone());
        let snapshot = Snapshot::open_to_merge(parts).await?;
        let (store, kept) = (snapshot.store(), snapshot.health().is_kept());
        if kept && store.is_merging() && store.recorded() > 0 {
            let (len, chunk) = (snapshot.len(), snapshot.chunk_size.sectors());
            return Err(StoreError::HalfMerged { cow, origin, len, chunk });
        }
        Ok(snapshot)
    }

    /// The same for a merge, which may have begun earlier.
    pub(super) async fn open_to_merge(parts: Parts<'_>) -> Result<Rc<Snapshot>, StoreError> {
        let open = OpenStore {
            executor: parts.executor,
            host: parts.host,
            origin: parts.origin,
            cow: parts.cow,
            chunk_size: parts.chunk_size,
            persistent: parts.persistent,
            overwrite: parts.overwrite,
            ownership: parts.ownership,
        };
        let (len, size) = (parts.len.unwrap_or(parts.origin.size()), parts.origin.size());
        if len > size && !mutant::is(Mutant::SnapshotBehindOrigin) {
            return Err(StoreError::BehindOrigin {
                origin: parts.origin.name().clone(),
                len,
                size,
            });
        }
        let (store, mut exceptions) = Store::open(open).await?;
        let lost = parts.lost && exceptions.health() == Health::Valid;
        if lost {
            exceptions.invalidate(true);
        }
        let journal = parts.journal.filter(|_| store.is_persistent());
        let inherited = match &journal {
            Some(_) if mutant::is(Mutant::JournalNotTakenOver) => Vec::new(),
            Some(journal) => {
                store.take_over(journal.left(), &mut exceptions, parts.origin, &journal.name())?
            }
            None => Vec::new(),
        };
        Ok(Rc::new(Snapshot {
            origin: parts.origin.clone(),
            cow: parts.cow.clone(),
            chunk_size: store.chunk_size(),
            store,
            len: Cell::new(in_blocks_of_both(len, parts.origin, parts.cow)),
            options: Cell::new(parts.options),
            copy: parts.copy.clone(),
            host: parts.host.clone(),
            journal,
            losses: parts.losses,
            listener: parts.listener,
            state: RefCell::new(exceptions),
            waiting: RefCell::default(),
            changed: WaitQueue::default(),
            cause: RefCell::default(),
            committer: Committer::default(),
            inherited: Inherited { records: RefCell::new(inherited), lost },
            joined: Joined::default(),
            told: Told::default(),
            stats: Cell::default(),
            lists: RefCell::default(),
            idle_runs: IdleRuns::default(),
        }))
    }

    /// The COW device.
    pub fn cow(&self) -> &Disk {
        &self.cow
    }

    /// The names of the COW.
    pub(crate) fn cow_names(&self) -> &[String] {
        self.losses.cow()
    }

    /// Whether it is a snapshot of this open disk.
    pub(crate) fn is_of(&self, disk: &Disk) -> bool {
        self.origin.same(disk)
    }

    /// The chunk size in use.
    pub fn chunk_size(&self) -> ChunkSize {
        self.chunk_size
    }

    /// The device's length.
    pub fn len(&self) -> Sectors {
        self.len.get()
    }

    /// The device's block size: the larger of its disks'.
    pub fn logical_block_bytes(&self) -> u32 {
        self.cow.limits().logical_block_bytes.max(self.origin.limits().logical_block_bytes)
    }

    /// The store.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Whether it can be used.
    pub fn health(&self) -> Health {
        self.state.borrow().health()
    }

    /// Complete exceptions.
    pub fn exceptions(&self) -> usize {
        self.state.borrow().complete()
    }

    /// The status line's numbers. Reads the COW's size again: it may have grown since the last
    /// allocation.
    pub fn usage(&self) -> Usage {
        if !mutant::is(Mutant::GrowthNotSeen) {
            self.cow.refresh_size();
        }
        self.known_usage()
    }

    /// The same, with the last known size of the COW.
    pub(super) fn known_usage(&self) -> Usage {
        self.store.usage(self.state.borrow().journaled())
    }

    /// Another table with the same origin and COW takes the store over as it is, with all that is
    /// in memory: from now on a full COW does this, and the COW has the size that it has now.
    pub fn hand_over(&self, on_full: OnFull) {
        self.options.set(Options { on_full, ..self.options.get() });
        self.cow.refresh_size();
    }

    /// Counters since it was opened.
    pub fn stats(&self) -> Stats {
        self.stats.get()
    }

    /// The chunk of a sector, and how much of a range starting there lies in it.
    pub(super) fn piece(&self, sector: Sector, left: Sectors) -> (Chunk, Sectors) {
        let room = self.chunk_size.sectors().0 - self.chunk_size.offset_of(sector).0;
        (self.chunk_size.chunk_of(sector), Sectors(room.min(left.0)))
    }

    pub(super) fn in_cow(&self, chunk: CowChunk, sector: Sector) -> Sector {
        self.chunk_size.start_of_cow(chunk).plus(self.chunk_size.offset_of(sector))
    }

    /// How much of a chunk the origin has; less than a chunk only at its end. The rest of a COW
    /// block there cannot be reached through the snapshot, whose blocks are no smaller.
    pub(super) fn origin_part(&self, chunk: Chunk) -> Sectors {
        let (start, whole) = (self.chunk_size.start_of(chunk), self.chunk_size.sectors());
        if start.plus(whole).0 <= self.len.get().0 {
            return whole; // as the snapshot is no longer than the origin
        }
        let size = in_blocks_of_both(self.origin.size(), &self.origin, &self.cow);
        Sectors(whole.0.min(size.0.saturating_sub(start.0)))
    }

    pub(super) fn count_copies(&self, chunks: u64, bytes: u64) {
        let mut stats = self.stats.get();
        stats.copies += chunks;
        stats.copy_bytes += bytes;
        self.stats.set(stats);
    }

    /// Reports whether the data of pending exceptions was written, and wakes the committer.
    pub(super) fn copied(
        &self,
        results: impl Iterator<Item = (PendingId, bool)>,
        error: Option<DiskError>,
    ) {
        let mut state = self.state.borrow_mut();
        for (id, ok) in results {
            state.copied(id, ok);
        }
        if let Some(error) = error {
            self.cause.borrow_mut().get_or_insert(Cause::of_copy(error));
        }
        self.committer.wanted.wake_all();
    }

    /// What a write to an origin chunk must do about this snapshot.
    pub(super) fn before_origin_write(&self, chunk: Chunk) -> OriginStep {
        self.state.borrow().before_origin_write(chunk)
    }

    /// Allocates an exception for an origin write and adds its copy to the job. Errors as
    /// [`Snapshot::begin_exception`].
    pub(super) fn begin_copy_out(
        &self,
        chunk: Chunk,
        job: &mut Job,
    ) -> Result<Option<PendingId>, Crowded> {
        let Some((id, at)) = self.begin_exception(chunk)? else { return Ok(None) };
        let (from, count) = (self.chunk_size.start_of(chunk), self.origin_part(chunk));
        job.parts.push(Part { from, count, to: self.cow.clone(), at, failed: false });
        Ok(Some(id))
    }

    /// Allocates an exception for an origin write; returns where its copy goes on the COW. `Err` if
    /// there is no room for more pending exceptions; `Ok(None)` if the COW is full, in which case
    /// invalidation has begun.
    pub(super) fn begin_exception(
        &self,
        chunk: Chunk,
    ) -> Result<Option<(PendingId, Sector)>, Crowded> {
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
        state.wanted_by_origin(id);
        self.count_copies(1, self.origin_part(chunk).bytes());
        Ok(Some((id, self.chunk_size.start_of_cow(new))))
    }

    /// Requests the record of a pending exception, and waits until it is complete or given up.
    pub(super) fn pending_done(&self, id: PendingId) -> impl Future<Output = ()> {
        self.state.borrow_mut().want(id);
        self.committer.wanted.wake_all();
        self.done(id)
    }

    /// The same for an exception whose record has been requested.
    pub(super) fn done(&self, id: PendingId) -> impl Future<Output = ()> {
        self.until(id, move |state| !state.is_pending(id))
    }

    /// Waits until the snapshot shows a pending exception, or it is given up.
    pub(super) fn shown(&self, id: PendingId) -> impl Future<Output = ()> {
        self.until(id, move |state| state.is_shown(id))
    }

    /// Waits for a condition that is checked again when a pending exception changes.
    fn until(
        &self,
        id: PendingId,
        ready: impl Fn(&Exceptions) -> bool,
    ) -> impl Future<Output = ()> {
        std::future::poll_fn(move |cx| {
            if ready(&self.state.borrow()) {
                return Poll::Ready(());
            }
            self.with_waiters(id, |waiters| waiters.add(cx.waker()));
            Poll::Pending
        })
    }

    pub(super) fn with_waiters(&self, id: PendingId, with: impl FnOnce(&Waiters)) {
        let (slot, mut waiting) = (id.slot as usize, self.waiting.borrow_mut());
        if waiting.len() <= slot {
            waiting.resize_with(slot + 1, Waiters::default);
        }
        with(&waiting[slot]);
    }

    /// Waits until there is room for pending exceptions, or the snapshot is no longer kept.
    pub(super) async fn room_for_pending(&self) {
        let room = |state: &Exceptions| state.pending() < MAX_PENDING || !state.health().is_kept();
        self.changed.until(|| room(&self.state.borrow()).then_some(())).await;
    }

    /// Waits until no snapshot read of a chunk is in flight to the origin, or the snapshot is
    /// durably invalid.
    pub(super) async fn origin_write_allowed(&self, chunk: Chunk) {
        let waits = |step| matches!(step, OriginStep::WaitReads | OriginStep::WaitInvalid);
        self.changed.until(|| (!waits(self.before_origin_write(chunk))).then_some(())).await;
    }

    pub(super) fn begin_invalidation(&self, cause: Cause) {
        if self.state.borrow_mut().begin_invalidation() {
            self.preserved().borrow_mut().forget_all();
            self.cause.borrow_mut().get_or_insert(cause);
            self.committer.wanted.wake_all();
        }
    }

    /// Its store is of an earlier moment: it joins its origin only if that has had no more changes
    /// than these by then.
    pub fn must_have_all_since(&self, changes: u64) {
        self.joined.seen_at.set(Some(changes));
    }

    /// Sets the origin's gate while the origin has no other snapshot, and clears it otherwise.
    pub(super) fn set_alone(&self, gate: Option<Rc<Gate>>) {
        self.joined.alone.replace(gate);
    }

    /// Sets the ranges that all snapshots of the origin have, which they share.
    pub(super) fn set_preserved(&self, preserved: preserved::Shared) {
        self.joined.preserved.replace(preserved);
    }

    /// The ranges that all snapshots of the origin have: if a write must wait that would have
    /// passed, its range must be forgotten there.
    pub(super) fn preserved(&self) -> preserved::Shared {
        self.joined.preserved.borrow().clone()
    }
}

/// A length in whole blocks of both disks, which are those of the snapshot's device.
fn in_blocks_of_both(len: Sectors, origin: &Disk, cow: &Disk) -> Sectors {
    let block_bytes = origin.limits().logical_block_bytes.max(cow.limits().logical_block_bytes);
    len.whole_blocks(u64::from(block_bytes))
}

/// Too many exceptions are pending.
pub(super) struct Crowded;
