//! The `snapshot-merge` target: an origin into which one of its snapshots is merged.
//!
//! The device shows the snapshot, from the first moment on. A chunk with a record is on the COW and
//! stays there until it has been copied to the origin, the origin has been flushed, and the record
//! is durably removed; from then on it is on the origin, as are all chunks that never had one. So
//! the COW's records with the origin show the same at every moment, to any program that opens them.
//!
//! The records are removed from the last one backwards (`merge_tail`), many in a batch, by one task
//! (`merge_run`). What a request does meanwhile is decided in `merge_state` and carried out in
//! `merge_request`. A write of a chunk that is on the origin, and each copy, first asks all other
//! snapshots of the origin at that moment, as any write of an origin does. The COW gets no new
//! exceptions.
//!
//! A merge that fails stops; the device remains usable. A held write goes to the COW then. The
//! merge continues on request ([`Merge::restart`]), from the state on disk.
//!
//! Rules kept here: I6; I10 with both disks (a flush flushes both, and each write goes where a
//! reader after a crash finds it); one merge at a time into an origin.

use std::cell::{Cell, RefCell};
use std::num::NonZeroU64;
use std::rc::Rc;

use super::losses::Loss;
use super::merge_claim::MergeClaim;
use super::merge_fault::MergeFault;
use super::merge_pace::Pace;
use super::merge_state::MergeState;
pub use super::merge_tail::Bounds;
use super::merge_tail::{READ_BYTES, Tail};
use super::origin::Origin;
use super::parts::Parts;
use super::status::SnapshotStatus;
use super::store_error::StoreError;
use super::target::Snapshot;
use super::{Cause, Event};
use crate::copy;
use crate::disk::{Buffer, Disk, DiskError, Limits};
use crate::exec::{Executor, WaitQueue};
use crate::mutant::{self, Mutant};
use crate::units::{ChunkSize, Sectors};

/// The phase of a merge.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// There are records left.
    Merging,
    /// It has stopped before its end.
    Failed,
    /// All of the snapshot is on the origin.
    Done,
    /// The store is invalid: nothing is merged, the device is the origin.
    Unusable,
}

/// How much a merge has done and how much is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// Copied to the origin since the target was opened.
    pub merged: Sectors,
    /// Still on the COW.
    pub left: Sectors,
}

/// How a merge runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Speed {
    /// It rests.
    pub paused: bool,
    /// The rate that it must not exceed, in bytes per second.
    pub limit: Option<NonZeroU64>,
    /// Its rate in bytes per second; `None` while it rests, or nothing has been merged yet.
    pub measured: Option<NonZeroU64>,
}

/// An origin with the snapshot that is merged into it.
pub struct Merge {
    /// The store that is merged. It is not one of the origin's snapshots.
    pub(super) snapshot: Rc<Snapshot>,
    pub(super) origin: Rc<Origin>,
    pub(super) copy: copy::Client,
    pub(super) state: RefCell<MergeState>,
    pub(super) tail: RefCell<Tail>,
    /// Receives the metadata that is read.
    pub(super) buffer: Buffer,
    pub(super) phase: Cell<Phase>,
    pub(super) fault: RefCell<Option<MergeFault>>,
    pub(super) pace: RefCell<Pace>,
    pub(super) merged: Cell<Sectors>,
    paused: Cell<bool>,
    suspended: Cell<bool>,
    /// The suspension that waits for a batch is canceled.
    given_up: Cell<bool>,
    pub(super) closing: Cell<bool>,
    /// A batch is being merged.
    pub(super) busy: Cell<bool>,
    pub(super) ended: Cell<bool>,
    /// Waiters for anything: held writes, the task itself, callers that wait for its end.
    pub(super) changed: WaitQueue,
    pub(super) claim: RefCell<Option<MergeClaim>>,
}

