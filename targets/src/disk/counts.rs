//! The counters of a disk.

use std::cell::Cell;

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
    #[inline]
    pub(super) fn count_read(&self) {
        self.reads.set(self.reads.get() + 1);
    }

    #[inline]
    pub(super) fn count_write(&self) {
        self.writes.set(self.writes.get() + 1);
    }

    #[inline]
    pub(super) fn count_flush(&self) {
        self.flushes.set(self.flushes.get() + 1);
    }

    #[inline]
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
