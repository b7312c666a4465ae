//! The outcome of a write that fails on a leg or the log: the kernel's table, for each combination
//! of features.
//!
//! The mirror has two legs of four regions of two sectors, all in sync, and a log on disk, unless a
//! test says otherwise.

use dm_targets::request::TargetError;
use dm_targets::sim::disk::Class;

use super::fixture::{Fixture, Setup, fail};
use crate::pattern;

/// No feature, `handle_errors`, both.
const FEATURES: [(bool, bool); 3] = [(false, false), (true, false), (true, true)];

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Success,
    Held,
    Eio,
}

fn fixture(features: (bool, bool)) -> Fixture {
    let setup = Setup::small().features(features.0, features.1);
    Fixture::new(&setup, &setup.clean_images())
}

fn end<T>(fixture: &Fixture, request: &super::fixture::Slot<Result<T, TargetError>>) -> End {
    match fixture.try_wait(request) {
        None => End::Held,
        Some(Ok(_)) => End::Success,
        Some(Err(error)) => {
            assert_eq!(error.errno().0, 5, "{error:?}");
            End::Eio
        }
    }
}

/// Administrators replace the leg that the event names: by its number from 0, as every command
/// takes it, and by its disk.
fn assert_is_told(fixture: &Fixture, leg: usize, what: &str) {
    let event = format!("leg {leg} (leg{leg}) {what}: ");
    let events = fixture.events.borrow();
    assert!(events.iter().any(|told| told.starts_with(&event)), "no {event:?} in {events:?}");
}

/// Suspends and closes the mirror; returns how a held request ends.
fn after_suspend(
    fixture: Fixture,
    held: &super::fixture::Slot<Result<Vec<dm_targets::sim::image::SectorData>, TargetError>>,
    noflush: bool,
) {
    fixture.run(|mirror| async move { mirror.suspend(noflush).await });
    let result = fixture.try_wait(held).expect("nothing is held any more").map(|_| ());
    match result {
        Err(TargetError::Requeue) if noflush => {}
        Err(TargetError::Disk(error)) if !noflush => assert_eq!(error.errno.0, 5),
        other => panic!("noflush {noflush}: {other:?}"),
    }
    fixture.close();
}

#[test]
fn a_write_that_a_leg_missed() {
    for (features, expected) in FEATURES.into_iter().zip([End::Success, End::Held, End::Success]) {
        for leg in 0..2 {
            for noflush in [false, true] {
                let fixture = fixture(features);
                fail(&fixture.leg(leg), Class::Write, u32::MAX);
                let write = fixture.start_write(100, 0, 1);
                assert_eq!(end(&fixture, &write), expected, "{features:?} leg {leg}");
                let letters = if leg == 0 { "DA" } else { "AD" };
                assert_eq!(
                    (fixture.status(), fixture.log_bits()),
                    (format!("3/4 {letters} A"), 0b1110)
                );
                assert_is_told(&fixture, leg, "has missed a write");
                assert_eq!(
                    fixture.read(0, 1).unwrap()[0],
                    pattern::sector(100, 0),
                    "from the leg that has it"
                );
                if expected == End::Held {
                    assert_eq!(fixture.mirror.held(), 1);
                    after_suspend(fixture, &write, noflush);
                } else {
                    let other = fixture.leg(1 - leg).writes();
                    fixture.write(101, 0, 1).unwrap();
                    assert_eq!(fixture.leg(1 - leg).writes(), other + 1);
                    assert_eq!(
                        fixture.status(),
                        format!("3/4 {letters} A"),
                        "the bad leg is left alone there"
                    );
                    fixture.close();
                }
            }
        }
    }
}

#[test]
fn a_write_that_all_legs_missed() {
    for features in FEATURES {
        let fixture = fixture(features);
        fail(&fixture.leg(0), Class::Write, 1);
        fail(&fixture.leg(1), Class::Write, 1);
        assert_eq!(end(&fixture, &fixture.start_write(100, 0, 1)), End::Eio, "{features:?}");
        assert_eq!(fixture.status(), "3/4 DD A");
        fixture.close();
    }
}

#[test]
fn a_write_whose_mark_cannot_be_made() {
    for (features, expected) in FEATURES.into_iter().zip([End::Success, End::Held, End::Eio]) {
        for noflush in [false, true] {
            let fixture = fixture(features);
            fail(&fixture.log(), Class::Write, u32::MAX);
            let writes = fixture.leg(0).writes();
            let write = fixture.start_write(100, 0, 1);
            assert_eq!(end(&fixture, &write), expected, "{features:?}");
            let issued = if expected == End::Success { 1 } else { 0 };
            assert_eq!(
                fixture.leg(0).writes() - writes,
                issued,
                "what is not marked is not written"
            );
            assert_eq!(fixture.status(), "4/4 AA D");
            assert!(
                fixture.events.borrow()[1].starts_with("the dirty log failed: log"),
                "{:?}",
                fixture.events
            );
            if expected == End::Held {
                after_suspend(fixture, &write, noflush);
            } else {
                fixture.close();
            }
        }
    }
}

#[test]
fn a_flush_that_a_leg_missed() {
    for (features, expected) in FEATURES.into_iter().zip([End::Success, End::Held, End::Success]) {
        let fixture = fixture(features);
        fixture.write(100, 0, 1).unwrap();
        fail(&fixture.leg(1), Class::Flush, u32::MAX);
        let flush = fixture.start(dm_targets::request::RequestKind::Flush, 0, 0, 0);
        assert_eq!(end(&fixture, &flush), expected, "{features:?}");
        assert_eq!(
            (fixture.status(), fixture.log_bits()),
            ("3/4 AD A".into(), 0b1110),
            "what may be lost is out of sync"
        );
        let write = fixture.start_write(101, 2, 1);
        assert_eq!(end(&fixture, &write), End::Success);
        assert_eq!(
            (fixture.status(), fixture.log_bits()),
            ("2/4 AD A".into(), 0b1100),
            "and nothing becomes clean any more"
        );
        fixture.close();
    }
}

