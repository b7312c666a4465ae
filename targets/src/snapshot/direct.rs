//! Requests to a snapshot that are one operation: those to one chunk, as nearly all are, that copy
//! nothing beside. They need no list of ranges, and no state but the operation and what follows; on
//! disks that tell completions, no task (`target/remap.rs`). `read` and `write` have all others.
//!
//! Rules kept here: I4 (a read of the origin is tracked until it has completed, and started in the
//! step that found it there), I10 with `write`.

use std::convert::Infallible;

use super::exceptions::{MAX_PENDING, PendingId, ReadStep, WriteStep};
use super::format::Record;
use super::target::Snapshot;
use crate::disk::{Disk, DiskError, Errno, OpKind, UserData};
use crate::request::{Next, Request, RequestKind, TargetError, payload};
use crate::units::{Chunk, Sector, Sectors};

/// The operation of a request, which has been decided on.
struct Direct<'a> {
    disk: &'a Disk,
    kind: OpKind,
    sent: Sent,
}

/// What must be known of it at its end.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sent {
    /// Where on its disk.
    at: Sector,
    end: End,
}

/// What follows the operation.
#[derive(Clone, Copy, Debug)]
enum End {
    /// Nothing: it was one of the COW.
    Nothing,
    /// The end of a tracked read of the origin.
    Read(u32),
    /// The record of a new exception.
    Create(PendingId),
    /// The same, when its data is on the COW.
    Record(PendingId),
    /// That of a write with FUA, whose chunk may have existed already.
    Durable(Option<PendingId>),
}

impl Snapshot {
    /// Carries a request out. When this returns, nothing of the request is in flight any more.
    pub async fn handle(&self, request: &Request) -> Result<(), TargetError> {
        if let Some(Direct { disk, kind, sent }) = self.decide_direct(request, true) {
            let mut flight = disk.begin(kind, sent.at, request.count, payload(request, Sectors(0)));
            let result = (&mut flight)
                .await
                .map_err(|errno| flight.error(kind, sent.at, request.count, errno));
            if let End::Durable(created) = sent.end {
                return self.end_durable(request, created, result).await;
            }
            if let Some(id) = self.end_direct(request, &sent, result)? {
                self.done(id).await;
                self.end_created(request)?;
            }
            return Ok(());
        }
        match request.kind {
            RequestKind::Read => self.read(request).await,
            RequestKind::Write { fua } => self.write(request, fua).await,
            RequestKind::Flush => self.flush().await,
            RequestKind::Discard => self.discard(request).await,
        }
    }

    /// Starts a request that needs no task.
    #[inline]
    pub(crate) fn remap(&self, request: &Request, data: UserData) -> Option<Sent> {
        if !(self.cow.tells() && self.origin.tells()) {
            return None;
        }
        let Direct { disk, kind, sent } = self.decide_direct(request, false)?;
        disk.send(kind, (sent.at, request.count), payload(request, Sectors(0)), data);
        Some(sent)
    }

    /// What a remapped request waited for has happened: its operation has completed, or the record
    /// of its exception may be there.
    #[inline]
    pub(crate) fn end_io(
        &self,
        request: &Request,
        sent: &mut Sent,
        data: UserData,
        result: Result<(), Errno>,
    ) -> Next<Infallible> {
        if let End::Record(id) = sent.end {
            return self.end_record(request, id, data);
        }
        let disk = if matches!(sent.end, End::Read(_)) { &self.origin } else { &self.cow };
        let result = disk.told(request.kind.into(), (sent.at, request.count), result);
        match self.end_direct(request, sent, result) {
            Ok(None) => Next::Done(Ok(())),
            Ok(Some(id)) => {
                sent.end = End::Record(id);
                self.end_record(request, id, data)
            }
            Err(error) => Next::Done(Err(error)),
        }
    }

    /// Ends a request if the record of its exception is there, or has been given up.
    fn end_record(&self, request: &Request, id: PendingId, data: UserData) -> Next<Infallible> {
        if self.waits_for(id, data) {
            return Next::Waits;
        }
        Next::Done(self.end_created(request))
    }

    /// Whether an exception is pending; the request that has created it is told when that may have
    /// changed.
    pub(super) fn waits_for(&self, id: PendingId, data: UserData) -> bool {
        let waits = self.state.borrow().is_pending(id);
        if waits {
            self.with_waiters(id, |waiters| waiters.set_creator(data));
        }
        waits
    }

    /// The operation of a request without FUA has completed. Returns the exception whose record the
    /// request must wait for.
    #[inline]
    fn end_direct(
        &self,
        request: &Request,
        sent: &Sent,
        result: Result<(), DiskError>,
    ) -> Result<Option<PendingId>, TargetError> {
        match sent.end {
            End::Read(key) => self.end_read(key, result)?,
            End::Create(id) => {
                if self.needs_records(false, &[id], 0, result.err())? {
                    return Ok(Some(id));
                }
                self.end_created(request)?;
            }
            End::Nothing | End::Record(_) | End::Durable(_) => result?,
        }
        Ok(None)
    }

    /// The record of a write's new exception is journaled or durable, or was given up.
    fn end_created(&self, request: &Request) -> Result<(), TargetError> {
        self.still_readable()?;
        self.still_takes(request, request.count)
    }

    /// Decides on a request that is one operation, which must be started in the same step. All
    /// others, and those that fail, are for `read` and `write`; those with FUA only if `durable`.
    #[inline]
    fn decide_direct(&self, request: &Request, durable: bool) -> Option<Direct<'_>> {
        let (chunk, count) = self.piece(request.sector, request.count);
        if count < request.count {
            return None;
        }
        match request.kind {
            RequestKind::Read => self.decide_read(request, chunk),
            RequestKind::Write { fua } if durable || !fua => self.decide_write(request, chunk, fua),
            _ => None,
        }
    }

    #[inline]
    fn decide_read(&self, request: &Request, chunk: Chunk) -> Option<Direct<'_>> {
        let mut state = self.state.borrow_mut();
        let (disk, at, end) = match state.before_snapshot_read(chunk) {
            ReadStep::Fail => return None,
            ReadStep::Cow(new) => (&self.cow, self.in_cow(new, request.sector), End::Nothing),
            ReadStep::Origin => {
                let key = state.track_read(chunk, chunk);
                (&self.origin, request.sector, End::Read(key))
            }
        };
        Some(Direct { disk, kind: OpKind::Read, sent: Sent { at, end } })
    }

    /// A write to a chunk that is on the COW, or of a whole one.
    #[inline]
    fn decide_write(&self, request: &Request, chunk: Chunk, fua: bool) -> Option<Direct<'_>> {
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
        let at = self.in_cow(new, request.sector);
        // The flush before the record covers fresh data.
        let fua_now = fua && created.is_none() && self.cow.limits().volatile_cache;
        let end = match created {
            _ if fua => End::Durable(created),
            Some(id) => End::Create(id),
            None => End::Nothing,
        };
        let (disk, kind) = (&self.cow, OpKind::Write { fua: fua_now });
        Some(Direct { disk, kind, sent: Sent { at, end } })
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
