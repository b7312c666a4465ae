//! The fate of a snapshot whose origin continues without it, or waits for a server.

use dm_targets::sim::disk::Class;
use dm_targets::sim::image::Image;

use super::process::Process;
use super::town::{Town, What};
use crate::protocol::{Command, Problem, Reply};

const COW: usize = 1;

fn town(devices: &[What]) -> Town {
    let mut town = Town::new(1, true);
    devices.iter().for_each(|what| town.add(*what).unwrap());
    town
}

/// The COW with another snapshot's store: one with another id.
fn other_store() -> Image {
    let mut town = town(&[What::Origin, What::Snap(1), What::Snap(0)]);
    town.del(What::Snap(0), false).unwrap();
    town.site.disks[COW].disk.borrow().visible()
}

/// A snapshot whose COW is missing when its origin is taken over, and which is lost because the
/// origin has been written.
fn left_out() -> Town {
    let mut town = town(&[What::Origin, What::Snap(0)]);
    town.kill("o");
    town.attach(COW, false);
    assert!(town.recover().unwrap_err().contains("/c0"));
    town.write(What::Origin, 2);
    town.attach(COW, true);
    town
}

#[test]
fn the_cow_of_a_device_that_waits_is_no_other_ones() {
    for force in [false, true] {
        let mut town = left_out();
        let mut spec = Town::spec(What::Snap(0));
        spec.force = force;
        let why = town.ask("o", Command::Add { name: None, id: None, spec }).unwrap_err();
        assert!(why.contains("/c0: the COW of ") && why.contains("recover"), "{why}");
        assert_eq!(town.end(), Ok(()));
    }
}

#[test]
fn another_store_is_neither_served_nor_marked() {
    let other = other_store();
    for lost in [false, true] {
        let mut town = if lost { left_out() } else { town(&[What::Origin, What::Snap(0)]) };
        if !lost {
            town.kill("o");
        }
        let right = town.site.swap(COW, ("serial /c0".to_owned(), other.clone()));
        // The disk is the snapshot's own, but the store on it is not.
        town.refusing = true;
        let why = town.recover().unwrap_err();
        (town.refusing, town.doubtful[0]) = (false, lost);
        assert!(why.contains("it now holds another snapshot's store"), "lost {lost}: {why}");
        assert!(town.read(What::Snap(0)).is_none(), "lost {lost}: it is served");
        let (_, kept) = town.site.swap(COW, right);
        assert!(kept == other, "lost {lost}: the other store was written");
        // With its own store the snapshot returns, or is invalid.
        assert_eq!(town.recover().is_ok(), !lost);
        assert_eq!(town.end(), Ok(()), "lost {lost}");
    }
}

#[test]
fn a_snapshot_that_another_program_deletes_is_not_forgotten_when_its_origin_comes_later() {
    let mut town = town(&[What::Snap(0), What::Snap(1)]);
    town.kill("o");
    town.steal(What::Snap(0), false);
    assert!(town.recover().unwrap_err().contains("gone"));
    town.add(What::Origin).unwrap();
    town.write(What::Origin, 2);
    let why = town.add(What::Snap(0)).unwrap_err();
    assert!(why.contains("is lost"), "{why}");
    assert_eq!(town.end(), Ok(()));
}

#[test]
fn a_recovery_of_devices_that_are_all_gone_does_not_succeed() {
    let mut town = town(&[What::Snap(0)]);
    town.kill("o");
    let devices = town.state("o").unwrap();
    town.steal(What::Snap(0), false);
    let process = Process::start(&town.site, "o").unwrap();
    town.processes.insert("o", process);
    let why = town.ask("o", Command::Recover(devices)).unwrap_err();
    assert!(why.contains("exists any more"), "{why}");
}

#[test]
fn sigterm_leaves_a_snapshot_whose_origin_waits() {
    let mut town = town(&[What::Origin, What::Snap(0)]);
    town.kill("o");
    let id = town.devices[&What::Origin].id;
    let hold = |town: &Town, owner| {
        town.site.kernel.borrow_mut().devices.get_mut(&id).unwrap().owner = owner
    };
    // The kernel does not hand over the origin's device, as if another process were taking it over.
    hold(&town, Some(u32::MAX));
    town.refusing = true;
    assert!(town.recover().unwrap_err().contains("busy"));
    hold(&town, None);
    town.refusing = false;
    assert_eq!(town.terminate("o"), Ok(()));
    assert!(
        town.has(What::Snap(0)),
        "the snapshot is deleted, and its origin is written by the next server"
    );
    assert_eq!(town.recover(), Ok(()));
    town.write(What::Origin, 2);
    assert_eq!(town.judge(What::Snap(0)), Ok(()));
    assert_eq!(town.end(), Ok(()));
}

