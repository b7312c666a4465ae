//! Origins of one process: each disk has its own origin, which outlives the tables of its device
//! and is removed when it is no longer needed.
//!
//! Rules held here: I5 for each disk alone, and I9 for a snapshot that left an origin which was
//! closed meanwhile. Each check returns the violation instead of panicking, so that mutants can be
//! run with it.

use std::cell::RefCell;
use std::future::Future;
use std::rc::Rc;

use dm_targets::copy;
use dm_targets::device::{Device, OpenTarget};
use dm_targets::disk::{Disk, DiskKey, Host, Memory};
use dm_targets::group::Group;
use dm_targets::linear::target::Linear;
use dm_targets::request::{Request, RequestKind};
use dm_targets::sim::disk::{DiskConfig, SimDisk};
use dm_targets::sim::image::Image;
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::{Schedule, World};
use dm_targets::snapshot::losses::{Loss, LossRecord};
use dm_targets::snapshot::target::{OnFull, Options, Parts, Snapshot};
use dm_targets::target::Target;
use dm_targets::units::{ChunkSize, Sector, Sectors};

use crate::pattern;
use crate::told::carry_out;

/// Sectors of an origin, and of a chunk.
pub const SIZE: u64 = 16;
pub const CHUNK: u64 = 4;
/// More steps than any request or command takes.
const STEPS: usize = 10_000;
pub const NEW: u32 = pattern::FIRST_WRITE;

/// Two origin disks with a COW for each, and the group that serves them.
pub struct Fixture {
    pub world: World,
    pub origins: [Rc<SimDisk>; 2],
    pub cows: [Rc<SimDisk>; 2],
    pub group: Rc<Group>,
}

/// A persistent snapshot without an identity, which overwrites what it finds on its COW.
pub fn parts<'a>(
    group: &'a Group,
    origin: &'a Disk,
    cow: &'a Disk,
    losses: Rc<dyn LossRecord>,
) -> Parts<'a> {
    Parts {
        executor: &group.executor,
        host: &group.host,
        copy: &group.copy,
        origin,
        cow,
        chunk_size: ChunkSize::from_sectors(CHUNK),
        persistent: true,
        overwrite: true,
        ownership: None,
        lost: false,
        losses,
        len: None,
        options: Options {
            on_full: OnFull::Invalidate,
            discard_zeroes_cow: false,
            discard_passdown_origin: false,
        },
        journal: None,
        listener: Rc::new(|_| {}),
    }
}

impl Fixture {
    /// Nothing opened yet.
    pub fn new() -> Fixture {
        let mut world = World::new(crate::seed_base(), Schedule::InOrder, Trace::default());
        let image = || Image::from_fn(Sectors(SIZE), |at| pattern::sector(pattern::ORIGIN, at));
        let config = DiskConfig::default();
        let able = DiskConfig { max_discard: Sectors(SIZE), ..config };
        let origins = ["origin0", "origin1"].map(|name| world.add_disk(name, able, image()));
        let cows =
            ["cow0", "cow1"].map(|name| world.add_disk(name, config, Image::zeroes(Sectors(64))));
        ["cow0", "cow1"].iter().for_each(|name| world.add_losses(name, None));
        let host: Rc<dyn Host> = world.host.clone();
        let copy = copy::Client::new(&world.executor, &host, None).unwrap();
        let group = Rc::new(Group::new(world.executor.clone(), host, copy));
        Fixture { world, origins, cows, group }
    }

