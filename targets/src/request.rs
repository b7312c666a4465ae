//! What a device asks of its target, and why a target may fail it.

use std::fmt;

use crate::disk::{Disk, DiskError, Errno, Io, Memory, Op, OpKind, PayloadId};
use crate::units::{SECTOR_BYTES, Sector, Sectors};

/// What a request asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// Fill the payload.
    Read,
    /// Write the payload; with `fua` it is durable when acknowledged.
    Write {
        /// Force unit access.
        fua: bool,
    },
    /// Make acknowledged writes durable.
    Flush,
    /// The range is no longer needed.
    Discard,
}

/// A request to a target, on one contiguous range of its device.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    /// What it asks for.
    pub kind: RequestKind,
    /// Where it starts.
    pub sector: Sector,
    /// How long it is; zero for a flush.
    pub count: Sectors,
    /// Its data.
    pub payload: PayloadId,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TargetError {
    /// A disk failed; its errno reaches the caller.
    Disk(DiskError),
    /// The snapshot is invalid.
    Invalid,
    /// The snapshot is full.
    Full,
    /// The target has no such operation.
    Unsupported,
    /// The target was suspended before the request could be carried out: it is for the next table.
    Requeue,
    /// The device is being deleted.
    Ending,
    /// It would make a snapshot wrong, and nothing can remember that.
    Unrecorded,
}

impl TargetError {
    /// What the one who made the request is told. An invalid or full snapshot gives `EIO`, as in the kernel.
    pub fn errno(&self) -> Errno {
        match self {
            TargetError::Disk(error) => error.errno,
            TargetError::Invalid
            | TargetError::Full
            | TargetError::Requeue
            | TargetError::Ending
            | TargetError::Unrecorded => Errno::EIO,
            TargetError::Unsupported => Errno::EOPNOTSUPP,
        }
    }
}

impl From<DiskError> for TargetError {
    fn from(error: DiskError) -> TargetError {
        TargetError::Disk(error)
    }
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TargetError::Disk(error) => error.fmt(f),
            TargetError::Invalid => write!(f, "the snapshot is invalid"),
            TargetError::Full => write!(f, "the snapshot's COW is full"),
            TargetError::Unsupported => write!(f, "operation not supported"),
            TargetError::Unrecorded => write!(
                f,
                "a snapshot of this disk is no longer right, and neither its COW nor the run directory can say so"
            ),
            TargetError::Ending => write!(f, "the device is being deleted"),
            TargetError::Requeue => write!(f, "held until the device was suspended"),
        }
    }
}

/// A request's data from an offset on.
pub(crate) fn payload(request: &Request, offset: Sectors) -> Memory {
    // A request is shorter than 4 GiB: its length arrives as a 32-bit sector count below the transport's buffer size.
    let offset_bytes = u32::try_from(offset.0 * SECTOR_BYTES).unwrap_or(u32::MAX);
    Memory::Payload { id: request.payload, offset_bytes }
}

/// The operation of a request that passes through a target unchanged.
pub(crate) fn pass_through(disk: &Disk, request: &Request) -> Io {
    let memory = payload(request, Sectors(0));
    match request.kind {
        RequestKind::Write { fua } => disk.write(request.sector, request.count, memory, fua),
        RequestKind::Discard => {
            disk.start(Op { kind: OpKind::Discard, sector: request.sector, count: request.count, memory: Memory::None })
        }
        RequestKind::Read | RequestKind::Flush => disk.read(request.sector, request.count, memory),
    }
}
