//! A mirror that grows: what its users and its administrator see, and what is refused.

use dm_targets::disk::Backend;
use dm_targets::sim::disk::Class;
use dm_targets::sim::image::Image;
use dm_targets::units::Sectors;

use super::cases::grow::{LONG, long_images};
use super::fixture::{Fixture, Setup, fail};
use crate::pattern;

fn grow(fixture: &Fixture, len: u64) -> Result<(), String> {
    let grown = fixture.run(move |mirror| async move { mirror.grow(Sectors(len)).await });
    grown.map_err(|error| error.to_string())
}

fn visible(fixture: &Fixture) -> Vec<Image> {
    fixture.world.disks().iter().map(|disk| disk.visible()).collect()
}

/// The new part is used at once, and its content is that of one leg until it has been recovered.
#[test]
fn a_mirror_grows_and_its_new_regions_are_recovered() {
    for log in [true, false] {
        let setup = Setup { log, ..Setup::small() };
        let fixture = Fixture::new(&setup, &long_images(&setup, &setup.clean_images()));
        fixture.run_until_idle();
        fixture.write(100, 0, 7).unwrap();
        grow(&fixture, LONG).unwrap();
        assert_eq!(fixture.mirror.len(), Sectors(LONG));
        assert!(fixture.status().starts_with("3/70 AA"), "{}", fixture.status());
        fixture.write(101, 100, 3).unwrap();
        let seen = visible(&fixture);
        fixture.run_until_idle();
        assert!(fixture.status().starts_with("70/70 AA"), "{}", fixture.status());
        assert_eq!(fixture.read(102, 1).unwrap()[0], pattern::sector(101, 102));
        assert_eq!(fixture.read(139, 1).unwrap()[0], pattern::sector(70, 139));
        assert_eq!(fixture.read(6, 1).unwrap()[0], pattern::sector(100, 6));
        let images = fixture.close();
        assert_eq!(images[0], images[1]);
        if log {
            // What was there while it grew, and what is there now, with the new length.
            let long = Setup { sectors: LONG, ..setup };
            for images in [seen, images] {
                let again = Fixture::new(&long, &images);
                assert_eq!(again.read(102, 1).unwrap()[0], pattern::sector(101, 102));
                again.run_until_idle();
                assert_eq!(again.read(6, 1).unwrap()[0], pattern::sector(100, 6));
                let images = again.close();
                assert_eq!(images[0], images[1]);
            }
        }
    }
}

/// A leg or a log without room, and a suspended mirror: nothing is changed.
#[test]
fn what_has_no_room_does_not_grow() {
    let setup = Setup::small();
    let fixture = Fixture::new(&setup, &setup.clean_images());
    fixture.run_until_idle();
    let before = (fixture.status(), visible(&fixture));
    let why = grow(&fixture, 9).unwrap_err();
    assert!(why.contains("leg0: too small for a leg that ends at sector 9"), "{why}");
    for leg in [0, 1] {
        fixture.leg(leg).grow(Sectors(20_000));
        fixture.leg(leg).refresh_size();
    }
    assert_eq!(fixture.mirror.room(), Some((Sectors(20_000), "leg0".into())));
    let before = (before.0, visible(&fixture));
    let why = grow(&fixture, 20_000).unwrap_err();
    assert!(why.contains("log: too small for the dirty log, which takes 5 sectors"), "{why}");
    fixture.run(|mirror| async move { mirror.suspend(true).await });
    let why = grow(&fixture, 9).unwrap_err();
    assert!(why.contains("suspended"), "{why}");
    fixture.run(|mirror| async move { mirror.resume().await });
    fixture.run_until_idle();
    assert_eq!(before, (fixture.status(), visible(&fixture)));
    grow(&fixture, 7).unwrap();
    assert_eq!(before, (fixture.status(), visible(&fixture)), "it is as long already");
    grow(&fixture, 9).unwrap();
    fixture.run_until_idle();
    assert_eq!(fixture.status(), "5/5 AA A");
    fixture.close();
}

/// A log that takes more blocks than before, and more pieces.
#[test]
fn a_log_grows_over_many_blocks() {
    let setup = Setup::small();
    let mut images = setup.clean_images();
    let far = 40_000;
    for image in &mut images[..2] {
        *image = Image::from_fn(Sectors(far), |at| pattern::sector(pattern::ORIGIN, at));
    }
    let long = Setup { sectors: far, ..setup.clone() };
    images[2].sectors.resize(usize::try_from(long.log_sectors()).unwrap(), pattern::sector(80, 0));
    let fixture = Fixture::new(&setup, &images);
    fixture.run_until_idle();
    grow(&fixture, far).unwrap();
    fixture.run_until_idle();
    assert_eq!(fixture.status(), "20000/20000 AA A");
    fixture.write(100, far - 3, 3).unwrap();
    let again = Fixture::new(&long, &visible(&fixture));
    assert_eq!(again.status(), "19998/20000 AA A", "the log knows what was written");
    again.close();
    fixture.close();
}

