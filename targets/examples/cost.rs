//! The cost of the data path alone: requests over disks that do nothing, without a kernel, a ring
//! or a clock.
//!
//! `cargo run --release -p dm-targets --example cost -- SNAPSHOTS EXCEPTIONS REQUESTS` fills
//! SNAPSHOTS snapshots of one origin with EXCEPTIONS scattered exceptions each, and then prints
//! nanoseconds per request for reads of a snapshot, for writes to origin chunks that every snapshot
//! has copied already, for first writes to both, and for writes to a mirror of two legs; and the
//! cost that the device adds to its target. Requests are carried out as the server does it: in a
//! task only where the target needs one. With one instruction per nanosecond (ci/vm --icount)
//! the numbers are instructions; callgrind shows where they are spent.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::process::ExitCode;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Instant;

use dm_targets::copy;
use dm_targets::device::{Device, OpenTarget};
use dm_targets::disk::{
    Backend, BufferId, Completions, Disk, Errno, Host, Limits, Memory, Op, OpId, PayloadId,
    UserData,
};
use dm_targets::exec::Executor;
use dm_targets::mirror::table::InitialSync;
use dm_targets::mirror::target::{LegParts, Mirror, MirrorConfig};
use dm_targets::request::{Request, RequestKind};
use dm_targets::snapshot::losses::{Loss, LossRecord};
use dm_targets::snapshot::origin::Origin;
use dm_targets::snapshot::target::{OnFull, Options, Parts, Snapshot};
use dm_targets::target::Target;
use dm_targets::target::remap::{Next, Remapped, Rest};
use dm_targets::units::{ChunkSize, Sector, Sectors};

/// Requests in flight together.
const DEPTH: u64 = 32;
/// The chunk size, and the length of every request.
const CHUNK_SECTORS: u64 = 8;
/// The region size of the mirror.
const REGION_SECTORS: u64 = 1024;
/// Chunks of the origin: twice the largest number of exceptions in use.
const CHUNKS: u64 = 1 << 25;
/// Spreads requests over the origin: odd, so no chunk is used twice.
const STRIDE: u64 = 0x9E37_79B9;

/// Memory that stores nothing; metadata reads as zeroes. Neither this nor [`NoDisk`] is
/// [`dm_targets::ram`], which copies the data, at more instructions than the data path, and would
/// hold all of a 128 GiB disk in memory.
#[derive(Default)]
struct NoMemory {
    lent: Cell<u32>,
    told: Rc<RefCell<Vec<UserData>>>,
}

/// Nothing is lost here.
struct NoLosses;

impl LossRecord for NoLosses {
    fn cow(&self) -> &[String] {
        &[]
    }

    fn record(&self, _: Loss) -> Result<(), String> {
        Ok(())
    }
}

impl Host for NoMemory {
    fn acquire(&self, _: u32) -> Option<BufferId> {
        self.lent.set(self.lent.get() + 1);
        Some(BufferId(self.lent.get()))
    }
    fn tell(&self, data: UserData) {
        self.told.borrow_mut().push(data);
    }
    fn retain(&self, _: BufferId) {}
    fn release(&self, _: BufferId) {}
    fn read(&self, _: BufferId, _: u32, out: &mut [u8]) {
        out.fill(0);
    }
    fn write(&self, _: BufferId, _: u32, _: &[u8]) {}
    fn now_ms(&self) -> u64 {
        0
    }
    fn wake_at(&self, _: u64, _: &Waker) {}
}

/// The slot of an operation: whether it has completed, and the waiting task.
#[derive(Default)]
struct Flight {
    done: bool,
    waker: Option<Waker>,
}

/// A disk whose operations complete at the end of the round, so that every request waits as on the
/// server's ring; those of a [`dm_targets::ram::RamDisk`] complete immediately.
#[derive(Default)]
struct NoDisk {
    flights: RefCell<Vec<Flight>>,
    free: RefCell<Vec<u32>>,
    started: RefCell<VecDeque<u32>>,
    /// Operations whose completion is told, and what else there is to tell.
    sent: Rc<RefCell<Vec<UserData>>>,
}

