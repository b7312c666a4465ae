//! A device as a disk: with it a snapshot of a mirror, a mirror over linear segments or a snapshot
//! of a snapshot is a table whose disk is another device of the process. The whole stack is one hop
//! through ublk.
//!
//! An operation of the upper target becomes a request to the lower device, which a *slot* carries
//! out. A slot is a task that is created with the disk and ends with it, as a queue's tags do with
//! their device: an operation allocates nothing, and a completion only wakes a task, so that no
//! stack of devices is deep enough to overflow the thread's.
//!
//! When all slots are busy, operations wait in their order. Their number is bounded by what the
//! upper target has in flight. A wait cannot become a deadlock: an operation in a slot waits for
//! disks, for an administrator, or for operations that are in slots or further down, never for a
//! later one.
//!
//! The server has two kinds of stacks. One is the origin of snapshots that a device carries
//! ([`Group::carry`](crate::group::Group::carry)): the operations are not requests of the device's
//! users, which go through that origin themselves. The other is a device as the disk of another
//! one's target ([`Group::disk_of`](crate::group::Group::disk_of)), for a device that carries none.
//!
//! The builder of a stack must ensure:
//!
//! * Each level has a [`copy::Client`](crate::copy::Client) of its own: an upper copy may wait for
//!   a lower one, and with one reserve for both each could hold what the other needs.
//! * A stack has no circle, and is suspended from its top down and resumed from its bottom up: a
//!   suspended device holds the operations of those above it.
//! * A table that replaces another one below is no shorter and has no larger blocks.
//!
//! Rules kept here, which are the contract of [`disk`](crate::disk): I6 (an operation's memory is
//! held until the target has returned, and only then is the operation complete); a flush is passed
//! down whatever the disks are, and covers what completed before it started, because the lower
//! request starts later still; FUA is passed down; an error keeps its errno.
//!
//! ```
//! use std::rc::Rc;
//! use dm_targets::copy;
//! use dm_targets::device::{Device, OpenTarget};
//! use dm_targets::disk::{Buffer, Host};
//! use dm_targets::exec::Executor;
//! use dm_targets::ram::{Ram, RamDisk};
//! use dm_targets::snapshot::origin::Origin;
//! use dm_targets::stack;
//! use dm_targets::target::Target;
//! use dm_targets::units::{Sector, Sectors};
//!
//! let (ram, executor) = (Ram::new(), Executor::new());
//! let host: Rc<dyn Host> = ram.clone();
//! let lowest = RamDisk::new(&ram, Sectors(64), RamDisk::LIMITS).handle("lowest");
//! let copy = copy::Client::new(&executor, &host, None).unwrap();
//! let origin = Target::Origin(Origin::new(lowest.clone(), copy.clone()));
//! let device = Rc::new(Device::new(OpenTarget { target: origin, events: Rc::default() }));
//!
//! let (disk, _) = stack::disk(&executor, "device", &device, stack::SLOTS).unwrap();
//! assert_eq!(disk.size(), Sectors(64));
//! let buffer = || Buffer::acquire(&host, 512).unwrap();
//! let (data, found) = (buffer(), buffer());
//! data.write(0, &[7; 512]);
//! let into = found.at(0);
//! ram.run(&executor, async move {
//!     disk.write(Sector(9), Sectors(1), data.at(0), false).await.unwrap();
//!     disk.flush().await.unwrap();
//!     lowest.read(Sector(9), Sectors(1), into).await.unwrap();
//!     copy.destroy().await;
//! });
//! let mut byte = [0];
//! found.read(511, &mut byte);
//! assert_eq!(byte, [7]);
//! // The disk has gone, and its slots with it.
//! executor.run_ready();
//! assert_eq!(executor.live(), 0);
//! ```

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::task::{Poll, Waker};

use crate::device::Device;
use crate::disk::{Backend, Disk, Errno, Limits, Memory, Op, OpId, OpKind};
use crate::exec::Executor;
use crate::mutant::{self, Mutant};
use crate::request::{Request, RequestKind};
use crate::units::{Sector, Sectors};

/// Slots of a disk by default: the depth that the lower device's queue would have if it were
/// reached through the kernel. Each takes a few kilobytes; a simulation makes them anew for each of
/// hundreds of thousands of states.
pub const SLOTS: usize = if cfg!(feature = "sim") { 8 } else { 128 };