impl Merge {
    /// Opens a merge without writing anything. [`Merge::activate`] makes it usable. The copies are
    /// made by the client in `parts`: one of its own, so that its throttle slows nothing else.
    ///
    /// # Errors
    /// The store cannot be opened, or the origin has a merge already.
    pub async fn open(
        parts: Parts<'_>,
        origin: &Rc<Origin>,
        bounds: Bounds,
    ) -> Result<Rc<Merge>, StoreError> {
        if !parts.persistent {
            let why = "a store that is not persistent cannot be merged";
            return Err(StoreError::Merge(parts.cow.name().clone(), why));
        }
        if parts.origin.limits().read_only {
            let why = "read-only; a snapshot can only be merged into a writable disk";
            return Err(StoreError::Merge(parts.origin.name().clone(), why));
        }
        let claim = MergeClaim::to(origin).ok_or_else(|| {
            let why = "another snapshot is being merged into it; wait for the end of that merge";
            StoreError::Merge(parts.origin.name().clone(), why)
        })?;
        let block_bytes = parts.cow.limits().logical_block_bytes;
        let buffer = Buffer::acquire(parts.host, READ_BYTES.max(block_bytes));
        let buffer = buffer.ok_or(StoreError::NoMemory)?;
        let copy = parts.copy.clone();
        let snapshot = Snapshot::open_to_merge(parts).await?;
        Merge::check_store(&snapshot)?;
        let tail = Tail::new(snapshot.store.layout(), block_bytes, bounds, 0);
        let kept = snapshot.health().is_kept();
        Ok(Rc::new(Merge {
            snapshot,
            origin: origin.clone(),
            copy,
            state: RefCell::default(),
            tail: RefCell::new(tail),
            buffer,
            phase: Cell::new(if kept { Phase::Merging } else { Phase::Unusable }),
            fault: RefCell::default(),
            pace: RefCell::default(),
            merged: Cell::new(Sectors(0)),
            paused: Cell::new(false),
            suspended: Cell::new(false),
            given_up: Cell::new(false),
            closing: Cell::new(false),
            busy: Cell::new(false),
            ended: Cell::new(!kept),
            changed: WaitQueue::default(),
            claim: RefCell::new(Some(claim)),
        }))
    }

    /// Writes what the store needs, commits what a server that died has journaled, and starts to
    /// merge.
    ///
    /// # Errors
    /// A disk error, or the origin was changed since the merge was opened. The merge has not begun
    /// then.
    pub async fn activate(self: &Rc<Self>, executor: &Executor) -> Result<(), StoreError> {
        if self.phase.get() == Phase::Unusable {
            return Ok(self.snapshot.activate(executor).await?);
        }
        let outdated = self.claim.borrow().as_ref().is_some_and(MergeClaim::is_outdated);
        if outdated && !mutant::is(Mutant::MergeIntoChanged) {
            let why = "it was written after the merge was opened";
            return Err(StoreError::Merge(self.origin.disk().name().clone(), why));
        }
        if !mutant::is(Mutant::MergeKeepsCache) {
            // The last commit of an earlier merge may have failed and still be in the COW's cache,
            // which has been read. From here on it is what it was read to be.
            self.cow().flush().await?;
        }
        self.snapshot.activate(executor).await?;
        self.tail.borrow_mut().restart(self.snapshot.store.recorded());
        if self.left() > 0 && !mutant::is(Mutant::MergeNotMarked) {
            if let Err(error) = self.snapshot.store.set_merging(true).await {
                // It has begun; the merge has not.
                drop(self.snapshot.close().await);
                return Err(error.into());
            }
        }
        self.claim.borrow().iter().for_each(|claim| claim.set_mixed(self.left() > 0));
        // The merge's own changes of the origin do not make its store invalid.
        self.origin.forget_departed(&self.snapshot);
        let merge = self.clone();
        executor.spawn(async move { merge.merge_loop().await });
        Ok(())
    }

    /// Waits until the merge has stopped, at the end of its batch, and everything has ended.
    /// Requests must have ended before. What remains is valid until the origin's next change.
    ///
    /// # Errors
    /// What is lost with the store.
    pub async fn close(&self) -> Result<(), Cause> {
        self.closing.set(true);
        self.changed.wake_all();
        self.changed.until(|| self.ended.get().then_some(())).await;
        let result = self.snapshot.close().await;
        if self.left() > 0 {
            self.origin.leave(&self.snapshot);
        }
        self.claim.take();
        result
    }

    /// The COW device.
    pub fn cow(&self) -> &Disk {
        &self.snapshot.cow
    }

    /// The origin.
    pub fn origin(&self) -> &Rc<Origin> {
        &self.origin
    }

    /// The chunk size of its store.
    pub fn chunk_size(&self) -> ChunkSize {
        self.snapshot.chunk_size()
    }

    /// Chunks that are still on the COW.
    pub fn exceptions(&self) -> usize {
        self.snapshot.exceptions()
    }

    /// Why its store could become wrong after it has left its origin, if it could.
    pub fn loss_when_left(&self) -> Option<Loss> {
        if self.left() > 0 { self.snapshot.loss_when_left() } else { None }
    }

    /// Whether a part of the snapshot is still on the COW; `None` if its store is invalid.
    pub fn is_left(&self) -> Option<bool> {
        (self.phase() != Phase::Unusable).then(|| self.left() > 0)
    }

