//! Lives of a mirror: restarts, suspensions, changes of legs, and the records of them.

use dm_targets::mirror::leg_flags::LegFlags;
use dm_targets::mirror::table::InitialSync;
use dm_targets::mirror::target::LegParts;
use dm_targets::sim::disk::{Class, Matcher};
use dm_targets::sim::image::Image;
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::Schedule;
use dm_targets::units::{Sector, Sectors};

use super::cases::torn;
use super::fixture::{Fixture, Setup, fail, fail_at, world};
use crate::pattern;

fn flags(log: &Image, legs: usize) -> Option<u16> {
    let mut header = [0; 1024];
    header.copy_from_slice(&log.read(Sector(0), Sectors(2)));
    LegFlags::missed(&header, &[0; 9][..legs])
}

#[test]
fn a_leg_that_failed_is_no_source_after_a_restart() {
    for leg in 0..3 {
        let setup = Setup { legs: 3, ..Setup::small() };
        let fixture = Fixture::new(&setup, &setup.clean_images());
        fail(&fixture.leg(leg), Class::Write, u32::MAX);
        fixture.write(100, 2, 2).unwrap();
        assert_eq!(
            flags(&fixture.log().visible(), 3),
            Some(1 << leg),
            "remembered before the write was acknowledged"
        );
        let images: Vec<Image> = fixture.world.disks().iter().map(|disk| disk.visible()).collect();
        let again = Fixture::new(&setup, &images);
        assert_eq!(again.status(), "3/4 AAA A");
        let reports = again.mirror.legs();
        assert!(reports[leg].stale && !reports[leg].source && !reports[leg].default);
        assert_eq!(again.read(2, 1).unwrap()[0], pattern::sector(100, 2));
        again.run_until_idle();
        assert_eq!(again.read(3, 1).unwrap()[0], pattern::sector(100, 3));
        assert!(again.mirror.legs().iter().all(|report| report.source && !report.stale));
        let images = again.close();
        assert_eq!((flags(&images[3], 3), &images[leg]), (None, &images[(leg + 1) % 3]));
    }
}

/// An earlier version has written the log, and the table names the legs in another order.
#[test]
fn a_log_of_an_earlier_version_knows_its_legs_by_their_former_names() {
    let setup = Setup { identities: [11, 12, 0, 0, 0, 0, 0, 0, 0], ..Setup::small() };
    let fixture = Fixture::new(&setup, &setup.clean_images());
    fail(&fixture.leg(0), Class::Write, 1);
    fixture.write(100, 2, 2).unwrap();
    let images: Vec<Image> = fixture.world.disks().iter().map(|disk| disk.visible()).collect();
    let renamed = vec![(11, 1), (12, 2)];
    let turned = Setup { identities: [2, 1, 3, 4, 5, 6, 7, 8, 9], renamed, ..Setup::small() };
    let again = Fixture::new(&turned, &[&images[1], &images[0], &images[2]].map(Clone::clone));
    assert_eq!(again.read(2, 1).unwrap()[0], pattern::sector(100, 2));
    again.run_until_idle();
    let images = again.close();
    assert_eq!(images[0], images[1]);
    assert_eq!(images[0].sectors[2], pattern::sector(100, 2));
    // From now on it has the names of today: the former ones are of other disks.
    let other = Setup { identities: [2, 5, 0, 0, 0, 0, 0, 0, 0], renamed: vec![(1, 5)], ..turned };
    let third = Fixture::new(&other, &images);
    assert_eq!(third.status(), "0/4 AA A");
}

