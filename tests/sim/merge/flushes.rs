//! Flushes of an origin that fail during a merge, on a disk that does not bring back what was
//! written before.

use std::rc::Rc;

use dm_targets::device::{Device, OpenTarget};
use dm_targets::disk::{Errno, Memory};
use dm_targets::request::{Request, RequestKind};
use dm_targets::sim::Rng;
use dm_targets::sim::crash::CrashKind;
use dm_targets::sim::disk::{Class, DiskConfig, Fault, Matcher};
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::{Schedule, Step, World};
use dm_targets::snapshot::journal::Journaled;
use dm_targets::snapshot::merge_fault::MergeFault;
use dm_targets::target::Target;
use dm_targets::units::{Sector, Sectors};

use super::behaviour::{Bench, small};
use super::family::{Slot, run};
use super::oracle::merge_view;
use crate::pattern;

/// The number of seeds.
const SEEDS: u64 = 150;

/// A family on such disks; one operation of the origin is to fail.
fn bench(seed: u64, class: Class) -> Bench {
    let (plan, left) = small();
    let mut world = World::new(seed, Schedule::Uniform, Trace::default());
    for (number, image) in left.images.iter().enumerate() {
        let loses = number == 0;
        let (failed_flush_loses, failed_fua_loses) = (loses, loses);
        let config = DiskConfig { failed_flush_loses, failed_fua_loses, ..DiskConfig::default() };
        world.add_disk(&format!("disk{number}"), config, image.clone());
    }
    for snap in 0..plan.setup.snaps.len() {
        world.add_journal(&Journaled::default());
        world.add_losses(&format!("disk{}", snap + 1), None);
    }
    let skip = u32::try_from(seed % 3).unwrap();
    let matcher = Matcher::all(class);
    world.disks()[0].inject(Fault { matcher, skip, times: 1, errno: Errno::EIO });
    Bench::on(&plan, world)
}

/// A flush by the device's user fails after a batch has been copied, and takes the copies with it;
/// the flush of the merge succeeds. An error says which data is lost.
pub fn user_flush_fails() -> Result<(), String> {
    for seed in 0..SEEDS {
        let (bench, mut asked, mut rng) = (bench(seed, Class::Flush), 0, Rng::new(seed));
        let expected = merge_view(&bench.plan, &small().1.images)?;
        loop {
            match bench.world.step(asked < 4 && rng.one_in(12)) {
                Step::Driver => {
                    asked += 1;
                    bench.start(RequestKind::Flush, 0, 0);
                }
                Step::Nothing => break,
                _ => {}
            }
            for images in bench.world.crash(CrashKind::Power, 4) {
                if merge_view(&bench.plan, &images)? != expected {
                    return Err(format!("seed {seed}: what a failed flush has lost is missed"));
                }
            }
        }
    }
    Ok(())
}

/// A write with FUA by the device's user fails after a batch has been copied, on a disk where it is
/// a write and a flush: it takes the copies with it.
pub fn user_fua_fails() -> Result<(), String> {
    for seed in 0..SEEDS {
        let (bench, mut asked, mut rng) = (bench(seed, Class::WriteFua), 0, Rng::new(seed));
        let expected = merge_view(&bench.plan, &small().1.images)?;
        loop {
            match bench.world.step(asked < 4 && rng.one_in(12)) {
                Step::Driver => {
                    asked += 1;
                    bench.start(RequestKind::Write { fua: true }, 15, 1);
                }
                Step::Nothing => break,
                _ => {}
            }
            for images in bench.world.crash(CrashKind::Power, 4) {
                let shown = merge_view(&bench.plan, &images)?;
                if shown[..15] != expected[..15] || shown[16..] != expected[16..] {
                    return Err(format!("seed {seed}: what a failed write has lost is missed"));
                }
            }
        }
    }
    Ok(())
}

/// A flush of the merge fails, and then the merge is taken away: the origin's next target tells its
/// user.
fn merge_goes_after_its_flush_failed() -> Result<(), String> {
    let bench = bench(0, Class::Flush);
    bench.world.run(100_000);
    let (origin, merge) = (bench.family.origin.clone(), bench.family.merge.clone());
    if !matches!(merge.fault(), Some(MergeFault::Flush(_))) {
        return Err(format!("it has not failed so: {:?}", merge.fault()));
    }
    let target = Target::Merge(merge);
    let closed = run(&bench.world, async move { target.close().await })?;
    closed.err().filter(|why| why.contains("flush")).ok_or("its end does not say so")?;
    let target = Target::Origin(origin.clone());
    let device = Device::new(OpenTarget { target, events: Rc::default() });
    let suspended = run(&bench.world, async move { device.suspend(false).await })?;
    suspended.err().ok_or("a suspension does not say so")?;
    let memory = Memory::None;
    let flush = Request { kind: RequestKind::Flush, sector: Sector(0), count: Sectors(0), memory };
    let flushes = async move { [origin.handle(&flush).await, origin.handle(&flush).await] };
    match run(&bench.world, flushes)? {
        [Err(_), Ok(())] => Ok(()),
        other => Err(format!("the user's flushes return {other:?}")),
    }
}

/// A flush of the merge fails, and takes with it what the device's user has written; the user's
/// later flush succeeds on the disk, but must not be acknowledged.
pub fn merge_flush_fails() -> Result<(), String> {
    for seed in 0..SEEDS {
        let (bench, mut rng) = (bench(seed, Class::Flush), Rng::new(seed));
        let written = bench.write(15, 1);
        let mut flushed: Option<Slot<Result<(), String>>> = None;
        loop {
            let more = written.borrow().is_some() && flushed.is_none() && rng.one_in(12);
            match bench.world.step(more) {
                Step::Driver => flushed = Some(bench.start(RequestKind::Flush, 0, 0)),
                Step::Nothing => break,
                _ => {}
            }
        }
        let flushed = flushed.unwrap_or_else(|| Rc::new(None.into()));
        let promised = matches!(*flushed.borrow(), Some(Ok(())));
        for images in bench.world.crash(CrashKind::Power, 4) {
            let is_there = images[0].sectors[15] == pattern::sector(pattern::FIRST_WRITE, 15);
            if promised && !is_there {
                return Err(format!("seed {seed}: what was flushed is lost"));
            }
        }
    }
    Ok(())
}

#[test]
fn a_users_flush_that_fails_costs_a_copy_and_no_data() {
    user_flush_fails().unwrap();
}

#[test]
fn a_users_write_with_fua_that_fails_costs_a_copy_and_no_data() {
    user_fua_fails().unwrap();
}

#[test]
fn a_failed_flush_is_told_after_the_merge_is_gone() {
    merge_goes_after_its_flush_failed().unwrap();
}

#[test]
fn a_flush_of_the_merge_that_fails_is_told_to_users() {
    merge_flush_fails().unwrap();
}
