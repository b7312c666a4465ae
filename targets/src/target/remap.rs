//! Requests without a task: device-mapper's `map` that *remaps* a request to operations of disks,
//! and its `end_io`.
//!
//! Most requests need one decision and one operation: the read of a chunk, a write that nothing has
//! to be preserved for. Those are sent in the step of the decision, their completions are told
//! ([`crate::disk::Completions`]), and the target needs no more than [`Remapped`] to end them. All
//! others, and what is left of one that did not go as expected, are for a task: [`Target::map`] and
//! [`Target::finish`].
//!
//! Rules kept here: I6 (a request ends when each of its operations has been told), and whatever a
//! target's own file says of the step between a decision and its operation.

use super::Target;
use crate::disk::{Errno, UserData};
use crate::linear;
use crate::mirror;
use crate::request::{self, Request, TargetError};
use crate::snapshot;

/// A request whose operations are in flight.
pub struct Remapped(State);

/// What its target has to know at the end.
enum State {
    Snapshot(snapshot::direct::Sent),
    Origin(snapshot::first::Sent),
    Mirror(mirror::remap::Sent),
    Linear(linear::target::Sent),
}

/// How far a request is after a completion.
pub type Next = request::Next<Rest>;

/// What is left of a request whose operations have ended.
#[derive(Debug)]
pub struct Rest(Left);

#[derive(Debug)]
enum Left {
    /// All of a write to an origin.
    Origin,
    Mirror(mirror::remap::Rest),
}

impl Target {
    /// Starts a request that needs no task, with this user data for its operations. `None`: nothing
    /// was started, and it is for [`Target::map`].
    #[inline]
    pub fn remap(&self, request: &Request, data: UserData) -> Option<Remapped> {
        let state = match self {
            Target::Snapshot(snapshot) => State::Snapshot(snapshot.remap(request, data)?),
            Target::Origin(origin) => State::Origin(origin.remap(request, data)?),
            Target::Mirror(mirror) => State::Mirror(mirror.remap(request, data)?),
            Target::Linear(linear) => State::Linear(linear.remap(request, data)?),
            Target::Merge(_)
            | Target::Error(_)
            | Target::Zero(_)
            | Target::Segments(_)
            | Target::Nothing => return None,
        };
        Some(Remapped(state))
    }

    /// A completion of a remapped request was told, with this data. The target is the one that
    /// remapped it.
    #[inline]
    pub fn end_io(
        &self,
        request: &Request,
        remapped: &mut Remapped,
        data: UserData,
        result: Result<(), Errno>,
    ) -> Next {
        match (self, &mut remapped.0) {
            (Target::Snapshot(snapshot), State::Snapshot(sent)) => {
                snapshot.end_io(request, sent, data, result).map_rest(|never| match never {})
            }
            (Target::Origin(origin), State::Origin(sent)) => {
                origin.end_io(request, sent, data, result).map_rest(|_| Rest(Left::Origin))
            }
            (Target::Mirror(mirror), State::Mirror(sent)) => {
                let next = mirror.end_io(request, sent, data.part(), result);
                next.map_rest(|rest| Rest(Left::Mirror(rest)))
            }
            (Target::Linear(linear), State::Linear(sent)) => {
                Next::Done(linear.end_io(request, sent, result))
            }
            _ => {
                debug_assert!(false, "a request ends in another target");
                Next::Done(Err(TargetError::Error))
            }
        }
    }

    /// Carries out what is left of a remapped request. When this returns, nothing of the request is
    /// in flight any more.
    ///
    /// # Errors
    /// As [`Target::map`].
    pub async fn finish(&self, request: &Request, rest: Rest) -> Result<(), TargetError> {
        match (self, rest.0) {
            (Target::Origin(origin), Left::Origin) => origin.handle(request).await,
            (Target::Mirror(mirror), Left::Mirror(rest)) => mirror.finish(request, rest).await,
            _ => {
                debug_assert!(false, "a request ends in another target");
                Err(TargetError::Error)
            }
        }
    }
}
