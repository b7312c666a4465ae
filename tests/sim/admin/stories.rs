//! Written lives: each leads to the point where one rule of the administrator acts.

use dm_targets::sim::disk::Class;

use super::Step::{self, *};
use super::town::What::{Mirror, Origin, Snap};
use super::{last, not_started, upgrade};

/// The disk of the first snapshot's COW, and of the mirror's first leg.
const COW: usize = 1;
const LEG: usize = 3;

/// The families.
const O: &str = "o";
const M: &str = "mirror-a";

/// All stories.
pub fn stories() -> Vec<Vec<Step>> {
    let [refused, last] = [not_started::stories(), last::stories()];
    let parts =
        [ends(), tables(), left_out(), later_boots(), leaving(), on_record(), refused, disks()];
    parts.into_iter().chain([again(), last, upgrade::stories()]).flatten().collect()
}

/// Numbers that are used again, shutdowns, and the last writes of a device.
fn ends() -> Vec<Vec<Step>> {
    vec![
        // A number now belongs to another program.
        vec![Add(Origin), Steal(Origin, true)],
        vec![Add(Origin), Kill(O), Steal(Origin, true), Recover],
        // SIGTERM while the origin is in use, and its snapshot has the lower number.
        vec![
            Add(Snap(0)),
            Add(Origin),
            Use(Origin, true),
            Terminate(O),
            Write(Origin, 1),
            Recover,
            Write(Origin, 2),
        ],
        // A mirror whose first leg has missed a write.
        vec![
            Add(Mirror),
            Fail(LEG, Class::Write, 0),
            Write(Mirror, 3),
            Kill(M),
            Mend,
            Recover,
            Write(Mirror, 4),
        ],
        // The last commit of a snapshot fails.
        vec![
            Add(Origin),
            Add(Snap(0)),
            Write(Snap(0), 1),
            Fail(COW, Class::Write, 0),
            Del(Snap(0), false),
        ],
        vec![
            Add(Origin),
            Add(Snap(0)),
            Write(Snap(0), 1),
            Fail(COW, Class::Flush, 0),
            Del(Snap(0), false),
        ],
        // A suspend of a suspended device is undone.
        vec![Add(Origin), Suspend(Origin), Leave, Suspend(Origin)],
    ]
}

/// Loaded tables.
fn tables() -> Vec<Vec<Step>> {
    vec![
        // A table with a missing leg.
        vec![Add(Mirror), Write(Mirror, 1), Load(true), Resume(Mirror), Write(Mirror, 2)],
        vec![
            Add(Mirror),
            Write(Mirror, 1),
            Load(false),
            Suspend(Mirror),
            Write(Mirror, 2),
            Resume(Mirror),
        ],
    ]
}

/// Snapshots whose COW is absent when their origin is taken over.
fn left_out() -> Vec<Vec<Step>> {
    vec![
        // A snapshot's COW is missing when its origin is taken over.
        vec![Add(Snap(0)), Add(Origin), Kill(O), Attach(COW, false), Recover, Write(Origin, 2)],
        vec![
            Add(Origin),
            Add(Snap(0)),
            Kill(O),
            Attach(COW, false),
            Recover,
            Write(Origin, 2),
            Attach(COW, true),
            Recover,
        ],
        vec![
            Add(Origin),
            Add(Snap(0)),
            Write(Origin, 2),
            Kill(O),
            Attach(COW, false),
            Recover,
            Attach(COW, true),
            Recover,
        ],
        vec![
            Add(Origin),
            Add(Snap(0)),
            Kill(O),
            Attach(COW, false),
            Recover,
            Write(Origin, 2),
            Del(Snap(0), true),
        ],
        vec![Add(Snap(0)), Add(Origin), Kill(O), Attach(COW, false), Recover, Del(Origin, false)],
    ]
}

/// The machine is restarted, or only the state file of an earlier version records a loss.
fn later_boots() -> Vec<Vec<Step>> {
    vec![
        // The machine restarts meanwhile, and its run directory is kept.
        vec![
            KeepFiles,
            Add(Snap(0)),
            Add(Origin),
            Kill(O),
            Attach(COW, false),
            Recover,
            Write(Origin, 2),
            Flush(Origin),
            PowerCut,
        ],
        vec![
            KeepFiles,
            Add(Origin),
            Add(Snap(0)),
            Add(Snap(1)),
            Kill(O),
            Attach(COW, false),
            Recover,
            Kill(O),
            Recover,
            Write(Origin, 2),
            Flush(Origin),
            Kill(O),
            PowerCut,
        ],
        // Only the state file of an earlier version records a loss.
        vec![
            Add(Origin),
            Add(Snap(0)),
            Kill(O),
            Attach(COW, false),
            Recover,
            Write(Origin, 2),
            Kill(O),
            ForgetRecords,
            Recover,
            KeepFiles,
            PowerCut,
        ],
        vec![
            Add(Origin),
            Add(Snap(0)),
            Kill(O),
            Attach(COW, false),
            Recover,
            Write(Origin, 2),
            ForgetRecords,
            Del(Snap(0), true),
        ],
    ]
}

