//! The memory of operations: payload handles that targets pass on, and buffers lent by a [`Host`].
//!
//! Targets never see the bytes of a request, so a payload is only an identifier here. Buffers can
//! be read and written, for metadata.
//!
//! Rule kept here: the half of I6 for buffers (a buffer returns to its host only when the last
//! handle to it is dropped, and an operation in flight holds a handle).

use std::fmt;
use std::rc::Rc;
use std::task::Waker;

use super::user_data::UserData;

/// The payload of a request, with an identifier from the caller that received the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PayloadId(pub u32);

/// The memory of an operation: handles, never bytes.
#[derive(Clone, Debug)]
pub enum Memory {
    /// No data: flush, discard, write zeroes.
    None,
    /// The request's own payload, from `offset_bytes` on (dm-io's BIO kind).
    Payload {
        /// The payload.
        id: PayloadId,
        /// The offset of the operation in it.
        offset_bytes: u32,
    },
    /// One contiguous buffer (dm-io's KMEM and VMA kinds: the distinction has no meaning outside a
    /// kernel).
    Buffer {
        /// The buffer.
        buffer: Buffer,
        /// The offset of the operation in it.
        offset_bytes: u32,
    },
    /// Buffers used in sequence, from `offset_bytes` into the first (dm-io's PAGE_LIST kind without
    /// a ring): for data in several pieces. [`crate::io`] has an example.
    Vector {
        /// The buffers in order.
        buffers: Rc<[Buffer]>,
        /// Where in the first buffer the operation starts.
        offset_bytes: u32,
    },
    /// A list of pages, used cyclically until the length is reached (kcopyd's zero page is a list
    /// of one), from `offset_bytes` into the first.
    Pages {
        /// The pages in order.
        pages: Rc<[Buffer]>,
        /// Where in the first page the operation starts.
        offset_bytes: u32,
    },
}

impl Memory {
    /// A request's payload from its start.
    pub const fn payload(id: PayloadId) -> Memory {
        Memory::Payload { id, offset_bytes: 0 }
    }

    /// The same memory, advanced by `bytes`.
    #[inline]
    pub fn advanced(&self, bytes: u64) -> Memory {
        // No request is longer than 4 GiB: lengths are 32-bit sector counts, limited far below
        // that.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        // Nearly all requests have a payload, which is two numbers: no reference is counted or
        // cloned.
        match *self {
            Memory::Payload { id, offset_bytes } => {
                Memory::Payload { id, offset_bytes: offset_bytes + bytes }
            }
            _ => self.clone_advanced(bytes),
        }
    }

    /// Out of line, off the request path.
    #[cold]
    #[inline(never)]
    fn clone_advanced(&self, bytes: u32) -> Memory {
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

    /// Fills a range with zeroes, so that a failed read never exposes the memory's earlier content.
    /// A payload is not cleared: it belongs to the sender of the request, who gets the error.
    pub fn clear(&self, offset_bytes: u64, len_bytes: u64) {
        let zeroes = [0; 4096];
        self.advanced(offset_bytes).each_piece(len_bytes, |buffer, at, piece_bytes| {
            let mut done = 0;
            while done < piece_bytes {
                let step = (piece_bytes - done).min(4096);
                buffer.write(at + done, &zeroes[..step as usize]);
                done += step;
            }
        });
    }

    /// Calls `visit` with the pieces of buffers that make up the first `len_bytes` of this memory,
    /// in order: the buffer, the offset of the piece in it, and the length. Visits fewer bytes if
    /// the memory is shorter, and none of a payload.
    pub(crate) fn each_piece(&self, len_bytes: u64, visit: impl FnMut(&Buffer, u32, u32)) {
        match self {
            Memory::None | Memory::Payload { .. } => {}
            Memory::Buffer { buffer, offset_bytes } => {
                pieces(std::iter::once(buffer), *offset_bytes, len_bytes, visit);
            }
            Memory::Vector { buffers, offset_bytes } => {
                pieces(buffers.iter(), *offset_bytes, len_bytes, visit)
            }
            Memory::Pages { pages, offset_bytes } => {
                pieces(pages.iter().cycle(), *offset_bytes, len_bytes, visit)
            }
        }
    }
}

fn pieces<'a>(
    buffers: impl Iterator<Item = &'a Buffer>,
    offset_bytes: u32,
    len_bytes: u64,
    mut visit: impl FnMut(&Buffer, u32, u32),
) {
    let (mut skip, mut left) = (offset_bytes, len_bytes);
    for buffer in buffers {
        let at = skip.min(buffer.len_bytes);
        skip -= at;
        // No longer than a buffer, whose length has 32 bits.
        let piece_bytes = u32::try_from(left).unwrap_or(u32::MAX).min(buffer.len_bytes - at);
        if piece_bytes > 0 {
            visit(buffer, at, piece_bytes);
        }
        left -= u64::from(piece_bytes);
        if left == 0 {
            return;
        }
    }
}

/// Index of a buffer in its host's memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BufferId(pub u32);

/// The memory and the clock of one thread. Buffers are page aligned and contiguous.
pub trait Host {
    /// Lends a buffer of at least `len_bytes`; `None` when the memory reserved for buffers is used
    /// up. The buffer starts with one reference. Its content is undefined.
    fn acquire(&self, len_bytes: u32) -> Option<BufferId>;
    /// Adds a reference to a buffer.
    fn retain(&self, id: BufferId);
    /// Drops a reference; dropping the last one returns the buffer.
    fn release(&self, id: BufferId);
    /// Copies out of a buffer. Only metadata is ever read.
    fn read(&self, id: BufferId, offset_bytes: u32, out: &mut [u8]);
    /// Copies into a buffer.
    fn write(&self, id: BufferId, offset_bytes: u32, bytes: &[u8]);
    /// Milliseconds on a monotonic clock.
    fn now_ms(&self) -> u64;
    /// Wakes the task at or after `time_ms`.
    fn wake_at(&self, time_ms: u64, waker: &Waker);
    /// Tells that what a request without a task waits for has happened, as a disk tells the
    /// completion of an operation with this user data. Only for a host whose disks do that.
    fn tell(&self, data: UserData);
}

/// A counted handle to a buffer of a [`Host`]; the buffer returns to the host when the last handle
/// is dropped.
pub struct Buffer {
    host: Rc<dyn Host>,
    id: BufferId,
    len_bytes: u32,
}

impl Buffer {
    /// Borrows a buffer from the host; `None` when the host has none left.
    pub fn acquire(host: &Rc<dyn Host>, len_bytes: u32) -> Option<Buffer> {
        let id = host.acquire(len_bytes)?;
        Some(Buffer { host: host.clone(), id, len_bytes })
    }

    /// The buffer's index in the host.
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

    /// This buffer as the memory of an operation, from a byte offset on.
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
