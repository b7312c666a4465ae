//! Files and disks on the ring.
//!
//! Using a file through the ring's file table saves the kernel a lookup per operation. Kernels
//! before 6.13 release a table entry only when all older requests have ended, and the ublk commands
//! of an idle device never end; there, files are used by descriptor.

use std::cell::{Cell, RefCell};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::rc::Rc;
use std::task::{Poll, Waker};

use dm_targets::disk::{Backend, Completions, Errno, Limits, Op, OpId, UserData};
use dm_targets::units::Sectors;
use io_uring::squeue;
use io_uring::types::Fd;

use super::inner::{FileTable, Inner, RingFile, Work};
use super::merge::can_join;

/// Entries of the file table: a disk for every snapshot and two files for every device of a large
/// family. Files without an entry are used by descriptor.
pub(super) const REGISTERED_FILES: u32 = 1024;
/// The first kernel that releases a table entry when the entry's own requests have ended.
const EARLY_RELEASE: (u32, u32) = (6, 13);
/// The first kernel whose block devices support discards through a ring.
const DISCARDS: (u32, u32) = (6, 12);

impl FileTable {
    /// Has the kernel create the table, if the kernel releases entries early.
    pub(super) fn new(uring: &io_uring::IoUring) -> FileTable {
        let is_at_least = |wanted| kernel_version().is_some_and(|version| version >= wanted);
        let free = if is_at_least(EARLY_RELEASE)
            && uring.submitter().register_files_sparse(REGISTERED_FILES).is_ok()
        {
            (0..REGISTERED_FILES).rev().collect()
        } else {
            Vec::new()
        };
        FileTable { free: RefCell::new(free), discards: is_at_least(DISCARDS) }
    }
}

/// Major and minor number of the running kernel.
fn kernel_version() -> Option<(u32, u32)> {
    let name = rustix::system::uname();
    let release = name.release().to_str().ok()?;
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
}

impl RingFile {
    pub(super) fn new(ring: &Rc<Inner>, file: OwnedFd) -> RingFile {
        let mut place = ring.files.free.borrow_mut().pop();
        if let Some(index) = place {
            let registered =
                ring.uring.borrow().submitter().register_files_update(index, &[file.as_raw_fd()]);
            if registered.is_err() {
                ring.files.free.borrow_mut().push(index);
                place = None;
            }
        }
        let is_block = rustix::fs::fstat(&file).is_ok_and(|status| {
            rustix::fs::FileType::from_raw_mode(status.st_mode).is_block_device()
        });
        let discards = is_block && ring.files.discards;
        let (held, last_read_end) = (RefCell::default(), Cell::new(u64::MAX));
        RingFile { ring: ring.clone(), file, place, is_block, discards, held, last_read_end }
    }

    /// How a submission entry names the file: a number, and which kind of number it is.
    pub fn target(&self) -> (Fd, squeue::Flags) {
        match self.place {
            // A place is below `REGISTERED_FILES`.
            Some(index) => (Fd(RawFd::try_from(index).unwrap_or(-1)), squeue::Flags::FIXED_FILE),
            None => (Fd(self.file.as_raw_fd()), squeue::Flags::empty()),
        }
    }
}

impl AsFd for RingFile {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl Drop for RingFile {
    fn drop(&mut self) {
        let Some(index) = self.place else { return };
        match self.ring.uring.borrow().submitter().register_files_update(index, &[-1]) {
            Ok(_) => self.ring.files.free.borrow_mut().push(index),
            Err(error) => log::warn!("cannot remove a file from the ring: {error}"),
        }
    }
}

/// Reads a file's current size, in sectors.
pub type SizeProbe = Box<dyn Fn(RawFd) -> Option<Sectors>>;

/// A block device or regular file on the ring.
pub(super) struct RingDisk {
    ring: Rc<Inner>,
    file: Rc<RingFile>,
    limits: Limits,
    size: Cell<Sectors>,
    probe: SizeProbe,
}

impl RingDisk {
    pub(super) fn new(
        ring: &Rc<Inner>,
        file: OwnedFd,
        limits: Limits,
        size: Sectors,
        probe: SizeProbe,
    ) -> RingDisk {
        let file = Rc::new(RingFile::new(ring, file));
        ring.disks.set(ring.disks.get() + 1);
        if let Err(error) = ring.buffers.borrow_mut().make_room(ring.disks.get()) {
            log::info!("no memory for the buffers of more disks: {error}");
        }
        RingDisk { ring: ring.clone(), file, limits, size: Cell::new(size), probe }
    }
}

impl Drop for RingDisk {
    fn drop(&mut self) {
        self.ring.disks.set(self.ring.disks.get() - 1);
    }
}

impl RingDisk {
    /// The errno of an operation. A write behind the end of a block device has ENOSPC, as one to a
    /// thin device has whose pool is full; and the end of a disk that was removed is at 0. That one
    /// gets what opening it would give: it is gone, not full.
    fn errno(&self, errno: Errno) -> Errno {
        let is_gone = || (self.probe)(self.file.as_fd().as_raw_fd()) == Some(Sectors(0));
        if errno == Errno::ENOSPC && self.file.is_block && is_gone() { Errno::ENXIO } else { errno }
    }
}

impl RingDisk {
    #[inline]
    fn submit(&self, op: Op, told_as: Option<UserData>) -> u32 {
        let hold = can_join(&self.file, &op);
        let work = Work::Disk { op, file: self.file.clone(), done_bytes: 0 };
        let slot = self.ring.take_slot(work, told_as);
        if hold {
            self.ring.hold(&self.file, slot);
        } else {
            self.ring.submit_disk(slot);
        }
        slot
    }
}

impl Completions for RingDisk {
    fn send(&self, op: Op, data: UserData) {
        self.submit(op, Some(data));
    }

    fn refuse(&self, data: UserData, errno: Errno) {
        self.ring.told.borrow_mut().push((data, -errno.0));
    }

    fn errno(&self, errno: Errno) -> Errno {
        self.errno(errno)
    }
}

impl Backend for RingDisk {
    fn start(&self, op: Op) -> OpId {
        OpId(self.submit(op, None))
    }

    fn completions(self: Rc<Self>) -> Option<Rc<dyn Completions>> {
        Some(self)
    }

    fn poll(&self, id: OpId, waker: &Waker) -> Poll<Result<(), Errno>> {
        let poll = self.ring.poll_slot(id.0, waker);
        poll.map(|result| if result < 0 { Err(self.errno(Errno(-result))) } else { Ok(()) })
    }

    fn detach(&self, id: OpId) {
        self.ring.detach_slot(id.0);
    }

    fn limits(&self) -> Limits {
        self.limits
    }

    fn size(&self) -> Sectors {
        self.size.get()
    }

    fn refresh_size(&self) -> Sectors {
        let found = (self.probe)(self.file.as_fd().as_raw_fd());
        self.size.set(found.map_or(self.size.get(), |found| found.max(self.size.get())));
        found.unwrap_or(self.size.get())
    }
}