impl NoDisk {
    fn complete_all(&self) {
        for index in self.started.borrow_mut().drain(..) {
            let flight = &mut self.flights.borrow_mut()[index as usize];
            flight.done = true;
            if let Some(waker) = flight.waker.take() {
                waker.wake();
            }
        }
    }
}

impl Completions for NoDisk {
    fn send(&self, _: Op, data: UserData) {
        self.sent.borrow_mut().push(data);
    }
    fn refuse(&self, data: UserData, _: Errno) {
        panic!("{data:?} was outside the contract");
    }
}

impl Backend for NoDisk {
    fn completions(self: Rc<Self>) -> Option<Rc<dyn Completions>> {
        Some(self)
    }
    fn start(&self, _: Op) -> OpId {
        let mut flights = self.flights.borrow_mut();
        let index = self.free.borrow_mut().pop().unwrap_or_else(|| {
            flights.push(Flight::default());
            u32::try_from(flights.len() - 1).unwrap_or(u32::MAX)
        });
        flights[index as usize].done = false;
        self.started.borrow_mut().push_back(index);
        OpId(index)
    }
    fn poll(&self, id: OpId, waker: &Waker) -> Poll<Result<(), Errno>> {
        let flight = &mut self.flights.borrow_mut()[id.0 as usize];
        if flight.done {
            self.free.borrow_mut().push(id.0);
            return Poll::Ready(Ok(()));
        }
        flight.waker = Some(waker.clone());
        Poll::Pending
    }
    fn detach(&self, _: OpId) {}
    fn limits(&self) -> Limits {
        Limits {
            logical_block_bytes: 4096,
            physical_block_bytes: 4096,
            volatile_cache: false,
            read_only: false,
            max_discard: Sectors(0),
            discard_granularity_bytes: 0,
            max_write_zeroes: Sectors(0),
        }
    }
    fn size(&self) -> Sectors {
        Sectors(CHUNKS * CHUNK_SECTORS)
    }
}

/// The target of the requests.
#[derive(Clone)]
enum To {
    Target(Target),
    Device(Rc<Device>),
}

/// What a slot's task has to do.
enum Work {
    /// A request that needs a task.
    Whole,
    /// What is left of one that did not.
    Rest(Rest),
}

/// A request in flight, as a server's tag has it.
struct Slot {
    request: Request,
    remapped: Option<Remapped>,
    work: Option<Work>,
    waker: Option<Waker>,
}

/// The requests of a run.
struct Requests {
    to: To,
    kind: RequestKind,
    first: u64,
    next: Cell<u64>,
    count: u64,
    left: Cell<u64>,
    slots: Vec<RefCell<Slot>>,
}

impl Requests {
    /// Begins the next request in a slot, if there is one.
    fn begin(&self, number: usize) {
        if self.next.get() == self.count {
            self.left.set(self.left.get() - 1);
            return;
        }
        let chunk = (self.first + self.next.replace(self.next.get() + 1)).wrapping_mul(STRIDE);
        let mut slot = self.slots[number].borrow_mut();
        slot.request = Request {
            kind: self.kind,
            sector: Sector(chunk % CHUNKS * CHUNK_SECTORS),
            count: Sectors(CHUNK_SECTORS),
            memory: Memory::payload(PayloadId(0)),
        };
        let data = UserData(number as u64);
        slot.remapped = match &self.to {
            To::Target(target) => target.remap(&slot.request, data),
            To::Device(device) => device.remap(&slot.request, data),
        };
        if slot.remapped.is_none() {
            slot.give(Work::Whole);
        }
    }

    /// A completion was told.
    fn told(&self, data: UserData) {
        let number = usize::try_from(data.with_part(0).0).unwrap_or(usize::MAX);
        let next = {
            let mut slot = self.slots[number].borrow_mut();
            let Slot { request, remapped, .. } = &mut *slot;
            let Some(remapped) = remapped else { return };
            let next = match &self.to {
                To::Target(target) => target.end_io(request, remapped, data, Ok(())),
                To::Device(device) => device.end_io(request, remapped, data, Ok(())),
            };
            match next {
                Next::Rest(rest) => return slot.give(Work::Rest(rest)),
                next => next,
            }
        };
        if let Next::Done(result) = next {
            assert!(result.is_ok(), "{result:?}");
            self.begin(number);
        }
    }

