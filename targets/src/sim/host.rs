//! Memory and time of the simulated machine.
//!
//! Using a buffer or payload after its release breaks rule I6 and panics. Buffer ids are never
//! reused, so that a stale one cannot reach another owner's memory. A new buffer holds garbage, as
//! real memory does.

use std::cell::{Cell, RefCell};
use std::task::Waker;

use super::told::Told;
use crate::disk::{BufferId, Host, Memory, PayloadId, UserData};

/// Released buffers are kept for the next simulated machine, up to this many: allocating memory for
/// each of a hundred thousand machines would take longer than everything else.
const POOLED: usize = 32;
/// Content of memory before the first write to it: the same in every run, so that runs can be
/// repeated.
const GARBAGE: u8 = 0xDB;

thread_local! {
    static POOL: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

struct Slot {
    bytes: Vec<u8>,
    references: u32,
    /// The part that has been written to, from start to end: only that must become garbage again.
    touched: (usize, usize),
}

impl Slot {
    fn write(&mut self, at: usize, bytes: &[u8]) {
        self.bytes[at..at + bytes.len()].copy_from_slice(bytes);
        self.touched = (self.touched.0.min(at), self.touched.1.max(at + bytes.len()));
    }
}

/// The simulated machine's memory and clock.
pub struct SimHost {
    buffers: RefCell<Vec<Option<Slot>>>,
    lent: Cell<usize>,
    limit: Cell<usize>,
    payloads: RefCell<Vec<Option<Vec<u8>>>>,
    now_ms: Cell<u64>,
    timers: RefCell<Vec<(u64, Waker)>>,
    /// Its requests that wait for completions.
    pub told: Told,
}

impl SimHost {
    /// A machine that lends at most `limit` buffers at a time.
    pub fn new(limit: usize) -> SimHost {
        SimHost {
            buffers: RefCell::default(),
            lent: Cell::new(0),
            limit: Cell::new(limit),
            payloads: RefCell::default(),
            now_ms: Cell::new(0),
            timers: RefCell::default(),
            told: Told::default(),
        }
    }

    /// Changes the maximum number of lent buffers.
    pub fn set_limit(&self, limit: usize) {
        self.limit.set(limit);
    }

    /// Buffers lent now.
    pub fn lent(&self) -> usize {
        self.lent.get()
    }

    /// The memory of a new request.
    pub fn add_payload(&self, bytes: Vec<u8>) -> PayloadId {
        let mut payloads = self.payloads.borrow_mut();
        payloads.push(Some(bytes));
        PayloadId(u32::try_from(payloads.len() - 1).unwrap_or(u32::MAX))
    }

    /// Ends a request and returns its memory, which must not be used from now on.
    pub fn take_payload(&self, id: PayloadId) -> Vec<u8> {
        let payload = self.payloads.borrow_mut()[id.0 as usize].take();
        payload.unwrap_or_else(|| panic!("I6: request {} was completed twice", id.0))
    }

    /// Moves the clock to the earliest timer and wakes its task; returns `false` if there is no
    /// timer.
    pub fn advance_to_timer(&self) -> bool {
        let mut timers = self.timers.borrow_mut();
        let Some(next) = timers.iter().map(|(time, _)| *time).min() else { return false };
        self.now_ms.set(self.now_ms.get().max(next));
        timers.retain(|(time, waker)| {
            let due = *time <= next;
            if due {
                waker.wake_by_ref();
            }
            !due
        });
        true
    }

    /// The bytes of an operation's memory.
    pub(super) fn gather(&self, memory: &Memory, len: usize) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(len);
        self.each_range(memory, len, |range, range_len| {
            let start = bytes.len();
            bytes.resize(start + range_len, 0);
            match range {
                Range::Payload(id, offset) => {
                    self.with_payload(id, |payload| {
                        bytes[start..].copy_from_slice(&payload[offset..offset + range_len])
                    });
                }
                Range::Buffer(id, offset) => self.with(id, |slot| {
                    bytes[start..].copy_from_slice(&slot.bytes[offset..offset + range_len]);
                }),
            }
        });
        bytes
    }

    /// Copies the bytes of a finished read to its memory.
    pub(super) fn scatter(&self, memory: &Memory, bytes: &[u8]) {
        let mut done = 0;
        self.each_range(memory, bytes.len(), |range, range_len| {
            let from = &bytes[done..done + range_len];
            match range {
                Range::Payload(id, offset) => {
                    self.with_payload(id, |payload| {
                        payload[offset..offset + range_len].copy_from_slice(from)
                    });
                }
                Range::Buffer(id, offset) => self.with(id, |slot| slot.write(offset, from)),
            }
            done += range_len;
        });
    }

    fn each_range(&self, memory: &Memory, len: usize, mut each: impl FnMut(Range, usize)) {
        let (buffers, offset, rounds) = match memory {
            Memory::None => panic!("an operation that moves data has no memory"),
            Memory::Payload { id, offset_bytes } => {
                return each(Range::Payload(*id, *offset_bytes as usize), len);
            }
            Memory::Buffer { buffer, offset_bytes } => {
                (std::slice::from_ref(buffer), *offset_bytes, 1)
            }
            Memory::Vector { buffers, offset_bytes } => (&buffers[..], *offset_bytes, 1),
            Memory::Pages { pages, offset_bytes } => (&pages[..], *offset_bytes, usize::MAX),
        };
        let (mut skip, mut left) = (offset as usize, len);
        for buffer in buffers.iter().cycle().take(buffers.len().saturating_mul(rounds)) {
            let size = buffer.len_bytes() as usize;
            let start = skip.min(size);
            skip -= start;
            let now = (size - start).min(left);
            if now > 0 {
                each(Range::Buffer(buffer.id(), start), now);
                left -= now;
            }
            if left == 0 {
                return;
            }
        }
        panic!("an operation's memory ends {left} bytes before the operation does");
    }

    fn with_payload(&self, id: PayloadId, work: impl FnOnce(&mut Vec<u8>)) {
        let mut payloads = self.payloads.borrow_mut();
        match payloads.get_mut(id.0 as usize).and_then(Option::as_mut) {
            Some(payload) => work(payload),
            None => panic!("I6: an operation outlived request {}", id.0),
        }
    }

    fn with<T>(&self, id: BufferId, work: impl FnOnce(&mut Slot) -> T) -> T {
        let mut buffers = self.buffers.borrow_mut();
        match buffers.get_mut(id.0 as usize).and_then(Option::as_mut) {
            Some(slot) => work(slot),
            None => panic!("I6: buffer {} was used after its release", id.0),
        }
    }
}

