//! The mirrors and workloads that are crashed: all short sequences of requests, longer random ones,
//! one error at every operation for each combination of features, and legs that are compared,
//! repaired and replaced meanwhile. More of legs that change is in [`legs`].

pub mod grow;
pub mod legs;
pub mod record;

use dm_targets::disk::Errno;
use dm_targets::mirror::table::InitialSync;
use dm_targets::sim::Rng;
use dm_targets::sim::disk::{Class, DiskConfig, Fault, Matcher};
use dm_targets::sim::image::Image;
use dm_targets::units::{Sector, Sectors};

use super::explore::{Admin, Case, explore};
use super::fixture::Setup;
use crate::explore::Violation;
use crate::pattern;
use crate::workload::{self, Op, discard, flush, random_ops, read, write, write_fua};

/// No feature, `handle_errors`, both.
const FEATURES: [(bool, bool); 3] = [(false, false), (true, false), (true, true)];
/// Number of operations of a class that are failed in turn: more than any of these workloads has.
const STEPS: u32 = 8;
/// Number of random workloads.
const RANDOM: u64 = 500;

/// Legs that differ wherever the log has a zero, as a crash or another leg's failure leaves them.
pub fn torn(setup: &Setup, bits: u64, stale: u16) -> Vec<Image> {
    let mut images = setup.clean_images();
    for region in (0..setup.regions()).filter(|region| bits >> region & 1 == 0) {
        let end = ((region + 1) * setup.region).min(setup.sectors);
        for at in region * setup.region..end {
            for (leg, image) in (0..).zip(&mut images[..setup.legs]) {
                image.sectors[usize::try_from(at).unwrap()] = pattern::sector(50 + leg, at);
            }
        }
    }
    if setup.log {
        images[setup.legs] = setup.log_image(bits);
        if stale != 0 {
            let mut header = [0; 1024];
            header.copy_from_slice(&images[setup.legs].read(Sector(0), Sectors(2)));
            dm_targets::mirror::leg_flags::LegFlags::encode(
                &mut header,
                &[1, 2, 3, 4, 5, 6, 7, 8, 9][..setup.legs],
                stale,
            );
            images[setup.legs].write(Sector(0), &header);
        }
    }
    images
}

/// Whole regions, parts, ranges across regions, the short last region, the whole mirror.
fn alphabet() -> Vec<Op> {
    vec![
        write(0, 0, 2),
        write(0, 1, 1),
        write(0, 1, 2),
        write(0, 6, 1),
        write(0, 0, 7),
        write_fua(0, 2, 2),
        discard(0, 2, 3),
        flush(0),
        read(0, 0, 7),
    ]
}

fn sequences(len: usize) -> Vec<Vec<Op>> {
    let mut sequences = vec![Vec::new()];
    for _ in 0..len {
        let longer =
            |ops: Vec<Op>| alphabet().into_iter().map(move |op| [&ops[..], &[op]].concat());
        sequences = sequences.into_iter().flat_map(longer).collect();
    }
    sequences
}

/// The mirrors that short sequences run on, with the content of their disks.
fn mirrors() -> Vec<(Setup, Vec<Image>)> {
    let two = Setup::small();
    let three = Setup { legs: 3, ..Setup::small() };
    let core = Setup { log: false, initial: InitialSync::NoSync, ..Setup::small() };
    vec![
        (two.clone(), two.clean_images()),
        (two.clone(), torn(&two, 0b0110, 0)),
        (two.clone(), torn(&two, 0b1100, 0b01)),
        (three.clone(), torn(&three, 0b1010, 0)),
        (three.clone(), torn(&three, 0b1010, 0b101)),
        (core.clone(), core.clean_images()),
    ]
}

/// Sequences of up to two requests.
pub fn pairs() -> impl Iterator<Item = Case> {
    let sequences: Vec<Vec<Op>> = sequences(1).into_iter().chain(sequences(2)).collect();
    mirrors().into_iter().flat_map(move |(setup, images)| {
        let of_one = sequences.iter().enumerate().map(|(number, ops)| {
            // A core log is empty after a crash, so no leg may be trusted then.
            let case = Case::new(&setup, &images, ops, crate::seed_base() + number as u64);
            Case { cap: 6, ..case }
        });
        of_one.collect::<Vec<_>>()
    })
}

/// Sequences of three requests on the first two mirrors.
fn triples() -> impl Iterator<Item = Case> {
    let sequences = sequences(3);
    mirrors().into_iter().take(2).flat_map(move |(setup, images)| {
        let of_one = sequences.iter().enumerate().map(|(number, ops)| {
            let case = Case::new(&setup, &images, ops, crate::seed_base() + number as u64);
            Case { cap: 4, lives_on: 60, ..case }
        });
        of_one.collect::<Vec<_>>()
    })
}

