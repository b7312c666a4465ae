//! Where journaled records stay until they are durable: memory that outlives the process.
//!
//! Rule kept here: I10. A record is journaled before its write is acknowledged, and erased after
//! its commit.
//!
//! Before a commit all its records are in the journal, including those whose writes wait for the
//! commit, and they are counted as recorded before they are erased. So beyond the records that the
//! journal counts, the COW has only records that are in the journal; any other was written by
//! another program, and the journal no longer belongs to this store.
//!
//! A journal belongs to one store on one disk within one boot of the machine; its implementation
//! ensures that. After a loss of power it must be empty, because the data that its records point to
//! may be lost as well.

use super::exceptions::MAX_PENDING;
use super::format::Record;

/// Places in a journal: one for each exception that may be pending.
pub const PLACES: usize = MAX_PENDING;

/// What a server that died has left in the journal.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Journaled {
    /// The records, in no particular order.
    pub records: Vec<Record>,
    /// How many were on the COW already, as far as the server knew.
    pub recorded: u64,
}

/// A journal of [`PLACES`] records.
pub trait Journal {
    /// What a server that died has left.
    fn left(&self) -> Journaled;

    /// Stores how many records are on the COW: this tells a store from another one, or from an
    /// older state of its own.
    fn set_recorded(&self, count: u64);

    /// Writes a record to a place, or erases the place. Atomic if the process dies: a place holds a
    /// whole record or none.
    fn put(&self, place: usize, record: Option<Record>);

    /// Erases everything.
    fn clear(&self);

    /// The journal's name in messages: a path.
    fn name(&self) -> String;
}