    /// The task of a slot.
    async fn serve(self: Rc<Self>, number: usize) {
        loop {
            let (work, request) = std::future::poll_fn(|cx| {
                let slot = &mut *self.slots[number].borrow_mut();
                match slot.work.take() {
                    Some(work) => Poll::Ready((work, slot.request.clone())),
                    None => {
                        slot.waker.get_or_insert_with(|| cx.waker().clone());
                        Poll::Pending
                    }
                }
            })
            .await;
            let result = match (work, &self.to) {
                (Work::Whole, To::Target(target)) => target.map(&request).await,
                (Work::Whole, To::Device(device)) => device.pass(&request).await,
                (Work::Rest(rest), To::Target(target)) => target.finish(&request, rest).await,
                (Work::Rest(rest), To::Device(device)) => device.finish(&request, rest).await,
            };
            assert!(result.is_ok(), "{result:?}");
            self.begin(number);
        }
    }
}

impl Slot {
    fn give(&mut self, work: Work) {
        self.work = Some(work);
        if let Some(waker) = &self.waker {
            waker.wake_by_ref();
        }
    }
}

struct Fixture {
    executor: Executor,
    disk: Rc<NoDisk>,
    host: Rc<dyn Host>,
    copy: copy::Client,
    origin: Rc<Origin>,
    snapshots: Vec<Rc<Snapshot>>,
}

impl Fixture {
    fn new(count: usize) -> Option<Fixture> {
        let (executor, disk) = (Executor::new(), Rc::new(NoDisk::default()));
        let host: Rc<dyn Host> = Rc::new(NoMemory { lent: Cell::new(0), told: disk.sent.clone() });
        let copy = copy::Client::new(&executor, &host, None)?;
        let origin = Origin::new(Disk::new("origin", disk.clone()), copy.clone());
        let made: Rc<RefCell<Vec<Rc<Snapshot>>>> = Rc::default();
        for _ in 0..count {
            let (runner, host, copy) = (executor.clone(), host.clone(), copy.clone());
            let (origin, made, cow) =
                (origin.clone(), made.clone(), Disk::new("cow", disk.clone()));
            executor.spawn(async move {
                let options = Options {
                    on_full: OnFull::Overflow,
                    discard_zeroes_cow: false,
                    discard_passdown_origin: false,
                };
                let parts = Parts {
                    executor: &runner,
                    host: &host,
                    copy: &copy,
                    origin: origin.disk(),
                    cow: &cow,
                    chunk_size: ChunkSize::from_sectors(CHUNK_SECTORS),
                    persistent: true,
                    overwrite: false,
                    ownership: None,
                    lost: false,
                    losses: Rc::new(NoLosses),
                    len: None,
                    options,
                    journal: None,
                    listener: Rc::new(|_| {}),
                };
                if let Ok(snapshot) = Snapshot::open(parts).await {
                    if snapshot.activate(&runner).await.is_ok() {
                        origin.join(snapshot.clone()).await;
                        made.borrow_mut().push(snapshot);
                    }
                }
            });
        }
        let mut fixture = Fixture { executor, disk, host, copy, origin, snapshots: Vec::new() };
        fixture.run_until(|| made.borrow().len() == count);
        fixture.snapshots = made.take();
        Some(fixture)
    }

    /// A mirror whose legs are in sync and whose log is in memory.
    fn mirror(&self) -> Option<Rc<Mirror>> {
        let (executor, host, copy) = (self.executor.clone(), self.host.clone(), self.copy.clone());
        let legs = [1, 2].map(|identity| LegParts {
            disk: Disk::new("leg", self.disk.clone()),
            offset: Sector(0),
            identity,
            number: 0,
        });
        let opened: Rc<RefCell<Option<Option<Rc<Mirror>>>>> = Rc::default();
        let slot = opened.clone();
        self.executor.spawn(async move {
            let config = MirrorConfig {
                host: &host,
                copy: &copy,
                legs: legs.to_vec(),
                log: None,
                renamed: Vec::new(),
                len: Sectors(CHUNKS * CHUNK_SECTORS),
                region_size: Sectors(REGION_SECTORS),
                initial_sync: InitialSync::NoSync,
                handle_errors: false,
                keep_log: false,
                source: None,
                absent: Default::default(),
                past: Default::default(),
                recorder: Rc::new(|_| Ok(())),
                listener: Rc::new(|_| {}),
            };
            let mut mirror = Mirror::open(config).await.ok();
            if let Some(opened) = &mirror {
                mirror = opened.activate(&executor).await.is_ok().then(|| opened.clone());
            }
            *slot.borrow_mut() = Some(mirror);
        });
        self.run_until(|| opened.borrow().is_some());
        opened.take().flatten()
    }

