//! How snapshots join an origin, and leave it.
//!
//! Rules kept here: a snapshot has all writes that were acknowledged before it joined and nothing
//! else (I5); one whose store is of an earlier moment does not join an origin that has been changed
//! since (I9). One that has joined has no loss on record that is older (I9: the next server would
//! mark it).

use std::rc::Rc;

use super::exceptions::Health;
use super::origin::Origin;
use super::target::Snapshot;
use crate::mutant::{self, Mutant};

impl Origin {
    /// Adds a snapshot at a moment when no write is in flight: writes acknowledged before are in
    /// the snapshot, writes that start afterwards are not.
    pub async fn join(&self, snapshot: Rc<Snapshot>) {
        self.gate.hold().await;
        self.let_in(snapshot);
        self.gate.release();
    }

    /// The same, unless the snapshot must have all changes and would miss one: `false`, and it has
    /// not joined (I9; [`Snapshot::must_have_all_since`]).
    pub(crate) async fn join_unchanged(&self, snapshot: Rc<Snapshot>) -> bool {
        self.gate.hold().await;
        let changes = self.gate.changes();
        let has_all = snapshot.joined.seen_at.take().is_none_or(|seen| seen == changes);
        if has_all {
            self.let_in(snapshot);
        }
        self.gate.release();
        has_all
    }

    fn let_in(&self, snapshot: Rc<Snapshot>) {
        snapshot.set_preserved(self.preserved.clone());
        self.gate.departed().forget(snapshot.cow_names());
        if snapshot.health() != Health::Invalid && !mutant::is(Mutant::JoinedStillLost) {
            snapshot.losses.joins();
        }
        self.snapshots.borrow_mut().push(snapshot);
        if self.snapshots.borrow().len() == 1 || !mutant::is(Mutant::JoinKeepsPreserved) {
            self.forget_preserved();
        }
        self.tell_who_is_alone();
    }

    /// Whether it has no snapshot, none that has left it is still to be recorded as lost, and
    /// nothing of a merge is to be told.
    pub(crate) fn is_unused(&self) -> bool {
        let is_deserted = self.snapshots.borrow().is_empty() && self.departed().is_empty();
        is_deserted && !self.has_merge() && self.unflushed().is_ok()
    }

    /// Removes a snapshot; writes no longer preserve anything for it. Its store stays valid until
    /// the origin's next change, which first records that it no longer is.
    pub fn leave(&self, snapshot: &Rc<Snapshot>) {
        if let Some(loss) = snapshot.loss_when_left() {
            self.gate.departed().add(snapshot.losses.clone(), loss);
        }
        self.snapshots.borrow_mut().retain(|other| !Rc::ptr_eq(other, snapshot));
        if self.snapshots.borrow().is_empty() {
            self.preserved.borrow_mut().restart([]);
        }
        self.tell_who_is_alone();
    }
}
