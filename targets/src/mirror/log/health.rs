//! What has become of a log's device: one state where flags could contradict each other.
//!
//! Rule kept here: a log that has failed stays so until it has been written as a whole, and one
//! that was dead once never passes for alive again.

/// How far a log can be trusted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(in crate::mirror) enum Health {
    /// All of it could be read and written so far.
    #[default]
    Alive,
    /// Something failed at some time. All marks are durable all the same, or are being made so.
    Dead(Letter),
    /// Marks could not be made durable.
    Failed(Letter),
}

/// What failed, as the status line says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::mirror) enum Letter {
    /// A read or a write: `D`.
    Device,
    /// A flush of the log's device: `F`, whatever else failed. That a leg could not be flushed is
    /// the leg's letter, as in the kernel.
    Flush,
}

impl Health {
    /// What failed at some time.
    pub(in crate::mirror) fn letter(self) -> Option<Letter> {
        match self {
            Health::Alive => None,
            Health::Dead(letter) | Health::Failed(letter) => Some(letter),
        }
    }

    /// Whether something failed at some time.
    pub(in crate::mirror) fn is_dead(self) -> bool {
        self != Health::Alive
    }

    /// Whether marks could not be made durable, and the log has not been written as a whole since.
    #[inline]
    pub(in crate::mirror) fn has_failed(self) -> bool {
        matches!(self, Health::Failed(_))
    }

    /// After a read or a write that failed.
    pub(super) fn after_error(self) -> Health {
        if self == Health::Alive { Health::Dead(Letter::Device) } else { self }
    }

    /// After a flush of the log's device that failed.
    pub(super) fn after_flush_error(self) -> Health {
        if self.has_failed() { Health::Failed(Letter::Flush) } else { Health::Dead(Letter::Flush) }
    }

    /// After marks could not be made durable.
    pub(super) fn without_marks(self) -> Health {
        Health::Failed(self.letter().unwrap_or(Letter::Device))
    }

    /// All of the log is about to be written: if that fails it has failed again.
    pub(super) fn tried_again(self) -> Health {
        match self {
            Health::Failed(letter) => Health::Dead(letter),
            other => other,
        }
    }
}

/// What has become of the last batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum LastBatch {
    /// It was written.
    #[default]
    Written,
    /// It could not be, and had no marks: what is clean is called dirty on disk.
    ClearsLost,
    /// It could not be, and had marks, which are in memory only.
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
