//! The code under test, assembled as in the server: one copy client, an origin, its snapshots.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use dm_targets::copy;
use dm_targets::disk::{Disk, Host};
use dm_targets::exec::Executor;
use dm_targets::request::Request;
use dm_targets::sim::Rng;
use dm_targets::sim::disk::DiskConfig;
use dm_targets::sim::host::SimHost;
use dm_targets::sim::image::{Image, SectorData};
use dm_targets::sim::journal::SimJournal;
use dm_targets::sim::losses::SimLosses;
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::{Schedule, World};
use dm_targets::snapshot::journal::{Journal, Journaled};
use dm_targets::snapshot::origin::Origin;
use dm_targets::snapshot::target::{OnFull, Options, Parts, Snapshot};
use dm_targets::target::Target;
use dm_targets::units::{ChunkSize, Sectors};

use crate::pattern;
use crate::stacked::Mirrors;
use crate::told::carry_out;

pub use crate::left::Left;

mod runs;

pub use runs::{close, prepare, recover};

/// One snapshot of a family.
#[derive(Clone, Copy, Debug)]
pub struct SnapSetup {
    /// Sectors in a chunk of a new store.
    pub chunk: u64,
    /// The COW's size.
    pub cow_sectors: u64,
    /// The effect of a full COW on writes.
    pub on_full: OnFull,
}

/// A family and the disks under it.
#[derive(Clone, Debug)]
pub struct Setup {
    /// The origin's size.
    pub origin_sectors: u64,
    /// Its snapshots.
    pub snaps: Vec<SnapSetup>,
    /// Logical block of all disks. The origin's size and all requests are multiples of it.
    pub block_bytes: u32,
    /// Whether the disks lose unflushed writes.
    pub volatile: bool,
    /// Once everything is open the machine has no buffer left: copies must use their reserve.
    pub scarce: bool,
    /// Whole-chunk discards of snapshots write zeroes, and are passed down to the origin where it
    /// has one snapshot.
    pub discards: bool,
    /// Snapshot writes are acknowledged when their records are journaled.
    pub journal: bool,
    /// The loss of a store cannot be recorded.
    pub unrecordable: bool,
    /// Each disk of the family is a mirror of the process. The first leg has the disk's place, the
    /// second one is behind all of them.
    pub mirrored: bool,
}

impl Setup {
    /// A snapshot of two-sector chunks and one of four, over three and a half chunks of the former;
    /// room for everything.
    pub fn small() -> Setup {
        let snap =
            |chunk, cow_sectors| SnapSetup { chunk, cow_sectors, on_full: OnFull::Invalidate };
        let snaps = vec![snap(2, 20), snap(4, 24)];
        Setup {
            origin_sectors: 7,
            snaps,
            block_bytes: 512,
            volatile: true,
            scarce: false,
            discards: false,
            journal: true,
            unrecordable: false,
            mirrored: false,
        }
    }

    /// One snapshot.
    pub fn single(origin_sectors: u64, chunk: u64, cow_sectors: u64) -> Setup {
        let snaps = vec![SnapSetup { chunk, cow_sectors, on_full: OnFull::Invalidate }];
        Setup { origin_sectors, snaps, ..Setup::small() }
    }

    /// The first snapshot's COW has this size and this policy when it is full.
    pub fn with_cow(mut self, cow_sectors: u64, on_full: OnFull) -> Setup {
        self.snaps[0] = SnapSetup { cow_sectors, on_full, ..self.snaps[0] };
        self
    }

    /// How its disks behave.
    pub fn disk_config(&self, immediate: bool) -> DiskConfig {
        let (logical_block_bytes, volatile_cache) = (self.block_bytes, self.volatile);
        let max_discard = if self.discards { Sectors(self.origin_sectors) } else { Sectors(0) };
        DiskConfig {
            logical_block_bytes,
            volatile_cache,
            max_discard,
            immediate,
            ..DiskConfig::default()
        }
    }

    /// The initial origin, and COWs with the remains of an earlier, larger snapshot: every sector
    /// would pass for part of an area, and only the magic word has been wiped.
    pub fn blank_images(&self) -> Vec<Image> {
        let mut images = vec![Image::from_fn(Sectors(self.origin_sectors), |at| {
            pattern::sector(pattern::ORIGIN, at)
        })];
        for snap in &self.snaps {
            images
                .push(Image::from_fn(Sectors(snap.cow_sectors), |at| self.old_metadata(at, snap)));
        }
        images
    }

    fn old_metadata(&self, at: u64, snap: &SnapSetup) -> SectorData {
        if at == 0 {
            return SectorData::zero();
        }
        let mut rng = Rng::new(at);
        let mut bytes = Vec::with_capacity(512);
        for _ in 0..32 {
            let old = rng.next_u64() % self.origin_sectors.div_ceil(snap.chunk);
            let new = 2 + rng.next_u64() % (snap.cow_sectors / snap.chunk - 2);
            bytes.extend_from_slice(&old.to_le_bytes());
            bytes.extend_from_slice(&new.to_le_bytes());
        }
        SectorData::new(&bytes)
    }

    /// The images with stores made by the code under test, before any write.
    pub fn created_images(&self) -> Result<Vec<Image>, String> {
        Ok(recover(self, &Left::images(&self.blank_images()))?.images)
    }
}

/// The running family.
pub struct Stack {
    /// The origin with its snapshots.
    pub origin: Rc<Origin>,
    /// The snapshots, in the order of the set-up.
    pub snaps: Vec<Rc<Snapshot>>,
    /// For each snapshot, whether it has left the origin.
    left: Vec<Cell<bool>>,
    copy: copy::Client,
    host: Rc<SimHost>,
    discards: bool,
    below: Mirrors,
}

