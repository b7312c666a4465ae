//! Tests of the tests: each rule is broken on purpose, and some workload must detect it.

use std::panic::{AssertUnwindSafe, catch_unwind};

use dm_targets::mutant::{self, Mutant};
use dm_targets::sim::world::Schedule;

use crate::behaviour;
use crate::explore::{Case, explore};
use crate::mirror::mutants as mirror;
use crate::{
    carried, departed, exhaustive, faults, journal, linear, merge, origins, ownership, scenarios,
    seeded, segments, unmake,
};

/// All mutants, each with the workloads that should detect it first.
const MUTANTS: [(Mutant, &str); 37] = [
    (Mutant::NoFlushBeforeArea, "short"),
    (Mutant::NoFua, "short"),
    (Mutant::NextAreaLate, "roll_over"),
    (Mutant::HeaderBeforeArea, "creation"),
    (Mutant::UnmadeWhileValid, "behaviour"),
    (Mutant::StaleTailKept, "inherited"),
    (Mutant::OutOfOrder, "pending"),
    (Mutant::ReadsIgnored, "pending"),
    (Mutant::OriginBeforeCommit, "short"),
    (Mutant::AckBeforeRecord, "short"),
    (Mutant::InvalidMarkLate, "invalidation"),
    (Mutant::FullAreaWithoutSuccessor, "full"),
    (Mutant::JoinAmongWrites, "behaviour"),
    (Mutant::JoinKeepsPreserved, "behaviour"),
    (Mutant::PreservedEarly, "pending"),
    (Mutant::PartialNotCopied, "short"),
    (Mutant::NotJournaled, "journaled"),
    (Mutant::JournaledNotAwaited, "journaled"),
    (Mutant::FlushLeavesJournal, "journaled"),
    (Mutant::FuaLeavesJournal, "journaled"),
    (Mutant::JournalNotTakenOver, "journaled"),
    (Mutant::LossNotTold, "faults"),
    (Mutant::JournalOverForeign, "journal"),
    (Mutant::LeftForgotten, "leaving"),
    (Mutant::DepartedNotRestored, "leaving"),
    (Mutant::DepartedGoWithOrigin, "leaving"),
    (Mutant::ServedWithoutOrigin, "leaving"),
    (Mutant::LossForgotten, "unmarked"),
    (Mutant::GivenUpAcknowledged, "unmarked"),
    (Mutant::FirstDecidedOnce, "behaviour"),
    (Mutant::LastCommitIgnored, "unmarked"),
    (Mutant::NoSpaceInvalidates, "behaviour"),
    (Mutant::SnapshotBehindOrigin, "behaviour"),
    (Mutant::OtherOriginTaken, "behaviour"),
    (Mutant::GrowthNotSeen, "behaviour"),
    (Mutant::GrownOverChunks, "behaviour"),
    (Mutant::GrownAmongWrites, "behaviour"),
];

/// The mutants that a single test detects: what it says when it fails.
fn kill_in_test(mutant: Mutant) -> Option<(String, Vec<String>)> {
    let (name, test): (_, fn()) = match mutant {
        Mutant::SnapshotBehindOrigin => {
            ("a snapshot is no longer", behaviour::sizes::a_snapshot_is_no_longer_than_its_origin)
        }
        Mutant::GrowthNotSeen => {
            ("growth is seen", behaviour::sizes::a_cow_that_has_grown_is_seen_by_the_next_status)
        }
        Mutant::OtherOriginTaken => {
            ("whose a store is", ownership::a_store_is_used_with_the_origin_that_it_was_made_for)
        }
        _ => return None,
    };
    mutant::set(Some(mutant));
    let failed = catch_unwind(test).is_err();
    mutant::set(None);
    failed.then(|| (format!("the test \"{name}\" fails"), Vec::new()))
}

/// The mutants that the tests of [`behaviour`] detect and that no workload of one family can show.
fn kill_in_behaviour(mutant: Mutant) -> Option<(String, Vec<String>)> {
    mutant::set(Some(mutant));
    let fault = match mutant {
        Mutant::StaleTailKept => match behaviour::exceptions_before_a_stale_block() {
            (32, _) => None,
            (shown, trace) => {
                Some((format!("{shown} exceptions are shown, 32 were written"), trace))
            }
        },
        Mutant::JoinAmongWrites => (0..3000).find_map(|seed| {
            behaviour::joins::join_among_discards(seed, Schedule::Priorities).err()
        }),
        Mutant::FirstDecidedOnce => behaviour::joins::join_among_copies().err(),
        Mutant::NoSpaceInvalidates => {
            behaviour::no_space::data_of_a_snapshot_write(28).err().map(|fault| (fault, Vec::new()))
        }
        Mutant::UnmadeWhileValid => {
            unmake::cut_at_every_step().err().map(|fault| (fault, Vec::new()))
        }
        Mutant::DepartedNotRestored => {
            departed::origin_of_a_later_server().err().map(|fault| (fault, Vec::new()))
        }
        Mutant::DepartedGoWithOrigin => {
            origins::origin_that_comes_back().err().map(|fault| (fault, Vec::new()))
        }
        Mutant::ServedWithoutOrigin => {
            origins::snapshot_without_an_origin().err().map(|fault| (fault, Vec::new()))
        }
        Mutant::JournalOverForeign => {
            journal::records_of_another().err().map(|fault| (fault, Vec::new()))
        }
        Mutant::JoinKeepsPreserved => {
            [4, 8].into_iter().find_map(|chunk| behaviour::preserved::join_of_another(chunk).err())
        }
        Mutant::GrownOverChunks => behaviour::grown::growth_over_a_chunk().err(),
        Mutant::GrownAmongWrites => behaviour::grown::growth_among_writes().err(),
        _ => None,
    };
    mutant::set(None);
    fault
}