/// A disk of which every operation is a request to a device; `None` if the device has no target to
/// take the size and the limits from, or if it had no slots.
pub fn disk(
    executor: &Executor,
    name: &str,
    device: &Rc<Device>,
    slots: usize,
) -> Option<(Disk, Watch)> {
    let target = device.target();
    let (size, limits) = (target.size()?, target.limits()?);
    if slots == 0 {
        return None;
    }
    Some(with_slots(executor, name, device, slots, (size, limits)))
}

/// The same for a device that has no target, of this size and these limits. It must have a slot.
pub(crate) fn with_slots(
    executor: &Executor,
    name: &str,
    device: &Rc<Device>,
    slots: usize,
    (size, limits): (Sectors, Limits),
) -> (Disk, Watch) {
    // The target decides whether a flush has anything to do: a later target may need it.
    let limits = Limits { volatile_cache: true, max_write_zeroes: Sectors(0), ..limits };
    let shared = Rc::new(Shared {
        device: device.clone(),
        limits,
        size: Cell::new(size),
        closed: Cell::new(false),
        state: RefCell::new(State {
            slots: (0..slots).map(|_| Slot::default()).collect(),
            idle: (0..slots).collect(),
            ..State::default()
        }),
    });
    for slot in 0..slots {
        let shared = shared.clone();
        executor.spawn(async move { shared.serve(slot).await });
    }
    let watch = Watch { name: name.to_owned(), shared: Rc::downgrade(&shared) };
    (Disk::new(name, Rc::new(Stack { shared })), watch)
}

/// Shows whether a device carries out the operations of a disk that it is.
pub struct Watch {
    name: String,
    shared: Weak<Shared>,
}

impl Watch {
    /// Whether the disk is still in use.
    pub fn is_there(&self) -> bool {
        self.shared.strong_count() > 0
    }

    /// The oldest operation that is not complete, as the disk's name and a number that no other
    /// operation of the disk has had.
    pub fn oldest(&self) -> Option<(String, u64)> {
        let shared = self.shared.upgrade()?;
        let state = shared.state.borrow();
        let numbers = state.ops.iter().filter_map(|operation| operation.number);
        Some((self.name.clone(), numbers.min()?))
    }
}

/// The backend. It is separate, so that the slots, which hold the rest, notice when the disk is
/// gone.
struct Stack {
    shared: Rc<Shared>,
}

struct Shared {
    device: Rc<Device>,
    limits: Limits,
    /// The device's size as last seen.
    size: Cell<Sectors>,
    /// No operation is started any more.
    closed: Cell<bool>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    ops: Vec<Operation>,
    /// Unused entries of `ops`.
    free: Vec<u32>,
    /// Operations that no slot has taken yet. Empty while a slot is idle.
    waiting: VecDeque<u32>,
    slots: Vec<Slot>,
    idle: Vec<usize>,
    /// Operations started so far.
    started: u64,
}

/// An operation from its start until its result is taken.
#[derive(Default)]
struct Operation {
    /// The operation, until a slot carries it out.
    op: Option<Op>,
    /// Which one it is, until it is complete.
    number: Option<u64>,
    result: Option<Result<(), Errno>>,
    /// The waiter for the result.
    waker: Option<Waker>,
    /// The result will not be taken.
    detached: bool,
}

/// A task that carries out one operation after the other.
#[derive(Default)]
struct Slot {
    /// The next operation to carry out.
    next: Option<u32>,
    /// The task, once it has run.
    waker: Option<Waker>,
}

impl State {
    fn add(&mut self, op: Op) -> u32 {
        self.started += 1;
        let number = Some(self.started);
        let operation = Operation { op: Some(op), number, ..Operation::default() };
        match self.free.pop() {
            Some(id) => {
                self.ops[id as usize] = operation;
                id
            }
            None => {
                self.ops.push(operation);
                // Each takes memory, so there are fewer than 2^32.
                u32::try_from(self.ops.len() - 1).unwrap_or(u32::MAX)
            }
        }
    }

    /// Hands an operation to an idle slot, or lets it wait for one.
    fn submit(&mut self, id: u32) {
        let Some(slot) = self.idle.pop() else { return self.waiting.push_back(id) };
        let slot = &mut self.slots[slot];
        slot.next = Some(id);
        if let Some(waker) = &slot.waker {
            waker.wake_by_ref();
        }
    }

