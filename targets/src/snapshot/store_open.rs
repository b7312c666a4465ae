//! What is needed to open a store, and whose it is.

use std::rc::Rc;

use super::format::StoreId;
use crate::disk::{Disk, Host};
use crate::exec::Executor;
use crate::units::ChunkSize;

/// What is needed to open a store.
pub struct OpenStore<'a> {
    /// Runs the store's I/O.
    pub executor: &'a Executor,
    /// Lends its buffers.
    pub host: &'a Rc<dyn Host>,
    /// The origin: its size bounds the records, its block size the chunk size.
    pub origin: &'a Disk,
    /// The COW device.
    pub cow: &'a Disk,
    /// The chunk size of a new store; one on disk wins over it.
    pub chunk_size: Option<ChunkSize>,
    /// Whether records are kept on disk.
    pub persistent: bool,
    /// Treat a COW that holds something else as empty.
    pub overwrite: bool,
    /// Which store a new one is and whose; without it a new store has no identity, as one of the
    /// kernel's.
    pub ownership: Option<&'a Ownership>,
}

/// Which store a new one is, and the origin that stores must have been made for.
#[derive(Clone, Debug)]
pub struct Ownership {
    /// The id of a new store.
    pub store: StoreId,
    /// The origin's lasting name; empty if it has none.
    pub origin: String,
    /// A store that was made for another origin is this one's from now on.
    pub adopt: bool,
}
