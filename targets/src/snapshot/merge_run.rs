//! The task that merges: a batch is copied to the origin, the origin is flushed, and the records
//! are removed, block by block from the last one.
//!
//! Rules kept here:
//!
//! * I8: the origin is flushed after a batch has been copied and before the first of its records is
//!   removed; a flush of the origin that has failed meanwhile may have lost the copies, so the
//!   batch is copied again.
//! * I5 for all other snapshots: they are asked in the step in which the copies start.
//! * Nothing counts as durable before it is: the known state of the store changes after a block has
//!   been written, and after a failed write the disk is read.

use std::future::Future;
use std::pin::pin;

use super::Event;
use super::format::Record;
use super::merge::{Merge, Phase};
use super::merge_fault::MergeFault;
use super::merge_tail::{Batch, Piece};
use crate::copy::{Flags, Part};
use crate::disk::DiskError;
use crate::mutant::{self, Mutant};
use crate::units::{Chunk, Sector, Sectors};

/// The result of a batch.
enum Step {
    /// There may be more.
    Next,
    /// There was nothing left.
    Done,
}

impl Merge {
    /// Merges until it is closed.
    pub(super) async fn merge_loop(&self) {
        while self.turn().await {
            let outcome = self.merge_batch().await;
            self.state.borrow_mut().release();
            self.busy.set(false);
            let event = match outcome {
                Ok(Step::Next) => None,
                Ok(Step::Done) => {
                    self.phase.set(Phase::Done);
                    Some(Event::Merged)
                }
                Err(fault) => {
                    self.phase.set(Phase::Failed);
                    *self.fault.borrow_mut() = Some(fault.clone());
                    Some(Event::MergeFailed(fault))
                }
            };
            self.changed.wake_all();
            if let Some(event) = event {
                self.tell(event);
            }
        }
        self.ended.set(true);
        self.changed.wake_all();
    }

    /// Waits until the next batch may begin; returns `false` at the end.
    async fn turn(&self) -> bool {
        let next = || {
            if self.closing.get() {
                return Some(false);
            }
            let now = self.may_merge() && self.paced_to_ms().is_none();
            self.busy.set(now);
            now.then_some(true)
        };
        let mut turn = pin!(self.changed.until(next));
        std::future::poll_fn(|cx| {
            let poll = turn.as_mut().poll(cx);
            if let Some(time_ms) = self.paced_to_ms().filter(|_| poll.is_pending()) {
                self.snapshot.host.wake_at(time_ms, cx.waker());
            }
            poll
        })
        .await
    }

    /// When the next batch may begin if not now; `None` while none may.
    fn paced_to_ms(&self) -> Option<u64> {
        let waits = self.pace.borrow().waits_until(self.snapshot.host.now_ms());
        waits.filter(|_| self.may_merge())
    }

    async fn merge_batch(&self) -> Result<Step, MergeFault> {
        if self.state.borrow().doubts() > 0 {
            self.ask_disk().await?;
        }
        self.fill_tail().await?;
        let most = self.pace.borrow().batch();
        let Some(batch) = self.tail.borrow().next_batch(most) else {
            self.unmark().await;
            return Ok(Step::Done);
        };
        self.check(&batch)?;
        let ranges: Vec<_> = batch.pieces.iter().map(|piece| self.range(piece)).collect();
        let bytes = ranges.iter().map(|(_, count)| count.bytes()).sum();
        self.pace.borrow_mut().begin(bytes, self.snapshot.host.now_ms());
        if mutant::is(Mutant::MergeAsksEarly) {
            self.origin.may_change(&ranges).await.map_err(MergeFault::Copy)?;
        }
        self.state.borrow_mut().hold(&batch.pieces);
        let written = || self.state.borrow().is_written() && !mutant::is(Mutant::MergeAmongWrites);
        self.changed.until(|| (!written()).then_some(())).await;
        let failed = self.origin.flushes().failed();
        self.copy_batch(&batch, &ranges).await?;
        if mutant::is(Mutant::MergeRemovesFirst) {
            self.remove(batch.records).await?;
            return self.origin.flush_disk().await.map(|()| Step::Next).map_err(MergeFault::Flush);
        }
        // I8: from here on the copies are durable, if no flush beside this one has failed.
        if let Err(error) = self.origin.flush_disk().await {
            self.origin.flushes().keep(error.clone());
            return Err(MergeFault::Flush(error));
        }
        // A flush that began earlier may have failed without having been seen to fail yet.
        self.origin.flushes().begun_have_ended().await;
        let is_lost = self.origin.flushes().failed() != failed;
        if is_lost && !mutant::is(Mutant::MergeTrustsFlush) {
            return Ok(Step::Next);
        }
        self.remove(batch.records).await?;
        self.pace.borrow_mut().end(bytes);
        self.merged.set(Sectors(self.merged.get().0 + Sectors::from_bytes(bytes).0));
        Ok(Step::Next)
    }

    /// All of the snapshot is on the origin. A mark that cannot be taken from the header does no
    /// harm: an empty store is one that can be used for anything.
    async fn unmark(&self) {
        drop(self.snapshot.store.set_merging(false).await);
        self.claim.borrow().iter().for_each(|claim| claim.set_mixed(false));
    }