    /// An operation has its result.
    fn complete(&mut self, id: u32, result: Result<(), Errno>) {
        let operation = &mut self.ops[id as usize];
        operation.number = None;
        if operation.detached {
            self.free.push(id);
            return;
        }
        operation.result = Some(result);
        if let Some(waker) = operation.waker.take() {
            waker.wake();
        }
    }

    /// A slot has nothing to do: it takes a waiting operation, or is idle.
    fn release(&mut self, slot: usize) {
        match self.waiting.pop_front() {
            Some(id) => self.slots[slot].next = Some(id),
            None => self.idle.push(slot),
        }
    }
}

impl Shared {
    /// Carries operations out, one after the other, until the disk is gone.
    async fn serve(&self, slot: usize) {
        let next = |waker: &Waker| {
            let own = &mut self.state.borrow_mut().slots[slot];
            match own.next.take() {
                Some(id) => Poll::Ready(Some(id)),
                None if self.closed.get() => Poll::Ready(None),
                None => {
                    own.waker.get_or_insert_with(|| waker.clone());
                    Poll::Pending
                }
            }
        };
        while let Some(id) = std::future::poll_fn(|cx| next(cx.waker())).await {
            let op = self.state.borrow_mut().ops[id as usize].op.take();
            let result = match op.map(request) {
                Some(Some(request)) => self.pass(id, &request).await,
                _ => Err(Errno::EOPNOTSUPP),
            };
            // The request and its memory have been released (I6).
            if !mutant::is(Mutant::StackAcksEarly) {
                self.state.borrow_mut().complete(id, result);
            }
            self.state.borrow_mut().release(slot);
        }
    }

    async fn pass(&self, id: u32, request: &Request) -> Result<(), Errno> {
        if mutant::is(Mutant::StackAcksEarly) {
            self.state.borrow_mut().complete(id, Ok(()));
        }
        if mutant::is(Mutant::StackKeepsFlush) && request.kind == RequestKind::Flush {
            return Ok(());
        }
        self.device.pass_down(request).await.map_err(|error| error.errno())
    }
}

/// The request for an operation; `None` if targets have no such operation.
fn request(op: Op) -> Option<Request> {
    let kind = match op.kind {
        OpKind::Read => RequestKind::Read,
        OpKind::Write { fua } => {
            RequestKind::Write { fua: fua && !mutant::is(Mutant::StackDropsFua) }
        }
        OpKind::Flush => RequestKind::Flush,
        OpKind::Discard => RequestKind::Discard,
        OpKind::WriteZeroes => return None,
    };
    let Op { sector, count, memory, .. } = op;
    let memory = if matches!(kind, RequestKind::Flush | RequestKind::Discard) {
        Memory::None
    } else {
        memory
    };
    let sector = if kind == RequestKind::Flush { Sector(0) } else { sector };
    Some(Request { kind, sector, count, memory })
}

impl Backend for Stack {
    fn start(&self, op: Op) -> OpId {
        let mut state = self.shared.state.borrow_mut();
        let id = state.add(op);
        state.submit(id);
        OpId(id)
    }

    fn poll(&self, id: OpId, waker: &Waker) -> Poll<Result<(), Errno>> {
        let mut state = self.shared.state.borrow_mut();
        let operation = &mut state.ops[id.0 as usize];
        match operation.result.take() {
            Some(result) => {
                state.free.push(id.0);
                Poll::Ready(result)
            }
            None => {
                operation.waker = Some(waker.clone());
                Poll::Pending
            }
        }
    }

    fn detach(&self, id: OpId) {
        let mut state = self.shared.state.borrow_mut();
        let operation = &mut state.ops[id.0 as usize];
        operation.waker = None;
        match operation.result.take() {
            Some(_) => state.free.push(id.0),
            None => operation.detached = true,
        }
    }

    fn limits(&self) -> Limits {
        self.shared.limits
    }

    fn size(&self) -> Sectors {
        self.shared.size.get()
    }

    fn refresh_size(&self) -> Sectors {
        // A device between two targets keeps its last size.
        let Some(size) = self.shared.device.target().size() else { return self.size() };
        self.shared.size.set(size.max(self.size()));
        size
    }
}

/// The slots end when they have carried out what was started.
impl Drop for Stack {
    fn drop(&mut self) {
        self.shared.closed.set(true);
        let state = self.shared.state.borrow();
        for waker in state.idle.iter().filter_map(|slot| state.slots[*slot].waker.as_ref()) {
            waker.wake_by_ref();
        }
    }
}
