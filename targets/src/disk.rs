//! The one seam through which storage is reached.
//!
//! A [`Disk`] is what targets hold. It checks the contract below, counts, and passes the operation
//! to a [`Backend`]: the server's ring, or a simulated disk. A [`Host`] lends the memory and the
//! time of the thread that all of them run on; the kinds of memory that an operation can have are
//! in `memory`.
//!
//! # The contract
//!
//! * [`Disk::start`] submits immediately; the returned [`Io`] only waits. Several operations are
//!   made concurrent by starting them all before awaiting the first. Operations in flight together
//!   may be carried out in any order. A completion is polled by a future, which costs its task a
//!   wake, or told to whoever runs the thread ([`Completions`]).
//! * An operation either transferred everything or failed; a backend repeats short transfers
//!   itself. A failed read or write leaves its range, and only its range, undefined.
//! * A completed write is visible to later reads, and may be lost when power is. It is durable
//!   after a `Flush` that was *started* after the write completed, or on its own completion if it
//!   was a FUA write.
//! * I6: memory outlives the operation that uses it. A buffer is held by the operation itself until
//!   the completion. The payload of a request is held by the code that completes the request, which
//!   therefore may only happen when every [`Io`] on it has completed: targets await every operation
//!   that they started, also after an error.
//! * Positions and lengths are multiples of the disk's logical block size and lie inside the disk.

mod counts;
mod error;
mod memory;
mod op;
pub mod shared;
mod told;
mod user_data;

use std::cell::{Cell, RefCell};
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::units::{SECTOR_BYTES, Sector, Sectors};

use counts::Counts;

pub use counts::Counters;
pub use error::{DiskError, Errno, FailedOp, OpKind};
pub use memory::{Buffer, BufferId, Host, Memory, PayloadId};
pub use op::{DiskKey, Limits, Op, OpId};
pub use user_data::UserData;

/// What carries operations out. Targets never call it; they use [`Disk`].
pub trait Backend {
    /// Submits an operation; may complete it before returning.
    fn start(&self, op: Op) -> OpId;
    /// The result of an operation, once; until then the waker is kept and woken on completion.
    fn poll(&self, id: OpId, waker: &Waker) -> Poll<Result<(), Errno>>;
    /// The result is no longer wanted: the operation continues and its id is free at the end.
    fn detach(&self, id: OpId);
    /// The same disk, if it can tell completions to whoever runs the thread.
    fn completions(self: Rc<Self>) -> Option<Rc<dyn Completions>> {
        None
    }
    /// What the disk is and can do; read once.
    fn limits(&self) -> Limits;
    /// The disk's size as last seen.
    fn size(&self) -> Sectors;
    /// Reads the size again, which may have grown, and returns it. A disk that has become shorter
    /// keeps its size as last seen: its operations behind the end fail one by one.
    fn refresh_size(&self) -> Sectors {
        self.size()
    }
}

/// A backend that tells completions.
pub trait Completions {
    /// Submits an operation, whose completion is told with this data, once, and not from here: the
    /// sender may hold what it needs to be told. There is nothing to poll.
    fn send(&self, op: Op, data: UserData);
    /// Tells a completion of an operation that was not submitted.
    fn refuse(&self, data: UserData, errno: Errno);
    /// What the errno of a completion that was told means on this disk.
    fn errno(&self, errno: Errno) -> Errno {
        errno
    }
}

struct DiskInner {
    backend: Rc<dyn Backend>,
    completions: Option<Rc<dyn Completions>>,
    name: Rc<str>,
    limits: Limits,
    /// Bits of a sector number that are zero at the start of a logical block.
    block_mask: u64,
    /// The size that an operation has found; the disk never becomes smaller.
    found_size: Cell<Sectors>,
    counts: Counts,
    /// Another handle, whose claim holds for this one as well.
    claim: RefCell<Option<Disk>>,
}

