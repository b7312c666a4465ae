//! What a log on a disk and the record of the legs know, against the words of a table and the order
//! of its legs.

use dm_targets::mirror::leg_set::LegSet;
use dm_targets::mirror::leg_state::{KnownLeg, LegState, Past};
use dm_targets::mirror::table::InitialSync;
use dm_targets::mirror::target::OpenError;
use dm_targets::sim::disk::{Class, Matcher};
use dm_targets::sim::image::Image;
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::Schedule;
use dm_targets::units::{Sector, Sectors};

use super::fixture::{Fixture, Setup, fail, world};
use crate::pattern;

/// An identity that no other leg has.
const OTHER: u64 = 77;

fn images(fixture: &Fixture) -> Vec<Image> {
    fixture.world.disks().iter().map(|disk| disk.visible()).collect()
}

fn legs_of(first: u64, second: u64) -> [u64; 9] {
    [first, second, 0, 0, 0, 0, 0, 0, 0]
}

fn filled(id: u32) -> Image {
    Image::from_fn(Sectors(7), |at| pattern::sector(id, at))
}

/// Whether opening a mirror fails for lack of a source.
fn has_no_source(opened: Result<Fixture, OpenError>) -> bool {
    matches!(opened, Err(OpenError::NoSourceAmong(_)))
}

/// Legs 1 and 2 and their log, which knows that leg 1 has missed a write.
fn with_a_stale_leg() -> Vec<Image> {
    let fixture = Fixture::new(&Setup::small(), &Setup::small().clean_images());
    fail(&fixture.leg(0), Class::Write, u32::MAX);
    fixture.write(100, 2, 2).unwrap();
    images(&fixture)
}

/// Neither `nosync` nor `sync` makes a leg valid that the log has as stale, or does not have.
#[test]
pub fn a_log_is_not_overridden_by_a_word() {
    let before = with_a_stale_leg();
    for initial in [InitialSync::NoSync, InitialSync::Sync, InitialSync::FromLog] {
        let open = |identities, images: &[Image]| {
            Fixture::new_or(&Setup { initial, identities, ..Setup::small() }, images)
        };
        let other = [filled(50), before[1].clone(), before[2].clone()];
        for again in [open(legs_of(1, 2), &before), open(legs_of(OTHER, 2), &other)] {
            let again = again.unwrap();
            assert_eq!(again.read(2, 1).unwrap()[0], pattern::sector(100, 2), "{initial:?}");
            again.run_until_idle();
            assert_eq!(again.leg(0).visible(), before[1], "{initial:?}");
        }
        assert!(has_no_source(open(legs_of(1, OTHER), &before)), "{initial:?}");
        assert!(has_no_source(open(legs_of(OTHER, 78), &before)), "{initial:?}");
    }
}

/// A mirror has ended: leg 1 has missed writes, leg 2 has all.
fn ended() -> Past {
    let leg = |identity, source| KnownLeg { identity, number: 0, name: String::new(), source };
    let legs = vec![leg(1, false), leg(2, true)];
    Past::Ended(LegState { legs, was_in_sync: true, ..LegState::default() })
}

/// An unknown first leg is not copied over the leg that is up to date, whatever the log is.
#[test]
pub fn an_unknown_leg_is_not_the_source_beside_a_known_one() {
    let blank = Image::zeroes(Sectors(Setup::small().log_sectors()));
    for initial in [InitialSync::FromLog, InitialSync::Sync] {
        let setup = Setup { past: ended(), initial, ..Setup::small() };
        let disks = [filled(50), filled(51), blank.clone()];
        let first = Setup { identities: legs_of(OTHER, 2), ..setup.clone() };
        assert!(has_no_source(Fixture::new_or(&first, &disks)), "{initial:?}");
        let second = Setup { identities: legs_of(2, OTHER), ..setup };
        let fixture = Fixture::new_or(&second, &disks).unwrap();
        fixture.run_until_idle();
        assert_eq!(fixture.leg(1).visible(), filled(50), "{initial:?}");
    }
}

/// The log is clean and names both legs, and is of the time before the mirror that has ended.
#[test]
pub fn a_log_of_another_time_is_not_trusted_for_an_unknown_leg() {
    let setup = Setup { identities: legs_of(2, OTHER), ..Setup::small() };
    let fixture = Fixture::new(&setup, &setup.clean_images());
    fixture.run_until_idle();
    let mut disks = fixture.close();
    disks[0] = filled(50);
    let again = Fixture::new(&Setup { past: ended(), ..setup }, &disks);
    again.run_until_idle();
    assert_eq!(again.leg(1).visible(), filled(50));
    disks.swap(0, 1);
    let turned = Setup { past: ended(), identities: legs_of(OTHER, 2), ..Setup::small() };
    assert!(has_no_source(Fixture::new_or(&turned, &disks)));
}

