//! A merge beside the other devices of its origin: what may not be there, and what may not come.
//!
//! Each check says what is wrong instead of panicking, so that a mutant can be shown to it.

use std::rc::Rc;

use dm_targets::device::{Device, OpenTarget};
use dm_targets::request::RequestKind;
use dm_targets::snapshot::merge::{Bounds, Merge, Phase};
use dm_targets::snapshot::target::{Parts, Snapshot};
use dm_targets::target::Target;

use super::behaviour::Bench;
use super::cases::{images, plan};
use crate::origins::{Fixture, parts};
use crate::stack::Left;
use crate::workload::write;

/// Devices of the tests.
const ORIGIN: u32 = 0;
const SNAPSHOT: u32 = 10;
const MERGE: u32 = 20;

/// A family whose snapshot has a record and is deleted; its origin's device stays.
fn written() -> Fixture {
    let fixture = Fixture::new();
    fixture.add(ORIGIN, fixture.open_origin(0));
    fixture.add(SNAPSHOT, fixture.open_snapshot(0));
    fixture.write(ORIGIN).unwrap();
    fixture.remove(SNAPSHOT);
    fixture
}

/// Opens a merge of the first COW, or a new snapshot on the second one; both are of one origin.
fn open(fixture: &Fixture, cow: usize) -> Rc<OpenTarget> {
    let (group, origin) = (fixture.group.clone(), fixture.origins[0].clone());
    let (cow, losses) = (fixture.cows[cow].disk(), fixture.world.losses()[cow].clone());
    let merges = cow.name().as_ref() == "cow0";
    fixture.run(async move {
        let origin = group.origin_or(Fixture::key(0), || origin.disk());
        let overwrite = false;
        let parts = Parts { overwrite, ..parts(&group, origin.disk(), &cow, losses) };
        let target = if merges {
            let merge = Merge::open(parts, &origin, Bounds::default()).await.unwrap();
            merge.pause();
            Target::Merge(merge)
        } else {
            Target::Snapshot(Snapshot::open(parts).await.unwrap())
        };
        group.hold(OpenTarget { target, events: Rc::default() })
    })
}

/// Adds what was opened; the error if that fails.
fn add(fixture: &Fixture, id: u32, opened: Rc<OpenTarget>) -> Option<String> {
    let group = fixture.group.clone();
    fixture.run(async move {
        let added = group.add(id, OpenTarget::clone(&opened), |_| Ok(())).await;
        drop(opened);
        group.forget_unused_origins();
        added.err()
    })
}

fn is_refused(why: Option<String>, with: &str, what: &str) -> Result<(), String> {
    match why {
        Some(why) if why.contains(with) => Ok(()),
        other => Err(format!("{what}: {other:?}")),
    }
}

/// An origin's device and a merge into the origin exclude each other, whichever comes first.
pub fn merge_beside_its_origin() -> Result<(), String> {
    let fixture = written();
    let refused = add(&fixture, MERGE, open(&fixture, 0));
    is_refused(refused, "one device only", "a merge beside the origin")?;
    fixture.remove(ORIGIN);
    add(&fixture, MERGE, open(&fixture, 0)).map_or(Ok(()), Err)?;
    let refused = add(&fixture, ORIGIN, fixture.open_origin(0));
    is_refused(refused, "one device only", "an origin beside the merge")
}

/// The origin is written between the opening of a merge and its beginning: its store is lost.
pub fn merge_into_a_changed_origin() -> Result<(), String> {
    let fixture = written();
    let merge = open(&fixture, 0);
    fixture.write(ORIGIN)?;
    fixture.remove(ORIGIN);
    is_refused(add(&fixture, MERGE, merge), "written after the merge was opened", "a stale merge")
}

/// A new snapshot that joins during a merge keeps what is on the disk at that moment, which is not
/// what the merge shows, and its user is told so.
pub fn new_snapshot_during_a_merge() -> Result<(), String> {
    let fixture = written();
    fixture.remove(ORIGIN);
    add(&fixture, MERGE, open(&fixture, 0)).map_or(Ok(()), Err)?;
    add(&fixture, SNAPSHOT, open(&fixture, 1)).map_or(Ok(()), Err)?;
    let device = |id| fixture.group.device(id).ok_or("it has no device");
    let (merge, new) = (device(MERGE)?, device(SNAPSHOT)?);
    let (Target::Merge(merging), Target::Snapshot(snapshot)) = (merge.target(), new.target())
    else {
        return Err("other targets".into());
    };
    let told = fixture.group.mixture(&snapshot);
    if !told.as_ref().is_some_and(|why| why.contains("a snapshot is being merged into")) {
        return Err(format!("its user is told {told:?}"));
    }
    let read = |device: &Rc<Device>| fixture.ask(device, RequestKind::Read, 0);
    let (on_disk, shown) = (read(&new)?, read(&merge)?);
    if on_disk == shown {
        return Err("nothing is left to be merged".into());
    }
    merging.unpause();
    fixture.run(async {});
    if merging.phase() != Phase::Done {
        return Err(format!("the merge is {:?}", merging.phase()));
    }
    match (read(&new)? == on_disk, read(&merge)? == shown, fixture.group.mixture(&snapshot)) {
        (true, true, None) => Ok(()),
        wrong => Err(format!("{wrong:?}")),
    }
}

/// A discard of the only other snapshot does not reach an origin that has the merged one's data.
pub fn discard_beside_a_merge() -> Result<(), String> {
    let mut plan = plan(22, &[1, 2], 3);
    plan.setup.discards = true;
    let images = images(&plan, &[write(1, 3, 2)]);
    let bench = Bench::paused(&plan, &Left::images(&images));
    let before = bench.world.disks()[0].visible();
    let discarded = bench.ask(1, RequestKind::Discard, 8, 8);
    bench.world.run(10_000);
    if *discarded.borrow() != Some(Ok(())) {
        return Err(format!("the discard: {discarded:?}"));
    }
    if bench.world.disks()[0].visible() != before {
        return Err("the origin has lost what the merged snapshot shows there".into());
    }
    bench.end().map(drop)
}

#[test]
fn a_merge_and_its_origins_device_exclude_each_other() {
    merge_beside_its_origin().unwrap();
}

#[test]
fn a_merge_into_an_origin_that_was_written_meanwhile_is_refused() {
    merge_into_a_changed_origin().unwrap();
}

#[test]
fn a_new_snapshot_during_a_merge_keeps_what_is_on_the_disk() {
    new_snapshot_during_a_merge().unwrap();
}

#[test]
fn a_discard_of_another_snapshot_leaves_the_origin_alone() {
    discard_beside_a_merge().unwrap();
}
