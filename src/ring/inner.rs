//! What a ring holds: the ring itself, its slots, and the files that they work on.
//!
//! A ring knows its slots, a slot the file that it works on, and a file the ring in whose table it
//! has a place: so these types stand together. What is done with them is in the files beside this
//! one.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::Waker;
use std::time::Instant;

use dm_targets::disk::Op;
use io_uring::IoUring;

use super::buffers::Buffers;
use super::payloads::Payloads;

/// Most buffers the kernel registers with one ring, so, but for the last, most tags that can use
/// zero copy in a family.
pub(super) const REGISTERED_BUFFERS: u32 = 16384;
/// The last of them is the part of the buffers that is handed out first.
pub(super) const BUFFERS_INDEX: u16 = 16383;

/// A ring and all that goes with it.
pub(super) struct Inner {
    pub(super) uring: RefCell<IoUring>,
    pub(super) slots: RefCell<Vec<Slot>>,
    pub(super) free: RefCell<Vec<u32>>,
    pub(super) completed: RefCell<Vec<(u64, i32)>>,
    pub(super) buffers: RefCell<Buffers>,
    pub(super) payloads: RefCell<Payloads>,
    pub(super) timers: RefCell<Vec<(u64, Waker)>>,
    pub(super) start: Instant,
    /// Disk operations and commands that have been started.
    pub(super) started: Cell<u64>,
    pub(super) wake: RefCell<Option<OwnedFd>>,
    pub(super) wake_buffer: RefCell<Box<[u8; 8]>>,
    pub(super) mailbox_waker: RefCell<Option<Waker>>,
    pub(super) files: FileTable,
    /// Files with operations that wait for the end of the round.
    pub(super) holding: RefCell<Vec<Rc<RingFile>>>,
    pub(super) fixed_vectors: bool,
    pub(super) registered_buffers: bool,
    pub(super) buffers_registered: bool,
    /// What the ring could not do at all, and cannot go on after.
    pub(super) broken: RefCell<VecDeque<io::Error>>,
}

/// No slot.
pub(super) const NO_SLOT: u32 = u32::MAX;

/// What a slot is for.
pub(super) enum Work {
    /// An operation on a disk.
    Disk { op: Op, file: Rc<RingFile>, done_bytes: u64 },
    /// A command.
    Command,
    /// Nothing: the slot is free.
    None,
}

/// What is known of an operation.
pub(super) struct Slot {
    pub(super) work: Work,
    /// Counts what has been started, in order.
    pub(super) number: u64,
    pub(super) result: Option<i32>,
    pub(super) waker: Option<Waker>,
    pub(super) detached: bool,
    pub(super) iovecs: Vec<libc::iovec>,
    /// The operation that was joined to this one.
    pub(super) next: u32,
}

/// Free places of the file table.
pub(super) struct FileTable {
    pub(super) free: RefCell<Vec<u32>>,
    /// Block devices take discards from a ring.
    pub(super) discards: bool,
}

/// An open file, with its place in the ring's file table if it has one.
pub struct RingFile {
    pub(super) ring: Rc<Inner>,
    pub(super) file: OwnedFd,
    pub(super) place: Option<u32>,
    /// A block device that takes discards. Others punch holes, which a block device would
    /// understand as writes of zeroes.
    pub(super) discards: bool,
    /// Operations on it that wait for the end of the round.
    pub(super) held: RefCell<Vec<u32>>,
    /// The sector behind the last read.
    pub(super) last_read_end: Cell<u64>,
}
