//! Workloads for critical situations: the ends of areas and COWs, creation, invalidation, remains
//! of earlier stores.

use dm_targets::sim::disk::{Class, Matcher};
use dm_targets::sim::image::{Image, SectorData};
use dm_targets::snapshot::format::Record;
use dm_targets::snapshot::journal::Journaled;
use dm_targets::snapshot::target::OnFull;
use dm_targets::units::{Chunk, CowChunk, Sector, Sectors};

use crate::counts::Counts;
use crate::explore::Case;
use crate::kernel;
use crate::losses;
use crate::stack::{Left, Setup, prepare, recover};
use crate::workload::{Op, discard, flush, read, write, write_fua};

/// A store with `records` exceptions for the first chunks, each made by a write of one chunk.
fn filled(setup: &Setup, records: u64) -> Vec<Image> {
    let chunk = setup.snaps[0].chunk;
    let ops: Vec<Op> = (0..records).map(|number| write(0, number * chunk, chunk)).collect();
    prepare(setup, &setup.created_images().unwrap(), &ops)
}

fn seeds(setup: &Setup, images: &[Image], ops: &[Op], count: u64) -> impl Iterator<Item = Case> {
    (0..count).map(|seed| Case::new(setup, images, ops, crate::seed_base() + seed))
}

/// Areas that become exactly full, and one record more; also a block of an area, and more than an
/// area at once.
pub fn roll_over() -> Vec<Case> {
    let mut cases = Vec::new();
    // chunks of one sector: 32 records an area
    let setup = Setup::single(76, 1, 120);
    for (before, ops) in [
        (30, vec![write(0, 30, 1), write(0, 31, 1), write(0, 32, 1)]),
        (30, vec![write(0, 30, 2), write(1, 32, 1)]),
        (31, vec![write(1, 31, 1), write(1, 33, 1)]),
        (31, vec![write(0, 31, 3), flush(1)]),
        (31, vec![write(1, 31, 2), read(1, 30, 4)]),
        (32, vec![write(0, 32, 1), write(1, 33, 1)]),
        (63, vec![write(0, 63, 1), write_fua(1, 64, 1)]),
        (29, vec![write(0, 20, 50)]),
        (0, vec![write(0, 0, 76)]),
        (0, vec![write(1, 0, 70), write(0, 60, 10)]),
    ] {
        cases.extend(seeds(&setup, &filled(&setup, before), &ops, 6));
    }
    // chunks of two sectors: an area of two blocks with 32 records each
    let setup = Setup::single(141, 2, 170);
    for (before, ops) in [
        (31, vec![write(0, 62, 2), write(0, 64, 2)]),
        (31, vec![write(1, 62, 6)]),
        (30, vec![write(0, 60, 10), flush(1)]),
        (63, vec![write(0, 126, 2), write(1, 129, 1)]),
        (62, vec![write(1, 125, 9)]),
        (0, vec![write(0, 0, 141)]),
    ] {
        cases.extend(seeds(&setup, &filled(&setup, before), &ops, 6));
    }
    // the first block of the second area becomes full: the kernel goes on reading in the next
    let setup = Setup::single(200, 2, 240);
    for ops in
        [vec![write(0, 120, 72)], vec![write(0, 120, 70), write(1, 190, 2), write(0, 192, 2)]]
    {
        cases.extend(seeds(&setup, &filled(&setup, 60), &ops, 6));
    }
    for case in &mut cases {
        case.cap = 24;
    }
    cases
}

