//! Writes to a snapshot.
//!
//! Rules kept here: I6 (every started operation is awaited before a request ends), I10 (a write is
//! acknowledged after its record is journaled; with FUA, or if journaling is impossible, after it
//! is durable).

use super::Cause;
use super::exceptions::{Health, MAX_PENDING, PendingId, WriteStep};
use super::format::Record;
use super::ranges::Runs;
use super::target::{OnFull, Snapshot};
use crate::copy::{Flags, JobLease, Part};
use crate::disk::DiskError;
use crate::mutant::{self, Mutant};
use crate::request::{Request, TargetError, payload};
use crate::units::{Chunk, CowChunk, Sector, Sectors};

/// Where the decisions for a write stopped.
enum Stop {
    /// At the end of the request, or at as many ranges as fit.
    Done,
    /// Another request's exception must be visible first.
    Wait(PendingId),
    /// Too many exceptions are pending.
    Crowded,
    /// No COW chunk is left.
    Full,
    /// The snapshot is invalid or full already.
    Failed,
}

impl Snapshot {
    pub(super) async fn write(&self, request: &Request, fua: bool) -> Result<(), TargetError> {
        let mut done = Sectors(0);
        while done < request.count {
            let (mut runs, mut around) = (self.idle_runs.take(), None);
            let mut created = self.lists.borrow_mut().pop().unwrap_or_default();
            let stop = self.map_write(request, &mut done, &mut runs, &mut around, &mut created);
            let result = self.write_stretch(request, fua, &mut runs, around, &created).await;
            created.clear();
            self.lists.borrow_mut().push(created);
            self.idle_runs.give_back(runs);
            result?;
            self.still_takes(request, done)?;
            match stop {
                Stop::Done => {}
                Stop::Wait(id) => self.shown(id).await,
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

    /// Decides what the next ranges of a write need: existing COW chunks, or new ones with the rest
    /// of their chunk copied beside.
    fn map_write(
        &self,
        request: &Request,
        done: &mut Sectors,
        runs: &mut Runs,
        around: &mut Option<JobLease>,
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
                    self.copy_around(chunk, new, sector, count, around);
                    (new, true)
                }
            };
            let at = self.in_cow(new, sector);
            runs.push(&self.cow, at, count, *done, fresh);
            done.0 += count.0;
        }
        Stop::Done
    }

    /// Adds to a job the parts of a chunk that a write of `count` at `sector` does not cover.
    fn copy_around(
        &self,
        chunk: Chunk,
        new: CowChunk,
        sector: Sector,
        count: Sectors,
        around: &mut Option<JobLease>,
    ) {
        if mutant::is(Mutant::PartialNotCopied) {
            return;
        }
        if count == self.chunk_size.sectors() {
            return; // the write covers the chunk
        }
        let (start, end) = (self.chunk_size.start_of(chunk), sector.plus(count));
        let chunk_end = start.plus(self.origin_part(chunk));
        for (from, to) in [(start, sector), (end, chunk_end)] {
            if from < to {
                let (count, at) = (Sectors(to.0 - from.0), self.in_cow(new, from));
                let job = around.get_or_insert_with(|| self.copy.job());
                job.parts.push(Part { from, count, to: self.cow.clone(), at, failed: false });
            }
        }
    }

    async fn write_stretch(
        &self,
        request: &Request,
        fua: bool,
        runs: &mut Runs,
        mut around: Option<JobLease>,
        created: &[PendingId],
    ) -> Result<(), TargetError> {
        // The flush before the record covers fresh data; only data in existing chunks needs FUA.
        runs.start(|run| {
            run.disk.write(run.at, run.count, payload(request, run.offset), fua && !run.fresh)
        });
        if let Some(job) = &mut around {
            self.copy.run_parts(job, &self.origin, Flags::default()).await;
        }
        let (error, fresh_error) = runs.finish().await;
        let (mut copy_error, mut copied_bytes) = (fresh_error, 0);
        if let Some(job) = &around {
            copy_error = job.read_error.clone().or_else(|| job.write_error.clone()).or(copy_error);
            copied_bytes = job.parts.iter().map(|part| part.count.bytes()).sum();
        }
        drop(around);
        self.end_stretch(fua, created, copied_bytes, copy_error).await?;
        error.map_or(Ok(()), |error| Err(error.into()))
    }

    /// The data of a stretch is on the COW. Its new exceptions, whose data could be written or not,
    /// are journaled, or get their records.
    pub(super) async fn end_stretch(
        &self,
        fua: bool,
        created: &[PendingId],
        copied_bytes: u64,
        copy_error: Option<DiskError>,
    ) -> Result<(), TargetError> {
        if !created.is_empty() {
            if self.needs_records(fua, created, copied_bytes, copy_error)? {
                for id in created {
                    self.done(*id).await;
                }
            }
            self.still_readable()?;
        }
        // The chunks of this write may have existed already, without durable records.
        if fua && !mutant::is(Mutant::FuaLeavesJournal) {
            self.record_journaled().await;
            self.still_kept()?;
        }
        Ok(())
    }

    /// Journals new exceptions of a write, or requests their records. Returns whether the write
    /// must wait for these.
    pub(super) fn needs_records(
        &self,
        fua: bool,
        created: &[PendingId],
        copied_bytes: u64,
        copy_error: Option<DiskError>,
    ) -> Result<bool, TargetError> {
        self.count_copies(created.len() as u64, copied_bytes);
        let ok = copy_error.is_none();
        if self.overflows_at(copy_error.as_ref()) {
            self.give_up_write(created);
            return Err(TargetError::Full);
        }
        if !fua && ok && self.journal(created) {
            return Ok(false);
        }
        self.copied(created.iter().map(|id| (*id, ok)), copy_error);
        Ok(!mutant::is(Mutant::AckBeforeRecord))
    }

    /// Whether the snapshot shows what has been written to it.
    pub(super) fn still_readable(&self) -> Result<(), TargetError> {
        match self.health() {
            Health::Invalid | Health::Unmarked => Err(TargetError::Invalid),
            _ => Ok(()),
        }
    }

    fn why_failed(&self) -> TargetError {
        if self.health() == Health::Overflowed { TargetError::Full } else { TargetError::Invalid }
    }

    async fn cow_is_full_for_writer(&self) {
        if self.options.get().on_full == OnFull::Overflow {
            self.begin_overflow();
            return;
        }
        self.begin_invalidation(Cause::Full);
        self.changed.until(|| (self.health() != Health::Invalidating).then_some(())).await;
    }
}
