//! The `snapshot-origin` target: the write path of a disk that has snapshots.
//!
//! Rules kept here: I5 (a write is issued in the same step in which every snapshot let it pass, or
//! would let it pass because all that it writes is `preserved`), and one read serves all snapshots
//! that lack a chunk. Reads and flushes go straight through.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::exceptions::{OriginStep, PendingId};
use super::first::Firsts;
use super::losses::{Departed, Loss, LossRecord};
use super::origin_flush::Flushes;
use super::origin_gate::Gate;
use super::preserved;
use super::target::{Crowded, Snapshot};
use crate::copy::{self, Flags, Job, JobLease};
use crate::disk::{Disk, DiskError, Limits};
use crate::mutant::{self, Mutant};
use crate::request::{Request, RequestKind, TargetError, pass_through};
use crate::units::{Chunk, Sector, Sectors};

/// One exception that a write created.
type Created = (Rc<Snapshot>, PendingId);

/// A disk and its snapshots.
pub struct Origin {
    disk: Disk,
    copy: copy::Client,
    pub(super) snapshots: RefCell<Vec<Rc<Snapshot>>>,
    /// The ranges that every snapshot has.
    pub(super) preserved: preserved::Shared,
    pub(super) gate: Rc<Gate>,
    /// A snapshot is being merged into it.
    pub(super) merging: Cell<bool>,
    /// Some of that snapshot is on the disk and some is not: the disk shows neither.
    pub(super) mixed: Cell<bool>,
    flushes: Flushes,
    /// First writes without a task.
    pub(super) firsts: RefCell<Firsts>,
    /// Lists of created exceptions, kept for the next write.
    lists: RefCell<Vec<Vec<Created>>>,
}

/// The copies that a write has to wait for, each with its exception.
struct Copies {
    job: JobLease,
    created: Vec<Created>,
}

/// What blocks a write.
enum Obstacle {
    Pending(Rc<Snapshot>, PendingId),
    /// Snapshot reads of the old chunk, or an invalid mark in flight to the disk.
    NotYet(Rc<Snapshot>, Chunk),
    Crowded(Rc<Snapshot>),
    /// The end of a snapshot that is no longer valid is not durable.
    Unmarked(Rc<Snapshot>),
}

impl Origin {
    /// An origin without snapshots.
    pub fn new(disk: Disk, copy: copy::Client) -> Rc<Origin> {
        Rc::new(Origin {
            disk,
            copy,
            snapshots: RefCell::default(),
            preserved: preserved::Shared::default(),
            gate: Rc::default(),
            merging: Cell::new(false),
            mixed: Cell::new(false),
            flushes: Flushes::default(),
            firsts: RefCell::default(),
            lists: RefCell::default(),
        })
    }

    /// The disk.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The client that copies its chunks. It is one of its snapshots, too.
    pub fn copy(&self) -> &copy::Client {
        &self.copy
    }

    /// Its limits as a disk of another target: those of its disk, except for discards.
    pub fn limits(&self) -> Limits {
        let (max_discard, max_write_zeroes) = (Sectors(0), Sectors(0));
        Limits {
            max_discard,
            discard_granularity_bytes: 0,
            max_write_zeroes,
            ..*self.disk.limits()
        }
    }

    /// Nothing is preserved by all snapshots any more, which have these chunk sizes and lengths.
    pub(super) fn forget_preserved(&self) {
        let snapshots = self.snapshots.borrow();
        let sizes = snapshots.iter().map(|snapshot| (snapshot.chunk_size(), snapshot.len()));
        self.preserved.borrow_mut().restart(sizes);
    }

    /// The store of a snapshot that has left is gone from its COW: no loss is to be recorded.
    pub fn forget_departed(&self, snapshot: &Snapshot) {
        self.gate.departed().forget(snapshot.cow_names());
    }

    /// Snapshots that have left; the origin's next change makes them wrong.
    pub(crate) fn departed(&self) -> &Departed {
        self.gate.departed()
    }

    /// Takes over a snapshot that left under an earlier server, before anything can change the
    /// origin.
    pub fn restore_departed(&self, record: Rc<dyn LossRecord>, loss: Loss) {
        self.gate.departed().restore(record, loss);
    }

    /// Records the snapshots that have left as lost: the disk is about to show something else (I9).
    pub fn lose_departed(&self) -> Result<(), TargetError> {
        self.gate.departed().record()
    }

    /// Whether the disk has been changed by way of this origin, by whomever: users, a merge, a
    /// discard that a snapshot passes down.
    pub fn is_changed(&self) -> bool {
        self.changes() > 0
    }

    /// How many such changes there were.
    pub fn changes(&self) -> u64 {
        self.gate.changes()
    }

