//! What a command of an administrator `A` has begun and given up waiting for.

use dm_targets::group::Ticket;

use crate::protocol::DeviceState;

/// A job that goes on by itself.
pub(super) struct Unfinished<A> {
    /// The device that it is about.
    pub(super) id: Option<u32>,
    /// The command that has begun it.
    pub(super) verb: &'static str,
    /// Which disk it waits for.
    pub(super) disk: String,
    /// The device, if it is on its way: on record, and not among the others yet.
    pub(super) coming: Option<(Ticket, DeviceState)>,
    /// Takes what the job has come to, if it has ended.
    pub(super) settle: Box<dyn FnMut(&mut A) -> bool>,
}
