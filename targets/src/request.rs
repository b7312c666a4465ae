//! What a device asks of its target, and why a target may fail it.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use crate::disk::{Disk, DiskError, Errno, Flight, Memory, OpKind};
use crate::units::{Sector, Sectors};

/// The kinds of requests to a target, which are fewer than a disk's kinds of operations
/// ([`OpKind`]).
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

impl From<RequestKind> for OpKind {
    fn from(kind: RequestKind) -> OpKind {
        match kind {
            RequestKind::Read => OpKind::Read,
            RequestKind::Write { fua } => OpKind::Write { fua },
            RequestKind::Flush => OpKind::Flush,
            RequestKind::Discard => OpKind::Discard,
        }
    }
}

/// A request to a target, on one contiguous range of its device.
#[derive(Clone, Debug)]
pub struct Request {
    /// What it asks for.
    pub kind: RequestKind,
    /// Where it starts.
    pub sector: Sector,
    /// How long it is; zero for a flush.
    pub count: Sectors,
    /// Where its data comes from or goes to.
    pub memory: Memory,
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
    /// There is an `error` target, or no target, at that place of the device.
    Error,
    /// The target has no such operation.
    Unsupported,
    /// The target was suspended before the request could be carried out: it is for the next table.
    Requeue,
    /// The device is being deleted.
    Ending,
    /// The request would make a snapshot wrong, and that cannot be recorded.
    Unrecorded,
    /// A snapshot is being merged into the origin that the device carries: it is written through
    /// the origin's device only.
    Merging,
}

impl TargetError {
    /// The errno that the requester gets. An invalid or full snapshot returns `EIO`, as in the
    /// kernel.
    pub fn errno(&self) -> Errno {
        match self {
            TargetError::Disk(error) => error.errno,
            TargetError::Invalid
            | TargetError::Full
            | TargetError::Error
            | TargetError::Requeue
            | TargetError::Ending
            | TargetError::Unrecorded => Errno::EIO,
            TargetError::Unsupported => Errno::EOPNOTSUPP,
            TargetError::Merging => Errno::EROFS,
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
            TargetError::Error => write!(f, "the device's table has an error target there"),
            TargetError::Unsupported => write!(f, "operation not supported"),
            TargetError::Unrecorded => write!(
                f,
                "a snapshot of this disk is no longer valid, and neither its COW nor the run \
                 directory can record that"
            ),
            TargetError::Merging => {
                write!(
                    f,
                    "a snapshot is being merged into it: it is read-only until that has ended"
                )
            }
            TargetError::Ending => write!(f, "the device is being deleted"),
            TargetError::Requeue => write!(f, "requeued because the device was suspended"),
        }
    }
}

/// How far a request is that has no task (`target/remap.rs`), after a completion.
#[derive(Debug)]
pub enum Next<R> {
    /// Another of its operations is in flight.
    Waits,
    /// It has ended.
    Done(Result<(), TargetError>),
    /// What is left of it is for a task.
    Rest(R),
}

impl<R> Next<R> {
    /// The same with what is left as a part of something else.
    #[inline]
    pub(crate) fn map_rest<S>(self, map: impl FnOnce(R) -> S) -> Next<S> {
        match self {
            Next::Waits => Next::Waits,
            Next::Done(result) => Next::Done(result),
            Next::Rest(rest) => Next::Rest(map(rest)),
        }
    }
}

/// A request's data from an offset on.
#[inline]
pub(crate) fn payload(request: &Request, offset: Sectors) -> Memory {
    request.memory.advanced(offset.bytes())
}

/// The operation of a request that passes through a target unchanged, in flight.
#[must_use = "an operation whose result is ignored has not been checked"]
pub(crate) struct PassThrough<'a> {
    flight: Flight<'a>,
    request: &'a Request,
}

/// The kind of operation that carries out a kind of request on a disk.
#[inline]
pub(crate) fn op_kind(disk: &Disk, kind: RequestKind) -> OpKind {
    match kind {
        // As in [`Disk::write`].
        RequestKind::Write { fua } => OpKind::Write { fua: fua && disk.limits().volatile_cache },
        kind => kind.into(),
    }
}

/// Starts the operation of a request that passes through a target unchanged.
#[inline]
pub(crate) fn pass_through<'a>(disk: &'a Disk, request: &'a Request) -> PassThrough<'a> {
    let kind = op_kind(disk, request.kind);
    let (sector, count, memory) = (request.sector, request.count, payload(request, Sectors(0)));
    PassThrough { flight: disk.begin(kind, sector, count, memory), request }
}

impl Future for PassThrough<'_> {
    type Output = Result<(), DiskError>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let PassThrough { flight, request } = &mut *self;
        let Request { kind, sector, count, .. } = request;
        let result = Pin::new(&mut *flight).poll(cx);
        result.map_err(|errno| flight.error((*kind).into(), *sector, *count, errno))
    }
}
