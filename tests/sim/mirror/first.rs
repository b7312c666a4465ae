//! What a log on a disk says after a loss of power, when the record of the legs is gone: which leg
//! was the source of a recovery that had not ended, and how large the regions are.

use std::rc::Rc;

use dm_targets::copy;
use dm_targets::disk::{Errno, Host};
use dm_targets::mirror::leg_flags::LegFlags;
use dm_targets::mirror::leg_state::Past;
use dm_targets::mirror::table::InitialSync;
use dm_targets::mirror::target::{Mirror, OpenError};
use dm_targets::sim::crash::CrashKind;
use dm_targets::sim::disk::{Class, Fault, Matcher};
use dm_targets::sim::image::Image;
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::{Schedule, Step, World};
use dm_targets::units::{Sector, Sectors};

use super::fixture::{self, Fixture, Setup, fail, parts, world};
use crate::pattern;

fn images(fixture: &Fixture) -> Vec<Image> {
    fixture.world.disks().iter().map(|disk| disk.visible()).collect()
}

/// The legs are given in the other order.
fn turned(disks: &[Image]) -> (Setup, Vec<Image>) {
    let identities = [2, 1, 0, 0, 0, 0, 0, 0, 0];
    let disks = [&disks[1], &disks[0], &disks[2]].map(Clone::clone);
    (Setup { identities, ..Setup::small() }, disks.into())
}

/// A mirror on these disks is written at sector 6 while nothing can be copied to its second leg.
fn written_before_recovery(disks: &[Image]) -> Fixture {
    let world = world(&Setup::small(), disks, 0, Schedule::InOrder, Trace::default());
    fail(&world.disks()[1], Class::Write, u32::MAX);
    let fixture = Fixture::open(world, &Setup::small()).unwrap();
    fixture.run_until_idle();
    fixture.write(100, 6, 1).unwrap();
    fixture.flush().unwrap();
    fixture
}

fn blank_log() -> Image {
    Image::zeroes(Sectors(Setup::small().log_sectors()))
}

/// The power goes in the first recovery, and then the legs are given in another order.
#[test]
pub fn the_source_of_the_first_recovery_is_known_in_any_order() {
    let mut disks = Setup::small().clean_images();
    disks[1] = Image::from_fn(Sectors(7), |at| pattern::sector(50, at));
    disks[2] = blank_log();
    let (setup, disks) = turned(&images(&written_before_recovery(&disks)));
    for initial in [InitialSync::FromLog, InitialSync::Sync, InitialSync::NoSync] {
        let next = Fixture::new(&Setup { initial, ..setup.clone() }, &disks);
        assert_eq!(next.read(6, 1).unwrap()[0], pattern::sector(100, 6), "{initial:?}");
        next.run_until_idle();
        assert_eq!(next.leg(0).visible(), disks[1], "{initial:?}");
        assert_eq!(next.leg(1).visible(), disks[1], "{initial:?}");
    }
}

/// The same in a recovery of marked regions, whose writes go to the source alone: the power goes a
/// second time.
#[test]
fn the_source_of_marked_regions_is_known_in_any_order() {
    let mut disks = Setup::small().clean_images();
    disks[2] = Setup::small().log_image(0b0111);
    let (setup, disks) = turned(&images(&written_before_recovery(&disks)));
    let next = Fixture::new(&setup, &disks);
    assert_eq!(next.read(6, 1).unwrap()[0], pattern::sector(100, 6));
    next.run_until_idle();
    assert_eq!(next.leg(0).visible(), disks[1]);
}

