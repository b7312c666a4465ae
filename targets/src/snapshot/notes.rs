//! Where noted records stand until they are durable: memory that outlives the process.
//!
//! Rule kept here: I10. A record is noted before its write is acknowledged, and erased after its commit.
//!
//! What stands there belongs to one store on one disk in one life of the machine: whoever keeps it sees to that. After a
//! loss of power nothing may stand there, because the data that the records point to may be lost as well.

use super::format::Record;
use super::target::MAX_PENDING;

/// Places for notes: one for each exception that may be pending.
pub const PLACES: usize = MAX_PENDING;

/// A table of [`PLACES`] records.
pub trait Notes {
    /// What a server that died has left, in no order.
    fn left(&self) -> Vec<Record>;

    /// Writes a record to a place, or erases what stands there. Whenever the process dies, a place holds one of the two.
    fn put(&self, place: usize, record: Option<Record>);

    /// Erases everything.
    fn clear(&self);

    /// What a person would call the table, for messages: a path.
    fn name(&self) -> String;
}
