//! The state of a ring: the ring itself, its slots, and the slots' files.
//!
//! A ring refers to its slots, a slot to its file, and a file to the ring in whose table it has an
//! entry: so these types are in one file. Their methods are in the other files of this folder.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::Waker;
use std::time::Instant;

use dm_targets::disk::{Op, UserData};
use io_uring::IoUring;

use super::buffers::Buffers;
use super::payloads::Payloads;

/// Most buffers that the kernel registers with one ring: all but the last are for zero copy, one
/// for each tag of a family.
pub(super) const REGISTERED_BUFFERS: u32 = 16384;
/// The last of them: the part of the I/O buffers that is allocated first.
pub(super) const BUFFERS_INDEX: u16 = 16383;

/// A ring and all that goes with it.
pub(super) struct Inner {
    pub(super) uring: RefCell<IoUring>,
    pub(super) slots: RefCell<Vec<Slot>>,
    pub(super) free: RefCell<Vec<u32>>,
    pub(super) completed: RefCell<Vec<(u64, i32)>>,
    /// Completions to be told.
    pub(super) told: RefCell<Vec<(UserData, i32)>>,
    pub(super) buffers: RefCell<Buffers>,
    /// Open disks.
    pub(super) disks: Cell<usize>,
    pub(super) payloads: RefCell<Payloads>,
    pub(super) timers: RefCell<Vec<(u64, Waker)>>,
    pub(super) start: Instant,
    /// The time since then at which the completions of this round were there, in nanoseconds.
    pub(super) round_ns: Cell<u64>,
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
    /// Errors after which the ring cannot continue.
    pub(super) broken: RefCell<VecDeque<io::Error>>,
}

/// Set in all user data of completions that are told. Below are the numbers of slots.
pub const TOLD: u64 = 1 << 63;
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

/// The state of an operation.
pub(super) struct Slot {
    pub(super) work: Work,
    /// The operation's number, in the order of starts.
    pub(super) number: u64,
    pub(super) result: Option<i32>,
    pub(super) waker: Option<Waker>,
    /// Its completion is told.
    pub(super) told_as: Option<UserData>,
    pub(super) detached: bool,
    pub(super) iovecs: Vec<libc::iovec>,
    /// The operation that was joined to this one.
    pub(super) next: u32,
}

/// Free entries of the file table.
pub(super) struct FileTable {
    pub(super) free: RefCell<Vec<u32>>,
    /// Block devices support discards through a ring.
    pub(super) discards: bool,
}

/// An open file, with its entry in the ring's file table if it has one.
pub struct RingFile {
    pub(super) ring: Rc<Inner>,
    pub(super) file: OwnedFd,
    pub(super) place: Option<u32>,
    pub(super) is_block: bool,
    /// A block device that supports discards. For other files holes are punched, which a block
    /// device would carry out as writes of zeroes.
    pub(super) discards: bool,
    /// Operations on it that wait for the end of the round.
    pub(super) held: RefCell<Vec<u32>>,
    /// The sector after the last read.
    pub(super) last_read_end: Cell<u64>,
}
