//! dm-io: one operation on regions of one or many disks, with one error bit per region.
//!
//! A request names an operation, its memory and up to [`MAX_REGIONS`] regions; a read has exactly
//! one. The same data goes to every region. Regions are issued in index order, run concurrently and
//! complete in any order. Long regions are cut into pieces of at most [`MAX_PIECE_BYTES`]; there is
//! no atomicity across pieces and no barrier between them. Nothing is retried, and an error in one
//! piece stops no other.
//!
//! Every service exists in two forms: [`Client::run`] is awaited by the calling task (synchronous),
//! and [`Client::start`] returns immediately and calls back exactly once (asynchronous). Where the
//! kernel keeps only an error bit, the first error is kept as well, so that its errno reaches the
//! caller unchanged.
//!
//! A client has a reserve: a fixed number of requests that can be in flight, allocated with the
//! client. Further requests wait in order. Users that wait for one another (metadata and data, say)
//! must have separate clients.
//!
//! # Examples
//!
//! The same data, held in two pieces, goes to two disks, and is read back from one of them:
//!
//! ```
//! use std::rc::Rc;
//! use dm_targets::disk::{Buffer, Host, Memory};
//! use dm_targets::exec::Executor;
//! use dm_targets::io::{Client, DEFAULT_RESERVE, IoOp, IoRegion, Refused};
//! use dm_targets::ram::{Ram, RamDisk};
//! use dm_targets::units::{Sector, Sectors};
//!
//! let (ram, executor) = (Ram::new(), Executor::new());
//! let host: Rc<dyn Host> = ram.clone();
//! let disk = |name: &str| RamDisk::new(&ram, Sectors(64), RamDisk::LIMITS).handle(name);
//! let disks = ["a", "b"].map(disk);
//! let regions = disks.clone().map(|disk| IoRegion { disk, sector: Sector(8), count: Sectors(3) });
//! let pieces = [512, 1024].map(|len_bytes| Buffer::acquire(&host, len_bytes).unwrap());
//! pieces[0].write(0, &[1; 512]);
//! pieces[1].write(0, &[2; 1024]);
//! let data = Memory::Vector { buffers: Rc::new(pieces), offset_bytes: 0 };
//!
//! let client = Client::new(&executor, DEFAULT_RESERVE);
//! let found = Buffer::acquire(&host, 1536).unwrap();
//! let into = found.at(0);
//! ram.run(&executor, async move {
//!     let write = IoOp::Write { preflush: true, fua: true };
//!     assert_eq!(client.run(write, data, &regions).await.unwrap().error_bits, 0);
//!     let outcome = client.run(IoOp::Read, into.clone(), &regions[1..]).await.unwrap();
//!     assert!(outcome.result().is_ok());
//!     assert_eq!(client.run(IoOp::Read, into, &regions).await, Err(Refused::ReadOfMany));
//! })
//! .unwrap();
//! let mut bytes = [0; 1536];
//! found.read(0, &mut bytes);
//! assert_eq!((&bytes[..512], &bytes[512..]), (&[1; 512][..], &[2; 1024][..]));
//! assert_eq!((disks[0].counters().writes, disks[1].counters().reads), (1, 1));
//! ```
//!
//! With a callback, and two disks of which one has no discards and neither has write-zeroes. A
//! refusal is no failure: it has a bit of its own.
//!
//! ```
//! # use std::cell::RefCell;
//! # use std::rc::Rc;
//! # use dm_targets::disk::{Limits, Memory};
//! # use dm_targets::exec::Executor;
//! # use dm_targets::io::{Client, DEFAULT_RESERVE, IoOp, IoRegion};
//! # use dm_targets::ram::{Ram, RamDisk};
//! # use dm_targets::units::{Sector, Sectors};
//! let (ram, executor) = (Ram::new(), Executor::new());
//! let able = Limits {
//!     max_discard: Sectors(1024),
//!     discard_granularity_bytes: 512,
//!     ..RamDisk::LIMITS
//! };
//! let disk = |limits| RamDisk::new(&ram, Sectors(64), limits).handle("disk");
//! let disks = [able, RamDisk::LIMITS].map(disk);
//! let region = |disk| IoRegion { disk, sector: Sector(0), count: Sectors(64) };
//! let regions: Vec<_> = disks.map(region).into();
//! let client = Client::new(&executor, DEFAULT_RESERVE);
//! let outcomes = Rc::new(RefCell::new(Vec::new()));
//! for op in [IoOp::Discard, IoOp::WriteZeroes] {
//!     let outcomes = outcomes.clone();
//!     let keep = move |outcome: Result<_, _>| outcomes.borrow_mut().push(outcome.unwrap());
//!     client.start(op, Memory::None, regions.clone(), keep);
//! }
//! assert!(outcomes.borrow().is_empty(), "never before `start` returns");
//! executor.run_ready();
//! let outcomes = outcomes.borrow();
//! let bits = |number: usize| (outcomes[number].error_bits, outcomes[number].unsupported_bits);
//! assert_eq!((bits(0), bits(1)), ((0, 0b10), (0, 0b11)));
//! ```

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use crate::disk::{Disk, DiskError, FailedOp, Io, Memory, Op, OpKind};
use crate::exec::{Executor, WaitQueue};
use crate::units::{Sector, Sectors};

