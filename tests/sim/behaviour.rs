//! What users and administrators see, in worlds where events happen one after another: errors and
//! who gets them, full and growing COWs, snapshots that join a busy origin.

use std::cell::RefCell;
use std::rc::Rc;

use dm_targets::copy;
use dm_targets::disk::{Disk, Errno, Host, Memory};
use dm_targets::request::{Request, RequestKind, TargetError};
use dm_targets::sim::disk::{Class, DiskConfig, Fault, Matcher, SimDisk};
use dm_targets::sim::image::{Image, SectorData};
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::{Schedule, World};
use dm_targets::snapshot::exceptions::Health;
use dm_targets::snapshot::origin::Origin;
use dm_targets::snapshot::target::{OnFull, Options, Parts, Snapshot};
use dm_targets::target::Target;
use dm_targets::units::{ChunkSize, Sector, Sectors};

use crate::pattern;
use crate::told::carry_out;

pub mod grown;
pub mod joins;
pub mod no_space;
pub mod preserved;
pub mod sizes;

type Slot<T> = Rc<RefCell<Option<T>>>;

/// An origin with snapshots on disks of any kind.
struct Fixture {
    world: World,
    copy: copy::Client,
    origin: Rc<Origin>,
    snaps: Vec<Rc<Snapshot>>,
    events: Rc<RefCell<Vec<String>>>,
    /// Snapshots take discards and pass them down.
    discards: bool,
}

/// One device of a family.
#[derive(Clone)]
enum Device {
    Origin(Rc<Origin>),
    Snap(Rc<Snapshot>),
}

impl Device {
    fn target(self) -> Target {
        match self {
            Device::Origin(origin) => Target::Origin(origin),
            Device::Snap(snap) => Target::Snapshot(snap),
        }
    }
}

impl Fixture {
    fn new(sectors: u64, config: DiskConfig, seed: u64, schedule: Schedule) -> Fixture {
        let mut world = World::new(seed, schedule, Trace::recording());
        let image = Image::from_fn(Sectors(sectors), |at| pattern::sector(pattern::ORIGIN, at));
        let disk = world.add_disk("origin", config, image).disk();
        let host: Rc<dyn Host> = world.host.clone();
        let copy = copy::Client::new(&world.executor, &host, None).unwrap();
        let origin = Origin::new(disk, copy.clone());
        Fixture { world, copy, origin, snaps: Vec::new(), events: Rc::default(), discards: false }
    }

    /// Opens a snapshot; it has not joined the origin yet.
    fn open(
        &mut self,
        chunk: u64,
        cow_sectors: u64,
        on_full: OnFull,
        config: DiskConfig,
    ) -> Rc<Snapshot> {
        self.open_image(chunk, Image::zeroes(Sectors(cow_sectors)), on_full, config)
    }

    /// Opens a snapshot on a COW with content.
    fn open_image(
        &mut self,
        chunk: u64,
        image: Image,
        on_full: OnFull,
        config: DiskConfig,
    ) -> Rc<Snapshot> {
        let name = format!("cow{}", self.world.disks().len());
        let cow = self.world.add_disk(&name, config, image).disk();
        let opened: Slot<Rc<Snapshot>> = Rc::default();
        let (slot, events, executor) =
            (opened.clone(), self.events.clone(), self.world.executor.clone());
        let (host, copy): (Rc<dyn Host>, _) = (self.world.host.clone(), self.copy.clone());
        let origin: Disk = self.origin.disk().clone();
        let (discard_zeroes_cow, discard_passdown_origin) = (self.discards, self.discards);
        self.world.add_losses(&name, None);
        let losses = self.world.losses()[self.world.losses().len() - 1].clone();
        self.world.executor.spawn(async move {
            let parts = Parts {
                executor: &executor,
                host: &host,
                copy: &copy,
                origin: &origin,
                cow: &cow,
                chunk_size: ChunkSize::from_sectors(chunk),
                persistent: true,
                overwrite: false,
                ownership: None,
                lost: false,
                losses,
                len: None,
                options: Options { on_full, discard_zeroes_cow, discard_passdown_origin },
                journal: None,
                listener: Rc::new(move |event| events.borrow_mut().push(event.to_string())),
            };
            let snap = Snapshot::open(parts).await.unwrap();
            snap.activate(&executor).await.unwrap();
            *slot.borrow_mut() = Some(snap);
        });
        self.world.run(10_000);
        let snap = opened.borrow_mut().take().unwrap();
        self.snaps.push(snap.clone());
        snap
    }

    fn join(&self, snap: &Rc<Snapshot>) -> Slot<()> {
        let (origin, snap, done) = (self.origin.clone(), snap.clone(), Slot::default());
        let slot = done.clone();
        self.world.executor.spawn(async move {
            origin.join(snap).await;
            *slot.borrow_mut() = Some(());
        });
        done
    }

