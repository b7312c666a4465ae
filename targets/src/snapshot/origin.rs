//! The `snapshot-origin` target: the write path of a disk that has snapshots.
//!
//! Rules kept here: I5 (a write is issued in the same step in which every snapshot said that it may
//! pass, or would say so because all that it writes is `preserved`) and the use of one read for all
//! snapshots that lack a chunk. Reads and flushes go straight through.

use std::cell::RefCell;
use std::rc::Rc;

use super::exceptions::{OriginStep, PendingId};
use super::losses::{Departed, Loss, LossRecord};
use super::origin_gate::Gate;
use super::preserved;
use super::target::{Crowded, Snapshot};
use crate::copy::{self, Flags, Job, JobLease};
use crate::disk::{Disk, Limits};
use crate::mutant::{self, Mutant};
use crate::request::{Request, RequestKind, TargetError, pass_through};
use crate::units::{Chunk, Sectors};

/// One exception that a write created.
type Created = (Rc<Snapshot>, PendingId);

/// A disk and its snapshots.
pub struct Origin {
    disk: Disk,
    copy: copy::Client,
    snapshots: RefCell<Vec<Rc<Snapshot>>>,
    /// What every snapshot has.
    preserved: preserved::Shared,
    gate: Rc<Gate>,
    /// Lists of created exceptions, kept for the next write.
    lists: RefCell<Vec<Vec<Created>>>,
}

