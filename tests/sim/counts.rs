//! Counts the explored states, and reports everything that is needed to repeat a failure.

use std::collections::BTreeMap;

use crate::explore::{Case, Violation, explore};
use crate::workload::{self, Op};

/// Counts states over many cases and fails with everything needed to repeat a failure.
#[derive(Default)]
pub struct Counts {
    states: u64,
    cases: u64,
    of: BTreeMap<&'static str, u64>,
}

impl Counts {
    /// Explores a case.
    pub fn run(&mut self, kind: &'static str, case: &Case) {
        match explore(case) {
            Ok(states) => {
                self.states += states;
                self.cases += 1;
                *self.of.entry(kind).or_default() += states;
            }
            Err(violation) => fail(kind, case, &violation),
        }
    }

    /// Prints the counts, of which none must fall: not all together, and not that of one kind.
    pub fn finish(self, test: &str, at_least: u64, each_at_least: u64) {
        println!("{test}: cases={} states={} {:?}", self.cases, self.states, self.of);
        assert!(
            self.states >= at_least,
            "{test} explores only {} states, {at_least} are expected",
            self.states
        );
        let few = self.of.iter().find(|(_, states)| **states < each_at_least);
        assert!(
            few.is_none(),
            "{test} explores only {few:?} states, {each_at_least} of each are expected"
        );
    }
}

fn fail(kind: &str, case: &Case, violation: &Violation) -> ! {
    let again = |ops: &[Op]| Case { ops: ops.to_vec(), ..case.clone() };
    let ops = workload::shrink(&case.ops, |ops| explore(&again(ops)).is_err());
    let shorter = explore(&again(&ops)).err();
    let violation = shorter.as_ref().unwrap_or(violation);
    panic!(
        "{kind}: {}\nworkload {ops:?} (found with {:?})\nseed {} depth {} {:?}\n{:#?}\ntrace:\n{}",
        violation.fault,
        case.ops,
        case.seed,
        case.depth,
        case.schedule,
        case.setup,
        violation.trace.join("\n")
    );
}
