//! Copies of a mirror in use: comparing, repairing, recovering, discarding.

use dm_targets::request::TargetError;
use dm_targets::sim::disk::{Class, Matcher};
use dm_targets::sim::image::Image;
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::Schedule;
use dm_targets::units::Sectors;

use super::cases::torn;
use super::fixture::{Fixture, Setup, world};
use crate::pattern;

#[test]
fn comparing_finds_what_differs_and_repairing_mends_it() {
    let setup = Setup { legs: 3, ..Setup::small() };
    for source in 0..3 {
        let mut images = setup.clean_images();
        images[1].sectors[1] = pattern::sector(61, 1);
        images[1].sectors[2] = pattern::sector(61, 2);
        images[2].sectors[6] = pattern::sector(62, 6);
        let fixture = Fixture::new(&setup, &images);
        let ranges = |fixture: &Fixture| {
            fixture.run(|mirror| async move {
                let mut found = Vec::new();
                mirror
                    .compare_until(
                        || false,
                        |range| found.push((range.sector.0, range.count.0, range.differing.0)),
                    )
                    .await
                    .unwrap();
                found
            })
        };
        assert_eq!(ranges(&fixture), [(1, 1, 0b010), (2, 1, 0b010), (6, 1, 0b100)]);
        let repaired = fixture
            .run(move |mirror| async move { mirror.repair_until(source, || false).await })
            .unwrap();
        assert_eq!((repaired.regions, repaired.left), (3, 0));
        assert_eq!(ranges(&fixture), []);
        assert_eq!(fixture.status(), "4/4 AAA A");
        let expected = images[source].clone();
        let left = fixture.close();
        assert!(left[..3].iter().all(|image| *image == expected), "source {source}");
    }
}

/// The client of a comparison disconnects: what is behind the next region is not read any more, and
/// no region stays withheld from users.
#[test]
fn a_comparison_that_no_client_waits_for_ends_at_the_next_region() {
    let setup = Setup::small();
    let mut images = setup.clean_images();
    for at in [1, 6] {
        images[1].sectors[at] = pattern::sector(61, at as u64);
    }
    for repair in [false, true] {
        let fixture = Fixture::new(&setup, &images);
        fixture.run_until_idle();
        let ended = fixture.run(move |mirror| async move {
            let regions = std::cell::Cell::new(0);
            let stopped = || regions.replace(regions.get() + 1) == 2;
            let mut found = Vec::new();
            let ended = match repair {
                true => mirror.repair_until(0, stopped).await.map(drop),
                false => mirror.compare_until(stopped, |range| found.push(range.sector.0)).await,
            };
            (ended.is_err(), found)
        });
        assert_eq!(ended, (true, if repair { vec![] } else { vec![1] }));
        fixture.write(70, 0, 7).unwrap();
        fixture.close();
    }
}

#[test]
fn only_the_region_in_recovery_makes_writes_wait() {
    let setup = Setup { sectors: 4096 * 4, region: 4096, ..Setup::small() };
    let images = torn(&setup, 0b0001, 0);
    let world = world(&setup, &images, 0, Schedule::InOrder, Trace::default());
    world.disks()[0].hold(Matcher { class: Class::Read, first: 4096, end: 8192 });
    let fixture = Fixture::open(world, &setup).unwrap();
    fixture.write(100, 8192, 1).unwrap();
    fixture.write(101, 0, 1).unwrap();
    fixture.write(102, 12288, 8).unwrap();
    let waits = fixture.start_write(103, 4096, 1);
    assert!(fixture.try_wait(&waits).is_none());
    assert_eq!(
        (fixture.status(), fixture.read(8192, 1).unwrap()[0].clone()),
        ("3/4 AA A".into(), pattern::sector(100, 8192))
    );
    let progress = fixture.mirror.recovery().unwrap();
    assert_eq!((progress.done, progress.total), (2, 3));
    fixture.leg(0).release();
    fixture.wait(&waits).unwrap();
    fixture.run_until_idle();
    assert_eq!((fixture.status(), fixture.mirror.recovery()), ("4/4 AA A".into(), None));
    // The counts stay when recovery has ended.
    let copied = fixture.mirror.copied();
    assert_eq!((copied.regions, copied.bytes), (3, 3 * 4096 * 512));
    let images = fixture.close();
    assert!(images[0] == images[1] && images[1].sectors[4096] == pattern::sector(103, 4096));
}

