//! A mirror on simulated disks, for tests in which events happen one after another.

use std::cell::RefCell;
use std::rc::Rc;

use dm_targets::copy;
use dm_targets::disk::{Errno, Host, Memory};
use dm_targets::mirror::leg_set::LegSet;
use dm_targets::mirror::leg_state::Past;
use dm_targets::mirror::table::InitialSync;
use dm_targets::mirror::target::{
    LegParts, LogParts, Mirror, MirrorConfig, OpenError, RecordError,
};
use dm_targets::request::{Request, RequestKind, TargetError};
use dm_targets::sim::disk::{Class, DiskConfig, Fault, Matcher, SimDisk};
use dm_targets::sim::image::{Image, SectorData};
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::{Schedule, World};
use dm_targets::units::{Sector, Sectors};

use super::record::{Record, RecordFault};
use crate::pattern;

/// Whether a mirror has recorded its legs and begun.
type Begun = Result<(), RecordError>;

/// A result that will be there when its task has ended.
pub type Slot<T> = Rc<RefCell<Option<T>>>;

/// Steps after which a request counts as hanging.
const STEP_LIMIT: usize = 200_000;
/// The identity of the log's disk.
const LOG: u64 = 77;

/// A mirror and the disks under it: the legs in order, then the log if it is on a disk.
#[derive(Clone, Debug)]
pub struct Setup {
    /// How many legs.
    pub legs: usize,
    /// Its length in sectors.
    pub sectors: u64,
    /// Sectors of a region.
    pub region: u64,
    /// Whether the log is on a disk.
    pub log: bool,
    /// What to assume about the legs at first.
    pub initial: InitialSync,
    /// The features.
    pub handle_errors: bool,
    /// The features.
    pub keep_log: bool,
    /// The leg to recover from.
    pub source: Option<usize>,
    /// The legs that are not there.
    pub absent: LegSet,
    /// The record that an earlier life has left.
    pub past: Past,
    /// The identities of the legs, in order.
    pub identities: [u64; 9],
    /// What an earlier version has called them.
    pub renamed: Vec<(u64, u64)>,
    /// How the disks behave.
    pub disk: DiskConfig,
}

impl Setup {
    /// Two legs of four regions, the last of them short, with a log on disk.
    pub fn small() -> Setup {
        Setup {
            legs: 2,
            sectors: 7,
            region: 2,
            log: true,
            initial: InitialSync::FromLog,
            handle_errors: false,
            keep_log: false,
            source: None,
            absent: LegSet::default(),
            past: Past::None,
            identities: [1, 2, 3, 4, 5, 6, 7, 8, 9],
            renamed: Vec::new(),
            disk: DiskConfig { max_discard: Sectors(1 << 20), ..DiskConfig::default() },
        }
    }

    /// The same with a feature or two.
    pub fn features(self, handle_errors: bool, keep_log: bool) -> Setup {
        Setup { handle_errors, keep_log, ..self }
    }

    /// The number of regions.
    pub fn regions(&self) -> u64 {
        self.sectors.div_ceil(self.region)
    }

    /// The places of its legs.
    pub fn places(&self) -> Vec<usize> {
        (0..self.legs).collect()
    }

    /// Sectors of the log.
    pub fn log_sectors(&self) -> u64 {
        let block = u64::from(self.disk.logical_block_bytes);
        (1024 + self.regions().div_ceil(64) * 8).next_multiple_of(block) / 512
    }

    /// Equal legs, and a log without dirty regions.
    pub fn clean_images(&self) -> Vec<Image> {
        let leg = Image::from_fn(Sectors(self.sectors), |at| pattern::sector(pattern::ORIGIN, at));
        let mut images = vec![leg; self.legs];
        images.extend(self.log.then(|| self.log_image(u64::MAX)));
        images
    }

    /// A log with these bits for the first 64 regions, and ones for all others.
    pub fn log_image(&self, bits: u64) -> Image {
        let regions = self.regions();
        let mut bytes = vec![0; usize::try_from(self.log_sectors() * 512).unwrap()];
        bytes[..8].copy_from_slice(&[0x72, 0x52, 0x69, 0x4d, 2, 0, 0, 0]);
        bytes[8..16].copy_from_slice(&regions.to_le_bytes());
        for region in 0..regions {
            if region >= 64 || bits >> region & 1 == 1 {
                bytes[usize::try_from(1024 + region / 8).unwrap()] |= 1 << (region % 8);
            }
        }
        let mut image = Image::zeroes(Sectors(self.log_sectors()));
        image.write(Sector(0), &bytes);
        image
    }
}

/// The running mirror.
pub struct Fixture {
    /// The machine.
    pub world: World,
    /// The mirror.
    pub mirror: Rc<Mirror>,
    /// Its events.
    pub events: Rc<RefCell<Vec<String>>>,
    /// Its record of the legs.
    pub record: Rc<Record>,
    copy: copy::Client,
}

