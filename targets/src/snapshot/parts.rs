//! What a snapshot is made of.

use std::rc::Rc;

use super::Event;
use super::journal::Journal;
use super::losses::LossRecord;
use super::store_open::Ownership;
use crate::copy;
use crate::disk::{Disk, Host};
use crate::exec::Executor;
use crate::units::{ChunkSize, Sectors};

/// What a write to the snapshot does when the COW is full.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFull {
    /// The snapshot becomes invalid (store type `P`).
    Invalidate,
    /// The snapshot stays readable (store type `PO`).
    Overflow,
}

/// The user's choices.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What a full COW does to snapshot writes.
    pub on_full: OnFull,
    /// Whole-chunk discards write zeroes to the COW chunk; without it discards are not supported.
    pub discard_zeroes_cow: bool,
    /// Discards also go to the origin.
    pub discard_passdown_origin: bool,
}

/// What is needed to make a snapshot.
pub struct Parts<'a> {
    /// Runs its committer.
    pub executor: &'a Executor,
    /// Lends its buffers.
    pub host: &'a Rc<dyn Host>,
    /// Copies its chunks: the group's client.
    pub copy: &'a copy::Client,
    /// The disk it is a snapshot of.
    pub origin: &'a Disk,
    /// Where it keeps chunks.
    pub cow: &'a Disk,
    /// Chunk size of a new store.
    pub chunk_size: Option<ChunkSize>,
    /// Whether the store outlives the server.
    pub persistent: bool,
    /// Treat a foreign COW as empty.
    pub overwrite: bool,
    /// As [`OpenStore::ownership`](super::store_open::OpenStore).
    pub ownership: Option<&'a Ownership>,
    /// The content of its store is gone or wrong: the snapshot is invalid from the start.
    pub lost: bool,
    /// Where the loss of its store is recorded, when its COW cannot be marked.
    pub losses: Rc<dyn LossRecord>,
    /// Length of the snapshot device; `None` for the origin's.
    pub len: Option<Sectors>,
    /// The user's choices.
    pub options: Options,
    /// Where records of acknowledged writes wait for their commit; without it the writes wait
    /// instead. Persistent stores only.
    pub journal: Option<Rc<dyn Journal>>,
    /// Receives the events for an administrator.
    pub listener: Rc<dyn Fn(Event)>,
}
