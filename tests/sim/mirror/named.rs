//! The source of a mirror whose log on a disk does not know it: named by the user, or known from
//! the mirror whose table is replaced.

use dm_targets::mirror::leg_flags::LegFlags;
use dm_targets::mirror::leg_state::{LegState, Past};
use dm_targets::mirror::table::InitialSync;
use dm_targets::sim::disk::Class;
use dm_targets::sim::image::Image;
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::Schedule;
use dm_targets::units::{Sector, Sectors};

use super::fixture::{Fixture, Setup, fail, world};
use crate::pattern;

fn images(fixture: &Fixture) -> Vec<Image> {
    fixture.world.disks().iter().map(|disk| disk.visible()).collect()
}

/// Leg 2 has missed a write while the log could not be written: the log has both legs, and is
/// clean. Returns the record of the legs, too.
fn behind_the_log() -> (LegState, Vec<Image>) {
    let fixture = Fixture::new(&Setup::small(), &Setup::small().clean_images());
    fixture.run_until_idle();
    let log = fixture.log().visible();
    fail(&fixture.log(), Class::Write, u32::MAX);
    fail(&fixture.leg(1), Class::Write, u32::MAX);
    fixture.write(100, 2, 2).unwrap();
    let (left, mut disks) = (fixture.record.left().unwrap(), images(&fixture));
    disks[2] = log;
    assert_ne!(disks[0], disks[1]);
    (left, disks)
}

/// All of the others is copied from a source that is named, whatever the log calls in sync.
#[test]
pub fn a_source_that_is_named_is_copied_whatever_the_log_says() {
    let (left, disks) = behind_the_log();
    for past in [Past::None, Past::Ended(left.clone()), Past::Replaced(Some(left))] {
        let setup = Setup { past, source: Some(0), ..Setup::small() };
        let fixture = Fixture::new(&setup, &disks);
        fixture.run_until_idle();
        assert_eq!(fixture.leg(1).visible(), disks[0], "{:?}", setup.past);
    }
}

/// `nosync` beside a source that is named does not make a leg valid that is on record as stale.
#[test]
pub fn nosync_makes_no_stale_leg_valid_beside_a_named_source() {
    let (left, disks) = behind_the_log();
    for past in [Past::Ended(left.clone()), Past::Replaced(Some(left))] {
        for log in [false, true] {
            let setup = Setup {
                past: past.clone(),
                source: Some(0),
                initial: InitialSync::NoSync,
                log,
                ..Setup::small()
            };
            let fixture = Fixture::new(&setup, &disks[..2 + usize::from(log)]);
            fixture.run_until_idle();
            assert_eq!(fixture.leg(1).visible(), disks[0], "{past:?}, log {log}");
        }
    }
}

/// A table with the legs in another order replaces the one whose legs are being recovered for the
/// first time. An earlier version has written the log, which does not say which leg is the source.
#[test]
pub fn the_source_stays_when_a_table_turns_the_legs_round_during_the_first_recovery() {
    let setup = Setup::small();
    let mut disks = setup.clean_images();
    disks[1] = Image::from_fn(Sectors(setup.sectors), |at| pattern::sector(50, at));
    disks[2] = Image::zeroes(Sectors(setup.log_sectors()));
    let world = world(&setup, &disks, 0, Schedule::InOrder, Trace::default());
    fail(&world.disks()[1], Class::Write, u32::MAX);
    let fixture = Fixture::open(world, &setup).unwrap();
    fixture.run_until_idle();
    fixture.write(100, 6, 1).unwrap();
    let past = Past::Replaced(fixture.record.left());
    let mut disks = images(&fixture);
    let right = disks[0].clone();
    let mut header = [0; 1024];
    header.copy_from_slice(&disks[2].read(Sector(0), Sectors(2)));
    LegFlags::name(&mut header, &[1, 2], 0);
    disks[2].write(Sector(0), &header);
    disks.swap(0, 1);
    let identities = [2, 1, 3, 4, 5, 6, 7, 8, 9];
    for initial in [InitialSync::FromLog, InitialSync::Sync, InitialSync::NoSync] {
        let next = Setup { past: past.clone(), identities, initial, ..setup.clone() };
        let next = Fixture::new(&next, &disks);
        assert_eq!(next.read(6, 1).unwrap()[0], pattern::sector(100, 6), "{initial:?}");
        next.run_until_idle();
        assert_eq!(next.leg(0).visible(), right, "{initial:?}");
        assert_eq!(next.leg(1).visible(), right, "{initial:?}");
    }
}
