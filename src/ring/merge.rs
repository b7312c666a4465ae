//! Joins adjacent operations of a round.
//!
//! Chunk copies for different requests go to adjacent chunks of a COW, because COW chunks are
//! allocated in order. So reads and writes of the buffers are held back until the round is
//! submitted, and those that are contiguous on a disk are sent as one vectored operation. No
//! operation is held longer than the round that started it, and operations in flight together may
//! be carried out in any order anyway (see `dm_targets::disk`).
//!
//! Rules kept here: I6 (each operation keeps its own slot until the joint operation has completed;
//! the iovecs belong to the first operation's slot), and: only the operation that fails returns an
//! error. A joint operation that fails or is short is split, and each of its operations is
//! submitted separately.

use std::rc::Rc;

use dm_targets::disk::{Memory, Op, OpKind};
use io_uring::opcode::{Readv, ReadvFixed, Writev, WritevFixed};
use io_uring::{IoUring, Probe, squeue};

use super::inner::{BUFFERS_INDEX, Inner, NO_SLOT, RingFile, Slot, Work};

/// Most operations joined; the kernel's own bound on a vector that it need not allocate twice is
/// lower, its limit higher.
const MAX_JOINED: usize = 128;
/// Longest joint operation: a slice of the copy engine.
const MAX_JOINED_BYTES: u64 = 1 << 19;

/// Whether vectored operations can use registered buffers (6.15).
pub(super) fn has_fixed_vectors(uring: &IoUring) -> bool {
    let mut probe = Probe::new();
    uring.submitter().register_probe(&mut probe).is_ok()
        && probe.is_supported(ReadvFixed::CODE)
        && probe.is_supported(WritevFixed::CODE)
}

/// Whether an operation may be held back to be joined with others. Reads of an origin occur where
/// its users write, so only a read that starts where the last one ended is worth holding back;
/// writes to a COW nearly always have neighbours.
pub(super) fn can_join(file: &RingFile, op: &Op) -> bool {
    if !matches!(op.memory, Memory::Buffer { .. }) || op.count.bytes() >= MAX_JOINED_BYTES {
        return false;
    }
    match op.kind {
        OpKind::Read => file.last_read_end.replace(op.sector.0 + op.count.0) == op.sector.0,
        OpKind::Write { fua } => !fua,
        _ => false,
    }
}

/// An operation's position on its disk: reads before writes, each in ascending order.
fn position(slots: &[Slot], index: u32) -> (bool, u64, u64) {
    match &slots[index as usize].work {
        Work::Disk { op, .. } => (op.kind != OpKind::Read, op.sector.0, op.count.0),
        Work::Command | Work::None => (false, 0, 0),
    }
}

impl Inner {
    /// Holds an operation back until the round is submitted.
    pub(super) fn hold(&self, file: &Rc<RingFile>, index: u32) {
        let mut held = file.held.borrow_mut();
        if held.is_empty() {
            self.holding.borrow_mut().push(file.clone());
        }
        held.push(index);
    }

    /// Submits the operations that were held back.
    pub(super) fn submit_held(&self) {
        if self.holding.borrow().is_empty() {
            return;
        }
        let mut holding = self.holding.take();
        for file in holding.drain(..) {
            let mut held = file.held.take();
            if held.len() > 1 {
                let slots = self.slots.borrow();
                held.sort_unstable_by_key(|index| position(&slots, *index));
            }
            let mut left = &held[..];
            while !left.is_empty() {
                let count = self.joinable(left);
                let (now, later) = left.split_at(count);
                self.submit_joined(&file, now);
                left = later;
            }
            held.clear();
            file.held.replace(held);
        }
        self.holding.replace(holding);
    }

    /// How many operations from the start of a sorted list are contiguous.
    fn joinable(&self, list: &[u32]) -> usize {
        let slots = self.slots.borrow();
        let (kind, start, len) = position(&slots, list[0]);
        let (mut end, mut count) = (start + len, 1);
        for index in list[1..].iter().take(MAX_JOINED - 1) {
            let (next_kind, next_start, next_len) = position(&slots, *index);
            let bytes = (end + next_len - start) * dm_targets::units::SECTOR_BYTES;
            if next_kind != kind || next_start != end || bytes > MAX_JOINED_BYTES {
                break;
            }
            end += next_len;
            count += 1;
        }
        count
    }

    fn submit_joined(&self, file: &RingFile, list: &[u32]) {
        let first = list[0];
        let entry = if list.len() > 1 { self.joint_entry(file, list) } else { None };
        match entry {
            Some(entry) => {
                let mut slots = self.slots.borrow_mut();
                for pair in list.windows(2) {
                    slots[pair[0] as usize].next = pair[1];
                }
                drop(slots);
                self.push(entry.user_data(u64::from(first)));
            }
            None => list.iter().for_each(|index| self.submit_disk(*index)),
        }
    }

