//! A disk whose operations are submitted and completed separately.
//!
//! A submitted operation waits until the scheduler completes it; the order is the scheduler's
//! choice. Its effect is visible at its completion, so operations in flight together take effect in
//! any order. A write's data is taken when it is submitted and must not have changed when it
//! completes (I6); a read's memory is written at its completion.
//!
//! Faults are rules: which operations, how many of them pass first, which errno. A failed write
//! leaves a part of its range written. Held operations do not complete until they are released.

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::fmt;
use std::rc::Rc;
use std::task::{Poll, Waker};

use super::crash::{CrashKind, CrashSpace, Media};
use super::host::SimHost;
use super::image::{Image, SECTOR_LEN, SectorData, bytes_of, index, sectors_of};
use super::mix;
use crate::disk::{Backend, Completions, Disk, Errno, Limits, Memory, Op, OpId, OpKind, UserData};
use crate::units::{SECTOR_BYTES, Sector, Sectors};

pub use super::disk_config::DiskConfig;
pub use super::fault::{Class, Fault, Matcher};
pub use super::trace::Trace;

struct Flight {
    op: Op,
    /// The data to write, taken at submission.
    data: Vec<SectorData>,
    /// For a flush: the completions it covers.
    mark: u64,
    errno: Option<Errno>,
    held: bool,
    detached: bool,
    waker: Option<Waker>,
    /// Its completion is told.
    told_as: Option<UserData>,
    result: Option<Result<(), Errno>>,
}

/// A simulated disk. Reach it through [`SimDisk::disk`], as targets do.
pub struct SimDisk {
    name: Rc<str>,
    config: DiskConfig,
    host: Rc<SimHost>,
    trace: Trace,
    media: RefCell<Media>,
    flights: RefCell<BTreeMap<u32, Flight>>,
    next_id: Cell<u32>,
    faults: RefCell<Vec<Fault>>,
    holds: RefCell<Vec<Matcher>>,
    /// The size that the disk returns when its size is read again.
    grown: Cell<Option<u64>>,
    changes: Cell<u64>,
    writes: Cell<u64>,
    failed: Cell<u64>,
}

impl SimDisk {
    /// A disk with that content.
    pub fn new(
        name: &str,
        config: DiskConfig,
        image: Image,
        host: &Rc<SimHost>,
        trace: &Trace,
    ) -> Rc<SimDisk> {
        Rc::new(SimDisk {
            name: name.into(),
            config,
            host: host.clone(),
            trace: trace.clone(),
            media: RefCell::new(Media::new(image)),
            flights: RefCell::default(),
            next_id: Cell::new(0),
            faults: RefCell::default(),
            holds: RefCell::default(),
            grown: Cell::new(None),
            changes: Cell::new(0),
            writes: Cell::new(0),
            failed: Cell::new(0),
        })
    }

    /// The disk as targets see it.
    pub fn disk(self: &Rc<Self>) -> Disk {
        Disk::new(&self.name, self.clone())
    }

    /// Adds an error that will occur.
    pub fn inject(&self, fault: Fault) {
        self.faults.borrow_mut().push(fault);
    }

    /// Removes all injected errors.
    pub fn mend(&self) {
        self.faults.borrow_mut().clear();
    }

    /// Operations submitted from now on that match do not complete before [`SimDisk::release`].
    pub fn hold(&self, matcher: Matcher) {
        self.holds.borrow_mut().push(matcher);
    }

    /// Releases all held operations.
    pub fn release(&self) {
        self.holds.borrow_mut().clear();
        for flight in self.flights.borrow_mut().values_mut() {
            flight.held = false;
        }
    }

    /// Gives the disk another size, which it shows when its size is read again. One that has
    /// become shorter keeps its content; its errors are injected.
    pub fn grow(&self, size: Sectors) {
        self.grown.set(Some(size.0));
    }

    /// The size that one sees who opens the disk now.
    pub fn size_when_opened(&self) -> Sectors {
        self.grown.get().map_or_else(|| self.size(), Sectors)
    }

    /// Operations that can be completed, oldest first.
    pub fn completable(&self) -> Vec<OpId> {
        let flights = self.flights.borrow();
        let open = flights.iter().filter(|(_, flight)| flight.result.is_none() && !flight.held);
        open.map(|(id, _)| OpId(*id)).collect()
    }

