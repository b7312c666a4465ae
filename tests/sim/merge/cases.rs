//! Merges in critical situations: batches within and across blocks and areas, records in any order,
//! writes of chunks that are being merged, other snapshots of any chunk size, errors.

use dm_targets::disk::Errno;
use dm_targets::sim::Rng;
use dm_targets::sim::disk::{Class, Fault, Matcher};
use dm_targets::sim::image::{Image, SectorData};
use dm_targets::snapshot::target::OnFull;
use dm_targets::units::Sector;

use super::case::{Act, Case};
use super::family::Plan;
use crate::pattern;
use crate::stack::{Setup, SnapSetup, prepare};
use crate::workload::{Op, flush, random_ops, read, write, write_fua};

/// A family: the origin's size, and the chunks of the snapshots, the merged one first.
pub fn plan(origin_sectors: u64, chunks: &[u64], records: usize) -> Plan {
    let snap = |chunk: &u64| SnapSetup {
        chunk: *chunk,
        // Room for all chunks, three areas and more.
        cow_sectors: (origin_sectors.div_ceil(*chunk) + 8) * chunk,
        on_full: OnFull::Invalidate,
    };
    let snaps = chunks.iter().map(snap).collect();
    let setup = Setup { origin_sectors, snaps, ..Setup::small() };
    Plan { setup, late: 0, records, len: None, owned: false }
}

/// The content of its disks after some writes; the late snapshots have no exceptions yet.
pub fn images(plan: &Plan, ops: &[Op]) -> Vec<Image> {
    let mut setup = plan.setup.clone();
    setup.snaps.truncate(setup.snaps.len() - plan.late);
    let mut images = prepare(&setup, &setup.created_images().unwrap(), ops);
    images.extend(plan.setup.blank_images().into_iter().skip(images.len()));
    images
}

/// Writes of the merged snapshot, one record each.
pub fn chunks(chunk: u64, numbers: impl IntoIterator<Item = u64>) -> Vec<Op> {
    numbers.into_iter().map(|number| write(1, number * chunk, chunk)).collect()
}

fn acts(ops: &[Op]) -> Vec<Act> {
    ops.iter().copied().map(Act::Op).collect()
}

fn seeds(plan: &Plan, images: &[Image], acts: &[Act], count: u64) -> impl Iterator<Item = Case> {
    (0..count).map(|seed| Case::new(plan, images, acts, crate::seed_base() + seed))
}

/// Small families with requests to every part of the origin: chunks that are being merged, have
/// been, will be, and never had a record.
pub fn small() -> Vec<Case> {
    let mut cases = Vec::new();
    for (sizes, records) in [(&[2, 4][..], 1), (&[2, 1], 2), (&[4, 2], 1), (&[2], 1024)] {
        let plan = plan(11, sizes, records);
        // The last chunk is short; two chunks get no record.
        let mut before = vec![write(1, 10, 1), write(1, 0, 2), write(1, 2, 2), write(1, 6, 2)];
        before.push(write(0, 4, 1));
        let images = images(&plan, &before);
        for ops in [
            vec![],
            vec![write(0, 0, 3), read(0, 0, 11)],
            vec![write(0, 2, 1), write(0, 2, 1), flush(0)],
            vec![write(0, 0, 11), flush(0), write(0, 5, 4)],
            vec![write_fua(0, 1, 2), read(0, 0, 4), write_fua(0, 9, 2)],
            vec![read(0, 0, 11), write(0, 8, 2), read(0, 6, 5), write(0, 6, 1), flush(0)],
        ] {
            cases.extend(seeds(&plan, &images, &acts(&ops), 3));
        }
    }
    cases
}

/// More records than a block or an area holds, in every batch size; holes; records that stand in
/// another order than their chunks.
pub fn areas() -> Vec<Case> {
    let mut cases = Vec::new();
    // 32 records an area; then an area of two blocks with 32 each.
    for (sizes, count) in [(&[1, 2][..], 35), (&[1], 64), (&[1], 65), (&[2, 4], 40), (&[2], 66)] {
        for records in [7, 1024] {
            let chunk = sizes[0];
            let plan = plan((count + 4) * chunk, sizes, records);
            let up = images(&plan, &chunks(chunk, 0..count));
            let down = images(&plan, &chunks(chunk, (0..count).rev()));
            let mixed = images(&plan, &chunks(chunk, (0..count).map(|number| number * 7 % count)));
            let end = count * chunk;
            for ops in [
                vec![],
                vec![write(0, end - 2, 4), read(0, end - 4, 6)],
                vec![write(0, 0, 3), write_fua(0, end / 2, 2), flush(0)],
            ] {
                for images in [&up, &down, &mixed] {
                    let few = |case| Case { cap: 2, lives_on: 400, ..case };
                    cases.extend(seeds(&plan, images, &acts(&ops), 1).map(few));
                }
            }
        }
    }
    cases.extend(holes());
    cases
}

