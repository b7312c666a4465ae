//! The cost of the data path alone: requests over disks that do nothing, without a kernel, a ring
//! or a clock.
//!
//! `cargo run --release -p dm-targets --example cost -- SNAPSHOTS EXCEPTIONS REQUESTS` fills
//! SNAPSHOTS snapshots of one origin with EXCEPTIONS scattered exceptions each, and then prints
//! nanoseconds per request for reads of a snapshot, for writes to origin chunks that every snapshot
//! has copied already, for first writes to both, and for writes to a mirror of two legs; and the
//! cost that the device adds to its target. With one instruction per nanosecond (ci/vm --icount)
//! the numbers are instructions; callgrind shows where they are spent.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::process::ExitCode;
use std::rc::Rc;
use std::task::{Poll, Waker};
use std::time::Instant;

use dm_targets::copy;
use dm_targets::device::{Device, OpenTarget};
use dm_targets::disk::{Backend, BufferId, Disk, Errno, Host, Limits, Memory, Op, OpId, PayloadId};
use dm_targets::exec::Executor;
use dm_targets::mirror::table::InitialSync;
use dm_targets::mirror::target::{LegParts, Mirror, MirrorConfig};
use dm_targets::request::{Request, RequestKind, TargetError};
use dm_targets::snapshot::losses::{Loss, LossRecord};
use dm_targets::snapshot::origin::Origin;
use dm_targets::snapshot::target::{OnFull, Options, Parts, Snapshot};
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
struct NoMemory(Cell<u32>);

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
        self.0.set(self.0.get() + 1);
        Some(BufferId(self.0.get()))
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

/// A disk whose operations complete at the end of the round, so that every request waits and is
/// woken as on the server's ring; those of a [`dm_targets::ram::RamDisk`] complete immediately.
#[derive(Default)]
struct NoDisk {
    flights: RefCell<Vec<Flight>>,
    free: RefCell<Vec<u32>>,
    started: RefCell<VecDeque<u32>>,
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

impl Backend for NoDisk {
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
enum Target {
    Origin(Rc<Origin>),
    Snapshot(Rc<Snapshot>),
    Mirror(Rc<Mirror>),
    Device(Rc<Device>),
}

impl Target {
    async fn handle(&self, request: &Request) -> Result<(), TargetError> {
        match self {
            Target::Origin(origin) => origin.handle(request).await,
            Target::Snapshot(snapshot) => snapshot.handle(request).await,
            Target::Mirror(mirror) => mirror.handle(request).await,
            Target::Device(device) => device.pass(request).await,
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
        let host: Rc<dyn Host> = Rc::new(NoMemory::default());
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
    fn run(&self, count: u64, first: u64, kind: RequestKind, target: &Target) -> f64 {
        let (next, left) = (Rc::new(Cell::new(0)), Rc::new(Cell::new(DEPTH)));
        let start = Instant::now();
        for _ in 0..DEPTH {
            let (next, left, target) = (next.clone(), left.clone(), target.clone());
            self.executor.spawn(async move {
                while next.get() < count {
                    let chunk =
                        (first + next.replace(next.get() + 1)).wrapping_mul(STRIDE) % CHUNKS;
                    let (sector, count) = (Sector(chunk * CHUNK_SECTORS), Sectors(CHUNK_SECTORS));
                    let request =
                        Request { kind, sector, count, memory: Memory::payload(PayloadId(0)) };
                    let result = target.handle(&request).await;
                    assert!(result.is_ok(), "{result:?}");
                }
                left.set(left.get() - 1);
            });
        }
        self.run_until(|| left.get() == 0);
        start.elapsed().as_nanos() as f64 / count as f64
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
    let Some(mirror) = fixture.mirror().map(Target::Mirror) else { return ExitCode::FAILURE };
    let write = RequestKind::Write { fua: false };
    let origin = Target::Origin(fixture.origin.clone());
    let snapshot =
        fixture.snapshots.first().cloned().map_or_else(|| origin.clone(), Target::Snapshot);
    fixture.run(exceptions, 0, write, &origin);
    let copied = fixture.run(requests.min(exceptions), 0, RequestKind::Read, &snapshot);
    let not_copied = fixture.run(requests, exceptions, RequestKind::Read, &snapshot);
    let again = fixture.run(requests.min(exceptions), 0, write, &origin);
    let first = fixture.run(requests, exceptions, write, &origin);
    let own = fixture.run(requests, exceptions + requests, write, &snapshot);
    let mirrored = fixture.run(requests, 0, write, &mirror);
    let target = dm_targets::target::Target::Origin(fixture.origin.clone());
    let device = Rc::new(Device::new(OpenTarget { target, events: Rc::default() }));
    let device = Target::Device(device);
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