/// The log fails while the mirror grows: its users do not get the new length.
#[test]
fn a_log_that_fails_ends_the_growth() {
    let setup = Setup::small();
    let fixture = Fixture::new(&setup, &long_images(&setup, &setup.clean_images()));
    fixture.run_until_idle();
    fail(&fixture.log(), Class::Write, u32::MAX);
    let why = grow(&fixture, LONG).unwrap_err();
    assert_eq!(why, "the dirty log cannot be written");
    assert_eq!(grow(&fixture, LONG).unwrap_err(), why);
    assert_eq!(fixture.mirror.len(), Sectors(7));
    fixture.write(100, 0, 7).unwrap();
    fixture.run_until_idle();
    assert!(fixture.status().starts_with("4/4 "), "{}", fixture.status());
    fixture.close();
}

/// One leg has missed a write, the two others are up to date: in the new part they differ as well.
#[test]
fn legs_that_are_up_to_date_differ_in_the_new_part() {
    let setup = Setup { legs: 3, ..Setup::small() }.features(true, true);
    let fixture = Fixture::new(&setup, &long_images(&setup, &setup.clean_images()));
    fixture.run_until_idle();
    fail(&fixture.leg(2), Class::Write, u32::MAX);
    fixture.write(100, 0, 2).unwrap();
    fixture.run_until_idle();
    assert_eq!(fixture.status(), "3/4 AAD A");
    grow(&fixture, LONG).unwrap();
    let sources: Vec<_> = fixture.mirror.legs().iter().map(|leg| leg.source).collect();
    assert_eq!(sources, [true, false, false]);
    let seen = visible(&fixture);
    fixture.leg(2).mend();
    fixture.run(|mirror| async move { mirror.recover_again() });
    fixture.run_until_idle();
    assert_eq!(fixture.status(), "70/70 AAA A");
    assert_eq!(fixture.read(0, 1).unwrap()[0], pattern::sector(100, 0));
    let last = fixture.close();
    let long = Setup { sectors: LONG, ..setup };
    for images in [last, seen] {
        let again = Fixture::new(&long, &images);
        again.run_until_idle();
        assert_eq!(again.read(0, 1).unwrap()[0], pattern::sector(100, 0));
        assert_eq!(again.read(6, 1).unwrap()[0], pattern::sector(pattern::ORIGIN, 6));
        let images = again.close();
        assert!(images[0] == images[1] && images[0] == images[2]);
    }
}

/// A growth that is taken back leaves nothing of the new part, and can be repeated.
#[test]
fn a_growth_is_taken_back() {
    for (log, recovered) in [(true, true), (true, false), (false, true), (false, false)] {
        let setup = Setup { log, ..Setup::small() };
        let fixture = Fixture::new(&setup, &long_images(&setup, &setup.clean_images()));
        fixture.run_until_idle();
        fixture.write(100, 0, 7).unwrap();
        grow(&fixture, LONG).unwrap();
        if recovered {
            fixture.run_until_idle();
        }
        fixture.run(|mirror| async move { mirror.shrink_back(Sectors(7)).await }).unwrap();
        let legs: Vec<_> = [0, 1].map(|leg| fixture.leg(leg).visible()).into();
        assert_eq!(fixture.mirror.len(), Sectors(7));
        fixture.run_until_idle();
        assert!(fixture.status().starts_with("4/4 AA"), "{}", fixture.status());
        for leg in [0, 1] {
            let behind = |image: &Image| image.sectors[7..].to_vec();
            assert!(behind(&legs[leg]) == behind(&fixture.leg(leg).visible()));
        }
        assert_eq!(fixture.read(6, 1).unwrap()[0], pattern::sector(100, 6));
        if log {
            for sectors in [7, LONG] {
                let again = Fixture::new(&Setup { sectors, ..setup.clone() }, &visible(&fixture));
                again.run_until_idle();
                let images = again.close();
                assert_eq!(images[0].sectors[..7], images[1].sectors[..7]);
                assert!(sectors == 7 || images[0] == images[1]);
            }
        }
        grow(&fixture, LONG).unwrap();
        assert!(fixture.status().starts_with(if log { "3/70 AA" } else { "3/70" }));
        fixture.run_until_idle();
        let images = fixture.close();
        assert_eq!(images[0], images[1]);
    }
}

/// A leg's disk has become shorter: a size that is refused does not take it away from the others.
#[test]
fn a_shorter_disk_fails_its_leg_and_not_the_users() {
    let setup = Setup::small().features(true, true);
    let fixture = Fixture::new(&setup, &long_images(&setup, &setup.clean_images()));
    fixture.run_until_idle();
    fixture.leg(1).grow(Sectors(5));
    super::fixture::fail_at(&fixture.leg(1), Class::Write, 6);
    assert_eq!(fixture.mirror.room(), Some((Sectors(5), "leg1".into())));
    let why = grow(&fixture, 9).unwrap_err();
    assert!(why.contains("leg1: too small for a leg that ends at sector 9"), "{why}");
    assert_eq!(fixture.leg(1).size(), Sectors(LONG));
    fixture.write(100, 6, 1).unwrap();
    assert_eq!(fixture.read(6, 1).unwrap()[0], pattern::sector(100, 6));
    assert!(fixture.status().starts_with("3/4 AD"), "{}", fixture.status());
    fixture.close();
}
