//! Lives that are written down: each leads to where one rule of the administrator acts.

use dm_targets::sim::disk::Class;

use super::Step::{self, *};
use super::town::What::{Mirror, Origin, Snap};

/// The disk of the first snapshot's COW, and of the mirror's first leg.
const COW: usize = 1;
const LEG: usize = 3;

/// All of them.
pub fn stories() -> Vec<Vec<Step>> {
    let (o, m) = ("o", "mirror-a");
    vec![
        // A number is another program's by now.
        vec![Add(Origin), Steal(Origin, true)],
        vec![Add(Origin), Kill(o), Steal(Origin, true), Recover],
        // SIGTERM while the origin is in use, and its snapshot has the lower number.
        vec![
            Add(Snap(0)),
            Add(Origin),
            Use(Origin, true),
            Terminate(o),
            Write(Origin, 1),
            Recover,
            Write(Origin, 2),
        ],
        // A mirror whose first leg has missed something.
        vec![
            Add(Mirror),
            Fail(LEG, Class::Write, 0),
            Write(Mirror, 3),
            Kill(m),
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
        // A suspend of what was suspended is taken back.
        vec![Add(Origin), Suspend(Origin), Leave, Suspend(Origin)],
        // A table whose leg is not there.
        vec![Add(Mirror), Write(Mirror, 1), Load(true), Resume(Mirror), Write(Mirror, 2)],
        vec![
            Add(Mirror),
            Write(Mirror, 1),
            Load(false),
            Suspend(Mirror),
            Write(Mirror, 2),
            Resume(Mirror),
        ],
        // A snapshot's COW is away when its origin is taken over.
        vec![Add(Snap(0)), Add(Origin), Kill(o), Attach(COW, false), Recover, Write(Origin, 2)],
        vec![
            Add(Origin),
            Add(Snap(0)),
            Kill(o),
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
            Kill(o),
            Attach(COW, false),
            Recover,
            Attach(COW, true),
            Recover,
        ],
        vec![
            Add(Origin),
            Add(Snap(0)),
            Kill(o),
            Attach(COW, false),
            Recover,
            Write(Origin, 2),
            Del(Snap(0), true),
        ],
        vec![Add(Snap(0)), Add(Origin), Kill(o), Attach(COW, false), Recover, Del(Origin, false)],
        // The machine starts anew meanwhile, and its run directory is kept.
        vec![
            KeepFiles,
            Add(Snap(0)),
            Add(Origin),
            Kill(o),
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
            Kill(o),
            Attach(COW, false),
            Recover,
            Kill(o),
            Recover,
            Write(Origin, 2),
            Flush(Origin),
            Kill(o),
            PowerCut,
        ],
        // The state file of an earlier version tells of a loss, and nothing else does.
        vec![
            Add(Origin),
            Add(Snap(0)),
            Kill(o),
            Attach(COW, false),
            Recover,
            Write(Origin, 2),
            Kill(o),
            ForgetRecords,
            Recover,
            KeepFiles,
            PowerCut,
        ],
        vec![
            Add(Origin),
            Add(Snap(0)),
            Kill(o),
            Attach(COW, false),
            Recover,
            Write(Origin, 2),
            ForgetRecords,
            Del(Snap(0), true),
        ],
        // A snapshot goes while nothing serves it, and its origin lives on.
        vec![Add(Origin), Add(Snap(0)), Kill(o), Steal(Snap(0), false), Recover, Write(Origin, 2)],
        vec![Add(Origin), Add(Snap(0)), Kill(o), Del(Snap(0), true), Recover, Write(Origin, 2)],
        // The same, and its COW is away: it is recorded by what it was known by.
        vec![
            Add(Origin),
            Add(Snap(0)),
            Kill(o),
            Attach(COW, false),
            Del(Snap(0), true),
            Attach(COW, true),
            Recover,
            Write(Origin, 2),
        ],
        vec![Add(Origin), Add(Snap(0)), Del(Snap(0), false), Kill(o), Recover, Write(Origin, 2)],
        vec![
            Add(Origin),
            Add(Snap(0)),
            Use(Origin, true),
            Del(Snap(0), false),
            Write(Origin, 2),
            Kill(o),
            Recover,
        ],
        // Another program deletes a snapshot that its server has left out.
        vec![
            Add(Origin),
            Add(Snap(0)),
            Kill(o),
            Attach(COW, false),
            Recover,
            Steal(Snap(0), false),
            Write(Origin, 2),
            Attach(COW, true),
            Suspend(Origin),
        ],
        // Another program has deleted a snapshot, and its origin comes later.
        vec![
            Add(Snap(0)),
            Add(Snap(1)),
            Kill(o),
            Steal(Snap(0), false),
            Recover,
            Add(Origin),
            Write(Origin, 2),
        ],
        // Nothing is left but a state file, and what that tells of cannot be settled at once.
        vec![
            Add(Origin),
            Add(Snap(0)),
            Kill(o),
            Attach(COW, false),
            Recover,
            Write(Origin, 2),
            Kill(o),
            ForgetRecords,
            Steal(Snap(0), false),
            Steal(Origin, false),
            Full(true),
            Add(Origin),
            Full(false),
        ],
        // What is suspended stays so.
        vec![Add(Origin), Suspend(Origin), Write(Origin, 1), Kill(o), Recover],
        // The state file tells of what there is.
        vec![Add(Origin), Add(Snap(0)), Del(Snap(0), false), Kill(o)],
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
            Kill(m),
            Full(false),
            Mend,
            Recover,
        ],
        // The kernel does not start what is taken over, and is asked again.
        vec![
            Add(Snap(0)),
            Add(Origin),
            Kill(o),
            Refuse(2),
            Recover,
            Mend,
            Recover,
            Write(Origin, 2),
        ],
        vec![
            Add(Origin),
            Add(Snap(0)),
            Kill(o),
            Attach(COW, false),
            Refuse(1),
            Recover,
            Attach(COW, true),
            Recover,
            Write(Origin, 2),
        ],
        vec![Add(Mirror), Suspend(Mirror), Kill(m), Refuse(1), Recover, Terminate(m), Recover],
        // A leg that has been replaced is its user's.
        vec![Add(Mirror), Replace(0, 5), Write(Mirror, 3), Kill(m), Recover, Write(Mirror, 4)],
        // Another disk stands at the path of one, and goes again.
        vec![
            Add(Origin),
            Add(Snap(0)),
            Write(Snap(0), 3),
            Kill(o),
            Swap(COW),
            Recover,
            Write(Origin, 2),
            Swap(COW),
            Recover,
        ],
        vec![Add(Origin), Write(Origin, 1), Kill(o), Swap(0), Recover, Swap(0), Recover],
        vec![Add(Mirror), Write(Mirror, 1), Kill(m), Swap(LEG), Recover, Swap(LEG), Recover],
        // The COW of a snapshot that is left out is to be another one's.
        vec![
            Add(Origin),
            Add(Snap(0)),
            Kill(o),
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
            Kill(o),
            Hang(COW),
            Recover,
            Write(Origin, 2),
            Answer,
            Recover,
        ],
        vec![Add(Origin), Add(Snap(0)), Hang(0), Write(Origin, 2), Kill(o), Recover],
        // A disk of a device without a server is not taken by another family.
        vec![
            Add(Origin),
            Add(Mirror),
            Write(Origin, 1),
            Kill(o),
            Replace(0, 0),
            Del(Mirror, false),
            Recover,
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
