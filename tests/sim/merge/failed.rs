//! Merges that have failed: what they find when they go on, or when another one goes on.
//!
//! Each check says what is wrong instead of panicking, so that a mutant can be shown to it.

use dm_targets::disk::{Errno, Memory};
use dm_targets::request::RequestKind;
use dm_targets::sim::crash::CrashKind;
use dm_targets::sim::disk::{Class, Fault, Matcher};
use dm_targets::snapshot::merge::Phase;
use dm_targets::snapshot::merge_fault::MergeFault;
use dm_targets::units::{Sector, Sectors};

use super::behaviour::{Bench, small, world_of};
use super::family::run;
use super::oracle::merge_view;
use crate::pattern;

const STEPS: usize = 100_000;

/// Opened with all records in one batch, whose commit fails.
fn commit_failed(records: usize) -> (Bench, super::family::Plan) {
    let (mut plan, left) = small();
    plan.records = records;
    let bench = Bench::paused(&plan, &left);
    let matcher = Matcher { class: Class::WriteFua, first: 1, end: 2 };
    bench.world.disks()[1].inject(Fault { matcher, skip: 0, times: 1, errno: Errno::EIO });
    bench.family.merge.unpause();
    bench.world.run(STEPS);
    (bench, plan)
}

/// The failed commit has reached the COW's cache, and the next merge finds an empty store. What is
/// written and flushed then must not be hidden by records that come back.
pub fn cache_outlives_the_merge() -> Result<(), String> {
    let mut emptied = 0;
    // Whether a failed write reaches the cache depends on its number.
    for earlier in 0..8 {
        let (plan, left) = small();
        let mut plan = plan;
        plan.records = 1024;
        let world = world_of(&plan, &left);
        for _ in 0..earlier {
            let disk = world.disks()[1].disk();
            run(&world, async move { disk.flush().await })?.map_err(|error| error.to_string())?;
        }
        let matcher = Matcher { class: Class::WriteFua, first: 1, end: 2 };
        world.disks()[1].inject(Fault { matcher, skip: 0, times: 1, errno: Errno::EIO });
        let bench = Bench::on(&plan, world);
        bench.world.run(STEPS);
        if !matches!(bench.family.merge.fault(), Some(MergeFault::Commit(_))) {
            return Err(format!("it has not failed so: {:?}", bench.family.merge.fault()));
        }
        let (plan, world) = bench.end()?;
        let bench = Bench::on(&plan, world);
        emptied += usize::from(bench.family.merge.progress().left.0 == 0);
        bench.world.run(STEPS);
        let written = bench.write(3, 1);
        bench.world.run(STEPS);
        let flushed = bench.start(RequestKind::Flush, 0, 0);
        bench.world.run(STEPS);
        if (&*written.borrow(), &*flushed.borrow()) != (&Some(Ok(())), &Some(Ok(()))) {
            return Err(format!("{written:?} {flushed:?}"));
        }
        for images in bench.world.crash(CrashKind::Power, 8) {
            if merge_view(&plan, &images)?[3] != pattern::sector(pattern::FIRST_WRITE, 3) {
                return Err("a record that was found to be gone hides what was flushed".into());
            }
        }
    }
    if emptied == 0 { Err("the cache never held the commit".into()) } else { Ok(()) }
}

#[test]
fn what_a_failed_commit_left_in_a_cache_is_durable_before_it_counts() {
    cache_outlives_the_merge().unwrap();
}

/// A commit fails, and then another program removes records that were not in the batch.
pub fn records_vanish_after_a_failed_commit() -> Result<(), String> {
    let (bench, plan) = commit_failed(3);
    let before = bench.world.disks()[0].visible();
    let records = (0..5_u64).flat_map(|old| [old.to_le_bytes(), (old + 2).to_le_bytes()]);
    let mut area: Vec<u8> = records.flatten().collect();
    area.resize(512, 0);
    let (cow, payload) = (bench.world.disks()[1].disk(), bench.world.host.add_payload(area));
    let write =
        async move { cow.write(Sector(1), Sectors(1), Memory::payload(payload), true).await };
    run(&bench.world, write)?.map_err(|error| error.to_string())?;
    bench.family.merge.restart();
    bench.world.run(STEPS);
    let fault = bench.family.merge.fault();
    if !matches!(fault, Some(MergeFault::Changed { .. })) {
        let left = bench.family.merge.progress().left;
        return Err(format!("it goes on, {left} sectors left: {fault:?}, {plan:?}"));
    }
    match bench.world.disks()[0].visible() == before {
        true => Ok(()),
        false => Err("the origin has changed".into()),
    }
}

#[test]
fn records_that_vanish_after_a_failed_commit_were_not_merged() {
    records_vanish_after_a_failed_commit().unwrap();
}

/// What is found after a failed commit is written again, whatever it is: it may be in a cache.
#[test]
fn what_is_found_after_a_failed_commit_is_made_durable() {
    let (bench, _) = commit_failed(3);
    assert!(matches!(bench.family.merge.fault(), Some(MergeFault::Commit(_))));
    let before = bench.family.merge.commits();
    bench.family.merge.restart();
    bench.world.run(STEPS);
    assert_eq!(bench.family.merge.phase(), Phase::Done);
    let batches = bench.family.merge.commits() - before - 1;
    assert!((3..=4).contains(&batches), "one commit beside those of {batches} batches");
    bench.finish();
}