/// Once everything has been recovered and flushed, the order of the legs says nothing.
#[test]
fn the_log_has_all_legs_as_up_to_date_after_the_first_recovery() {
    let mut disks = Setup::small().clean_images();
    disks[2] = blank_log();
    let fixture = Fixture::new(&Setup::small(), &disks);
    let flags = |log: &Image| {
        let mut header = [0; 1024];
        header.copy_from_slice(&log.read(Sector(0), Sectors(2)));
        LegFlags::recorded(&header)
    };
    assert_eq!(flags(&fixture.log().visible()), Some(vec![false, true]));
    fixture.run_until_idle();
    assert_eq!(flags(&fixture.log().visible()), Some(vec![false, false]));
    let (setup, disks) = turned(&images(&fixture));
    let next = Fixture::new(&setup, &disks);
    assert_eq!(next.status(), "4/4 AA A");
    assert!(next.mirror.legs().iter().all(|leg| leg.source));
}

/// Two legs that differ in the region that their log has marked, of the given size.
fn marked() -> (Setup, Vec<Image>, Past) {
    let setup = Setup { sectors: 16, ..Setup::small() };
    let fixture = Fixture::new(&setup, &setup.clean_images());
    fixture.run_until_idle();
    fixture.leg(1).hold(Matcher::all(Class::Write));
    let write = fixture.start_write(100, 14, 2);
    fixture.run_until_idle();
    assert!(write.borrow().is_none(), "it is on its way");
    let disks = images(&fixture);
    assert_ne!(disks[0], disks[1]);
    let past = Past::TakenOver(fixture.record.left());
    (setup, disks, past)
}

/// A region of another size is not the one that a bit of the log is about.
#[test]
pub fn a_log_is_not_used_for_regions_of_another_size() {
    let (setup, disks, past) = marked();
    let other = Setup { region: 4, ..setup.clone() };
    let why = Fixture::new_or(&other, &disks).err();
    let (recorded, given) = (Sectors(2), Sectors(4));
    assert_eq!(why, Some(OpenError::LogRegionSize { disk: "log".into(), recorded, given }));
    for asked in [
        Setup { source: Some(0), ..other.clone() },
        Setup { initial: InitialSync::Sync, ..other.clone() },
        // It may be between two tables.
        Setup { past, ..other.clone() },
    ] {
        let next = Fixture::new(&asked, &disks);
        assert_eq!(next.status(), "0/4 AA A");
        next.run_until_idle();
        assert_eq!(next.leg(1).visible(), disks[0]);
        // From now on these are the log's regions.
        let disks = next.close();
        assert_eq!(Fixture::new(&other, &disks).status(), "4/4 AA A");
        assert!(Fixture::new_or(&setup, &disks).is_err());
    }
    assert_eq!(Fixture::new(&setup, &disks).status(), "7/8 AA A");
}

/// The power goes while a mirror with regions of another size begins, and the next one has no word
/// of its user: what the log had in sync under the old size is not in sync under the new one.
#[test]
pub fn a_log_is_cleared_before_it_has_another_size() {
    let (setup, mut disks, _) = marked();
    disks[1] = Image::from_fn(Sectors(16), |at| pattern::sector(50, at));
    let given = Setup { region: 4, source: Some(0), ..setup };
    let world = world(&given, &disks, 0, Schedule::InOrder, Trace::default());
    let unasked = Setup { source: None, ..given.clone() };
    let mut opened = 0;
    begun(&world, &given, |images| match Fixture::new_or(&unasked, &images) {
        Err(OpenError::LogRegionSize { .. }) => {}
        Err(why) => panic!("{why}"),
        Ok(next) => {
            next.run_until_idle();
            assert_eq!(next.leg(0).visible(), next.leg(1).visible());
            opened += 1;
        }
    });
    assert!(opened > 2, "{opened}");
}