/// Longer random workloads on random mirrors.
pub fn seeded() -> impl Iterator<Item = Case> {
    (0..RANDOM).map(|number| {
        let seed = crate::seed_base() + number;
        let mut rng = Rng::new(seed ^ 0x3177);
        let block = if rng.one_in(5) { 8 } else { 1 };
        let sectors = block * (3 + rng.below(20)) as u64;
        let logical_block_bytes = u32::try_from(block * 512).unwrap();
        let setup = Setup {
            legs: 2 + rng.below(3),
            sectors,
            region: (block * (1 << rng.below(3))).max(2),
            initial: if rng.one_in(8) { InitialSync::Sync } else { InitialSync::FromLog },
            disk: DiskConfig {
                logical_block_bytes,
                volatile_cache: !rng.one_in(6),
                ..Setup::small().disk
            },
            ..Setup::small()
        };
        let setup = Setup { region: setup.region.min(1 << sectors.ilog2()), ..setup };
        let (bits, stale) = (
            if rng.one_in(3) { u64::MAX } else { rng.next_u64() },
            rng.below((1 << setup.legs) - 1),
        );
        let images = torn(&setup, bits, u16::try_from(stale).unwrap());
        let len = 5 + rng.below(8);
        let ops = random_ops(&mut rng, len, 1, sectors, block);
        let case = Case::new(&setup, &images, &ops, seed);
        let (handle_errors, keep_log) = *rng.pick(&FEATURES);
        let setup = case.setup.clone().features(handle_errors, keep_log);
        let faults = if rng.one_in(3) { random_faults(&mut rng, &setup, bits) } else { Vec::new() };
        Case { setup, depth: 1 + rng.below(5), cap: 5, lives_on: 50, faults, ..case }
    })
}

/// Errors of one leg. Where regions are out of sync at first, the only valid leg must not lose
/// data.
fn random_faults(rng: &mut Rng, setup: &Setup, bits: u64) -> Vec<(usize, Fault)> {
    let right = bits >> setup.regions() == u64::MAX >> setup.regions();
    let leg = if right { rng.below(setup.legs) } else { setup.legs - 1 };
    let class = *rng.pick(&[Class::Write, Class::Flush, Class::Write, Class::Any]);
    let (skip, times) =
        (u32::try_from(rng.below(10)).unwrap(), if rng.one_in(2) { 1 } else { u32::MAX });
    vec![(leg, Fault { matcher: Matcher::all(class), skip, times, errno: Errno::EIO })]
}

/// Every operation of some workloads fails once, or from some time on, on each disk in turn.
pub fn faults() -> Vec<Case> {
    let workloads = [
        vec![write(0, 0, 7), read(0, 0, 7)],
        vec![write(0, 1, 2), flush(0), write(0, 1, 1), read(0, 0, 4)],
        vec![write_fua(0, 2, 3), discard(0, 0, 2), write(0, 6, 1), flush(0)],
        vec![write(0, 0, 2), write(0, 4, 2), write(0, 0, 2), flush(0), read(0, 0, 7)],
    ];
    let mut cases = Vec::new();
    for (handle_errors, keep_log) in FEATURES {
        for legs in [2, 3] {
            let setup = Setup { legs, ..Setup::small() }.features(handle_errors, keep_log);
            for (number, ops) in workloads.iter().enumerate() {
                let base = Case::new(
                    &setup,
                    &setup.clean_images(),
                    ops,
                    crate::seed_base() + number as u64,
                );
                let base = Case { cap: 4, lives_on: 60, ..base };
                for disk in 0..=legs {
                    for class in [Class::Read, Class::Write, Class::Flush, Class::Discard] {
                        for skip in 0..STEPS {
                            for times in [1, u32::MAX] {
                                let fault = Fault {
                                    matcher: Matcher::all(class),
                                    skip,
                                    times,
                                    errno: Errno::EIO,
                                };
                                cases.push(Case {
                                    faults: vec![(disk, fault)],
                                    seed: base.seed + u64::from(skip),
                                    ..base.clone()
                                });
                            }
                        }
                    }
                }
            }
        }
    }
    cases
}

