//! Snapshots that join an origin while it is busy.

use dm_targets::sim::disk::DiskConfig;
use dm_targets::sim::world::Schedule;
use dm_targets::snapshot::target::OnFull;
use dm_targets::units::Sectors;

use super::{Rig, calm};
use crate::pattern;

/// Whether a snapshot shows a moment of an origin: every write that was acknowledged before it
/// joined, no write that was started afterwards, and the same content when it is read again.
fn join_under_load(seed: u64, schedule: Schedule) {
    let mut rig = Rig::new(12, calm(), seed, schedule);
    rig.add(2, 60, OnFull::Invalidate, calm());
    let late = rig.open(4, 60, OnFull::Invalidate, calm());
    rig.run(0, 100, 0, 4).unwrap();
    let mut writes: Vec<_> = (0..4).map(|n| rig.start(0, 101 + n, u64::from(n) * 2, 3)).collect();
    let joined = rig.join(&late);
    for _ in 0..seed % 40 {
        rig.world.step(false);
    }
    let settled = joined.borrow().is_some();
    writes.push(rig.start(0, 110, 0, 12));
    let read = rig.start(2, 0, 0, 12);
    assert!(rig.world.run(10_000));
    assert!(writes.iter().all(|write| matches!(*write.borrow(), Some(Ok(_)))));
    assert!(joined.borrow().is_some());
    let shown = rig.run(2, 0, 0, 12).unwrap();
    if settled {
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
    rig.run(0, 111, 0, 12).unwrap();
    assert_eq!(rig.run(2, 0, 0, 12).unwrap(), shown, "seed {seed} {schedule:?}");
    drop(late);
    rig.close();
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
    let mut rig = Rig::new(12, DiskConfig { max_discard: Sectors(12), ..calm() }, seed, schedule);
    rig.discards = true;
    rig.add(2, 60, OnFull::Invalidate, calm());
    let late = rig.open(4, 60, OnFull::Invalidate, calm());
    let discards = [(0, 4), (5, 3), (10, 2)]
        .map(|(first, count)| rig.start(1, pattern::DISCARD, first, count));
    let joined = rig.join(&late);
    for _ in 0..seed % 40 {
        rig.world.step(false);
    }
    let settled = joined.borrow().is_some();
    let read = rig.start(2, 0, 0, 12);
    assert!(rig.world.run(10_000));
    assert!(discards.iter().all(|discard| matches!(*discard.borrow(), Some(Ok(_)))));
    let shown = rig.run(2, 0, 0, 12).unwrap();
    if settled && read.borrow_mut().take().unwrap().unwrap() != shown {
        let fault =
            format!("seed {seed} {schedule:?}: a snapshot of a moment has changed by a discard");
        return Err((fault, rig.world.trace.lines()));
    }
    // The origin has several snapshots now: a discard affects only the snapshot that gets it.
    rig.run(1, pattern::DISCARD, 0, 12).unwrap();
    assert_eq!(rig.run(2, 0, 0, 12).unwrap(), shown, "seed {seed} {schedule:?}");
    drop(late);
    rig.close();
    Ok(())
}