/// COWs that are exactly full, one record before and one after, for every policy and boundary.
pub fn full() -> Vec<Case> {
    let mut cases = Vec::new();
    for cow_sectors in [33, 34, 35, 36] {
        for on_full in [OnFull::Invalidate, OnFull::Overflow] {
            let setup = Setup::single(40, 1, cow_sectors).with_cow(cow_sectors, on_full);
            let last = kernel::capacity(cow_sectors, 1, &[]);
            let images = filled(&setup, last - 1);
            for ops in [
                vec![write(0, last - 1, 1), write(0, last, 1)],
                vec![write(1, last - 1, 1), write(1, last, 1)],
                vec![write(0, last - 1, 3), read(1, 0, 40)],
                vec![write(1, last - 1, 3), read(1, 0, 40)],
                vec![write(1, last, 1), write(0, last + 1, 1), write(0, 0, 2)],
                vec![read(1, 30, 5), write(0, 30, 4), write_fua(1, last + 2, 1)],
            ] {
                cases.extend(seeds(&setup, &images, &ops, 4));
            }
        }
    }
    cases
}

/// A full COW with a healthy snapshot beside it: the marked one must be marked before the origin is
/// written.
pub fn invalidation() -> Vec<Case> {
    let mut setup = Setup::small();
    setup.snaps[1].cow_sectors = 12;
    let images = setup.created_images().unwrap();
    let mut cases = Vec::new();
    for ops in [
        vec![write(0, 0, 2), write(0, 4, 2)],
        vec![write(0, 0, 7), flush(0)],
        vec![write(2, 0, 1), write(0, 5, 2), write(0, 0, 2)],
        vec![write(0, 1, 1), read(2, 0, 7), write(1, 5, 1), write(0, 4, 3)],
        vec![write_fua(2, 0, 7), write(0, 2, 3), flush(0)],
        vec![read(2, 4, 3), write(0, 0, 1), write(0, 4, 2), write_fua(0, 5, 1)],
    ] {
        cases.extend(seeds(&setup, &images, &ops, 12));
    }
    cases
}

/// Copies that take longer than everything else, with all kinds of requests to the same chunk
/// meanwhile.
pub fn pending() -> Vec<Case> {
    let setup = Setup::small();
    let images = setup.created_images().unwrap();
    let slow = |disk, class, first, end| (disk, Matcher { class, first, end });
    let mut cases = Vec::new();
    for holds in [
        vec![slow(1, Class::Write, 4, 6)],
        vec![slow(2, Class::Write, 8, 12)],
        vec![slow(0, Class::Read, 0, 7)],
        vec![slow(1, Class::WriteFua, 2, 4), slow(2, Class::Flush, 0, 0)],
        vec![slow(0, Class::Write, 0, 7)],
    ] {
        for ops in [
            vec![write(0, 0, 1), write(1, 1, 1), read(1, 0, 2), write(0, 1, 1)],
            vec![write(1, 0, 2), write(0, 0, 4), read(1, 0, 7), write(2, 1, 1)],
            vec![write(1, 0, 1), write(1, 1, 1), write(0, 2, 2), flush(1)],
            vec![read(1, 0, 7), read(2, 0, 7), write(0, 0, 7), write(1, 2, 2)],
            vec![write(0, 2, 2), write(0, 0, 2), write(1, 4, 2), write(2, 4, 3)],
        ] {
            for case in seeds(&setup, &images, &ops, 6) {
                cases.push(Case { holds: holds.clone(), depth: 4, ..case });
            }
        }
    }
    cases
}

/// Crashes while stores are made on COWs that earlier ones have left full of records.
pub fn creation() -> Vec<Case> {
    let mut cases = Vec::new();
    for setup in [Setup::small(), Setup::single(20, 1, 40), Setup::single(40, 8, 64)] {
        for case in seeds(&setup, &setup.blank_images(), &[write(0, 0, 2), write(1, 3, 1)], 12) {
            cases.push(Case { crash_open: true, lives_on: 10, ..case });
        }
    }
    cases
}

fn area(records: &[(u64, u64)]) -> Vec<u8> {
    records.iter().flat_map(|(old, new)| [old.to_le_bytes(), new.to_le_bytes()].concat()).collect()
}

