//! The origins of a process, by disk: made when a snapshot or an origin's device first needs one,
//! and removed when none does. So an origin outlives its device's table, and a snapshot whose disk
//! is a snapshot of the same process has an origin of its own.
//!
//! Rules kept here: all targets of a disk share one origin (I5: a write asks every snapshot of the
//! disk); and snapshots that have left an origin are known again when the disk gets its next
//! origin, before that one can change the disk (I9). The disk of an origin that a device carries
//! ends with the device: what is known of it does not pass to another device with its number.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use crate::disk::DiskKey;
use crate::mutant::{self, Mutant};
use crate::snapshot::losses::Departed;
use crate::snapshot::origin::Origin;
use crate::snapshot::target::Snapshot;
use crate::target::Target;

/// The origins of a process.
#[derive(Default)]
pub(crate) struct Origins {
    used: RefCell<BTreeMap<DiskKey, Rc<Origin>>>,
    /// Origins that were carried by devices that have ended.
    ended: RefCell<Vec<Rc<Origin>>>,
    /// Snapshots that had left origins that are gone.
    departed: RefCell<BTreeMap<DiskKey, Departed>>,
}

impl Origins {
    /// The origin of a disk, if there is one.
    pub(crate) fn get(&self, key: DiskKey) -> Option<Rc<Origin>> {
        self.used.borrow().get(&key).cloned()
    }

    /// The origin of a disk, made if there is none. It must get a user before the next call of
    /// [`Origins::forget_unused`].
    pub(crate) fn get_or(&self, key: DiskKey, make: impl FnOnce() -> Rc<Origin>) -> Rc<Origin> {
        if let Some(origin) = self.get(key) {
            return origin;
        }
        let origin = make();
        if let Some(departed) = self.departed.borrow_mut().remove(&key) {
            origin.departed().take_over(departed);
        }
        self.used.borrow_mut().insert(key, origin.clone());
        origin
    }

    /// The disk of an origin, unless that has ended with the device that carried it.
    pub(crate) fn key_of(&self, origin: &Rc<Origin>) -> Option<DiskKey> {
        let used = self.used.borrow();
        used.iter().find(|(_, used)| Rc::ptr_eq(used, origin)).map(|(key, _)| *key)
    }

    /// The origin that a snapshot was opened for.
    pub(crate) fn of(&self, snapshot: &Snapshot) -> Option<Rc<Origin>> {
        let (used, ended) = (self.used.borrow(), self.ended.borrow());
        let mut origins = used.values().chain(ended.iter());
        origins.find(|origin| snapshot.is_of(origin.disk())).cloned()
    }

    /// The device that carried an origin has ended, and its number may be another device's.
    pub(crate) fn end(&self, ended: Rc<Origin>) {
        if mutant::is(Mutant::CarriedKeyKept) {
            return;
        }
        self.used.borrow_mut().retain(|_, origin| !Rc::ptr_eq(origin, &ended));
        self.ended.borrow_mut().push(ended);
    }

    /// Removes each origin that is not one of these targets and of which none of them is a
    /// snapshot.
    pub(crate) fn forget_unused(&self, targets: &[Target]) {
        let is_used = |origin: &Rc<Origin>| {
            targets.iter().any(|target| match target {
                Target::Origin(used) => Rc::ptr_eq(used, origin),
                Target::Snapshot(snapshot) => snapshot.is_of(origin.disk()),
                Target::Merge(merge) => Rc::ptr_eq(merge.origin(), origin),
                Target::Mirror(_)
                | Target::Linear(_)
                | Target::Error(_)
                | Target::Zero(_)
                | Target::Segments(_)
                | Target::Nothing => false,
            })
        };
        self.ended.borrow_mut().retain(is_used);
        self.used.borrow_mut().retain(|key, origin| {
            let used = is_used(origin);
            let departed = origin.departed();
            if !used && !departed.is_empty() && !mutant::is(Mutant::DepartedGoWithOrigin) {
                let mut left = self.departed.borrow_mut();
                left.entry(*key).or_default().take_over(departed.take());
            }
            used
        });
    }

    /// The store of a snapshot that has left is gone from its COW: no loss is to be recorded for
    /// it, whether its origin exists or not.
    pub(crate) fn forget_departed(&self, snapshot: &Snapshot) {
        let used = self.used.borrow();
        let ended = self.ended.borrow();
        used.values().chain(ended.iter()).for_each(|origin| origin.forget_departed(snapshot));
        self.departed.borrow().values().for_each(|departed| departed.forget(snapshot.cow_names()));
    }
}
