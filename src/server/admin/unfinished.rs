//! Jobs of an administrator `A` that a command started and no longer waits for.

use dm_targets::group::Ticket;

use crate::protocol::DeviceState;

/// A job that continues on its own.
pub(super) struct Unfinished<A> {
    /// The device that the job works on.
    pub(super) id: Option<u32>,
    /// The command that started the job.
    pub(super) verb: &'static str,
    /// The disk that the job waits for.
    pub(super) disk: String,
    /// The device if the job adds it: recorded in the state file, not yet served.
    pub(super) coming: Option<(Ticket, DeviceState)>,
    /// Handles the job's result. Returns whether the job has ended.
    pub(super) settle: Box<dyn FnMut(&mut A) -> bool>,
}
