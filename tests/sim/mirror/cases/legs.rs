//! Legs that come and go while users write: replaced, added and taken out, with and without errors
//! of any disk meanwhile; and errors that all legs have at once.

use dm_targets::disk::Errno;
use dm_targets::mirror::table::InitialSync;
use dm_targets::sim::Rng;
use dm_targets::sim::disk::{Class, Fault, Matcher};
use dm_targets::sim::image::Image;
use dm_targets::units::Sectors;

use super::super::explore::{Admin, Case, When};
use super::super::fixture::Setup;
use super::{FEATURES, run, torn};
use crate::pattern;
use crate::workload::{flush, random_ops, read, write, write_fua};

/// Seeds for each way to change the legs of each mirror.
const SEEDS: u64 = 10;
/// Operations of a class that are failed one after the other.
const STEPS: u32 = 4;

/// The operation that fails on one disk while legs are changed.
const FAILING: [Class; 3] = [Class::Read, Class::Write, Class::Flush];

/// Ways to change the legs of a mirror with `legs` legs.
fn changes(legs: usize) -> Vec<Admin> {
    let mut changes = vec![Admin::Replace(0), Admin::Replace(1), Admin::Add];
    if legs > 2 {
        changes.extend([Admin::Remove(0), Admin::Remove(1), Admin::Remove(2)]);
    }
    changes
}

/// Whether a change takes this leg out.
fn takes(admin: Admin, leg: usize) -> bool {
    admin == Admin::Replace(leg) || admin == Admin::Remove(leg)
}

/// The disks with a spare one at the end, whose content was never the mirror's.
fn with_spare(setup: &Setup, mut images: Vec<Image>) -> Vec<Image> {
    images.push(Image::from_fn(Sectors(setup.sectors), |at| pattern::sector(60, at)));
    images
}

/// Legs are changed while users write. The only valid leg is never taken out.
pub fn changed() -> Vec<Case> {
    let mut cases = Vec::new();
    for legs in [2, 3] {
        let setup = Setup { legs, ..Setup::small() };
        let core = Setup { log: false, initial: InitialSync::NoSync, ..setup.clone() };
        let mirrors = [
            (&setup, setup.clean_images(), None),
            (&setup, torn(&setup, 0b0101, 0), Some(0)),
            (&setup, torn(&setup, 0b1010, 0b01), Some(1)),
            // These mirrors have no record, so after a crash the first leg must be valid.
            (&core, core.clean_images(), Some(0)),
        ];
        for (setup, images, right) in mirrors {
            for admin in changes(legs)
                .into_iter()
                .filter(|admin| right.is_none_or(|leg| !takes(*admin, leg)))
            {
                for seed in 0..SEEDS {
                    let seed = crate::seed_base() + seed;
                    let mut rng = Rng::new(seed * 7 + legs as u64);
                    let len = 3 + rng.below(3);
                    let ops = random_ops(&mut rng, len, 1, setup.sectors, 1);
                    let (handle_errors, keep_log) = *rng.pick(&FEATURES);
                    let setup = setup.clone().features(handle_errors, keep_log);
                    let base = Case::new(&setup, &with_spare(&setup, images.clone()), &ops, seed);
                    let admin_when = When::Requests(rng.below(len));
                    cases.push(Case { admin, admin_when, cap: 4, lives_on: 50, ..base });
                }
            }
        }
    }
    cases
}

/// Legs are changed, and one disk, old, new or the log's, fails meanwhile, once or for good. The
/// features alternate.
pub fn failing() -> Vec<Case> {
    let ops = [write(0, 1, 2), flush(0), write_fua(0, 4, 3), write(0, 0, 3), read(0, 0, 7)];
    let mut cases = Vec::new();
    for legs in [2, 3] {
        for admin in changes(legs) {
            for (disk, class) in (0..=legs + 1).flat_map(|disk| FAILING.map(|class| (disk, class)))
            {
                for skip in 0..3 {
                    let seed = crate::seed_base() + cases.len() as u64;
                    // Without `handle_errors` nothing is promised of a log that failed.
                    let features =
                        usize::try_from(seed % 3).unwrap().max(usize::from(disk == legs));
                    let (handle_errors, keep_log) = FEATURES[features];
                    let setup = Setup { legs, ..Setup::small() }.features(handle_errors, keep_log);
                    let images = with_spare(&setup, setup.clean_images());
                    let times = if skip % 2 == 0 { u32::MAX } else { 1 };
                    let fault =
                        Fault { matcher: Matcher::all(class), skip, times, errno: Errno::EIO };
                    let base = Case::new(&setup, &images, &ops, seed);
                    let (faults, admin_when) =
                        (vec![(disk, fault)], When::Requests(cases.len() / 3 % 4));
                    cases.push(Case { admin, admin_when, faults, cap: 4, lives_on: 80, ..base });
                }
            }
        }
    }
    cases
}