/// Writes that fail while a mirror is recovered and soon after, on the leg that is recovered from
/// and on the other one.
pub fn recoveries() -> Vec<Case> {
    let mut cases = Vec::new();
    for (handle_errors, keep_log) in FEATURES {
        for (bits, stale) in [(0, 0), (0b1001, 0), (0b0001, 0b01)] {
            let setup = Setup::small().features(handle_errors, keep_log);
            for ops in
                [vec![write(0, 0, 7)], vec![write(0, 1, 2), flush(0), write(0, 4, 3), flush(0)]]
            {
                for skip in 0..STEPS {
                    for leg in 0..2 {
                        let fault = Fault {
                            matcher: Matcher::all(Class::Write),
                            skip,
                            times: 3,
                            errno: Errno::EIO,
                        };
                        let seed = crate::seed_base() + u64::from(skip);
                        let base = Case::new(&setup, &torn(&setup, bits, stale), &ops, seed);
                        cases.push(Case { faults: vec![(leg, fault)], cap: 5, ..base });
                    }
                }
            }
        }
    }
    cases
}

/// Legs are compared, repaired and replaced while users write.
pub fn admin() -> Vec<Case> {
    let mut cases = Vec::new();
    for seed in 0..40 {
        for legs in [2, 3] {
            let setup = Setup { legs, ..Setup::small() };
            let mut images = setup.clean_images();
            if seed % 2 == 1 {
                images = torn(&setup, 0b0101, 0);
            }
            let spare = Image::from_fn(Sectors(7), |at| pattern::sector(60, at));
            for admin in [
                Admin::Compare,
                Admin::Repair(0),
                Admin::Repair(1),
                Admin::Replace(1),
                Admin::Replace(0),
            ] {
                let right = seed % 2 == 0
                    || matches!(admin, Admin::Compare | Admin::Repair(0) | Admin::Replace(1));
                if !right {
                    continue;
                }
                let mut rng = Rng::new(seed * 7 + legs as u64);
                let ops = random_ops(&mut rng, 4, 1, 7, 1);
                let mut images = images.clone();
                images.push(spare.clone());
                let base = Case::new(&setup, &images, &ops, crate::seed_base() + seed);
                cases.push(Case { admin, cap: 5, ..base });
            }
        }
    }
    cases
}

/// All groups by name, for tests of mutants.
pub fn all() -> Vec<(&'static str, Vec<Case>)> {
    vec![
        ("pairs", pairs().collect()),
        ("faults", faults()),
        ("recoveries", recoveries()),
        ("admin", admin()),
        ("legs", legs::changed()),
        ("failing", legs::failing()),
        ("taken_out", legs::taken_out()),
        ("handed_over", legs::handed_over()),
        ("record", record::errors()),
        ("unwritten", record::unwritten()),
        ("administered", record::administered()),
        ("flushes", record::flushes()),
        ("grow", grow::grown()),
        ("seeded", seeded().take(200).collect()),
    ]
}

/// Counts states over many cases and fails with everything needed to repeat a failure.
fn run(test: &str, cases: impl Iterator<Item = Case>, at_least: u64) {
    let (mut states, mut count) = (0, 0);
    for case in cases {
        match explore(&case) {
            Ok(found) => states += found,
            Err(violation) => fail(&case, &violation),
        }
        count += 1;
    }
    println!("{test}: cases={count} states={states}");
    assert!(states >= at_least, "{test} explores only {states} states, {at_least} are expected");
}

fn fail(case: &Case, violation: &Violation) -> ! {
    let again = |ops: &[Op]| Case { ops: ops.to_vec(), ..case.clone() };
    let ops = workload::shrink(&case.ops, |ops| explore(&again(ops)).is_err());
    let shorter = explore(&again(&ops)).err();
    let violation = shorter.as_ref().unwrap_or(violation);
    panic!(
        "{}\nworkload {ops:?} (found with {:?})\nseed {} depth {} {:?} eager {} {:?} {:?} faults \
         {:?}\n{:#?}\ntrace:\n{}",
        violation.fault,
        case.ops,
        case.seed,
        case.depth,
        case.schedule,
        case.eager,
        case.admin,
        case.admin_when,
        case.faults,
        case.setup,
        violation.trace.join("\n")
    );
}

#[test]
fn short_sequences() {
    run("mirror::short_sequences", pairs().chain(triples()), 140_000);
}

#[test]
fn seeded_workloads() {
    run("mirror::seeded_workloads", seeded(), 130_000);
}

#[test]
fn every_disk_operation_fails() {
    run("mirror::every_disk_operation_fails", faults().into_iter().chain(recoveries()), 400_000);
}

#[test]
fn legs_are_compared_repaired_and_replaced() {
    run("mirror::legs_are_compared_repaired_and_replaced", admin().into_iter(), 52_000);
}