/// The first write that clears a log of other legs, or of regions of another size, fails, and the
/// power goes at any moment: what the log had in sync is not in sync.
#[test]
pub fn a_log_that_could_not_be_cleared_is_cleared_again() {
    let setup = Setup { sectors: 16, handle_errors: true, keep_log: false, ..Setup::small() };
    let mut disks = Fixture::new(&setup, &setup.clean_images()).close();
    disks[1] = Image::from_fn(Sectors(16), |at| pattern::sector(50, at));
    let source = Some(0);
    let other_leg = Setup { identities: [1, 9, 0, 0, 0, 0, 0, 0, 0], source, ..setup.clone() };
    let other_size = Setup { region: 4, source, ..setup };
    for (given, failing) in
        [other_leg, other_size].iter().flat_map(|given| (0..3).map(move |failing| (given, failing)))
    {
        let world = world(given, &disks, 0, Schedule::InOrder, Trace::default());
        let matcher = Matcher::all(Class::Write);
        let fault = Fault { matcher, skip: failing, times: 1, errno: Errno::EIO };
        world.disks()[2].inject(fault);
        // One half cannot be copied, so that the log is written again while the legs differ.
        let matcher = Matcher { class: Class::Write, first: 8, end: 16 };
        let fault = Fault { matcher, skip: 0, times: u32::MAX, errno: Errno::EIO };
        world.disks()[1].inject(fault);
        let unasked = Setup { source: None, ..given.clone() };
        let crashes = begun(&world, given, |images| match Fixture::new_or(&unasked, &images) {
            Err(OpenError::LogRegionSize { .. }) => {}
            Err(why) => panic!("{why}"),
            Ok(next) => {
                next.run_until_idle();
                assert_eq!(next.leg(0).visible(), next.leg(1).visible(), "{failing}");
            }
        });
        assert!(crashes > 10, "{crashes}");
    }
}

/// A mirror begins in a world, and the power goes at every step. Returns how often.
fn begun(world: &World, given: &Setup, mut judge: impl FnMut(Vec<Image>)) -> usize {
    let (host, executor): (Rc<dyn Host>, _) = (world.host.clone(), world.executor.clone());
    let copy = copy::Client::new(&executor, &host, None).unwrap();
    let (of_world, of_setup, disks) = (executor.clone(), given.clone(), fixture::disks(world));
    executor.spawn(async move {
        let config = parts(&of_setup, &host, &copy, disks);
        Mirror::open(config).await.unwrap().activate(&of_world).await.unwrap();
    });
    let mut crashes = 0;
    while world.step(false) != Step::Nothing {
        for images in world.crash(CrashKind::Power, 16) {
            judge(images);
            crashes += 1;
        }
    }
    crashes
}

/// A log with nothing in sync, and one that another program has written, has no such bits.
#[test]
fn a_log_without_a_size_of_regions_is_used_as_before() {
    let setup = Setup { sectors: 16, region: 4, ..Setup::small() };
    assert_eq!(Fixture::new(&setup, &setup.clean_images()).status(), "4/4 AA A");
    let small = Setup { region: 2, ..setup.clone() };
    let mut disks = small.clean_images();
    disks[2] = Image::zeroes(Sectors(small.log_sectors()));
    let world = world(&small, &disks, 0, Schedule::InOrder, Trace::default());
    world.disks()[1].hold(Matcher::all(Class::Write));
    let fixture = Fixture::open(world, &small).unwrap();
    fixture.run_until_idle();
    assert_eq!(fixture.status(), "0/8 AA A");
    let next = Fixture::new(&setup, &images(&fixture));
    next.run_until_idle();
    assert_eq!(next.status(), "4/4 AA A");
}

/// The record of the legs is lost while the device waits for its next server: the log may have
/// failed since it was written, and then lacks what a leg has missed.
#[test]
pub fn a_log_is_not_trusted_in_the_place_of_a_lost_record() {
    let (setup, disks, _) = marked();
    let lost = Setup { past: Past::TakenOver(None), ..setup };
    let why = Fixture::new_or(&lost, &disks).err();
    let Some(OpenError::NoSourceAmong(why)) = why else { panic!("{why:?}") };
    let said = "the record says nothing of them; the log says: leg0 is up to date, leg1 is up to \
                date";
    assert_eq!(why, said);
    let named = Fixture::new(&Setup { source: Some(0), ..lost }, &disks);
    named.run_until_idle();
    assert_eq!(named.leg(1).visible(), disks[0]);
}