/// A leg that has missed a write is taken out while users write again and again to a region that is
/// out of sync: these writes need no mark, so nothing but the change itself writes the log.
pub fn taken_out() -> Vec<Case> {
    let setup = Setup { legs: 3, ..Setup::small() };
    let mut cases = Vec::new();
    for (leg, seed) in
        (0..3).flat_map(|leg| (0..4 * SEEDS).map(move |seed| (leg, crate::seed_base() + seed)))
    {
        let (handle_errors, keep_log) = FEATURES[2];
        let setup = setup.clone().features(handle_errors, keep_log);
        let ops = [write(0, 0, 2), write(0, 1, 1), write(0, 0, 1), write(0, 0, 2), read(0, 0, 7)];
        let base = Case::new(&setup, &with_spare(&setup, setup.clean_images()), &ops, seed);
        let fault = Fault {
            matcher: Matcher::all(Class::Write),
            skip: 0,
            times: u32::MAX,
            errno: Errno::EIO,
        };
        let (admin, admin_when) =
            (Admin::Remove(leg), When::Requests(1 + usize::try_from(seed % 3).unwrap()));
        cases.push(Case {
            admin,
            admin_when,
            faults: vec![(leg, fault)],
            cap: 4,
            lives_on: 50,
            ..base
        });
    }
    cases
}

/// The leg that has just been the source of a recovery is removed, and a flush or write of the
/// other legs fails.
pub fn handed_over() -> Vec<Case> {
    let mut cases = Vec::new();
    for legs in [2, 3] {
        let setup = Setup { legs, ..Setup::small() };
        for (stale, right) in [(0, 0), (0b01, 1)] {
            let images = with_spare(&setup, torn(&setup, 0b0101, stale));
            for admin in changes(legs).into_iter().filter(|admin| takes(*admin, right)) {
                for class in [Class::Flush, Class::Write] {
                    for skip in 0..STEPS {
                        let fault = Fault {
                            matcher: Matcher::all(class),
                            skip,
                            times: u32::MAX,
                            errno: Errno::EIO,
                        };
                        let ops = [write(0, 1, 2), write(0, 3, 3)];
                        let base =
                            Case::new(&setup, &images, &ops, crate::seed_base() + u64::from(skip));
                        let faults =
                            (0..legs).filter(|leg| *leg != right).map(|leg| (leg, fault)).collect();
                        cases.push(Case {
                            admin,
                            admin_when: When::InSync,
                            faults,
                            cap: 4,
                            lives_on: 50,
                            ..base
                        });
                    }
                }
            }
        }
    }
    cases
}

/// All legs fail the same operation, once or for good.
pub fn all_fail() -> Vec<Case> {
    let workloads = [
        vec![write(0, 1, 2), flush(0), write(0, 1, 1), flush(0), read(0, 0, 7)],
        vec![write_fua(0, 2, 3), write(0, 0, 7), write(0, 6, 1), flush(0)],
    ];
    let mut cases = Vec::new();
    for (handle_errors, keep_log) in FEATURES {
        for legs in [2, 3] {
            let setup = Setup { legs, ..Setup::small() }.features(handle_errors, keep_log);
            for (bits, stale) in [(u64::MAX, 0), (0b1001, 0), (0b0110, 0b01)] {
                for (ops, class) in
                    workloads.iter().flat_map(|ops| [(ops, Class::Write), (ops, Class::Flush)])
                {
                    for skip in 0..STEPS {
                        let times = if skip % 2 == 0 { 1 } else { u32::MAX };
                        let fault =
                            Fault { matcher: Matcher::all(class), skip, times, errno: Errno::EIO };
                        let seed = crate::seed_base() + u64::from(skip);
                        let base = Case::new(&setup, &torn(&setup, bits, stale), ops, seed);
                        let faults = (0..legs).map(|leg| (leg, fault)).collect();
                        cases.push(Case { faults, cap: 3, lives_on: 60, ..base });
                    }
                }
            }
        }
    }
    cases
}

#[test]
fn legs_change_under_writes() {
    run("mirror::legs_change_under_writes", changed().into_iter(), 38_000);
}

#[test]
fn disks_fail_while_legs_change() {
    run(
        "mirror::disks_fail_while_legs_change",
        failing().into_iter().chain(handed_over()).chain(taken_out()),
        45_000,
    );
}

#[test]
fn all_legs_fail_at_once() {
    run("mirror::all_legs_fail_at_once", all_fail().into_iter(), 19_000);
}
