//! Suspends that are given up because a disk hangs: the mirror is as it was, and what it held is
//! held.

use dm_targets::mirror::target::LegParts;
use dm_targets::request::TargetError;
use dm_targets::sim::disk::{Class, Matcher};
use dm_targets::sim::image::Image;
use dm_targets::sim::trace::Trace;
use dm_targets::sim::world::Schedule;
use dm_targets::units::{Sector, Sectors};

use super::fixture::{Fixture, Setup, Slot, fail, world};
use crate::pattern;

/// A mirror that waits for an administrator after an error, with a spare disk, which holds a write.
fn holding(
    log: bool,
) -> (Fixture, Slot<Result<Vec<dm_targets::sim::image::SectorData>, TargetError>>) {
    let setup = Setup { log, ..Setup::small().features(true, false) };
    let mut world = world(&setup, &setup.clean_images(), 0, Schedule::InOrder, Trace::default());
    world.add_disk("spare", setup.disk, Image::zeroes(Sectors(setup.sectors)));
    let fixture = Fixture::open(world, &setup).unwrap();
    fixture.run_until_idle();
    fail(&fixture.leg(1), Class::Write, 1);
    let write = fixture.start_write(100, 2, 2);
    assert!(fixture.try_wait(&write).is_none());
    assert_eq!(fixture.mirror.held(), 1);
    (fixture, write)
}

/// What hangs: an operation of another request, or what the suspend itself has to write.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Hangs {
    Leg,
    Log(Class),
}

#[test]
pub fn a_suspend_that_is_given_up_ends_no_held_request() {
    let logs = [Hangs::Log(Class::Write), Hangs::Log(Class::Flush)];
    for (log, hangs) in [(false, Hangs::Leg), (true, Hangs::Leg), (true, logs[0]), (true, logs[1])]
    {
        for noflush in [false, true] {
            let at = format!("{hangs:?}, log {log}, noflush {noflush}");
            let (fixture, held) = holding(log);
            let (disk, class) = match hangs {
                Hangs::Leg => (fixture.leg(0), Class::Read),
                Hangs::Log(class) => (fixture.leg(2), class),
            };
            // The suspend has a region to clean in the log.
            fixture.write(101, 0, 1).unwrap();
            disk.hold(Matcher::all(class));
            let read = fixture.start(dm_targets::request::RequestKind::Read, 0, 6, 1);
            let suspended =
                fixture.spawn(move |mirror| async move { mirror.suspend(noflush).await });
            assert!(fixture.try_wait(&suspended).is_none(), "{at}: nothing hangs");
            assert_eq!(fixture.mirror.held(), 1, "{at}: it can still be given up");
            fixture.mirror.give_up();
            assert!(fixture.try_wait(&held).is_none(), "{at}: it has ended");
            disk.release();
            fixture.wait(&suspended);
            fixture.wait(&read).unwrap();
            assert!(fixture.try_wait(&held).is_none(), "{at}: it has ended");
            // It waits for what it has waited for before.
            let disk = fixture.world.disks()[fixture.world.disks().len() - 1].disk();
            let spare = LegParts { disk, offset: Sector(0), identity: 9, number: 0 };
            fixture.run(|mirror| async move { mirror.replace_leg(1, spare).await }).unwrap();
            fixture.wait(&held).unwrap();
            assert_eq!(fixture.read(2, 1).unwrap()[0], pattern::sector(100, 2), "{at}");
            fixture.run_until_idle();
        }
    }
}

#[test]
fn a_suspend_ends_what_is_held() {
    for noflush in [false, true] {
        let (fixture, held) = holding(true);
        fixture.run(move |mirror| async move { mirror.suspend(noflush).await });
        let ended = fixture.wait(&held).unwrap_err();
        assert_eq!(matches!(ended, TargetError::Requeue), noflush, "{ended:?}");
    }
}
