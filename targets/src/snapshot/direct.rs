//! Requests to a snapshot that are one operation: those to one chunk, as nearly all are, that copy
//! nothing beside. They need no list of ranges, and no state but the operation and what follows.
//! `read` and `write` have all others.
//!
//! Rules kept here: I4 (a read of the origin is tracked until it has completed), I10 with `write`.

use super::exceptions::{MAX_PENDING, PendingId, ReadStep, WriteStep};
use super::format::Record;
use super::target::Snapshot;
use crate::disk::{DiskError, Flight, OpKind};
use crate::request::{Request, RequestKind, TargetError, payload};
use crate::units::{Chunk, Sector, Sectors};

/// A request that has been started.
struct Direct<'a> {
    flight: Flight<'a>,
    /// Where on its disk.
    at: Sector,
    end: End,
}

/// What follows its operation.
enum End {
    Nothing,
    /// The end of a tracked read.
    Read(u32),
    /// The record of a new exception.
    Create(PendingId),
    /// That of a write with FUA, whose chunk may have existed already.
    Durable(Option<PendingId>),
}

impl Snapshot {
    /// Carries a request out. When this returns, nothing of the request is in flight any more.
    pub async fn handle(&self, request: &Request) -> Result<(), TargetError> {
        if let Some(mut direct) = self.begin_direct(request) {
            let result = (&mut direct.flight).await.map_err(|errno| {
                direct.flight.error(request.kind.into(), direct.at, request.count, errno)
            });
            return match direct.end {
                End::Nothing => Ok(result?),
                End::Read(key) => self.end_read(key, result),
                End::Create(id) => {
                    if self.needs_records(false, &[id], 0, result.err())? {
                        self.done(id).await;
                    }
                    self.still_readable()?;
                    self.still_takes(request, request.count)
                }
                End::Durable(created) => self.end_durable(request, created, result).await,
            };
        }
        match request.kind {
            RequestKind::Read => self.read(request).await,
            RequestKind::Write { fua } => self.write(request, fua).await,
            RequestKind::Flush => self.flush().await,
            RequestKind::Discard => self.discard(request).await,
        }
    }

    /// Starts a request that is one operation. All others, and those that fail, are for `read` and
    /// `write`.
    #[inline]
    fn begin_direct(&self, request: &Request) -> Option<Direct<'_>> {
        let (chunk, count) = self.piece(request.sector, request.count);
        if count < request.count {
            return None;
        }
        match request.kind {
            RequestKind::Read => self.begin_read(request, chunk),
            RequestKind::Write { fua } => self.begin_write(request, chunk, fua),
            RequestKind::Flush | RequestKind::Discard => None,
        }
    }

    fn begin_read(&self, request: &Request, chunk: Chunk) -> Option<Direct<'_>> {
        let step = self.state.borrow().before_snapshot_read(chunk);
        let (disk, at, end) = match step {
            ReadStep::Fail => return None,
            ReadStep::Cow(new) => (&self.cow, self.in_cow(new, request.sector), End::Nothing),
            ReadStep::Origin => {
                let key = self.state.borrow_mut().track_read(chunk, chunk);
                (&self.origin, request.sector, End::Read(key))
            }
        };
        let (kind, memory) = (OpKind::Read, payload(request, Sectors(0)));
        let flight = disk.begin(kind, at, request.count, memory);
        Some(Direct { flight, at, end })
    }

    /// A write to a chunk that is on the COW, or of a whole one.
    fn begin_write(&self, request: &Request, chunk: Chunk, fua: bool) -> Option<Direct<'_>> {
        let (new, created) = {
            let mut state = self.state.borrow_mut();
            match state.before_snapshot_write(chunk) {
                WriteStep::Redirect(new) => (new, None),
                WriteStep::Create
                    if request.count == self.chunk_size.sectors()
                        && state.pending() < MAX_PENDING =>
                {
                    let new = self.store.allocate()?;
                    (new, Some(state.begin(Record { old: chunk, new })))
                }
                _ => return None,
            }
        };
        let (at, memory) = (self.in_cow(new, request.sector), payload(request, Sectors(0)));
        // The flush before the record covers fresh data.
        let fua_now = fua && created.is_none() && self.cow.limits().volatile_cache;
        let kind = OpKind::Write { fua: fua_now };
        let flight = self.cow.begin(kind, at, request.count, memory);
        let end = match created {
            _ if fua => End::Durable(created),
            Some(id) => End::Create(id),
            None => End::Nothing,
        };
        Some(Direct { flight, at, end })
    }

    async fn end_durable(
        &self,
        request: &Request,
        created: Option<PendingId>,
        result: Result<(), DiskError>,
    ) -> Result<(), TargetError> {
        let (result, copy_error) = match created {
            Some(_) => (Ok(()), result.err()),
            None => (result, None),
        };
        self.end_stretch(true, created.as_slice(), 0, copy_error).await?;
        result?;
        self.still_takes(request, request.count)
    }
}
