//! A mirror whose log is in memory, its server dies, and another server takes over: the content of
//! the record of the legs, and its effect. Also the errors after which a leg must no longer be
//! trusted.

use std::rc::Rc;

use dm_targets::mirror::leg_state::{KnownLeg, LegState, Past};
use dm_targets::mirror::table::InitialSync;
use dm_targets::mirror::target::OpenError;
use dm_targets::request::RequestKind;
use dm_targets::sim::disk::{Class, Matcher, SimDisk};
use dm_targets::sim::image::Image;
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::{Schedule, Step};
use dm_targets::units::Sectors;

use super::fixture::{Fixture, Setup, fail, fail_at, world};
use super::record::{Record, RecordFault};
use crate::pattern;

/// A log in memory, and legs that are equal.
fn core() -> Setup {
    Setup { log: false, initial: InitialSync::NoSync, ..Setup::small() }
}

fn images(fixture: &Fixture) -> Vec<Image> {
    fixture.world.disks().iter().map(|disk| disk.visible()).collect()
}

/// The legs that the record calls sources, and whether everything was in sync.
fn record(fixture: &Fixture) -> (Vec<bool>, bool) {
    let LegState { legs, in_sync, .. } = fixture.record.left().unwrap();
    (legs.iter().map(|leg| leg.source).collect(), in_sync)
}

/// The server dies, and the next server has these disks, with these identities.
fn taken_over(fixture: &Fixture, setup: &Setup) -> Result<Fixture, OpenError> {
    let past = Past::TakenOver(fixture.record.left());
    Fixture::new_or(
        &Setup { past, initial: InitialSync::NoSync, source: None, ..setup.clone() },
        &images(fixture),
    )
}

#[test]
pub fn a_source_with_a_bad_sector_stays_the_source() {
    let setup = Setup { initial: InitialSync::FromLog, sectors: 64, ..core() };
    let good = Image::from_fn(Sectors(64), |at| pattern::sector(pattern::ORIGIN, at));
    let new = Image::from_fn(Sectors(64), |at| pattern::sector(60, at));
    let world = world(&setup, &[good.clone(), new], 0, Schedule::InOrder, Trace::default());
    fail_at(&world.disks()[0], Class::Read, 3);
    world.disks()[1].hold(Matcher { class: Class::Write, first: 8, end: 64 });
    let fixture = Fixture::open(world, &setup).unwrap();
    fixture.run_until_idle();
    assert_eq!(record(&fixture), (vec![true, false], false));
    let next = taken_over(&fixture, &setup).unwrap();
    next.run_until_idle();
    assert_eq!(next.status(), "32/32 AA core");
    assert_eq!((&next.leg(0).visible(), &next.leg(1).visible()), (&good, &good));
}

#[test]
fn the_source_is_remembered_when_legs_change_before_recovery_ends() {
    let setup = Setup { initial: InitialSync::FromLog, source: Some(1), ..core() };
    let good = Image::from_fn(Sectors(7), |at| pattern::sector(pattern::ORIGIN, at));
    let blank = Image::zeroes(Sectors(7));
    let mut world =
        world(&setup, &[blank.clone(), good.clone()], 0, Schedule::InOrder, Trace::default());
    fail_at(&world.disks()[0], Class::Write, 3);
    world.add_disk("spare", setup.disk, blank);
    let fixture = Fixture::open(world, &setup).unwrap();
    let third = spare_of(&fixture);
    fixture.run(|mirror| async move { mirror.add_leg(third).await.unwrap() });
    assert_eq!(record(&fixture), (vec![false, true, false], false));
    for legs in [2, 3] {
        let mut setup = Setup { legs, ..setup.clone() };
        setup.identities[2] = 9;
        let next = taken_over(&fixture, &setup).unwrap();
        next.run_until_idle();
        assert_eq!(next.leg(0).visible(), good, "with {legs} legs");
    }
}

fn spare_of(fixture: &Fixture) -> dm_targets::mirror::target::LegParts {
    let disk = fixture.world.disks()[2].disk();
    dm_targets::mirror::target::LegParts {
        disk,
        offset: dm_targets::units::Sector(0),
        identity: 9,
        number: 0,
    }
}

