//! The requests of an origin that is being merged.
//!
//! Rules kept here: I6 (every started operation is awaited, and no longer tracked, before a request
//! waits for a batch or ends), I10 (a flush reaches both disks, and succeeds only if no flush of
//! the merge's own has failed beside it).

use super::merge::Merge;
use super::merge_state::MergeWrite;
use super::ranges::Runs;
use crate::disk::{Memory, Op, OpKind};
use crate::mutant::{self, Mutant};
use crate::request::{Request, RequestKind, TargetError, payload};
use crate::units::{Chunk, CowChunk, Sector, Sectors};

/// Most origin ranges of a stretch of a write.
const RANGES: usize = 16;

/// A range of a request.
#[derive(Clone, Copy)]
struct Range {
    sector: Sector,
    count: Sectors,
}

/// What a stretch of a write does.
#[derive(Default)]
struct Stretch {
    /// On the origin, in order.
    ranges: [Option<Range>; RANGES],
    used: usize,
    /// Chunks of which some are on the COW.
    on_cow: Option<(Chunk, Chunk)>,
    /// The stretch ends before this chunk, which is being merged.
    held: Option<Chunk>,
}

impl Stretch {
    /// Adds a range, joined with the last one if adjacent; returns `false` if there is no room.
    fn push(&mut self, sector: Sector, count: Sectors) -> bool {
        let last = self.used.checked_sub(1).and_then(|last| self.ranges[last].as_mut());
        match last {
            Some(last) if last.sector.plus(last.count) == sector => last.count.0 += count.0,
            _ if self.used == RANGES => return false,
            _ => {
                self.ranges[self.used] = Some(Range { sector, count });
                self.used += 1;
            }
        }
        true
    }

    fn push_chunk(&mut self, chunk: Chunk) {
        let first = self.on_cow.map_or(chunk, |(first, _)| first);
        self.on_cow = Some((first, chunk));
    }
}

impl Merge {
    /// Carries a request out. When this returns, nothing of the request is in flight any more.
    ///
    /// # Errors
    /// A disk error. A failed merge is none: the device works without it.
    pub async fn handle(&self, request: &Request) -> Result<(), TargetError> {
        match request.kind {
            RequestKind::Flush => self.flush().await,
            // As in the kernel: the range may have any content afterwards, so it is left unchanged.
            RequestKind::Discard => Ok(()),
            RequestKind::Read | RequestKind::Write { .. } if self.is_on_origin() => {
                self.origin.handle(request).await
            }
            RequestKind::Read => self.read(request).await,
            RequestKind::Write { fua } => self.write(request, fua).await,
        }
    }

    /// Whether no chunk is on the COW.
    fn is_on_origin(&self) -> bool {
        let state = self.snapshot.state.borrow();
        !state.health().is_kept() || state.complete() == 0
    }

    fn mapped(&self, chunk: Chunk) -> Option<CowChunk> {
        self.snapshot.state.borrow().mapped(chunk)
    }

    /// A request's next sector, its chunk, and how much of the request lies in that chunk.
    fn piece_of(&self, request: &Request, done: Sectors) -> (Sector, Chunk, Sectors) {
        let sector = request.sector.plus(done);
        let (chunk, count) = self.snapshot.piece(sector, Sectors(request.count.0 - done.0));
        (sector, chunk, count)
    }

    async fn read(&self, request: &Request) -> Result<(), TargetError> {
        let (mut runs, mut done) = (self.snapshot.idle_runs.take(), Sectors(0));
        let mut result = Ok(());
        while done < request.count && result.is_ok() {
            while done < request.count && !runs.full() {
                let (sector, chunk, count) = self.piece_of(request, done);
                // On the COW until its record is gone, also while it is copied; a COW chunk that is
                // no longer used keeps its content, so a late read is correct.
                let new = self.mapped(chunk).filter(|_| !self.shows_early(chunk));
                match new {
                    Some(new) => {
                        let at = self.snapshot.in_cow(new, sector);
                        runs.push(self.cow(), at, count, done, false);
                    }
                    None => runs.push(self.origin.disk(), sector, count, done, false),
                }
                done.0 += count.0;
            }
            runs.start(|run| run.disk.read(run.at, run.count, payload(request, run.offset)));
            let (error, _) = runs.finish().await;
            result = error.map_or(Ok(()), |error| Err(error.into()));
        }
        self.snapshot.idle_runs.give_back(runs);
        result
    }

