//! How far the records of a snapshot's exceptions are, and when journaled ones must be committed.
//! Pure.

/// Journaled exceptions at which their commit begins: large enough that its cost is nothing for
/// each, and well below the limit of pending exceptions, so that writes continue meanwhile.
pub const MANY: usize = 512;

/// How far the records are. Numbers count exceptions in the order of their allocation.
#[derive(Debug, Default)]
pub(super) struct Recording {
    begun: u64,
    /// The records of all exceptions before this are durable.
    pub(super) recorded_to: u64,
    /// A request waits for the records of all exceptions before this.
    pub(super) wanted_to: u64,
    /// Every journaled exception is before this.
    pub(super) journaled_to: u64,
    /// Exceptions that are journaled.
    pub(super) journaled: usize,
}

impl Recording {
    /// Another exception begins; returns its number.
    pub(super) fn begin(&mut self) -> u64 {
        self.begun += 1;
        self.begun - 1
    }

    /// Nothing is pending any more, and nothing is left to wait for if nothing was journaled.
    pub(super) fn catch_up(&mut self) {
        self.recorded_to = self.begun;
    }

    /// Whether journaled exceptions must be committed now.
    pub(super) fn is_due(&self) -> bool {
        self.wanted_to > self.recorded_to || self.journaled >= MANY
    }
}
