//! The one seam through which storage is reached.
//!
//! A [`Disk`] is what targets hold. It checks the contract below, counts, and hands the operation to a [`Backend`]: the
//! server's ring, or a simulated disk. A [`Host`] lends the memory and the time of the thread that all of them run on.
//!
//! # The contract
//!
//! * [`Disk::start`] submits at once; the returned [`Io`] only waits. Several operations are made concurrent by starting
//!   them all before awaiting the first. Operations in flight together may be carried out in any order.
//! * An operation either transferred everything or failed; a backend repeats short transfers itself. A failed read or
//!   write leaves its range, and only its range, undefined.
//! * A completed write is visible to later reads, and may be lost when power is. It is durable after a `Flush` that was
//!   *started* after the write completed, or on its own completion if it was a FUA write.
//! * I6: memory outlives the operation that uses it. A buffer is held by the operation itself until the completion. The
//!   payload of a request is held by whoever completes the request, which therefore may only happen when every [`Io`]
//!   on it has completed: targets await all that they started, also after an error.
//! * Positions and lengths are multiples of the disk's logical block size and lie inside the disk.

use std::cell::Cell;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use crate::units::{SECTOR_BYTES, Sector, Sectors};

/// An error number as the kernel or the disk gave it, positive (`EIO` is 5). It reaches the caller unchanged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Errno(pub i32);

impl Errno {
    /// Input/output error.
    pub const EIO: Errno = Errno(5);
    /// Out of memory.
    pub const ENOMEM: Errno = Errno(12);
    /// Invalid argument: what a misaligned or out-of-range operation gets.
    pub const EINVAL: Errno = Errno(22);
    /// No space left on the device: a full COW.
    pub const ENOSPC: Errno = Errno(28);
    /// What the kernel makes of an operation that a disk's firmware refuses.
    pub const EREMOTEIO: Errno = Errno(121);
    /// The disk cannot do this kind of operation.
    pub const EOPNOTSUPP: Errno = Errno(95);

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

/// One operation on one contiguous range of one disk.
#[derive(Clone, Debug)]
pub struct Op {
    /// What to do.
    pub kind: OpKind,
    /// Where it starts.
    pub sector: Sector,
    /// How long it is; zero for a flush.
    pub count: Sectors,
    /// Where the data comes from or goes to.
    pub memory: Memory,
}

/// The payload of a request, named by whoever received the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadId(pub u32);

/// The memory of an operation: handles, never bytes.
#[derive(Clone, Debug)]
pub enum Memory {
    /// No data: flush, discard, write zeroes.
    None,
    /// The request's own payload, from `offset_bytes` on (dm-io's BIO kind).
    Payload {
        /// Whose payload.
        id: PayloadId,
        /// Where in it the operation starts.
        offset_bytes: u32,
    },
    /// One contiguous buffer (dm-io's KMEM and VMA kinds: the distinction has no meaning outside a kernel).
    Buffer {
        /// The buffer.
        buffer: Buffer,
        /// Where in it the operation starts.
        offset_bytes: u32,
    },
    /// Buffers used one after the other, from `offset_bytes` into the first.
    Vector {
        /// The buffers in order.
        buffers: Rc<[Buffer]>,
        /// Where in the first buffer the operation starts.
        offset_bytes: u32,
    },
    /// A list of pages, used round and round until the length is reached (kcopyd's zero page is a list of one),
    /// from `offset_bytes` into the first.
    Pages {
        /// The pages in order.
        pages: Rc<[Buffer]>,
        /// Where in the first page the operation starts.
        offset_bytes: u32,
    },
}

impl Memory {
    /// The same memory from `bytes` further on.
    pub fn advanced(&self, bytes: u64) -> Memory {
        // No request is longer than 4 GiB: lengths come from 32-bit sector counts cut far below that.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        let mut memory = self.clone();
        match &mut memory {
            Memory::None => {}
            Memory::Payload { offset_bytes, .. }
            | Memory::Buffer { offset_bytes, .. }
            | Memory::Vector { offset_bytes, .. }
            | Memory::Pages { offset_bytes, .. } => *offset_bytes += bytes,
        }
        memory
    }

    /// Fills a part with zeroes, so that a failed read never shows what the memory held before. A payload belongs to
    /// whoever made the request and sees the error instead.
    pub fn clear(&self, offset_bytes: u64, len_bytes: u64) {
        let memory = self.advanced(offset_bytes);
        match &memory {
            Memory::None | Memory::Payload { .. } => {}
            Memory::Buffer { buffer, offset_bytes } => {
                clear_buffers(std::iter::once(buffer), *offset_bytes, len_bytes);
            }
            Memory::Vector { buffers, offset_bytes } => clear_buffers(buffers.iter(), *offset_bytes, len_bytes),
            Memory::Pages { pages, offset_bytes } => clear_buffers(pages.iter().cycle(), *offset_bytes, len_bytes),
        }
    }
}

fn clear_buffers<'a>(buffers: impl Iterator<Item = &'a Buffer>, offset_bytes: u32, len_bytes: u64) {
    let zeroes = [0; 4096];
    let (mut skip, mut left) = (u64::from(offset_bytes), len_bytes);
    for buffer in buffers {
        let size = u64::from(buffer.len_bytes);
        let mut at = skip.min(size);
        skip -= at;
        while at < size && left > 0 {
            let step = (size - at).min(left).min(zeroes.len() as u64);
            // both lie within a buffer, whose length is 32 bits
            #[allow(clippy::cast_possible_truncation)]
            buffer.write(at as u32, &zeroes[..step as usize]);
            at += step;
            left -= step;
        }
        if left == 0 {
            return;
        }
    }
}