/// Most regions of a request: one bit each in a 64-bit set.
pub const MAX_REGIONS: usize = 64;
/// Longest piece of a read or write: what 256 scattered 4 KiB pages hold, the kernel's bound.
pub const MAX_PIECE_BYTES: u64 = 1 << 20;
/// Requests a client can have in flight by default; the kernel's default.
pub const DEFAULT_RESERVE: usize = 16;
/// The largest reserve a client may ask for, as in the kernel.
pub const MAX_RESERVE: usize = 1024;

/// A range of a disk. (The dirty log's regions are something else, so neither type is called plain
/// `Region`.)
#[derive(Clone, Debug)]
pub struct IoRegion {
    /// The disk.
    pub disk: Disk,
    /// Where the range starts.
    pub sector: Sector,
    /// How long it is. Empty regions are skipped, unless the operation flushes.
    pub count: Sectors,
}

/// What a request does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoOp {
    /// Read one region.
    Read,
    /// Write to every region.
    Write {
        /// Flush each region's disk before writing to it. An empty region gets the flush alone.
        preflush: bool,
        /// The data is durable on completion.
        fua: bool,
    },
    /// Discard every region.
    Discard,
    /// Make every region read as zeroes.
    WriteZeroes,
}

impl IoOp {
    /// A flush: a write of nothing with a preflush, as in the kernel.
    pub const FLUSH: IoOp = IoOp::Write { preflush: true, fua: false };
}

/// The result of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outcome {
    /// Bit *i* is set if some piece of region *i* failed.
    pub error_bits: u64,
    /// Bit *i* is set if region *i*'s disk refused the operation as such. A region can be in both
    /// sets.
    pub unsupported_bits: u64,
    /// The first error met.
    pub first_error: Option<DiskError>,
}

impl Outcome {
    /// The first error, if there was one of either kind.
    pub fn result(self) -> Result<(), DiskError> {
        self.first_error.map_or(Ok(()), Err)
    }

    fn add(&mut self, region: usize, error: DiskError) {
        let bits = if error.errno.is_unsupported() {
            &mut self.unsupported_bits
        } else {
            &mut self.error_bits
        };
        *bits |= 1 << region;
        self.first_error.get_or_insert(error);
    }
}

/// Why a request was not issued at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// A read of more than one region.
    ReadOfMany,
    /// More than [`MAX_REGIONS`] regions.
    TooManyRegions,
}

struct Piece {
    io: Io,
    region: usize,
    offset_bytes: u64,
    count: Sectors,
}

struct Shared {
    executor: Executor,
    /// The reserve: lists of pieces not in use now.
    idle: RefCell<Vec<Vec<Piece>>>,
    /// Order of the requests that wait for the reserve.
    queue: RefCell<VecDeque<u64>>,
    next_ticket: Cell<u64>,
    freed: WaitQueue,
}

/// A user of dm-io, with its reserve.
#[derive(Clone)]
pub struct Client {
    shared: Rc<Shared>,
}

impl Client {
    /// A client that can have `reserve` requests in flight (clamped to 1..=[`MAX_RESERVE`]).
    pub fn new(executor: &Executor, reserve: usize) -> Client {
        let reserve = reserve.clamp(1, MAX_RESERVE);
        let idle = (0..reserve).map(|_| Vec::with_capacity(4)).collect();
        Client {
            shared: Rc::new(Shared {
                executor: executor.clone(),
                idle: RefCell::new(idle),
                queue: RefCell::default(),
                next_ticket: Cell::new(0),
                freed: WaitQueue::default(),
            }),
        }
    }

