//! Disks that stop answering under served devices: commands that need such a disk end and name it,
//! nothing is done unreported later, and other devices are not delayed.

use super::hangs::hang;
use super::kernel::Control;
use super::process::Process;
use super::town::{Town, What};
use crate::protocol::{Command, Reply};
use crate::server::admin::Ending;
use crate::ublk::DeviceState as DiskState;

const BAD: What = What::Snap(0);
const SOUND: What = What::Snap(1);

/// A machine on which operations that wait for a hanging disk time out.
fn town() -> Town {
    let town = Town::new(1, false);
    town.site.gives_up.set(true);
    town
}

/// An origin and two snapshots; the COW of one will hang.
fn family() -> Town {
    let mut town = town();
    for what in [What::Origin, BAD, SOUND] {
        town.add(what).unwrap();
    }
    town
}

pub(super) fn process(town: &mut Town, what: What) -> &mut Process {
    town.processes.get_mut(what.key()).unwrap()
}

fn suspend(town: &mut Town, what: What) -> Result<Reply, String> {
    let device = town.devices[&what].device();
    let reply = town.ask(what.key(), Command::Suspend { device, noflush: false });
    come_to_rest(town, what);
    reply
}

/// Everything that can happen happens, as it does between commands.
fn come_to_rest(town: &mut Town, what: What) {
    let site = town.site.clone();
    drop(site.run(&process(town, what).executor, || false));
}

fn message(town: &mut Town, words: &[&str]) -> Result<Reply, String> {
    let device = town.devices[&What::Mirror].device();
    let words = words.iter().map(|word| (*word).to_owned()).collect();
    let reply = town.ask("mirror-a", Command::Message { device, words, named: Vec::new() });
    come_to_rest(town, What::Mirror);
    reply
}

fn legs(town: &Town) -> Vec<String> {
    town.state("mirror-a").unwrap().remove(0).spec.table.params.devices()
}

/// Where the disks lie that are being put into the mirror.
fn coming(town: &Town) -> Vec<String> {
    let coming = town.state("mirror-a").unwrap().remove(0).coming;
    coming.into_iter().map(|known| known.place.on).collect()
}

/// The disk answers, and the server handles that.
pub(super) fn answer(town: &mut Town, path: &str, what: What) {
    hang(town, path, false);
    come_to_rest(town, what);
    process(town, what).admin.finish_late_jobs();
    come_to_rest(town, what);
    town.collect_replies();
}

fn assert_named(reply: Result<Reply, String>, disk: &str) {
    let why = reply.expect_err("it waits for a disk that hangs");
    assert!(why.contains(&format!("{disk} has not answered")), "{why}");
}

fn is_suspended(town: &Town, what: What) -> bool {
    let id = town.devices[&what].id;
    town.state(what.key()).unwrap().iter().any(|device| device.id == id && device.suspended)
}

/// The origin and the other snapshot are written and read while the one snapshot hangs.
fn assert_others_work(town: &mut Town) {
    suspend(town, SOUND).unwrap();
    let device = town.devices[&SOUND].device();
    town.ask("o", Command::Resume { device }).unwrap();
    assert!(matches!(town.read(SOUND), Some(Ok(_))));
    town.del(SOUND, true).unwrap();
    town.add(SOUND).unwrap();
}

#[test]
fn a_snapshot_is_not_suspended_whose_cow_hangs_and_runs_on() {
    // A request waits for the COW; or only journaled records have to be written there.
    for in_flight in [true, false] {
        let mut town = family();
        town.write(BAD, 6);
        hang(&mut town, "/c0", true);
        if in_flight {
            town.write(BAD, 2);
            assert!(!town.in_flight.is_empty());
        }
        assert_named(suspend(&mut town, BAD), "/c0");
        assert!(!is_suspended(&town, BAD));
        assert_others_work(&mut town);
        answer(&mut town, "/c0", BAD);
        town.write(BAD, 4);
        assert!(town.in_flight.is_empty(), "in flight {in_flight}: it is suspended");
        town.judge(BAD).unwrap();
        suspend(&mut town, BAD).unwrap();
        assert!(is_suspended(&town, BAD));
        town.end().unwrap();
    }
}

#[test]
fn a_device_is_not_deleted_whose_disk_hangs_and_runs_on() {
    let mut town = family();
    hang(&mut town, "/c0", true);
    town.write(BAD, 2);
    let why = town.del(BAD, true).unwrap_err();
    assert!(why.contains("not deleted") && why.contains("/c0 has not answered"), "{why}");
    assert_others_work(&mut town);
    answer(&mut town, "/c0", BAD);
    assert!(town.in_flight.is_empty() && town.has(BAD));
    town.judge(BAD).unwrap();
    town.del(BAD, true).unwrap();
    town.end().unwrap();
}

