//! Lives of a mirror: restarts, suspensions, legs that come and go, and what is remembered of them.

use dm_targets::mirror::format::LegFlags;
use dm_targets::mirror::table::InitialSync;
use dm_targets::mirror::target::LegParts;
use dm_targets::request::TargetError;
use dm_targets::sim::disk::{Class, Matcher};
use dm_targets::sim::image::Image;
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::Temper;
use dm_targets::units::{Sector, Sectors};

use super::cases::torn;
use super::rig::{Rig, Setup, fail, fail_at, world};
use crate::pattern;

fn flags(log: &Image, legs: usize) -> Option<u16> {
    let mut header = [0; 1024];
    header.copy_from_slice(&log.read(Sector(0), Sectors(2)));
    LegFlags::decode(&header, &[0; 9][..legs])
}

#[test]
fn a_leg_that_failed_is_no_source_after_a_restart() {
    for leg in 0..3 {
        let setup = Setup { legs: 3, ..Setup::small() };
        let rig = Rig::new(&setup, &setup.clean_images());
        fail(&rig.leg(leg), Class::Write, u32::MAX);
        rig.write(100, 2, 2).unwrap();
        assert_eq!(flags(&rig.log().visible(), 3), Some(1 << leg), "remembered before the write was acknowledged");
        let images: Vec<Image> = rig.world.disks().iter().map(|disk| disk.visible()).collect();
        let again = Rig::new(&setup, &images);
        assert_eq!(again.status(), "3/4 AAA A");
        let reports = again.mirror.legs();
        assert!(reports[leg].stale && !reports[leg].source && !reports[leg].default);
        assert_eq!(again.read(2, 1).unwrap()[0], pattern::sector(100, 2));
        again.settle();
        assert_eq!(again.read(3, 1).unwrap()[0], pattern::sector(100, 3));
        assert!(again.mirror.legs().iter().all(|report| report.source && !report.stale));
        let images = again.close();
        assert_eq!((flags(&images[3], 3), &images[leg]), (None, &images[(leg + 1) % 3]));
    }
}

#[test]
fn a_stale_leg_is_not_read_until_everything_is_recovered() {
    let setup = Setup::small();
    let images = torn(&setup, 0b1110, 0b01);
    let world = world(&setup, &images, 0, Temper::InOrder, Trace::default());
    world.disks()[1].hold(Matcher { class: Class::Read, first: 0, end: 2 });
    let rig = Rig::open(world, &setup).unwrap();
    for at in 2..7 {
        rig.read(at, 1).unwrap();
    }
    let reports = rig.mirror.legs();
    assert!(reports[0].stale && reports[1].default);
    assert_eq!(rig.leg(0).disk().counters().reads, 0);
    rig.leg(1).release();
    rig.settle();
    assert_eq!(rig.status(), "4/4 AA A");
    assert_eq!(rig.read(0, 1).unwrap()[0], pattern::sector(51, 0));
    rig.close();
}

#[test]
fn the_administrator_names_the_leg_to_recover_from() {
    for (log, source) in [(true, 1), (false, 1), (false, 0)] {
        let setup = Setup { log, source: Some(source), initial: InitialSync::Sync, ..Setup::small() };
        let rig = Rig::new(&setup, &torn(&setup, 0, 0));
        assert!(rig.mirror.legs()[source].default);
        if log {
            assert_eq!(flags(&rig.log().visible(), 2), Some(0b01), "and it stays so after a crash");
        }
        rig.settle();
        let shown = rig.read(0, 7).unwrap();
        assert_eq!(shown[6], pattern::sector(50 + u32::try_from(source).unwrap(), 6));
        let images = rig.close();
        assert_eq!(images[0], images[1]);
    }
}

#[test]
fn the_log_is_clean_after_suspending_and_recovery_goes_on_after_resuming() {
    let setup = Setup::small();
    let rig = Rig::new(&setup, &setup.clean_images());
    rig.write(100, 0, 4).unwrap();
    assert_eq!(rig.log_bits(), 0b1100);
    rig.run(|mirror| async move { mirror.suspend(true).await });
    assert_eq!(rig.log_bits(), 0b1111);
    let waits = rig.start_write(101, 0, 1);
    assert!(rig.try_wait(&waits).is_none(), "nothing is written while the mirror is suspended");
    rig.run(|mirror| async move { mirror.resume().await });
    rig.wait(&waits).unwrap();
    // A leg fails, comes back, and is recovered when the mirror is resumed.
    fail(&rig.leg(1), Class::Write, 1);
    rig.write(102, 4, 1).unwrap();
    rig.settle();
    assert_eq!((rig.status(), rig.log_bits()), ("3/4 AD A".into(), 0b1011));
    rig.run(|mirror| async move {
        mirror.suspend(false).await;
        mirror.resume().await;
    });
    rig.settle();
    assert_eq!((rig.status(), rig.log_bits()), ("4/4 AA A".into(), 0b1111));
    assert_eq!(rig.leg(1).visible().sectors[4], pattern::sector(102, 4));
    rig.close();
}