    /// Adds a snapshot to an idle origin.
    fn add(
        &mut self,
        chunk: u64,
        cow_sectors: u64,
        on_full: OnFull,
        config: DiskConfig,
    ) -> Rc<SimDisk> {
        let snap = self.open(chunk, cow_sectors, on_full, config);
        let joined = self.join(&snap);
        self.world.run(10_000);
        assert!(joined.borrow().is_some());
        self.world.disks()[self.world.disks().len() - 1].clone()
    }

    fn device(&self, number: usize) -> Device {
        match number.checked_sub(1) {
            None => Device::Origin(self.origin.clone()),
            Some(snap) => Device::Snap(self.snaps[snap].clone()),
        }
    }

    /// Starts a write; with `id` zero a read, with [`pattern::DISCARD`] a discard.
    fn start(
        &self,
        device: usize,
        id: u32,
        first: u64,
        count: u64,
    ) -> Slot<Result<Vec<SectorData>, TargetError>> {
        let (kind, bytes) = match id {
            0 => (RequestKind::Read, vec![0; usize::try_from(count * 512).unwrap()]),
            pattern::DISCARD => (RequestKind::Discard, Vec::new()),
            _ => (RequestKind::Write { fua: false }, pattern::payload(id, first, count)),
        };
        let payload = self.world.host.add_payload(bytes);
        let request = Request {
            kind,
            sector: Sector(first),
            count: Sectors(count),
            memory: Memory::payload(payload),
        };
        let (device, host, done) = (self.device(device), self.world.host.clone(), Slot::default());
        let slot = done.clone();
        self.world.executor.spawn(async move {
            let result = carry_out(&host, &device.target(), &request).await;
            let bytes = host.take_payload(payload);
            *slot.borrow_mut() =
                Some(result.map(|()| bytes.chunks(512).map(SectorData::new).collect()));
        });
        done
    }

    fn run(
        &self,
        device: usize,
        id: u32,
        first: u64,
        count: u64,
    ) -> Result<Vec<SectorData>, TargetError> {
        let done = self.start(device, id, first, count);
        self.world.run(10_000);
        let result = done.borrow_mut().take();
        result.unwrap_or_else(|| panic!("a request to device {device} never ends"))
    }

    /// Ends everything; tasks that are not ended stay in memory forever.
    fn close(self) {
        let (snaps, origin, copy) = (self.snaps, self.origin, self.copy);
        self.world.executor.spawn(async move {
            for snap in &snaps {
                origin.leave(snap);
                snap.close().await.unwrap();
            }
            copy.destroy().await;
        });
        self.world.run(10_000);
        assert_eq!((self.world.executor.live(), self.world.host.lent()), (0, 0));
    }

    fn errno(&self, device: usize, id: u32, first: u64, count: u64) -> i32 {
        self.run(device, id, first, count).err().map_or(0, |error| error.errno().0)
    }
}

fn error_at(disk: &SimDisk, class: Class, first: u64, errno: i32) {
    let matcher = Matcher { class, first, end: first + 1 };
    disk.inject(Fault { matcher, skip: 0, times: 1, errno: Errno(errno) });
}

fn calm() -> DiskConfig {
    DiskConfig::default()
}

#[test]
fn an_error_on_redirected_requests_reaches_the_user_and_nothing_else() {
    let mut fixture = Fixture::new(16, calm(), 0, Schedule::InOrder);
    let cow = fixture.add(2, 40, OnFull::Invalidate, calm());
    fixture.run(1, 100, 0, 2).unwrap();
    // chunk 0 of the origin is in COW chunk 2: sectors 4 and 5
    error_at(&cow, Class::Read, 5, 61);
    assert_eq!(fixture.errno(1, 0, 0, 2), 61, "a read of the COW");
    error_at(&cow, Class::Write, 4, 28);
    assert_eq!(fixture.errno(1, 101, 0, 1), 28, "a write to the COW");
    error_at(&fixture.world.disks()[0], Class::Read, 9, 5);
    assert_eq!(fixture.errno(1, 0, 8, 4), 5, "a read of the origin");
    error_at(&fixture.world.disks()[0], Class::Write, 0, 121);
    assert_eq!(fixture.errno(0, 102, 0, 1), 121, "a write of the origin");
    assert_eq!(fixture.snaps[0].health(), Health::Valid);
    assert_eq!(fixture.run(1, 0, 1, 1).unwrap()[0], pattern::sector(100, 1));
    assert!(fixture.events.borrow().is_empty(), "{:?}", fixture.events);
}

#[test]
fn an_error_of_a_copy_is_the_snapshots_and_names_disk_and_sector() {
    let mut fixture = Fixture::new(16, calm(), 0, Schedule::InOrder);
    fixture.add(2, 40, OnFull::Invalidate, calm());
    fixture.add(4, 40, OnFull::Overflow, calm());
    let cow = fixture.world.disks()[2].clone();
    error_at(&cow, Class::Write, 8, 5);
    fixture.run(0, 100, 0, 1).unwrap();
    assert_eq!(
        (fixture.snaps[0].health(), fixture.snaps[1].health()),
        (Health::Valid, Health::Invalid)
    );
    assert_eq!(fixture.run(1, 0, 0, 1).unwrap()[0], pattern::sector(pattern::ORIGIN, 0));
    assert_eq!(fixture.errno(2, 0, 0, 1), 5);
    let events = fixture.events.borrow();
    assert_eq!(events.len(), 1, "{events:?}");
    assert!(events[0].contains("cow2") && events[0].contains("sector 8"), "{events:?}");
}

