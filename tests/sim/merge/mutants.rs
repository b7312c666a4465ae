//! The rules of a merge, broken on purpose.

use std::panic::{AssertUnwindSafe, catch_unwind};

use dm_targets::mutant::{self, Mutant};

use super::case::Case;
use super::cases;
use super::explore::explore;
use super::flushes;

/// All of them, each with the cases where it should show first.
pub const MUTANTS: [(Mutant, &str); 12] = [
    (Mutant::MergeRemovesFirst, "small"),
    (Mutant::MergeBelievesFlush, "flushes"),
    (Mutant::MergeRemovesSoftly, "small"),
    (Mutant::MergeAmongWrites, "held"),
    (Mutant::MergeAsksEarly, "joining"),
    (Mutant::MergeTrustsBuffer, "faults"),
    (Mutant::MergeLetsHeldGo, "held"),
    (Mutant::MergeDoubtfulOnCow, "faults"),
    (Mutant::MergeShowsEarly, "held"),
    (Mutant::MergeFlushesOrigin, "small"),
    (Mutant::MergeHidesFlush, "flushes"),
    (Mutant::MergeRemovesForward, "areas"),
];

fn in_case(case: &Case) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(|| explore(case))) {
        Ok(result) => result.err().map(|violation| violation.fault),
        Err(_) => Some("panics".into()),
    }
}

/// How a mutant is detected, if it is.
pub fn kill(mutant: Mutant, first: &str) -> Option<String> {
    if first == "flushes" {
        mutant::set(Some(mutant));
        let fault = flushes::user_flush_fails().and_then(|()| flushes::merge_flush_fails()).err();
        mutant::set(None);
        return fault.map(|fault| format!("flushes: {fault}"));
    }
    let mut groups = cases::ALL;
    groups.sort_by_key(|(name, _)| *name != first);
    groups.into_iter().find_map(|(name, cases)| {
        // What a merge finds is made by the rules.
        let cases = cases();
        mutant::set(Some(mutant));
        let mut faults = cases.iter().enumerate().map(|(tried, case)| (tried, in_case(case)));
        let killed = faults.find_map(|(tried, fault)| Some((tried, fault?)));
        mutant::set(None);
        killed.map(|(tried, fault)| format!("{name}, case {tried}: {fault}"))
    })
}