/// The log and the record agree on the stale leg; what was written since is in neither's marks:
/// the log had failed, or the mirror had another one.
#[test]
pub fn a_log_that_lacks_marks_confirms_a_source() {
    let Past::Ended(state) = ended() else { unreachable!() };
    for (log_works, log) in [(false, 0), (true, OTHER + 1)] {
        let past = Past::Ended(LegState { log_works, log, ..state.clone() });
        let mut disks = with_a_stale_leg();
        disks[1] = filled(50);
        let fixture = Fixture::new(&Setup { past, ..Setup::small() }, &disks);
        fixture.run_until_idle();
        assert_eq!(fixture.leg(0).visible(), filled(50), "{log}");
    }
}

/// An old copy of the log is put in its place: it is clean, and has both legs.
#[test]
pub fn an_old_copy_of_the_log_is_not_trusted() {
    let fixture = Fixture::new(&Setup::small(), &Setup::small().clean_images());
    fixture.run_until_idle();
    let copy = fixture.log().visible();
    fail(&fixture.leg(0), Class::Write, u32::MAX);
    fixture.write(100, 2, 2).unwrap();
    let (left, mut disks) = (fixture.record.left(), images(&fixture));
    disks[2] = copy;
    for past in [Past::Ended(left.clone().unwrap()), Past::TakenOver(left)] {
        let setup = Setup { past, ..Setup::small() };
        match Fixture::new_or(&setup, &disks) {
            Err(OpenError::NoSourceAmong(_)) => {}
            opened => {
                let fixture = opened.unwrap();
                assert_eq!(fixture.read(2, 1).unwrap()[0], pattern::sector(100, 2));
                fixture.run_until_idle();
                assert_eq!(fixture.leg(0).visible(), disks[1]);
            }
        }
    }
}

/// A server with a log on disk has died while a write was on its way: leg 1 alone has it. Both
/// legs were in sync before, and are so on record.
fn killed(legs: usize) -> (Setup, Vec<Image>) {
    let setup = Setup { legs, ..Setup::small() };
    let fixture = Fixture::new(&setup, &setup.clean_images());
    fixture.run_until_idle();
    fixture.write(100, 2, 2).unwrap();
    (1..legs).for_each(|leg| fixture.leg(leg).hold(Matcher::all(Class::Write)));
    let write = fixture.start_write(101, 2, 1);
    fixture.run_until_idle();
    assert!(write.borrow().is_none(), "it is on its way");
    let past = Past::TakenOver(fixture.record.left());
    (Setup { past, ..setup }, images(&fixture))
}

/// The first leg dies before the next server has recovered anything.
#[test]
pub fn a_leg_that_dies_before_a_take_over_takes_no_data_with_it() {
    let (setup, disks) = killed(2);
    let world = world(&setup, &disks, 0, Schedule::InOrder, Trace::default());
    for class in [Class::Read, Class::Write, Class::Flush] {
        fail(&world.disks()[0], class, u32::MAX);
    }
    let next = Fixture::open(world, &setup).unwrap();
    next.run_until_idle();
    assert_eq!(next.read(3, 1).unwrap()[0], pattern::sector(100, 3));
    next.write(102, 2, 1).unwrap();
    assert_eq!(next.read(2, 1).unwrap()[0], pattern::sector(102, 2));
    let legs = next.mirror.legs();
    assert!(legs[1].source && !legs[0].source, "the dead leg has missed a write");
}

/// A leg is removed before the others have been made equal.
#[test]
fn legs_that_remain_are_made_equal() {
    let (setup, disks) = killed(3);
    let world = world(&setup, &disks, 0, Schedule::InOrder, Trace::default());
    world.disks()[..3].iter().for_each(|leg| fail(leg, Class::Read, u32::MAX));
    let next = Fixture::open(world, &setup).unwrap();
    next.run_until_idle();
    assert_ne!(next.leg(0).visible(), next.leg(1).visible(), "none can be read");
    (0..3).for_each(|leg| next.leg(leg).mend());
    next.run(|mirror| async move { mirror.remove_leg(2).await.unwrap() });
    next.mirror.recover_again();
    next.run_until_idle();
    assert_eq!(next.leg(0).visible(), next.leg(1).visible());
}

/// What was on its way reaches both legs, or neither.
#[test]
pub fn legs_are_equal_after_a_take_over() {
    let (setup, disks) = killed(2);
    assert_ne!(disks[0], disks[1]);
    let next = Fixture::new(&setup, &disks);
    next.run_until_idle();
    assert_eq!(next.status(), "4/4 AA A");
    assert_eq!(next.leg(0).visible(), next.leg(1).visible());
    assert!(next.mirror.legs().iter().all(|leg| leg.source));
}

