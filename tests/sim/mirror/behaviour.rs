//! What users and administrators see of a mirror, in worlds where events happen one after another.

use dm_targets::mirror::regions::Regions;
use dm_targets::mirror::table::InitialSync;
use dm_targets::request::RequestKind;
use dm_targets::sim::disk::{Class, DiskConfig, Matcher};
use dm_targets::sim::image::Image;
use dm_targets::units::Sectors;

use super::fixture::{Fixture, Setup, fail};
use crate::pattern;

/// Legs that differ everywhere, like unrelated disks.
fn foreign_legs(setup: &Setup, bits: u64) -> Vec<Image> {
    let leg = |leg: u32| Image::from_fn(Sectors(setup.sectors), |at| pattern::sector(50 + leg, at));
    let mut images: Vec<Image> =
        (0..setup.legs).map(|number| leg(u32::try_from(number).unwrap())).collect();
    images.push(setup.log_image(bits));
    images
}

#[test]
fn a_write_is_marked_goes_to_all_legs_and_is_cleaned() {
    let setup = Setup::small();
    let fixture = Fixture::new(&setup, &setup.clean_images());
    assert_eq!((fixture.status(), fixture.log_bits()), ("4/4 AA A".into(), 0b1111));
    fixture.write(100, 2, 3).unwrap();
    assert_eq!((fixture.log_bits(), fixture.mirror.dirty_regions()), (0b1001, 2));
    let writes = fixture.log().writes();
    fixture.write(101, 3, 2).unwrap();
    assert_eq!(fixture.log().writes(), writes, "dirty regions cost no writes of the log");
    fixture.run_until_idle();
    assert_eq!((fixture.log_bits(), fixture.mirror.dirty_regions()), (0b1111, 0));
    let shown = fixture.read(0, 7).unwrap();
    assert_eq!(
        [&shown[2], &shown[3], &shown[4]],
        [&pattern::sector(100, 2), &pattern::sector(101, 3), &pattern::sector(101, 4)]
    );
    let images = fixture.close();
    assert_eq!(images[0], images[1]);
}

#[test]
fn what_is_out_of_sync_is_copied_from_the_first_leg() {
    let setup = Setup { legs: 3, ..Setup::small() };
    let fixture = Fixture::new(&setup, &foreign_legs(&setup, 0b0100));
    assert_eq!(fixture.status(), "1/4 AAA A");
    fixture.run_until_idle();
    assert_eq!((fixture.status(), fixture.log_bits()), ("4/4 AAA A".into(), 0b1111));
    assert_eq!(*fixture.events.borrow(), ["all legs are in sync"]);
    let images = fixture.close();
    for at in 0..7 {
        let same = at == 4 || at == 5 || images[0].sectors[at] == images[2].sectors[at];
        assert!(
            same && (at == 4 || at == 5) == (images[1].sectors[at] != images[0].sectors[at]),
            "{at}"
        );
    }
}

#[test]
fn a_leg_that_missed_a_write_is_not_recovered_from_wherever_it_stands() {
    let setup = Setup::small();
    let fixture = Fixture::new(&setup, &setup.clean_images());
    fail(&fixture.world.disks()[0], Class::Write, 1);
    fixture.write(100, 2, 2).unwrap();
    let images = fixture.world.disks().iter().map(|disk| disk.visible()).collect::<Vec<_>>();
    assert_ne!(images[0], images[1]);
    let turned = Setup { identities: [2, 1, 3, 4, 5, 6, 7, 8, 9], ..Setup::small() };
    for (setup, images) in [
        (&setup, [&images[0], &images[1], &images[2]]),
        // the table names the good leg first, as when a mirror of the kernel is repaired
        (&turned, [&images[1], &images[0], &images[2]]),
    ] {
        let fixture = Fixture::new(setup, &images.map(Clone::clone));
        assert_eq!(fixture.read(2, 2).unwrap(), [pattern::sector(100, 2), pattern::sector(100, 3)]);
        fixture.run_until_idle();
        let images = fixture.close();
        assert_eq!(images[0], images[1]);
        assert_eq!(images[0].sectors[2], pattern::sector(100, 2));
    }
}

/// Millions of regions that one request begins together would stop everything else for seconds and
/// need memory for each.
#[test]
pub fn a_large_discard_begins_a_bounded_number_of_regions_at_once() {
    let regions = 3 * Regions::MAX_SPAN + 5;
    let sectors = 2 * regions;
    let disk = DiskConfig { max_discard: Sectors(sectors), ..DiskConfig::default() };
    let setup = Setup {
        log: false,
        initial: InitialSync::NoSync,
        sectors,
        region: 2,
        disk,
        ..Setup::small()
    };
    let fixture = Fixture::new(&setup, &setup.clean_images());
    fixture.run_until_idle();
    fixture.leg(0).hold(Matcher::all(Class::Discard));
    let discard = fixture.start(RequestKind::Discard, 0, 0, sectors);
    assert!(fixture.try_wait(&discard).is_none());
    assert_eq!(fixture.mirror.dirty_regions(), Regions::MAX_SPAN);
    fixture.leg(0).release();
    fixture.wait(&discard).unwrap();
    fixture.run_until_idle();
    assert_eq!(
        (fixture.status(), fixture.mirror.dirty_regions()),
        (format!("{regions}/{regions} AA core"), 0)
    );
    let images = fixture.close();
    assert!(images[0] == images[1]);
}