#[test]
fn a_log_that_somebody_cleared_meanwhile_is_believed() {
    let setup = Setup::small();
    let rig = Rig::new(&setup, &setup.clean_images());
    rig.run(|mirror| async move { mirror.suspend(true).await });
    let log = rig.log().disk();
    let host: std::rc::Rc<dyn dm_targets::disk::Host> = rig.world.host.clone();
    let zeroes = dm_targets::disk::Buffer::acquire(&host, 512).unwrap();
    zeroes.write(0, &[0; 512]);
    rig.run(|_| async move { log.write(Sector(2), Sectors(1), zeroes.at(0), false).await.unwrap() });
    rig.run(|mirror| async move { mirror.resume().await });
    assert_eq!(rig.status(), "0/4 AA A");
    rig.settle();
    assert_eq!((rig.status(), rig.log_bits()), ("4/4 AA A".into(), 0b1111));
    rig.close();
}

#[test]
fn with_sync_everything_is_recovered_at_every_resume() {
    let setup = Setup { initial: InitialSync::Sync, ..Setup::small() };
    let rig = Rig::new(&setup, &setup.clean_images());
    assert_eq!(rig.status(), "0/4 AA A");
    rig.settle();
    rig.run(|mirror| async move {
        mirror.suspend(true).await;
        mirror.resume().await;
    });
    assert_eq!(rig.status(), "0/4 AA A");
    rig.settle();
    assert_eq!(rig.status(), "4/4 AA A");
    let core = Setup { log: false, ..setup };
    rig.close();
    let rig = Rig::new(&core, &core.clean_images());
    rig.settle();
    rig.run(|mirror| async move {
        mirror.suspend(true).await;
        mirror.resume().await;
    });
    assert_eq!(rig.status(), "4/4 AA core", "a log in memory keeps what it knows");
    rig.close();
}

fn spare(rig: &mut Rig, setup: &Setup) -> LegParts {
    let image = Image::from_fn(Sectors(setup.sectors), |at| pattern::sector(60, at));
    let disk = rig.world.add_disk("spare", setup.disk, image).disk();
    LegParts { disk, offset: Sector(0), identity: 9 }
}

#[test]
fn a_failed_leg_is_replaced_and_held_writes_go_on() {
    let setup = Setup::small().features(true, false);
    let mut rig = Rig::new(&setup, &setup.clean_images());
    fail(&rig.leg(1), Class::Write, u32::MAX);
    let held = rig.start_write(100, 0, 3);
    assert!(rig.try_wait(&held).is_none());
    let leg = spare(&mut rig, &setup);
    rig.run(|mirror| async move { mirror.replace_leg(1, leg).await }).unwrap();
    rig.wait(&held).unwrap();
    rig.settle();
    assert_eq!(rig.status(), "4/4 AA A");
    let images = rig.close();
    assert_eq!(images[0], images[3]);
    assert_eq!(images[3].sectors[2], pattern::sector(100, 2));
    assert_eq!((flags(&images[2], 2), images[2].read(Sector(2), Sectors(1))[0]), (None, 0b1111));
}

#[test]
fn a_leg_that_was_taken_out_and_comes_back_is_recovered() {
    for (legs, replace) in [(2, true), (3, true), (3, false)] {
        let setup = Setup { legs, ..Setup::small() };
        let mut rig = Rig::new(&setup, &setup.clean_images());
        let leg = spare(&mut rig, &setup);
        rig.run(move |mirror| async move {
            if replace { mirror.replace_leg(0, leg).await } else { mirror.remove_leg(0).await }
        })
        .unwrap();
        rig.settle();
        rig.write(100, 2, 3).unwrap();
        rig.settle();
        let images = rig.close();
        // Somebody's script still has the old legs.
        let again = Rig::new(&setup, &images[..=legs]);
        let reports = again.mirror.legs();
        assert!(reports[0].stale && reports[1].default && again.status().starts_with("0/4"), "{}", again.status());
        assert_eq!(again.read(2, 1).unwrap()[0], pattern::sector(100, 2));
        again.settle();
        let images = again.close();
        assert_eq!((&images[0], images[0].sectors[4].clone()), (&images[1], pattern::sector(100, 4)));
    }
}