/// Another program has used a log: it has replaced the version, kept the flags, and these are the
/// regions that are clean then.
fn used_by_another(log: &Image, bits: u8) -> Image {
    let (mut header, mut map) = (log.read(Sector(0), Sectors(1)), log.read(Sector(2), Sectors(1)));
    assert_eq!(header[4..8], [1, 0, 0, 0], "it has flags");
    header[4] = 2;
    map[0] = bits;
    let mut log = log.clone();
    log.write(Sector(0), &header);
    log.write(Sector(2), &map);
    log
}

/// The kernel continues a mirror one of whose legs has missed a write, and copies from that one.
#[test]
pub fn a_log_that_another_program_has_used_names_no_source() {
    let before = with_a_stale_leg();
    let mut marked = before.clone();
    marked[2] = used_by_another(&before[2], 0b1101);
    let open = |source, initial, images: &[Image]| {
        Fixture::new_or(&Setup { source, initial, ..Setup::small() }, images)
    };
    let Past::Ended(left) = ended() else { unreachable!() };
    for initial in [InitialSync::NoSync, InitialSync::Sync, InitialSync::FromLog] {
        // A record of this boot does not know what the other program has done either.
        for past in [Past::None, ended(), Past::TakenOver(Some(left.clone()))] {
            let setup = Setup { initial, past, ..Setup::small() };
            let refused = Fixture::new_or(&setup, &marked).err();
            let Some(OpenError::NoSourceAmong(why)) = refused else { panic!("{refused:?}") };
            assert!(why.contains("another program"), "{why}");
        }
    }
    for source in [0, 1] {
        let next = open(Some(source), InitialSync::FromLog, &marked).unwrap();
        next.run_until_idle();
        assert_eq!(next.leg(1 - source).visible(), before[source]);
        // From now on the flags are this program's again.
        fail(&next.leg(1), Class::Write, u32::MAX);
        next.write(101, 4, 2).unwrap();
        let again = open(None, InitialSync::FromLog, &images(&next)).unwrap();
        assert_eq!(again.read(4, 1).unwrap()[0], pattern::sector(101, 4));
    }
    // It has come to its end.
    let clean = [before[0].clone(), before[0].clone(), used_by_another(&before[2], 0b1111)];
    for initial in [InitialSync::NoSync, InitialSync::FromLog] {
        let next = open(None, initial, &clean).unwrap();
        assert_eq!(next.status(), "4/4 AA A");
        assert!(next.mirror.legs().iter().all(|leg| leg.source));
        next.write(102, 0, 1).unwrap();
        let left = next.close();
        assert_eq!(left[2].read(Sector(0), Sectors(1))[4..8], [2, 0, 0, 0]);
        assert_eq!(open(None, initial, &left).unwrap().status(), "4/4 AA A");
    }
}

/// Opens a mirror whose leg `absent` is not there: what stands in for it fails, and is unknown to
/// the log. `unread`: the log cannot be read.
fn open_without(absent: usize, images: &[Image], unread: bool) -> Result<Fixture, OpenError> {
    let mut identities = legs_of(1, 2);
    identities[absent] = OTHER;
    open_beside(absent, identities, images, unread)
}

fn open_beside(
    absent: usize,
    identities: [u64; 9],
    images: &[Image],
    unread: bool,
) -> Result<Fixture, OpenError> {
    let setup = Setup { identities, absent: LegSet::one(absent), ..Setup::small() };
    let world = world(&setup, images, 0, Schedule::InOrder, Trace::default());
    for class in [Class::Read, Class::Write, Class::Flush] {
        fail(&world.disks()[absent], class, u32::MAX);
    }
    if unread {
        fail(&world.disks()[2], Class::Read, u32::MAX);
    }
    Fixture::open(world, &setup)
}

/// A mirror starts without a leg, in whatever place, and is written. The leg that comes back has
/// old data, and is recovered.
#[test]
pub fn a_leg_that_was_not_there_is_recovered() {
    for absent in [0, 1] {
        let fixture = Fixture::new(&Setup::small(), &Setup::small().clean_images());
        fixture.run_until_idle();
        fixture.write(100, 2, 2).unwrap();
        let old = fixture.close();
        let alone = open_without(absent, &old, false).unwrap();
        assert_eq!(alone.read(3, 1).unwrap()[0], pattern::sector(100, 3));
        alone.write(101, 3, 1).unwrap();
        alone.run_until_idle();
        assert!(!alone.mirror.legs()[absent].source);
        let mut disks = images(&alone);
        assert_eq!(disks[absent], old[absent], "it only fails");
        // Once more without it, and then with it alone.
        let again = open_without(absent, &disks, false).unwrap();
        assert_eq!(again.read(3, 1).unwrap()[0], pattern::sector(101, 3));
        disks = images(&again);
        assert!(has_no_source(open_without(1 - absent, &disks, false)), "it is stale");
        let whole = Fixture::new(&Setup::small(), &disks);
        assert_eq!(whole.read(3, 1).unwrap()[0], pattern::sector(101, 3));
        whole.run_until_idle();
        assert_eq!(whole.leg(0).visible(), whole.leg(1).visible());
        assert_eq!(whole.read(3, 1).unwrap()[0], pattern::sector(101, 3));
    }
}

