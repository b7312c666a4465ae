//! The first write of a chunk of an origin that has one snapshot, without a task
//! (`target/remap.rs`): the chunk is read and written to the COW, its record is awaited, and then
//! the write is sent. Whatever is not as it nearly always is goes to a task: `origin` has all of
//! it.
//!
//! Rules kept here: I5 (the write is sent in the step in which the snapshot let it pass), I6 (a
//! write ends when each of its operations has been told; the copy's memory is held until then).

use std::rc::Rc;

use super::exceptions::OriginStep;
use super::first::{Again, First, FirstId, Sent, Step};
use super::origin::Origin;
use super::target::Snapshot;
use crate::disk::{Buffer, DiskError, Errno, OpKind, UserData};
use crate::mutant::{self, Mutant};
use crate::request::{Next, Request, TargetError};
use crate::units::{Chunk, Sectors};

impl Origin {
    /// Starts a write that asks the only snapshot. `None`: nothing was started.
    pub(super) fn remap_asking(&self, request: &Request, data: UserData) -> Option<Sent> {
        let (snapshot, chunk) = self.only_asked(request)?;
        match snapshot.before_origin_write(chunk) {
            OriginStep::Pass => self.send_change(request, data).ok(),
            OriginStep::CopyOut => {
                let first = self.begin_first(snapshot, chunk)?;
                if mutant::is(Mutant::PreservedEarly) {
                    self.preserved.borrow_mut().insert(request.sector, request.count);
                }
                if let Step::Read(buffer) = &first.step {
                    self.disk().send(OpKind::Read, first.source(), buffer.at(0), data);
                }
                Some(Sent::First(self.firsts.borrow_mut().add(first)))
            }
            _ => None,
        }
    }

    /// The only snapshot that a write has to ask, about its only chunk, if no snapshot is joining.
    fn only_asked(&self, request: &Request) -> Option<(Rc<Snapshot>, Chunk)> {
        let snapshots = self.snapshots.borrow();
        let [snapshot] = &snapshots[..] else { return None };
        let (chunk, count) = snapshot.piece(request.sector, request.count);
        let is_one = count == request.count && request.sector.plus(count).0 <= snapshot.len().0;
        (is_one && self.gate.is_open()).then(|| (snapshot.clone(), chunk))
    }

    /// Begins the exception, with memory for its copy.
    fn begin_first(&self, snapshot: Rc<Snapshot>, chunk: Chunk) -> Option<First> {
        if !snapshot.cow().tells() {
            return None;
        }
        let count = snapshot.origin_part(chunk);
        let buffer = self.copy().short_buffer(count)?;
        match snapshot.begin_exception(chunk) {
            Ok(Some((id, at))) => {
                Some(First { snapshot, id, chunk, count, at, step: Step::Read(buffer) })
            }
            _ => {
                self.copy().end_short(buffer, Sectors(0));
                None
            }
        }
    }

    /// What a first write waited for has happened. If it has been let pass, it is sent, and `sent`
    /// is what is in flight from then on.
    pub(super) fn go_on(
        &self,
        request: &Request,
        (sent, id): (&mut Sent, FirstId),
        data: UserData,
        result: Result<(), Errno>,
    ) -> Next<Again> {
        let mut firsts = self.firsts.borrow_mut();
        let Some(first) = &mut firsts.places[id.0] else { return Next::Rest(Again) };
        if self.waits(first, data, result) {
            return Next::Waits;
        }
        firsts.remove(id);
        drop(firsts);
        // The record is there, or the snapshot could not be kept. All is decided anew.
        let passes = self.only_asked(request).is_some_and(|(snapshot, chunk)| {
            snapshot.before_origin_write(chunk) == OriginStep::Pass
        });
        if !passes && !mutant::is(Mutant::FirstDecidedOnce) {
            return Next::Rest(Again);
        }
        match self.send_change(request, data) {
            Ok(change) => {
                *sent = change;
                Next::Waits
            }
            Err(error) => Next::Done(Err(error)),
        }
    }

    /// Takes a copy a step further; whether its exception is still pending.
    fn waits(&self, first: &mut First, data: UserData, result: Result<(), Errno>) -> bool {
        match std::mem::replace(&mut first.step, Step::Recorded) {
            Step::Read(buffer) => match self.disk().told(OpKind::Read, first.source(), result) {
                Ok(()) => {
                    let (kind, range) = first.write();
                    first.snapshot.cow().send(kind, range, buffer.at(0), data);
                    first.step = Step::Written(buffer);
                    return true;
                }
                Err(error) => self.end_copy(first, buffer, Some(error)),
            },
            Step::Written(buffer) => {
                let (kind, range) = first.write();
                let written = first.snapshot.cow().told(kind, range, result);
                self.end_copy(first, buffer, written.err());
            }
            Step::Recorded => {}
        }
        first.snapshot.waits_for(first.id, data)
    }

    /// The copy of a chunk has ended.
    fn end_copy(&self, first: &First, buffer: Buffer, error: Option<DiskError>) {
        self.copy().end_short(buffer, first.count);
        first.snapshot.copied(std::iter::once((first.id, error.is_none())), error);
    }

    /// Sends a write that all snapshots let pass in this step, as is remembered.
    fn send_change(&self, request: &Request, data: UserData) -> Result<Sent, TargetError> {
        self.preserved.borrow_mut().insert(request.sector, request.count);
        self.send_passed(request, data)
    }
}