/// A store of an old kernel: records point to any chunk.
fn holes() -> Vec<Case> {
    let plan = plan(30, &[1, 2], 2);
    let mut images = images(&plan, &[]);
    let records: [(u64, u64); 5] = [(1, 2), (2, 35), (7, 9), (8, 10), (0, 37)];
    let mut area: Vec<u8> = records
        .iter()
        .flat_map(|(old, new)| [old.to_le_bytes(), new.to_le_bytes()].concat())
        .collect();
    area.resize(512, 0);
    images[1].write(Sector(1), &area);
    for (old, new) in records {
        let data = SectorData::new(&pattern::payload(pattern::PREPARED, old, 1));
        images[1].sectors[usize::try_from(new).unwrap()] = data;
    }
    seeds(&plan, &images, &acts(&[write(0, 6, 3), read(0, 0, 9)]), 8).collect()
}

/// One operation of a batch takes longer than everything else, and writes want the same chunks.
pub fn held() -> Vec<Case> {
    let mut cases = Vec::new();
    let plan = plan(11, &[2, 4], 2);
    let images = images(&plan, &[write(1, 0, 2), write(1, 2, 2), write(1, 6, 2), write(1, 10, 1)]);
    let slow = |disk, class, first, end| (disk, Matcher { class, first, end });
    for holds in [
        vec![slow(0, Class::Flush, 0, 0)],
        vec![slow(1, Class::WriteFua, 2, 4)],
        vec![slow(1, Class::Write, 4, 20)],
        vec![slow(1, Class::Read, 4, 20)],
        vec![slow(0, Class::Write, 0, 11)],
        vec![slow(2, Class::WriteFua, 4, 8)],
    ] {
        for ops in [
            vec![write(0, 6, 1), write(0, 10, 1), read(0, 0, 11)],
            vec![write(0, 0, 11), write(0, 7, 1), write_fua(0, 3, 1)],
            vec![read(0, 0, 11), write(0, 0, 2), flush(0), write(0, 6, 2)],
            vec![write(0, 2, 1), write(2, 0, 2), read(2, 0, 11), write(0, 3, 1)],
        ] {
            for case in seeds(&plan, &images, &acts(&ops), 2) {
                cases.push(Case { holds: holds.clone(), depth: 4, ..case });
            }
        }
    }
    cases
}

/// Snapshots that come and go while the merge runs, with smaller and larger chunks, and a merge
/// that is stopped on the way.
pub fn joining() -> Vec<Case> {
    let mut cases = Vec::new();
    for sizes in [[4, 2, 1], [2, 4, 8], [2, 2, 1]] {
        let plan = Plan { late: 1, ..plan(16, &sizes, 1) };
        let before = [write(1, 8, 4), write(1, 0, 2), write(1, 13, 2), write(0, 2, 1)];
        let images = images(&plan, &before);
        for act in [
            vec![Act::Join(2)],
            vec![Act::Join(2), Act::Op(read(2, 0, 16)), Act::Op(write(0, 0, 16))],
            vec![Act::Op(write(0, 3, 2)), Act::Op(flush(0)), Act::Join(2), Act::Op(write(2, 8, 1))],
            vec![Act::Leave(1), Act::Join(2), Act::Op(write(0, 1, 1)), Act::Op(read(0, 0, 16))],
            vec![Act::Pause, Act::Join(2), Act::Unpause, Act::Op(read(2, 0, 16))],
        ] {
            cases.extend(seeds(&plan, &images, &act, 4));
        }
    }
    cases.extend(joining_while_a_batch_waits());
    let plan = plan(16, &[2, 1], 1);
    let images = images(&plan, &[write(1, 8, 4), write(1, 0, 2), write(1, 13, 2)]);
    for act in [
        vec![Act::Leave(1), Act::Op(write(0, 9, 1))],
        vec![Act::Pause, Act::Op(write(0, 8, 8)), Act::Unpause, Act::Op(write(0, 0, 1))],
    ] {
        cases.extend(seeds(&plan, &images, &act, 4));
    }
    cases
}