    /// Where a piece is on the origin; the last chunk ends with the snapshot.
    fn range(&self, piece: &Piece) -> (Sector, Sectors) {
        let size = self.snapshot.chunk_size();
        let (start, last) = (size.start_of(piece.old), Chunk(piece.old.0 + piece.count - 1));
        let end = if mutant::is(Mutant::MergeWritesBehindEnd) {
            size.start_of(last).plus(self.snapshot.origin_part(last))
        } else {
            size.start_of(last).plus(size.sectors()).min(Sector(self.len().0))
        };
        (start, Sectors(end.0 - start.0))
    }

    /// Reads records until there are enough for a batch.
    async fn fill_tail(&self) -> Result<(), MergeFault> {
        loop {
            let Some(stretch) = self.tail.borrow().wanted() else { return Ok(()) };
            let read = self.read_records(stretch.at, stretch.count).await;
            let mut records = read.map_err(MergeFault::Read)?;
            if records.len() < stretch.records {
                return Err(self.has_changed());
            }
            records.truncate(stretch.records);
            self.tail.borrow_mut().prepend(records);
        }
    }

    /// The records of some blocks, up to the terminator.
    async fn read_records(&self, at: Sector, count: Sectors) -> Result<Vec<Record>, DiskError> {
        self.cow().read(at, count, self.buffer.at(0)).await?;
        let mut bytes = vec![0; usize::try_from(count.bytes()).unwrap_or(0)];
        self.buffer.read(0, &mut bytes);
        Ok(bytes.chunks_exact(size_of::<[u64; 2]>()).map_while(Record::decode).collect())
    }

    /// Every record must be one that the store was opened with: a chunk that is copied to the wrong
    /// place destroys the origin.
    fn check(&self, batch: &Batch) -> Result<(), MergeFault> {
        let (tail, state) = (self.tail.borrow(), self.snapshot.state.borrow());
        let known = |record: Record| state.mapped(record.old) == Some(record.new);
        if tail.last(batch.records).all(known) { Ok(()) } else { Err(self.has_changed()) }
    }

    fn has_changed(&self) -> MergeFault {
        MergeFault::Changed { cow: self.cow().name().clone() }
    }

    /// Copies a batch when every other snapshot lets all of it pass in the same step.
    async fn copy_batch(
        &self,
        batch: &Batch,
        ranges: &[(Sector, Sectors)],
    ) -> Result<(), MergeFault> {
        let mut job = self.copy.job();
        let size = self.snapshot.chunk_size();
        for (piece, (at, count)) in batch.pieces.iter().zip(ranges) {
            let (from, to) = (size.start_of_cow(piece.new), self.origin.disk().clone());
            job.parts.push(Part { from, count: *count, to, at: *at, failed: false });
        }
        // A batch goes backwards; a COW is filled forwards, and what is adjacent there is one read.
        job.parts.sort_unstable_by_key(|part| part.from);
        if !mutant::is(Mutant::MergeAsksEarly) {
            self.origin.may_change(ranges).await.map_err(MergeFault::Copy)?;
        }
        let copy = || async move {
            self.copy.run_parts(&mut job, self.cow(), Flags::default()).await;
            job.read_error.take().or_else(|| job.write_error.take()).map_or(Ok(()), Err)
        };
        // No await since the decision: I5.
        self.origin.change(copy).await.map_err(MergeFault::Copy)
    }

    /// Removes the last `count` records, a block at a time from the last one.
    async fn remove(&self, count: usize) -> Result<(), MergeFault> {
        let mut blocks = self.tail.borrow().blocks(count);
        if mutant::is(Mutant::MergeRemovesForward) {
            blocks.reverse();
        }
        for block in blocks {
            let written = self.snapshot.store.rewrite_block(block.at, &block.kept).await;
            if let Err(error) = written {
                if mutant::is(Mutant::MergeTrustsBuffer) {
                    self.retire(block.removed);
                } else {
                    self.state.borrow_mut().doubt(self.tail.borrow().last(block.removed));
                }
                return Err(MergeFault::Commit(error));
            }
            self.retire(block.removed);
        }
        Ok(())
    }

    /// The last `count` records are durably gone: their chunks are on the origin from now on, and
    /// writes of them continue.
    fn retire(&self, count: usize) {
        let (mut tail, mut state) = (self.tail.borrow_mut(), self.state.borrow_mut());
        let mut exceptions = self.snapshot.state.borrow_mut();
        for record in tail.last(count) {
            exceptions.complete.remove(record.old);
            state.is_gone(record.old);
        }
        tail.remove(count);
        self.snapshot.store.removed(count);
        if let Some(journal) = &self.snapshot.journal {
            journal.set_recorded(self.snapshot.store.recorded());
        }
        self.changed.wake_all();
    }

    /// After a failed commit: reads which records are still there, and makes what it finds durable.
    /// Records that may be gone are the last ones of the last block; all others must be there.
    async fn ask_disk(&self) -> Result<(), MergeFault> {
        let (block, doubts) = (self.tail.borrow().last_block(), self.state.borrow().doubts());
        let count = Sectors::from_bytes(u64::from(self.cow().limits().logical_block_bytes));
        let found = self.read_records(block.at, count).await.map_err(MergeFault::Read)?;
        let gone = block.kept.len().saturating_sub(found.len());
        let trusts = mutant::is(Mutant::MergeTrustsShorter);
        if !block.kept.starts_with(&found) || gone > doubts && !trusts {
            return Err(self.has_changed());
        }
        // Also if none is gone: what was read may be what a cache holds.
        let written = self.snapshot.store.rewrite_block(block.at, &found).await;
        written.map_err(MergeFault::Commit)?;
        self.retire(gone);
        self.state.borrow_mut().are_there();
        self.changed.wake_all();
        Ok(())
    }
}