    fn run_until(&self, done: impl Fn() -> bool) {
        loop {
            self.executor.run_ready();
            if done() {
                return;
            }
            self.disk.complete_all();
        }
    }

    /// Nanoseconds per request.
    fn run(&self, count: u64, first: u64, kind: RequestKind, to: &To) -> f64 {
        let slot = |_| {
            let (sector, length) = (Sector(0), Sectors(0));
            let request = Request { kind, sector, count: length, memory: Memory::None };
            RefCell::new(Slot { request, remapped: None, work: None, waker: None })
        };
        let requests = Rc::new(Requests {
            to: to.clone(),
            kind,
            first,
            next: Cell::new(0),
            count,
            left: Cell::new(DEPTH),
            slots: (0..DEPTH).map(slot).collect(),
        });
        let start = Instant::now();
        for number in 0..requests.slots.len() {
            self.executor.spawn(requests.clone().serve(number));
            requests.begin(number);
        }
        let mut told = Vec::new();
        loop {
            self.executor.run_ready();
            if requests.left.get() == 0 {
                return start.elapsed().as_nanos() as f64 / count as f64;
            }
            self.disk.complete_all();
            std::mem::swap(&mut *self.disk.sent.borrow_mut(), &mut told);
            told.drain(..).for_each(|data| requests.told(data));
        }
    }
}

fn main() -> ExitCode {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let &[snapshots, exceptions, requests] = &numbers[..] else {
        eprintln!("usage: cost SNAPSHOTS EXCEPTIONS REQUESTS");
        return ExitCode::from(2);
    };
    let Some(fixture) = Fixture::new(usize::try_from(snapshots).unwrap_or(1)) else {
        return ExitCode::FAILURE;
    };
    let Some(mirror) = fixture.mirror().map(|mirror| To::Target(Target::Mirror(mirror))) else {
        return ExitCode::FAILURE;
    };
    let write = RequestKind::Write { fua: false };
    let origin = To::Target(Target::Origin(fixture.origin.clone()));
    let snapshot = fixture
        .snapshots
        .first()
        .cloned()
        .map_or_else(|| origin.clone(), |snapshot| To::Target(Target::Snapshot(snapshot)));
    fixture.run(exceptions, 0, write, &origin);
    let copied = fixture.run(requests.min(exceptions), 0, RequestKind::Read, &snapshot);
    let not_copied = fixture.run(requests, exceptions, RequestKind::Read, &snapshot);
    let again = fixture.run(requests.min(exceptions), 0, write, &origin);
    let first = fixture.run(requests, exceptions, write, &origin);
    let own = fixture.run(requests, exceptions + requests, write, &snapshot);
    let mirrored = fixture.run(requests, 0, write, &mirror);
    let target = Target::Origin(fixture.origin.clone());
    let device = Rc::new(Device::new(OpenTarget { target, events: Rc::default() }));
    let device = To::Device(device);
    let direct = fixture.run(requests, 0, RequestKind::Read, &origin);
    let through = fixture.run(requests, 0, RequestKind::Read, &device) - direct;
    println!(
        "{snapshots} snapshots, {exceptions} exceptions each: snapshot read copied {copied:.0} ns, \
         not copied \
         {not_copied:.0} ns, first write {own:.0} ns; \
         origin write again {again:.0} ns, first {first:.0} ns; \
         mirror write {mirrored:.0} ns; a device adds {through:.0} ns"
    );
    ExitCode::SUCCESS
}
