//! The thread that has the targets: as a job on it sees it, and as other threads reach it.

use std::future::Future;
use std::rc::Rc;

use dm_targets::disk::Disk;
use dm_targets::group::Group;

use crate::failure::Reason;

/// The thread that has the targets, seen from a job on it.
pub trait Thread: 'static {
    /// An open disk, see [`Machine::Open`](super::machine::Machine::Open).
    type Open;

    /// Targets and devices.
    fn group(&self) -> &Group;
    /// Makes an open disk usable by targets.
    fn disk(&self, open: Self::Open) -> Disk;
    /// Messages about a device have this name from now on.
    fn rename(&self, _id: u32, _name: &str) {}
    /// A disk of zeroes, as long as any disk can be.
    ///
    /// # Errors
    /// The system does not have it.
    fn zeroes(&self) -> Result<Disk, Reason>;
}

/// How other threads have jobs done on that thread. Clones reach the same one.
pub trait ThreadHandle: Clone + 'static {
    /// The thread.
    type Thread: Thread;

    /// Runs a job on the thread that has the targets, and waits for its result.
    ///
    /// # Errors
    /// The thread has died.
    fn call<T, F>(
        &self,
        job: impl FnOnce(Rc<Self::Thread>) -> F + Send + 'static,
    ) -> Result<T, Reason>
    where
        T: Send + 'static,
        F: Future<Output = T> + 'static;
}