/// A leg is exchanged for another disk while no mirror runs, and the log is clean.
#[test]
pub fn a_disk_in_the_place_of_a_leg_is_recovered() {
    for place in [0, 1] {
        let setup = Setup { identities: [11, 12, 0, 0, 0, 0, 0, 0, 0], ..Setup::small() };
        let fixture = Fixture::new(&setup, &setup.clean_images());
        fixture.write(100, 2, 2).unwrap();
        let mut images = fixture.close();
        images[place] = Image::from_fn(Sectors(setup.sectors), |at| pattern::sector(60, at));
        let mut exchanged = setup.clone();
        exchanged.identities[place] = 13;
        let again = Fixture::new(&exchanged, &images);
        assert_eq!(again.read(2, 1).unwrap()[0], pattern::sector(100, 2), "leg {place}");
        again.run_until_idle();
        assert_eq!(again.status(), "4/4 AA A", "leg {place}");
        let images = again.close();
        assert_eq!(images[0], images[1], "leg {place}");
        assert_eq!(images[0].sectors[2], pattern::sector(100, 2), "leg {place}");
    }
}

#[test]
fn a_stale_leg_is_not_read_until_everything_is_recovered() {
    let setup = Setup::small();
    let images = torn(&setup, 0b1110, 0b01);
    let world = world(&setup, &images, 0, Schedule::InOrder, Trace::default());
    world.disks()[1].hold(Matcher { class: Class::Read, first: 0, end: 2 });
    let fixture = Fixture::open(world, &setup).unwrap();
    for at in 2..7 {
        fixture.read(at, 1).unwrap();
    }
    let reports = fixture.mirror.legs();
    assert!(reports[0].stale && reports[1].default);
    assert_eq!(fixture.leg(0).disk().counters().reads, 0);
    fixture.leg(1).release();
    fixture.run_until_idle();
    assert_eq!(fixture.status(), "4/4 AA A");
    assert_eq!(fixture.read(0, 1).unwrap()[0], pattern::sector(51, 0));
    fixture.close();
}

#[test]
fn the_administrator_names_the_leg_to_recover_from() {
    for (log, source) in [(true, 1), (false, 1), (false, 0)] {
        let setup =
            Setup { log, source: Some(source), initial: InitialSync::Sync, ..Setup::small() };
        let fixture = Fixture::new(&setup, &torn(&setup, 0, 0));
        assert!(fixture.mirror.legs()[source].default);
        if log {
            assert_eq!(
                flags(&fixture.log().visible(), 2),
                Some(0b01),
                "and it stays so after a crash"
            );
        }
        fixture.run_until_idle();
        let shown = fixture.read(0, 7).unwrap();
        assert_eq!(shown[6], pattern::sector(50 + u32::try_from(source).unwrap(), 6));
        let images = fixture.close();
        assert_eq!(images[0], images[1]);
    }
}

#[test]
fn the_log_is_clean_after_suspending_and_recovery_goes_on_after_resuming() {
    let setup = Setup::small();
    let fixture = Fixture::new(&setup, &setup.clean_images());
    fixture.write(100, 0, 4).unwrap();
    assert_eq!(fixture.log_bits(), 0b1100);
    fixture.run(|mirror| async move { mirror.suspend(true).await });
    assert_eq!(fixture.log_bits(), 0b1111);
    let waits = fixture.start_write(101, 0, 1);
    assert!(fixture.try_wait(&waits).is_none(), "nothing is written while the mirror is suspended");
    fixture.run(|mirror| async move { mirror.resume().await });
    fixture.wait(&waits).unwrap();
    // A leg fails, returns, and is recovered when the mirror is resumed.
    fail(&fixture.leg(1), Class::Write, 1);
    fixture.write(102, 4, 1).unwrap();
    fixture.run_until_idle();
    assert_eq!((fixture.status(), fixture.log_bits()), ("3/4 AD A".into(), 0b1011));
    fixture.run(|mirror| async move {
        mirror.suspend(false).await;
        mirror.resume().await;
    });
    fixture.run_until_idle();
    assert_eq!((fixture.status(), fixture.log_bits()), ("4/4 AA A".into(), 0b1111));
    assert_eq!(fixture.leg(1).visible().sectors[4], pattern::sector(102, 4));
    fixture.close();
}

