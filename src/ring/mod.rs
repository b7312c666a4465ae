//! The ring of a thread: disk operations and ublk commands of a whole family go through one
//! io_uring.
//!
//! Rules kept here: I6 (the memory of an entry is held until its completion has been reaped: see
//! [`slot`] and [`entry`]), and: one submit-and-wait per round, no entry is submitted alone.
//!
//! [`inner`] has the state of a ring, [`slot`] an operation from its start to its completion,
//! [`entry`] its form for the kernel, [`merge`] the joining of several, [`disk`] files and disks,
//! [`payloads`] where requests' data is, [`told`] completions that no future waits for, [`waiting`]
//! which disks have not answered.

pub mod buffers;
mod disk;
mod entry;
mod inner;
mod merge;
mod payloads;
mod slot;
mod told;
mod waiting;

use std::cell::{Cell, RefCell};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::rc::Rc;
use std::task::Waker;
use std::time::Instant;

use dm_targets::disk::{Backend, BufferId, Host, Limits, PayloadId, UserData};
use dm_targets::units::Sectors;
use io_uring::types::{Fd, SubmitArgs, Timespec};
use io_uring::{IoUring, cqueue, opcode, squeue};

use buffers::Buffers;
use disk::RingDisk;
use inner::{BUFFERS_INDEX, FileTable, Inner, REGISTERED_BUFFERS, Slot, Work};
use payloads::Payloads;

pub use disk::SizeProbe;
pub use inner::{RingFile, TOLD};
pub use payloads::Payload;
pub use slot::Command;

/// Submission entries: a full round of every tag of a few devices. When they are exhausted, the
/// round is submitted early.
const SUBMISSION_ENTRIES: u32 = 1024;
/// Completion entries; further completions only take a slower path in the kernel, none is lost.
const COMPLETION_ENTRIES: u32 = 16384;
/// Marks completions of the wake-up descriptor.
const WAKE_DATA: u64 = u64::MAX;

/// The ring; clones share it. It belongs to the thread that made it.
#[derive(Clone)]
pub struct Ring {
    inner: Rc<Inner>,
}

impl Ring {
    /// A ring for this thread.
    pub fn new() -> io::Result<Ring> {
        let build = |single: bool| {
            let mut builder = IoUring::builder();
            builder.setup_cqsize(COMPLETION_ENTRIES).setup_submit_all();
            if single {
                builder.setup_single_issuer().setup_defer_taskrun().setup_taskrun_flag();
            } else {
                builder.setup_coop_taskrun();
            }
            builder.build(SUBMISSION_ENTRIES)
        };
        let uring = build(true).or_else(|_| build(false))?;
        let buffers = Buffers::new()?;
        let registered_buffers =
            uring.submitter().register_buffers_sparse(REGISTERED_BUFFERS).is_ok();
        let buffers_registered = registered_buffers && register_buffers(&uring, &buffers);
        Ok(Ring {
            inner: Rc::new(Inner {
                files: FileTable::new(&uring),
                holding: RefCell::default(),
                fixed_vectors: merge::has_fixed_vectors(&uring),
                uring: RefCell::new(uring),
                slots: RefCell::default(),
                free: RefCell::default(),
                completed: RefCell::default(),
                told: RefCell::default(),
                buffers: RefCell::new(buffers),
                disks: Cell::new(0),
                payloads: RefCell::new(Payloads::new(BUFFERS_INDEX)),
                timers: RefCell::default(),
                start: Instant::now(),
                round_ns: Cell::new(0),
                started: Cell::new(0),
                wake: RefCell::default(),
                wake_buffer: RefCell::new(Box::new([0; 8])),
                mailbox_waker: RefCell::default(),
                registered_buffers,
                buffers_registered,
                broken: RefCell::default(),
            }),
        })
    }

    /// The memory and time of this thread, for targets.
    pub fn host(&self) -> Rc<dyn Host> {
        self.inner.clone()
    }

