//! A machine in memory: everything that the services and targets of this crate need, for programs
//! without a kernel and for the examples in this documentation.
//!
//! A [`Ram`] lends buffers from the heap. Its clock stands still while any task can run and then
//! jumps to the next moment that a task waits for, so nothing ever sleeps. A [`RamDisk`] carries an
//! operation out when it is started; it never fails and has no cache to lose. (Disks that fail, and
//! lose power, are those of the simulator.)
//!
//! ```
//! use std::rc::Rc;
//! use dm_targets::disk::{Buffer, Host};
//! use dm_targets::exec::Executor;
//! use dm_targets::ram::{Ram, RamDisk};
//! use dm_targets::units::{Sector, Sectors};
//!
//! let ram = Ram::new();
//! let host: Rc<dyn Host> = ram.clone();
//! let disk = RamDisk::new(&ram, Sectors(64), RamDisk::LIMITS);
//! let (buffer, handle) = (Buffer::acquire(&host, 512).unwrap(), disk.handle("scratch"));
//! buffer.write(0, b"hello");
//! let write = async move { handle.write(Sector(9), Sectors(1), buffer.at(0), false).await };
//! let written = ram.run(&Executor::new(), write);
//! assert_eq!(written, Some(Ok(())));
//! assert_eq!(disk.bytes(Sector(9), Sectors(1))[..5], *b"hello");
//! ```

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::rc::Rc;
use std::task::{Poll, Waker};

use crate::disk::{
    Backend, BufferId, Disk, Errno, Host, Limits, Memory, Op, OpId, OpKind, PayloadId, UserData,
};
use crate::exec::Executor;
use crate::units::{Sector, Sectors};

/// A lent buffer.
struct Lent {
    bytes: Vec<u8>,
    references: u32,
}

/// Memory from the heap, requests' data, and a clock.
#[derive(Default)]
pub struct Ram {
    buffers: RefCell<Vec<Option<Lent>>>,
    payloads: RefCell<Vec<Option<Vec<u8>>>>,
    now_ms: Cell<u64>,
    timers: RefCell<Vec<(u64, Waker)>>,
}

impl Ram {
    /// A machine that has lent nothing yet, at the time 0.
    pub fn new() -> Rc<Ram> {
        Rc::default()
    }

    /// The data of a new request.
    pub fn add_payload(&self, bytes: Vec<u8>) -> PayloadId {
        put(&mut self.payloads.borrow_mut(), bytes).map_or(PayloadId(u32::MAX), PayloadId)
    }

    /// Takes back the data of a request that has ended; `None` if there is no such request.
    pub fn take_payload(&self, id: PayloadId) -> Option<Vec<u8>> {
        self.payloads.borrow_mut().get_mut(id.0 as usize)?.take()
    }

    /// Runs a task and those that it needs until it has ended; `None` if it waits for something
    /// that never happens.
    pub fn run<T: 'static>(
        &self,
        executor: &Executor,
        task: impl Future<Output = T> + 'static,
    ) -> Option<T> {
        let result = Rc::new(RefCell::new(None));
        let slot = result.clone();
        executor.spawn(async move {
            let value = task.await;
            slot.replace(Some(value));
        });
        loop {
            executor.run_ready();
            if result.borrow().is_some() || !self.advance() {
                return result.take();
            }
        }
    }

    /// Jumps to the next moment that a task waits for, and wakes the task; returns `false` if there
    /// is none.
    fn advance(&self) -> bool {
        let mut timers = self.timers.borrow_mut();
        let Some(next_ms) = timers.iter().map(|(time_ms, _)| *time_ms).min() else { return false };
        self.now_ms.set(self.now_ms.get().max(next_ms));
        timers.retain(|(time_ms, waker)| {
            if *time_ms <= next_ms {
                waker.wake_by_ref();
            }
            *time_ms > next_ms
        });
        true
    }

    /// Copies between a disk's bytes and an operation's memory. An error if the operation is longer
    /// than its memory.
    fn transfer(&self, memory: &Memory, on_disk: &mut [u8], read: bool) -> Result<(), Errno> {
        if let Memory::Payload { id, offset_bytes } = memory {
            let mut payloads = self.payloads.borrow_mut();
            let payload =
                payloads.get_mut(id.0 as usize).and_then(Option::as_mut).ok_or(Errno::EINVAL)?;
            let start = *offset_bytes as usize;
            let in_memory = payload.get_mut(start..start + on_disk.len()).ok_or(Errno::EINVAL)?;
            if read {
                in_memory.copy_from_slice(on_disk)
            } else {
                on_disk.copy_from_slice(in_memory)
            }
            return Ok(());
        }
        let (mut done, len_bytes) = (0, on_disk.len());
        memory.each_piece(len_bytes as u64, |buffer, at, piece_bytes| {
            let piece = &mut on_disk[done..done + piece_bytes as usize];
            if read {
                buffer.write(at, piece)
            } else {
                buffer.read(at, piece)
            }
            done += piece.len();
        });
        if done == len_bytes { Ok(()) } else { Err(Errno::EINVAL) }
    }

    fn with<T>(&self, id: BufferId, work: impl FnOnce(&mut Lent) -> T) -> Option<T> {
        self.buffers.borrow_mut().get_mut(id.0 as usize).and_then(Option::as_mut).map(work)
    }
}

