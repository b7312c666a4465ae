//! A range of a disk: requests are shifted by its start and passed on.

use std::cell::Cell;

use crate::disk::{Disk, DiskError, Errno, FailedOp, Limits, OpKind, UserData};
use crate::mutant::{self, Mutant};
use crate::request::{Request, RequestKind, TargetError, op_kind, pass_through, payload};
use crate::units::{Sector, Sectors};

/// A request that was remapped: where on the disk.
#[derive(Debug)]
pub(crate) struct Sent(Sector);

/// The kind of request that a range of a disk passes on.
#[inline]
fn written_as(kind: RequestKind) -> RequestKind {
    match kind {
        RequestKind::Write { .. } if mutant::is(Mutant::LinearFuaDropped) => {
            RequestKind::Write { fua: false }
        }
        kind => kind,
    }
}

/// A device that is a range of a disk.
pub struct Linear {
    disk: Disk,
    /// The first sector on the disk.
    start: Sector,
    len: Cell<Sectors>,
}

impl Linear {
    /// A range of a disk; the caller has checked that it fits the disk.
    pub fn new(disk: Disk, start: Sector, len: Sectors) -> Linear {
        Linear { disk, start, len: Cell::new(len) }
    }

    /// The disk.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// The device's length.
    pub fn size(&self) -> Sectors {
        self.len.get()
    }

    /// How long the device could be: to the end of the disk, whose size is read again.
    pub fn room(&self) -> Sectors {
        Sectors(self.disk.refresh_size().0.saturating_sub(self.start.0))
    }

    /// Moves the end of the range; the caller has checked that it lies on the disk.
    pub fn set_size(&self, len: Sectors) {
        self.len.set(len);
    }

    /// The limits as a disk of another target: those of its own disk, without write-zeroes, which
    /// are never sent to targets.
    pub fn limits(&self) -> Limits {
        Limits { max_write_zeroes: Sectors(0), ..*self.disk.limits() }
    }

    /// Carries out a request. When this returns, no operation of the request is in flight.
    ///
    /// # Errors
    /// The disk's error; `EIO` for a request beyond the device.
    pub async fn handle(&self, request: &Request) -> Result<(), TargetError> {
        let kind = match request.kind {
            RequestKind::Flush if mutant::is(Mutant::LinearFlushDropped) => return Ok(()),
            RequestKind::Flush => return Ok(self.disk.flush().await?),
            kind => written_as(kind),
        };
        let Some(sector) = self.place_of(request) else { return Err(self.beyond(request).into()) };
        let moved = Request { kind, sector, ..request.clone() };
        Ok(pass_through(&self.disk, &moved).await?)
    }

    /// Where on its disk a request is; `None` if it is beyond the device.
    #[inline]
    fn place_of(&self, request: &Request) -> Option<Sector> {
        let end = request.sector.0.checked_add(request.count.0);
        if end.is_none_or(|end| end > self.len.get().0) && !mutant::is(Mutant::LinearUnbounded) {
            return None;
        }
        let start = if mutant::is(Mutant::LinearOffsetDropped) { Sector(0) } else { self.start };
        Some(start.plus(Sectors(request.sector.0)))
    }

    /// Starts a request that needs no task (`target/remap.rs`).
    #[inline]
    pub(crate) fn remap(&self, request: &Request, data: UserData) -> Option<Sent> {
        if !self.disk.tells() || request.kind == RequestKind::Flush {
            return None;
        }
        let sector = self.place_of(request)?;
        let kind = op_kind(&self.disk, written_as(request.kind));
        self.disk.send(kind, (sector, request.count), payload(request, Sectors(0)), data);
        Some(Sent(sector))
    }

    #[inline]
    pub(crate) fn end_io(
        &self,
        request: &Request,
        sent: &Sent,
        result: Result<(), Errno>,
    ) -> Result<(), TargetError> {
        let range = (sent.0, request.count);
        Ok(self.disk.told(request.kind.into(), range, result)?)
    }

    /// The error of a request beyond the device's end. The kernel sends none; the sectors there
    /// belong to another device.
    fn beyond(&self, request: &Request) -> DiskError {
        let kind = match request.kind {
            RequestKind::Read | RequestKind::Flush => OpKind::Read,
            RequestKind::Write { fua } => OpKind::Write { fua },
            RequestKind::Discard => OpKind::Discard,
        };
        let (disk, sector, count) = (self.disk.name().clone(), request.sector, request.count);
        FailedOp { kind, disk, sector, count, errno: Errno::EIO }.into()
    }
}