    /// Whether the requests of that many more queues can use zero copy: the kernel can register
    /// buffers with the ring, and there is room for one per tag.
    pub fn has_room_for_buffers(&self, queues: u16, depth: u16) -> bool {
        self.inner.registered_buffers && self.inner.payloads.borrow().has_room(queues, depth)
    }

    /// A file for commands.
    pub fn file(&self, file: OwnedFd) -> Rc<RingFile> {
        Rc::new(RingFile::new(&self.inner, file))
    }

    /// Adds payloads for the tags of a queue and returns the id of the first; `None` if there is no
    /// room for that many registered ones.
    pub fn add_payloads(&self, payloads: &[Payload]) -> Option<PayloadId> {
        self.inner.payloads.borrow_mut().add(payloads)
    }

    /// Removes the payloads of a queue.
    pub fn remove_payloads(&self, first: PayloadId, count: usize) {
        self.inner.payloads.borrow_mut().remove(first, count);
    }

    /// Sends a command, which returns its result when awaited.
    pub fn command(&self, entry: squeue::Entry) -> Command {
        let slot = self.inner.take_slot(Work::Command, None);
        self.inner.push(entry.user_data(u64::from(slot)));
        Command::new(&self.inner, slot)
    }

    /// Lets another thread wake this one by writing to an eventfd: the task registered with
    /// [`Ring::wake_on_message`] then runs.
    pub fn listen(&self, wake: OwnedFd) {
        *self.inner.wake.borrow_mut() = Some(wake);
        self.inner.arm_wake();
    }

    /// Registers the task to be woken by the eventfd.
    pub fn wake_on_message(&self, waker: &Waker) {
        *self.inner.mailbox_waker.borrow_mut() = Some(waker.clone());
    }

    /// Submits the prepared entries, waits for at least one completion unless `busy`, and handles
    /// completions.
    pub fn turn(&self, busy: bool) -> io::Result<()> {
        let inner = &self.inner;
        if let Some(error) = inner.broken.borrow_mut().pop_front() {
            return Err(error);
        }
        inner.submit_held();
        let want = usize::from(!busy);
        let submitted = match inner.next_timer_ms() {
            Some(wait_ms) if !busy => {
                let time = Timespec::new()
                    .sec(wait_ms / 1000)
                    .nsec(u32::try_from(wait_ms % 1000).unwrap_or(0) * 1_000_000);
                let uring = inner.uring.borrow();
                uring.submitter().submit_with_args(want, &SubmitArgs::new().timespec(&time))
            }
            _ => inner.uring.borrow().submit_and_wait(want),
        };
        match submitted {
            Ok(_) => {}
            Err(error) => match error.raw_os_error() {
                Some(libc::EINTR | libc::ETIME | libc::EBUSY | libc::EAGAIN) => {}
                _ => return Err(error),
            },
        }
        inner.begin_round();
        inner.reap();
        inner.fire_timers();
        Ok(())
    }

    /// The time at which the completions of this round were there, in nanoseconds since the ring
    /// was made: the clock is read once for all that happens in a round.
    pub fn round_ns(&self) -> u64 {
        self.inner.round_ns.get()
    }

    /// A disk on this ring.
    pub fn disk(
        &self,
        file: OwnedFd,
        limits: Limits,
        size: Sectors,
        probe: SizeProbe,
    ) -> Rc<dyn Backend> {
        Rc::new(RingDisk::new(&self.inner, file, limits, size, probe))
    }
}

/// Registers the first part of the buffers, so that the kernel need not look up and pin its memory
/// for every operation.
fn register_buffers(uring: &IoUring, buffers: &Buffers) -> bool {
    let (base, len_bytes) = buffers.registered();
    let vector = libc::iovec { iov_base: base.as_ptr().cast(), iov_len: len_bytes };
    // SAFETY: the buffers' mapping lives as long as the process.
    let registered = unsafe {
        uring.submitter().register_buffers_update(u32::from(BUFFERS_INDEX), &[vector], None)
    };
    if let Err(error) = &registered {
        log::info!("the ring cannot register its memory: {error}");
    }
    registered.is_ok()
}