/// Replaces the first area of the first COW, and its data chunks by recognizable content.
fn with_area(setup: &Setup, records: &[(u64, u64)]) -> Vec<Image> {
    let mut images = setup.created_images().unwrap();
    let chunk = setup.snaps[0].chunk;
    let mut bytes = area(records);
    bytes.resize(usize::try_from(chunk * 512).unwrap(), 0);
    images[1].write(Sector(chunk), &bytes);
    for at in 2 * chunk..images[1].size().0 {
        let data = crate::pattern::payload(crate::pattern::PREPARED, at, 1);
        images[1].sectors[usize::try_from(at).unwrap()] = SectorData::new(&data);
    }
    images
}

/// Areas with records after the terminator, as a torn write of the kernel leaves them, and stores
/// with holes.
pub fn inherited() -> Vec<Case> {
    let mut cases = Vec::new();
    let one = Setup::single(30, 1, 40);
    let two = Setup::single(30, 2, 60);
    let mut late = vec![(0, 0); 64];
    (late[0], late[40]) = ((3, 2), (9, 5));
    for (setup, records) in [
        (&one, vec![(10, 2), (0, 0), (12, 4)]),
        (&one, vec![(0, 0), (11, 3), (12, 4)]),
        (&one, vec![(4, 2), (5, 3), (0, 0), (0, 0), (6, 4), (7, 5)]),
        (&two, vec![(10, 2), (0, 0), (12, 4)]),
        (&two, late),
    ] {
        for ops in [
            vec![write(0, 20, 1)],
            vec![write(1, 21, 3), flush(1)],
            vec![write(0, 1, 2), write(1, 28, 2)],
        ] {
            for case in seeds(setup, &with_area(setup, &records), &ops, 6) {
                cases.push(Case { crash_open: true, lives_on: 12, ..case });
            }
        }
    }
    for case in seeds(
        &one,
        &with_area(&one, &[(1, 2), (2, 33), (7, 9)]),
        &[write(0, 3, 4), write(1, 9, 1)],
        8,
    ) {
        cases.push(Case { dense: false, ..case });
    }
    cases
}

/// Every buffer of the machine is in use: the reserves must suffice.
pub fn scarce() -> Vec<Case> {
    let setup = Setup { scarce: true, ..Setup::small() };
    let images = setup.created_images().unwrap();
    let ops = [write(0, 0, 7), write(1, 1, 1), write(2, 5, 1), write(1, 4, 3), read(1, 0, 7)];
    seeds(&setup, &images, &ops, 24).map(|case| Case { depth: 5, ..case }).collect()
}

/// Disks with blocks of 4096 bytes, and disks without a volatile cache.
pub fn other_disks() -> Vec<Case> {
    let mut cases = Vec::new();
    let mut large = Setup::single(56, 8, 160);
    (large.snaps, large.block_bytes) = (vec![large.snaps[0], large.snaps[0]], 4096);
    large.snaps[1].chunk = 16;
    let ops = [write(0, 0, 24), write(1, 8, 8), write(2, 40, 16), flush(1)];
    cases.extend(seeds(&large, &large.created_images().unwrap(), &ops, 24));
    let through = Setup { volatile: false, ..Setup::small() };
    let ops = [write(0, 0, 3), write(1, 1, 1), write(2, 5, 2), write(0, 4, 3)];
    cases.extend(seeds(&through, &through.created_images().unwrap(), &ops, 24));
    assert_eq!(
        large.created_images().unwrap()[1].read(Sector(8), Sectors(8)),
        vec![0; 4096],
        "area 0 is zero"
    );
    cases
}