    /// Runs one command or request to its end.
    pub fn run<T: 'static>(&self, task: impl Future<Output = T> + 'static) -> T {
        let slot = Rc::new(RefCell::new(None));
        let done = slot.clone();
        self.world.executor.spawn(async move { *done.borrow_mut() = Some(task.await) });
        // The tasks of a snapshot that is open wait for more to do.
        self.world.run(STEPS);
        slot.take().expect("it does not end")
    }

    /// The key of an origin.
    pub fn key(disk: usize) -> DiskKey {
        DiskKey(disk as u64, 0)
    }

    /// Opens an origin as the target of a device.
    pub fn open_origin(&self, disk: usize) -> Rc<OpenTarget> {
        let origin = self.group.origin_or(Fixture::key(disk), || self.origins[disk].disk());
        let opened = OpenTarget { target: Target::Origin(origin), events: Rc::default() };
        self.group.hold(opened)
    }

    /// Opens the snapshot of an origin.
    pub fn open_snapshot(&self, disk: usize) -> Rc<OpenTarget> {
        let group = self.group.clone();
        let (origin, cow) = (self.origins[disk].clone(), self.cows[disk].disk());
        let losses = self.world.losses()[disk].clone();
        self.run(async move {
            let origin = group.origin_or(Fixture::key(disk), || origin.disk());
            let parts = parts(&group, origin.disk(), &cow, losses);
            let target = Target::Snapshot(Snapshot::open(parts).await.unwrap());
            group.hold(OpenTarget { target, events: Rc::default() })
        })
    }

    /// Adds a device for an opened target.
    pub fn add(&self, id: u32, opened: Rc<OpenTarget>) -> Rc<Device> {
        let group = self.group.clone();
        self.run(async move {
            group.add(id, OpenTarget::clone(&opened), |_| Ok(())).await.unwrap();
        });
        self.group.device(id).unwrap()
    }

    /// Deletes a device.
    pub fn remove(&self, id: u32) {
        let group = self.group.clone();
        self.run(async move { group.remove(id, false).await }).unwrap();
    }

    /// Both origins, as the devices 0 and 1, and a snapshot of each, as 10 and 11.
    fn family(&self) -> [Rc<Device>; 2] {
        let of = |disk: usize| {
            let id = u32::try_from(disk).unwrap();
            self.add(id, self.open_origin(disk));
            self.add(10 + id, self.open_snapshot(disk))
        };
        [of(0), of(1)]
    }

    /// Puts another target in the place of a device's; `open` opens it.
    fn swap(&self, id: u32, open: impl FnOnce() -> Rc<OpenTarget>) {
        let (group, device) = (self.group.clone(), self.group.device(id).unwrap());
        self.run(async move {
            device.suspend(false).await.unwrap();
            group.take_target(id).await.unwrap();
        });
        let opened = open();
        let (group, device) = (self.group.clone(), self.group.device(id).unwrap());
        self.run(async move {
            group.put_target(id, OpenTarget::clone(&opened)).await.unwrap();
            drop(opened);
            group.forget_unused_origins();
            device.resume(false).await;
        });
    }

    fn open_linear(&self, disk: usize) -> Rc<OpenTarget> {
        let linear = Linear::new(self.origins[disk].disk(), Sector(0), Sectors(SIZE));
        let target = Target::Linear(Rc::new(linear));
        self.group.hold(OpenTarget { target, events: Rc::default() })
    }

    /// Sends a request for the first chunk; a write has the pattern of `tag`.
    pub fn ask(&self, device: &Rc<Device>, kind: RequestKind, tag: u32) -> Result<Vec<u8>, String> {
        let payload = self.world.host.add_payload(pattern::payload(tag, 0, CHUNK));
        let (sector, count) = (Sector(0), Sectors(CHUNK));
        let request = Request { kind, sector, count, memory: Memory::payload(payload) };
        let (device, host) = (device.clone(), self.world.host.clone());
        let result = self.run(async move { carry_out(&host, &*device, &request).await });
        let data = self.world.host.take_payload(payload);
        result.map(|()| data).map_err(|error| error.to_string())
    }

    /// Writes the first chunk through a device.
    pub fn write(&self, id: u32) -> Result<(), String> {
        let device = self.group.device(id).unwrap();
        self.ask(&device, RequestKind::Write { fua: false }, NEW).map(drop)
    }

    /// Whether a snapshot shows its origin's initial content.
    fn shows_old(&self, snapshot: &Rc<Device>) -> bool {
        let old = pattern::payload(pattern::ORIGIN, 0, CHUNK);
        self.ask(snapshot, RequestKind::Read, NEW).unwrap() == old
    }
}

pub fn exceptions(snapshot: &Rc<Device>) -> usize {
    match snapshot.target() {
        Target::Snapshot(snapshot) => snapshot.exceptions(),
        _ => usize::MAX,
    }
}