/// Snapshots that are deleted while their origin stays, or is added later.
fn leaving() -> Vec<Vec<Step>> {
    vec![
        // A snapshot is deleted while it has no server, and its origin continues.
        vec![Add(Origin), Add(Snap(0)), Kill(O), Steal(Snap(0), false), Recover, Write(Origin, 2)],
        vec![Add(Origin), Add(Snap(0)), Kill(O), Del(Snap(0), true), Recover, Write(Origin, 2)],
        // The same with a missing COW: the loss is recorded under the COW's known names.
        vec![
            Add(Origin),
            Add(Snap(0)),
            Kill(O),
            Attach(COW, false),
            Del(Snap(0), true),
            Attach(COW, true),
            Recover,
            Write(Origin, 2),
        ],
        vec![Add(Origin), Add(Snap(0)), Del(Snap(0), false), Kill(O), Recover, Write(Origin, 2)],
        vec![
            Add(Origin),
            Add(Snap(0)),
            Use(Origin, true),
            Del(Snap(0), false),
            Write(Origin, 2),
            Kill(O),
            Recover,
        ],
        // Another program deletes a snapshot that its server has left out.
        vec![
            Add(Origin),
            Add(Snap(0)),
            Kill(O),
            Attach(COW, false),
            Recover,
            Steal(Snap(0), false),
            Write(Origin, 2),
            Attach(COW, true),
            Suspend(Origin),
        ],
        // Another program has deleted a snapshot, and its origin is added later.
        vec![
            Add(Snap(0)),
            Add(Snap(1)),
            Kill(O),
            Steal(Snap(0), false),
            Recover,
            Add(Origin),
            Write(Origin, 2),
        ],
    ]
}

/// State that is recorded, or cannot be recorded.
fn on_record() -> Vec<Vec<Step>> {
    vec![
        // Only a state file is left, and the devices in it cannot be completed immediately.
        vec![
            Add(Origin),
            Add(Snap(0)),
            Kill(O),
            Attach(COW, false),
            Recover,
            Write(Origin, 2),
            Kill(O),
            ForgetRecords,
            Steal(Snap(0), false),
            Steal(Origin, false),
            Full(true),
            Add(Origin),
            Full(false),
        ],
        // A suspended device stays suspended.
        vec![Add(Origin), Suspend(Origin), Write(Origin, 1), Kill(O), Recover],
        // The state file lists the existing devices.
        vec![Add(Origin), Add(Snap(0)), Del(Snap(0), false), Kill(O)],
        vec![Add(Origin), Leave, Add(Snap(0))],
        // A device in use.
        vec![Add(Origin), Use(Origin, true), Del(Origin, false), Write(Origin, 1)],
        // The record of the legs cannot be written, and one of them misses writes.
        vec![
            Add(Mirror),
            Full(true),
            Fail(LEG, Class::Write, 0),
            Write(Mirror, 3),
            Write(Mirror, 4),
            Fail(LEG, Class::Write, 0),
            Write(Mirror, 5),
            Write(Mirror, 6),
            Kill(M),
            Full(false),
            Mend,
            Recover,
        ],
    ]
}

/// Disks that are exchanged or silent.
fn disks() -> Vec<Vec<Step>> {
    vec![
        // A replaced leg belongs to its user; one that takes its own place again stays claimed.
        vec![Add(Mirror), Replace(0, 5), Write(Mirror, 3), Kill(M), Recover, Write(Mirror, 4)],
        vec![Add(Mirror), Replace(0, 3), Write(Mirror, 3), Kill(M), Recover, Write(Mirror, 4)],
        // Another disk is at the path of a disk, and is removed again.
        vec![
            Add(Origin),
            Add(Snap(0)),
            Write(Snap(0), 3),
            Kill(O),
            Swap(COW),
            Recover,
            Write(Origin, 2),
            Swap(COW),
            Recover,
        ],
        vec![Add(Origin), Write(Origin, 1), Kill(O), Swap(0), Recover, Swap(0), Recover],
        vec![Add(Mirror), Write(Mirror, 1), Kill(M), Swap(LEG), Recover, Swap(LEG), Recover],
        // Another snapshot is added on the COW of a left-out snapshot.
        vec![
            Add(Origin),
            Add(Snap(0)),
            Kill(O),
            Attach(COW, false),
            Recover,
            Attach(COW, true),
            Beside(0, true),
            Write(Origin, 2),
            Beside(0, false),
            Recover,
        ],
        // A COW does not answer for a while.
        vec![
            Add(Origin),
            Add(Snap(0)),
            Write(Snap(0), 3),
            Kill(O),
            Hang(COW),
            Recover,
            Write(Origin, 2),
            Answer,
            Recover,
        ],
        vec![Add(Origin), Add(Snap(0)), Hang(0), Write(Origin, 2), Kill(O), Recover],
        // Another family does not take a disk of a device without a server.
        vec![
            Add(Origin),
            Add(Mirror),
            Write(Origin, 1),
            Kill(O),
            Replace(0, 0),
            Del(Mirror, false),
            Recover,
        ],
    ]
}

/// Disks that are used again after their device has ended.
fn again() -> Vec<Vec<Step>> {
    vec![
        // A mirror ends while its first leg has missed something, and is added by the same line.
        vec![
            Add(Mirror),
            Fail(LEG, Class::Write, 0),
            Write(Mirror, 3),
            Del(Mirror, false),
            Mend,
            Add(Mirror),
        ],
        vec![
            Add(Mirror),
            Fail(LEG, Class::Write, 0),
            Write(Mirror, 3),
            Terminate(M),
            Mend,
            Add(Mirror),
            Write(Mirror, 4),
            Del(Mirror, false),
        ],
        // A mirror whose first leg was replaced is added with its former legs.
        vec![
            Add(Mirror),
            Replace(0, 5),
            Write(Mirror, 3),
            Del(Mirror, false),
            FormerLegs,
            Add(Mirror),
        ],
        // A COW is used again.
        vec![
            Add(Origin),
            Add(Snap(0)),
            Write(Origin, 1),
            Del(Origin, false),
            Del(Snap(0), false),
            Wipe(0),
            Add(Snap(0)),
        ],
    ]
}
