//! The health of a log's device: one state instead of flags that could contradict each other.
//!
//! Rule kept here: a failed log stays failed until it has been written as a whole, and a dead log
//! never becomes alive again.

/// The health of a log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::mirror) enum Health {
    /// All reads and writes have succeeded so far.
    #[default]
    Alive,
    /// An operation has failed. All marks are nevertheless durable, or are being made durable.
    Dead(Letter),
    /// Marks could not be made durable.
    Failed(Letter),
}

/// The kind of failure, as the status line shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mirror) enum Letter {
    /// A read or a write: `D`.
    Device,
    /// A flush of the log's device: `F`, whatever else failed. A failed flush of a leg is shown in
    /// the leg's letter, as in the kernel.
    Flush,
}

impl Health {
    /// The kind of failure, if any.
    pub(in crate::mirror) fn letter(self) -> Option<Letter> {
        match self {
            Health::Alive => None,
            Health::Dead(letter) | Health::Failed(letter) => Some(letter),
        }
    }

    /// Whether any operation has failed.
    pub(in crate::mirror) fn is_dead(self) -> bool {
        self != Health::Alive
    }

    /// Whether marks could not be made durable, and the log has not been written as a whole since.
    #[inline]
    pub(in crate::mirror) fn has_failed(self) -> bool {
        matches!(self, Health::Failed(_))
    }

    /// The health after a failed read or write.
    pub(super) fn after_error(self) -> Health {
        if self == Health::Alive { Health::Dead(Letter::Device) } else { self }
    }

    /// The health after a failed flush of the log's device.
    pub(super) fn after_flush_error(self) -> Health {
        if self.has_failed() { Health::Failed(Letter::Flush) } else { Health::Dead(Letter::Flush) }
    }

    /// The health after marks could not be made durable.
    pub(super) fn without_marks(self) -> Health {
        Health::Failed(self.letter().unwrap_or(Letter::Device))
    }

    /// The whole log is about to be written; if that fails, the log has failed again.
    pub(super) fn tried_again(self) -> Health {
        match self {
            Health::Failed(letter) => Health::Dead(letter),
            other => other,
        }
    }
}

/// The result of the last batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum LastBatch {
    /// It was written.
    #[default]
    Written,
    /// It could not be written, and had no marks: clean regions are still dirty on disk.
    ClearsLost,
    /// It could not be written, and had marks, which are in memory only.
    MarksLost,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_log_is_dead_and_stays_so_when_it_works_again() {
        let failed = Health::Alive.without_marks();
        assert!(failed.has_failed() && failed.is_dead());
        assert_eq!(failed.after_error(), failed, "another error changes nothing");
        let again = failed.tried_again();
        assert!(!again.has_failed() && again.is_dead());
        assert_eq!(again.letter(), Some(Letter::Device));
        assert_eq!(Health::Alive.tried_again(), Health::Alive);
    }

    #[test]
    fn a_flush_that_failed_is_what_the_status_shows_from_then_on() {
        let flush = Health::Alive.after_error().after_flush_error();
        assert_eq!(flush, Health::Dead(Letter::Flush));
        assert_eq!(flush.after_error(), flush);
        assert_eq!(flush.without_marks().letter(), Some(Letter::Flush));
        let failed = Health::Alive.without_marks().after_flush_error();
        assert_eq!(failed, Health::Failed(Letter::Flush), "marks are missing all the same");
    }
}
