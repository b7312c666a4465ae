//! Whether a store can be merged: checked before anything is written.
//!
//! Rule kept here: a merge writes nothing to the origin that the merged snapshot does not show.

use super::merge::Merge;
use super::store_error::StoreError;
use super::target::Snapshot;
use crate::mutant::{self, Mutant};
use crate::units::{Sector, Sectors};

impl Merge {
    /// Refuses a store that is not there, and one whose chunks could reach beyond the snapshot.
    ///
    /// An origin may have grown since its snapshot was made. A chunk that was copied before is
    /// short on the COW, and what stands behind it there is nothing of the origin's. A chunk behind
    /// the device's end, which is the snapshot's, was never shown by it.
    pub(super) fn check_store(snapshot: &Snapshot) -> Result<(), StoreError> {
        let (store, len) = (snapshot.store(), snapshot.len());
        let refuse = |why| Err(StoreError::Merge(snapshot.cow().name().clone(), why));
        if store.is_new() {
            return refuse("there is no snapshot store on it that could be merged");
        }
        let state = snapshot.state.borrow();
        if !state.health().is_kept() || mutant::is(Mutant::MergeWritesBehindEnd) {
            return Ok(());
        }
        let size = snapshot.chunk_size();
        if state.complete.end() > size.chunks_in(len) {
            return refuse(
                "it has exceptions behind the device's end: give the table the snapshot's length",
            );
        }
        let before = store.origin_sectors().filter(|before| *before < len);
        let is_short = |before: &Sectors| {
            let chunk = size.chunk_of(Sector(before.0));
            size.start_of(chunk).0 < before.0 && state.mapped(chunk).is_some()
        };
        if before.as_ref().is_some_and(is_short) {
            return refuse(
                "it was made when the origin ended within a chunk that has changed since: give \
                 the table the length that the origin had then",
            );
        }
        Ok(())
    }
}