/// The message of a run that detects a mutant.
fn kill(mutant: Mutant, case: &Case) -> Option<(String, Vec<String>)> {
    mutant::set(Some(mutant));
    let result = catch_unwind(AssertUnwindSafe(|| explore(case)));
    mutant::set(None);
    match result {
        Ok(Ok(_)) => None,
        Ok(Err(violation)) => Some((violation.fault, violation.trace)),
        Err(_) => Some(("panics".into(), Vec::new())),
    }
}

fn workloads(first: &str) -> impl Iterator<Item = (&'static str, Case)> {
    let mut groups = scenarios::all();
    groups.insert(0, ("short", exhaustive::pairs().collect()));
    groups.push(("seeded", seeded::cases().take(100).collect()));
    groups.push(("faults", faults::cases()));
    groups.sort_by_key(|(name, _)| *name != first);
    groups.into_iter().flat_map(|(name, cases)| cases.into_iter().map(move |case| (name, case)))
}

/// All mutants, or only one during development: `SIM_MUTANT=name`.
fn is_chosen(mutant: Mutant) -> bool {
    std::env::var("SIM_MUTANT").map_or(true, |name| name == format!("{mutant:?}"))
}

#[test]
fn every_mutant_is_killed() {
    let mut killed = 0;
    for (mutant, first) in MUTANTS.into_iter().filter(|(mutant, _)| is_chosen(*mutant)) {
        let mut tried = 0;
        let kill_in_one = kill_in_test(mutant).or_else(|| kill_in_behaviour(mutant));
        if let Some((fault, trace)) = kill_in_one {
            println!("mutant {mutant:?} killed by behaviour: {fault}");
            trace.iter().for_each(|line| println!("    {line}"));
            killed += 1;
            continue;
        }
        let kill = workloads(first).find_map(|(name, case)| {
            tried += 1;
            kill(mutant, &case).map(|kill| (name, case, kill))
        });
        let Some((name, case, (fault, trace))) = kill else {
            println!("mutant {mutant:?} SURVIVES {tried} cases");
            continue;
        };
        killed += 1;
        println!(
            "mutant {mutant:?} killed by case {tried}, {name} {:?} seed {}: {fault}",
            case.ops, case.seed
        );
        trace.iter().for_each(|line| println!("    {line}"));
    }
    killed += mirror_mutants_killed() + linear_mutants_killed() + merge_mutants_killed();
    let all = MUTANTS.iter().chain(&mirror::MUTANTS).chain(&merge::mutants::MUTANTS);
    let all = all.map(|(mutant, _)| mutant).chain(&linear::MUTANTS).chain(&segments::MUTANTS);
    let all = all.chain(&carried::MUTANTS);
    let all = all.filter(|mutant| is_chosen(**mutant)).count();
    println!("mutants={killed}/{all}");
    assert_eq!(killed, all);
}

/// Of devices that are made of ranges, and of those that carry an origin.
fn linear_mutants_killed() -> usize {
    let kill = |mutant: &Mutant| {
        let (of_linear, of_carried) =
            (linear::MUTANTS.contains(mutant), carried::MUTANTS.contains(mutant));
        mutant::set(Some(*mutant));
        let fault = catch_unwind(match () {
            () if of_linear => linear::fault,
            () if of_carried => carried::fault,
            () => segments::fault,
        });
        mutant::set(None);
        let fault = fault.unwrap_or_else(|_| Some("panics".to_owned()));
        match &fault {
            Some(fault) => println!("mutant {mutant:?} killed by ranges: {fault}"),
            None => println!("mutant {mutant:?} SURVIVES"),
        }
        fault.is_some()
    };
    let mutants = linear::MUTANTS.into_iter().chain(segments::MUTANTS).chain(carried::MUTANTS);
    mutants.filter(|mutant| is_chosen(*mutant)).filter(kill).count()
}

fn merge_mutants_killed() -> usize {
    let mutants = merge::mutants::MUTANTS.into_iter().filter(|(mutant, _)| is_chosen(*mutant));
    let kill = |(mutant, first): &(Mutant, &str)| {
        let how = merge::mutants::kill(*mutant, first);
        match &how {
            Some(how) => println!("mutant {mutant:?} killed by merges, {how}"),
            None => println!("mutant {mutant:?} SURVIVES"),
        }
        how.is_some()
    };
    mutants.filter(kill).count()
}

fn mirror_mutants_killed() -> usize {
    let mut killed = 0;
    for (mutant, first) in mirror::MUTANTS.into_iter().filter(|(mutant, _)| is_chosen(*mutant)) {
        if mirror::kill_in_take_over(mutant) {
            println!("mutant {mutant:?} killed by take_over");
            killed += 1;
            continue;
        }
        let mut tried = 0;
        let kill = mirror::workloads(first).find_map(|(name, case)| {
            tried += 1;
            mirror::kill(mutant, &case).map(|kill| (name, case, kill))
        });
        let Some((name, case, (fault, trace))) = kill else {
            println!("mutant {mutant:?} SURVIVES {tried} cases");
            continue;
        };
        killed += 1;
        println!(
            "mutant {mutant:?} killed by case {tried}, {name} {:?} seed {}: {fault}",
            case.ops, case.seed
        );
        trace.iter().for_each(|line| println!("    {line}"));
    }
    killed
}
