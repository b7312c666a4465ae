//! A server takes over during the first recovery of a mirror with a log on a disk: what has been
//! copied is read from all legs, and nothing else.

use dm_targets::disk::Errno;
use dm_targets::mirror::leg_state::Past;
use dm_targets::mirror::table::InitialSync;
use dm_targets::sim::crash::CrashKind;
use dm_targets::sim::disk::{Class, Fault, Matcher};
use dm_targets::sim::image::Image;
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::{Schedule, Step};
use dm_targets::units::Sectors;

use super::fixture::{Fixture, Setup, fail, world};
use super::record::{Record, RecordFault};
use crate::pattern;

const SECTORS: u64 = 16;

fn setup(source: usize) -> Setup {
    let source = (source != 0).then_some(source);
    Setup { sectors: SECTORS, legs: 3, source, initial: InitialSync::Sync, ..Setup::small() }
}

/// The legs before the first recovery: each has a content of its own.
fn blank(setup: &Setup) -> Vec<Image> {
    let leg = |id| Image::from_fn(Sectors(SECTORS), move |at| pattern::sector(id, at));
    let mut disks: Vec<_> = (50..).take(setup.legs).map(leg).collect();
    disks.push(Image::zeroes(Sectors(setup.log_sectors())));
    disks
}

/// The next server, whose recovery waits for its first write.
fn next(setup: &Setup, record: &Record, images: &[Image]) -> Fixture {
    let past = Past::TakenOver(record.left());
    let setup = Setup { past, source: None, ..setup.clone() };
    let world = world(&setup, images, 0, Schedule::InOrder, Trace::default());
    for leg in &world.disks()[..setup.legs] {
        leg.hold(Matcher::all(Class::Write));
    }
    let record = Record::holding(record.left(), RecordFault::default());
    let (fixture, begun) = Fixture::begin(world, &setup, record).unwrap();
    begun.unwrap();
    fixture
}

/// What a mirror shows: what its source had, and a write of sectors 2 to 9 once it is answered.
fn judge(fixture: &Fixture, source: u32, written: Option<bool>) {
    for at in 0..SECTORS {
        let touched = (2..10).contains(&at);
        let ids = match written {
            Some(true) if touched => vec![100],
            Some(false) if touched => vec![100, 50 + source],
            _ => vec![50 + source],
        };
        let first = fixture.read(at, 1).unwrap().remove(0);
        assert!(ids.iter().any(|id| first == pattern::sector(*id, at)), "sector {at}");
        // Each leg has its turn.
        for _ in 0..3 {
            assert!(fixture.read(at, 1).unwrap()[0] == first, "sector {at} differs");
        }
    }
}

/// The server dies at every step, and the next one has these states of the disks.
fn died(fixture: &Fixture, setup: &Setup, source: u32, written: Option<bool>) -> usize {
    let images = fixture.world.crash(CrashKind::Process, 3);
    let states = images.len();
    images.iter().for_each(|images| judge(&next(setup, &fixture.record, images), source, written));
    states
}

/// A mirror whose second half cannot be copied to its last leg.
fn half_copied(source: usize) -> (Setup, Fixture) {
    let setup = setup(source);
    let world = world(&setup, &blank(&setup), 0, Schedule::InOrder, Trace::default());
    let matcher = Matcher { class: Class::Write, first: SECTORS / 2, end: SECTORS };
    world.disks()[2].inject(Fault { matcher, skip: 0, times: u32::MAX, errno: Errno::EIO });
    let fixture = Fixture::open(world, &setup).unwrap();
    (setup, fixture)
}

/// The server dies at every step of the recovery, and of a write that one leg misses in part.
#[test]
fn nothing_is_read_that_has_not_been_copied() {
    let mut seen = 0;
    for source in [0, 1] {
        let (setup, fixture) = half_copied(source);
        let right = u32::try_from(source).unwrap();
        while fixture.world.step(false) != Step::Nothing {
            seen += died(&fixture, &setup, right, None);
        }
        assert!(fixture.status().starts_with("4/8"), "{}", fixture.status());
        let write = fixture.start_write(100, 2, 8);
        while fixture.world.step(false) != Step::Nothing {
            let answered = write.borrow().is_some();
            seen += died(&fixture, &setup, right, Some(answered));
        }
        write.borrow_mut().take().unwrap().unwrap();
        seen += died(&fixture, &setup, right, Some(true));
    }
    assert!(seen > 100, "{seen}");
}

/// Half of the regions have been copied: there each leg is read, and is enough.
#[test]
pub fn what_is_copied_is_read_from_all_legs() {
    for source in [0, 1] {
        let (setup, fixture) = half_copied(source);
        fixture.run_until_idle();
        assert_eq!(fixture.log_bits(), 0b1111, "source {source}");
        let images: Vec<_> = fixture.world.disks().iter().map(|disk| disk.visible()).collect();
        for leg in 0..3 {
            let next = next(&setup, &fixture.record, &images);
            assert!(next.mirror.legs().iter().all(|leg| !leg.stale), "source {source}");
            for other in (0..3).filter(|other| *other != leg) {
                fail(&next.leg(other), Class::Read, u32::MAX);
            }
            let right = 50 + u32::try_from(source).unwrap();
            for at in 0..SECTORS / 2 {
                assert_eq!(next.read(at, 1).unwrap()[0], pattern::sector(right, at), "leg {leg}");
            }
            assert_eq!(next.read(SECTORS / 2, 1).is_ok(), leg == source);
        }
    }
}
