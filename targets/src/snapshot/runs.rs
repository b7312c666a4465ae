//! The ranges that a request touches on the disks of a snapshot.
//!
//! Rule kept here: I6 (everything started is awaited).

use crate::disk::{Disk, DiskError, Io};
use crate::units::{Sector, Sectors};

/// Ranges of one request in flight together; a request that needs more does the rest afterwards.
const RUNS: usize = 16;

/// A contiguous range of one disk that a request touches.
pub(super) struct Run {
    pub(super) disk: Disk,
    pub(super) at: Sector,
    pub(super) count: Sectors,
    pub(super) offset: Sectors,
    /// The range is in COW chunks whose record does not exist yet.
    pub(super) fresh: bool,
}

/// The ranges of a stretch of a request.
#[derive(Default)]
pub(super) struct Runs {
    items: [Option<Run>; RUNS],
    len: usize,
}

impl Runs {
    pub(super) fn full(&self) -> bool {
        self.len == RUNS
    }

    /// Adds a range, joined with the last one if it continues it.
    pub(super) fn push(&mut self, run: Run) {
        if let Some(last) = self.len.checked_sub(1).and_then(|index| self.items[index].as_mut()) {
            let follows = last.at.plus(last.count) == run.at && last.fresh == run.fresh;
            if follows && last.disk.same(&run.disk) {
                last.count.0 += run.count.0;
                return;
            }
        }
        self.items[self.len] = Some(run);
        self.len += 1;
    }

    /// Starts the operation on every range.
    pub(super) fn start(&self, mut op: impl FnMut(&Run) -> Io) -> [Option<Io>; RUNS] {
        std::array::from_fn(|index| self.items[index].as_ref().map(&mut op))
    }
}

/// Awaits every operation, also after an error (I6), and gives the first error of the old and of the fresh ranges.
pub(super) async fn finish(runs: &Runs, ios: &mut [Option<Io>; RUNS]) -> (Option<DiskError>, Option<DiskError>) {
    let (mut old, mut fresh) = (None, None);
    for (index, io) in ios.iter_mut().enumerate() {
        let Some(io) = io.take() else { continue };
        if let Err(error) = io.await {
            let is_fresh = runs.items[index].as_ref().is_some_and(|run| run.fresh);
            if is_fresh { &mut fresh } else { &mut old }.get_or_insert(error);
        }
    }
    (old, fresh)
}