/// A device with journaled records is stopped, and is deleted when its COW answers.
#[test]
fn a_device_whose_end_has_begun_goes_when_its_disk_answers() {
    let mut town = family();
    town.write(BAD, 6);
    hang(&mut town, "/c0", true);
    let why = town.del(BAD, true).unwrap_err();
    assert!(why.contains("not deleted yet") && why.contains("/c0 has not answered"), "{why}");
    let why = town.del(BAD, true).unwrap_err();
    assert!(why.contains("its `del` has not ended, because /c0 does not answer"), "{why}");
    assert_others_work(&mut town);
    let id = town.devices[&BAD].id;
    assert!(town.state("o").unwrap().iter().any(|device| device.id == id), "it is forgotten");
    answer(&mut town, "/c0", BAD);
    assert!(!town.state("o").unwrap().iter().any(|device| device.id == id), "it is there still");
    assert!(!town.site.kernel.borrow().devices.contains_key(&id));
    town.devices.remove(&BAD);
    town.add(BAD).unwrap();
    town.judge(BAD).unwrap();
    town.end().unwrap();
}

#[test]
fn a_mirror_is_as_it_was_when_a_leg_hangs() {
    let mut town = town();
    town.add(What::Mirror).unwrap();
    town.write(What::Mirror, 1);
    hang(&mut town, "/b", true);
    town.write(What::Mirror, 3);
    assert!(!town.in_flight.is_empty(), "the write does not wait for the leg");
    assert_named(suspend(&mut town, What::Mirror), "/b");
    assert_named(message(&mut town, &["replace", "1", "/c"]), "/b");
    assert_eq!(legs(&town), ["/a", "/b"]);
    // No other family may take the disk while it can still become a leg.
    assert_eq!(coming(&town), ["disk 5 15"]);
    let why = town.del(What::Mirror, true).unwrap_err();
    assert!(why.contains("not deleted") && why.contains("/b has not answered"), "{why}");
    come_to_rest(&mut town, What::Mirror);
    message(&mut town, &["throttle", "50"]).unwrap();
    answer(&mut town, "/b", What::Mirror);
    assert!(town.in_flight.is_empty(), "the write has not ended");
    assert_eq!(legs(&town), ["/a", "/b"], "it was done behind its user's back");
    assert!(coming(&town).is_empty(), "it is still to become a leg");
    assert!(!is_suspended(&town, What::Mirror));
    town.judge(What::Mirror).unwrap();
    message(&mut town, &["replace", "1", "/c"]).unwrap();
    assert_eq!(legs(&town), ["/a", "/c"]);
    assert!(coming(&town).is_empty(), "it is a leg now");
    town.judge(What::Mirror).unwrap();
}

#[test]
fn a_disk_that_hangs_is_not_added() {
    let mut town = town();
    town.add(What::Origin).unwrap();
    hang(&mut town, "/c0", true);
    let why = town.add(BAD).unwrap_err();
    assert!(why.contains("/c0 has not answered"), "{why}");
    town.add(SOUND).unwrap();
    hang(&mut town, "/c0", false);
    // The disk answers the first read, but not when its store is read or made.
    for operations in [0, 1, 2, 3] {
        town.site.disks[1].hangs_after.set(Some(operations));
        let why = town.add(BAD).unwrap_err();
        assert!(why.contains("/c0 has not answered"), "after {operations}: {why}");
        town.write(What::Origin, 5);
        assert!(town.in_flight.is_empty(), "after {operations}: the origin's write waits");
        suspend(&mut town, SOUND).unwrap();
        let device = town.devices[&SOUND].device();
        town.ask("o", Command::Resume { device }).unwrap();
        answer(&mut town, "/c0", SOUND);
        assert_eq!(town.state("o").unwrap().len(), 2, "after {operations}");
        assert_eq!(town.site.kernel.borrow().devices.len(), 2, "after {operations}");
    }
    town.add(BAD).unwrap();
    town.judge(BAD).unwrap();
    town.end().unwrap();
}

/// The first device of a server: the server stays until the add is undone.
#[test]
fn a_server_stays_until_a_new_device_is_taken_back() {
    let mut town = town();
    town.site.disks[1].hangs_after.set(Some(1));
    let why = town.add(BAD).unwrap_err();
    assert!(why.contains("/c0 has not answered") && why.contains("the add is undone"), "{why}");
    assert!(!town.site.kernel.borrow().devices.is_empty());
    assert_eq!(town.state("o").unwrap().len(), 1, "the next server does not know of it");
    answer(&mut town, "/c0", BAD);
    assert!(process(&mut town, BAD).admin.is_idle());
    assert!(town.site.kernel.borrow().devices.is_empty() && town.state("o").unwrap().is_empty());
    town.add(BAD).unwrap();
    town.end().unwrap();
}