#[test]
fn a_log_that_was_cleared_meanwhile_is_trusted() {
    let setup = Setup::small();
    let fixture = Fixture::new(&setup, &setup.clean_images());
    fixture.run(|mirror| async move { mirror.suspend(true).await });
    let log = fixture.log().disk();
    let host: std::rc::Rc<dyn dm_targets::disk::Host> = fixture.world.host.clone();
    let zeroes = dm_targets::disk::Buffer::acquire(&host, 512).unwrap();
    zeroes.write(0, &[0; 512]);
    fixture.run(
        |_| async move { log.write(Sector(2), Sectors(1), zeroes.at(0), false).await.unwrap() },
    );
    fixture.run(|mirror| async move { mirror.resume().await });
    assert_eq!(fixture.status(), "0/4 AA A");
    fixture.run_until_idle();
    assert_eq!((fixture.status(), fixture.log_bits()), ("4/4 AA A".into(), 0b1111));
    fixture.close();
}

#[test]
fn with_sync_everything_is_recovered_at_every_resume() {
    let setup = Setup { initial: InitialSync::Sync, ..Setup::small() };
    let fixture = Fixture::new(&setup, &setup.clean_images());
    assert_eq!(fixture.status(), "0/4 AA A");
    fixture.run_until_idle();
    fixture.run(|mirror| async move {
        mirror.suspend(true).await;
        mirror.resume().await;
    });
    assert_eq!(fixture.status(), "0/4 AA A");
    fixture.run_until_idle();
    assert_eq!(fixture.status(), "4/4 AA A");
    let core = Setup { log: false, ..setup };
    fixture.close();
    let fixture = Fixture::new(&core, &core.clean_images());
    fixture.run_until_idle();
    fixture.run(|mirror| async move {
        mirror.suspend(true).await;
        mirror.resume().await;
    });
    assert_eq!(fixture.status(), "4/4 AA core", "a log in memory keeps what it knows");
    fixture.close();
}

fn spare(fixture: &mut Fixture, setup: &Setup) -> LegParts {
    let image = Image::from_fn(Sectors(setup.sectors), |at| pattern::sector(60, at));
    let disk = fixture.world.add_disk("spare", setup.disk, image).disk();
    LegParts { disk, offset: Sector(0), identity: 9, number: 0 }
}

#[test]
fn a_failed_leg_is_replaced_and_held_writes_go_on() {
    let setup = Setup::small().features(true, false);
    let mut fixture = Fixture::new(&setup, &setup.clean_images());
    fail(&fixture.leg(1), Class::Write, u32::MAX);
    let held = fixture.start_write(100, 0, 3);
    assert!(fixture.try_wait(&held).is_none());
    let leg = spare(&mut fixture, &setup);
    fixture.run(|mirror| async move { mirror.replace_leg(1, leg).await }).unwrap();
    fixture.wait(&held).unwrap();
    fixture.run_until_idle();
    assert_eq!(fixture.status(), "4/4 AA A");
    let images = fixture.close();
    assert_eq!(images[0], images[3]);
    assert_eq!(images[3].sectors[2], pattern::sector(100, 2));
    assert_eq!((flags(&images[2], 2), images[2].read(Sector(2), Sectors(1))[0]), (None, 0b1111));
}

#[test]
fn a_leg_that_was_taken_out_and_comes_back_is_recovered() {
    for (legs, replace) in [(2, true), (3, true), (3, false)] {
        let setup = Setup { legs, ..Setup::small() };
        let mut fixture = Fixture::new(&setup, &setup.clean_images());
        let leg = spare(&mut fixture, &setup);
        fixture
            .run(move |mirror| async move {
                if replace { mirror.replace_leg(0, leg).await } else { mirror.remove_leg(0).await }
            })
            .unwrap();
        fixture.run_until_idle();
        fixture.write(100, 2, 3).unwrap();
        fixture.run_until_idle();
        let images = fixture.close();
        // A script still names the old legs.
        let again = Fixture::new(&setup, &images[..=legs]);
        let reports = again.mirror.legs();
        assert!(
            reports[0].stale && reports[1].default && again.status().starts_with("0/4"),
            "{}",
            again.status()
        );
        assert_eq!(again.read(2, 1).unwrap()[0], pattern::sector(100, 2));
        again.run_until_idle();
        let images = again.close();
        assert_eq!(
            (&images[0], images[0].sectors[4].clone()),
            (&images[1], pattern::sector(100, 4))
        );
    }
}

