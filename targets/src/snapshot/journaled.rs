//! Exceptions whose record is written later. Pure.
//!
//! A snapshot write without FUA need not wait for its record: the device reports a volatile cache,
//! and a record reaches the disk before the next flush completes, as the data of any write does.
//! Until then its exception is *journaled*: the snapshot shows the new chunk, and the record is in
//! memory that outlives the process ([`super::journal`]), so that an acknowledged write survives
//! the death of the server (I10).
//!
//! All others still wait for the record: a write of the origin, since after a power failure without
//! the record the snapshot shows the origin's chunk, which must be unchanged (I5); a flush; a write
//! with FUA.
//!
//! Journaled exceptions keep their place in the order of allocation (I3). They are committed when a
//! request waits for one, when one behind them is committed, when there are many, and when the
//! oldest has lingered.

use super::exceptions::{Exceptions, PendingId, Stage};
use super::format::Record;

impl Exceptions {
    /// Journals an exception whose data is in its COW chunk: the snapshot shows it from now on.
    /// Returns its record; returns `None`, and does nothing, if it was given up or the snapshot is
    /// no longer kept.
    pub fn journal(&mut self, id: PendingId) -> Option<Record> {
        if !self.is_pending(id) || !self.health().is_kept() {
            return None;
        }
        let slot = &mut self.slots[id.slot as usize];
        slot.stage = Stage::Journaled;
        let (record, number, place) = (slot.record, slot.number, slot.place);
        self.recording.journaled += 1;
        self.recording.journaled_to = self.recording.journaled_to.max(number + 1);
        self.complete.insert_near(place, record.old, record.new);
        Some(record)
    }

    /// Of the next `count` records to be committed, those that are not in the journal, each with
    /// its slot.
    pub(super) fn unjournaled(&self, count: usize) -> impl Iterator<Item = (u32, Record)> {
        let slots = self.order.iter().map(|slot| (*slot, &self.slots[*slot as usize]));
        let next = slots.filter(|(_, entry)| entry.has_data()).take(count);
        next.filter(|(_, entry)| entry.stage == Stage::Copied)
            .map(|(slot, entry)| (slot, entry.record))
    }

    /// Called when exceptions were given up: if none is left, no record is missing.
    pub(super) fn nothing_is_pending(&mut self) {
        if self.order.is_empty() {
            self.recording.catch_up();
        }
    }

    /// A write of the origin waits for a pending exception.
    pub(super) fn wanted_by_origin(&mut self, id: PendingId) {
        if self.is_pending(id) {
            self.slots[id.slot as usize].for_origin = true;
        }
    }

    /// Journaled exceptions.
    pub fn journaled(&self) -> usize {
        self.recording.journaled
    }

    /// Whether a request waits for their records, or there are so many that their commit must
    /// begin.
    pub fn journaled_is_due(&self) -> bool {
        self.recording.is_due()
    }

    /// Whether the snapshot shows a pending exception, or it is no longer pending.
    pub fn is_shown(&self, id: PendingId) -> bool {
        !self.is_pending(id) || self.slots[id.slot as usize].stage == Stage::Journaled
    }

    /// Requests the record of a pending exception.
    pub fn want(&mut self, id: PendingId) {
        if self.is_pending(id) {
            let number = self.slots[id.slot as usize].number;
            self.recording.wanted_to = self.recording.wanted_to.max(number + 1);
        }
    }

    /// Requests the records of all journaled exceptions; returns the argument for
    /// [`Exceptions::is_recorded`], or `None` if there are none.
    pub fn want_journaled(&mut self) -> Option<u64> {
        let to = self.recording.journaled_to;
        (self.recording.journaled > 0).then(|| {
            self.recording.wanted_to = self.recording.wanted_to.max(to);
            to
        })
    }

    /// Whether the records of all exceptions before a number are durable, or will never be.
    pub fn is_recorded(&self, to: u64) -> bool {
        self.recording.recorded_to >= to || !self.health().is_kept()
    }
}