/// Index of a buffer in its host's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferId(pub u32);

/// The memory and the time of one thread. Buffers are page aligned and contiguous.
pub trait Host {
    /// Lends a buffer of at least `len_bytes`, or `None` when the memory set aside for buffers is used up.
    /// The buffer starts with one reference. Its content is undefined.
    fn acquire(&self, len_bytes: u32) -> Option<BufferId>;
    /// One more reference to a buffer.
    fn retain(&self, id: BufferId);
    /// One reference less; the last one gives the buffer back.
    fn release(&self, id: BufferId);
    /// Copies out of a buffer. Only metadata is ever looked at.
    fn read(&self, id: BufferId, offset_bytes: u32, out: &mut [u8]);
    /// Copies into a buffer.
    fn write(&self, id: BufferId, offset_bytes: u32, bytes: &[u8]);
    /// Milliseconds on a clock that only goes forward.
    fn now_ms(&self) -> u64;
    /// Wakes the task at or after that time.
    fn wake_at(&self, time_ms: u64, waker: &Waker);
}

/// A counted handle to a buffer of a [`Host`]; the buffer goes back when the last handle is dropped.
pub struct Buffer {
    host: Rc<dyn Host>,
    id: BufferId,
    len_bytes: u32,
}

impl Buffer {
    /// Borrows a buffer from the host; `None` when it has none left.
    pub fn acquire(host: &Rc<dyn Host>, len_bytes: u32) -> Option<Buffer> {
        let id = host.acquire(len_bytes)?;
        Some(Buffer { host: host.clone(), id, len_bytes })
    }

    /// Which buffer of the host this is.
    pub fn id(&self) -> BufferId {
        self.id
    }

    /// Its usable length in bytes.
    pub fn len_bytes(&self) -> u32 {
        self.len_bytes
    }

    /// Copies bytes out.
    pub fn read(&self, offset_bytes: u32, out: &mut [u8]) {
        self.host.read(self.id, offset_bytes, out);
    }

    /// Copies bytes in.
    pub fn write(&self, offset_bytes: u32, bytes: &[u8]) {
        self.host.write(self.id, offset_bytes, bytes);
    }

    /// This buffer as an operation's memory, from a byte offset on.
    pub fn at(&self, offset_bytes: u32) -> Memory {
        Memory::Buffer { buffer: self.clone(), offset_bytes }
    }
}

impl Clone for Buffer {
    fn clone(&self) -> Buffer {
        self.host.retain(self.id);
        Buffer { host: self.host.clone(), id: self.id, len_bytes: self.len_bytes }
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        self.host.release(self.id);
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({}, {} bytes)", self.id.0, self.len_bytes)
    }
}

/// What a disk is and can do. All lengths in bytes unless the type says otherwise.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Smallest addressable unit.
    pub logical_block_bytes: u32,
    /// Unit the disk writes without reading first.
    pub physical_block_bytes: u32,
    /// Completed writes may be lost with power until flushed.
    pub volatile_cache: bool,
    /// The disk refuses writes.
    pub read_only: bool,
    /// Largest discard, zero if there is none.
    pub max_discard: Sectors,
    /// Discard granularity, zero if there is no discard.
    pub discard_granularity_bytes: u32,
    /// Largest write-zeroes, zero if there is none.
    pub max_write_zeroes: Sectors,
}

/// Names an operation in flight to its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpId(pub u32);

/// What carries operations out. Targets never call it; they use [`Disk`].
pub trait Backend {
    /// Submits an operation; may complete it before returning.
    fn start(&self, op: Op) -> OpId;
    /// The result of an operation, once; until then the waker is kept and woken on completion.
    fn poll(&self, id: OpId, waker: &Waker) -> Poll<Result<(), Errno>>;
    /// Nobody waits any longer: the operation goes on and its id is free after the completion.
    fn detach(&self, id: OpId);
    /// What the disk is and can do; asked for once.
    fn limits(&self) -> Limits;
    /// The disk's size as last seen.
    fn size(&self) -> Sectors;
    /// Looks at the size again: a COW may have been grown.
    fn refresh_size(&self) -> Sectors {
        self.size()
    }
}

/// An operation that failed: what, where, why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskError {
    /// What was attempted.
    pub kind: OpKind,
    /// The disk's name, as the user gave it.
    pub disk: Rc<str>,
    /// Where the operation started.
    pub sector: Sector,
    /// How long it was.
    pub count: Sectors,
    /// What the disk said.
    pub errno: Errno,
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
        write!(f, "{}: {what} of {} sectors at sector {}: {text}", self.disk, self.count, self.sector)
    }
}