    fn shows_early(&self, chunk: Chunk) -> bool {
        mutant::is(Mutant::MergeShowsEarly) && self.state.borrow().is_held(chunk)
    }

    async fn write(&self, request: &Request, fua: bool) -> Result<(), TargetError> {
        let mut done = Sectors(0);
        while done < request.count {
            let mut runs = self.snapshot.idle_runs.take();
            let stretch = self.map_write(request, &mut done, &mut runs);
            let result = self.write_stretch(request, fua, &mut runs, &stretch).await;
            self.snapshot.idle_runs.give_back(runs);
            result?;
            if let Some(chunk) = stretch.held {
                let held = || self.mapped(chunk).is_some() && self.state.borrow().is_held(chunk);
                self.changed.until(|| (!held()).then_some(())).await;
            }
        }
        Ok(())
    }

    /// Decides where the next ranges of a write go.
    fn map_write(&self, request: &Request, done: &mut Sectors, runs: &mut Runs) -> Stretch {
        let mut stretch = Stretch::default();
        while *done < request.count && !runs.full() {
            let (sector, chunk, count) = self.piece_of(request, *done);
            let step = self.state.borrow().before_write(chunk, self.mapped(chunk));
            let on_origin = matches!(step, MergeWrite::Origin | MergeWrite::Both(_));
            if on_origin && !stretch.push(sector, count) {
                break;
            }
            match step {
                MergeWrite::Cow(new) | MergeWrite::Both(new) => {
                    let at = self.snapshot.in_cow(new, sector);
                    runs.push(self.cow(), at, count, *done, false);
                    stretch.push_chunk(chunk);
                }
                MergeWrite::Origin => {}
                MergeWrite::Held => {
                    stretch.held = Some(chunk);
                    break;
                }
            }
            done.0 += count.0;
        }
        stretch
    }

    async fn write_stretch(
        &self,
        request: &Request,
        fua: bool,
        runs: &mut Runs,
        stretch: &Stretch,
    ) -> Result<(), TargetError> {
        let key = stretch.on_cow.map(|(first, last)| self.state.borrow_mut().track(first, last));
        runs.start(|run| run.disk.write(run.at, run.count, payload(request, run.offset), fua));
        let mut result = Ok(());
        for range in stretch.ranges[..stretch.used].iter().flatten() {
            let offset = Sectors(range.sector.0 - request.sector.0);
            let part = Request {
                kind: request.kind,
                sector: range.sector,
                count: range.count,
                memory: payload(request, offset),
            };
            result = result.and(self.origin.handle(&part).await);
        }
        let (error, _) = runs.finish().await;
        if let Some(key) = key {
            let awaited = self.state.borrow_mut().untrack(key);
            if awaited {
                self.changed.wake_all();
            }
        }
        error.map_or(result, |error| Err(error.into()))
    }

    /// Makes acknowledged writes durable, on whichever disk they are. Fails also if a flush of the
    /// merge's own has failed since the last one: it may have lost acknowledged writes. All flushes
    /// that run beside the first one to return this error return it as well.
    async fn flush(&self) -> Result<(), TargetError> {
        let flushes = self.origin.flushes();
        let (untold, cow) = (flushes.untold(), self.cow());
        let skips_cow = self.is_on_origin() || mutant::is(Mutant::MergeFlushesOrigin);
        let on_cow = (!skips_cow && cow.limits().volatile_cache).then(|| {
            let (sector, count, memory) = (Sector(0), Sectors(0), Memory::None);
            cow.start(Op { kind: OpKind::Flush, sector, count, memory })
        });
        let on_origin = self.origin.flush_disk().await;
        if let Some(on_cow) = on_cow {
            on_cow.await?;
        }
        on_origin?;
        flushes.begun_have_ended().await;
        flushes.tell(untold)
    }
}
