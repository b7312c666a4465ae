//! Open disks that several targets of a process share: each disk once, for as long as one of them
//! uses it.
//!
//! Rule kept here: the targets have one handle, and with that one claim, which ends with the last
//! of them, whichever was there first.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::{Rc, Weak};

use super::{Disk, DiskInner};

/// The shared disks, by keys of the caller's choice.
pub struct SharedDisks<K>(RefCell<BTreeMap<K, Weak<DiskInner>>>);

impl<K> Default for SharedDisks<K> {
    fn default() -> SharedDisks<K> {
        SharedDisks(RefCell::default())
    }
}

impl<K: Ord> SharedDisks<K> {
    /// A disk, if a target uses it.
    pub fn get(&self, key: &K) -> Option<Disk> {
        Some(Disk { inner: self.0.borrow().get(key)?.upgrade()? })
    }

    /// Shares a disk from now on with targets that are opened later.
    pub fn share(&self, key: K, disk: &Disk) {
        let mut disks = self.0.borrow_mut();
        disks.retain(|_, disk| disk.strong_count() > 0);
        disks.insert(key, Rc::downgrade(&disk.inner));
    }
}
