//! Where noted records stand until they are durable: memory that outlives the process.
//!
//! Rule kept here: I10. A record is noted before its write is acknowledged, and erased after its
//! commit.
//!
//! Before a commit all its records are in the table, also those whose writes wait for it, and they
//! are counted as recorded before they are taken out again. So the COW has, beyond the records that
//! the table counts, only records that are in it; any other was written by another program, and the
//! table is no longer about this store.
//!
//! What stands there belongs to one store on one disk in one life of the machine: whoever keeps it
//! sees to that. After a loss of power nothing may stand there, because the data that the records
//! point to may be lost as well.

use super::exceptions::MAX_PENDING;
use super::format::Record;

/// Places for notes: one for each exception that may be pending.
pub const PLACES: usize = MAX_PENDING;

/// What a server that died has left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Noted {
    /// The records, in no order.
    pub records: Vec<Record>,
    /// How many were on the COW already, as far as it knew.
    pub recorded: u64,
}

/// A table of [`PLACES`] records.
pub trait Notes {
    /// What a server that died has left.
    fn left(&self) -> Noted;

    /// Remembers how many records are on the COW: tells a store from another one, or from an older
    /// state of its own.
    fn set_recorded(&self, count: u64);

    /// Writes a record to a place, or erases what stands there. Whenever the process dies, a place
    /// holds one of the two.
    fn put(&self, place: usize, record: Option<Record>);

    /// Erases everything.
    fn clear(&self);

    /// What a person would call the table, for messages: a path.
    fn name(&self) -> String;
}
