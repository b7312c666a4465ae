//! Mirrors whose log is in memory: the record of their legs must suffice for the next server, after
//! one or two errors of any disk or of the record itself, while legs are changed, and while the
//! mirror is suspended and resumed.

use dm_targets::disk::Errno;
use dm_targets::mirror::table::InitialSync;
use dm_targets::sim::disk::{Class, DiskConfig, Fault, Matcher};
use dm_targets::sim::image::Image;
use dm_targets::units::Sectors;

use super::super::explore::{Admin, Case, When};
use super::super::fixture::Setup;
use super::super::record::RecordFault;
use super::{FEATURES, run, torn};
use crate::pattern;
use crate::workload::{Op, discard, flush, read, write, write_fua};

/// Number of operations of a class that are failed in turn.
const STEPS: u32 = 3;
/// The failing operation.
const CLASSES: [Class; 4] = [Class::Read, Class::Write, Class::Flush, Class::Discard];

fn fault(class: Class, skip: u32, times: u32) -> Fault {
    Fault { matcher: Matcher::all(class), skip, times, errno: Errno::EIO }
}

fn workloads() -> [Vec<Op>; 3] {
    [
        vec![write(0, 1, 2), flush(0), write(0, 4, 3), read(0, 0, 7)],
        vec![discard(0, 2, 2), write(0, 2, 1), write_fua(0, 5, 2), flush(0)],
        vec![write(0, 0, 7), discard(0, 0, 7), write(0, 3, 2), flush(0), write(0, 3, 1)],
    ]
}

/// Mirrors that begin in sync, and one that is recovered from a leg other than the first; each with
/// its valid leg.
fn mirrors() -> Vec<(Setup, Vec<Image>, Option<usize>)> {
    let mut mirrors = Vec::new();
    for legs in [2, 3] {
        let core = Setup { legs, log: false, initial: InitialSync::NoSync, ..Setup::small() };
        mirrors.push((core.clone(), core.clean_images(), None));
        let torn_one = Setup { initial: InitialSync::FromLog, source: Some(1), ..core };
        let images = torn(&torn_one, 0, 0);
        mirrors.push((torn_one, images, Some(1)));
    }
    mirrors
}

fn case(setup: &Setup, images: &[Image], ops: &[Op], number: usize) -> Case {
    let (handle_errors, keep_log) = FEATURES[number % 3];
    let setup = setup.clone().features(handle_errors, keep_log);
    let base = Case::new(&setup, images, ops, crate::seed_base() + number as u64);
    Case { cap: 3, lives_on: 80, ..base }
}

/// One disk fails, and then perhaps another one.
pub fn errors() -> Vec<Case> {
    let mut cases = Vec::new();
    for (setup, images, right) in mirrors() {
        for ops in workloads().into_iter().take(2) {
            for (leg, class) in (0..setup.legs).flat_map(|leg| CLASSES.map(|class| (leg, class))) {
                for skip in 0..STEPS {
                    let times = if cases.len() % 2 == 0 { 1 } else { u32::MAX };
                    let base = case(&setup, &images, &ops, cases.len());
                    cases.push(Case {
                        faults: vec![(leg, fault(class, skip, times))],
                        ..base.clone()
                    });
                    // The other leg follows, with a write that it had already received, or with a
                    // flush.
                    let other = (leg + 1) % setup.legs;
                    if right != Some(leg) {
                        let later = fault(
                            if skip % 2 == 0 { Class::Write } else { Class::Flush },
                            skip + 1,
                            1,
                        );
                        let faults = vec![(leg, fault(class, skip, 1)), (other, later)];
                        cases.push(Case { faults, ..base });
                    }
                }
            }
        }
    }
    cases
}

/// The record of the legs cannot be written, once or permanently, together with errors that must be
/// recorded in it.
pub fn unwritten() -> Vec<Case> {
    let mut cases = Vec::new();
    for (setup, images, _) in mirrors() {
        for ops in workloads() {
            for (leg, class) in
                [(0, Class::Write), (1, Class::Write), (1, Class::Flush), (1, Class::Discard)]
            {
                for skip in 1..STEPS {
                    for times in [1, u32::MAX] {
                        let base = case(&setup, &images, &ops, cases.len());
                        let faults = vec![(leg, fault(class, skip - 1, 1))];
                        cases.push(Case {
                            faults,
                            record_fault: RecordFault { skip, times },
                            ..base
                        });
                    }
                }
            }
        }
    }
    cases
}

/// Legs are added and removed before everything is in sync, and the mirror is suspended and
/// resumed, or only resumed.
pub fn administered() -> Vec<Case> {
    let mut cases = Vec::new();
    for (setup, images, right) in mirrors() {
        let mut verbs =
            vec![Admin::Resume, Admin::Suspend, Admin::Add, Admin::Replace(0), Admin::Repair(1)];
        if setup.legs > 2 {
            verbs.extend([Admin::Remove(0), Admin::Remove(2)]);
        }
        let spare = Image::from_fn(Sectors(setup.sectors), |at| pattern::sector(60, at));
        let images = [&images[..], &[spare]].concat();
        for admin in
            verbs.into_iter().filter(|admin| right.is_none() || *admin != Admin::Replace(1))
        {
            for ops in workloads() {
                for start in 0..3 {
                    let mut base = case(&setup, &images, &ops, cases.len());
                    if cases.len() % 3 == 2 {
                        base.record_fault = RecordFault { skip: 1 + start, times: 1 };
                    }
                    let depth = 1 + start as usize;
                    cases.push(Case {
                        admin,
                        admin_when: When::Requests(start as usize),
                        depth,
                        ..base
                    });
                }
            }
        }
    }
    cases
}

/// A flush of one leg fails, and loses data that the leg had not written yet.
pub fn flushes() -> Vec<Case> {
    let mut cases = Vec::new();
    for legs in [2, 3] {
        let disk = DiskConfig { failed_flush_loses: true, ..Setup::small().disk };
        let core = Setup { legs, log: false, initial: InitialSync::NoSync, disk, ..Setup::small() };
        let logged = Setup { log: true, initial: InitialSync::FromLog, ..core.clone() };
        for setup in [core, logged] {
            for ops in workloads() {
                for (leg, skip) in (0..legs).flat_map(|leg| (0..STEPS).map(move |skip| (leg, skip)))
                {
                    for admin in [Admin::Suspend, Admin::Nothing, Admin::Compare] {
                        let base = case(&setup, &setup.clean_images(), &ops, cases.len());
                        let faults = vec![(leg, fault(Class::Flush, skip, 1))];
                        let admin_when = When::Requests(usize::MAX);
                        cases.push(Case { admin, admin_when, faults, ..base });
                    }
                }
            }
        }
    }
    cases
}

#[test]
fn the_record_does_after_errors() {
    run("mirror::the_record_does_after_errors", errors().into_iter(), 24_000);
}

#[test]
fn a_record_that_cannot_be_written_loses_nothing() {
    run("mirror::a_record_that_cannot_be_written_loses_nothing", unwritten().into_iter(), 11_000);
}

#[test]
fn the_record_does_while_legs_change() {
    run("mirror::the_record_does_while_legs_change", administered().into_iter(), 15_000);
}

#[test]
fn what_a_failed_flush_may_have_lost_is_copied() {
    run("mirror::what_a_failed_flush_may_have_lost_is_copied", flushes().into_iter(), 19_000);
}