impl Inner {
    fn push(&self, entry: squeue::Entry) {
        let mut uring = self.uring.borrow_mut();
        // SAFETY: the entry's memory stays valid until its completion: buffers and iovecs are held
        // by its slot, payloads live as long as their device, the buffers' mapping as long as the
        // process.
        while unsafe { uring.submission().push(&entry) }.is_err() {
            if let Err(error) = uring.submit() {
                if !matches!(error.raw_os_error(), Some(libc::EINTR | libc::EBUSY | libc::EAGAIN)) {
                    self.broken.borrow_mut().push_back(error);
                    return;
                }
            }
        }
    }

    fn arm_wake(&self) {
        if let Some(wake) = &*self.wake.borrow() {
            let mut buffer = self.wake_buffer.borrow_mut();
            let entry = opcode::Read::new(Fd(wake.as_raw_fd()), buffer.as_mut_ptr(), 8).build();
            drop(buffer);
            self.push(entry.user_data(WAKE_DATA));
        }
    }

    /// Prepares the entry for the rest of a disk operation.
    fn submit_disk(&self, index: u32) {
        let entry = {
            let mut slots = self.slots.borrow_mut();
            let Slot { work, iovecs, .. } = &mut slots[index as usize];
            let Work::Disk { op, file, done_bytes } = work else { return };
            self.entry(op, file, *done_bytes, iovecs)
        };
        match entry {
            Some(entry) => self.push(entry.user_data(u64::from(index))),
            // Memory that does not exist: the caller broke the contract.
            None => self.finish(index, -libc::EINVAL),
        }
    }

    fn begin_round(&self) {
        let now = u64::try_from(self.start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        self.round_ns.set(now);
    }

    fn reap(&self) {
        let mut completed = self.completed.take();
        {
            let mut uring = self.uring.borrow_mut();
            completed.extend(
                uring.completion().map(|entry: cqueue::Entry| (entry.user_data(), entry.result())),
            );
        }
        for (data, result) in completed.drain(..) {
            if data < TOLD {
                self.complete(u32::try_from(data).unwrap_or(u32::MAX), result);
            } else if data == WAKE_DATA {
                self.arm_wake();
                if let Some(waker) = &*self.mailbox_waker.borrow() {
                    waker.wake_by_ref();
                }
            } else {
                self.told.borrow_mut().push((UserData(data), result));
            }
        }
        // The next round reuses the list's memory.
        self.completed.replace(completed);
    }

    fn next_timer_ms(&self) -> Option<u64> {
        if self.timers.borrow().is_empty() {
            return None;
        }
        let now = self.now_ms();
        self.timers.borrow().iter().map(|(time, _)| time.saturating_sub(now)).min()
    }

    fn fire_timers(&self) {
        if self.timers.borrow().is_empty() {
            return;
        }
        let now = self.now_ms();
        self.timers.borrow_mut().retain(|(time, waker)| {
            if *time <= now {
                waker.wake_by_ref();
            }
            *time > now
        });
    }
}

impl Host for Inner {
    fn tell(&self, data: UserData) {
        self.told.borrow_mut().push((data, 0));
    }

    fn acquire(&self, len_bytes: u32) -> Option<BufferId> {
        self.buffers.borrow_mut().acquire(len_bytes).map(BufferId)
    }

    fn retain(&self, id: BufferId) {
        self.buffers.borrow_mut().retain(id.0);
    }

    fn release(&self, id: BufferId) {
        self.buffers.borrow_mut().release(id.0);
    }

    fn read(&self, id: BufferId, offset_bytes: u32, out: &mut [u8]) {
        self.buffers.borrow().read(id.0, offset_bytes, out);
    }

    fn write(&self, id: BufferId, offset_bytes: u32, bytes: &[u8]) {
        self.buffers.borrow().write(id.0, offset_bytes, bytes);
    }

    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn wake_at(&self, time_ms: u64, waker: &Waker) {
        let mut timers = self.timers.borrow_mut();
        if !timers.iter().any(|(time, other)| *time == time_ms && other.will_wake(waker)) {
            timers.push((time_ms, waker.clone()));
        }
    }
}
