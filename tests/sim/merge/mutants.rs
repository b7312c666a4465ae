//! The rules of a merge, broken on purpose.

use std::panic::{AssertUnwindSafe, catch_unwind};

use dm_targets::mutant::{self, Mutant};

use super::case::Case;
use super::explore::explore;
use super::{beside, cases, failed, flushes, limits, mark};

/// All of them, each with the cases where it should show first.
pub const MUTANTS: [(Mutant, &str); 20] = [
    (Mutant::MergeRemovesFirst, "small"),
    (Mutant::MergeTrustsFlush, "flushes"),
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
    (Mutant::MergeTrustsFua, "one"),
    (Mutant::MergeWritesBehindEnd, "one"),
    (Mutant::MergeKeepsCache, "one"),
    (Mutant::MergeTrustsShorter, "one"),
    (Mutant::MergeIntoChanged, "one"),
    (Mutant::MergeBesideOrigin, "one"),
    (Mutant::MergeNotMarked, "one"),
    (Mutant::MergeDiscardsOrigin, "one"),
];

/// The test of the one thing that a mutant breaks.
fn one(mutant: Mutant) -> Result<(), String> {
    match mutant {
        Mutant::MergeTrustsFua => flushes::user_fua_fails(),
        Mutant::MergeWritesBehindEnd => limits::last_chunk_is_longer(),
        Mutant::MergeKeepsCache => failed::cache_outlives_the_merge(),
        Mutant::MergeTrustsShorter => failed::records_vanish_after_a_failed_commit(),
        Mutant::MergeIntoChanged => beside::merge_into_a_changed_origin(),
        Mutant::MergeBesideOrigin => beside::merge_beside_its_origin(),
        Mutant::MergeNotMarked => mark::marked_while_records_are_left(),
        Mutant::MergeDiscardsOrigin => beside::discard_beside_a_merge(),
        _ => Ok(()),
    }
}

fn in_case(case: &Case) -> Option<String> {
    match catch_unwind(AssertUnwindSafe(|| explore(case))) {
        Ok(result) => result.err().map(|violation| violation.fault),
        Err(_) => Some("panics".into()),
    }
}

/// How a mutant is detected, if it is.
pub fn kill(mutant: Mutant, first: &str) -> Option<String> {
    if matches!(first, "flushes" | "one") {
        mutant::set(Some(mutant));
        let fault = match first {
            "one" => one(mutant),
            _ => flushes::user_flush_fails().and_then(|()| flushes::merge_flush_fails()),
        };
        mutant::set(None);
        return fault.err().map(|fault| format!("{first}: {fault}"));
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