#[test]
fn legs_are_not_changed_when_the_log_must_be_written_and_cannot() {
    let setup = Setup { legs: 3, ..Setup::small() }.features(true, true);
    let mut fixture = Fixture::new(&setup, &setup.clean_images());
    fail(&fixture.log(), Class::Write, u32::MAX);
    let leg = spare(&mut fixture, &setup);
    let refused = fixture.run(|mirror| async move { mirror.replace_leg(1, leg).await });
    assert_eq!(refused.unwrap_err().to_string(), "the dirty log cannot be written");
    assert!(fixture.run(|mirror| async move { mirror.remove_leg(2).await }).is_err());
    assert_eq!(fixture.mirror.legs().len(), 3);
    assert_eq!(fixture.leg(4).writes(), 0, "the new leg has not been touched");
    fixture.run_until_idle();
    fixture.close();
}

#[test]
fn a_leg_that_could_not_be_flushed_does_not_spoil_what_its_successor_gets() {
    let setup = Setup::small();
    let mut fixture = Fixture::new(&setup, &setup.clean_images());
    fail(&fixture.leg(1), Class::Flush, u32::MAX);
    fixture.write(100, 0, 1).unwrap();
    fixture.flush().unwrap();
    let leg = spare(&mut fixture, &setup);
    // The new leg has one bad region, so not everything is in sync when the next write comes.
    fail_at(&fixture.leg(3), Class::Write, 6);
    fixture.run(|mirror| async move { mirror.replace_leg(1, leg).await }).unwrap();
    fixture.run_until_idle();
    assert_eq!(fixture.status(), "3/4 AS A");
    fixture.write(101, 0, 1).unwrap();
    fixture.run_until_idle();
    assert_eq!(fixture.status(), "3/4 AS A", "what is written to both legs stays in sync");
    fixture.close();
}

#[test]
fn the_last_right_leg_is_not_replaced() {
    let setup = Setup::small();
    let images = torn(&setup, 0b0111, 0);
    let world = world(&setup, &images, 0, Schedule::InOrder, Trace::default());
    world.disks()[0].hold(Matcher::all(Class::Read));
    let mut fixture = Fixture::open(world, &setup).unwrap();
    let leg = spare(&mut fixture, &setup);
    let replaced = fixture.spawn(|mirror| async move { mirror.replace_leg(0, leg).await });
    fixture.try_wait(&replaced);
    fixture.leg(0).release();
    fixture.run_until_idle();
    assert_eq!(fixture.status(), "4/4 AA A");
    fixture.close();
}

#[test]
fn legs_are_added_and_removed() {
    let setup = Setup::small();
    let mut fixture = Fixture::new(&setup, &setup.clean_images());
    fixture.write(100, 1, 1).unwrap();
    let leg = spare(&mut fixture, &setup);
    fixture.run(|mirror| async move { mirror.add_leg(leg).await }).unwrap();
    assert_eq!((fixture.status(), fixture.mirror.legs().len()), ("0/4 AAA A".into(), 3));
    fixture.run_until_idle();
    assert_eq!(fixture.status(), "4/4 AAA A");
    fail(&fixture.leg(0), Class::Write, u32::MAX);
    fixture.write(101, 4, 1).unwrap();
    assert_eq!(
        (fixture.status(), flags(&fixture.log().visible(), 3)),
        ("3/4 DAA A".into(), None),
        "the spare is the last disk"
    );
    fixture.run(|mirror| async move { mirror.remove_leg(0).await }).unwrap();
    assert_eq!(fixture.status(), "4/4 AA A", "all that are left are right");
    fixture.run_until_idle();
    let refused = fixture.run(|mirror| async move { mirror.remove_leg(0).await });
    assert!(refused.is_err(), "two legs are the least");
    let images = fixture.close();
    assert_eq!((&images[1], images[1].sectors[4].clone()), (&images[3], pattern::sector(101, 4)));
}