    /// Operations submitted and not completed, held ones included.
    pub fn in_flight(&self) -> usize {
        self.flights.borrow().values().filter(|flight| flight.result.is_none()).count()
    }

    /// Changes whenever what may survive a crash changes.
    pub fn changes(&self) -> u64 {
        self.changes.get()
    }

    /// Writes of any kind submitted so far.
    pub fn writes(&self) -> u64 {
        self.writes.get()
    }

    /// Injected errors that have occurred.
    pub fn failed(&self) -> u64 {
        self.failed.get()
    }

    /// What reads return now.
    pub fn visible(&self) -> Image {
        self.media.borrow().visible.clone()
    }

    /// What may survive if it ends now.
    pub fn crash_space(&self, kind: CrashKind) -> CrashSpace {
        let flights = self.flights.borrow();
        let open =
            flights.values().filter(|flight| flight.result.is_none() && !flight.data.is_empty());
        let unit = self.config.logical_block_bytes as usize / SECTOR_LEN;
        self.media.borrow().crash_space(
            kind,
            unit,
            open.map(|flight| (flight.op.sector, &flight.data[..])),
        )
    }

    /// Completes an operation in flight.
    pub fn complete(&self, id: OpId) {
        let mut flights = self.flights.borrow_mut();
        let Some(flight) = flights.get_mut(&id.0).filter(|flight| flight.result.is_none()) else {
            panic!("{}: operation {} is not in flight", self.name, id.0);
        };
        self.trace.note(|| {
            let outcome = if flight.errno.is_some() { "FAILED" } else { "done" };
            format!("{outcome:>8} {} #{} {}", self.name, id.0, Described(&flight.op))
        });
        match flight.errno {
            None => self.take_effect(flight, id),
            Some(_) => self.half_effect(flight, id),
        }
        // The memory may be released from here on.
        flight.op.memory = Memory::None;
        flight.data.clear();
        let result = flight.errno.map_or(Ok(()), Err);
        flight.result = Some(result);
        if let Some(waker) = flight.waker.take() {
            waker.wake();
        }
        self.changes.set(self.changes.get() + 1);
        if let Some(data) = flight.told_as {
            flights.remove(&id.0);
            self.host.told.tell(data, result);
        } else if flight.detached {
            flights.remove(&id.0);
        }
    }

    fn take_effect(&self, flight: &Flight, id: OpId) {
        let mut media = self.media.borrow_mut();
        let op = &flight.op;
        match op.kind {
            OpKind::Read => {
                let first = index(op.sector.0);
                let sectors = &media.visible.sectors[first..first + index(op.count.0)];
                let bytes = bytes_of(sectors);
                self.host.scatter(&op.memory, &bytes);
            }
            OpKind::Write { fua } => {
                let now = self.captured(op);
                assert!(
                    now == flight.data,
                    "I6: {}: the memory of write #{} changed in flight",
                    self.name,
                    id.0
                );
                media.write(op.sector, &flight.data, fua || !self.config.volatile_cache);
            }
            OpKind::WriteZeroes | OpKind::Discard => {
                media.write(op.sector, &flight.data, !self.config.volatile_cache);
            }
            OpKind::Flush => media.flush(flight.mark),
        }
    }

    /// The effect of a failed operation: of a write, some sectors; in a read's memory, garbage.
    fn half_effect(&self, flight: &Flight, id: OpId) {
        self.failed.set(self.failed.get() + 1);
        if flight.op.kind == OpKind::Read {
            self.host.scatter(&flight.op.memory, &vec![0xEE; index(flight.op.count.bytes())]);
        }
        let loses = match flight.op.kind {
            OpKind::Flush => self.config.failed_flush_loses,
            OpKind::Write { fua: true } => self.config.failed_fua_loses,
            _ => false,
        };
        if loses {
            self.media.borrow_mut().fail_flush();
        }
        let unit = self.config.logical_block_bytes as usize / SECTOR_LEN;
        for (number, data) in flight.data.chunks(unit).enumerate() {
            if mix(u64::from(id.0) << 32 | number as u64) & 1 == 1 {
                let sector = Sector(flight.op.sector.0 + (number * unit) as u64);
                self.media.borrow_mut().write(sector, data, !self.config.volatile_cache);
            }
        }
    }

