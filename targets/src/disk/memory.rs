//! The memory of operations: handles that targets pass on, and buffers that a [`Host`] lends.
//!
//! Targets never see the bytes of a request, so a payload has only a name here. Buffers can be
//! looked into, for metadata.
//!
//! Rule kept here: the half of I6 that is about buffers (one goes back to its host only when the
//! last handle to it is dropped, and an operation in flight has one).

use std::fmt;
use std::rc::Rc;
use std::task::Waker;

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
    /// One contiguous buffer (dm-io's KMEM and VMA kinds: the distinction has no meaning outside a
    /// kernel).
    Buffer {
        /// The buffer.
        buffer: Buffer,
        /// Where in it the operation starts.
        offset_bytes: u32,
    },
    /// Buffers used one after the other, from `offset_bytes` into the first (dm-io's PAGE_LIST kind
    /// where it is no ring): for data that its owner has in pieces. [`crate::io`] shows it in use.
    Vector {
        /// The buffers in order.
        buffers: Rc<[Buffer]>,
        /// Where in the first buffer the operation starts.
        offset_bytes: u32,
    },
    /// A list of pages, used round and round until the length is reached (kcopyd's zero page is a
    /// list of one), from `offset_bytes` into the first.
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

    /// The same memory from `bytes` further on.
    #[inline]
    pub fn advanced(&self, bytes: u64) -> Memory {
        // No request is longer than 4 GiB: lengths come from 32-bit sector counts cut far below
        // that.
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        // What nearly all requests have is two numbers: nothing is counted or cloned for it.
        match *self {
            Memory::Payload { id, offset_bytes } => {
                Memory::Payload { id, offset_bytes: offset_bytes + bytes }
            }
            _ => self.clone_advanced(bytes),
        }
    }

    /// Kept out of the way of requests.
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

    /// Fills a part with zeroes, so that a failed read never shows what the memory held before. A
    /// payload belongs to whoever made the request and sees the error instead.
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

    /// Calls back with the pieces of buffers that the first `len_bytes` of this memory are, in
    /// order: the buffer, where in it the piece starts, and how long it is. There are fewer bytes
    /// of them where the memory is shorter, and none of a payload.
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
        // No longer than a buffer, whose length is 32 bits.
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

/// The memory and the time of one thread. Buffers are page aligned and contiguous.
pub trait Host {
    /// Lends a buffer of at least `len_bytes`, or `None` when the memory set aside for buffers is
    /// used up. The buffer starts with one reference. Its content is undefined.
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

/// A counted handle to a buffer of a [`Host`]; the buffer goes back when the last handle is
/// dropped.
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
