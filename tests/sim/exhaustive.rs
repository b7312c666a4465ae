//! All short sequences of requests over an origin of three and a half chunks with two snapshots of
//! different chunk sizes.

use crate::counts::Counts;
use crate::explore::Case;
use crate::stack::Setup;
use crate::workload::{Op, flush, read, write, write_fua};

/// The ranges of the requests: whole chunks, parts, ranges across chunks, the short last chunk, the
/// whole device.
fn alphabet() -> Vec<Op> {
    let mut ops = Vec::new();
    ops.extend(
        [(0, 2), (1, 2), (2, 1), (4, 3), (0, 7)].map(|(first, count)| write(0, first, count)),
    );
    ops.extend([(0, 2), (1, 1), (3, 2), (6, 1)].map(|(first, count)| write(1, first, count)));
    ops.extend([(0, 4), (3, 2), (5, 2)].map(|(first, count)| write(2, first, count)));
    ops.extend([write_fua(0, 2, 2), write_fua(1, 0, 1), write_fua(2, 4, 3)]);
    ops.extend([flush(0), flush(1), flush(2)]);
    ops.extend([read(1, 0, 7), read(2, 0, 7)]);
    ops
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

/// Sequences of up to two requests with several interleavings each.
pub fn pairs() -> impl Iterator<Item = Case> {
    let setup = Setup::small();
    let images = setup.created_images().unwrap();
    let sequences = sequences(1).into_iter().chain(sequences(2)).enumerate();
    sequences.flat_map(move |(number, ops)| {
        let (setup, images) = (setup.clone(), images.clone());
        (0..4).map(move |seed| {
            Case::new(&setup, &images, &ops, crate::seed_base() + number as u64 * 4 + seed)
        })
    })
}

/// Sequences of three requests, with and without a journal.
fn triples() -> impl Iterator<Item = Case> {
    let setup = Setup::small();
    let images = setup.created_images().unwrap();
    sequences(3).into_iter().enumerate().flat_map(move |(number, ops)| {
        let case =
            |seed| Case { cap: 6, ..Case::new(&setup, &images, &ops, crate::seed_base() + seed) };
        [case(number as u64 * 2), case(number as u64 * 2 + 1)]
    })
}

fn explore_sequences(test: &str, part: usize, at_least: u64) {
    let mut counts = Counts::default();
    for case in pairs().skip(part).step_by(2) {
        counts.run("up to two requests", &case);
    }
    for case in triples().skip(part).step_by(2) {
        counts.run("three requests", &case);
    }
    counts.finish(test, at_least, 40_000);
}

#[test]
fn all_short_sequences_one_half() {
    explore_sequences("all_short_sequences_one_half", 0, 550_000);
}

#[test]
fn all_short_sequences_other_half() {
    explore_sequences("all_short_sequences_other_half", 1, 500_000);
}
