//! Flushes of an origin that fail during a merge, on a disk that does not bring back what was
//! written before.

use std::rc::Rc;

use dm_targets::disk::Errno;
use dm_targets::request::RequestKind;
use dm_targets::sim::Rng;
use dm_targets::sim::crash::CrashKind;
use dm_targets::sim::disk::{Class, DiskConfig, Fault, Matcher};
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::{Schedule, Step, World};
use dm_targets::snapshot::journal::Noted;

use super::behaviour::{Bench, small};
use super::family::Slot;
use super::oracle::merge_view;
use crate::pattern;

/// The number of seeds.
const SEEDS: u64 = 150;

/// A family on such disks; one flush of the origin is to fail.
fn bench(seed: u64) -> Bench {
    let (plan, left) = small();
    let mut world = World::new(seed, Schedule::Uniform, Trace::default());
    for (number, image) in left.images.iter().enumerate() {
        let config = DiskConfig { failed_flush_loses: number == 0, ..DiskConfig::default() };
        world.add_disk(&format!("disk{number}"), config, image.clone());
    }
    for snap in 0..plan.setup.snaps.len() {
        world.add_notes(&Noted::default());
        world.add_losses(&format!("disk{}", snap + 1), None);
    }
    let skip = u32::try_from(seed % 3).unwrap();
    let matcher = Matcher::all(Class::Flush);
    world.disks()[0].inject(Fault { matcher, skip, times: 1, errno: Errno::EIO });
    Bench::on(&plan, world)
}

/// A flush by the device's user fails after a batch has been copied, and takes the copies with it;
/// the flush of the merge succeeds. An error says which data is lost.
pub fn user_flush_fails() -> Result<(), String> {
    for seed in 0..SEEDS {
        let (bench, mut asked, mut rng) = (bench(seed), 0, Rng::new(seed));
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

/// A flush of the merge fails, and takes with it what the device's user has written; the user's
/// later flush succeeds on the disk, but must not be acknowledged.
pub fn merge_flush_fails() -> Result<(), String> {
    for seed in 0..SEEDS {
        let (bench, mut rng) = (bench(seed), Rng::new(seed));
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
fn a_flush_of_the_merge_that_fails_is_told_to_users() {
    merge_flush_fails().unwrap();
}
