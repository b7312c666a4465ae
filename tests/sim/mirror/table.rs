//! What becomes of a write that fails somewhere: the kernel's table, for each combination of features.
//!
//! The mirror has two legs of four regions of two sectors, all in sync, and a log on disk, unless a test says otherwise.

use dm_targets::request::TargetError;
use dm_targets::sim::disk::Class;

use super::rig::{Rig, Setup, fail};
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

fn rig(features: (bool, bool)) -> Rig {
    let setup = Setup::small().features(features.0, features.1);
    Rig::new(&setup, &setup.clean_images())
}

fn end<T>(rig: &Rig, request: &super::rig::Slot<Result<T, TargetError>>) -> End {
    match rig.try_wait(request) {
        None => End::Held,
        Some(Ok(_)) => End::Success,
        Some(Err(error)) => {
            assert_eq!(error.errno().0, 5, "{error:?}");
            End::Eio
        }
    }
}

/// Suspends and says how a held request ends, and closes the mirror.
fn after_suspend(
    rig: Rig,
    held: &super::rig::Slot<Result<Vec<dm_targets::sim::image::SectorData>, TargetError>>,
    noflush: bool,
) {
    rig.run(|mirror| async move { mirror.suspend(noflush).await });
    let result = rig.try_wait(held).expect("nothing is held any more").map(|_| ());
    match result {
        Err(TargetError::Requeue) if noflush => {}
        Err(TargetError::Disk(error)) if !noflush => assert_eq!(error.errno.0, 5),
        other => panic!("noflush {noflush}: {other:?}"),
    }
    rig.close();
}

#[test]
fn a_write_that_a_leg_missed() {
    for (features, expected) in FEATURES.into_iter().zip([End::Success, End::Held, End::Success]) {
        for leg in 0..2 {
            for noflush in [false, true] {
                let rig = rig(features);
                fail(&rig.leg(leg), Class::Write, u32::MAX);
                let write = rig.start_write(100, 0, 1);
                assert_eq!(end(&rig, &write), expected, "{features:?} leg {leg}");
                let letters = if leg == 0 { "DA" } else { "AD" };
                assert_eq!((rig.status(), rig.log_bits()), (format!("3/4 {letters} A"), 0b1110));
                assert_eq!(rig.read(0, 1).unwrap()[0], pattern::sector(100, 0), "from the leg that has it");
                if expected == End::Held {
                    assert_eq!(rig.mirror.held(), 1);
                    after_suspend(rig, &write, noflush);
                } else {
                    let other = rig.leg(1 - leg).writes();
                    rig.write(101, 0, 1).unwrap();
                    assert_eq!(rig.leg(1 - leg).writes(), other + 1);
                    assert_eq!(rig.status(), format!("3/4 {letters} A"), "the bad leg is left alone there");
                    rig.close();
                }
            }
        }
    }
}

#[test]
fn a_write_that_all_legs_missed() {
    for features in FEATURES {
        let rig = rig(features);
        fail(&rig.leg(0), Class::Write, 1);
        fail(&rig.leg(1), Class::Write, 1);
        assert_eq!(end(&rig, &rig.start_write(100, 0, 1)), End::Eio, "{features:?}");
        assert_eq!(rig.status(), "3/4 DD A");
        rig.close();
    }
}

#[test]
fn a_write_whose_mark_cannot_be_made() {
    for (features, expected) in FEATURES.into_iter().zip([End::Success, End::Held, End::Eio]) {
        for noflush in [false, true] {
            let rig = rig(features);
            fail(&rig.log(), Class::Write, u32::MAX);
            let writes = rig.leg(0).writes();
            let write = rig.start_write(100, 0, 1);
            assert_eq!(end(&rig, &write), expected, "{features:?}");
            let issued = if expected == End::Success { 1 } else { 0 };
            assert_eq!(rig.leg(0).writes() - writes, issued, "what is not marked is not written");
            assert_eq!(rig.status(), "4/4 AA D");
            assert!(rig.events.borrow()[1].starts_with("the dirty log failed: log"), "{:?}", rig.events);
            if expected == End::Held {
                after_suspend(rig, &write, noflush);
            } else {
                rig.close();
            }
        }
    }
}

#[test]
fn a_flush_that_a_leg_missed() {
    for (features, expected) in FEATURES.into_iter().zip([End::Success, End::Held, End::Success]) {
        let rig = rig(features);
        rig.write(100, 0, 1).unwrap();
        fail(&rig.leg(1), Class::Flush, u32::MAX);
        let flush = rig.start(dm_targets::request::RequestKind::Flush, 0, 0, 0);
        assert_eq!(end(&rig, &flush), expected, "{features:?}");
        assert_eq!((rig.status(), rig.log_bits()), ("3/4 AD A".into(), 0b1110), "what may be lost is out of sync");
        let write = rig.start_write(101, 2, 1);
        assert_eq!(end(&rig, &write), End::Success);
        assert_eq!((rig.status(), rig.log_bits()), ("2/4 AD A".into(), 0b1100), "and nothing becomes clean any more");
        rig.close();
    }
}

