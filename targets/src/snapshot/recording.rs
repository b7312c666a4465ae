//! How far the records of a snapshot's exceptions are, and when noted ones are to be committed.
//! Pure.

/// Noted exceptions at which their commit begins: large enough that its cost is nothing for each,
/// and well below the number of exceptions that may be pending, so that writes go on meanwhile.
pub const MANY: usize = 512;

/// How far the records are. Numbers count exceptions in the order of their allocation.
#[derive(Debug, Default)]
pub(super) struct Recording {
    begun: u64,
    /// The records of all before this are durable.
    pub(super) recorded_to: u64,
    /// Somebody waits for the records of all before this.
    pub(super) wanted_to: u64,
    /// Of all before this none is noted that began later.
    pub(super) noted_to: u64,
    /// Exceptions that are noted.
    pub(super) noted: usize,
}

impl Recording {
    /// Another exception begins; returns its number.
    pub(super) fn begin(&mut self) -> u64 {
        self.begun += 1;
        self.begun - 1
    }

    /// There is nothing pending any more, and nothing to wait for if there was nothing noted.
    pub(super) fn catch_up(&mut self) {
        self.recorded_to = self.begun;
    }

    /// Whether noted exceptions are to be committed now.
    pub(super) fn is_due(&self) -> bool {
        self.wanted_to > self.recorded_to || self.noted >= MANY
    }
}
