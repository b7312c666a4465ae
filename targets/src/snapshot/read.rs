//! Reads and discards of a snapshot.
//!
//! Rules kept here: I4 (a read in flight to the origin is tracked until it has completed), I6.

use super::exceptions::ReadStep;
use super::ranges::Runs;
use super::target::Snapshot;
use crate::copy::Flags;
use crate::disk::DiskError;
use crate::request::{Request, TargetError, pass_through, payload};
use crate::units::{Chunk, Sector, Sectors};

impl Snapshot {
    pub(super) async fn read(&self, request: &Request) -> Result<(), TargetError> {
        let mut runs = self.idle_runs.take();
        let mut done = Sectors(0);
        let mut result = Ok(());
        while done < request.count && result.is_ok() {
            result = self.read_stretch(request, &mut done, &mut runs).await;
        }
        self.idle_runs.give_back(runs);
        result
    }

    async fn read_stretch(
        &self,
        request: &Request,
        done: &mut Sectors,
        runs: &mut Runs,
    ) -> Result<(), TargetError> {
        let tracked = self.map_read(request, done, runs)?;
        runs.start(|run| run.disk.read(run.at, run.count, payload(request, run.offset)));
        let (error, _) = runs.finish().await;
        let result = error.map_or(Ok(()), Err);
        match tracked {
            Some(key) => self.end_read(key, result),
            None => Ok(result?),
        }
    }

    /// A tracked read has completed.
    pub(super) fn end_read(
        &self,
        key: u32,
        result: Result<(), DiskError>,
    ) -> Result<(), TargetError> {
        self.state.borrow_mut().untrack_read(key);
        self.changed.wake_all();
        result?;
        // Origin writes do not wait for the reads of an invalid snapshot (I4), so this one may have
        // been overtaken.
        if self.health().is_kept() { Ok(()) } else { Err(TargetError::Invalid) }
    }

    /// Decides where the next ranges of a read are; a returned key means that some are on the
    /// origin and must be untracked.
    fn map_read(
        &self,
        request: &Request,
        done: &mut Sectors,
        runs: &mut Runs,
    ) -> Result<Option<u32>, TargetError> {
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
            runs.push(disk, at, count, *done, false);
            done.0 += count.0;
        }
        Ok(last_on_origin.map(|last| state.track_read(first, last)))
    }

    pub(super) async fn discard(&self, request: &Request) -> Result<(), TargetError> {
        if !self.options.get().discard_zeroes_cow {
            return Err(TargetError::Unsupported);
        }
        let mut done = Sectors(0);
        while done < request.count {
            let sector = request.sector.plus(done);
            let (chunk, count) = self.piece(sector, Sectors(request.count.0 - done.0));
            let step = self.state.borrow().before_snapshot_read(chunk);
            match step {
                ReadStep::Fail => return Err(TargetError::Invalid),
                // The snapshot still shows the origin: a discarded range may have any content.
                ReadStep::Origin => {}
                ReadStep::Cow(new) if count == self.chunk_size.sectors() => {
                    let region = crate::io::IoRegion {
                        disk: self.cow.clone(),
                        sector: self.in_cow(new, sector),
                        count,
                    };
                    let outcome = self.copy.zero(&[region], Flags::default()).await;
                    if let Some(error) = outcome.first_error {
                        return Err(error.into());
                    }
                }
                // Part of a chunk: nothing to do.
                ReadStep::Cow(_) => {}
            }
            done.0 += count.0;
        }
        self.pass_discard_down(request).await
    }

    /// Discards the origin's range as well. The kernel does so under all other snapshots of the
    /// origin, which then show undefined data; here a discard stays in this snapshot as long as
    /// there are others, and one that joins meanwhile waits for it as it waits for writes.
    async fn pass_discard_down(&self, request: &Request) -> Result<(), TargetError> {
        let limits = self.origin.limits();
        let able = limits.max_discard >= request.count && !limits.read_only;
        if !self.options.get().discard_passdown_origin || !able {
            return Ok(());
        }
        let Some(gate) = self.joined.alone.borrow().clone() else { return Ok(()) };
        gate.open().await;
        // Another snapshot may have joined meanwhile.
        if self.joined.alone.borrow().is_none() {
            return Ok(());
        }
        let last = Sector(request.sector.0 + request.count.0.saturating_sub(1));
        let (first, last) =
            (self.chunk_size.chunk_of(request.sector), self.chunk_size.chunk_of(last));
        let key = self.state.borrow_mut().track_read(first, last);
        let (start, end) =
            (self.chunk_size.start_of(first), self.chunk_size.start_of(Chunk(last.0 + 1)));
        self.preserved().borrow_mut().forget(start, Sectors(end.0 - start.0));
        let result = gate.pass(|| pass_through(&self.origin, request)).await;
        self.state.borrow_mut().untrack_read(key);
        self.changed.wake_all();
        result
    }
}
