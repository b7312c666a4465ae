//! Longer random workloads over random families.

use dm_targets::disk::Errno;
use dm_targets::sim::Rng;
use dm_targets::sim::disk::{Class, Fault, Matcher};
use dm_targets::snapshot::target::OnFull;

use crate::counts::Counts;
use crate::explore::Case;
use crate::stack::{Setup, SnapSetup};
use crate::workload::random_ops;

/// Number of workloads.
const CASES: u64 = 400;

/// A random family: one to three snapshots, some of them short of room, on one of three kinds of
/// disk.
fn random_setup(rng: &mut Rng) -> Setup {
    let block = if rng.one_in(5) { 8 } else { 1 };
    let sectors = block * (5 + rng.below(30)) as u64;
    let snap = |rng: &mut Rng| {
        let chunk = block << rng.below(3);
        let needed = sectors.div_ceil(chunk);
        let room = if rng.one_in(4) {
            1 + rng.below(usize::try_from(needed).unwrap()) as u64
        } else {
            needed + 3
        };
        let on_full = if rng.one_in(2) { OnFull::Overflow } else { OnFull::Invalidate };
        SnapSetup { chunk, cow_sectors: (2 + room) * chunk, on_full }
    };
    let snaps = (0..1 + rng.below(3)).map(|_| snap(rng)).collect();
    let block_bytes = u32::try_from(block).unwrap() * 512;
    Setup {
        origin_sectors: sectors,
        snaps,
        block_bytes,
        volatile: !rng.one_in(6),
        scarce: rng.one_in(5),
        discards: false,
        journal: true,
        unrecordable: false,
        mirrored: false,
    }
}

/// One or two errors anywhere.
fn random_faults(rng: &mut Rng, snaps: usize) -> Vec<(usize, Fault)> {
    let fault = |rng: &mut Rng| {
        let matcher =
            Matcher::all(*rng.pick(&[Class::Read, Class::Write, Class::WriteFua, Class::Flush]));
        let skip = u32::try_from(rng.below(24)).unwrap();
        (rng.below(snaps + 1), Fault { matcher, skip, times: 1, errno: Errno::EIO })
    };
    (0..1 + rng.below(2)).map(|_| fault(rng)).collect()
}

/// The random cases.
pub fn cases() -> impl Iterator<Item = Case> {
    (0..CASES).map(|number| {
        let seed = crate::seed_base() + number;
        let mut rng = Rng::new(seed ^ 0x5EED);
        let setup = random_setup(&mut rng);
        let images = setup.created_images().unwrap();
        let len = 6 + rng.below(12);
        let block = u64::from(setup.block_bytes) / 512;
        let ops = random_ops(&mut rng, len, setup.snaps.len() + 1, setup.origin_sectors, block);
        let case = Case::new(&setup, &images, &ops, seed);
        let faults =
            if rng.one_in(4) { random_faults(&mut rng, setup.snaps.len()) } else { Vec::new() };
        Case { depth: 1 + rng.below(6), cap: 5, lives_on: 50, faults, ..case }
    })
}

#[test]
fn seeded_workloads() {
    let mut counts = Counts::default();
    for case in cases() {
        counts.run("random", &case);
    }
    counts.finish("seeded_workloads", 80_000, 80_000);
}
