//! The persistent exception store on disk, version 1, as the kernel writes it. Pure: bytes in,
//! facts out.
//!
//! ```text
//! chunk 0        header: "SnAp", valid, version, chunk size in sectors; the rest zero
//! chunk 1        area 0: records of 16 bytes, old chunk and new chunk, ended by a record with new
//!                chunk 0
//! chunk 2..      as many data chunks as an area has records, then area 1, and so on
//! ```
//!
//! All numbers are little-endian and there are no checksums, so everything that can be checked is
//! checked here: the kernel takes any record, this loader refuses one that points outside the
//! devices, into metadata, or twice.
//!
//! The header is in `header`, a store's identity in `identity`, its layout in `layout`, the records
//! in `record`, and allocation in `cursor`.

mod cursor;
mod header;
pub mod identity;
mod layout;
mod record;

pub use cursor::{Cursor, Usage};
pub use header::{Found, HEADER_BYTES, Header, HeaderError, MAGIC, VERSION, examine};
pub use identity::{Identity, StoreId};
pub use layout::{DEFAULT_CHUNK_SECTORS, Layout, MIN_COW_CHUNKS, RECORD_BYTES};
pub use record::{NEW_CHUNK_LIMIT, Record, RecordError, RecordFault, check_record};

#[cfg(test)]
#[path = "format_tests.rs"]
mod tests;
