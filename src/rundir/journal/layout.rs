//! Layout of a journal's file.
//!
//! 64-bit words in the machine's byte order: a magic word, the boot's id (two words), the disk's
//! number in this boot, the number of records on the COW, the store's id (two words, zero if it has
//! none), a hash of the disk's lasting name (zero if it has none); then [`PLACES`] places of two
//! words, the chunk and the COW chunk of a record. A COW chunk of zero means that the place is
//! empty.

use dm_targets::snapshot::journal::PLACES;

/// First word of a journal, and its version: "ublkdmN1" on a little-endian machine.
pub(super) const MAGIC: u64 = 0x314e_6d64_6b6c_6275;
/// Extension of journals.
pub const EXTENSION: &str = "records";
/// Words before the first place.
pub(super) const HEADER_WORDS: usize = 8;
/// The word that counts the records on the COW.
pub(super) const RECORDED_WORD: usize = 4;
/// Words of a journal.
pub(super) const WORDS: usize = HEADER_WORDS + 2 * PLACES;
/// Length of a journal's file.
pub(super) const BYTES: u64 = (WORDS * size_of::<u64>()) as u64;