#[test]
fn another_table_forgets_no_source() {
    let setup = Setup { initial: InitialSync::FromLog, source: Some(1), ..core() };
    let good = Image::from_fn(Sectors(7), |at| pattern::sector(pattern::ORIGIN, at));
    let world = world(
        &setup,
        &[Image::zeroes(Sectors(7)), good.clone()],
        0,
        Schedule::InOrder,
        Trace::default(),
    );
    world.disks()[0].hold(Matcher { class: Class::Write, first: 0, end: 7 });
    let fixture = Fixture::open(world, &setup).unwrap();
    let past = Past::Replaced(fixture.record.left());
    let next = Fixture::new(&Setup { past, source: None, ..setup.clone() }, &images(&fixture));
    next.run_until_idle();
    assert_eq!(next.leg(0).visible(), good);
}

#[test]
fn an_error_of_the_only_right_leg_does_not_make_the_other_one_right() {
    for class in [Class::Write, Class::Flush] {
        let fixture = Fixture::new(&core(), &core().clean_images());
        fixture.run_until_idle();
        fail(&fixture.leg(0), Class::Write, 1);
        fixture.write(70, 2, 2).unwrap();
        fixture.flush().unwrap();
        fail(&fixture.leg(1), class, 1);
        match class {
            Class::Write => assert!(fixture.write(71, 6, 1).is_err()),
            _ => assert!(fixture.flush().is_err()),
        }
        assert_eq!(record(&fixture), (vec![false, true], false));
        let next = taken_over(&fixture, &core()).unwrap();
        next.run_until_idle();
        assert_eq!(next.status(), "4/4 AA core");
        assert_eq!(next.read(2, 1).unwrap()[0], pattern::sector(70, 2));
    }
}

#[test]
fn a_discard_that_one_leg_fails_is_on_record_before_it_ends() {
    let fixture = Fixture::new(&core(), &core().clean_images());
    fixture.run_until_idle();
    assert_eq!(record(&fixture), (vec![true, true], true));
    fail(&fixture.leg(1), Class::Discard, 1);
    fixture.leg(1).hold(Matcher::all(Class::Write));
    assert!(fixture.wait(&fixture.start(RequestKind::Discard, 0, 2, 2)).is_err());
    assert_eq!(record(&fixture), (vec![true, false], false));
}

#[test]
fn what_the_record_does_not_say_is_not_acknowledged() {
    for times in [1, u32::MAX] {
        let fixture = Fixture::new(&core(), &core().clean_images());
        fixture.run_until_idle();
        fixture.record.fail(0, times);
        fail(&fixture.leg(1), Class::Write, 1);
        let acknowledged = fixture.write(70, 2, 2).is_ok();
        // One more attempt is made for the write itself.
        assert_eq!(acknowledged, times == 1);
        assert_eq!(fixture.write(71, 2, 2).is_ok(), times == 1);
        assert_eq!(fixture.flush().is_ok(), times == 1);
        fixture.record.fail(0, 0);
        fixture.write(72, 2, 2).unwrap();
        assert_eq!(record(&fixture), (vec![true, false], false));
    }
}

#[test]
fn a_mirror_whose_legs_cannot_be_recorded_is_not_begun() {
    let fixture = Fixture::new(&core(), &core().clean_images());
    fixture.record.fail(0, u32::MAX);
    let mut world = world(&core(), &core().clean_images(), 0, Schedule::InOrder, Trace::default());
    world.add_disk("spare", core().disk, Image::zeroes(Sectors(7)));
    let (disk, before) = (world.disks()[2].disk(), record(&fixture));
    let leg = dm_targets::mirror::target::LegParts {
        disk,
        offset: dm_targets::units::Sector(0),
        identity: 9,
        number: 0,
    };
    let changed = fixture.run(|mirror| async move { mirror.add_leg(leg).await });
    let why = "the state of the legs cannot be recorded: no space left on device";
    assert_eq!(changed.unwrap_err().to_string(), why);
    assert_eq!((fixture.mirror.legs().len(), record(&fixture)), (2, before));
}