#[test]
fn legs_are_not_changed_when_the_log_must_be_written_and_cannot() {
    let setup = Setup { legs: 3, ..Setup::small() }.features(true, true);
    let mut rig = Rig::new(&setup, &setup.clean_images());
    fail(&rig.log(), Class::Write, u32::MAX);
    let leg = spare(&mut rig, &setup);
    let refused = rig.run(|mirror| async move { mirror.replace_leg(1, leg).await });
    assert_eq!(refused.unwrap_err().to_string(), "the dirty log cannot be written");
    assert!(rig.run(|mirror| async move { mirror.remove_leg(2).await }).is_err());
    assert_eq!(rig.mirror.legs().len(), 3);
    assert_eq!(rig.leg(4).writes(), 0, "the new leg has not been touched");
    rig.settle();
    rig.close();
}

#[test]
fn a_leg_that_could_not_be_flushed_does_not_spoil_what_its_successor_gets() {
    let setup = Setup::small();
    let mut rig = Rig::new(&setup, &setup.clean_images());
    fail(&rig.leg(1), Class::Flush, u32::MAX);
    rig.write(100, 0, 1).unwrap();
    rig.flush().unwrap();
    let leg = spare(&mut rig, &setup);
    // The new leg has one bad region, so not everything is in sync when the next write comes.
    fail_at(&rig.leg(3), Class::Write, 6);
    rig.run(|mirror| async move { mirror.replace_leg(1, leg).await }).unwrap();
    rig.settle();
    assert_eq!(rig.status(), "3/4 AS A");
    rig.write(101, 0, 1).unwrap();
    rig.settle();
    assert_eq!(rig.status(), "3/4 AS A", "what is written to both legs stays in sync");
    rig.close();
}

#[test]
fn the_last_right_leg_is_not_replaced() {
    let setup = Setup::small();
    let images = torn(&setup, 0b0111, 0);
    let world = world(&setup, &images, 0, Temper::InOrder, Trace::default());
    world.disks()[0].hold(Matcher::all(Class::Read));
    let mut rig = Rig::open(world, &setup).unwrap();
    let leg = spare(&mut rig, &setup);
    let replaced = rig.spawn(|mirror| async move { mirror.replace_leg(0, leg).await });
    rig.try_wait(&replaced);
    rig.leg(0).release();
    rig.settle();
    assert_eq!(rig.status(), "4/4 AA A");
    rig.close();
}

#[test]
fn legs_are_added_and_removed() {
    let setup = Setup::small();
    let mut rig = Rig::new(&setup, &setup.clean_images());
    rig.write(100, 1, 1).unwrap();
    let leg = spare(&mut rig, &setup);
    rig.run(|mirror| async move { mirror.add_leg(leg).await }).unwrap();
    assert_eq!((rig.status(), rig.mirror.legs().len()), ("0/4 AAA A".into(), 3));
    rig.settle();
    assert_eq!(rig.status(), "4/4 AAA A");
    fail(&rig.leg(0), Class::Write, u32::MAX);
    rig.write(101, 4, 1).unwrap();
    assert_eq!(
        (rig.status(), flags(&rig.log().visible(), 3)),
        ("3/4 DAA A".into(), None),
        "the spare is the last disk"
    );
    rig.run(|mirror| async move { mirror.remove_leg(0).await }).unwrap();
    assert_eq!(rig.status(), "4/4 AA A", "all that are left are right");
    rig.settle();
    let refused = rig.run(|mirror| async move { mirror.remove_leg(0).await });
    assert!(refused.is_err(), "two legs are the least");
    let images = rig.close();
    assert_eq!((&images[1], images[1].sectors[4].clone()), (&images[3], pattern::sector(101, 4)));
}

#[test]
fn comparing_finds_what_differs_and_repairing_mends_it() {
    let setup = Setup { legs: 3, ..Setup::small() };
    for source in 0..3 {
        let mut images = setup.clean_images();
        images[1].sectors[1] = pattern::sector(61, 1);
        images[1].sectors[2] = pattern::sector(61, 2);
        images[2].sectors[6] = pattern::sector(62, 6);
        let rig = Rig::new(&setup, &images);
        let ranges = |rig: &Rig| {
            rig.run(|mirror| async move {
                let mut found = Vec::new();
                mirror
                    .compare_until(|| false, |range| found.push((range.sector.0, range.count.0, range.differing.0)))
                    .await
                    .unwrap();
                found
            })
        };
        assert_eq!(ranges(&rig), [(1, 1, 0b010), (2, 1, 0b010), (6, 1, 0b100)]);
        let repaired = rig.run(move |mirror| async move { mirror.repair_until(source, || false).await }).unwrap();
        assert_eq!((repaired.regions, repaired.left), (3, 0));
        assert_eq!(ranges(&rig), []);
        assert_eq!(rig.status(), "4/4 AAA A");
        let expected = images[source].clone();
        let left = rig.close();
        assert!(left[..3].iter().all(|image| *image == expected), "source {source}");
    }
}