/// A server that gets SIGTERM leaves writes that a disk does not accept to the next server, and
/// fails.
#[test]
fn a_server_ends_though_a_disk_hangs() {
    for in_use in [true, false] {
        let mut town = family();
        town.set_use(BAD, in_use);
        town.write(BAD, 6);
        hang(&mut town, "/c0", true);
        town.ask("o", Command::Shutdown).unwrap();
        let admin = &process(&mut town, BAD).admin;
        assert!(admin.ending() == Ending::Leaves && admin.has_lost(), "in use {in_use}");
        let id = town.devices[&BAD].id;
        assert!(town.state("o").unwrap().iter().any(|device| device.id == id));
        assert!(town.site.kernel.borrow().devices[&id].info.state == DiskState::Live);
        town.kill("o");
        hang(&mut town, "/c0", false);
        town.devices.retain(|what, _| *what == BAD);
        town.recover().unwrap();
        town.judge(BAD).unwrap();
    }
}

#[test]
fn a_device_that_another_program_ends_is_told_of_until_its_disk_answers() {
    let mut town = family();
    town.write(BAD, 6);
    hang(&mut town, "/c0", true);
    assert_named(suspend(&mut town, BAD), "/c0");
    let id = town.devices[&BAD].id;
    town.steal(BAD, false);
    come_to_rest(&mut town, SOUND);
    let is_told_of = |town: &Town| town.state("o").unwrap().iter().any(|device| device.id == id);
    assert!(is_told_of(&town), "the next server must know that it has left its origin");
    assert!(matches!(town.read(SOUND), Some(Ok(_))));
    answer(&mut town, "/c0", SOUND);
    assert!(!is_told_of(&town), "it is taken apart when its disk answers");
    town.write(What::Origin, 1);
    town.judge(SOUND).unwrap();
    town.end().unwrap();
}

/// What its server knows of it goes by its number, which the kernel may hand out again.
#[test]
fn the_number_of_a_device_that_a_disk_keeps_is_no_other_ones() {
    let mut town = family();
    town.del(SOUND, true).unwrap();
    town.write(BAD, 6);
    hang(&mut town, "/c0", true);
    assert_named(suspend(&mut town, BAD), "/c0");
    let id = town.devices[&BAD].id;
    town.steal(BAD, false);
    let why = town.add(SOUND).unwrap_err();
    assert!(why.contains(&format!("/dev/ublkb{id}: its `suspend` has not ended")), "{why}");
    assert_eq!(town.site.kernel.borrow().devices.len(), 1, "what it has begun is left");
    answer(&mut town, "/c0", What::Origin);
    town.add(SOUND).unwrap();
    assert_eq!(town.devices[&SOUND].id, id);
    suspend(&mut town, SOUND).unwrap();
    assert!(is_suspended(&town, SOUND));
    town.end().unwrap();
}

#[test]
fn a_device_that_another_program_ends_is_removed_at_the_next_command_if_not_at_once() {
    let mut town = family();
    let id = town.devices[&BAD].id;
    let is_told_of = |town: &Town| town.state("o").unwrap().iter().any(|device| device.id == id);
    town.site.kernel.borrow_mut().denied.push((Control::Info, 0));
    town.steal(BAD, false);
    come_to_rest(&mut town, SOUND);
    assert!(is_told_of(&town), "the kernel has not said what the device is");
    town.resume(SOUND).unwrap();
    assert!(!is_told_of(&town));
    town.judge(SOUND).unwrap();
    town.end().unwrap();
}

#[cfg(feature = "mutants")]
#[test]
fn every_mutant_of_hangs_is_killed() {
    use super::undone;
    use crate::server::admin::mutant::{self, Mutant};
    for mutant in Mutant::OF_HANGS {
        mutant::set(Some(mutant));
        let lived = std::panic::catch_unwind(|| {
            a_snapshot_is_not_suspended_whose_cow_hangs_and_runs_on();
            a_device_that_another_program_ends_is_told_of_until_its_disk_answers();
            a_device_that_another_program_ends_is_removed_at_the_next_command_if_not_at_once();
            undone::a_cow_is_put_back_though_the_kernel_keeps_its_device();
            undone::a_cow_that_hangs_is_put_back_when_it_answers();
        });
        mutant::set(None);
        assert!(lived.is_err(), "not noticed: {mutant:?}");
    }
}