#[test]
fn several_regions_recover_at_once_in_large_copies() {
    let setup = Setup { sectors: 16384, region: 8, ..Setup::small() };
    let mut images = setup.clean_images();
    images[2] = Image::zeroes(Sectors(setup.log_sectors()));
    let world = world(&setup, &images, 0, Schedule::InOrder, Trace::default());
    world.disks()[0].hold(Matcher::all(Class::Read));
    let fixture = Fixture::open(world, &setup).unwrap();
    fixture.run_until_idle();
    assert_eq!(fixture.leg(0).in_flight(), 8, "eight copies at once");
    fixture.leg(0).release();
    fixture.run_until_idle();
    let reads = fixture.leg(0).disk().counters();
    assert_eq!(
        (fixture.status(), reads.reads),
        ("2048/2048 AA A".into(), 0),
        "counted by the handle"
    );
    assert_eq!(fixture.leg(1).writes(), 16, "slices of 512 KiB");
    fixture.close();
}

#[test]
fn discards_go_to_all_legs_and_a_refusal_harms_none() {
    let setup = Setup::small();
    let fixture = Fixture::new(&setup, &setup.clean_images());
    let discard = |fixture: &Fixture| {
        fixture.wait(&fixture.start(dm_targets::request::RequestKind::Discard, 0, 2, 3)).map(|_| ())
    };
    discard(&fixture).unwrap();
    fixture.run_until_idle();
    assert!(
        (0..2).all(|leg| fixture.leg(leg).visible().sectors[4]
            == dm_targets::sim::image::SectorData::zero())
    );
    for errno in [95, 121, 5] {
        fixture.write(100, 2, 3).unwrap();
        fixture.leg(1).inject(dm_targets::sim::disk::Fault {
            matcher: Matcher::all(Class::Discard),
            skip: 0,
            times: 1,
            errno: dm_targets::disk::Errno(errno),
        });
        assert_eq!(discard(&fixture), Err(TargetError::Unsupported));
        fixture.run_until_idle();
        assert_eq!(
            fixture.status(),
            "4/4 AA A",
            "what one leg did and the other did not has been made the same"
        );
        assert_eq!(fixture.leg(0).visible(), fixture.leg(1).visible());
    }
    fixture.close();
    let without = Setup { disk: dm_targets::sim::disk::DiskConfig::default(), ..setup };
    let fixture = Fixture::new(&without, &without.clean_images());
    assert_eq!(
        (discard(&fixture), fixture.mirror.max_discard()),
        (Err(TargetError::Unsupported), Sectors(0))
    );
    fixture.close();
}

#[test]
fn sizes_that_do_not_fit_are_refused_before_anything_is_written() {
    let setup = Setup::small();
    let images = setup.clean_images();
    let refused = |setup: &Setup| {
        let world = world(setup, &images, 0, Schedule::InOrder, Trace::default());
        let disks: Vec<_> = world.disks().to_vec();
        let error =
            Fixture::open(world, setup).err().map(|error| error.to_string()).unwrap_or_default();
        assert!(disks.iter().all(|disk| disk.writes() == 0));
        error
    };
    let (region, len) =
        (Setup { region: 3, ..setup.clone() }, Setup { sectors: 8, ..setup.clone() });
    assert!(refused(&region).starts_with("region size of 3 sectors"), "{}", refused(&region));
    assert_eq!(refused(&len), "leg0: too small for a leg that ends at sector 8");
    assert_eq!(
        refused(&Setup { source: Some(2), ..setup.clone() }),
        "there is no leg 2 (legs are counted from 0)"
    );
    let large = dm_targets::sim::disk::DiskConfig { logical_block_bytes: 4096, ..setup.disk };
    assert!(
        refused(&Setup { disk: large, ..setup })
            .contains("multiples of its block size of 4096 bytes")
    );
}
