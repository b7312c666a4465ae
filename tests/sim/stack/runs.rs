//! Stacks that are opened, used and closed in one go.

use std::cell::RefCell;
use std::rc::Rc;

use dm_targets::disk::Memory;
use dm_targets::request::{Request, RequestKind};
use dm_targets::sim::crash::CrashKind;
use dm_targets::sim::image::{Image, SectorData};
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::{Schedule, World};
use dm_targets::snapshot::exceptions::Health;
use dm_targets::units::{Sector, Sectors};

use super::{Left, Setup, Stack, spawn_open, world};
use crate::pattern;
use crate::workload::Op;

/// The images after some requests were carried out one after the other, without a crash.
pub fn prepare(setup: &Setup, images: &[Image], ops: &[Op]) -> Vec<Image> {
    let world = world(setup, &Left::images(images), 0, Schedule::InOrder, true, Trace::default());
    let opened = spawn_open(&world, setup);
    world.executor.run_ready();
    let stack = opened.borrow_mut().take().unwrap().unwrap();
    for op in ops {
        let payload =
            world.host.add_payload(pattern::payload(pattern::PREPARED, op.first, op.count));
        let kind = RequestKind::Write { fua: false };
        let request = Request {
            kind,
            sector: Sector(op.first),
            count: Sectors(op.count),
            memory: Memory::payload(payload),
        };
        let (stack, device) = (stack.clone(), op.device);
        world.executor.spawn(async move { stack.handle(device, request).await.unwrap() });
        world.executor.run_ready();
        world.host.take_payload(payload);
    }
    close(&world, stack).unwrap();
    world.disks().iter().map(|disk| disk.visible()).collect()
}

/// The content of the images left by a crash, according to the code under test.
pub struct Recovered {
    /// The origin's content.
    pub origin: Vec<SectorData>,
    /// The content of each snapshot; `None` for an invalid one.
    pub snaps: Vec<Option<Vec<SectorData>>>,
    /// The images afterwards.
    pub images: Vec<Image>,
    /// Number of writes while they were opened.
    pub writes: u64,
}

/// Opens the images with the real code, reads everything and closes them again.
pub fn recover(setup: &Setup, left: &Left) -> Result<Recovered, String> {
    let world = world(setup, left, 0, Schedule::InOrder, true, Trace::default());
    let opened = spawn_open(&world, setup);
    world.executor.run_ready();
    let stack = opened.borrow_mut().take().ok_or("opening does not end")??;
    // The second legs of mirrors get the content of the first legs, each time.
    let first = &world.disks()[..=setup.snaps.len()];
    let writes = first.iter().map(|disk| disk.writes()).sum();
    let origin = read_all(&world, &stack, 0, setup.origin_sectors)?;
    let mut snaps = Vec::new();
    for number in 0..setup.snaps.len() {
        let shown = read_all(&world, &stack, number + 1, setup.origin_sectors);
        snaps.push(match (stack.snaps[number].health(), shown) {
            (Health::Valid, shown) => Some(shown?),
            (Health::Invalid, Err(_)) => None,
            (health, shown) => {
                return Err(format!("snap{}: opened as {health:?}, read {shown:?}", number + 1));
            }
        });
    }
    close(&world, stack)?;
    let images = first.iter().map(|disk| disk.visible()).collect();
    Ok(Recovered { origin, snaps, images, writes })
}

/// Ends an idle family, and checks that no part of it stays.
pub fn close(world: &World, stack: Rc<Stack>) -> Result<(), String> {
    let unmarked = stack.snaps.iter().any(|snap| snap.health() == Health::Unmarked);
    let closed: Rc<RefCell<Option<Result<(), String>>>> = Rc::default();
    let slot = closed.clone();
    world.executor.spawn(async move {
        let result = stack.close().await;
        *slot.borrow_mut() = Some(result);
    });
    world.run(10_000);
    closed.borrow_mut().take().ok_or("the end does not end")??;
    // A store whose end cannot be made durable keeps its journal.
    if !unmarked
        && world
            .journals_left(CrashKind::Process)
            .iter()
            .any(|journaled| !journaled.records.is_empty())
    {
        return Err("records are left in a journal after the end".into());
    }
    match (world.executor.live(), world.host.lent()) {
        (0, 0) => Ok(()),
        (tasks, buffers) => {
            Err(format!("after the end {tasks} tasks and {buffers} buffers are left"))
        }
    }
}

fn read_all(
    world: &World,
    stack: &Rc<Stack>,
    device: usize,
    sectors: u64,
) -> Result<Vec<SectorData>, String> {
    let payload = world.host.add_payload(vec![0; usize::try_from(sectors * 512).unwrap()]);
    let request = Request {
        kind: RequestKind::Read,
        sector: Sector(0),
        count: Sectors(sectors),
        memory: Memory::payload(payload),
    };
    let result: Rc<RefCell<Option<Result<(), String>>>> = Rc::default();
    let (slot, stack) = (result.clone(), stack.clone());
    world.executor.spawn(async move {
        let outcome = stack.handle(device, request).await;
        *slot.borrow_mut() = Some(outcome);
    });
    world.executor.run_ready();
    let outcome = result.borrow_mut().take().ok_or("a read does not end")?;
    let bytes = world.host.take_payload(payload);
    outcome.map(|()| bytes.chunks(512).map(SectorData::new).collect())
}