    /// Durably marks its store invalid (I9): the origin has changed without it. The merge must not
    /// have been activated.
    ///
    /// # Errors
    /// The mark cannot be written.
    pub async fn invalidate(&self) -> Result<(), DiskError> {
        self.snapshot.store.invalidate().await
    }

    /// The device's length.
    pub fn len(&self) -> Sectors {
        self.snapshot.len()
    }

    /// The device's block size: the larger of its disks'.
    pub fn logical_block_bytes(&self) -> u32 {
        self.snapshot.logical_block_bytes()
    }

    /// Its limits as a disk of another target.
    pub fn limits(&self) -> Limits {
        let (origin, cow) = (self.origin.limits(), self.cow().limits());
        let logical_block_bytes = self.logical_block_bytes();
        let physical = origin.physical_block_bytes.max(cow.physical_block_bytes);
        Limits {
            logical_block_bytes,
            physical_block_bytes: physical.max(logical_block_bytes),
            volatile_cache: origin.volatile_cache || cow.volatile_cache,
            max_discard: Sectors(0),
            discard_granularity_bytes: 0,
            ..origin
        }
    }

    /// The phase of the merge.
    pub fn phase(&self) -> Phase {
        self.phase.get()
    }

    /// Why it has stopped before its end.
    pub fn fault(&self) -> Option<MergeFault> {
        self.fault.borrow().clone().filter(|_| self.phase() == Phase::Failed)
    }

    /// Records that remain.
    pub(super) fn left(&self) -> u64 {
        self.tail.borrow().left()
    }

    /// Blocks of records written so far.
    pub fn commits(&self) -> u64 {
        self.snapshot.store.commits()
    }

    /// How much is done and how much is left.
    pub fn progress(&self) -> Progress {
        let left = self.left() * self.snapshot.chunk_size().sectors().0;
        Progress { merged: self.merged.get(), left: Sectors(left) }
    }

    /// The status line's arguments.
    pub fn status(&self) -> SnapshotStatus {
        SnapshotStatus {
            valid: self.phase() != Phase::Unusable,
            merge_failed: self.phase() == Phase::Failed,
            overflowed: false,
            usage: self.snapshot.usage(),
        }
    }

    /// Stops at the end of the batch that is being merged ([`Merge::idle`]).
    pub fn pause(&self) {
        self.paused.set(true);
    }

    /// Continues after [`Merge::pause`].
    pub fn unpause(&self) {
        self.paused.set(false);
        self.pace.borrow_mut().measure_again();
        self.changed.wake_all();
    }

    /// Continues after a failure, from the state on disk.
    pub fn restart(&self) {
        if self.phase() == Phase::Failed {
            self.phase.set(Phase::Merging);
            self.pace.borrow_mut().measure_again();
            self.changed.wake_all();
        }
    }

    /// Limits the merge to a rate; `None` is as fast as the disks.
    pub fn set_rate(&self, bytes_per_second: Option<NonZeroU64>) {
        self.pace.borrow_mut().set(bytes_per_second);
        self.changed.wake_all();
    }

    /// How it runs.
    pub fn speed(&self) -> Speed {
        let pace = self.pace.borrow();
        let measured = pace.rate(self.snapshot.host.now_ms()).filter(|_| self.may_merge());
        Speed { paused: self.paused.get(), limit: pace.limit(), measured }
    }

    /// Stops for a suspended device: the origin's disk is no longer accessed when this returns and
    /// the requests have ended; or it is given up, because a disk does not answer.
    pub(crate) async fn suspend(&self) {
        self.suspended.set(true);
        self.given_up.set(false);
        self.changed.until(|| (!self.busy.get() || self.given_up.get()).then_some(())).await;
    }

    /// Ends a suspension that waits for a batch.
    pub(crate) fn give_up(&self) {
        self.given_up.set(true);
        self.changed.wake_all();
    }

    /// The device is resumed.
    pub(crate) fn resume(&self) {
        self.suspended.set(false);
        self.changed.wake_all();
    }

    /// Waits until no batch is being merged.
    pub async fn idle(&self) {
        self.changed.until(|| (!self.busy.get()).then_some(())).await;
    }

    /// Whether the next batch may begin, apart from its rate.
    pub(super) fn may_merge(&self) -> bool {
        self.phase() == Phase::Merging && !self.paused.get() && !self.suspended.get()
    }

    /// Notifies the listener.
    pub(super) fn tell(&self, event: Event) {
        (self.snapshot.listener)(event);
    }
}
