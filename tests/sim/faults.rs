//! Every disk operation of some workloads fails once: the error matrix of the snapshot targets,
//! with crashes on top.

use dm_targets::disk::Errno;
use dm_targets::sim::disk::{Class, Fault, Matcher};
use dm_targets::snapshot::target::OnFull;

use crate::counts::Counts;
use crate::explore::Case;
use crate::scenarios;
use crate::stack::Setup;
use crate::workload::{flush, read, write};

/// Number of operations of a class that are failed in turn: more than any of these workloads has.
const STEPS: u32 = 9;

/// The cases.
pub fn cases() -> Vec<Case> {
    let setup = Setup::small();
    let images = setup.created_images().unwrap();
    let workloads = [
        vec![write(0, 0, 7)],
        vec![write(1, 1, 1), write(0, 4, 2), read(1, 0, 7)],
        vec![write(2, 0, 7), flush(2), write(0, 0, 2)],
        vec![write(0, 2, 2), write(1, 0, 7), write(2, 3, 3), flush(0)],
    ];
    let mut bases: Vec<Case> = Vec::new();
    for (number, ops) in workloads.iter().enumerate() {
        bases.push(Case::new(&setup, &images, ops, crate::seed_base() + number as u64));
    }
    bases.extend(scenarios::roll_over().into_iter().step_by(6).take(4));
    bases.extend(scenarios::invalidation().into_iter().step_by(12).take(2));
    let mut cases = Vec::new();
    for base in bases {
        for disk in 0..=base.setup.snaps.len() {
            for class in [Class::Read, Class::Write, Class::Flush] {
                for skip in 0..STEPS {
                    let fault =
                        Fault { matcher: Matcher::all(class), skip, times: 1, errno: Errno::EIO };
                    cases.push(Case {
                        faults: vec![(disk, fault)],
                        cap: 4,
                        lives_on: 0,
                        ..base.clone()
                    });
                }
                let fault =
                    Fault { matcher: Matcher::all(class), skip: 2, times: 100, errno: Errno::EIO };
                cases.push(Case {
                    faults: vec![(disk, fault)],
                    cap: 4,
                    lives_on: 0,
                    ..base.clone()
                });
            }
        }
    }
    cases
}

/// Every write to a COW finds no space once, or all writes from some moment on; the snapshots stay
/// readable then.
pub fn no_space_cases() -> Vec<Case> {
    let mut cases: Vec<Case> = cases();
    cases.retain(|case| {
        case.faults.iter().all(|(disk, fault)| *disk > 0 && fault.matcher.class == Class::Write)
    });
    for case in &mut cases {
        // A write that found no space is abandoned, and its chunk stays unused.
        case.dense = false;
        case.setup.snaps.iter_mut().for_each(|snap| snap.on_full = OnFull::Overflow);
        case.faults.iter_mut().for_each(|(_, fault)| fault.errno = Errno::ENOSPC);
    }
    cases
}

#[test]
fn every_write_to_a_cow_finds_no_space() {
    let mut counts = Counts::default();
    for case in no_space_cases() {
        counts.run("no space", &case);
    }
    counts.finish("every_write_to_a_cow_finds_no_space", 7_000, 7_000);
}

#[test]
fn every_disk_operation_fails_once() {
    let mut counts = Counts::default();
    for case in cases() {
        counts.run("one error", &case);
    }
    counts.finish("every_disk_operation_fails_once", 24_000, 24_000);
}