#[test]
fn a_suspend_that_loses_something_is_taken_back_as_well() {
    let mut town = town(&[What::Origin, What::Snap(0)]);
    town.write(What::Snap(0), 1);
    for class in [Class::Write, Class::Flush] {
        town.fail(COW, class, 0);
    }
    town.client_leaves = true;
    town.suspend(What::Snap(0)).unwrap_err();
    assert!(
        town.state("o").unwrap().iter().all(|device| !device.suspended),
        "it is on record as suspended"
    );
    assert!(
        matches!(town.read(What::Snap(0)), Some(Err(_))),
        "a request of an invalid snapshot waits"
    );
}

/// The machine restarts, and its run directory is kept.
fn start_anew(town: &mut Town) {
    town.site.keeps_files.set(true);
    town.crash(true);
    assert!(town.state("o").is_ok_and(|devices| devices.is_empty()));
}

#[test]
fn a_snapshot_that_was_left_out_is_lost_after_a_restart_of_the_machine() {
    let mut town = left_out();
    town.flush(What::Origin);
    start_anew(&mut town);
    let why = town.add(What::Snap(0)).unwrap_err();
    assert!(why.contains("/c0: the snapshot on it is lost"), "{why}");
    assert_eq!(town.end(), Ok(()));
}

#[test]
fn a_snapshot_that_was_left_out_is_right_after_a_restart_if_nothing_has_changed() {
    for added_first in [What::Snap(0), What::Origin] {
        let mut town = town(&[What::Origin, What::Snap(0)]);
        town.kill("o");
        town.attach(COW, false);
        assert!(town.recover().unwrap_err().contains("/c0"));
        start_anew(&mut town);
        town.attach(COW, true);
        town.add(added_first).unwrap();
        if added_first == What::Origin {
            town.write(What::Origin, 2);
            let why = town.add(What::Snap(0)).unwrap_err();
            assert!(why.contains("/c0: the snapshot on it is lost"), "{why}");
        }
        assert_eq!(town.end(), Ok(()), "{added_first:?}");
    }
}

#[test]
fn an_origin_does_not_come_back_without_a_snapshot_of_which_nothing_can_be_recorded() {
    let mut town = town(&[What::Origin, What::Snap(0)]);
    town.kill("o");
    town.attach(COW, false);
    town.fill(true);
    let why = town.recover().unwrap_err();
    assert!(why.contains("it cannot be recorded that its origin continues"), "{why}");
    assert!(town.read(What::Origin).is_none(), "the origin lives");
    town.fill(false);
    town.attach(COW, true);
    assert_eq!(town.recover(), Ok(()));
    assert_eq!(town.judge(What::Snap(0)), Ok(()));
    assert_eq!(town.end(), Ok(()));
}

#[test]
fn one_that_comes_back_marked_needs_no_record() {
    let mut town = left_out();
    let why = town.recover().unwrap_err();
    assert!(why.contains("is invalid"), "{why}");
    assert!(town.site.files(|files| files.tells_of_no_cow()));
    assert_eq!(town.end(), Ok(()));
}

#[test]
fn one_that_is_left_out_and_that_another_program_deletes_is_noticed() {
    for written in [false, true] {
        let mut town = town(&[What::Origin, What::Snap(0)]);
        town.kill("o");
        town.attach(COW, false);
        town.recover().unwrap_err();
        town.steal(What::Snap(0), false);
        if written {
            town.write(What::Origin, 2);
        }
        // The loss cannot be recorded: the device stays in the list.
        town.fill(true);
        let why = town.recover().unwrap_err();
        assert!(
            why.contains("gone: another program") && why.contains("cannot be recorded"),
            "{why}"
        );
        assert_eq!(town.state("o").unwrap().len(), 2);
        town.fill(false);
        town.suspend(What::Origin).unwrap();
        assert_eq!(town.state("o").unwrap().len(), 1, "it is in the list");
        town.resume(What::Origin).unwrap();
        town.attach(COW, true);
        let why = town.add(What::Snap(0)).unwrap_err();
        assert!(why.contains("is lost"), "written {written}: {why}");
        assert_eq!(town.end(), Ok(()));
    }
}

#[test]
fn a_device_that_is_gone_is_not_recovered() {
    let mut town = town(&[What::Origin, What::Snap(0)]);
    town.kill("o");
    town.attach(COW, false);
    town.recover().unwrap_err();
    let device = town.devices[&What::Snap(0)].device();
    town.steal(What::Snap(0), true);
    town.suspend(What::Origin).unwrap();
    match town.ask("o", Command::RecoverLeftOut { devices: vec![device] }) {
        Ok(Reply::Recovered { problems, .. }) => {
            let own = |problem: &&Problem| problem.device == Some(device);
            let why = &problems.iter().find(own).unwrap().why;
            assert!(why.contains("it has been deleted"), "{problems:?}");
        }
        reply => panic!("{reply:?}"),
    }
    assert_eq!(town.end(), Ok(()));
}
