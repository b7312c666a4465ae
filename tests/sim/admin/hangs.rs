//! Disks that hang while a family is taken over: only devices on these disks stay down. The
//! simulated machine counts it as a fault if such a disk is opened.

use super::town::{Town, What};

const BAD: What = What::Snap(0);

/// An origin that was written under two snapshots, and whose server has died.
fn dead_family() -> Town {
    let mut town = Town::new(1, false);
    for what in [What::Origin, BAD, What::Snap(1)] {
        town.add(what).unwrap();
    }
    town.write(What::Origin, 3);
    // Journaled, and not yet on its COW.
    town.write(BAD, 6);
    town.kill("o");
    town
}

/// Has a disk hang, or answer again.
pub(super) fn hang(town: &mut Town, path: &str, hangs: bool) {
    let slot = town.site.slot(path).unwrap();
    town.site.disks[slot].hangs.set(hangs);
}

fn assert_served(town: &mut Town) {
    town.write(What::Origin, 5);
    assert!(town.in_flight.is_empty(), "the origin's write waits");
    for what in [What::Origin, What::Snap(1)] {
        assert!(matches!(town.read(what), Some(Ok(_))), "{what:?} is not served");
        town.judge(what).unwrap();
    }
}

fn assert_no_fault(town: &Town) {
    assert_eq!(*town.site.fault.borrow(), None);
}

fn is_lost(town: &Town) -> bool {
    let bad = town.devices[&BAD].id;
    town.state("o").unwrap().iter().any(|device| device.id == bad && device.lost)
}

#[test]
fn a_cow_that_hangs_keeps_nothing_else_down() {
    let mut town = dead_family();
    hang(&mut town, "/c0", true);
    let why = town.recover().unwrap_err();
    assert!(why.contains("not recovered: /c0 has not answered"), "{why}");
    assert_served(&mut town);
    assert!(is_lost(&town), "its origin lives without it, and that is not on record");
    // A further attempt does not disturb the origin's users.
    let why = town.recover().unwrap_err();
    assert!(why.contains("not recovered: /c0 has not answered"), "{why}");
    assert_served(&mut town);
    assert_no_fault(&town);
    hang(&mut town, "/c0", false);
    let why = town.recover().unwrap_err();
    assert!(why.contains("is invalid") && !why.contains("not recovered"), "{why}");
    assert!(
        matches!(town.read(BAD), Some(Err(_))),
        "a snapshot that missed a change shows something"
    );
    town.end().unwrap();
}

#[test]
fn a_cow_that_answers_before_the_origin_is_written_is_right() {
    let mut town = dead_family();
    hang(&mut town, "/c0", true);
    town.recover().unwrap_err();
    hang(&mut town, "/c0", false);
    town.recover().unwrap();
    assert!(matches!(town.read(BAD), Some(Ok(_))));
    town.judge(BAD).unwrap();
    town.end().unwrap();
}

#[test]
fn an_origin_that_hangs_is_waited_for_and_nothing_is_lost() {
    let mut town = dead_family();
    hang(&mut town, "/o", true);
    let why = town.recover().unwrap_err();
    assert!(why.contains("/o has not answered"), "{why}");
    assert!(!is_lost(&town));
    assert_no_fault(&town);
    hang(&mut town, "/o", false);
    town.recover().unwrap();
    assert_served(&mut town);
    town.judge(BAD).unwrap();
    town.end().unwrap();
}

#[test]
fn a_snapshot_is_deleted_whose_cow_hangs() {
    for alone in [true, false] {
        let mut town = dead_family();
        hang(&mut town, "/c0", true);
        if !alone {
            // Deleted by the server that has left it out, not by the command itself.
            town.recover().unwrap_err();
        }
        let why = town.del(BAD, true).unwrap_err();
        assert!(
            why.contains("deleted, but") && why.contains("/c0 has not answered"),
            "alone {alone}: {why}"
        );
        assert!(!town.has(BAD), "alone {alone}: {why}");
        assert_no_fault(&town);
        hang(&mut town, "/c0", false);
        drop(town.recover());
        assert_served(&mut town);
        let why = town.add(BAD).unwrap_err();
        assert!(why.contains("lost") || why.contains("invalid"), "alone {alone}: {why}");
    }
}

/// It falls silent when it is marked, or asked for its journal, by the server that has left it
/// out.
#[test]
fn the_cow_of_a_deleted_snapshot_is_free_when_its_disk_answers() {
    let mut silent = 0;
    for operations in 0..6 {
        let mut town = dead_family();
        town.site.gives_up.set(true);
        hang(&mut town, "/c0", true);
        town.recover().unwrap_err();
        hang(&mut town, "/c0", false);
        town.site.disks[1].hangs_after.set(Some(operations));
        let deleted = town.del(BAD, true);
        town.site.disks[1].hangs_after.set(None);
        if town.site.disks[1].hangs.get() {
            let why = deleted.unwrap_err();
            assert!(why.contains("/c0 has not answered"), "after {operations}: {why}");
            assert!(town.site.disks[1].claim.get().is_some(), "after {operations}");
            assert_served(&mut town);
            silent += 1;
        }
        hang(&mut town, "/c0", false);
        let beside = town.site.beside.borrow().clone();
        beside.iter().for_each(|executor| drop(town.site.run(executor, || false)));
        town.processes.get_mut("o").unwrap().admin.finish_late_jobs();
        assert_eq!(town.site.disks[1].claim.get(), None, "after {operations}: it is not free");
        assert_served(&mut town);
    }
    assert!(silent > 1);
}
