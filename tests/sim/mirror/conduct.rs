//! What users and administrators see of a mirror, in worlds where one thing happens after the other.

use dm_targets::mirror::regions::Regions;
use dm_targets::mirror::table::InitialSync;
use dm_targets::request::RequestKind;
use dm_targets::sim::disk::{Class, DiskConfig, Matcher};
use dm_targets::sim::image::Image;
use dm_targets::units::Sectors;

use super::rig::{Rig, Setup, fail};
use crate::pattern;

/// Legs that differ everywhere, as disks that never met do.
fn foreign_legs(setup: &Setup, bits: u64) -> Vec<Image> {
    let leg = |leg: u32| Image::from_fn(Sectors(setup.sectors), |at| pattern::sector(50 + leg, at));
    let mut images: Vec<Image> = (0..setup.legs).map(|number| leg(u32::try_from(number).unwrap())).collect();
    images.push(setup.log_image(bits));
    images
}

#[test]
fn a_write_is_marked_goes_to_all_legs_and_is_cleaned() {
    let setup = Setup::small();
    let rig = Rig::new(&setup, &setup.clean_images());
    assert_eq!((rig.status(), rig.log_bits()), ("4/4 AA A".into(), 0b1111));
    rig.write(100, 2, 3).unwrap();
    assert_eq!((rig.log_bits(), rig.mirror.dirty_regions()), (0b1001, 2));
    let writes = rig.log().writes();
    rig.write(101, 3, 2).unwrap();
    assert_eq!(rig.log().writes(), writes, "dirty regions cost no writes of the log");
    rig.settle();
    assert_eq!((rig.log_bits(), rig.mirror.dirty_regions()), (0b1111, 0));
    let shown = rig.read(0, 7).unwrap();
    assert_eq!(
        [&shown[2], &shown[3], &shown[4]],
        [&pattern::sector(100, 2), &pattern::sector(101, 3), &pattern::sector(101, 4)]
    );
    let images = rig.close();
    assert_eq!(images[0], images[1]);
}

#[test]
fn what_is_out_of_sync_is_copied_from_the_first_leg() {
    let setup = Setup { legs: 3, ..Setup::small() };
    let rig = Rig::new(&setup, &foreign_legs(&setup, 0b0100));
    assert_eq!(rig.status(), "1/4 AAA A");
    rig.settle();
    assert_eq!((rig.status(), rig.log_bits()), ("4/4 AAA A".into(), 0b1111));
    assert_eq!(*rig.events.borrow(), ["all legs are in sync"]);
    let images = rig.close();
    for at in 0..7 {
        let same = at == 4 || at == 5 || images[0].sectors[at] == images[2].sectors[at];
        assert!(same && (at == 4 || at == 5) == (images[1].sectors[at] != images[0].sectors[at]), "{at}");
    }
}

#[test]
fn a_leg_that_missed_a_write_is_not_recovered_from_wherever_it_stands() {
    let setup = Setup::small();
    let rig = Rig::new(&setup, &setup.clean_images());
    fail(&rig.world.disks()[0], Class::Write, 1);
    rig.write(100, 2, 2).unwrap();
    let images = rig.world.disks().iter().map(|disk| disk.visible()).collect::<Vec<_>>();
    assert_ne!(images[0], images[1]);
    let turned = Setup { identities: [2, 1, 3, 4, 5, 6, 7, 8, 9], ..Setup::small() };
    for (setup, images) in [
        (&setup, [&images[0], &images[1], &images[2]]),
        // the table names the good leg first, as whoever mends a mirror of the kernel does
        (&turned, [&images[1], &images[0], &images[2]]),
    ] {
        let rig = Rig::new(setup, &images.map(Clone::clone));
        assert_eq!(rig.read(2, 2).unwrap(), [pattern::sector(100, 2), pattern::sector(100, 3)]);
        rig.settle();
        let images = rig.close();
        assert_eq!(images[0], images[1]);
        assert_eq!(images[0].sectors[2], pattern::sector(100, 2));
    }
}

/// Millions of regions that one request begins together would stop everything else for seconds and need memory for each.
#[test]
fn a_large_discard_begins_a_bounded_number_of_regions_at_once() {
    let regions = 3 * Regions::MAX_SPAN + 5;
    let sectors = 2 * regions;
    let disk = DiskConfig { max_discard: Sectors(sectors), ..DiskConfig::default() };
    let setup = Setup { log: false, initial: InitialSync::NoSync, sectors, region: 2, disk, ..Setup::small() };
    let rig = Rig::new(&setup, &setup.clean_images());
    rig.settle();
    rig.leg(0).hold(Matcher::all(Class::Discard));
    let discard = rig.start(RequestKind::Discard, 0, 0, sectors);
    assert!(rig.try_wait(&discard).is_none());
    assert_eq!(rig.mirror.dirty_regions(), Regions::MAX_SPAN);
    rig.leg(0).release();
    rig.wait(&discard).unwrap();
    rig.settle();
    assert_eq!((rig.status(), rig.mirror.dirty_regions()), (format!("{regions}/{regions} AA core"), 0));
    let images = rig.close();
    assert!(images[0] == images[1]);
}
