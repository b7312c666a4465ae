//! What a machine returns of jobs that wait for disks.

use crate::failure::Reason;

/// The result of closing a device's target.
pub struct Removed {
    /// Why acknowledged writes are lost with it, if they are.
    pub closed: Result<(), Reason>,
    /// For a merge, unless its store is invalid: whether a part of the snapshot is still on the
    /// COW.
    pub is_left: Option<bool>,
}

/// The result of a job that is no longer waited for; `None` until the job has ended.
pub type Late<T> = Box<dyn FnMut() -> Option<T>>;

/// The outcome of waiting for a job while disks answer.
pub enum Waited<T> {
    /// It has ended.
    Done(T),
    /// This disk does not answer. The job continues on its own.
    Silent(String, Late<T>),
}
