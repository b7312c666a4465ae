//! What can keep a snapshot from being kept over its merge: its user, another program, a full run
//! directory, a COW that fails or falls silent at the end.

use dm_targets::sim::disk::Class;

use super::merge_command::snapshot_of;
use super::merge_keep::begun;
use super::merging::{self, O, S};
use super::merging_silent::{OPERATIONS, answer, come_to_rest};
use super::town::Town;
use crate::protocol::Command;

#[test]
fn the_tables_of_a_snapshot_that_is_merged_and_kept_are_left_alone() {
    let mut town = begun().unwrap();
    let device = town.devices[&S].device();
    let why = town.resume(S).unwrap_err();
    assert!(why.contains("is put in place when the merge has ended"), "{why}");
    let why = town.ask("o", Command::Load { device, spec: Town::spec(S) }).unwrap_err();
    assert!(why.contains("is put in place when the merge has ended"), "{why}");
    let why = town.ask("o", Command::Resize { device, bytes: None }).unwrap_err();
    assert!(why.contains("not resized"), "{why}");
    let why = town.merge(S, true).unwrap_err();
    assert!(why.contains("it is being merged into its origin already"), "{why}");
    // It can be suspended, and stays so at the end.
    town.suspend(S).unwrap();
    town.resume(S).unwrap();
    town.rests().unwrap();
    town.suspend(S).unwrap();
    town.finish_merge();
    assert!(town.read(S).is_none(), "it is suspended");
    town.resume(S).unwrap();
    town.is_kept().unwrap();
    town.is_a_snapshot().unwrap();
}

#[test]
fn a_snapshot_that_is_deleted_while_it_is_merged_is_not_kept() {
    let mut town = begun().unwrap();
    town.del(S, false).unwrap();
    assert_eq!(town.shown_merge(O).unwrap().keep, Some(false));
    assert!(!town.recorded(O).unwrap().spec.merge.unwrap().keep);
    town.finish_merge();
    assert_eq!((town.on_record(), town.target().0), ((false, false), false));
    town.judge(O).unwrap();
    // By another program.
    let mut town = begun().unwrap();
    town.steal(S, false);
    town.finish_merge();
    assert_eq!((town.on_record(), town.target().0), ((false, false), false));
    town.judge(O).unwrap();
}

/// With a full run directory neither a merge begins, nor does one end.
#[test]
fn nothing_of_a_kept_snapshot_happens_that_is_not_on_record() {
    let mut town = merging::town();
    let mut snap = snapshot_of(&town);
    town.fill(true);
    let why = town.keep(false, false).unwrap_err();
    assert!(why.contains("cannot be recorded"), "{why}");
    snap.judge(&town.read(S).unwrap().unwrap()).unwrap();
    town.judge(O).unwrap();
    town.fill(false);
    let mut town = begun().unwrap();
    town.fill(true);
    for _ in 0..2 {
        town.finish_merge();
        assert!(town.target().0, "it has ended, and the next server would merge its store");
        town.rests().unwrap();
        town.judge(O).unwrap();
    }
    town.fill(false);
    town.notice_end();
    town.is_kept().unwrap();
    town.is_a_snapshot().unwrap();
}

/// A COW that fails at the end holds up nobody; the snapshot can be taken when it works again.
#[test]
fn a_snapshot_that_cannot_be_opened_at_the_end_is_taken_later() {
    let mut later = 0;
    for class in [Class::Read, Class::Write] {
        for skip in 0..4 {
            let mut town = begun().unwrap();
            town.until_merged();
            town.fail(1, class, skip);
            town.notice_end();
            assert_eq!((town.on_record(), town.target().0), ((false, false), false));
            town.write(O, 4);
            town.judge(O).unwrap();
            town.mend();
            if town.recorded(S).unwrap().loaded.is_none() {
                continue;
            }
            later += 1;
            town.kill("o");
            town.recover().unwrap();
            town.rests().unwrap();
            town.write(O, 5);
            town.judge(O).unwrap();
            town.resume(S).unwrap();
            town.is_kept().unwrap();
            town.is_a_snapshot().unwrap();
        }
    }
    assert!(later >= 2, "{later}");
}

/// The merge ends while the COW falls silent: when it answers, both are there.
#[test]
fn a_silent_cow_at_the_end_of_a_merge_is_not_waited_for() {
    let (mut late, mut in_time) = (0, 0);
    for operations in 0..OPERATIONS {
        let mut town = begun().unwrap();
        town.site.gives_up.set(true);
        town.until_merged();
        come_to_rest(&town);
        town.site.disks[1].hangs_after.set(Some(operations));
        town.notice_end();
        let waits = town.on_record().1;
        *(if waits { &mut late } else { &mut in_time }) += 1;
        answer(&mut town);
        if waits {
            town.resume(O).unwrap_or_else(|why| panic!("{operations}: {why}"));
        }
        town.notice_end();
        town.is_kept().unwrap_or_else(|why| panic!("{operations}: {why}"));
        town.is_a_snapshot().unwrap_or_else(|why| panic!("{operations}: {why}"));
    }
    assert!(late > 0 && in_time > 0, "{late} {in_time}");
}
