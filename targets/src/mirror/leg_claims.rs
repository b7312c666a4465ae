//! What the record of a mirror's legs claims, beside what is true. Pure.
//!
//! Rule kept here: a record that claims more than the truth is replaced before a request ends.

use super::leg_set::LegSet;

/// The claims of a leg state, with legs by their index.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Claims {
    pub(super) sources: LegSet,
    pub(super) in_sync: bool,
    pub(super) log_works: bool,
}

impl Claims {
    /// Whether these claims are more than the truth: a server that trusts them could use a stale
    /// leg as a source.
    pub(super) fn exceed(self, truth: Claims) -> bool {
        !self.sources.without(truth.sources).is_empty()
            || self.in_sync && !truth.in_sync
            || self.log_works && !truth.log_works
    }

    /// The most that a record with one of two contents may claim.
    pub(super) fn or(self, other: Claims) -> Claims {
        Claims {
            sources: LegSet(self.sources.0 | other.sources.0),
            in_sync: self.in_sync || other.in_sync,
            log_works: self.log_works || other.log_works,
        }
    }
}
