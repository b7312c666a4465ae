//! The first write of a chunk of an origin, without a task (`target/remap.rs`): the chunk is read
//! and written to the COWs of the snapshots that lack it, their records are awaited, and then the
//! write is sent. Whatever is not as it nearly always is goes to a task: `origin` has all of it.
//!
//! Rules kept here: I5 (the write is sent in the step in which every snapshot let it pass), I6 (a
//! write ends when each of its operations has been told; the copies' memory is held until then).

use std::rc::Rc;

use super::exceptions::OriginStep;
use super::first::{Again, Copy, First, FirstId, MAX_COPIES, Sent, Step};
use super::origin::Origin;
use super::target::Snapshot;
use crate::disk::{Buffer, DiskError, Errno, OpKind, UserData};
use crate::mutant::{self, Mutant};
use crate::request::{Next, Request, TargetError};
use crate::units::{Chunk, Sectors};

/// The kind of the write of a copy.
const COPY: OpKind = OpKind::Write { fua: false };

impl Origin {
    /// Starts a write that has to ask the snapshots. `None`: nothing was started.
    pub(super) fn remap_asking(&self, request: &Request, data: UserData) -> Option<Sent> {
        let mut firsts = self.firsts.borrow_mut();
        let id = firsts.take();
        let first = firsts.at(id);
        let asked = self.ask_each(request, |snapshot, chunk, step| match step {
            OriginStep::Pass => true,
            OriginStep::CopyOut => first.add(snapshot, chunk),
            _ => false,
        });
        let passes = asked && first.asked.is_empty();
        if passes || !asked || !self.begin_first(first) {
            firsts.give_back(id);
            return if passes { self.send_change(request, data).ok() } else { None };
        }
        if mutant::is(Mutant::PreservedEarly) {
            self.preserved.borrow_mut().insert(request.sector, request.count);
        }
        if let Step::Read(buffer) = &first.step {
            self.disk().send(OpKind::Read, first.source, buffer.at(0), data);
        }
        Some(Sent::First(id))
    }

    /// Asks each snapshot about the chunk of a write, until `goes_on` returns `false`. Returns
    /// whether it never did: also `false` if the write is not in one chunk of each snapshot, or a
    /// snapshot is joining.
    #[inline]
    fn ask_each(
        &self,
        request: &Request,
        mut goes_on: impl FnMut(&Rc<Snapshot>, Chunk, OriginStep) -> bool,
    ) -> bool {
        let end = request.sector.plus(request.count);
        self.gate.is_open()
            && self.snapshots.borrow().iter().all(|snapshot| {
                let len = snapshot.len().0;
                if request.sector.0 >= len {
                    return true;
                }
                let (chunk, count) = snapshot.piece(request.sector, request.count);
                let is_one = count == request.count && end.0 <= len;
                is_one && goes_on(snapshot, chunk, snapshot.before_origin_write(chunk))
            })
    }

    /// Begins the exceptions of the snapshots that were asked, with memory for the copies; whether
    /// there is one. Those for which there is no room are asked again when the others have theirs.
    fn begin_first(&self, first: &mut First) -> bool {
        let Some(buffer) = self.copy().short_buffer(first.source.1) else { return false };
        let First { asked, copies, .. } = first;
        for (snapshot, chunk) in asked.drain(..) {
            let Ok(Some((id, at))) = snapshot.begin_exception(chunk) else { break };
            copies.push(Copy { snapshot, id, at });
        }
        if copies.is_empty() {
            self.copy().end_short(buffer, Sectors(0));
            return false;
        }
        first.step = Step::Read(buffer);
        true
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
        if self.waits(firsts.at(id), data, result) {
            return Next::Waits;
        }
        firsts.give_back(id);
        drop(firsts);
        // The records are there, or a snapshot could not be kept. All is decided anew.
        let passes = self.ask_each(request, |_, _, step| step == OriginStep::Pass);
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

    /// Takes the copies a step further; whether there is more to wait for.
    fn waits(&self, first: &mut First, data: UserData, result: Result<(), Errno>) -> bool {
        let source = first.source;
        match std::mem::take(&mut first.step) {
            Step::Read(buffer) => match self.disk().told(OpKind::Read, source, result) {
                Ok(()) => {
                    first.send_copies(&buffer, data);
                    first.step = Step::Written(buffer, first.copies.len());
                    return true;
                }
                Err(error) => {
                    first.copies.iter().for_each(|copy| copy.ended(Err(error.clone())));
                    self.copy().end_short(buffer, Sectors(0));
                }
            },
            Step::Written(buffer, left) => {
                let copy = &first.copies[usize::from(data.part())];
                copy.ended(copy.snapshot.cow().told(COPY, (copy.at, source.1), result));
                if left > 1 {
                    first.step = Step::Written(buffer, left - 1);
                    return true;
                }
                self.copy().end_short(buffer, source.1);
            }
            Step::Recorded => {}
        }
        // One after the other: each is told once.
        first.copies.iter().any(|copy| copy.snapshot.waits_for(copy.id, data.with_part(0)))
    }

    /// Sends a write that all snapshots let pass in this step, as is remembered.
    fn send_change(&self, request: &Request, data: UserData) -> Result<Sent, TargetError> {
        self.preserved.borrow_mut().insert(request.sector, request.count);
        self.send_passed(request, data)
    }
}

impl First {
    /// Adds a snapshot that lacks the chunk; `false` if one read does not serve all of them.
    fn add(&mut self, snapshot: &Rc<Snapshot>, chunk: Chunk) -> bool {
        let source = (snapshot.chunk_size().start_of(chunk), snapshot.origin_part(chunk));
        let is_first = self.asked.is_empty();
        let fits = is_first || self.source == source && self.asked.len() < MAX_COPIES;
        if !fits || !snapshot.cow().tells() {
            return false;
        }
        self.source = source;
        self.asked.push((snapshot.clone(), chunk));
        true
    }

    /// Sends the writes of the copies, each with its number as its part.
    fn send_copies(&self, buffer: &Buffer, data: UserData) {
        for (part, copy) in (0..).zip(&self.copies) {
            let range = (copy.at, self.source.1);
            copy.snapshot.cow().send(COPY, range, buffer.at(0), data.with_part(part));
        }
    }
}

impl Copy {
    /// Its data is on the COW, or could not be copied there.
    fn ended(&self, result: Result<(), DiskError>) {
        self.snapshot.copied(std::iter::once((self.id, result.is_ok())), result.err());
    }
}