impl Stack {
    /// Opens and activates everything; after an error nothing is left open.
    async fn open(
        executor: Executor,
        machine: Rc<SimHost>,
        disks: Vec<Disk>,
        kept: Vec<(Rc<SimJournal>, Rc<SimLosses>)>,
        setup: Setup,
    ) -> Result<Stack, String> {
        let host: Rc<dyn Host> = machine.clone();
        let (disks, below) = Mirrors::below(&executor, &host, disks, &setup).await?;
        let copy =
            copy::Client::new(&executor, &host, None).ok_or("no memory for a copy client")?;
        let origin = Origin::new(disks[0].clone(), copy.clone());
        let (snaps, left) = (Vec::new(), Vec::new());
        let discards = setup.discards;
        let mut stack = Stack { origin, snaps, left, copy, host: machine, discards, below };
        for ((snap, cow), (journal, losses)) in setup.snaps.iter().zip(&disks[1..]).zip(kept) {
            let journal = setup.journal.then_some(journal as Rc<dyn Journal>);
            if let Err(error) = stack.add(&executor, &host, snap, cow, journal, losses).await {
                Rc::new(stack).close().await?;
                return Err(error);
            }
        }
        Ok(stack)
    }

    async fn add(
        &mut self,
        executor: &Executor,
        host: &Rc<dyn Host>,
        snap: &SnapSetup,
        cow: &Disk,
        journal: Option<Rc<dyn Journal>>,
        losses: Rc<SimLosses>,
    ) -> Result<(), String> {
        let options = Options {
            on_full: snap.on_full,
            discard_zeroes_cow: self.discards,
            discard_passdown_origin: self.discards,
        };
        let parts = Parts {
            executor,
            host,
            copy: &self.copy,
            origin: self.origin.disk(),
            cow,
            chunk_size: ChunkSize::from_sectors(snap.chunk),
            persistent: true,
            overwrite: false,
            ownership: None,
            lost: losses.recorded().is_some(),
            losses,
            len: None,
            options,
            journal,
            listener: Rc::new(|_| {}),
        };
        let snap = Snapshot::open(parts).await.map_err(|error| format!("open refused: {error}"))?;
        snap.activate(executor).await.map_err(|error| format!("activation failed: {error}"))?;
        self.origin.join(snap.clone()).await;
        self.snaps.push(snap);
        self.left.push(Cell::new(false));
        Ok(())
    }

    /// Carries out a request to a device; an error is returned as its text.
    pub async fn handle(self: Rc<Self>, device: usize, request: Request) -> Result<(), String> {
        let target = match device.checked_sub(1) {
            None => Target::Origin(self.origin.clone()),
            Some(snap) => Target::Snapshot(self.snaps[snap].clone()),
        };
        let result = carry_out(&self.host, &target, &request).await;
        result.map_err(|error| error.to_string())
    }

    /// Takes a snapshot out of a running family. None of its requests may be in flight.
    pub async fn leave(self: Rc<Self>, number: usize) -> Result<(), String> {
        if self.left[number].replace(true) {
            return Ok(());
        }
        let kept = self.snaps[number].health().is_kept();
        self.origin.leave(&self.snaps[number]);
        match self.snaps[number].close().await {
            Ok(()) if kept && !self.snaps[number].health().is_kept() => {
                Err(format!("snap{} is lost at its end, without a message", number + 1))
            }
            // The loss is reported; no more can be done.
            _ => Ok(()),
        }
    }

    /// Ends everything; nothing may be in flight.
    pub async fn close(self: Rc<Self>) -> Result<(), String> {
        let mut result = Ok(());
        for number in 0..self.snaps.len() {
            result = result.and(self.clone().leave(number).await);
        }
        self.copy.destroy().await;
        self.below.close().await;
        result
    }
}

/// The place of a stack that is being opened.
pub type Opening = Rc<RefCell<Option<Result<Rc<Stack>, String>>>>;

/// Starts opening a family in a world; the result appears when the family is open.
pub fn spawn_open(world: &World, setup: &Setup) -> Opening {
    let result: Opening = Rc::default();
    let (executor, host, setup, slot) =
        (world.executor.clone(), world.host.clone(), setup.clone(), result.clone());
    let disks = world.disks().iter().map(|disk| disk.disk()).collect();
    let kept = world.journals().iter().cloned().zip(world.losses().iter().cloned()).collect();
    world.executor.spawn(async move {
        let opened = Stack::open(executor, host, disks, kept, setup).await;
        *slot.borrow_mut() = Some(opened.map(Rc::new));
    });
    result
}

/// A world with the images left by a crash.
pub fn world(
    setup: &Setup,
    left: &Left,
    seed: u64,
    schedule: Schedule,
    immediate: bool,
    trace: Trace,
) -> World {
    let mut world = World::new(seed, schedule, trace);
    let second = if setup.mirrored && left.images.len() <= 1 + setup.snaps.len() {
        &left.images[..]
    } else {
        &[]
    };
    for (number, image) in left.images.iter().chain(second).enumerate() {
        let name = if number == 0 { "origin".into() } else { format!("cow{number}") };
        world.add_disk(&name, setup.disk_config(immediate), image.clone());
    }
    for snap in 0..setup.snaps.len() {
        world.add_journal(left.journals.get(snap).unwrap_or(&Journaled::default()));
        world.add_losses(&format!("cow{}", snap + 1), left.lost.get(snap).copied().flatten());
        world.losses()[snap].set_full(setup.unrecordable);
    }
    world
}
