//! Snapshots that end before their origin, and snapshots whose end cannot be marked on their COW.

use dm_targets::disk::Errno;
use dm_targets::sim::disk::{Class, Fault, Matcher};

use crate::explore::Case;
use crate::stack::Setup;
use crate::workload::{discard, flush, leave, read, write, write_fua};

/// A snapshot is deleted, and the origin is then written, discarded, or left unchanged.
pub fn leaving() -> Vec<Case> {
    let setup = Setup { discards: true, ..Setup::small() };
    let images = setup.created_images().unwrap();
    let mut cases = Vec::new();
    for (number, ops) in (0..).zip([
        vec![write(0, 0, 2), leave(1), write(0, 2, 3), flush(0)],
        vec![write(1, 0, 2), leave(1), write_fua(0, 0, 7), read(2, 0, 7)],
        vec![write(1, 1, 3), leave(1), flush(0), read(2, 0, 7)],
        vec![write(0, 0, 7), leave(2), leave(1), write(0, 4, 2), write(0, 0, 1)],
        vec![write(2, 0, 4), leave(1), discard(2, 0, 7), read(2, 0, 7)],
        vec![leave(2), write(1, 2, 2), discard(1, 4, 3), leave(1), write(0, 6, 1)],
    ]) {
        for seed in 0..24 {
            cases.push(Case::new(&setup, &images, &ops, crate::seed_base() + 100 * number + seed));
        }
    }
    cases
}

/// The COW fails from some write on, including its mark. Either the loss can be recorded, or the
/// origin must not change.
pub fn unmarked() -> Vec<Case> {
    let mut cases = Vec::new();
    for unrecordable in [false, true] {
        let setup = Setup { unrecordable, ..Setup::small() };
        let images = setup.created_images().unwrap();
        for (number, ops) in (0..).zip([
            vec![write(1, 0, 2), write(0, 4, 2), write(0, 0, 2), flush(0)],
            vec![write(0, 0, 4), write_fua(0, 4, 3), read(0, 0, 7)],
            vec![write(2, 0, 4), write(1, 2, 2), write(0, 0, 7), write(0, 0, 7)],
            vec![write(1, 0, 2), write(1, 4, 1), leave(1), write(0, 2, 2), write_fua(0, 0, 2)],
        ]) {
            for (class, skip) in
                [(Class::Write, 0), (Class::Write, 1), (Class::Write, 3), (Class::WriteFua, 0)]
            {
                for seed in 0..6 {
                    let fault = Fault {
                        matcher: Matcher::all(class),
                        skip,
                        times: 1000,
                        errno: Errno::EIO,
                    };
                    let case =
                        Case::new(&setup, &images, &ops, crate::seed_base() + 100 * number + seed);
                    cases.push(Case { faults: vec![(1, fault)], ..case });
                }
            }
        }
    }
    cases
}
