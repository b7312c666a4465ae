//! The exceptions of one snapshot and what a request must do about them. Pure: no I/O, no waiting.
//!
//! A chunk of the origin is in one of three states for a snapshot: *not copied* (the origin still
//! holds what the snapshot shows), *pending* (a COW chunk is allocated, its data or its record is
//! in flight), *complete* (the record is durable; the snapshot shows the COW chunk). A pending
//! exception of a snapshot write may be *journaled* (see `journaled`): the snapshot shows
//! its COW chunk already, everything else still waits for its record. The functions `before_…`
//! return the next step of a request to a chunk. They are called again after every wait, so a
//! request never acts on a stale result.
//!
//! Rules kept here: I3 (pending exceptions are committed in the order they were allocated), the
//! decision halves of I4 (an origin write waits for snapshot reads that still go to the origin) and
//! I5 (it waits for the record), and I9 (between losing a chunk and the durable invalid mark,
//! writes to the origin wait).

use std::collections::VecDeque;

use super::format::Record;
use super::mapping::{Mapping, Place};
use super::reads::Reads;
use super::recording::Recording;
use crate::hash::NumberTable as Table;
use crate::mutant::{self, Mutant};
use crate::units::{Chunk, CowChunk};

/// Most pending exceptions of one snapshot. The kernel's limit on copies in flight (2048) has the
/// same purpose: memory and the length of commits stay bounded when an origin is written faster
/// than a COW.
pub const MAX_PENDING: usize = 2048;

/// Whether a snapshot can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// Reads and writes work.
    Valid,
    /// The COW is full: the snapshot can be read and no longer written. Kept in memory only, as in
    /// the kernel.
    Overflowed,
    /// A chunk could not be kept, and the invalid mark is being made durable.
    Invalidating,
    /// The mark can be neither written nor recorded: the snapshot cannot be read, and its origin
    /// must not change.
    Unmarked,
    /// The snapshot can never be read again.
    Invalid,
}

impl Health {
    /// Whether the snapshot's content is still valid and origin writes must preserve it.
    pub fn is_kept(self) -> bool {
        matches!(self, Health::Valid | Health::Overflowed)
    }
}

/// Identifies a pending exception; stays unique after the exception is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PendingId {
    /// Index into the slots, for the owner of wait queues beside them.
    pub slot: u32,
    generation: u32,
}

/// What a write to an origin chunk must do about this snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OriginStep {
    /// Nothing: the snapshot has the chunk, or is no longer kept.
    Pass,
    /// Wait for the record of a pending exception (I5).
    Wait(PendingId),
    /// Wait until snapshot reads of the origin's chunk have drained (I4).
    WaitReads,
    /// Wait until the snapshot is durably invalid (I9).
    WaitInvalid,
    /// Retry to make the invalid mark durable, and fail if that is impossible (I9).
    MarkAgain,
    /// Allocate a COW chunk and copy the origin's chunk out.
    CopyOut,
}

/// What a write to the snapshot must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteStep {
    /// Write to the COW chunk.
    Redirect(CowChunk),
    /// Wait for a pending exception, then decide again.
    Wait(PendingId),
    /// Allocate a COW chunk.
    Create,
    /// Fail: the snapshot is full or invalid.
    Fail,
}

/// Where a read of the snapshot goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadStep {
    /// To the origin, tracked until it has completed.
    Origin,
    /// To the COW chunk.
    Cow(CowChunk),
    /// Fail: the snapshot is invalid.
    Fail,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Free,
    Copying,
    Copied,
    /// Copied and shown by the snapshot; its record is not urgent.
    Journaled,
    Failed,
}

pub(super) struct Slot {
    pub(super) record: Record,
    pub(super) stage: Stage,
    generation: u32,
    /// How many exceptions began before it.
    pub(super) number: u64,
    /// An origin write waits for it: it cannot be given up.
    pub(super) for_origin: bool,
    /// Where its chunk goes among the complete ones.
    pub(super) place: Place,
}

impl Slot {
    pub(super) fn is_journaled(&self) -> bool {
        self.stage == Stage::Journaled
    }

    pub(super) fn has_data(&self) -> bool {
        matches!(self.stage, Stage::Copied | Stage::Journaled)
    }
}

