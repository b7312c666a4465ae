//! Merges of a snapshot into its origin, with crashes at every moment.
//!
//! Rules held here: I8; what the device shows is the snapshot with what was written through the
//! device, at every moment and for every program that opens its disks; other snapshots of the
//! origin stay as they are; a merge that fails costs nothing.

mod behaviour;
mod beside;
mod case;
mod cases;
mod explore;
mod failed;
mod family;
mod flushes;
mod limits;
mod mark;
pub mod mutants;
mod oracle;

use case::{Act, Case};
use explore::explore;

/// Explores a case; a failure is reported with the fewest actions that still fail, and with all
/// events.
fn run(kind: &str, case: &Case) -> u64 {
    let violation = match explore(case) {
        Ok(states) => return states,
        Err(violation) => violation,
    };
    let again = |acts: &[Act]| explore(&Case { acts: acts.to_vec(), ..case.clone() }).err();
    let (mut acts, mut violation) = (case.acts.clone(), violation);
    while let Some((shorter, fault)) = (0..acts.len()).find_map(|left_out| {
        let mut shorter = acts.clone();
        shorter.remove(left_out);
        again(&shorter).map(|fault| (shorter, fault))
    }) {
        (acts, violation) = (shorter, fault);
    }
    panic!(
        "{kind}: {}\nacts {acts:?} (found with {:?})\nseed {} depth {} {:?}\n{:#?}\nfaults {:?}\n\
         trace:\n{}",
        violation.fault,
        case.acts,
        case.seed,
        case.depth,
        case.schedule,
        case.plan,
        case.faults,
        violation.trace.join("\n")
    );
}

/// Explores a group of cases, of which none may become shorter.
fn explore_all(name: &str, cases: &[Case], at_least: u64) {
    let states: u64 = cases.iter().map(|case| run(name, case)).sum();
    println!("merges, {name}: cases={} states={states}", cases.len());
    assert!(states >= at_least, "{name} explores only {states} states, {at_least} are expected");
}

#[test]
fn small_merges() {
    explore_all("small", &cases::small(), 6_000);
}

#[test]
fn merges_of_several_areas() {
    explore_all("areas", &cases::areas(), 1_000);
}

#[test]
fn writes_of_what_is_being_merged() {
    explore_all("held", &cases::held(), 2_000);
}

#[test]
fn snapshots_come_and_go_during_a_merge() {
    explore_all("joining", &cases::joining(), 5_000);
}

#[test]
fn merges_on_other_disks() {
    explore_all("other_disks", &cases::other_disks(), 1_000);
}

#[test]
fn every_operation_of_a_merge_fails() {
    explore_all("faults", &cases::faults(), 5_000);
}

#[test]
fn merges_that_have_failed_go_on() {
    explore_all("restarted", &cases::restarted(), 1_000);
}

#[test]
fn random_merges() {
    explore_all("random", &cases::random(), 5_000);
}
