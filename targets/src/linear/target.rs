//! A range of a disk: requests moved by its start and passed on.

use crate::disk::{Disk, DiskError, Errno, Limits, OpKind};
use crate::mutant::{self, Mutant};
use crate::request::{Request, RequestKind, TargetError, pass_through};
use crate::units::{Sector, Sectors};

/// A range of a disk that is a device.
pub struct Linear {
    disk: Disk,
    /// Where on the disk it starts.
    start: Sector,
    len: Sectors,
}

impl Linear {
    /// A range of a disk; the caller has checked that the disk has it.
    pub fn new(disk: Disk, start: Sector, len: Sectors) -> Linear {
        Linear { disk, start, len }
    }

    /// The disk.
    pub fn disk(&self) -> &Disk {
        &self.disk
    }

    /// Its length.
    pub fn size(&self) -> Sectors {
        self.len
    }

    /// What it can do as a disk of another target: what its disk can, but for zeroes, which targets
    /// are not asked to write.
    pub fn limits(&self) -> Limits {
        Limits { max_write_zeroes: Sectors(0), ..*self.disk.limits() }
    }

    /// Carries a request out. When this returns, nothing of the request is in flight any more.
    ///
    /// # Errors
    /// The disk's; `EIO` for what does not lie on the device.
    pub async fn handle(&self, request: &Request) -> Result<(), TargetError> {
        let kind = match request.kind {
            RequestKind::Flush if mutant::is(Mutant::LinearFlushDropped) => return Ok(()),
            RequestKind::Flush => return Ok(self.disk.flush().await?),
            RequestKind::Write { .. } if mutant::is(Mutant::LinearFuaDropped) => {
                RequestKind::Write { fua: false }
            }
            kind => kind,
        };
        let end = request.sector.0.checked_add(request.count.0);
        if end.is_none_or(|end| end > self.len.0) && !mutant::is(Mutant::LinearUnbounded) {
            return Err(self.beyond(request).into());
        }
        let start = if mutant::is(Mutant::LinearOffsetDropped) { Sector(0) } else { self.start };
        let sector = start.plus(Sectors(request.sector.0));
        Ok(pass_through(&self.disk, &Request { kind, sector, ..request.clone() }).await?)
    }

    /// The kernel sends nothing that lies beyond a device's end. If it did, the sectors there would
    /// be another one's.
    fn beyond(&self, request: &Request) -> DiskError {
        let kind = match request.kind {
            RequestKind::Read | RequestKind::Flush => OpKind::Read,
            RequestKind::Write { fua } => OpKind::Write { fua },
            RequestKind::Discard => OpKind::Discard,
        };
        let (disk, sector, count) = (self.disk.name().clone(), request.sector, request.count);
        DiskError { kind, disk, sector, count, errno: Errno::EIO }
    }
}
