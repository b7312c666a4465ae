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

mod no_disk;
mod requests;

use std::cell::{Cell, RefCell};
use std::process::ExitCode;
use std::rc::Rc;
use std::time::Instant;

use dm_targets::copy;
use dm_targets::device::{Device, OpenTarget};
use dm_targets::disk::{Disk, Host};
use dm_targets::exec::Executor;
use dm_targets::mirror::table::InitialSync;
use dm_targets::mirror::target::{LegParts, Mirror, MirrorConfig};
use dm_targets::request::RequestKind;
use dm_targets::snapshot::origin::Origin;
use dm_targets::snapshot::target::{OnFull, Options, Parts, Snapshot};
use dm_targets::target::Target;
use dm_targets::units::{ChunkSize, Sector, Sectors};

use no_disk::{NoDisk, NoLosses, NoMemory};
use requests::{Requests, To};

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
/// The size of every disk.
const SIZE: Sectors = Sectors(CHUNKS * CHUNK_SECTORS);

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
                len: SIZE,
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
        let requests = Rc::new(Requests::new(count, first, kind, to));
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
