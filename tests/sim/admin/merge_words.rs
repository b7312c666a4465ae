//! What users of `merge` are told who ask for something that a merge cannot do now: it is deferred,
//! has ended, or has not begun.

use std::num::NonZeroU64;

use dm_targets::table::Table;

use super::hold_and_are_noticed;
use super::merging::{self, O, S};
use super::town::{Town, What};
use crate::protocol::{Command, DeviceSpec, MergeChange, Reply};
use crate::server::admin::mutant::Mutant;

const RATE: MergeChange = MergeChange::Rate(NonZeroU64::new(1 << 20));

fn change(town: &mut Town, what: What, change: MergeChange) -> Result<Reply, String> {
    let device = town.devices[&what].device();
    town.ask("o", Command::ChangeMerge { device, change })
}

#[test]
fn a_merge_that_is_deferred_is_said_to_be() {
    let mut town = merging::town();
    town.set_use(O, true);
    assert!(town.defer(S).unwrap());
    for what in [O, S] {
        for asked in [RATE, MergeChange::Resume] {
            let why = change(&mut town, what, asked).unwrap_err();
            let parts = ["snap1: its merge is deferred and has not begun", "`add origin`"];
            assert!(parts.iter().all(|part| why.contains(part)), "{what:?}: {why}");
        }
    }
    let why = town.merge(S, false).unwrap_err();
    assert!(why.contains("not merged") && why.contains("its merge stays deferred"), "{why}");
    // Taken back, it is not said to rest, nor to be under way.
    change(&mut town, O, MergeChange::Pause).unwrap();
    for asked in [RATE, MergeChange::Resume, MergeChange::Pause] {
        let why = change(&mut town, S, asked).unwrap_err();
        assert!(why.contains("no merge of it is deferred; `ublk-dm merge snap1` begins"), "{why}");
    }
    let why = town.merge(S, false).unwrap_err();
    assert!(!why.contains("deferred"), "{why}");
}

/// A merge may end between two commands: what is asked of its rest is done.
#[test]
fn a_merge_that_has_ended_needs_no_change() {
    let mut town = merging::town();
    town.merge(S, false).unwrap();
    town.until_merged();
    town.notice_end();
    assert!(!town.target().0, "it has not ended");
    for asked in [RATE, MergeChange::Resume] {
        match change(&mut town, O, asked).unwrap() {
            Reply::Noted { note } => assert!(note.contains("its merge has ended"), "{note}"),
            other => panic!("{other:?}"),
        }
    }
    let why = change(&mut town, O, MergeChange::Pause).unwrap_err();
    let ended = "no merge is running: that of the snapshot snap1 into it has ended";
    assert!(why.contains(ended), "{why}");
}

/// The snapshot's device gets another table, and with that its deferred merge is given up.
fn a_wish_is_given_up_with_its_table() -> Result<(), String> {
    let mut town = merging::town();
    town.set_use(O, true);
    assert!(town.defer(S)?);
    let device = town.devices[&S].device();
    let mut replace = |line: &str| {
        let table = Table::parse_table(line).map_err(|why| why.to_string())?;
        let spec = DeviceSpec { table, ..Town::spec(S) };
        town.ask("o", Command::Load { device, spec })?;
        town.ask("o", Command::Resume { device })
    };
    match replace("0 8 error")? {
        Reply::Noted { note } if note.contains("its deferred merge is given up") => {}
        other => return Err(format!("not told: {other:?}")),
    }
    match replace("0 8 zero")? {
        Reply::Done => Ok(()),
        other => Err(format!("told again: {other:?}")),
    }
}

/// Who waits for a merge that has ended is told from who waits for one that nobody has begun, also
/// by the next server.
fn the_end_of_a_merge_is_remembered() -> Result<(), String> {
    let mut town = merging::town();
    let merged = |town: &Town| town.processes["o"].report(town.devices[&O].id).merged;
    assert_eq!(merged(&town), Some(false));
    town.merge(S, false)?;
    assert_eq!(merged(&town), None, "it runs");
    town.until_merged();
    town.notice_end();
    for _ in 0..2 {
        if merged(&town) != Some(true) {
            return Err("its end is forgotten".into());
        }
        town.kill("o");
        town.recover()?;
    }
    Ok(())
}

#[test]
fn what_users_are_told_of_merges_is_true() {
    hold_and_are_noticed(&[
        (a_wish_is_given_up_with_its_table, Mutant::WishDroppedUntold),
        (the_end_of_a_merge_is_remembered, Mutant::MergeEndForgotten),
    ]);
}
