//! Snapshots that join an origin while it is busy.

use dm_targets::sim::disk::{Class, DiskConfig, Matcher};
use dm_targets::sim::world::Schedule;
use dm_targets::snapshot::target::OnFull;
use dm_targets::units::Sectors;

use super::{Fixture, calm};
use crate::pattern;

/// Whether a snapshot shows a moment of an origin: every write that was acknowledged before it
/// joined, no write that was started afterwards, and the same content when it is read again.
fn join_under_load(seed: u64, schedule: Schedule) {
    let mut fixture = Fixture::new(12, calm(), seed, schedule);
    fixture.add(2, 60, OnFull::Invalidate, calm());
    let late = fixture.open(4, 60, OnFull::Invalidate, calm());
    fixture.run(0, 100, 0, 4).unwrap();
    let mut writes: Vec<_> =
        (0..4).map(|n| fixture.start(0, 101 + n, u64::from(n) * 2, 3)).collect();
    let joined = fixture.join(&late);
    for _ in 0..seed % 40 {
        fixture.world.step(false);
    }
    let has_joined = joined.borrow().is_some();
    writes.push(fixture.start(0, 110, 0, 12));
    let read = fixture.start(2, 0, 0, 12);
    assert!(fixture.world.run(10_000));
    assert!(writes.iter().all(|write| matches!(*write.borrow(), Some(Ok(_)))));
    assert!(joined.borrow().is_some());
    let shown = fixture.run(2, 0, 0, 12).unwrap();
    if has_joined {
        assert!(
            !shown.iter().zip(0..).any(|(data, at)| *data == pattern::sector(110, at)),
            "seed {seed} {schedule:?}"
        );
        assert_eq!(read.borrow_mut().take().unwrap().unwrap(), shown, "seed {seed} {schedule:?}");
    }
    assert!(
        (0..4).all(|at| shown[at] != pattern::sector(pattern::ORIGIN, at as u64)),
        "seed {seed} {schedule:?}"
    );
    fixture.run(0, 111, 0, 12).unwrap();
    assert_eq!(fixture.run(2, 0, 0, 12).unwrap(), shown, "seed {seed} {schedule:?}");
    drop(late);
    fixture.close();
}

#[test]
fn a_snapshot_that_joins_a_busy_origin_shows_one_moment() {
    for seed in 0..3000 {
        join_under_load(
            crate::seed_base() + seed,
            Schedule::RANDOM[usize::try_from(seed % 3).unwrap()],
        );
    }
}

/// The same for discards that a snapshot passes down to the origin: one that joins shows each range
/// either before or after its discard, and continues to do so. `Err` says what is wrong, and what
/// led to it.
pub fn join_among_discards(seed: u64, schedule: Schedule) -> Result<(), (String, Vec<String>)> {
    let mut fixture =
        Fixture::new(12, DiskConfig { max_discard: Sectors(12), ..calm() }, seed, schedule);
    fixture.discards = true;
    fixture.add(2, 60, OnFull::Invalidate, calm());
    let late = fixture.open(4, 60, OnFull::Invalidate, calm());
    let discards = [(0, 4), (5, 3), (10, 2)]
        .map(|(first, count)| fixture.start(1, pattern::DISCARD, first, count));
    let joined = fixture.join(&late);
    for _ in 0..seed % 40 {
        fixture.world.step(false);
    }
    let has_joined = joined.borrow().is_some();
    let read = fixture.start(2, 0, 0, 12);
    assert!(fixture.world.run(10_000));
    assert!(discards.iter().all(|discard| matches!(*discard.borrow(), Some(Ok(_)))));
    let shown = fixture.run(2, 0, 0, 12).unwrap();
    if has_joined && read.borrow_mut().take().unwrap().unwrap() != shown {
        let fault =
            format!("seed {seed} {schedule:?}: a snapshot of a moment has changed by a discard");
        return Err((fault, fixture.world.trace.lines()));
    }
    // The origin has several snapshots now: a discard affects only the snapshot that gets it.
    fixture.run(1, pattern::DISCARD, 0, 12).unwrap();
    assert_eq!(fixture.run(2, 0, 0, 12).unwrap(), shown, "seed {seed} {schedule:?}");
    drop(late);
    fixture.close();
    Ok(())
}

/// A snapshot that was missing meanwhile has missed such a discard.
#[test]
fn a_discard_that_is_passed_down_changes_the_origin() {
    let config = DiskConfig { max_discard: Sectors(12), ..calm() };
    let mut fixture = Fixture::new(12, config, 1, Schedule::RANDOM[0]);
    fixture.discards = true;
    fixture.add(2, 60, OnFull::Invalidate, calm());
    fixture.run(1, 0, 0, 12).unwrap();
    assert!(!fixture.origin.is_changed(), "it was read");
    fixture.run(1, pattern::DISCARD, 0, 4).unwrap();
    assert!(fixture.origin.is_changed());
    fixture.close();
}

/// A snapshot joins while the first write of a chunk waits for its copy to the other one: it has
/// the chunk as well. `Err` says what is wrong, and what led to it.
pub fn join_among_copies() -> Result<(), (String, Vec<String>)> {
    let mut fixture = Fixture::new(16, calm(), 0, Schedule::InOrder);
    let cow = fixture.add(4, 60, OnFull::Invalidate, calm());
    let late = fixture.open(4, 60, OnFull::Invalidate, calm());
    // The write of the copy, not of metadata, which is in the second chunk.
    cow.hold(Matcher { class: Class::Write, first: 8, end: 60 });
    let written = fixture.start(0, 100, 0, 4);
    fixture.world.run(10_000);
    let joined = fixture.join(&late);
    drop(late);
    fixture.world.run(10_000);
    assert!(joined.borrow().is_some() && written.borrow().is_none());
    cow.release();
    fixture.world.run(10_000);
    written.borrow_mut().take().expect("it ends").expect("its disk has not failed");
    for snap in [1, 2] {
        let shown = fixture.run(snap, 0, 0, 4).unwrap();
        if shown[3] != pattern::sector(pattern::ORIGIN, 3) {
            let fault = format!("snap{snap} shows a write of the origin");
            return Err((fault, fixture.world.trace.lines()));
        }
    }
    fixture.close();
    Ok(())
}

#[test]
fn a_snapshot_that_joins_while_a_chunk_is_copied_has_it_too() {
    join_among_copies().unwrap();
}
