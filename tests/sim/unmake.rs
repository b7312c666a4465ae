//! Undoing a new store: its COW is restored, and wherever the undo ends, the COW holds an invalid
//! store or an empty one.

use std::cell::Cell;
use std::rc::Rc;

use dm_targets::disk::Host;
use dm_targets::sim::crash::CrashKind;
use dm_targets::sim::disk::DiskConfig;
use dm_targets::sim::image::{Image, SectorData};
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::{Schedule, Step, World};
use dm_targets::snapshot::format::MAGIC;
use dm_targets::snapshot::store::{OpenStore, Store, Unmade};
use dm_targets::units::{ChunkSize, Sector, Sectors};

use crate::pattern;

/// Sectors of a chunk: of two blocks, so that there is a rest behind the header's.
const CHUNK: u64 = 2;
const STEP_LIMIT: usize = 1000;
/// Images to judge per moment.
const IMAGES: usize = 64;

fn known() -> Image {
    Image::from_fn(Sectors(24), |at| pattern::sector(pattern::PREPARED, at))
}

/// The permitted content of a COW while a store is being undone.
fn judge(cow: &Image) -> Result<(), String> {
    let head = cow.read(Sector(0), Sectors(1));
    let (is_store, is_valid) = (head.starts_with(&MAGIC.to_le_bytes()), head[4..8] != [0; 4]);
    match (is_store, is_valid) {
        (true, false) => Ok(()),
        (true, true) if cow.read(Sector(CHUNK), Sectors(CHUNK)).iter().all(|byte| *byte == 0) => {
            Ok(())
        }
        (true, true) => {
            Err("a store that looks right has records that no snapshot has made".to_owned())
        }
        (false, _) if *cow == known() => Ok(()),
        (false, _) => {
            Err("there is no store any more, and not yet what was there before".to_owned())
        }
    }
}

/// A store is made over other content and undone, and the power fails at every step.
pub fn cut_at_every_step() -> Result<(), String> {
    for schedule in Schedule::RANDOM {
        for seed in 0..4 {
            unmake(seed, schedule)?;
        }
    }
    Ok(())
}

fn unmake(seed: u64, schedule: Schedule) -> Result<(), String> {
    let mut world = World::new(seed, schedule, Trace::default());
    let origin = world.add_disk("origin", DiskConfig::default(), Image::zeroes(Sectors(16)));
    let cow = world.add_disk("cow", DiskConfig::default(), known());
    let host: Rc<dyn Host> = world.host.clone();
    let (made, unmade) = (Rc::new(Cell::new(false)), Rc::new(Cell::new(None)));
    let (is_made, outcome) = (made.clone(), unmade.clone());
    let (executor, disks) = (world.executor.clone(), (origin.disk(), cow.disk()));
    world.executor.spawn(async move {
        let open = OpenStore {
            executor: &executor,
            host: &host,
            origin: &disks.0,
            cow: &disks.1,
            chunk_size: ChunkSize::from_sectors(CHUNK),
            persistent: true,
            overwrite: true,
            ownership: None,
        };
        let (store, _) = Store::open(open).await.unwrap();
        store.activate().await.unwrap();
        is_made.set(true);
        outcome.set(store.unmake().await.ok());
    });
    for _ in 0..STEP_LIMIT {
        if world.step(false) == Step::Nothing {
            break;
        }
        for images in world.crash(CrashKind::Power, IMAGES).iter().filter(|_| made.get()) {
            judge(&images[1])?;
        }
    }
    if unmade.get() != Some(Unmade::Whole) || cow.visible() != known() {
        return Err(format!("the COW is not as it was: {:?}", unmade.get()));
    }
    Ok(())
}

#[test]
fn a_store_that_is_unmade_is_never_a_wrong_one() {
    assert!(
        judge(&known()).is_ok()
            && judge(&Image::from_fn(Sectors(24), |_| SectorData::zero())).is_err()
    );
    cut_at_every_step().unwrap();
}