    pub(super) fn tell_who_is_alone(&self) {
        let snapshots = self.snapshots.borrow();
        // While a snapshot is merged into the origin, a discard could hit that snapshot's data.
        let merging = self.merging.get() && !mutant::is(Mutant::MergeDiscardsOrigin);
        let alone = snapshots.len() == 1 && !merging;
        snapshots.iter().for_each(|snapshot| snapshot.set_alone(alone.then(|| self.gate.clone())));
    }

    /// Carries a request out. When this returns, nothing of the request is in flight any more.
    pub async fn handle(&self, request: &Request) -> Result<(), TargetError> {
        match request.kind {
            RequestKind::Read => Ok(pass_through(&self.disk, request).await?),
            RequestKind::Write { fua } => {
                // Nearly all writes pass at once, and need no list of ranges for that.
                if !self.lets_pass(request.sector, request.count) {
                    self.ask(&[(request.sector, request.count)]).await?;
                }
                // No await since the decision: I5.
                self.gate.begin()?;
                let flush =
                    (fua && !mutant::is(Mutant::MergeTrustsFua)).then(|| self.flushes.begin());
                let result = pass_through(&self.disk, request).await;
                self.gate.end();
                if let Some(flush) = flush {
                    self.flushes.end(flush, result.is_err());
                }
                Ok(result?)
            }
            RequestKind::Flush => self.flush().await,
            RequestKind::Discard => self.discard(request).await,
        }
    }

    /// Carries out a discard of a device's user on a disk that can discard, if there is no snapshot
    /// that would need what was there: as in the kernel, it would have to be copied out like a
    /// write, chunk by chunk. (An origin's device does not offer discards; one that had another
    /// table before may.)
    pub(crate) async fn discard(&self, request: &Request) -> Result<(), TargetError> {
        self.gate.open().await;
        let able = self.disk.limits().max_discard.0 > 0 && !self.merging.get();
        let is_needed = !self.snapshots.borrow().is_empty();
        if !able || is_needed && !mutant::is(Mutant::CarriedDiscards) {
            return Err(TargetError::Unsupported);
        }
        // No await since the decision: I5.
        self.gate.pass(|| pass_through(&self.disk, request)).await
    }

    /// Makes what a user has written to the disk durable. Fails also if a flush of a merge has
    /// failed since the last one: it may have lost acknowledged writes. All flushes that run beside
    /// the first one to return this error return it as well.
    async fn flush(&self) -> Result<(), TargetError> {
        let untold = self.flushes.untold();
        self.flush_disk().await?;
        self.flushes.tell(untold)
    }

    /// Makes what was written to the disk durable.
    pub(super) async fn flush_disk(&self) -> Result<(), TargetError> {
        Ok(self.flushes.run(&self.disk).await?)
    }

    /// The flushes of its disk.
    pub(super) fn flushes(&self) -> &Flushes {
        &self.flushes
    }

    /// What may be lost because a flush of a merge has failed and no user has flushed since.
    ///
    /// # Errors
    /// The failed flush.
    pub fn unflushed(&self) -> Result<(), String> {
        let lost = |error| {
            format!(
                "a flush of it has failed during a merge: {error}; writes that were acknowledged \
                 before and not flushed may be lost"
            )
        };
        self.flushes.untold().map_or(Ok(()), |error| Err(lost(error)))
    }

    /// Whether a merge has the origin.
    pub fn has_merge(&self) -> bool {
        self.merging.get()
    }

    /// Why what a new snapshot shows is not what the origin's device shows: the disk is partly what
    /// a merge is about to overwrite. The snapshot keeps that, like any other one.
    pub fn mixture(&self, snapshot: &Snapshot) -> Option<String> {
        let is_new = snapshot.store().is_made_here();
        (is_new && self.mixed.get()).then(|| {
            format!(
                "a snapshot is being merged into {0}: the new one shows what is on that disk now, \
                 of which a part is not merged yet; add it when the merge has ended to have what \
                 the device of {0} shows",
                self.disk.name()
            )
        })
    }

    /// Whether a write passes in this step without a question to any snapshot.
    #[inline]
    pub(super) fn lets_pass(&self, sector: Sector, count: Sectors) -> bool {
        let has_no_snapshots = || self.snapshots.borrow().is_empty();
        self.gate.is_open() && (self.preserved.borrow().has(sector, count) || has_no_snapshots())
    }

    /// Carries out a change that all snapshots let pass in this step.
    pub(super) async fn change<F>(&self, change: impl FnOnce() -> F) -> Result<(), TargetError>
    where
        F: Future<Output = Result<(), DiskError>>,
    {
        self.gate.pass(change).await
    }