#[test]
fn each_disk_of_a_process_has_its_own_origin() {
    let fixture = Fixture::new();
    let [first, second] = fixture.family();
    let origin = |disk| fixture.group.origin(Fixture::key(disk)).unwrap();
    assert!(!Rc::ptr_eq(&origin(0), &origin(1)));
    fixture.write(0).unwrap();
    assert_eq!((exceptions(&first), exceptions(&second)), (1, 0), "only its own is asked");
    assert!(fixture.shows_old(&first) && fixture.shows_old(&second));
    fixture.write(1).unwrap();
    assert_eq!((exceptions(&first), exceptions(&second)), (1, 1));
    assert!(fixture.shows_old(&first) && fixture.shows_old(&second));
    // The origin lives as long as its snapshot does, and no longer.
    fixture.remove(0);
    assert!(fixture.group.origin(Fixture::key(0)).is_some());
    fixture.remove(10);
    assert!(fixture.group.origin(Fixture::key(0)).is_none());
    assert!(fixture.group.origin(Fixture::key(1)).is_some(), "the other one stays");
}

#[test]
fn an_origin_outlives_the_table_of_its_device() {
    let fixture = Fixture::new();
    let [first, _] = fixture.family();
    let before = fixture.group.origin(Fixture::key(0)).unwrap();
    fixture.swap(0, || fixture.open_linear(0));
    assert!(matches!(fixture.group.device(0).unwrap().target(), Target::Linear(_)));
    assert!(fixture.shows_old(&first), "the snapshot is served meanwhile");
    fixture.swap(0, || fixture.open_origin(0));
    let after = fixture.group.origin(Fixture::key(0)).unwrap();
    assert!(Rc::ptr_eq(&before, &after), "the snapshot has never left it");
    fixture.write(0).unwrap();
    assert_eq!(exceptions(&first), 1, "and is asked again");
    assert!(fixture.shows_old(&first));
}

#[test]
fn a_snapshot_joins_and_leaves_with_the_table_of_its_device() {
    let fixture = Fixture::new();
    let [first, _] = fixture.family();
    fixture.swap(10, || fixture.open_linear(1));
    fixture.write(0).unwrap();
    assert_eq!(fixture.world.losses()[0].recorded(), Some(Loss::OriginChanged), "it had left");
    fixture.swap(10, || fixture.open_snapshot(0));
    let written = pattern::payload(NEW, 0, CHUNK);
    fixture
        .ask(&fixture.group.device(0).unwrap(), RequestKind::Write { fua: false }, NEW + 1)
        .unwrap();
    assert_eq!(exceptions(&first), 1, "it has joined");
    assert_eq!(fixture.ask(&first, RequestKind::Read, NEW).unwrap(), written);
}

/// A snapshot whose origin was closed while it was opened.
pub fn snapshot_without_an_origin() -> Result<(), String> {
    let fixture = Fixture::new();
    let held = fixture.open_snapshot(0);
    // As if the origin's last user had ended before the snapshot was held.
    let opened = OpenTarget::clone(&held);
    drop(held);
    fixture.group.forget_unused_origins();
    let group = fixture.group.clone();
    let added = fixture.run(async move { group.add(10, opened, |_| Ok(())).await });
    let Some(snapshot) = fixture.group.device(10) else {
        return added.map_or(Ok(()), |()| Err("it is not served, and that is no error".into()));
    };
    fixture.add(0, fixture.open_origin(0));
    fixture.write(0)?;
    match fixture.shows_old(&snapshot) {
        true => Ok(()),
        false => Err("it is served, and a write of its origin was not preserved for it".into()),
    }
}

#[test]
fn a_snapshot_whose_origin_is_gone_is_not_served() {
    snapshot_without_an_origin().unwrap();
}

/// A snapshot that has left an origin which was gone before it changed.
pub fn origin_that_comes_back() -> Result<(), String> {
    let fixture = Fixture::new();
    fixture.family();
    fixture.swap(0, || fixture.open_linear(1));
    fixture.remove(10);
    if fixture.group.origin(Fixture::key(0)).is_some() {
        return Err("the origin stays though nothing needs it".into());
    }
    fixture.swap(0, || fixture.open_origin(0));
    if fixture.world.losses()[0].recorded().is_some() {
        return Err("it is recorded as lost, and nothing has changed".into());
    }
    fixture.write(0)?;
    match fixture.world.losses()[0].recorded() {
        Some(Loss::OriginChanged) => Ok(()),
        _ => Err("the origin has changed, and the snapshot that left still looks right".into()),
    }
}

#[test]
fn what_had_left_an_origin_is_known_to_the_next_one_of_its_disk() {
    origin_that_comes_back().unwrap();
}