#[test]
fn a_flush_that_all_legs_missed() {
    for features in FEATURES {
        let fixture = fixture(features);
        fixture.write(100, 0, 1).unwrap();
        fail(&fixture.leg(0), Class::Flush, 1);
        fail(&fixture.leg(1), Class::Flush, 1);
        assert_eq!(fixture.flush().err().map(|error| error.errno().0), Some(5));
        fixture.close();
    }
}

#[test]
fn a_leg_that_cannot_be_flushed_before_cleaning() {
    for features in FEATURES {
        let fixture = fixture(features);
        fixture.write(100, 0, 1).unwrap();
        fail(&fixture.leg(1), Class::Flush, u32::MAX);
        fixture.run_until_idle();
        assert_eq!((fixture.status(), fixture.log_bits()), ("3/4 AF A".into(), 0b1110));
        assert_eq!(fixture.read(0, 1).unwrap()[0], pattern::sector(100, 0));
        fixture.close();
    }
}

#[test]
fn recovery_that_cannot_write_a_leg_or_read_the_source() {
    for features in FEATURES {
        let setup = Setup::small().features(features.0, features.1);
        for (leg, class, expected) in [(1, Class::Write, "0/4 AS A"), (0, Class::Read, "0/4 SA A")]
        {
            let mut images = setup.clean_images();
            images[1].sectors.fill(pattern::sector(50, 0));
            images[2] = setup.log_image(0);
            let world = super::fixture::world(
                &setup,
                &images,
                0,
                dm_targets::sim::world::Schedule::InOrder,
                Default::default(),
            );
            fail(&world.disks()[leg], class, u32::MAX);
            let fixture = Fixture::open(world, &setup).unwrap();
            fixture.run_until_idle();
            assert_eq!(
                (fixture.status(), fixture.log_bits()),
                (expected.into(), 0),
                "{features:?}"
            );
            assert_eq!(fixture.read(0, 1).is_err(), leg == 0);
            let left = fixture.close();
            assert!(leg == 1 || left[1] == images[1], "what could not be read is not made up");
        }
    }
}

#[test]
fn an_unreadable_sector_costs_one_region() {
    for features in FEATURES {
        let setup = Setup::small().features(features.0, features.1);
        let mut images = setup.clean_images();
        images[1].sectors.fill(pattern::sector(50, 0));
        images[2] = setup.log_image(0);
        let world = super::fixture::world(
            &setup,
            &images,
            0,
            dm_targets::sim::world::Schedule::InOrder,
            Default::default(),
        );
        super::fixture::fail_at(&world.disks()[0], Class::Read, 3);
        let fixture = Fixture::open(world, &setup).unwrap();
        fixture.run_until_idle();
        assert_eq!(
            (fixture.status(), fixture.log_bits()),
            ("3/4 SA A".into(), 0b1101),
            "{features:?}"
        );
        assert_eq!(fixture.read(2, 1).unwrap()[0], pattern::sector(pattern::ORIGIN, 2));
        assert_eq!(fixture.read(3, 1).err().map(|error| error.errno().0), Some(5));
        fixture.close();
    }
}

#[test]
fn reads_are_tried_on_the_other_leg() {
    for features in FEATURES {
        for leg in 0..2 {
            let fixture = fixture(features);
            super::fixture::fail_at(&fixture.leg(leg), Class::Read, 3);
            super::fixture::fail_at(&fixture.leg(1 - leg), Class::Read, 4);
            for _ in 0..4 {
                for at in [3, 4, 5] {
                    assert_eq!(
                        fixture.read(at, 1).unwrap()[0],
                        pattern::sector(pattern::ORIGIN, at),
                        "each leg has something"
                    );
                }
            }
            assert_eq!(fixture.status(), "4/4 RR A");
            super::fixture::fail_at(&fixture.leg(leg), Class::Read, 4);
            assert_eq!(fixture.read(4, 1).err().map(|error| error.errno().0), Some(5));
            fixture.close();
        }
    }
}

#[test]
fn writes_out_of_sync_go_to_the_source_and_fail_with_its_own_error() {
    for features in FEATURES {
        let setup = Setup::small().features(features.0, features.1);
        let mut images = setup.clean_images();
        images[2] = setup.log_image(0b1110);
        let world = super::fixture::world(
            &setup,
            &images,
            0,
            dm_targets::sim::world::Schedule::InOrder,
            Default::default(),
        );
        // Recovery fails, so the region stays out of sync.
        fail(&world.disks()[1], Class::Write, 2);
        let fixture = Fixture::open(world, &setup).unwrap();
        fixture.run_until_idle();
        assert_eq!(fixture.status(), "3/4 AS A");
        let second = fixture.leg(1).writes();
        let write = fixture.start_write(100, 0, 1);
        let held = features == (true, false);
        assert_eq!(end(&fixture, &write), if held { End::Held } else { End::Success });
        if !held {
            fixture.leg(0).inject(dm_targets::sim::disk::Fault {
                matcher: dm_targets::sim::disk::Matcher::all(Class::Write),
                skip: 0,
                times: 1,
                errno: dm_targets::disk::Errno(61),
            });
            assert_eq!(fixture.write(101, 1, 1).err().map(|error| error.errno().0), Some(61));
            assert_eq!(fixture.status(), "3/4 AS A", "no leg is blamed");
        }
        assert_eq!(fixture.leg(1).writes(), second);
        fixture.close();
    }
}
