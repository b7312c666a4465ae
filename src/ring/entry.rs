//! Turns an operation into an entry of the submission queue.
//!
//! Rule kept here: I6 (an entry points only into memory that its slot, its device or the process
//! holds).

use io_uring::types::{Fd, FsyncFlags};
use io_uring::{opcode, squeue};

use dm_targets::disk::{Memory, Op, OpKind};

use super::inner::{BUFFERS_INDEX, Inner, RingFile};
use super::payloads::Payload;

/// `_IO(0x12, 0)` of the kernel's `linux/blkdev.h`.
const BLOCK_URING_CMD_DISCARD: u32 = 0x1200;

/// Memory of a read or write.
enum Place {
    /// In a buffer registered with the ring.
    Fixed(*mut u8, u16),
    /// Unregistered.
    Plain(*mut u8),
    /// Scattered, as in the list of iovecs.
    Vector,
}

impl Inner {
    /// The entry for the rest of an operation; `None` if its memory does not exist.
    pub(super) fn entry(
        &self,
        op: &Op,
        file: &RingFile,
        done_bytes: u64,
        iovecs: &mut Vec<libc::iovec>,
    ) -> Option<squeue::Entry> {
        let offset = op.sector.bytes() + done_bytes;
        let len = op.count.bytes() - done_bytes;
        let (fd, flags) = file.target();
        let zero_range = libc::FALLOC_FL_ZERO_RANGE | libc::FALLOC_FL_KEEP_SIZE;
        let punch_hole = libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_KEEP_SIZE;
        let entry = match op.kind {
            OpKind::Flush => opcode::Fsync::new(fd).flags(FsyncFlags::DATASYNC).build(),
            OpKind::Discard if file.discards => discard_entry(fd, offset, len),
            OpKind::Discard => {
                opcode::Fallocate::new(fd, len).offset(offset).mode(punch_hole).build()
            }
            OpKind::WriteZeroes => {
                opcode::Fallocate::new(fd, len).offset(offset).mode(zero_range).build()
            }
            OpKind::Read => {
                let bytes = u32::try_from(len).ok()?;
                match self.place(&op.memory, done_bytes, bytes, iovecs)? {
                    Place::Fixed(address, index) => {
                        opcode::ReadFixed::new(fd, address, bytes, index).offset(offset).build()
                    }
                    Place::Plain(address) => {
                        opcode::Read::new(fd, address, bytes).offset(offset).build()
                    }
                    Place::Vector => {
                        let count = u32::try_from(iovecs.len()).ok()?;
                        opcode::Readv::new(fd, iovecs.as_ptr(), count).offset(offset).build()
                    }
                }
            }
            OpKind::Write { fua } => {
                let bytes = u32::try_from(len).ok()?;
                let place = self.place(&op.memory, done_bytes, bytes, iovecs)?;
                write_entry(fd, place, bytes, offset, fua, iovecs)?
            }
        };
        Some(entry.flags(flags))
    }

    fn place(
        &self,
        memory: &Memory,
        done_bytes: u64,
        bytes: u32,
        iovecs: &mut Vec<libc::iovec>,
    ) -> Option<Place> {
        match memory {
            Memory::None => None,
            Memory::Payload { id, offset_bytes } => {
                let at = usize::try_from(u64::from(*offset_bytes) + done_bytes).ok()?;
                match self.payloads.borrow().get(*id)? {
                    // A registered request buffer is addressed by the offset in it.
                    Payload::Registered => Some(Place::Fixed(
                        std::ptr::without_provenance_mut(at),
                        u16::try_from(id.0).ok()?,
                    )),
                    Payload::Mapped { address, len_bytes } => {
                        if at + bytes as usize > len_bytes {
                            return None;
                        }
                        // SAFETY: just found to lie inside the payload's mapping.
                        Some(Place::Plain(unsafe { address.add(at) }.as_ptr()))
                    }
                }
            }
            Memory::Buffer { buffer, offset_bytes } => {
                let at = u32::try_from(u64::from(*offset_bytes) + done_bytes).ok()?;
                let buffers = self.buffers.borrow();
                let address = buffers.address(buffer.id().0, at, bytes as usize)?.as_ptr();
                let fixed = self.buffers_registered && buffers.is_registered(buffer.id().0);
                Some(if fixed {
                    Place::Fixed(address, BUFFERS_INDEX)
                } else {
                    Place::Plain(address)
                })
            }
            Memory::Vector { buffers, offset_bytes } => {
                self.gather(
                    buffers.iter(),
                    u64::from(*offset_bytes) + done_bytes,
                    u64::from(bytes),
                    iovecs,
                )?;
                Some(Place::Vector)
            }
            Memory::Pages { pages, offset_bytes } => {
                self.gather(
                    pages.iter().cycle(),
                    u64::from(*offset_bytes) + done_bytes,
                    u64::from(bytes),
                    iovecs,
                )?;
                Some(Place::Vector)
            }
        }
    }

    /// Lists the memory of `len` bytes, from byte `skip` of a sequence of buffers.
    fn gather<'a>(
        &self,
        buffers: impl Iterator<Item = &'a dm_targets::disk::Buffer>,
        mut skip: u64,
        mut len: u64,
        iovecs: &mut Vec<libc::iovec>,
    ) -> Option<()> {
        iovecs.clear();
        for buffer in buffers {
            let size = u64::from(buffer.len_bytes());
            if skip >= size {
                skip -= size;
                continue;
            }
            let part = (size - skip).min(len);
            let address = self.buffers.borrow().address(
                buffer.id().0,
                u32::try_from(skip).ok()?,
                usize::try_from(part).ok()?,
            )?;
            iovecs.push(libc::iovec {
                iov_base: address.as_ptr().cast(),
                iov_len: usize::try_from(part).ok()?,
            });
            (skip, len) = (0, len - part);
            if len == 0 {
                return Some(());
            }
        }
        None
    }
}

/// A discard of a block device: its start is in the address, its length at the start of the
/// command. A worker thread issues it, which may block: devices that cannot promise not to block
/// (many of device-mapper's) refuse nonblocking discards.
#[allow(clippy::host_endian_bytes)] // as the kernel reads it
fn discard_entry(fd: Fd, offset: u64, len: u64) -> squeue::Entry {
    let mut command = [0; 16];
    command[..8].copy_from_slice(&len.to_ne_bytes());
    opcode::UringCmd16::new(fd, BLOCK_URING_CMD_DISCARD)
        .cmd(command)
        .addr(Some(offset))
        .build()
        .flags(squeue::Flags::ASYNC)
}

fn write_entry(
    fd: Fd,
    place: Place,
    bytes: u32,
    offset: u64,
    fua: bool,
    iovecs: &[libc::iovec],
) -> Option<squeue::Entry> {
    let sync = if fua { libc::RWF_DSYNC } else { 0 };
    Some(match place {
        Place::Fixed(address, index) => {
            opcode::WriteFixed::new(fd, address, bytes, index).offset(offset).rw_flags(sync).build()
        }
        Place::Plain(address) => {
            opcode::Write::new(fd, address, bytes).offset(offset).rw_flags(sync).build()
        }
        Place::Vector => {
            let count = u32::try_from(iovecs.len()).ok()?;
            opcode::Writev::new(fd, iovecs.as_ptr(), count).offset(offset).rw_flags(sync).build()
        }
    })
}