/// What stands in the way of a write.
enum Obstacle {
    Pending(Rc<Snapshot>, PendingId),
    /// Snapshot reads of the old chunk, or an invalid mark on its way to the disk.
    NotYet(Rc<Snapshot>, Chunk),
    Crowded(Rc<Snapshot>),
    /// The end of a snapshot that is right no longer is not durable.
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
            lists: RefCell::default(),
        })
    }

    /// The disk.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// What it can do as a disk of another target: what its disk can, but for discards.
    pub fn limits(&self) -> Limits {
        let (max_discard, max_write_zeroes) = (Sectors(0), Sectors(0));
        Limits {
            max_discard,
            discard_granularity_bytes: 0,
            max_write_zeroes,
            ..*self.disk.limits()
        }
    }

    /// Adds a snapshot at a moment when no write is in flight: what was acknowledged before is in
    /// the snapshot, what starts afterwards is not.
    pub async fn join(&self, snapshot: Rc<Snapshot>) {
        self.gate.hold().await;
        snapshot.set_preserved(self.preserved.clone());
        self.gate.departed().forget(snapshot.cow_names());
        self.snapshots.borrow_mut().push(snapshot);
        if self.snapshots.borrow().len() == 1 || !mutant::is(Mutant::JoinKeepsPreserved) {
            let snapshots = self.snapshots.borrow();
            let sizes = snapshots.iter().map(|snapshot| (snapshot.chunk_size(), snapshot.len()));
            self.preserved.borrow_mut().restart(sizes);
        }
        self.tell_who_is_alone();
        self.gate.release();
    }

    /// Takes a snapshot out; writes no longer preserve anything for it. Its store stays right until
    /// the origin's next change, which records first that it is so no longer.
    pub fn leave(&self, snapshot: &Rc<Snapshot>) {
        if let Some(loss) = snapshot.loss_when_left() {
            self.gate.departed().add(snapshot.losses.clone(), loss);
        }
        self.snapshots.borrow_mut().retain(|other| !Rc::ptr_eq(other, snapshot));
        if self.snapshots.borrow().is_empty() {
            self.preserved.borrow_mut().restart([]);
        }
        self.tell_who_is_alone();
    }

    /// The store of a snapshot that has left is gone from its COW: nothing is to be recorded of it.
    pub fn forget_departed(&self, snapshot: &Snapshot) {
        self.gate.departed().forget(snapshot.cow_names());
    }

    /// Snapshots that have left, which its next change makes wrong.
    pub(crate) fn departed(&self) -> &Departed {
        self.gate.departed()
    }

    /// Takes over from an earlier server that a snapshot has left, before anything can change the
    /// origin.
    pub fn restore_departed(&self, record: Rc<dyn LossRecord>, loss: Loss) {
        self.gate.departed().restore(record, loss);
    }

    fn tell_who_is_alone(&self) {
        let snapshots = self.snapshots.borrow();
        let alone = snapshots.len() == 1;
        snapshots.iter().for_each(|snapshot| snapshot.set_alone(alone.then(|| self.gate.clone())));
    }

    /// Carries a request out. When this returns, nothing of the request is in flight any more.
    pub async fn handle(&self, request: &Request) -> Result<(), TargetError> {
        match request.kind {
            RequestKind::Read => Ok(pass_through(&self.disk, request).await?),
            RequestKind::Write { .. } => self.write(request).await,
            RequestKind::Flush => Ok(self.disk.flush().await?),
            // As in the kernel: a discard would have to be copied out like a write, chunk by chunk.
            RequestKind::Discard => Err(TargetError::Unsupported),
        }
    }

    async fn write(&self, request: &Request) -> Result<(), TargetError> {
        self.gate.open().await;
        let nobody_asks = self.snapshots.borrow().is_empty();
        let mut may_pass =
            nobody_asks || self.preserved.borrow().has(request.sector, request.count);
        while !may_pass {
            let mut created = self.lists.borrow_mut().pop().unwrap_or_default();
            let mut job = None;
            let obstacle = self.decide(request, &mut job, &mut created);
            may_pass = obstacle.is_none();
            if may_pass || mutant::is(Mutant::PreservedEarly) {
                self.preserved.borrow_mut().insert(request.sector, request.count);
            }
            if let Some(mut job) = job {
                self.copy_out(&mut job, &created).await;
            }
            created.clear();
            self.lists.borrow_mut().push(created);
            match obstacle {
                Some(Obstacle::Pending(snapshot, id)) => snapshot.pending_done(id).await,
                Some(Obstacle::NotYet(snapshot, chunk)) => {
                    snapshot.origin_write_allowed(chunk).await
                }
                Some(Obstacle::Crowded(snapshot)) => snapshot.room_for_pending().await,
                Some(Obstacle::Unmarked(snapshot)) if snapshot.mark_again().await => {}
                Some(Obstacle::Unmarked(_)) => return Err(TargetError::Unrecorded),
                None => continue,
            }
            self.gate.open().await;
        }
        // No await since the decision: I5.
        self.gate.pass(|| pass_through(&self.disk, request)).await
    }

    /// Asks every snapshot about every chunk of a write. Creates the exceptions that are missing,
    /// with their copies in the job, and gives the last obstacle met; none was met and none created
    /// if every snapshot lets it pass.
    fn decide(
        &self,
        request: &Request,
        job: &mut Option<JobLease>,
        created: &mut Vec<Created>,
    ) -> Option<Obstacle> {
        let mut obstacle = None;
        for snapshot in self.snapshots.borrow().iter() {
            let end = request.sector.plus(request.count).0.min(snapshot.len().0);
            if request.sector.0 >= end {
                continue;
            }
            let size = snapshot.chunk_size();
            let first = size.chunk_of(request.sector).0;
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
                    OriginStep::CopyOut => match self.begin_copy_out(snapshot, chunk, job) {
                        Ok(Some(id)) => {
                            created.push((snapshot.clone(), id));
                            Some(Obstacle::Pending(snapshot.clone(), id))
                        }
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
        snapshot: &Snapshot,
        chunk: Chunk,
        job: &mut Option<JobLease>,
    ) -> Result<Option<PendingId>, Crowded> {
        snapshot.begin_copy_out(chunk, job.get_or_insert_with(|| self.copy.job()))
    }

    /// Copies what the job says, one read for all snapshots, and reports each part to its snapshot.
    async fn copy_out(&self, job: &mut Job, created: &[Created]) {
        let flags = Flags { independent: true, ..Flags::default() };
        self.copy.run_parts(job, &self.disk, flags).await;
        let error = job.read_error.clone().or_else(|| job.write_error.clone());
        for ((snapshot, id), part) in created.iter().zip(&job.parts) {
            let cause = error.clone().filter(|_| part.failed);
            snapshot.copied(std::iter::once((*id, !part.failed)), cause);
        }
    }
}