/// Three legs and their log without the second one, which only fails, and with another one instead
/// of it in the record.
fn of_three(without: LegSet, images: &[Image]) -> Result<Fixture, OpenError> {
    let mut identities = Setup::small().identities;
    without.iter().for_each(|leg| identities[leg] = OTHER + leg as u64);
    let setup = Setup { legs: 3, identities, absent: without, ..Setup::small() };
    let world = world(&setup, images, 0, Schedule::InOrder, Trace::default());
    for (leg, class) in without
        .iter()
        .flat_map(|leg| [Class::Read, Class::Write, Class::Flush].map(|class| (leg, class)))
    {
        fail(&world.disks()[leg], class, u32::MAX);
    }
    Fixture::open(world, &setup)
}

/// Of three legs one is not there: what is written has two copies, and is read from the second one
/// when the first fails as well, at once or at the next start. `written`: regions are out of sync
/// in the log, as after a loss of power.
#[test]
pub fn all_legs_that_are_left_are_kept_up_to_date() {
    for written in [false, true] {
        let setup = Setup { legs: 3, ..Setup::small() };
        let fixture = Fixture::new(&setup, &setup.clean_images());
        fixture.run_until_idle();
        fixture.write(100, 2, 2).unwrap();
        if written {
            // The log says which leg is not up to date.
            fail(&fixture.leg(1), Class::Write, u32::MAX);
            fixture.write(100, 2, 2).unwrap();
        }
        let old = if written { images(&fixture) } else { fixture.close() };
        let two = of_three(LegSet::one(1), &old).unwrap();
        two.write(101, 3, 1).unwrap();
        two.run_until_idle();
        two.write(102, 4, 2).unwrap();
        assert_eq!(two.leg(0).visible(), two.leg(2).visible(), "{written}");
        let disks = images(&two);
        fail(&two.leg(0), Class::Read, u32::MAX);
        fail(&two.leg(0), Class::Write, u32::MAX);
        assert_eq!(two.read(3, 1).unwrap()[0], pattern::sector(101, 3));
        two.write(103, 5, 1).unwrap();
        assert_eq!(two.read(5, 1).unwrap()[0], pattern::sector(103, 5));
        let one = of_three(LegSet(0b011), &disks).unwrap();
        assert_eq!(one.read(3, 1).unwrap()[0], pattern::sector(101, 3));
        assert_eq!(one.read(4, 1).unwrap()[0], pattern::sector(102, 4));
        // All come back.
        let whole = Fixture::new(&setup, &disks);
        whole.run_until_idle();
        assert_eq!(whole.read(4, 1).unwrap()[0], pattern::sector(102, 4));
        assert_eq!(whole.leg(0).visible(), whole.leg(1).visible());
        assert_eq!(whole.leg(0).visible(), whole.leg(2).visible());
    }
}

/// Without a log that says so, nothing knows whether the legs that are left are up to date.
#[test]
pub fn a_mirror_without_a_leg_starts_by_its_log_alone() {
    let stale = with_a_stale_leg();
    assert!(has_no_source(open_without(1, &stale, false)), "it was the only one up to date");
    assert!(has_no_source(open_without(1, &stale, true)), "and the log cannot be read");
    assert!(open_without(0, &stale, false).is_ok());
    let clean = Setup::small().clean_images();
    let mut fresh = clean.clone();
    fresh[2] = Image::zeroes(Sectors(Setup::small().log_sectors()));
    let mut used = stale.clone();
    used[2] = used_by_another(&stale[2], 0b1111);
    for absent in [0, 1] {
        for (images, what) in [(&clean, "names no legs"), (&fresh, "new"), (&used, "used")] {
            assert!(has_no_source(open_without(absent, images, false)), "{absent}: {what}");
        }
        // What stands in for a leg has the name of one.
        let named = Fixture::new(&Setup::small(), &clean);
        named.run_until_idle();
        let named = named.close();
        assert!(has_no_source(open_beside(absent, legs_of(1, 2), &named, false)));
    }
}