/// The state of all chunks of one snapshot.
pub struct Exceptions {
    health: Health,
    pub(super) complete: Mapping,
    pending: Table<u32>,
    pub(super) slots: Vec<Slot>,
    free: Vec<u32>,
    /// Slots in the order of their allocation (I3).
    pub(super) order: VecDeque<u32>,
    reads: Reads,
    pub(super) recording: Recording,
}

impl Exceptions {
    /// A snapshot without exceptions.
    pub fn new(health: Health) -> Exceptions {
        Exceptions::loaded(health, Mapping::default())
    }

    /// A snapshot with the exceptions of its store.
    pub fn loaded(health: Health, complete: Mapping) -> Exceptions {
        Exceptions {
            health,
            complete,
            pending: Table::default(),
            slots: Vec::new(),
            free: Vec::new(),
            order: VecDeque::new(),
            reads: Reads::default(),
            recording: Recording::default(),
        }
    }

    /// Adds a journaled record that is not in the store yet; returns `false` if the origin chunk
    /// has a record already.
    pub fn load(&mut self, record: Record) -> bool {
        self.complete.insert(record.old, record.new)
    }

    /// The COW chunk that the snapshot shows for a chunk, if it is not the origin's.
    pub fn mapped(&self, chunk: Chunk) -> Option<CowChunk> {
        self.complete.get(chunk)
    }

    /// Whether the snapshot can be used.
    pub fn health(&self) -> Health {
        self.health
    }

    /// Complete exceptions.
    pub fn complete(&self) -> usize {
        self.complete.count()
    }

    /// Pending exceptions.
    pub fn pending(&self) -> usize {
        self.pending.len()
    }

    /// Where a read of a chunk goes.
    pub fn before_snapshot_read(&self, chunk: Chunk) -> ReadStep {
        if !self.health.is_kept() {
            return ReadStep::Fail;
        }
        // A pending exception does not count unless it is journaled: until its record is durable
        // the snapshot shows the origin.
        self.complete.get(chunk).map_or(ReadStep::Origin, ReadStep::Cow)
    }

    /// What a write of the snapshot does.
    pub fn before_snapshot_write(&self, chunk: Chunk) -> WriteStep {
        if self.health != Health::Valid {
            return WriteStep::Fail;
        }
        if let Some(new) = self.complete.get(chunk) {
            return WriteStep::Redirect(new);
        }
        self.pending.get(&chunk.0).map_or(WriteStep::Create, |slot| WriteStep::Wait(self.id(*slot)))
    }

    /// What a write of the origin does about this snapshot.
    pub fn before_origin_write(&self, chunk: Chunk) -> OriginStep {
        match self.health {
            Health::Invalid => return OriginStep::Pass,
            Health::Invalidating if mutant::is(Mutant::InvalidMarkLate) => return OriginStep::Pass,
            Health::Invalidating => return OriginStep::WaitInvalid,
            Health::Unmarked => return OriginStep::MarkAgain,
            Health::Valid | Health::Overflowed => {}
        }
        if mutant::is(Mutant::OriginBeforeCommit) && self.has_data(chunk) {
            return OriginStep::Pass;
        }
        // A journaled exception is among the complete ones too, and must have its record like any
        // other (I5).
        if self.recording.journaled > 0 && !mutant::is(Mutant::JournaledNotAwaited) {
            if let Some(slot) = self.pending.get(&chunk.0) {
                return OriginStep::Wait(self.id(*slot));
            }
        }
        if self.complete.get(chunk).is_some() {
            let wait = self.reads.has(chunk) && !mutant::is(Mutant::ReadsIgnored);
            return if wait { OriginStep::WaitReads } else { OriginStep::Pass };
        }
        self.pending
            .get(&chunk.0)
            .map_or(OriginStep::CopyOut, |slot| OriginStep::Wait(self.id(*slot)))
    }

    fn has_data(&self, chunk: Chunk) -> bool {
        self.pending.get(&chunk.0).is_some_and(|slot| self.slots[*slot as usize].has_data())
    }

    fn id(&self, slot: u32) -> PendingId {
        PendingId { slot, generation: self.slots[slot as usize].generation }
    }

    /// Whether a pending exception is still pending.
    pub fn is_pending(&self, id: PendingId) -> bool {
        let slot = &self.slots[id.slot as usize];
        slot.generation == id.generation && slot.stage != Stage::Free
    }