impl std::error::Error for DiskError {}

/// What went through a disk since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Reads started.
    pub reads: u64,
    /// Writes started (FUA included, discards and zeroes not).
    pub writes: u64,
    /// Flushes started.
    pub flushes: u64,
    /// Operations that failed.
    pub errors: u64,
}

#[derive(Default)]
struct Tally {
    reads: Cell<u64>,
    writes: Cell<u64>,
    flushes: Cell<u64>,
    errors: Cell<u64>,
}

struct DiskInner {
    backend: Rc<dyn Backend>,
    name: Rc<str>,
    limits: Limits,
    /// Bits of a sector number that are zero at the start of a logical block.
    block_mask: u64,
    tally: Tally,
}

/// A disk as targets see it: the only place where the contract is checked and operations are counted.
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
        Disk { inner: Rc::new(DiskInner { backend, name, limits, block_mask, tally: Tally::default() }) }
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

    /// Looks at the size again.
    pub fn refresh_size(&self) -> Sectors {
        self.inner.backend.refresh_size()
    }

    /// What went through it so far.
    pub fn counters(&self) -> Counters {
        let Tally { reads, writes, flushes, errors } = &self.inner.tally;
        Counters { reads: reads.get(), writes: writes.get(), flushes: flushes.get(), errors: errors.get() }
    }

    /// Whether two handles reach the same open disk.
    pub fn same(&self, other: &Disk) -> bool {
        Rc::ptr_eq(&self.inner, &other.inner)
    }

    /// Starts an operation at once. One outside the contract is not passed on and completes with `EINVAL`.
    pub fn start(&self, op: Op) -> Io {
        let (kind, sector, count) = (op.kind, op.sector, op.count);
        let refused = !self.allowed(&op);
        debug_assert!(!refused, "{}: operation outside the contract: {op:?}", self.inner.name);
        let state = if refused { IoState::Refused } else { IoState::Started(self.inner.backend.start(op)) };
        let tally = &self.inner.tally;
        match kind {
            OpKind::Read => tally.reads.set(tally.reads.get() + 1),
            OpKind::Write { .. } => tally.writes.set(tally.writes.get() + 1),
            OpKind::Flush => tally.flushes.set(tally.flushes.get() + 1),
            OpKind::Discard | OpKind::WriteZeroes => {}
        }
        Io { disk: self.clone(), kind, sector, count, state }
    }

    /// Reads a range into memory.
    pub fn read(&self, sector: Sector, count: Sectors, memory: Memory) -> Io {
        self.start(Op { kind: OpKind::Read, sector, count, memory })
    }

    /// Writes memory to a range.
    pub fn write(&self, sector: Sector, count: Sectors, memory: Memory, fua: bool) -> Io {
        // A disk without a volatile cache makes every write durable; asking for FUA would only cost.
        let fua = fua && self.limits().volatile_cache;
        self.start(Op { kind: OpKind::Write { fua }, sector, count, memory })
    }

    /// Makes completed writes durable; `Ok` at once on a disk without a volatile cache.
    pub async fn flush(&self) -> Result<(), DiskError> {
        if !self.limits().volatile_cache {
            return Ok(());
        }
        self.start(Op { kind: OpKind::Flush, sector: Sector(0), count: Sectors(0), memory: Memory::None }).await
    }

    fn allowed(&self, op: &Op) -> bool {
        if op.kind == OpKind::Flush {
            return op.count.0 == 0;
        }
        let inside = op.sector.0.checked_add(op.count.0).is_some_and(|end| end <= self.size().0);
        inside && op.count.0 > 0 && (op.sector.0 | op.count.0) & self.inner.block_mask == 0
    }
}

impl fmt::Debug for Disk {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Disk({})", self.inner.name)
    }
}

enum IoState {
    Started(OpId),
    Refused,
    Done,
}

/// An operation in flight; await it for the result. Dropping it does not cancel the operation.
#[must_use = "an operation whose result nobody sees has not been checked"]
pub struct Io {
    disk: Disk,
    kind: OpKind,
    sector: Sector,
    count: Sectors,
    state: IoState,
}

impl Io {
    fn error(&self, errno: Errno) -> DiskError {
        let inner = &self.disk.inner;
        inner.tally.errors.set(inner.tally.errors.get() + 1);
        DiskError { kind: self.kind, disk: inner.name.clone(), sector: self.sector, count: self.count, errno }
    }
}

impl Future for Io {
    type Output = Result<(), DiskError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = match self.state {
            IoState::Started(id) => match self.disk.inner.backend.poll(id, cx.waker()) {
                Poll::Pending => return Poll::Pending,
                Poll::Ready(result) => result,
            },
            IoState::Refused => Err(Errno::EINVAL),
            // A future polled after its end has no second result to give.
            IoState::Done => return Poll::Pending,
        };
        self.state = IoState::Done;
        Poll::Ready(result.map_err(|errno| self.error(errno)))
    }
}

impl Drop for Io {
    fn drop(&mut self) {
        if let IoState::Started(id) = self.state {
            self.disk.inner.backend.detach(id);
        }
    }
}
