//! What users of `merge` are told who ask for something that a merge cannot do now: it is deferred,
//! has ended, or has not begun.

use std::num::NonZeroU64;

use super::merging::{self, O, S};
use super::town::{Town, What};
use crate::protocol::{Command, MergeChange, Reply};

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
    change(&mut town, O, MergeChange::Pause).unwrap_err();
}