#[test]
fn only_the_region_in_recovery_makes_writes_wait() {
    let setup = Setup { sectors: 4096 * 4, region: 4096, ..Setup::small() };
    let images = torn(&setup, 0b0001, 0);
    let world = world(&setup, &images, 0, Temper::InOrder, Trace::default());
    world.disks()[0].hold(Matcher { class: Class::Read, first: 4096, end: 8192 });
    let rig = Rig::open(world, &setup).unwrap();
    rig.write(100, 8192, 1).unwrap();
    rig.write(101, 0, 1).unwrap();
    rig.write(102, 12288, 8).unwrap();
    let waits = rig.start_write(103, 4096, 1);
    assert!(rig.try_wait(&waits).is_none());
    assert_eq!((rig.status(), rig.read(8192, 1).unwrap()[0].clone()), ("3/4 AA A".into(), pattern::sector(100, 8192)));
    let progress = rig.mirror.recovery().unwrap();
    assert_eq!((progress.done, progress.total), (2, 3));
    rig.leg(0).release();
    rig.wait(&waits).unwrap();
    rig.settle();
    assert_eq!((rig.status(), rig.mirror.recovery()), ("4/4 AA A".into(), None));
    let images = rig.close();
    assert!(images[0] == images[1] && images[1].sectors[4096] == pattern::sector(103, 4096));
}

#[test]
fn several_regions_recover_at_once_in_large_copies() {
    let setup = Setup { sectors: 16384, region: 8, ..Setup::small() };
    let mut images = setup.clean_images();
    images[2] = Image::zeroes(Sectors(setup.log_sectors()));
    let world = world(&setup, &images, 0, Temper::InOrder, Trace::default());
    world.disks()[0].hold(Matcher::all(Class::Read));
    let rig = Rig::open(world, &setup).unwrap();
    rig.settle();
    assert_eq!(rig.leg(0).in_flight(), 8, "eight copies at once");
    rig.leg(0).release();
    rig.settle();
    let reads = rig.leg(0).disk().counters();
    assert_eq!((rig.status(), reads.reads), ("2048/2048 AA A".into(), 0), "counted by the handle");
    assert_eq!(rig.leg(1).writes(), 16, "slices of 512 KiB");
    rig.close();
}

#[test]
fn discards_go_to_all_legs_and_a_refusal_harms_none() {
    let setup = Setup::small();
    let rig = Rig::new(&setup, &setup.clean_images());
    let discard = |rig: &Rig| rig.wait(&rig.start(dm_targets::request::RequestKind::Discard, 0, 2, 3)).map(|_| ());
    discard(&rig).unwrap();
    rig.settle();
    assert!((0..2).all(|leg| rig.leg(leg).visible().sectors[4] == dm_targets::sim::image::SectorData::zero()));
    for errno in [95, 121, 5] {
        rig.write(100, 2, 3).unwrap();
        rig.leg(1).inject(dm_targets::sim::disk::Fault {
            matcher: Matcher::all(Class::Discard),
            skip: 0,
            times: 1,
            errno: dm_targets::disk::Errno(errno),
        });
        assert_eq!(discard(&rig), Err(TargetError::Unsupported));
        rig.settle();
        assert_eq!(rig.status(), "4/4 AA A", "what one leg did and the other did not has been made the same");
        assert_eq!(rig.leg(0).visible(), rig.leg(1).visible());
    }
    rig.close();
    let without = Setup { disk: dm_targets::sim::disk::DiskConfig::default(), ..setup };
    let rig = Rig::new(&without, &without.clean_images());
    assert_eq!((discard(&rig), rig.mirror.max_discard()), (Err(TargetError::Unsupported), Sectors(0)));
    rig.close();
}

#[test]
fn sizes_that_do_not_fit_are_refused_before_anything_is_written() {
    let setup = Setup::small();
    let images = setup.clean_images();
    let refused = |setup: &Setup| {
        let world = world(setup, &images, 0, Temper::InOrder, Trace::default());
        let disks: Vec<_> = world.disks().to_vec();
        let error = Rig::open(world, setup).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(disks.iter().all(|disk| disk.writes() == 0));
        error
    };
    let (region, len) = (Setup { region: 3, ..setup.clone() }, Setup { sectors: 8, ..setup.clone() });
    assert!(refused(&region).starts_with("region size of 3 sectors"), "{}", refused(&region));
    assert_eq!(refused(&len), "leg0: too small for a leg that ends at sector 8");
    assert_eq!(refused(&Setup { source: Some(2), ..setup.clone() }), "there is no leg 2 (legs are counted from 0)");
    let large = dm_targets::sim::disk::DiskConfig { logical_block_bytes: 4096, ..setup.disk };
    assert!(refused(&Setup { disk: large, ..setup }).contains("multiples of its block of 4096 bytes"));
}