/// A snapshot joins after a batch has begun and before it is copied: it waits for a write.
fn joining_while_a_batch_waits() -> Vec<Case> {
    let plan = Plan { late: 1, ..plan(16, &[2, 2, 1], 1) };
    let images = images(&plan, &[write(1, 8, 4), write(1, 0, 2), write(1, 12, 2)]);
    let slow = Matcher { class: Class::Write, first: 4, end: u64::MAX };
    let writes = [12, 0, 10].map(|sector| Act::Op(write(0, sector, 1)));
    let rest = [Act::Unpause, Act::Join(2), Act::Op(read(2, 0, 16))];
    let acts = [&[Act::Pause][..], &writes, &rest].concat();
    let slowly = |case| Case { holds: vec![(1, slow)], depth: 5, ..case };
    seeds(&plan, &images, &acts, 12).map(slowly).collect()
}

/// Other disks: blocks of 4096 bytes, no volatile cache, no memory left.
pub fn other_disks() -> Vec<Case> {
    let mut large = plan(8 * 9, &[8, 16], 2);
    large.setup.block_bytes = 4096;
    let ops = [write(1, 0, 8), write(1, 24, 16), write(1, 64, 8)];
    let found = images(&large, &ops);
    let requests = [write(0, 0, 24), read(0, 0, 72), write_fua(0, 64, 8)];
    let mut cases: Vec<Case> = seeds(&large, &found, &acts(&requests), 6).collect();
    for (volatile, scarce) in [(false, false), (true, true)] {
        let mut plan = plan(11, &[2, 4], 2);
        (plan.setup.volatile, plan.setup.scarce) = (volatile, scarce);
        let found = images(&plan, &[write(1, 0, 2), write(1, 2, 2), write(1, 6, 2)]);
        let requests = [write(0, 1, 4), read(0, 0, 11), write(0, 5, 4), flush(0)];
        cases.extend(seeds(&plan, &found, &acts(&requests), 6));
    }
    cases.extend(large_blocks());
    cases
}

/// Every operation of a merge fails once, and from some moment on all do.
pub fn faults() -> Vec<Case> {
    let mut cases = Vec::new();
    let plan = plan(11, &[2, 4], 2);
    let images = images(&plan, &[write(1, 0, 2), write(1, 2, 2), write(1, 6, 2), write(1, 10, 1)]);
    for ops in [
        vec![write(0, 2, 1), write(0, 6, 5)],
        vec![write_fua(0, 0, 11), read(0, 0, 11), write(0, 3, 1), flush(0)],
    ] {
        for disk in 0..3 {
            for class in [Class::Read, Class::Write, Class::WriteFua, Class::Flush] {
                for (skip, times) in (0..6).map(|skip| (skip, 1)).chain([(2, 100)]) {
                    let fault =
                        Fault { matcher: Matcher::all(class), skip, times, errno: Errno::EIO };
                    let seed = crate::seed_base() + u64::from(skip);
                    let case = Case::new(&plan, &images, &acts(&ops), seed);
                    cases.push(Case { faults: vec![(disk, fault)], cap: 2, lives_on: 0, ..case });
                }
            }
        }
    }
    cases.extend(commits());
    cases
}

/// Commits that fail: whether the block of records has its old or its new content is unknown.
pub fn commits() -> Vec<Case> {
    let mut cases = Vec::new();
    let plan = plan(22, &[1, 2], 3);
    let images = images(&plan, &chunks(1, 0..10));
    let area = Matcher { class: Class::WriteFua, first: 1, end: 2 };
    for ops in [
        vec![write(0, 5, 5)],
        vec![write(0, 9, 1), write(0, 0, 10), flush(0)],
        vec![write_fua(0, 7, 2), write_fua(0, 4, 4), read(0, 0, 22)],
    ] {
        for skip in 0..3 {
            for number in 0..4 {
                let times = 1 + number % 2;
                let fault = Fault { matcher: area, skip, times, errno: Errno::EIO };
                let seed = crate::seed_base() + u64::from(number);
                let case = Case::new(&plan, &images, &acts(&ops), seed);
                cases.push(Case { faults: vec![(1, fault)], ..case });
            }
        }
    }
    cases
}

