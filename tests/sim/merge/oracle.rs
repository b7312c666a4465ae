//! The required content after a crash in the middle of a merge, judged by the kernel's rules, by
//! the code under test (as a continued merge and as an ordinary family), and by the model.

use std::rc::Rc;

use dm_targets::sim::image::{Image, SectorData};
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::Schedule;
use dm_targets::snapshot::format::HEADER_BYTES;
use dm_targets::snapshot::format::identity::{IDENTITY_END, is_marked};
use dm_targets::snapshot::merge::Phase;
use dm_targets::units::{Sector, Sectors};

use super::family::{Plan, read_all, run, spawn_open};
use crate::kernel::{self, Loaded};
use crate::model::{Device, Model, Moment};
use crate::oracle::model_of;
use crate::stack::{self, Left};

/// The model of a family that starts from the images left by a crash. Device 0 shows the content of
/// the merged snapshot; device N is the set-up's snapshot N.
pub fn merge_model(plan: &Plan, left: &Left) -> Result<Model, String> {
    let mut all = model_of(&plan.setup, left)?;
    let merging = all.snaps.remove(0);
    if merging.dead {
        return Err("the store that is to be merged is not valid".into());
    }
    for snap in &mut all.snaps {
        // A merge changes the origin like a write to it.
        let sectors = merging.touched.iter().map(|chunk| chunk * merging.chunk);
        let chunks = sectors.flat_map(|at| (at..at + merging.chunk).map(|at| at / snap.chunk));
        snap.touched.extend(chunks.filter(|chunk| chunk * snap.chunk < plan.setup.origin_sectors));
        snap.origin_wrote = true;
    }
    let mut model = Model::new(merging.device, all.snaps, plan.setup.volatile);
    model.journal = plan.setup.journal;
    Ok(model)
}

/// A device that shows the origin's content at the time of joining, of which not all was durable.
pub fn joined_device(visible: &Image, durable: &Image) -> Device {
    Device::new(visible.sectors.clone(), Some(durable.sectors.clone()))
}

/// The content of the first COW with the origin by the kernel's rules; it must be a usable store.
pub fn merge_view(plan: &Plan, images: &[Image]) -> Result<Vec<SectorData>, String> {
    let loaded = kernel::load(&images[1], plan.setup.origin_sectors)?;
    match &loaded {
        Loaded::Valid(store) if store.stale_tail => {
            return Err("records stand behind the terminator, where the kernel would find them \
                        again"
                .into());
        }
        Loaded::Valid(_) => {}
        other => return Err(format!("the store that is merged is {other:?}")),
    }
    kernel::view(&loaded, &images[1], &images[0]).ok_or_else(|| "it shows nothing".into())
}

/// The family without the snapshots that have not joined.
fn with_joined(plan: &Plan, joined: usize) -> Plan {
    let mut plan = Plan { late: 0, ..plan.clone() };
    plan.setup.snaps.truncate(joined + 1);
    plan
}

/// What is left, without the mark on the COW that a merge has begun: the kernel ignores the mark.
fn unmarked(left: &Left) -> Left {
    let mut left = left.clone();
    let mut block: [u8; IDENTITY_END] =
        left.images[1].read(Sector(0), Sectors(1)).try_into().unwrap_or([0; IDENTITY_END]);
    if is_marked(&block) {
        block[HEADER_BYTES..].fill(0);
        left.images[1].write(Sector(0), &block);
    }
    left
}

/// Judges the surviving images, with `joined` other snapshots.
pub fn judge(
    plan: &Plan,
    model: &Model,
    joined: usize,
    left: &Left,
    moment: Moment,
) -> Result<(), String> {
    let view = merge_view(plan, &left.images)?;
    model.origin.judge(0, &view, moment).map_err(|fault| format!("merge: {fault}"))?;
    let plan = with_joined(plan, joined);
    // As an ordinary snapshot, which the kernel takes it for.
    let ordinary = stack::recover(&plan.setup, &unmarked(left))?;
    if ordinary.snaps[0].as_ref() != Some(&view) {
        return Err("as an ordinary snapshot it shows something else".into());
    }
    for (number, shown) in ordinary.snaps[1..].iter().enumerate() {
        let snap = &model.snaps[number];
        match shown {
            Some(shown) => snap
                .device
                .judge(0, shown, moment)
                .map_err(|fault| format!("snap{}: {fault}", number + 1))?,
            None if snap.may_be_invalid() => {}
            None => {
                return Err(format!("snap{} is invalid and nothing has gone wrong", number + 1));
            }
        }
    }
    goes_on(&plan, left, &view, &ordinary.snaps[1..])
}

/// Merged to the end without another crash.
fn goes_on(
    plan: &Plan,
    left: &Left,
    view: &[SectorData],
    others: &[Option<Vec<SectorData>>],
) -> Result<(), String> {
    let world = stack::world(&plan.setup, left, 0, Schedule::InOrder, true, Trace::default());
    let opening = spawn_open(&world, plan);
    world.run(100_000);
    let family = opening.borrow_mut().take().ok_or("going on, it does not open")??;
    if family.merge.phase() != Phase::Done {
        return Err(format!("going on, it comes to {:?}", family.merge.fault()));
    }
    ended(plan, &family)?;
    if read_all(&world, &family, 0)? != view {
        return Err("going on, the device shows something else".into());
    }
    if world.disks()[0].visible().sectors[..view.len()] != *view {
        return Err("in the end the origin holds something else".into());
    }
    for (number, before) in others.iter().enumerate() {
        let shown = read_all(&world, &family, number + 1).ok();
        if shown != *before {
            return Err(format!("merging the rest changes snap{}", number + 1));
        }
    }
    let records = kernel::load(&world.disks()[1].visible(), plan.setup.origin_sectors)?;
    if !matches!(&records, Loaded::Valid(store) if store.records.is_empty() && !store.stale_tail) {
        return Err(format!("in the end the store is not empty: {records:?}"));
    }
    closed(&world, family)
}

/// The conditions of every completed merge.
pub fn ended(plan: &Plan, family: &Rc<super::family::Family>) -> Result<(), String> {
    let chunk = plan.setup.snaps[0].chunk;
    let (status, left) = (family.merge.status().to_string(), family.merge.progress().left);
    let expected = format!("{}/{} {}", 2 * chunk, plan.setup.snaps[0].cow_sectors, 2 * chunk);
    if status != expected || left.0 != 0 {
        return Err(format!("done, and the status is {status}, {left} sectors left"));
    }
    Ok(())
}

/// Ends a family; no part of it may stay.
pub fn closed(
    world: &dm_targets::sim::world::World,
    family: Rc<super::family::Family>,
) -> Result<(), String> {
    run(world, family.close())??;
    world.run(10_000);
    match (world.executor.live(), world.host.lent()) {
        (0, 0) => Ok(()),
        (tasks, buffers) => {
            Err(format!("after the end {tasks} tasks and {buffers} buffers are left"))
        }
    }
}
