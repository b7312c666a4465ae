//! The tests of mirrors test themselves: each rule is broken on purpose, and some workload must notice.

use std::panic::{AssertUnwindSafe, catch_unwind};

use dm_targets::mutant::{self, Mutant};

use super::cases;
use super::explore::{Case, explore};

/// All of them, each with the workloads where it should show first.
pub const MUTANTS: [(Mutant, &str); 31] = [
    (Mutant::LegBeforeMark, "pairs"),
    (Mutant::MarkNotDurable, "pairs"),
    (Mutant::CleanWithoutFlush, "pairs"),
    (Mutant::CleanInFlight, "pairs"),
    (Mutant::NoSyncBecomesClean, "pairs"),
    (Mutant::WrongSource, "pairs"),
    (Mutant::StaleForgotten, "faults"),
    (Mutant::AckThoughMissed, "faults"),
    (Mutant::RecoveringNotHeld, "pairs"),
    (Mutant::OutOfSyncReadsSpread, "pairs"),
    (Mutant::MissedStaysInSync, "faults"),
    (Mutant::StaleClearedEarly, "pairs"),
    (Mutant::ChangeAmongWrites, "legs"),
    (Mutant::ChangeNotDurable, "legs"),
    (Mutant::NewLegInSync, "legs"),
    (Mutant::NamedBeforeCleared, "legs"),
    (Mutant::BelievedBeforeNamed, "failing"),
    (Mutant::OldIdentityKept, "legs"),
    (Mutant::LegsNotNamed, "legs"),
    (Mutant::StrangersBelieved, "legs"),
    (Mutant::UnsettledSource, "handed_over"),
    (Mutant::RemainingUnflushed, "failing"),
    (Mutant::RemainingNotRight, "failing"),
    (Mutant::SourceForgotten, "record"),
    (Mutant::ReadErrorIsMiss, "record"),
    (Mutant::DiscardNotRecorded, "record"),
    (Mutant::AckBeforeLegState, "unwritten"),
    (Mutant::ResumedWhileRunning, "administered"),
    (Mutant::UnflushedBelieved, "flushes"),
    (Mutant::FailedFlushOvertaken, "flushes"),
    (Mutant::CopyThoughFlushFailed, "flushes"),
];

/// What a run that notices says.
pub fn kill(mutant: Mutant, case: &Case) -> Option<(String, Vec<String>)> {
    mutant::set(Some(mutant));
    let result = catch_unwind(AssertUnwindSafe(|| explore(case)));
    mutant::set(None);
    match result {
        Ok(Ok(_)) => None,
        Ok(Err(violation)) => Some((violation.fault, violation.trace)),
        Err(_) => Some(("panics".into(), Vec::new())),
    }
}

/// The cases in which to look for a mutant, its own group first.
pub fn workloads(first: &str) -> impl Iterator<Item = (&'static str, Case)> {
    let mut groups = cases::all();
    groups.sort_by_key(|(name, _)| *name != first);
    groups.into_iter().flat_map(|(name, cases)| cases.into_iter().map(move |case| (name, case)))
}