/// A merge that has failed goes on while its disk still fails, and is closed and opened again on a
/// disk whose cache holds what a failed write has left there.
pub fn restarted() -> Vec<Case> {
    let mut cases = Vec::new();
    let area = |class| Matcher { class, first: 1, end: 2 };
    let fault = |class, skip, times| Fault { matcher: area(class), skip, times, errno: Errno::EIO };
    let op = Act::Op;
    for records in [3, 1024] {
        let plan = plan(22, &[1, 2], records);
        let images = images(&plan, &chunks(1, 0..10));
        let faults = (0..3).map(|skip| vec![(1, fault(Class::WriteFua, skip, 2))]);
        // The first read of the area is that of a merge whose commit has failed.
        let unread = [(1, fault(Class::WriteFua, 0, 1)), (1, fault(Class::Read, 3, 1))];
        for faults in faults.chain([unread.to_vec()]) {
            for acts in [
                vec![Act::Restart, op(write(0, 9, 1)), Act::Restart, op(write(0, 7, 1))],
                vec![
                    op(write(0, 8, 1)),
                    op(flush(0)),
                    Act::Reopen,
                    op(write(0, 8, 2)),
                    op(flush(0)),
                ],
                vec![Act::Restart, Act::Reopen, op(write(0, 0, 10)), op(flush(0))],
                vec![
                    Act::Reopen,
                    op(write(0, 3, 1)),
                    op(flush(0)),
                    Act::Reopen,
                    op(write(0, 3, 1)),
                ],
            ] {
                let faulty = |case| Case { faults: faults.clone(), lives_on: 0, ..case };
                cases.extend(seeds(&plan, &images, &acts, 4).map(faulty));
            }
        }
    }
    cases
}

/// Blocks of 4096 bytes: commits that fail, batches within and across blocks.
fn large_blocks() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut plan = plan(8 * 12, &[8, 16], 2);
    plan.setup.block_bytes = 4096;
    let found = images(&plan, &chunks(8, [0, 1, 3, 4, 8]));
    let requests = acts(&[write_fua(0, 24, 16), write(0, 64, 8), flush(0), read(0, 0, 96)]);
    let area = Matcher { class: Class::WriteFua, first: 8, end: 16 };
    for skip in 0..3 {
        let fault = Fault { matcher: area, skip, times: 1, errno: Errno::EIO };
        let faulty = |case| Case { faults: vec![(1, fault)], ..case };
        cases.extend(seeds(&plan, &found, &requests, 3).map(faulty));
    }
    cases
}

/// Random families with random stores and requests.
pub fn random() -> Vec<Case> {
    let case = |number: u64| {
        let seed = crate::seed_base() + number;
        let mut rng = Rng::new(seed ^ 0x3E26E);
        let sectors = 6 + rng.below(40) as u64;
        let sizes: Vec<u64> = (0..1 + rng.below(3)).map(|_| 1 << rng.below(3)).collect();
        let plan = plan(sectors, &sizes, 1 + rng.below(6));
        let (made, asked) = (8 + rng.below(24), 3 + rng.below(8));
        let before: Vec<Op> = random_ops(&mut rng, made, sizes.len() + 1, sectors, 1)
            .into_iter()
            .filter(|op| op.count > 0)
            .map(|op| write(op.device, op.first, op.count))
            .collect();
        let ops = random_ops(&mut rng, asked, sizes.len(), sectors, 1);
        let case = Case::new(&plan, &images(&plan, &before), &acts(&ops), seed);
        Case { depth: 1 + rng.below(5), cap: 4, lives_on: 50, ..case }
    };
    (0..40).map(case).collect()
}

/// Makes the cases of a group.
pub type Group = (&'static str, fn() -> Vec<Case>);

/// All of them.
pub const ALL: [Group; 8] = [
    ("small", small),
    ("areas", areas),
    ("held", held),
    ("joining", joining),
    ("other_disks", other_disks),
    ("faults", faults),
    ("restarted", restarted),
    ("random", random),
];
