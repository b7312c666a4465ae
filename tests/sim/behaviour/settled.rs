//! Writes of chunks that every snapshot has: they consult no snapshot, except those that have
//! joined or changed since.

use dm_targets::sim::disk::{Class, Matcher};
use dm_targets::sim::world::Schedule;
use dm_targets::snapshot::exceptions::Health;
use dm_targets::snapshot::target::OnFull;

use super::{Rig, calm};
use crate::pattern;

/// A snapshot that joins an origin whose every chunk the others have preserves its own view,
/// whatever its chunk size; and continues to do so when the others have left. `Err` says what is
/// wrong, and what led to it.
pub fn join_of_another(chunk: u64) -> Result<(), (String, Vec<String>)> {
    let mut rig = Rig::new(16, calm(), 0, Schedule::InOrder);
    rig.add(4, 60, OnFull::Invalidate, calm());
    rig.run(0, 100, 0, 16).unwrap();
    rig.run(0, 101, 0, 16).unwrap();
    rig.add(chunk, 60, OnFull::Invalidate, calm());
    let shown = |rig: &Rig, snap, id, moment: &str| {
        let kept = rig
            .run(snap, 0, 0, 16)
            .unwrap()
            .iter()
            .zip(0..)
            .all(|(data, at)| *data == pattern::sector(id, at));
        let fault = || {
            (
                format!("chunks of {chunk}: {moment} snap{snap} does not show write {id}"),
                rig.world.trace.lines(),
            )
        };
        if kept { Ok(()) } else { Err(fault()) }
    };
    for at in 0..8 {
        rig.run(0, 102, at * 2, 2).unwrap();
    }
    shown(&rig, 2, 101, "with two")?;
    rig.origin.leave(&rig.snaps[0]);
    rig.run(0, 103, 0, 16).unwrap();
    rig.add(2, 60, OnFull::Invalidate, calm());
    rig.run(0, 104, 0, 16).unwrap();
    shown(&rig, 2, 101, "after the first has left")?;
    shown(&rig, 3, 103, "after the first has left")?;
    rig.close();
    Ok(())
}

#[test]
fn a_snapshot_that_joins_late_keeps_what_others_have() {
    for chunk in [1, 2, 4, 8] {
        join_of_another(chunk).unwrap();
    }
}

#[test]
fn writes_of_what_every_snapshot_has_wait_while_one_becomes_invalid() {
    let mut rig = Rig::new(16, calm(), 0, Schedule::InOrder);
    rig.add(2, 60, OnFull::Invalidate, calm());
    // One chunk after the header and the area.
    let cow = rig.add(2, 8, OnFull::Invalidate, calm());
    rig.run(0, 100, 0, 2).unwrap();
    rig.run(0, 101, 0, 2).unwrap();
    cow.hold(Matcher { class: Class::WriteFua, first: 0, end: 1 });
    let other = rig.start(0, 102, 8, 8);
    rig.world.run(10_000);
    assert_eq!(rig.snaps[1].health(), Health::Invalidating);
    let again = rig.start(0, 103, 0, 2);
    rig.world.run(10_000);
    assert!(other.borrow().is_none() && again.borrow().is_none());
    cow.release();
    rig.world.run(10_000);
    assert!(other.borrow().is_some() && again.borrow().is_some());
    assert_eq!(rig.snaps[1].health(), Health::Invalid);
    assert_eq!(rig.run(1, 0, 0, 2).unwrap()[1], pattern::sector(pattern::ORIGIN, 1));
    rig.close();
}