impl Fixture {
    /// Opens a mirror on images; nothing else happens until the next step.
    pub fn new(setup: &Setup, images: &[Image]) -> Fixture {
        Fixture::new_or(setup, images).unwrap()
    }

    /// The same for a mirror that may be refused.
    pub fn new_or(setup: &Setup, images: &[Image]) -> Result<Fixture, OpenError> {
        Fixture::open(world(setup, images, 0, Schedule::InOrder, Trace::default()), setup)
    }

    /// Opens a mirror in a world whose disks are its legs and its log.
    pub fn open(world: World, setup: &Setup) -> Result<Fixture, OpenError> {
        let record = Record::holding(None, RecordFault::default());
        let (fixture, begun) = Fixture::begin(world, setup, record)?;
        begun.unwrap();
        Ok(fixture)
    }

    /// The same with this record of its legs, and whether the mirror has begun with it.
    pub fn begin(
        world: World,
        setup: &Setup,
        record: Rc<Record>,
    ) -> Result<(Fixture, Begun), OpenError> {
        let host: Rc<dyn Host> = world.host.clone();
        let copy = copy::Client::new(&world.executor, &host, None).unwrap();
        let events: Rc<RefCell<Vec<String>>> = Rc::default();
        let opened: Slot<Result<(Rc<Mirror>, Begun), OpenError>> = Rc::default();
        let (slot, told, executor, of_mirror) =
            (opened.clone(), events.clone(), world.executor.clone(), copy.clone());
        let (setup, disks) = (setup.clone(), disks(&world));
        let recorder = record.recorder();
        world.executor.spawn(async move {
            let listener = Rc::new(move |event: dm_targets::mirror::Event| {
                told.borrow_mut().push(event.to_string())
            });
            let config =
                MirrorConfig { listener, recorder, ..parts(&setup, &host, &of_mirror, disks) };
            let mirror = match Mirror::open(config).await {
                Ok(mirror) => {
                    let begun = mirror.activate(&executor).await;
                    Ok((mirror, begun))
                }
                Err(why) => Err(why),
            };
            *slot.borrow_mut() = Some(mirror);
        });
        for _ in 0..STEP_LIMIT {
            if opened.borrow().is_some() {
                break;
            }
            world.step(false);
        }
        let (mirror, begun) = opened.borrow_mut().take().expect("opening does not end")?;
        Ok((Fixture { world, mirror, events, record, copy }, begun))
    }

    /// A leg's disk.
    pub fn leg(&self, number: usize) -> Rc<SimDisk> {
        self.world.disks()[number].clone()
    }

    /// The log's disk, which is the last one.
    pub fn log(&self) -> Rc<SimDisk> {
        self.world.disks()[self.world.disks().len() - 1].clone()
    }

    /// The log's bits of the first 64 regions.
    pub fn log_bits(&self) -> u64 {
        let bytes = self.log().visible().read(Sector(2), Sectors(1));
        u64::from_le_bytes(bytes[..8].try_into().unwrap())
    }

    /// Starts a request.
    pub fn start(
        &self,
        kind: RequestKind,
        id: u32,
        first: u64,
        count: u64,
    ) -> Slot<Result<Vec<SectorData>, TargetError>> {
        let bytes = match kind {
            RequestKind::Write { .. } => pattern::payload(id, first, count),
            _ => vec![0x99; usize::try_from(count * 512).unwrap()],
        };
        let payload = self.world.host.add_payload(bytes);
        let request = Request {
            kind,
            sector: Sector(first),
            count: Sectors(count),
            memory: Memory::payload(payload),
        };
        let (mirror, host, done) = (self.mirror.clone(), self.world.host.clone(), Slot::default());
        let slot = done.clone();
        self.world.executor.spawn(async move {
            let result = mirror.handle(&request).await;
            let bytes = host.take_payload(payload);
            *slot.borrow_mut() =
                Some(result.map(|()| bytes.chunks(512).map(SectorData::new).collect()));
        });
        done
    }

    /// Starts a write.
    pub fn start_write(
        &self,
        id: u32,
        first: u64,
        count: u64,
    ) -> Slot<Result<Vec<SectorData>, TargetError>> {
        self.start(RequestKind::Write { fua: false }, id, first, count)
    }

    /// Steps until a request has ended; time does not pass more than needed.
    pub fn wait<T>(&self, slot: &Slot<T>) -> T {
        self.try_wait(slot).unwrap_or_else(|| panic!("a request never ends"))
    }

    /// The same for a request that may be held.
    pub fn try_wait<T>(&self, slot: &Slot<T>) -> Option<T> {
        use dm_targets::sim::world::Step;
        for _ in 0..STEP_LIMIT {
            if slot.borrow().is_some() || self.world.step(false) == Step::Nothing {
                return slot.borrow_mut().take();
            }
        }
        panic!("no end after {STEP_LIMIT} steps");
    }

