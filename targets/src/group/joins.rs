//! How the snapshots of a group's devices join their origins, and leave them.
//!
//! Rule kept here: a device gets a snapshot only when that has joined its origin (I5), and a
//! snapshot that would have missed a change joins none (I9).

use super::Group;
use crate::target::Target;

impl Group {
    /// Makes the next target of a device usable; a snapshot joins its origin.
    pub(super) async fn begin(&self, id: u32, target: &Target) -> Result<(), String> {
        self.activate(id, target).await?;
        let joined = self.join(target).await;
        if joined.is_err() {
            drop(target.close().await);
        }
        joined
    }

    /// A snapshot joins the origin of its disk.
    ///
    /// # Errors
    /// It would have missed a change of the origin.
    pub(super) async fn join(&self, target: &Target) -> Result<(), String> {
        let Target::Snapshot(snapshot) = target else { return Ok(()) };
        let Some(origin) = self.origins.of(snapshot) else { return Ok(()) };
        if origin.join_unchanged(snapshot.clone()).await {
            return Ok(());
        }
        let (cow, limits) = (snapshot.cow().name(), snapshot.cow().limits());
        let bytes = limits.logical_block_bytes.max(4096);
        Err(format!(
            "{cow}: its origin was changed while the snapshot that is on it was being added, \
             which would show a mixture of two moments; zero its start with `ublk-dm zero --to \
             {cow}:0+{bytes}` for a new one; `add snapshot --other-origin` takes it as it is"
        ))
    }

    /// A snapshot leaves the origin of its disk: writes no longer preserve anything for it. If it
    /// is `outlived` it is marked invalid while it still holds back the origin's writes.
    pub(super) async fn leave(&self, target: &Target, outlived: bool) {
        if let Target::Snapshot(snapshot) = target {
            if let Some(origin) = self.origins.of(snapshot) {
                if outlived {
                    snapshot.give_up().await;
                }
                origin.leave(snapshot);
            }
        }
    }
}