/// A piece of an operation's memory.
enum Range {
    Payload(PayloadId, usize),
    Buffer(BufferId, usize),
}

impl Host for SimHost {
    fn tell(&self, data: UserData) {
        self.told.tell(data, Ok(()));
    }

    fn acquire(&self, len_bytes: u32) -> Option<BufferId> {
        if self.lent.get() >= self.limit.get() {
            return None;
        }
        self.lent.set(self.lent.get() + 1);
        let len = len_bytes as usize;
        let pooled = POOL.with_borrow_mut(|pool| {
            let index = pool.iter().position(|bytes| bytes.len() == len)?;
            Some(pool.swap_remove(index))
        });
        let bytes = pooled.unwrap_or_else(|| vec![GARBAGE; len]);
        let mut buffers = self.buffers.borrow_mut();
        buffers.push(Some(Slot { bytes, references: 1, touched: (len, 0) }));
        Some(BufferId(u32::try_from(buffers.len() - 1).unwrap_or(u32::MAX)))
    }

    fn retain(&self, id: BufferId) {
        self.with(id, |slot| slot.references += 1);
    }

    fn release(&self, id: BufferId) {
        let references = self.with(id, |slot| {
            slot.references -= 1;
            slot.references
        });
        if references > 0 {
            return;
        }
        self.lent.set(self.lent.get() - 1);
        if let Some(mut slot) = self.buffers.borrow_mut()[id.0 as usize].take() {
            if slot.touched.0 < slot.touched.1 {
                slot.bytes[slot.touched.0..slot.touched.1].fill(GARBAGE);
            }
            POOL.with_borrow_mut(|pool| {
                if pool.len() < POOLED {
                    pool.push(slot.bytes);
                }
            });
        }
    }

    fn read(&self, id: BufferId, offset_bytes: u32, out: &mut [u8]) {
        let start = offset_bytes as usize;
        self.with(id, |slot| out.copy_from_slice(&slot.bytes[start..start + out.len()]));
    }

    fn write(&self, id: BufferId, offset_bytes: u32, bytes: &[u8]) {
        let start = offset_bytes as usize;
        self.with(id, |slot| slot.write(start, bytes));
    }

    fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }

    fn wake_at(&self, time_ms: u64, waker: &Waker) {
        self.timers.borrow_mut().push((time_ms, waker.clone()));
    }
}
