//! An origin that grows below its snapshots, and snapshots that grow after it.

use std::rc::Rc;

use dm_targets::sim::disk::{Class, Matcher};
use dm_targets::sim::world::Schedule;
use dm_targets::snapshot::target::{OnFull, Snapshot};
use dm_targets::units::Sectors;

use super::{Fixture, Slot, calm};
use crate::pattern;

/// What is wrong, and what led to it.
type Broken = (String, Vec<String>);

/// An origin of so many sectors with a snapshot in chunks of four, on a COW with room.
fn fixture(sectors: u64) -> Fixture {
    let mut fixture = Fixture::new(sectors, calm(), 0, Schedule::InOrder);
    fixture.add(4, 120, OnFull::Invalidate, calm());
    fixture
}

/// The origin's disk grows, and shows that.
fn grow_disk(fixture: &Fixture, sectors: u64) {
    fixture.world.disks()[0].grow(Sectors(sectors));
    assert_eq!(fixture.origin.disk().refresh_size(), Sectors(sectors));
}

fn resize(fixture: &Fixture, snap: &Rc<Snapshot>, sectors: u64) -> Slot<Result<(), String>> {
    let (origin, snap, done) = (fixture.origin.clone(), snap.clone(), Slot::default());
    let slot = done.clone();
    fixture.world.executor.spawn(async move {
        let resized = origin.resize(&snap, Sectors(sectors)).await;
        *slot.borrow_mut() = Some(resized);
    });
    done
}

/// Whether a device shows this write in a range.
fn shows(fixture: &Fixture, device: usize, id: u32, first: u64, count: u64) -> Result<(), Broken> {
    let shown = fixture.run(device, 0, first, count).unwrap();
    let wrong = shown.iter().zip(first..).find(|(data, at)| **data != pattern::sector(id, *at));
    wrong.map_or(Ok(()), |(data, at)| {
        let is = pattern::describe(data);
        Err((format!("sector {at} of device {device} is {is}, not write {id}"), fixture.trace()))
    })
}

impl Fixture {
    fn trace(&self) -> Vec<String> {
        self.world.trace.lines()
    }
}

#[test]
fn a_snapshot_keeps_its_size_and_content_while_its_origin_grows() {
    for sectors in [16, 18] {
        let fixture = fixture(sectors);
        grow_disk(&fixture, 40);
        fixture.run(0, 100, sectors + 2, 20).unwrap();
        assert_eq!(fixture.snaps[0].exceptions(), 0, "what is behind its end is not copied");
        fixture.run(0, 101, sectors - 2, 10).unwrap();
        assert_eq!((fixture.snaps[0].exceptions(), fixture.snaps[0].len()), (1, Sectors(sectors)));
        shows(&fixture, 1, pattern::ORIGIN, 0, sectors).unwrap();
        shows(&fixture, 0, 101, sectors - 2, 10).unwrap();
        fixture.close();
    }
}

#[test]
fn a_snapshot_that_grows_shows_what_its_origin_has_then() {
    let fixture = fixture(16);
    fixture.run(0, 100, 0, 16).unwrap();
    grow_disk(&fixture, 40);
    fixture.run(0, 101, 16, 24).unwrap();
    let snap = fixture.snaps[0].clone();
    assert_eq!((snap.room().0, snap.check_growth()), (Sectors(40), Ok(())));
    let resized = resize(&fixture, &snap, 38);
    fixture.world.run(10_000);
    assert!(*resized.borrow() == Some(Ok(())) && snap.len() == Sectors(38));
    for id in [102, 103] {
        fixture.run(0, id, 0, 40).unwrap();
        shows(&fixture, 1, pattern::ORIGIN, 0, 16).unwrap();
        shows(&fixture, 1, 101, 16, 22).unwrap();
    }
    fixture.run(1, 104, 30, 8).unwrap();
    shows(&fixture, 1, 104, 30, 8).unwrap();
    shows(&fixture, 0, 103, 0, 40).unwrap();
    drop(snap);
    fixture.close();
}

/// The chunk in which a snapshot ends was copied as far as the origin went then.
pub fn growth_over_a_chunk() -> Result<(), Broken> {
    let fixture = fixture(18);
    fixture.run(0, 100, 16, 2).unwrap();
    grow_disk(&fixture, 40);
    fixture.run(0, 101, 18, 22).unwrap();
    let snap = fixture.snaps[0].clone();
    let checked = snap.check_growth();
    if checked.is_ok() {
        drop(resize(&fixture, &snap, 40));
        fixture.world.run(10_000);
    }
    let judged = if checked.is_ok() { shows(&fixture, 1, 101, 18, 22) } else { Ok(()) };
    let refused = checked.is_err_and(|why| why.contains("a chunk of another time"));
    drop(snap);
    judged?;
    if refused { Ok(()) } else { Err(("it grows".to_owned(), fixture.trace())) }
}

/// The chunk in which it ends is copied between the check and the growth.
#[test]
fn a_snapshot_that_has_a_chunk_by_then_does_not_grow() {
    let fixture = fixture(18);
    grow_disk(&fixture, 40);
    let snap = fixture.snaps[0].clone();
    snap.check_growth().unwrap();
    fixture.run(0, 100, 16, 2).unwrap();
    let resized = resize(&fixture, &snap, 40);
    fixture.world.run(10_000);
    let why = resized.borrow_mut().take().unwrap().unwrap_err();
    assert!(why.contains("a chunk of another time"), "{why}");
    assert_eq!(snap.len(), Sectors(18));
    let cut = resize(&fixture, &snap, 18);
    fixture.world.run(10_000);
    assert_eq!(*cut.borrow(), Some(Ok(())));
    drop(snap);
    fixture.run(0, 101, 16, 24).unwrap();
    shows(&fixture, 1, pattern::ORIGIN, 0, 18).unwrap();
    fixture.close();
}

/// A write of the new part is on its way when the snapshot gets it: it shows what was written, or
/// what was there before, and continues to do so.
pub fn growth_among_writes() -> Result<(), Broken> {
    let fixture = fixture(16);
    grow_disk(&fixture, 40);
    fixture.run(0, 100, 16, 24).unwrap();
    fixture.world.disks()[0].hold(Matcher { class: Class::Write, first: 20, end: 22 });
    let write = fixture.start(0, 101, 20, 2);
    fixture.world.run(10_000);
    let snap = fixture.snaps[0].clone();
    let resized = resize(&fixture, &snap, 40);
    fixture.world.run(10_000);
    let early = resized.borrow().is_some();
    let before = early.then(|| fixture.run(1, 0, 20, 2).unwrap());
    fixture.world.disks()[0].release();
    fixture.world.run(10_000);
    assert!(write.borrow().is_some() && resized.borrow().is_some());
    drop(snap);
    let after = fixture.run(1, 0, 20, 2).unwrap();
    if before.is_some_and(|before| before != after) {
        return Err(("what a snapshot shows has changed".to_owned(), fixture.trace()));
    }
    fixture.run(0, 102, 16, 24).unwrap();
    shows(&fixture, 1, 101, 20, 2)?;
    fixture.close();
    Ok(())
}

#[test]
fn a_snapshot_does_not_grow_over_a_chunk_that_it_has() {
    growth_over_a_chunk().unwrap();
}

#[test]
fn a_snapshot_grows_when_no_write_is_in_flight() {
    growth_among_writes().unwrap();
}