    /// Waits until every snapshot lets a change of these ranges pass. It returns in the step in
    /// which they do: the change passes the gate without an await in between (I5).
    pub(super) async fn may_change(&self, ranges: &[(Sector, Sectors)]) -> Result<(), TargetError> {
        self.gate.open().await;
        if ranges.iter().all(|(sector, count)| self.lets_pass(*sector, *count)) {
            return Ok(());
        }
        self.ask(ranges).await
    }

    /// Asks the snapshots until every one lets a change of these ranges pass, and returns in that
    /// step (I5).
    async fn ask(&self, ranges: &[(Sector, Sectors)]) -> Result<(), TargetError> {
        loop {
            if !self.gate.is_open() {
                self.gate.open().await;
            }
            let (mut copies, mut obstacle) = (None, None);
            for (sector, count) in ranges {
                let of_range = self.decide(*sector, *count, &mut copies);
                obstacle = of_range.or(obstacle);
            }
            if obstacle.is_none() || mutant::is(Mutant::PreservedEarly) {
                let mut preserved = self.preserved.borrow_mut();
                ranges.iter().for_each(|(sector, count)| preserved.insert(*sector, *count));
            }
            if let Some(Copies { mut job, created }) = copies {
                // One read for all snapshots.
                let flags = Flags { independent: true, ..Flags::default() };
                self.copy.run_parts(&mut job, &self.disk, flags).await;
                self.report(&job, created);
            }
            match obstacle {
                Some(Obstacle::Pending(snapshot, id)) => snapshot.pending_done(id).await,
                Some(Obstacle::NotYet(snapshot, chunk)) => {
                    snapshot.origin_write_allowed(chunk).await
                }
                Some(Obstacle::Crowded(snapshot)) => snapshot.room_for_pending().await,
                Some(Obstacle::Unmarked(snapshot)) if snapshot.mark_again().await => {}
                Some(Obstacle::Unmarked(_)) => return Err(TargetError::Unrecorded),
                None => return Ok(()),
            }
        }
    }

    /// Asks every snapshot about every chunk of a range. Creates the missing exceptions, with their
    /// copies, and returns the last obstacle met; there is none, and no exception was
    /// created, if every snapshot lets the range pass.
    #[inline(never)] // a future that has all of this keeps little of its state in registers
    fn decide(
        &self,
        sector: Sector,
        count: Sectors,
        copies: &mut Option<Copies>,
    ) -> Option<Obstacle> {
        let mut obstacle = None;
        for snapshot in self.snapshots.borrow().iter() {
            let end = sector.plus(count).0.min(snapshot.len().0);
            if sector.0 >= end {
                continue;
            }
            let size = snapshot.chunk_size();
            let first = size.chunk_of(sector).0;
            let chunks = size.chunks_in(Sectors(end)) - first;
            for chunk in (first..first + chunks).map(Chunk) {
                let step = snapshot.before_origin_write(chunk);
                obstacle = match step {
                    OriginStep::Pass => continue,
                    OriginStep::Wait(id) => Some(Obstacle::Pending(snapshot.clone(), id)),
                    OriginStep::MarkAgain => Some(Obstacle::Unmarked(snapshot.clone())),
                    OriginStep::WaitReads | OriginStep::WaitInvalid => {
                        Some(Obstacle::NotYet(snapshot.clone(), chunk))
                    }
                    OriginStep::CopyOut => match self.begin_copy_out(snapshot, chunk, copies) {
                        Ok(Some(id)) => Some(Obstacle::Pending(snapshot.clone(), id)),
                        Ok(None) => Some(Obstacle::NotYet(snapshot.clone(), chunk)),
                        Err(Crowded) => {
                            obstacle = Some(Obstacle::Crowded(snapshot.clone()));
                            break;
                        }
                    },
                };
            }
        }
        obstacle
    }

    fn begin_copy_out(
        &self,
        snapshot: &Rc<Snapshot>,
        chunk: Chunk,
        copies: &mut Option<Copies>,
    ) -> Result<Option<PendingId>, Crowded> {
        let copies = copies.get_or_insert_with(|| Copies {
            job: self.copy.job(),
            created: self.lists.borrow_mut().pop().unwrap_or_default(),
        });
        let id = snapshot.begin_copy_out(chunk, &mut copies.job)?;
        copies.created.extend(id.map(|id| (snapshot.clone(), id)));
        Ok(id)
    }

    /// Reports each part of a job that has ended to its snapshot.
    fn report(&self, job: &Job, mut created: Vec<Created>) {
        for ((snapshot, id), part) in created.drain(..).zip(&job.parts) {
            let error = || job.read_error.clone().or_else(|| job.write_error.clone());
            let cause = if part.failed { error() } else { None };
            snapshot.copied(std::iter::once((id, !part.failed)), cause);
        }
        self.lists.borrow_mut().push(created);
    }
}