#[test]
fn a_cow_that_has_grown_is_used() {
    let mut fixture = Fixture::new(16, calm(), 0, Schedule::InOrder);
    let cow = fixture.add(2, 8, OnFull::Overflow, calm());
    fixture.run(0, 100, 0, 4).unwrap();
    cow.grow(Sectors(12));
    fixture.run(0, 101, 4, 4).unwrap();
    fixture.run(1, 0, 0, 16).unwrap();
    assert_eq!(fixture.errno(1, 102, 8, 1), 5, "full again");
    assert_eq!(fixture.snaps[0].health(), Health::Overflowed);
    assert_eq!(fixture.run(1, 0, 4, 4).unwrap()[3], pattern::sector(pattern::ORIGIN, 7));
    fixture.run(0, 103, 12, 1).unwrap();
    assert_eq!(
        fixture.snaps[0].health(),
        Health::Invalid,
        "an origin write cannot do without its chunk"
    );
}

#[test]
fn a_cow_with_larger_blocks_than_the_origin_keeps_its_last_short_chunk() {
    let mut fixture = Fixture::new(20, calm(), 0, Schedule::InOrder);
    let large = DiskConfig { logical_block_bytes: 4096, ..DiskConfig::default() };
    fixture.add(8, 160, OnFull::Invalidate, large);
    fixture.run(0, 100, 16, 4).unwrap();
    assert_eq!(fixture.snaps[0].health(), Health::Valid, "{:?}", fixture.events);
}

#[test]
fn a_store_that_is_not_wanted_leaves_the_cow_as_it_was() {
    let mut fixture = Fixture::new(16, calm(), 0, Schedule::InOrder);
    let before = Image::from_fn(Sectors(40), |at| match at {
        0 => SectorData::zero(),
        _ => pattern::sector(pattern::PREPARED, at),
    });
    for wanted in [false, true] {
        let snap = fixture.open_image(8, before.clone(), OnFull::Invalidate, calm());
        let cow = fixture.world.disks()[fixture.world.disks().len() - 1].clone();
        assert_ne!(cow.visible(), before, "there is a store");
        if wanted {
            snap.store().keep();
        }
        fixture.world.executor.spawn(async move { snap.store().unmake().await.map(drop).unwrap() });
        fixture.world.run(10_000);
        assert_eq!(cow.visible() == before, !wanted);
    }
}

/// Exceptions that a store shows after its first block of records has been filled up, when the next
/// block held old records behind the terminator: 32, unless they come back; and how it came to
/// that. Chunks of two sectors have areas of two blocks.
pub fn exceptions_before_a_stale_block() -> (usize, Vec<String>) {
    let record = |old: u64, new: u64| [old.to_le_bytes(), new.to_le_bytes()].concat();
    let mut cow = Image::zeroes(Sectors(160));
    cow.write(Sector(0), &[b"SnAp\x01\0\0\0\x01\0\0\0\x02\0\0\0".to_vec(), vec![0; 496]].concat());
    let mut area: Vec<u8> = (0..31).flat_map(|index| record(index, index + 2)).collect();
    area.extend([0; 16]);
    area.extend((40..49).flat_map(|index| record(index, index)));
    area.resize(1024, 0);
    cow.write(Sector(2), &area);
    let mut fixture = Fixture::new(128, calm(), 0, Schedule::InOrder);
    fixture.open_image(2, cow, OnFull::Invalidate, calm());
    fixture.run(1, 100, 62, 2).unwrap();
    let left = fixture.world.disks()[1].visible();
    let mut later = Fixture::new(128, calm(), 0, Schedule::InOrder);
    let shown = later.open_image(2, left, OnFull::Invalidate, calm()).exceptions();
    (shown, [fixture.world.trace.lines(), later.world.trace.lines()].concat())
}

#[test]
fn what_stood_behind_the_terminator_does_not_come_back() {
    assert_eq!(exceptions_before_a_stale_block().0, 32);
}

#[test]
fn a_discard_reaches_the_origin_only_while_it_has_one_snapshot() {
    let mut fixture =
        Fixture::new(12, DiskConfig { max_discard: Sectors(12), ..calm() }, 0, Schedule::InOrder);
    fixture.discards = true;
    fixture.add(2, 60, OnFull::Invalidate, calm());
    fixture.run(1, pattern::DISCARD, 2, 4).unwrap();
    assert_eq!(
        fixture.run(0, 0, 1, 2).unwrap(),
        [pattern::sector(pattern::ORIGIN, 1), SectorData::zero()]
    );
    for seed in 0..3000 {
        let schedule = Schedule::RANDOM[usize::try_from(seed % 3).unwrap()];
        joins::join_among_discards(crate::seed_base() + seed, schedule).unwrap();
    }
}
