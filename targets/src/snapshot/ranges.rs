//! The ranges that a request touches on the disks of a snapshot.
//!
//! Rule kept here: I6 (every started operation is awaited).

use std::cell::RefCell;

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

/// The ranges of a stretch of a request, and the operations on them.
#[derive(Default)]
pub(super) struct Runs {
    items: Vec<Run>,
    ios: Vec<Io>,
}

impl Runs {
    pub(super) fn full(&self) -> bool {
        self.items.len() == RUNS
    }

    /// Adds a range, joined with the last one if it continues that, on the disk and in the request.
    pub(super) fn push(
        &mut self,
        disk: &Disk,
        at: Sector,
        count: Sectors,
        offset: Sectors,
        fresh: bool,
    ) {
        if let Some(last) = self.items.last_mut() {
            let follows =
                last.at.plus(last.count) == at && last.offset.0 + last.count.0 == offset.0;
            if follows && last.fresh == fresh && last.disk.same(disk) {
                last.count.0 += count.0;
                return;
            }
        }
        self.items.push(Run { disk: disk.clone(), at, count, offset, fresh });
    }

    /// Starts the operation on every range.
    pub(super) fn start(&mut self, op: impl FnMut(&Run) -> Io) {
        self.ios.extend(self.items.iter().map(op));
    }

    /// Awaits every operation, also after an error (I6), and returns the first error of the old and
    /// of the fresh ranges. No ranges remain.
    pub(super) async fn finish(&mut self) -> (Option<DiskError>, Option<DiskError>) {
        let (mut old, mut fresh) = (None, None);
        // From the last to the first, so that the first error remains. Each is awaited where it
        // is: moved out of the list, it would be copied on every request.
        for (run, io) in self.items.iter().zip(&mut self.ios).rev() {
            if let Err(error) = io.await {
                *if run.fresh { &mut fresh } else { &mut old } = Some(error);
            }
        }
        self.clear();
        (old, fresh)
    }

    fn clear(&mut self) {
        self.items.clear();
        self.ios.clear();
    }
}

/// Lists of ranges that no request uses, kept with their memory for the next.
#[derive(Default)]
pub(super) struct IdleRuns(RefCell<Vec<Runs>>);

impl IdleRuns {
    pub(super) fn take(&self) -> Runs {
        self.0.borrow_mut().pop().unwrap_or_default()
    }

    pub(super) fn give_back(&self, mut runs: Runs) {
        runs.clear();
        self.0.borrow_mut().push(runs);
    }
}