    /// The entry of several operations; its iovecs are those of the first one's slot.
    fn joint_entry(&self, file: &RingFile, list: &[u32]) -> Option<squeue::Entry> {
        let mut slots = self.slots.borrow_mut();
        let mut iovecs = std::mem::take(&mut slots[list[0] as usize].iovecs);
        iovecs.clear();
        let mut fixed = self.buffers_registered && self.fixed_vectors;
        let buffers = self.buffers.borrow();
        for index in list {
            let Work::Disk { op, .. } = &slots[*index as usize].work else { return None };
            let Memory::Buffer { buffer, offset_bytes } = &op.memory else { return None };
            let iov_len = usize::try_from(op.count.bytes()).ok()?;
            let iov_base = buffers.address(buffer.id().0, *offset_bytes, iov_len)?.as_ptr().cast();
            fixed &= buffers.is_registered(buffer.id().0);
            iovecs.push(libc::iovec { iov_base, iov_len });
        }
        let slot = &mut slots[list[0] as usize];
        slot.iovecs = iovecs;
        let Work::Disk { op, .. } = &slot.work else { return None };
        let (memory, count) = (slot.iovecs.as_ptr(), u32::try_from(list.len()).ok()?);
        let (fd, flags) = file.target();
        let offset = op.sector.bytes();
        let entry = match (op.kind, fixed) {
            (OpKind::Read, true) => {
                ReadvFixed::new(fd, memory, count, BUFFERS_INDEX).offset(offset).build()
            }
            (OpKind::Read, false) => Readv::new(fd, memory, count).offset(offset).build(),
            (_, true) => WritevFixed::new(fd, memory, count, BUFFERS_INDEX).offset(offset).build(),
            (_, false) => Writev::new(fd, memory, count).offset(offset).build(),
        };
        Some(entry.flags(flags))
    }

    /// A joint operation has completed: all its operations have completed, or each is submitted
    /// separately.
    pub(super) fn complete_joint(&self, first: u32, result: i32) {
        let whole = u64::try_from(result).is_ok_and(|moved| moved == self.joint_bytes(first));
        let mut index = first;
        while index != NO_SLOT {
            let next =
                std::mem::replace(&mut self.slots.borrow_mut()[index as usize].next, NO_SLOT);
            if whole {
                // Any positive number means success.
                self.finish(index, 1);
            } else {
                self.submit_disk(index);
            }
            index = next;
        }
    }

    fn joint_bytes(&self, first: u32) -> u64 {
        let slots = self.slots.borrow();
        let (mut index, mut bytes) = (first, 0);
        while index != NO_SLOT {
            let slot = &slots[index as usize];
            if let Work::Disk { op, .. } = &slot.work {
                bytes += op.count.bytes();
            }
            index = slot.next;
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::fs::File;
    use std::io::{Read, Write};
    use std::os::fd::OwnedFd;
    use std::rc::Rc;

    use dm_targets::disk::{Buffer, Disk, Errno, Io, Limits};
    use dm_targets::exec::Executor;
    use dm_targets::units::{Sector, Sectors};

    use super::super::Ring;

    fn disk(ring: &Ring, file: &File, sectors: u64) -> Disk {
        let limits = Limits {
            logical_block_bytes: 512,
            physical_block_bytes: 512,
            volatile_cache: true,
            read_only: false,
            max_discard: Sectors(0),
            discard_granularity_bytes: 0,
            max_write_zeroes: Sectors(0),
        };
        let file = OwnedFd::from(file.try_clone().unwrap());
        Disk::new("test", ring.disk(file, limits, Sectors(sectors), Box::new(|_| None)))
    }

    /// Awaits operations that were all started in one round.
    fn results(ring: &Ring, ios: Vec<Io>) -> Vec<Result<(), Errno>> {
        let executor = Executor::new();
        let (all, count) = (Rc::new(RefCell::new(Vec::new())), ios.len());
        let list = all.clone();
        executor.spawn(async move {
            for io in ios {
                let result = io.await.map_err(|error| error.errno);
                list.borrow_mut().push(result);
            }
        });
        executor.run_ready();
        while all.borrow().len() < count {
            ring.turn(false).unwrap();
            executor.run_ready();
        }
        all.take()
    }

    fn buffer(ring: &Ring, byte: u8) -> Buffer {
        let buffer = Buffer::acquire(&ring.host(), 4096).unwrap();
        buffer.write(0, &[byte; 4096]);
        buffer
    }

    #[test]
    fn neighbours_in_any_order_end_where_they_belong() {
        let mut file = tempfile::tempfile().unwrap();
        file.set_len(64 * 4096).unwrap();
        let ring = Ring::new().unwrap();
        let disk = disk(&ring, &file, 64 * 8);
        // Three runs of adjacent places, started in no order, and two places without a neighbour.
        let places = [5_u8, 3, 4, 9, 20, 8, 10, 31, 30, 60];
        let buffers: Vec<Buffer> = places.iter().map(|place| buffer(&ring, *place)).collect();
        let at = |place: u8| Sector(u64::from(place) * 8);
        let write = |(place, buffer): (&u8, &Buffer)| {
            disk.write(at(*place), Sectors(8), buffer.at(0), false)
        };
        let written = results(&ring, places.iter().zip(&buffers).map(write).collect());
        assert!(written.iter().all(Result::is_ok), "{written:?}");
        assert_eq!(disk.counters().writes, 10, "each counts as what it was started as");
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes).unwrap();
        for (place, chunk) in (0_u8..).zip(bytes.chunks(4096)) {
            let expected = if places.contains(&place) { place } else { 0 };
            assert!(chunk.iter().all(|byte| *byte == expected), "place {place}");
        }
    }

    #[test]
    fn only_the_one_that_fails_fails() {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(&[7; 3 * 4096]).unwrap();
        let ring = Ring::new().unwrap();
        // The disk claims to be longer than the file: the joint read ends early.
        let disk = disk(&ring, &file, 64);
        let buffers: Vec<Buffer> = (0..5).map(|_| buffer(&ring, 0)).collect();
        let read = |(place, buffer): (u64, &Buffer)| {
            disk.read(Sector(place * 8), Sectors(8), buffer.at(0))
        };
        let found = results(&ring, (0..).zip(&buffers).map(read).collect());
        assert_eq!(found, [Ok(()), Ok(()), Ok(()), Err(Errno::EIO), Err(Errno::EIO)]);
        for buffer in &buffers[..3] {
            let mut bytes = [0; 4096];
            buffer.read(0, &mut bytes);
            assert_eq!(bytes, [7; 4096]);
        }
    }
}