#[test]
fn a_mirror_whose_first_record_cannot_be_written_writes_nothing() {
    for setup in [core(), Setup::small()] {
        let setup = Setup { initial: InitialSync::Sync, ..setup };
        let mut images = setup.clean_images();
        images[1] = Image::zeroes(Sectors(setup.sectors));
        let world = world(&setup, &images, 0, Schedule::InOrder, Trace::default());
        let record = Record::holding(None, RecordFault { skip: 0, times: u32::MAX });
        let (fixture, begun) = Fixture::begin(world, &setup, record).unwrap();
        let why = "the state of the legs cannot be recorded: no space left on device";
        assert_eq!(begun.unwrap_err().to_string(), why);
        while fixture.world.step(false) != Step::Nothing {}
        let disks = fixture.world.disks().iter();
        assert!(disks.zip(&images).all(|(disk, image)| disk.visible() == *image));
    }
}

#[test]
fn without_a_record_no_leg_is_chosen() {
    let fixture = Fixture::new(&core(), &core().clean_images());
    fail(&fixture.leg(1), Class::Write, 1);
    fixture.write(70, 2, 2).unwrap();
    let past = Past::TakenOver(None);
    let refused = Fixture::new_or(&Setup { past, ..core() }, &images(&fixture)).err();
    assert!(matches!(refused, Some(OpenError::NoSourceAmong(_))), "{refused:?}");
    // None of the remaining legs is up to date.
    let others = Setup { identities: [7, 2, 3, 4, 5, 6, 7, 8, 9], ..core() };
    let refused = taken_over(&fixture, &others).err();
    assert!(matches!(refused, Some(OpenError::NoSourceAmong(_))), "{refused:?}");
}

#[test]
fn a_log_on_a_disk_that_names_no_right_leg_needs_a_source() {
    let setup = Setup::small();
    let fixture = Fixture::new(&setup, &setup.clean_images());
    fail(&fixture.leg(0), Class::Write, 1);
    fixture.write(70, 2, 2).unwrap();
    let others = Setup { identities: [1, 9, 3, 4, 5, 6, 7, 8, 9], ..setup.clone() };
    for initial in [InitialSync::FromLog, InitialSync::Sync] {
        let others = Setup { initial, ..others.clone() };
        let refused = Fixture::new_or(&others, &images(&fixture)).err();
        assert!(matches!(refused, Some(OpenError::NoSourceAmong(_))), "{initial:?}: {refused:?}");
        Fixture::new_or(&Setup { source: Some(1), ..others }, &images(&fixture)).unwrap();
    }
    // `sync` says that everything is to be copied, but not from which leg.
    let again = Fixture::new(&Setup { initial: InitialSync::Sync, ..setup }, &images(&fixture));
    again.run_until_idle();
    assert_eq!(again.read(2, 1).unwrap()[0], pattern::sector(70, 2));
}

#[test]
fn a_log_that_failed_is_not_trusted_by_the_next_server() {
    let setup = Setup::small();
    let fixture = Fixture::new(&setup, &setup.clean_images());
    fixture.run_until_idle();
    fail(&fixture.log(), Class::Write, u32::MAX);
    fail(&fixture.leg(0), Class::Write, 1);
    fixture.write(70, 2, 2).unwrap();
    assert_eq!(record(&fixture), (vec![false, true], false));
    let next = taken_over(&fixture, &setup).unwrap();
    next.run_until_idle();
    assert_eq!(
        (next.status().as_str(), next.read(2, 1).unwrap()[0] == pattern::sector(70, 2)),
        ("4/4 AA A", true)
    );
}

#[test]
pub fn writes_before_a_failed_flush_are_copied_again() {
    for (log, resumed) in [(false, true), (false, false), (true, true), (true, false)] {
        let initial = if log { InitialSync::FromLog } else { InitialSync::NoSync };
        let setup = Setup { log, initial, ..Setup::small() };
        let fixture = Fixture::new(&setup, &setup.clean_images());
        fixture.run_until_idle();
        fixture.flush().unwrap();
        fixture.write(70, 2, 2).unwrap();
        fail(&fixture.leg(0), Class::Flush, 1);
        fixture.flush().unwrap();
        let letter = if log { "A" } else { "core" };
        assert_eq!(fixture.status(), format!("3/4 DA {letter}"));
        let before = fixture.leg(0).writes();
        if resumed {
            fixture.run(|mirror| async move {
                mirror.suspend(false).await;
                mirror.resume().await;
            });
        } else {
            fixture.mirror.recover_again();
        }
        fixture.run_until_idle();
        assert_eq!(
            (fixture.status(), fixture.leg(0).writes() - before),
            (format!("4/4 AA {letter}"), 1),
            "log {log}"
        );
    }
}