    fn captured(&self, op: &Op) -> Vec<SectorData> {
        match op.kind {
            OpKind::Write { .. } => {
                sectors_of(&self.host.gather(&op.memory, index(op.count.bytes())))
            }
            OpKind::WriteZeroes | OpKind::Discard => vec![SectorData::zero(); index(op.count.0)],
            OpKind::Read | OpKind::Flush => Vec::new(),
        }
    }

    fn errno_for(&self, op: &Op) -> Option<Errno> {
        let mut hit = None;
        for fault in self.faults.borrow_mut().iter_mut().filter(|fault| fault.matcher.covers(op)) {
            if fault.skip > 0 {
                fault.skip -= 1;
            } else if fault.times > 0 && hit.is_none() {
                fault.times -= 1;
                hit = Some(fault.errno);
            }
        }
        hit
    }
}

impl SimDisk {
    fn submit(&self, op: Op, told_as: Option<UserData>) -> OpId {
        let id = self.next_id.get();
        self.next_id.set(id + 1);
        if !matches!(op.kind, OpKind::Read | OpKind::Flush) {
            self.writes.set(self.writes.get() + 1);
        }
        self.trace.note(|| format!("{:>8} {} #{id} {}", "start", self.name, Described(&op)));
        let flight = Flight {
            data: self.captured(&op),
            mark: self.media.borrow().mark(),
            errno: self.errno_for(&op),
            held: self.holds.borrow().iter().any(|matcher| matcher.covers(&op)),
            op,
            detached: false,
            waker: None,
            told_as,
            result: None,
        };
        if !flight.data.is_empty() {
            self.changes.set(self.changes.get() + 1);
        }
        self.flights.borrow_mut().insert(id, flight);
        if self.config.immediate {
            self.complete(OpId(id));
        }
        OpId(id)
    }
}

impl Completions for SimDisk {
    fn send(&self, op: Op, data: UserData) {
        self.submit(op, Some(data));
    }

    fn refuse(&self, data: UserData, errno: Errno) {
        self.host.told.tell(data, Err(errno));
    }
}

impl Backend for SimDisk {
    fn start(&self, op: Op) -> OpId {
        self.submit(op, None)
    }

    fn completions(self: Rc<Self>) -> Option<Rc<dyn Completions>> {
        Some(self)
    }

    fn poll(&self, id: OpId, waker: &Waker) -> Poll<Result<(), Errno>> {
        let mut flights = self.flights.borrow_mut();
        let Some(flight) = flights.get_mut(&id.0) else {
            panic!("{}: the result of operation {} was taken twice", self.name, id.0);
        };
        match flight.result {
            None => {
                flight.waker = Some(waker.clone());
                Poll::Pending
            }
            Some(result) => {
                flights.remove(&id.0);
                Poll::Ready(result)
            }
        }
    }

    fn detach(&self, id: OpId) {
        let mut flights = self.flights.borrow_mut();
        match flights.get_mut(&id.0) {
            Some(flight) if flight.result.is_none() => flight.detached = true,
            _ => drop(flights.remove(&id.0)),
        }
    }

    fn limits(&self) -> Limits {
        let discard_granularity_bytes =
            if self.config.max_discard.0 > 0 { self.config.logical_block_bytes } else { 0 };
        Limits {
            logical_block_bytes: self.config.logical_block_bytes,
            physical_block_bytes: self.config.logical_block_bytes,
            volatile_cache: self.config.volatile_cache,
            read_only: false,
            max_discard: self.config.max_discard,
            discard_granularity_bytes,
            max_write_zeroes: self.config.max_write_zeroes,
        }
    }

    fn size(&self) -> Sectors {
        self.media.borrow().visible.size()
    }

    fn refresh_size(&self) -> Sectors {
        let Some(size) = self.grown.get() else { return self.size() };
        if size > self.size().0 {
            self.media.borrow_mut().grow(index(size));
        }
        Sectors(size)
    }
}

struct Described<'a>(&'a Op);

impl fmt::Display for Described<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let op = self.0;
        let what = match op.kind {
            OpKind::Read => "read",
            OpKind::Write { fua: false } => "write",
            OpKind::Write { fua: true } => "write FUA",
            OpKind::Flush => return write!(f, "flush"),
            OpKind::Discard => "discard",
            OpKind::WriteZeroes => "write zeroes",
        };
        let bytes = op.count.0 * SECTOR_BYTES;
        write!(f, "{what} sector {} ({} sectors, {bytes} bytes)", op.sector, op.count)
    }
}