    /// Carries a request out and returns its outcome when every piece has completed.
    pub async fn run(
        &self,
        op: IoOp,
        memory: Memory,
        regions: &[IoRegion],
    ) -> Result<Outcome, Refused> {
        if op == IoOp::Read && regions.len() > 1 {
            return Err(Refused::ReadOfMany);
        }
        if regions.len() > MAX_REGIONS {
            return Err(Refused::TooManyRegions);
        }
        let mut outcome = Outcome::default();
        if regions.is_empty() {
            return Ok(outcome);
        }
        let mut pieces = self.take_reserve().await;
        if let IoOp::Write { preflush: true, .. } = op {
            flush_all(&mut outcome, regions).await;
        }
        for (index, region) in regions.iter().enumerate() {
            // A region whose flush failed must not be written: the caller relies on the order.
            if (outcome.error_bits | outcome.unsupported_bits) & (1 << index) == 0 {
                issue(op, &memory, index, region, &mut pieces, &mut outcome);
            }
        }
        for piece in pieces.drain(..) {
            let (region, offset_bytes, count) = (piece.region, piece.offset_bytes, piece.count);
            if let Err(error) = piece.io.await {
                if op == IoOp::Read {
                    memory.clear(offset_bytes, count.bytes());
                }
                outcome.add(region, error);
            }
        }
        self.shared.idle.borrow_mut().push(pieces);
        self.shared.freed.wake_all();
        Ok(outcome)
    }

    /// Carries a request out in the background and calls `notify` exactly once with its outcome,
    /// never before this call returns.
    pub fn start(
        &self,
        op: IoOp,
        memory: Memory,
        regions: Vec<IoRegion>,
        notify: impl FnOnce(Result<Outcome, Refused>) + 'static,
    ) {
        let client = self.clone();
        self.shared.executor.spawn(async move { notify(client.run(op, memory, &regions).await) });
    }

    async fn take_reserve(&self) -> Vec<Piece> {
        let shared = &self.shared;
        let ticket = shared.next_ticket.get();
        shared.next_ticket.set(ticket + 1);
        shared.queue.borrow_mut().push_back(ticket);
        let pieces = shared
            .freed
            .until(|| {
                let mut queue = shared.queue.borrow_mut();
                if queue.front() != Some(&ticket) {
                    return None;
                }
                let pieces = shared.idle.borrow_mut().pop()?;
                queue.pop_front();
                Some(pieces)
            })
            .await;
        // The next in the queue may find another idle entry.
        shared.freed.wake_all();
        pieces
    }
}

async fn flush_all(outcome: &mut Outcome, regions: &[IoRegion]) {
    for (index, region) in regions.iter().enumerate() {
        if let Err(error) = region.disk.flush().await {
            outcome.add(index, error);
        }
    }
}

/// Longest operation of a kind on a disk, in sectors; zero if the disk has no such operation.
fn piece_limit(op: IoOp, disk: &Disk) -> u64 {
    match op {
        IoOp::Read | IoOp::Write { .. } => Sectors::from_bytes(MAX_PIECE_BYTES).0,
        IoOp::Discard => disk.limits().max_discard.0,
        IoOp::WriteZeroes => disk.limits().max_write_zeroes.0,
    }
}

fn issue(
    op: IoOp,
    memory: &Memory,
    index: usize,
    region: &IoRegion,
    pieces: &mut Vec<Piece>,
    outcome: &mut Outcome,
) {
    let limit = piece_limit(op, &region.disk);
    let kind = match op {
        IoOp::Read => OpKind::Read,
        IoOp::Write { fua, .. } => {
            OpKind::Write { fua: fua && region.disk.limits().volatile_cache }
        }
        IoOp::Discard => OpKind::Discard,
        IoOp::WriteZeroes => OpKind::WriteZeroes,
    };
    if limit == 0 && region.count.0 > 0 {
        let (sector, count) = (region.sector, region.count);
        let errno = crate::disk::Errno::EOPNOTSUPP;
        let disk = region.disk.name().clone();
        outcome.add(index, FailedOp { kind, disk, sector, count, errno }.into());
        return;
    }
    let mut done = 0;
    while done < region.count.0 {
        let count = Sectors(limit.min(region.count.0 - done));
        let sector = region.sector.plus(Sectors(done));
        let offset_bytes = Sectors(done).bytes();
        let data = if matches!(op, IoOp::Read | IoOp::Write { .. }) {
            memory.advanced(offset_bytes)
        } else {
            Memory::None
        };
        let io = region.disk.start(Op { kind, sector, count, memory: data });
        pieces.push(Piece { io, region: index, offset_bytes, count });
        done += count.0;
    }
}