/// Puts a value into the first free place of a list and returns its number.
fn put<T>(list: &mut Vec<Option<T>>, value: T) -> Option<u32> {
    let place = list.iter().position(Option::is_none).unwrap_or(list.len());
    let number = u32::try_from(place).ok()?;
    if place == list.len() {
        list.push(None);
    }
    list[place] = Some(value);
    Some(number)
}

impl Host for Ram {
    fn tell(&self, _: UserData) {
        debug_assert!(false, "its disks tell no completions");
    }

    fn acquire(&self, len_bytes: u32) -> Option<BufferId> {
        let lent = Lent { bytes: vec![0; len_bytes as usize], references: 1 };
        put(&mut self.buffers.borrow_mut(), lent).map(BufferId)
    }

    fn retain(&self, id: BufferId) {
        self.with(id, |lent| lent.references += 1);
    }

    fn release(&self, id: BufferId) {
        let left = self.with(id, |lent| {
            lent.references -= 1;
            lent.references
        });
        if left == Some(0) {
            self.buffers.borrow_mut()[id.0 as usize] = None;
        }
    }

    fn read(&self, id: BufferId, offset_bytes: u32, out: &mut [u8]) {
        let start = offset_bytes as usize;
        self.with(id, |lent| out.copy_from_slice(&lent.bytes[start..start + out.len()]));
    }

    fn write(&self, id: BufferId, offset_bytes: u32, bytes: &[u8]) {
        let start = offset_bytes as usize;
        self.with(id, |lent| lent.bytes[start..start + bytes.len()].copy_from_slice(bytes));
    }

    fn now_ms(&self) -> u64 {
        self.now_ms.get()
    }

    fn wake_at(&self, time_ms: u64, waker: &Waker) {
        self.timers.borrow_mut().push((time_ms, waker.clone()));
    }
}

/// A disk in memory, zeroed.
pub struct RamDisk {
    ram: Rc<Ram>,
    bytes: RefCell<Vec<u8>>,
    limits: Limits,
}

impl RamDisk {
    /// A disk with blocks of one sector, without discards and without write-zeroes.
    pub const LIMITS: Limits = Limits {
        logical_block_bytes: 512,
        physical_block_bytes: 4096,
        volatile_cache: false,
        read_only: false,
        max_discard: Sectors(0),
        discard_granularity_bytes: 0,
        max_write_zeroes: Sectors(0),
    };

    /// A disk of that size.
    pub fn new(ram: &Rc<Ram>, size: Sectors, limits: Limits) -> Rc<RamDisk> {
        let bytes = RefCell::new(vec![0; usize::try_from(size.bytes()).unwrap_or(usize::MAX)]);
        Rc::new(RamDisk { ram: ram.clone(), bytes, limits })
    }

    /// The disk as services and targets take it, under the name that errors will show.
    pub fn handle(self: &Rc<RamDisk>, name: &str) -> Disk {
        Disk::new(name, self.clone())
    }

    /// The content of the disk.
    pub fn bytes(&self, sector: Sector, count: Sectors) -> Vec<u8> {
        self.bytes.borrow()[range(sector, count)].to_vec()
    }

    fn carry_out(&self, op: &Op) -> Result<(), Errno> {
        let on_disk = &mut self.bytes.borrow_mut()[range(op.sector, op.count)];
        match op.kind {
            OpKind::Read => self.ram.transfer(&op.memory, on_disk, true),
            OpKind::Write { .. } => self.ram.transfer(&op.memory, on_disk, false),
            OpKind::Discard | OpKind::WriteZeroes => {
                on_disk.fill(0);
                Ok(())
            }
            OpKind::Flush => Ok(()),
        }
    }
}

/// The byte range of sectors, which are all in memory.
fn range(sector: Sector, count: Sectors) -> std::ops::Range<usize> {
    let at = |sectors: u64| usize::try_from(Sectors(sectors).bytes()).unwrap_or(usize::MAX);
    at(sector.0)..at(sector.0 + count.0)
}

/// An operation completes when it is started, so its id is its error number, or 0 if it succeeded.
impl Backend for RamDisk {
    fn start(&self, op: Op) -> OpId {
        OpId(self.carry_out(&op).map_or_else(|errno| errno.0.unsigned_abs(), |()| 0))
    }

    fn poll(&self, id: OpId, _: &Waker) -> Poll<Result<(), Errno>> {
        Poll::Ready(if id.0 == 0 {
            Ok(())
        } else {
            Err(Errno(i32::try_from(id.0).unwrap_or(i32::MAX)))
        })
    }

    fn detach(&self, _: OpId) {}

    fn limits(&self) -> Limits {
        self.limits
    }

    fn size(&self) -> Sectors {
        Sectors::from_bytes(self.bytes.borrow().len() as u64)
    }
}