    /// Writes and waits.
    pub fn write(&self, id: u32, first: u64, count: u64) -> Result<(), TargetError> {
        self.wait(&self.start_write(id, first, count)).map(|_| ())
    }

    /// Reads and waits.
    pub fn read(&self, first: u64, count: u64) -> Result<Vec<SectorData>, TargetError> {
        self.wait(&self.start(RequestKind::Read, 0, first, count))
    }

    /// Flushes and waits.
    pub fn flush(&self) -> Result<(), TargetError> {
        self.wait(&self.start(RequestKind::Flush, 0, 0, 0)).map(|_| ())
    }

    /// Runs an operation of the mirror to its end.
    pub fn run<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        task: impl FnOnce(Rc<Mirror>) -> F,
    ) -> T {
        self.wait(&self.spawn(task))
    }

    /// Starts an operation of the mirror.
    pub fn spawn<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        task: impl FnOnce(Rc<Mirror>) -> F,
    ) -> Slot<T> {
        let (task, slot) = (task(self.mirror.clone()), Slot::default());
        let done = slot.clone();
        self.world.executor.spawn(async move { *done.borrow_mut() = Some(task.await) });
        slot
    }

    /// Runs until nothing happens any more, with regions cleaned and recovered.
    pub fn run_until_idle(&self) {
        assert!(self.world.run(STEP_LIMIT), "never comes to rest");
    }

    /// The status line's part that has no device numbers: `IN_SYNC/REGIONS LETTERS LOG`.
    pub fn status(&self) -> String {
        let status = self.mirror.status();
        let letters: String = status.legs.iter().map(|health| health.letter()).collect();
        let log = status.log.map_or("core".into(), |log| log.letter().to_string());
        format!("{}/{} {letters} {log}", status.in_sync_regions, status.regions)
    }

    /// Closes the mirror; nothing may be left.
    pub fn close(self) -> Vec<Image> {
        let copy = self.copy.clone();
        self.run(|mirror| async move {
            mirror.close().await;
            copy.destroy().await;
        });
        self.run_until_idle();
        assert_eq!(self.world.executor.live(), 0, "tasks are left");
        let images = self.world.disks().iter().map(|disk| disk.visible()).collect();
        drop((self.copy, self.mirror));
        assert_eq!(self.world.host.lent(), 0, "buffers are left");
        images
    }
}

/// The parts of a mirror on these disks, without an event listener.
pub fn parts<'a>(
    setup: &Setup,
    host: &'a Rc<dyn Host>,
    copy: &'a copy::Client,
    mut disks: Vec<dm_targets::disk::Disk>,
) -> MirrorConfig<'a> {
    let log = setup.log.then(|| disks.remove(setup.legs));
    disks.truncate(setup.legs);
    MirrorConfig {
        host,
        copy,
        legs: disks
            .into_iter()
            .zip(setup.identities)
            .map(|(disk, identity)| LegParts { disk, offset: Sector(0), identity, number: 0 })
            .collect(),
        log: log.map(|disk| LogParts { disk, identity: LOG }),
        renamed: setup.renamed.clone(),
        len: Sectors(setup.sectors),
        region_size: Sectors(setup.region),
        initial_sync: setup.initial,
        handle_errors: setup.handle_errors,
        keep_log: setup.keep_log,
        source: setup.source,
        absent: setup.absent,
        past: setup.past.clone(),
        recorder: Rc::new(|_| Ok(())),
        listener: Rc::new(|_| ()),
    }
}

/// The disks of a world as targets see them.
pub fn disks(world: &World) -> Vec<dm_targets::disk::Disk> {
    world.disks().iter().map(|disk| disk.disk()).collect()
}

/// A world whose disks hold these images.
pub fn world(
    setup: &Setup,
    images: &[Image],
    seed: u64,
    schedule: Schedule,
    trace: Trace,
) -> World {
    let mut world = World::new(seed, schedule, trace);
    for (number, image) in images.iter().enumerate() {
        let name = if number == setup.legs { "log".into() } else { format!("leg{number}") };
        world.add_disk(&name, setup.disk, image.clone());
    }
    world
}

/// Makes operations of a class fail on a disk from now on, `times` times.
pub fn fail(disk: &SimDisk, class: Class, times: u32) {
    disk.inject(Fault { matcher: Matcher::all(class), skip: 0, times, errno: Errno::EIO });
}

/// Makes operations of a class that touch one sector fail on a disk from now on.
pub fn fail_at(disk: &SimDisk, class: Class, sector: u64) {
    let matcher = Matcher { class, first: sector, end: sector + 1 };
    disk.inject(Fault { matcher, skip: 0, times: u32::MAX, errno: Errno::EIO });
}
