//! The counters of a disk.

use std::cell::Cell;

use super::OpKind;

/// Operations of a disk since it was opened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Reads started.
    pub reads: u64,
    /// Writes started (FUA included, discards and zeroes not).
    pub writes: u64,
    /// Flushes started.
    pub flushes: u64,
    /// Operations that failed.
    pub errors: u64,
}

/// The same while it is counted.
#[derive(Default)]
pub(super) struct Counts {
    reads: Cell<u64>,
    writes: Cell<u64>,
    flushes: Cell<u64>,
    errors: Cell<u64>,
}

impl Counts {
    /// An operation is started.
    #[inline]
    pub(super) fn count(&self, kind: OpKind) {
        // No `match`: its jump table costs more than the two kinds that nearly all are.
        if kind == OpKind::Read {
            self.reads.set(self.reads.get() + 1);
        } else if matches!(kind, OpKind::Write { .. }) {
            self.writes.set(self.writes.get() + 1);
        } else if kind == OpKind::Flush {
            self.flushes.set(self.flushes.get() + 1);
        }
    }

    /// An operation has failed.
    pub(super) fn count_error(&self) {
        self.errors.set(self.errors.get() + 1);
    }

    /// The numbers so far.
    pub(super) fn get(&self) -> Counters {
        Counters {
            reads: self.reads.get(),
            writes: self.writes.get(),
            flushes: self.flushes.get(),
            errors: self.errors.get(),
        }
    }
}
