//! A COW that finds no space before its end: a sparse file on a full file system, a thin device
//! with a full pool.

use dm_targets::sim::disk::{Class, SimDisk};
use dm_targets::sim::world::Schedule;
use dm_targets::snapshot::exceptions::Health;
use dm_targets::snapshot::target::OnFull;

use super::{Fixture, calm, error_at};
use crate::pattern;

/// The errors of a disk without space: of the disk, of a quota, of a limit on file sizes.
const NO_SPACE: [i32; 3] = [28, 122, 27];

fn origin_at(at: u64) -> dm_targets::sim::image::SectorData {
    pattern::sector(pattern::ORIGIN, at)
}

/// The snapshot is full and shows the same content as before, and its store is good when it is
/// opened again.
fn stays_readable(fixture: &mut Fixture, cow: &SimDisk, written: u64) -> Result<(), String> {
    let health = fixture.snaps[0].health();
    if health != Health::Overflowed {
        return Err(format!("the snapshot is {health:?}"));
    }
    let events = fixture.events.borrow().clone();
    assert_eq!(
        events.iter().filter(|event| event.contains("COW is full")).count(),
        1,
        "{events:?}"
    );
    let shown = fixture.run(1, 0, 0, 64).unwrap();
    for at in 0..64 {
        let wanted = if at < written { pattern::sector(100, at) } else { origin_at(at) };
        assert_eq!(shown[usize::try_from(at).unwrap()], wanted, "sector {at}");
    }
    let mut later = Fixture::new(64, calm(), 0, Schedule::InOrder);
    assert_eq!(
        later.open_image(1, cow.visible(), OnFull::Overflow, calm()).health(),
        Health::Valid
    );
    Ok(())
}

/// A write of the snapshot finds no space for its data. An error describes the snapshot's state.
pub fn data_of_a_snapshot_write(errno: i32) -> Result<(), String> {
    let mut fixture = Fixture::new(64, calm(), 0, Schedule::InOrder);
    let cow = fixture.add(1, 120, OnFull::Overflow, calm());
    fixture.run(1, 100, 0, 4).unwrap();
    // Its third chunk finds no space: no part of the write is kept.
    error_at(&cow, Class::Write, 8, errno);
    assert_eq!(fixture.errno(1, 101, 4, 6), 5);
    stays_readable(&mut fixture, &cow, 4)
}

#[test]
fn a_snapshot_write_without_space_for_its_data_leaves_an_overflowed_snapshot() {
    for errno in NO_SPACE {
        data_of_a_snapshot_write(errno).unwrap();
    }
}

/// The same where the rest of a chunk is copied beside the write.
#[test]
fn the_rest_of_a_chunk_finds_no_space() {
    let mut fixture = Fixture::new(64, calm(), 0, Schedule::InOrder);
    let cow = fixture.add(4, 120, OnFull::Overflow, calm());
    error_at(&cow, Class::Write, 10, 28);
    assert_eq!(fixture.errno(1, 101, 0, 1), 5);
    assert_eq!(fixture.snaps[0].health(), Health::Overflowed);
    assert_eq!(fixture.run(1, 0, 0, 4).unwrap(), (0..4).map(origin_at).collect::<Vec<_>>());
}

/// The record that fills an area finds no space for the next area; earlier records are kept.
#[test]
fn the_next_area_finds_no_space() {
    for (count, by_origin) in [(1, false), (3, false), (1, true), (40, false)] {
        let mut fixture = Fixture::new(64, calm(), 0, Schedule::InOrder);
        let cow = fixture.add(1, 120, OnFull::Overflow, calm());
        fixture.run(1, 100, 0, 31).unwrap();
        error_at(&cow, Class::Write, 34, 28);
        if by_origin {
            fixture.run(0, 101, 31, count).unwrap();
            assert_eq!(fixture.snaps[0].health(), Health::Invalid);
            assert!(fixture.events.borrow()[0].contains("COW is full"), "{:?}", fixture.events);
            continue;
        }
        assert_eq!(fixture.errno(1, 101, 31, count.min(33)), 5);
        stays_readable(&mut fixture, &cow, 31).unwrap();
    }
}

/// A write of the origin needs its chunk; the event says that the COW is full.
#[test]
fn an_origin_write_without_space_leaves_an_invalid_snapshot_that_says_why() {
    for errno in NO_SPACE {
        let mut fixture = Fixture::new(16, calm(), 0, Schedule::InOrder);
        let cow = fixture.add(2, 40, OnFull::Overflow, calm());
        error_at(&cow, Class::Write, 4, errno);
        fixture.run(0, 100, 0, 1).unwrap();
        assert_eq!(fixture.snaps[0].health(), Health::Invalid);
        assert_eq!(fixture.run(0, 0, 0, 1).unwrap()[0], pattern::sector(100, 0));
        assert!(fixture.events.borrow()[0].contains("COW is full"), "{:?}", fixture.events);
    }
}

#[test]
fn with_the_other_policy_full_is_invalid() {
    let mut fixture = Fixture::new(16, calm(), 0, Schedule::InOrder);
    let cow = fixture.add(2, 40, OnFull::Invalidate, calm());
    error_at(&cow, Class::Write, 4, 28);
    fixture.errno(1, 100, 0, 1);
    assert_eq!(fixture.snaps[0].health(), Health::Invalid);
    assert!(fixture.events.borrow()[0].contains("COW is full"), "{:?}", fixture.events);
}
