//! Writes of chunks that every snapshot has: they consult no snapshot, except those that have
//! joined or changed since.

use dm_targets::sim::disk::{Class, Matcher};
use dm_targets::sim::world::Schedule;
use dm_targets::snapshot::exceptions::Health;
use dm_targets::snapshot::target::OnFull;

use super::{Fixture, calm};
use crate::pattern;

/// A snapshot that joins an origin whose every chunk the others have preserves its own view,
/// whatever its chunk size; and continues to do so when the others have left. `Err` says what is
/// wrong, and what led to it.
pub fn join_of_another(chunk: u64) -> Result<(), (String, Vec<String>)> {
    let mut fixture = Fixture::new(16, calm(), 0, Schedule::InOrder);
    fixture.add(4, 60, OnFull::Invalidate, calm());
    fixture.run(0, 100, 0, 16).unwrap();
    fixture.run(0, 101, 0, 16).unwrap();
    fixture.add(chunk, 60, OnFull::Invalidate, calm());
    let shown = |fixture: &Fixture, snap, id, moment: &str| {
        let kept = fixture
            .run(snap, 0, 0, 16)
            .unwrap()
            .iter()
            .zip(0..)
            .all(|(data, at)| *data == pattern::sector(id, at));
        let fault = || {
            (
                format!("chunks of {chunk}: {moment} snap{snap} does not show write {id}"),
                fixture.world.trace.lines(),
            )
        };
        if kept { Ok(()) } else { Err(fault()) }
    };
    for at in 0..8 {
        fixture.run(0, 102, at * 2, 2).unwrap();
    }
    shown(&fixture, 2, 101, "with two")?;
    fixture.origin.leave(&fixture.snaps[0]);
    fixture.run(0, 103, 0, 16).unwrap();
    fixture.add(2, 60, OnFull::Invalidate, calm());
    fixture.run(0, 104, 0, 16).unwrap();
    shown(&fixture, 2, 101, "after the first has left")?;
    shown(&fixture, 3, 103, "after the first has left")?;
    fixture.close();
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
    let mut fixture = Fixture::new(16, calm(), 0, Schedule::InOrder);
    fixture.add(2, 60, OnFull::Invalidate, calm());
    // One chunk after the header and the area.
    let cow = fixture.add(2, 8, OnFull::Invalidate, calm());
    fixture.run(0, 100, 0, 2).unwrap();
    fixture.run(0, 101, 0, 2).unwrap();
    cow.hold(Matcher { class: Class::WriteFua, first: 0, end: 1 });
    let other = fixture.start(0, 102, 8, 8);
    fixture.world.run(10_000);
    assert_eq!(fixture.snaps[1].health(), Health::Invalidating);
    let again = fixture.start(0, 103, 0, 2);
    fixture.world.run(10_000);
    assert!(other.borrow().is_none() && again.borrow().is_none());
    cow.release();
    fixture.world.run(10_000);
    assert!(other.borrow().is_some() && again.borrow().is_some());
    assert_eq!(fixture.snaps[1].health(), Health::Invalid);
    assert_eq!(fixture.run(1, 0, 0, 2).unwrap()[1], pattern::sector(pattern::ORIGIN, 1));
    fixture.close();
}
