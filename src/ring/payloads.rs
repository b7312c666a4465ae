//! Where the data of every tag of a family is.
//!
//! The kernel has room for a limited number of registered buffers, each under the index of its
//! payload; the lower part of the table is reserved for them, so that devices find their room
//! again, in whatever order a new server takes them over.

use std::ops::Range;
use std::ptr::NonNull;

use dm_targets::disk::PayloadId;

/// Where a request's data is.
#[derive(Clone, Copy)]
pub enum Payload {
    /// In the kernel: a registered buffer under the payload's own index.
    Registered,
    /// In memory mapped for the device's tags.
    Mapped {
        /// Its start.
        address: NonNull<u8>,
        /// Its length.
        len_bytes: usize,
    },
}

/// Payloads by their ids.
#[derive(Default)]
pub(super) struct Payloads {
    table: Vec<Option<Payload>>,
    /// Ids below this one are those of registered buffers.
    buffers: usize,
}

impl Payloads {
    /// A table for a ring with that many registered buffers.
    pub(super) fn new(buffers: u16) -> Payloads {
        Payloads { table: Vec::new(), buffers: usize::from(buffers) }
    }

    pub(super) fn get(&self, id: PayloadId) -> Option<Payload> {
        *self.table.get(id.0 as usize)?
    }

    /// Adds the payloads of a queue, all of one kind, and returns the id of the first; `None` if
    /// there is no room for that many registered ones.
    pub(super) fn add(&mut self, payloads: &[Payload]) -> Option<PayloadId> {
        let registered = payloads.iter().any(|payload| matches!(payload, Payload::Registered));
        let part = if registered { 0..self.buffers } else { self.buffers..u32::MAX as usize };
        let first = self.room(part, payloads.len()).next()?;
        let end = first + payloads.len();
        if self.table.len() < end {
            self.table.resize(end, None);
        }
        for (slot, payload) in self.table[first..end].iter_mut().zip(payloads) {
            *slot = Some(*payload);
        }
        u32::try_from(first).ok().map(PayloadId)
    }

    pub(super) fn remove(&mut self, first: PayloadId, count: usize) {
        let first = first.0 as usize;
        self.table[first..first + count].fill(None);
    }

    /// Whether there is room for the registered buffers of `queues` queues of `depth` tags.
    pub(super) fn has_room(&self, queues: u16, depth: u16) -> bool {
        let queues = usize::from(queues);
        self.room(0..self.buffers, usize::from(depth)).take(queues).count() == queues
    }

    /// The starts of free ranges of a length in a part of the table, none overlapping another.
    fn room(&self, part: Range<usize>, len: usize) -> impl Iterator<Item = usize> + '_ {
        let mut free = 0;
        part.filter_map(move |at| {
            free = if self.table.get(at).is_none_or(Option::is_none) { free + 1 } else { 0 };
            (free == len).then(|| {
                free = 0;
                at + 1 - len
            })
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registered_buffers_have_a_part_of_their_own_and_a_limit() {
        let mapped = Payload::Mapped { address: NonNull::dangling(), len_bytes: 1 };
        let mut payloads = Payloads::new(10);
        assert_eq!(payloads.add(&[mapped; 3]), Some(PayloadId(10)));
        assert_eq!(payloads.add(&[Payload::Registered; 4]), Some(PayloadId(0)));
        assert!(
            payloads.has_room(1, 6)
                && payloads.has_room(2, 3)
                && !payloads.has_room(2, 4)
                && !payloads.has_room(1, 7)
        );
        assert_eq!(payloads.add(&[Payload::Registered; 4]), Some(PayloadId(4)));
        assert_eq!(payloads.add(&[Payload::Registered; 4]), None);
        assert_eq!(payloads.add(&[mapped; 4]), Some(PayloadId(13)));
        assert!(payloads.get(PayloadId(9)).is_none() && payloads.get(PayloadId(99)).is_none());
        // Removed payloads' room is reused, in one piece with room that has never been used.
        payloads.remove(PayloadId(4), 4);
        assert!(payloads.has_room(1, 6));
        assert_eq!(payloads.add(&[Payload::Registered; 6]), Some(PayloadId(4)));
        assert!(!payloads.has_room(1, 1));
        payloads.remove(PayloadId(10), 3);
        assert_eq!(payloads.add(&[mapped; 2]), Some(PayloadId(10)));
    }
}
