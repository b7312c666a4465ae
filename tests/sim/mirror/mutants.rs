//! Tests of the mirror tests: each rule is broken on purpose, and some workload must detect it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use dm_targets::mutant::{self, Mutant};

use super::cases;
use super::explore::{Case, explore};
use super::{behaviour, first, first_again, given_up, known, lifecycle, named, take_over};

/// All of them, each with the workloads where it should show first.
pub const MUTANTS: [(Mutant, &str); 57] = [
    (Mutant::LegBeforeMark, "pairs"),
    (Mutant::ReadyWithoutMark, "pairs"),
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
    (Mutant::UnclearedNamed, "legs"),
    (Mutant::OtherUserUnseen, "legs"),
    (Mutant::FirstRecoveryForgotten, "record"),
    (Mutant::TrustedBeforeNamed, "taken_out"),
    (Mutant::OldIdentityKept, "legs"),
    (Mutant::LegsNotNamed, "legs"),
    (Mutant::LegsNamedLate, "legs"),
    (Mutant::AbsentUntold, "legs"),
    (Mutant::OthersNotSources, "legs"),
    (Mutant::ForeignLegsTrusted, "legs"),
    (Mutant::UnflushedSource, "handed_over"),
    (Mutant::RemainingUnflushed, "failing"),
    (Mutant::RemainingNotRight, "failing"),
    (Mutant::SourceForgotten, "record"),
    (Mutant::ReadErrorIsMiss, "record"),
    (Mutant::DiscardNotRecorded, "record"),
    (Mutant::AckBeforeLegState, "unwritten"),
    (Mutant::ResumedWhileRunning, "administered"),
    (Mutant::HeldFailEarly, "administered"),
    (Mutant::UnflushedTrusted, "flushes"),
    (Mutant::FailedFlushOvertaken, "flushes"),
    (Mutant::FirstFlushForgiven, "flushes"),
    (Mutant::CopyThoughFlushFailed, "flushes"),
    (Mutant::SpanUnbounded, "pairs"),
    (Mutant::GrownInSync, "grow"),
    (Mutant::GrownTailTrusted, "grow"),
    (Mutant::GrownHeaderEarly, "grow"),
    (Mutant::LogOverridden, "legs"),
    (Mutant::UnknownFirst, "legs"),
    (Mutant::OldLogBelieved, "legs"),
    (Mutant::OldCopyBelieved, "record"),
    (Mutant::OtherLogTrusted, "record"),
    (Mutant::OtherSourcesForgotten, "record"),
    (Mutant::UnequalUncopied, "record"),
    (Mutant::NamedByLog, "record"),
    (Mutant::LegsTurnedRound, "record"),
    (Mutant::FirstSourceUnnamed, "pairs"),
    (Mutant::RegionSizeUnasked, "pairs"),
    (Mutant::SizedBeforeCleared, "pairs"),
    (Mutant::LostRecordForgiven, "pairs"),
];

/// The mutants that tests of a single path detect: they run before whole workloads.
pub fn kill_in_take_over(mutant: Mutant) -> bool {
    let test: fn() = match mutant {
        Mutant::ReadErrorIsMiss => take_over::a_source_with_a_bad_sector_stays_the_source,
        Mutant::HeldFailEarly => given_up::a_suspend_that_is_given_up_ends_no_held_request,
        Mutant::ResumedWhileRunning => take_over::resuming_a_mirror_that_runs_changes_nothing,
        Mutant::UnflushedTrusted => take_over::writes_before_a_failed_flush_are_copied_again,
        Mutant::FirstFlushForgiven => {
            take_over::a_source_that_cannot_be_flushed_for_the_log_is_copied_again
        }
        Mutant::CopyThoughFlushFailed => {
            take_over::a_region_whose_leg_could_not_be_flushed_during_its_copy_stays_out_of_sync
        }
        Mutant::LogOverridden => known::a_log_is_not_overridden_by_a_word,
        Mutant::UnknownFirst => known::an_unknown_leg_is_not_the_source_beside_a_known_one,
        Mutant::OldLogBelieved => known::a_log_of_another_time_is_not_trusted_for_an_unknown_leg,
        Mutant::OtherLogTrusted => known::a_log_that_lacks_marks_confirms_a_source,
        Mutant::OldCopyBelieved => known::an_old_copy_of_the_log_is_not_trusted,
        Mutant::OtherSourcesForgotten => {
            known::a_leg_that_dies_before_a_take_over_takes_no_data_with_it
        }
        Mutant::UnequalUncopied => known::legs_are_equal_after_a_take_over,
        Mutant::NamedByLog => named::a_source_that_is_named_is_copied_whatever_the_log_says,
        Mutant::LegsTurnedRound => {
            named::the_source_stays_when_a_table_turns_the_legs_round_during_the_first_recovery
        }
        Mutant::FirstSourceUnnamed => first::the_source_of_the_first_recovery_is_known_in_any_order,
        Mutant::SizedBeforeCleared => first::a_log_is_cleared_before_it_has_another_size,
        Mutant::UnclearedNamed => first::a_log_that_could_not_be_cleared_is_cleared_again,
        Mutant::OtherUserUnseen => known::a_log_that_another_program_has_used_names_no_source,
        Mutant::AbsentUntold => known::a_mirror_without_a_leg_starts_by_its_log_alone,
        Mutant::OthersNotSources => known::all_legs_that_are_left_are_kept_up_to_date,
        Mutant::FirstRecoveryForgotten => first_again::what_is_copied_is_read_from_all_legs,
        Mutant::RegionSizeUnasked => first::a_log_is_not_used_for_regions_of_another_size,
        Mutant::LostRecordForgiven => first::a_log_is_not_trusted_in_the_place_of_a_lost_record,
        Mutant::LegsNamedLate => lifecycle::a_disk_in_the_place_of_a_leg_is_recovered,
        Mutant::SpanUnbounded => {
            behaviour::a_large_discard_begins_a_bounded_number_of_regions_at_once
        }
        _ => return false,
    };
    mutant::set(Some(mutant));
    let result = catch_unwind(test);
    mutant::set(None);
    result.is_err()
}

/// The message of a run that detects a mutant.
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