/// A disk as targets see it: the only place where the contract is checked and operations are
/// counted.
#[derive(Clone)]
pub struct Disk {
    inner: Rc<DiskInner>,
}

impl Disk {
    /// A disk over a backend, under the name that errors will show.
    pub fn new(name: &str, backend: Rc<dyn Backend>) -> Disk {
        let limits = backend.limits();
        let block_mask = (u64::from(limits.logical_block_bytes) / SECTOR_BYTES).saturating_sub(1);
        let name = name.into();
        Disk {
            inner: Rc::new(DiskInner {
                completions: backend.clone().completions(),
                backend,
                name,
                limits,
                block_mask,
                found_size: Cell::default(),
                counts: Counts::default(),
                claim: RefCell::default(),
            }),
        }
    }

    /// The name that errors show.
    pub fn name(&self) -> &Rc<str> {
        &self.inner.name
    }

    /// What the disk is and can do, as it was when it was opened.
    pub fn limits(&self) -> &Limits {
        &self.inner.limits
    }

    /// The disk's size as last seen.
    pub fn size(&self) -> Sectors {
        self.inner.backend.size()
    }

    /// Reads the size again and returns it; [`Disk::size`] never becomes smaller.
    pub fn refresh_size(&self) -> Sectors {
        self.inner.backend.refresh_size()
    }

    /// Operations so far.
    pub fn counters(&self) -> Counters {
        self.inner.counts.get()
    }

    /// Whether two handles reach the same open disk.
    pub fn same(&self, other: &Disk) -> bool {
        Rc::ptr_eq(&self.inner, &other.inner)
    }

    /// Keeps the claim that another handle of the same disk has or keeps, until this one is closed.
    pub fn keep_claim_of(&self, other: &Disk) {
        let kept = other.inner.claim.borrow().clone();
        *self.inner.claim.borrow_mut() = Some(kept.unwrap_or_else(|| other.clone()));
    }

    /// Starts an operation immediately. One that violates the contract is not passed on and
    /// completes with `EINVAL`.
    #[inline]
    pub fn start(&self, op: Op) -> Io {
        let Op { kind, sector, count, memory } = op;
        let state = self.submit(kind, sector, count, memory);
        Io { disk: self.clone(), kind, sector, count, state }
    }