#[test]
fn a_flush_that_all_legs_missed() {
    for features in FEATURES {
        let rig = rig(features);
        rig.write(100, 0, 1).unwrap();
        fail(&rig.leg(0), Class::Flush, 1);
        fail(&rig.leg(1), Class::Flush, 1);
        assert_eq!(rig.flush().err().map(|error| error.errno().0), Some(5));
        rig.close();
    }
}

#[test]
fn a_leg_that_cannot_be_flushed_before_cleaning() {
    for features in FEATURES {
        let rig = rig(features);
        rig.write(100, 0, 1).unwrap();
        fail(&rig.leg(1), Class::Flush, u32::MAX);
        rig.settle();
        assert_eq!((rig.status(), rig.log_bits()), ("3/4 AF A".into(), 0b1110));
        assert_eq!(rig.read(0, 1).unwrap()[0], pattern::sector(100, 0));
        rig.close();
    }
}

#[test]
fn recovery_that_cannot_write_a_leg_or_read_the_source() {
    for features in FEATURES {
        let setup = Setup::small().features(features.0, features.1);
        for (leg, class, expected) in [(1, Class::Write, "0/4 AS A"), (0, Class::Read, "0/4 SA A")] {
            let mut images = setup.clean_images();
            images[1].sectors.fill(pattern::sector(50, 0));
            images[2] = setup.log_image(0);
            let world =
                super::rig::world(&setup, &images, 0, dm_targets::sim::world::Temper::InOrder, Default::default());
            fail(&world.disks()[leg], class, u32::MAX);
            let rig = Rig::open(world, &setup).unwrap();
            rig.settle();
            assert_eq!((rig.status(), rig.log_bits()), (expected.into(), 0), "{features:?}");
            assert_eq!(rig.read(0, 1).is_err(), leg == 0);
            let left = rig.close();
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
        let world = super::rig::world(&setup, &images, 0, dm_targets::sim::world::Temper::InOrder, Default::default());
        super::rig::fail_at(&world.disks()[0], Class::Read, 3);
        let rig = Rig::open(world, &setup).unwrap();
        rig.settle();
        assert_eq!((rig.status(), rig.log_bits()), ("3/4 SA A".into(), 0b1101), "{features:?}");
        assert_eq!(rig.read(2, 1).unwrap()[0], pattern::sector(pattern::ORIGIN, 2));
        assert_eq!(rig.read(3, 1).err().map(|error| error.errno().0), Some(5));
        rig.close();
    }
}

#[test]
fn reads_are_tried_on_the_other_leg() {
    for features in FEATURES {
        for leg in 0..2 {
            let rig = rig(features);
            super::rig::fail_at(&rig.leg(leg), Class::Read, 3);
            super::rig::fail_at(&rig.leg(1 - leg), Class::Read, 4);
            for _ in 0..4 {
                for at in [3, 4, 5] {
                    assert_eq!(
                        rig.read(at, 1).unwrap()[0],
                        pattern::sector(pattern::ORIGIN, at),
                        "each leg has something"
                    );
                }
            }
            assert_eq!(rig.status(), "4/4 RR A");
            super::rig::fail_at(&rig.leg(leg), Class::Read, 4);
            assert_eq!(rig.read(4, 1).err().map(|error| error.errno().0), Some(5));
            rig.close();
        }
    }
}

#[test]
fn writes_out_of_sync_go_to_the_source_and_fail_with_its_own_error() {
    for features in FEATURES {
        let setup = Setup::small().features(features.0, features.1);
        let mut images = setup.clean_images();
        images[2] = setup.log_image(0b1110);
        let world = super::rig::world(&setup, &images, 0, dm_targets::sim::world::Temper::InOrder, Default::default());
        // Recovery fails, so the region stays out of sync.
        fail(&world.disks()[1], Class::Write, 2);
        let rig = Rig::open(world, &setup).unwrap();
        rig.settle();
        assert_eq!(rig.status(), "3/4 AS A");
        let second = rig.leg(1).writes();
        let write = rig.start_write(100, 0, 1);
        let held = features == (true, false);
        assert_eq!(end(&rig, &write), if held { End::Held } else { End::Success });
        if !held {
            rig.leg(0).inject(dm_targets::sim::disk::Fault {
                matcher: dm_targets::sim::disk::Matcher::all(Class::Write),
                skip: 0,
                times: 1,
                errno: dm_targets::disk::Errno(61),
            });
            assert_eq!(rig.write(101, 1, 1).err().map(|error| error.errno().0), Some(61));
            assert_eq!(rig.status(), "3/4 AS A", "no leg is blamed");
        }
        assert_eq!(rig.leg(1).writes(), second);
        rig.close();
    }
}
