//! What is needed to open a store, and its ownership.

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
    /// The chunk size of a new store; a store on disk has its own.
    pub chunk_size: Option<ChunkSize>,
    /// Whether records are kept on disk.
    pub persistent: bool,
    /// Treat a COW that holds something else as empty.
    pub overwrite: bool,
    /// The identity of a new store and its owner; without it a new store has no identity, like one
    /// made by the kernel.
    pub ownership: Option<&'a Ownership>,
}

/// The identity of a new store, and the origin that stores must have been made for.
#[derive(Clone, Debug)]
pub struct Ownership {
    /// The id of a new store.
    pub store: StoreId,
    /// The origin's persistent name; empty if it has none.
    pub origin: String,
    /// A store that was made for another origin becomes this one's.
    pub adopt: bool,
}