    /// The same for a caller that has the disk for as long as the operation is in flight, and that
    /// knows what it is.
    #[inline]
    pub(crate) fn begin(
        &self,
        kind: OpKind,
        sector: Sector,
        count: Sectors,
        memory: Memory,
    ) -> Flight<'_> {
        Flight { disk: self, state: self.submit(kind, sector, count, memory) }
    }

    /// The operation is put together here, where the backend takes it: each step that it is passed
    /// on before would copy it.
    #[inline]
    fn submit(&self, kind: OpKind, sector: Sector, count: Sectors, memory: Memory) -> IoState {
        let op = Op { kind, sector, count, memory };
        if !self.admit(&op) {
            return IoState::Refused;
        }
        IoState::Started(self.inner.backend.start(op))
    }

    /// Counts an operation; whether it keeps the contract.
    #[inline]
    fn admit(&self, op: &Op) -> bool {
        // No `match`: its jump table costs more than the two kinds that nearly all are.
        if op.kind == OpKind::Read {
            self.inner.counts.count_read();
        } else if matches!(op.kind, OpKind::Write { .. }) {
            self.inner.counts.count_write();
        } else if op.kind == OpKind::Flush {
            self.inner.counts.count_flush();
        }
        let allowed = self.allowed(op);
        debug_assert!(allowed, "{}: operation outside the contract: {op:?}", self.inner.name);
        allowed
    }

    /// An operation of this disk has failed.
    #[cold]
    fn error(&self, kind: OpKind, sector: Sector, count: Sectors, errno: Errno) -> DiskError {
        self.inner.counts.count_error();
        FailedOp { kind, disk: self.inner.name.clone(), sector, count, errno }.into()
    }

    /// Reads a range into memory.
    #[inline]
    pub fn read(&self, sector: Sector, count: Sectors, memory: Memory) -> Io {
        self.start(Op { kind: OpKind::Read, sector, count, memory })
    }

    /// Writes memory to a range.
    #[inline]
    pub fn write(&self, sector: Sector, count: Sectors, memory: Memory, fua: bool) -> Io {
        // A disk without a volatile cache makes every write durable; FUA would only add cost.
        let fua = fua && self.limits().volatile_cache;
        self.start(Op { kind: OpKind::Write { fua }, sector, count, memory })
    }

    /// Makes completed writes durable; `Ok` immediately on a disk without a volatile cache.
    pub async fn flush(&self) -> Result<(), DiskError> {
        if !self.limits().volatile_cache {
            return Ok(());
        }
        self.start(Op {
            kind: OpKind::Flush,
            sector: Sector(0),
            count: Sectors(0),
            memory: Memory::None,
        })
        .await
    }

    fn allowed(&self, op: &Op) -> bool {
        if op.kind == OpKind::Flush {
            return op.count.0 == 0;
        }
        let inside = op.sector.0.checked_add(op.count.0).is_some_and(|end| self.reaches(end));
        inside && op.count.0 > 0 && (op.sector.0 | op.count.0) & self.inner.block_mask == 0
    }

    /// Whether the disk is so long, without asking the backend each time.
    #[inline]
    fn reaches(&self, end: u64) -> bool {
        end <= self.inner.found_size.get().0 || self.find_size() >= end
    }

    #[cold]
    fn find_size(&self) -> u64 {
        self.inner.found_size.set(self.size());
        self.size().0
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Disk({})", self.inner.name)
    }
}

/// How far an operation is.
enum IoState {
    Started(OpId),
    Refused,
    Done,
}

impl IoState {
    #[inline]
    fn poll(&mut self, disk: &Disk, cx: &mut Context<'_>) -> Poll<Result<(), Errno>> {
        let result = match *self {
            IoState::Started(id) => match disk.inner.backend.poll(id, cx.waker()) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(result) => result,
            },
            IoState::Refused => Err(Errno::EINVAL),
            // A future polled after its end has no second result.
            IoState::Done => return Poll::Pending,
        };
        *self = IoState::Done;
        Poll::Ready(result)
    }

    #[inline]
    fn detach(&self, disk: &Disk) {
        if let IoState::Started(id) = *self {
            disk.inner.backend.detach(id);
        }
    }
}

/// An operation in flight; await it for the result. Dropping it does not cancel the operation.
#[must_use = "an operation whose result is ignored has not been checked"]
pub struct Io {
    disk: Disk,
    kind: OpKind,
    sector: Sector,
    count: Sectors,
    state: IoState,
}

impl Future for Io {
    type Output = Result<(), DiskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Io { disk, kind, sector, count, state } = &mut *self;
        let result = state.poll(disk, cx);
        result.map_err(|errno| disk.error(*kind, *sector, *count, errno))
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        self.state.detach(&self.disk);
    }
}

/// The same on a borrowed disk, in two words: what the operation is, the caller knows.
#[must_use = "an operation whose result is ignored has not been checked"]
pub(crate) struct Flight<'a> {
    disk: &'a Disk,
    state: IoState,
}

impl Flight<'_> {
    /// The error of this operation.
    pub(crate) fn error(
        &self,
        kind: OpKind,
        sector: Sector,
        count: Sectors,
        errno: Errno,
    ) -> DiskError {
        self.disk.error(kind, sector, count, errno)
    }
}

impl Future for Flight<'_> {
    type Output = Result<(), Errno>;

    #[inline]
    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let disk = self.disk;
        self.state.poll(disk, cx)
    }
}

impl Drop for Flight<'_> {
    #[inline]
    fn drop(&mut self) {
        self.state.detach(self.disk);
    }
}