    /// Begins a pending exception for a chunk that has none. The order of these calls is the
    /// allocation order.
    pub fn begin(&mut self, record: Record) -> PendingId {
        let slot = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot {
                record,
                stage: Stage::Free,
                generation: 0,
                number: 0,
                for_origin: false,
                place: Place::default(),
            });
            u32::try_from(self.slots.len() - 1).unwrap_or(u32::MAX)
        });
        let entry = &mut self.slots[slot as usize];
        entry.record = record;
        entry.stage = Stage::Copying;
        entry.for_origin = false;
        entry.place = self.complete.place_of(record.old);
        entry.number = self.recording.begin();
        self.pending.insert(record.old.0, slot);
        self.order.push_back(slot);
        self.id(slot)
    }

    /// A pending exception's data is in its COW chunk, or could not be copied there. Does nothing
    /// if the exception was given up meanwhile.
    pub fn copied(&mut self, id: PendingId, ok: bool) {
        if self.is_pending(id) {
            self.slots[id.slot as usize].stage = if ok { Stage::Copied } else { Stage::Failed };
            // A request waits for its record or its failure, also when the last exception before it
            // is journaled.
            self.want(id);
        }
    }

    /// The records to commit now, at most `max`: those at the head of the allocation order whose
    /// data is copied (I3), if a request waits for one of them. `Err` if the head's data could not
    /// be copied.
    pub fn ready(&self, max: usize, records: &mut Vec<Record>) -> Result<(), CopyFailed> {
        records.clear();
        if !self.recording.is_due() {
            return Ok(());
        }
        for slot in &self.order {
            let slot = &self.slots[*slot as usize];
            match slot.stage {
                Stage::Failed => return Err(CopyFailed),
                Stage::Copying if mutant::is(Mutant::OutOfOrder) => {}
                _ if slot.has_data() && records.len() < max => records.push(slot.record),
                _ => break,
            }
        }
        Ok(())
    }

    /// The oldest pending exception is durable: from now on the snapshot shows its COW chunk.
    /// Returns its slot.
    pub fn publish(&mut self) -> Option<u32> {
        let slot = if mutant::is(Mutant::OutOfOrder) {
            let first = self.order.iter().position(|slot| self.slots[*slot as usize].has_data())?;
            self.order.remove(first)?
        } else {
            self.order.pop_front()?
        };
        let Slot { record, stage, number, place, .. } = self.slots[slot as usize];
        if stage != Stage::Journaled {
            // Journaled ones are there already.
            self.complete.insert_near(place, record.old, record.new);
        }
        self.recording.recorded_to = number + 1;
        self.release(slot);
        Some(slot)
    }

    pub(super) fn release(&mut self, slot: u32) {
        let entry = &mut self.slots[slot as usize];
        self.recording.journaled -= usize::from(entry.stage == Stage::Journaled);
        entry.stage = Stage::Free;
        entry.generation = entry.generation.wrapping_add(1);
        self.pending.remove(&entry.record.old.0);
        self.free.push(slot);
    }

    /// A read of the origin through the snapshot starts; the returned key ends it.
    pub fn track_read(&mut self, first: Chunk, last: Chunk) -> u32 {
        self.reads.begin(first, last)
    }

    /// A tracked read has completed.
    pub fn untrack_read(&mut self, key: u32) {
        self.reads.end(key);
    }

    /// The COW is full for a snapshot write, and the policy is to stay readable.
    pub fn overflow(&mut self) {
        if self.health == Health::Valid {
            self.health = Health::Overflowed;
        }
    }

    /// A chunk cannot be kept. Returns `true` to the one caller that must make the mark durable.
    pub fn begin_invalidation(&mut self) -> bool {
        let first = self.health.is_kept();
        if first {
            self.health = Health::Invalidating;
        }
        first
    }

    /// Another attempt to make the mark durable begins.
    pub fn mark_again(&mut self) {
        if self.health == Health::Unmarked {
            self.health = Health::Invalidating;
        }
    }

    /// The mark is durable, or cannot be made durable: gives up every pending exception and forgets
    /// the rest.
    pub fn invalidate(&mut self, marked: bool) {
        self.health = if marked { Health::Invalid } else { Health::Unmarked };
        while let Some(slot) = self.order.pop_front() {
            self.release(slot);
        }
        self.complete = Mapping::default();
    }
}

/// The copy of the oldest pending exception failed, so nothing younger can be committed either.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyFailed;

#[cfg(test)]
#[path = "exceptions_tests.rs"]
mod tests;