/// A mirror with a log on a disk, taken over after the log had failed: both legs were sources.
fn taken_over_by_record(prepare: impl FnOnce(&[Rc<SimDisk>])) -> Fixture {
    let leg = |identity| KnownLeg { identity, number: 0, name: String::new(), source: true };
    let legs = Setup::small().identities[..2].iter().copied().map(leg).collect();
    let left = LegState { legs, in_sync: true, was_in_sync: true, ..LegState::default() };
    let setup = Setup { past: Past::TakenOver(Some(left)), ..Setup::small() };
    let world = world(&setup, &setup.clean_images(), 1, Schedule::InOrder, Trace::default());
    prepare(world.disks());
    Fixture::open(world, &setup).unwrap()
}

#[test]
pub fn a_source_that_cannot_be_flushed_for_the_log_is_copied_again() {
    let fixture = taken_over_by_record(|disks| fail(&disks[0], Class::Flush, 1));
    fixture.run_until_idle();
    assert_eq!(fixture.status(), "4/4 AA A");
    assert!(fixture.leg(0).writes() > 0, "what it may have lost");
    assert_eq!(fixture.leg(1).writes(), 0);
}

#[test]
fn a_source_that_hangs_keeps_no_log_from_being_written() {
    let hang = Matcher::all(Class::Flush);
    let fixture = taken_over_by_record(|disks| disks[0].hold(hang));
    assert_eq!(fixture.read(0, 1).map(|read| read.len()), Ok(1));
    fixture.leg(0).release();
    fixture.run_until_idle();
    assert_eq!(fixture.status(), "4/4 AA A");
}

#[test]
pub fn a_region_whose_leg_could_not_be_flushed_during_its_copy_stays_out_of_sync() {
    for log in [false, true] {
        let initial = if log { InitialSync::FromLog } else { InitialSync::NoSync };
        let setup = Setup { legs: 3, log, initial, ..Setup::small() };
        let fixture = Fixture::new(&setup, &setup.clean_images());
        fixture.run_until_idle();
        fixture.flush().unwrap();
        fail(&fixture.leg(2), Class::Write, 1);
        fixture.write(70, 0, 2).unwrap();
        fixture.leg(2).hold(Matcher { class: Class::Write, first: 0, end: 2 });
        fixture.mirror.recover_again();
        for _ in 0..50 {
            fixture.world.step(false);
        }
        assert_eq!(fixture.leg(2).in_flight(), 1);
        let before = fixture.leg(0).writes();
        fail(&fixture.leg(0), Class::Flush, 1);
        fixture.flush().unwrap();
        fixture.leg(2).release();
        fixture.run_until_idle();
        assert!(fixture.status().starts_with("3/4"), "{}", fixture.status());
        fixture.mirror.recover_again();
        fixture.run_until_idle();
        assert!(fixture.status().starts_with("4/4") && fixture.leg(0).writes() > before);
    }
}

#[test]
pub fn resuming_a_mirror_that_runs_changes_nothing() {
    for log in [true, false] {
        let initial = if log { InitialSync::FromLog } else { InitialSync::NoSync };
        let setup = Setup { log, initial, ..Setup::small() };
        let fixture = Fixture::new(&setup, &setup.clean_images());
        fixture.run_until_idle();
        for leg in 0..2 {
            fixture.leg(leg).hold(Matcher { class: Class::Write, first: 0, end: 2 });
        }
        let write = fixture.start_write(70, 0, 2);
        for _ in 0..200 {
            fixture.world.step(false);
        }
        fixture.run(|mirror| async move { mirror.resume().await });
        for _ in 0..200 {
            fixture.world.step(false);
        }
        assert!(fixture.status().starts_with("4/4"), "{}", fixture.status());
        (0..2).for_each(|leg| fixture.leg(leg).release());
        fixture.wait(&write).unwrap();
        fixture.run_until_idle();
        assert_eq!(fixture.leg(0).visible().sectors[..7], fixture.leg(1).visible().sectors[..7]);
    }
}
