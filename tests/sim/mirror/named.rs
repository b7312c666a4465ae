//! The source of a mirror that its user names, and whose log on a disk does not know it.

use dm_targets::mirror::leg_state::{LegState, Past};
use dm_targets::mirror::table::InitialSync;
use dm_targets::sim::disk::Class;
use dm_targets::sim::image::Image;

use super::fixture::{Fixture, Setup, fail};
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
