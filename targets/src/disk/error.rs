//! The kinds of operations, and why one failed.

use std::fmt;
use std::ops::Deref;
use std::rc::Rc;

use crate::mutant::{self, Mutant};
use crate::units::{Sector, Sectors};

/// An error number as returned by the kernel or the disk, positive (`EIO` is 5). It reaches the
/// caller unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Errno(pub i32);

impl Errno {
    /// Input/output error.
    pub const EIO: Errno = Errno(5);
    /// There is no such device, or no longer.
    pub const ENXIO: Errno = Errno(6);
    /// Invalid argument: the result of a misaligned or out-of-range operation.
    pub const EINVAL: Errno = Errno(22);
    /// A write to what is read-only.
    pub const EROFS: Errno = Errno(30);
    /// No space left on the device: a full COW.
    pub const ENOSPC: Errno = Errno(28);
    /// The user's disk quota is exhausted.
    pub const EDQUOT: Errno = Errno(122);
    /// The file would be too long.
    pub const EFBIG: Errno = Errno(27);
    /// The kernel's errno for an operation that a disk's firmware refuses.
    pub const EREMOTEIO: Errno = Errno(121);
    /// The disk cannot do this kind of operation.
    pub const EOPNOTSUPP: Errno = Errno(95);

    /// Whether there was no space for a write: a COW that is a sparse file or a thin device is full
    /// then, whatever its size.
    pub fn is_no_space(self) -> bool {
        matches!(self, Errno::ENOSPC | Errno::EDQUOT | Errno::EFBIG)
            && !mutant::is(Mutant::NoSpaceInvalidates)
    }

    /// Whether the operation was refused as such, rather than failed by the medium.
    pub fn is_unsupported(self) -> bool {
        self == Errno::EOPNOTSUPP || self == Errno::EINVAL
    }
}

/// What an operation does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpKind {
    /// Fill memory from the disk.
    Read,
    /// Write memory to the disk; with `fua` it is durable when it completes.
    Write {
        /// Force unit access: completion means durable.
        fua: bool,
    },
    /// Make every write that completed before this one started durable.
    Flush,
    /// The range's content is no longer needed and undefined afterwards.
    Discard,
    /// The range reads as zeroes afterwards; the disk may unmap it.
    WriteZeroes,
}

/// An operation that failed, behind a pointer: a result, which is nearly always `Ok`, is passed
/// through several futures and is one word there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskError(Rc<FailedOp>);

/// What failed, where, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FailedOp {
    /// What was attempted.
    pub kind: OpKind,
    /// The disk's name, as the user gave it.
    pub disk: Rc<str>,
    /// Where the operation started.
    pub sector: Sector,
    /// How long it was.
    pub count: Sectors,
    /// The disk's error number.
    pub errno: Errno,
}

impl From<FailedOp> for DiskError {
    fn from(failed: FailedOp) -> DiskError {
        DiskError(Rc::new(failed))
    }
}

impl Deref for DiskError {
    type Target = FailedOp;

    fn deref(&self) -> &FailedOp {
        &self.0
    }
}

impl fmt::Display for DiskError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            OpKind::Read => "read",
            OpKind::Write { .. } => "write",
            OpKind::Flush => "flush",
            OpKind::Discard => "discard",
            OpKind::WriteZeroes => "write of zeroes",
        };
        let text = std::io::Error::from_raw_os_error(self.errno.0);
        write!(
            f,
            "{}: {what} of {} sectors at sector {}: {text}",
            self.disk, self.count, self.sector
        )
    }
}

impl std::error::Error for DiskError {}