/// Discards among writes, whole chunks and parts.
pub fn discards() -> Vec<Case> {
    let setup = Setup { discards: true, ..Setup::small() };
    let images = setup.created_images().unwrap();
    let mut cases = Vec::new();
    for ops in [
        vec![write(1, 0, 4), discard(1, 0, 2), write(0, 0, 7), read(1, 0, 7)],
        vec![write(0, 0, 7), discard(1, 0, 7), discard(2, 1, 5), write_fua(1, 2, 1)],
        vec![write(2, 0, 7), discard(2, 0, 4), write_fua(2, 1, 2), flush(2), read(2, 0, 7)],
    ] {
        cases.extend(seeds(&setup, &images, &ops, 16));
    }
    let alone = Setup { discards: true, ..Setup::single(7, 2, 20) };
    let images = alone.created_images().unwrap();
    for ops in [
        vec![discard(1, 0, 4), write(0, 1, 2), write(0, 4, 2), read(1, 4, 3)],
        vec![write(1, 0, 4), discard(1, 1, 5), write_fua(0, 2, 3), flush(0), read(1, 0, 1)],
    ] {
        cases.extend(seeds(&alone, &images, &ops, 16));
    }
    cases
}

/// Writes of a snapshot whose records are only journaled, with everything that must wait for them;
/// and exceptions that are never journaled, which leave holes.
pub fn journaled() -> Vec<Case> {
    let setup = Setup::small();
    let images = setup.created_images().unwrap();
    let slow = |disk, class, first, end| (disk, Matcher { class, first, end });
    let mut cases = Vec::new();
    for holds in [vec![], vec![slow(1, Class::Write, 4, 6)], vec![slow(1, Class::WriteFua, 2, 4)]] {
        for ops in [
            vec![write(1, 0, 2), write(0, 0, 2), read(1, 0, 7)],
            vec![write(1, 0, 1), write_fua(1, 1, 1), write(1, 4, 2)],
            vec![write(1, 0, 2), write(1, 2, 2), flush(1), write(1, 4, 3), write(0, 4, 1)],
            vec![write(1, 1, 1), write(2, 0, 4), write(0, 0, 7), flush(2), flush(1)],
            vec![write(1, 0, 6), write(1, 2, 2), write(0, 3, 2), write_fua(1, 6, 1)],
        ] {
            // Even seeds are those with a journal.
            for case in seeds(&setup, &images, &ops, 16).step_by(2) {
                cases.push(Case { holds: holds.clone(), depth: 3, lives_on: 8, ..case });
            }
        }
    }
    cases
}

/// Every named workload.
pub fn all() -> Vec<(&'static str, Vec<Case>)> {
    vec![
        ("creation", creation()),
        ("inherited", inherited()),
        ("roll_over", roll_over()),
        ("full", full()),
        ("invalidation", invalidation()),
        ("pending", pending()),
        ("scarce", scarce()),
        ("other_disks", other_disks()),
        ("discards", discards()),
        ("journaled", journaled()),
        ("leaving", losses::leaving()),
        ("unmarked", losses::unmarked()),
    ]
}

#[test]
fn named_workloads() {
    let mut counts = Counts::default();
    for (name, cases) in all() {
        for case in cases {
            counts.run(name, &case);
        }
    }
    counts.finish("named_workloads", 90_000, 3_000);
}

/// A left journal belongs to the store it was made with: a new store ignores it, and an older state
/// of the same store, or another store, is refused.
#[test]
fn journals_are_used_by_their_own_store_only() {
    let setup = Setup::single(7, 2, 20);
    let record = Record { old: Chunk(0), new: CowChunk(2) };
    let left = |images: &[Image], recorded| {
        let journals = vec![Journaled { records: vec![record], recorded }];
        recover(&setup, &Left { images: images.to_vec(), journals, ..Left::default() })
    };
    let (blank, made) = (setup.blank_images(), setup.created_images().unwrap());
    assert_eq!(left(&blank, 0).unwrap().snaps[0].as_ref(), Some(&blank[0].sectors), "a new store");
    let shown = left(&made, 0).unwrap().snaps[0].clone().unwrap();
    assert_eq!(shown[..2], made[1].sectors[4..6], "their own");
    assert!(left(&made, 1).is_err(), "it has lost a record");
    let grown = prepare(&setup, &made, &[write(0, 4, 2)]);
    assert!(left(&grown, 0).is_err(), "its next chunk is taken");
}
