//! Where the next exception goes: the chunk for its data, and the area and index for its record.
//! Pure.
//!
//! Rules kept here: no chunk that holds metadata is ever handed out, and no chunk twice; and a COW
//! is full before an area could be filled that has no room for its successor, because such a store
//! cannot be opened again.

use super::layout::Layout;
use crate::mutant::{self, Mutant};
use crate::units::{CowChunk, Sectors};

/// Where the next exception goes: the store's in-memory counters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cursor {
    layout: Layout,
    next_free: CowChunk,
    area: u64,
    committed: u64,
    pending: u64,
}

/// The numbers of a status line, in sectors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Handed out, header and areas included, committed or not.
    pub allocated: Sectors,
    /// The COW's size.
    pub total: Sectors,
    /// Header and areas.
    pub metadata: Sectors,
}

impl Cursor {
    /// The cursor of an empty store.
    pub fn new(layout: Layout) -> Cursor {
        Cursor { layout, next_free: CowChunk(2), area: 0, committed: 0, pending: 0 }
    }

    /// The store's layout.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The area that takes the next record, and the index in it.
    pub fn position(&self) -> (u64, u64) {
        (self.area, self.committed)
    }

    /// Records on disk.
    pub fn recorded(&self) -> u64 {
        self.area * self.layout.records_per_area() + self.committed
    }

    /// The next COW chunk to be handed out.
    pub fn next_free(&self) -> CowChunk {
        self.next_free
    }

    /// Takes over records found on disk; `highest` is the highest of their COW chunks. A record's
    /// position says nothing about its chunk: stores of old kernels have holes.
    pub fn load(&mut self, records: u64, highest: CowChunk) {
        if self.next_free.0 <= highest.0 {
            // The chunk after the last may be an area; data written there would destroy it
            // (CVE-2013-4299).
            self.next_free = self.layout.skip_metadata(CowChunk(highest.0 + 1));
        }
        let records = self.recorded() + records;
        self.area = records / self.layout.records_per_area();
        self.committed = records % self.layout.records_per_area();
    }

    /// Hands out a COW chunk, or `None` when the COW is full. A COW is also full when the last slot
    /// of an area could be filled but the next area has no room: the kernel invalidates the
    /// snapshot there (rule 5.3).
    pub fn allocate(&mut self, cow_size: Sectors) -> Option<CowChunk> {
        let cow_chunks = self.layout.cow_chunks(cow_size);
        let records =
            self.area * self.layout.records_per_area() + self.committed + self.pending + 1;
        let fills_area = records % self.layout.records_per_area() == 0;
        let next_area = self.layout.area_chunk(records / self.layout.records_per_area());
        let no_successor = fills_area
            && next_area.0 >= cow_chunks
            && !mutant::is(Mutant::FullAreaWithoutSuccessor);
        if self.next_free.0 >= cow_chunks || no_successor {
            return None;
        }
        let new = self.next_free;
        self.next_free = self.layout.skip_metadata(CowChunk(new.0 + 1));
        self.pending += 1;
        Some(new)
    }

    /// Counts a chunk as allocated that was handed out before the store was opened; returns
    /// `false`, and changes nothing, unless it lies behind all others.
    pub fn take_over(&mut self, new: CowChunk) -> bool {
        let behind = self.next_free.0 <= new.0;
        if behind {
            self.next_free = self.layout.skip_metadata(CowChunk(new.0 + 1));
            self.pending += 1;
        }
        behind
    }

    /// Records that still fit into the current area.
    pub fn room_in_area(&self) -> u64 {
        self.layout.records_per_area() - self.committed
    }

    /// Counts one allocated exception as written to disk.
    pub fn commit(&mut self) {
        self.pending = self.pending.saturating_sub(1);
        self.advance();
    }

    /// Counts the last `count` records as gone, and all data chunks behind the remaining ones as
    /// free: as in the kernel that serves the status line only, because it ignores holes.
    pub fn remove(&mut self, count: u64) {
        let records = self.recorded().saturating_sub(count);
        self.area = records / self.layout.records_per_area();
        self.committed = records % self.layout.records_per_area();
        self.next_free = CowChunk(self.layout.area_chunk(self.area).0 + self.committed + 1);
    }

    /// Counts one allocated exception as one that will never be written; its chunk stays lost.
    pub fn give_up(&mut self) {
        self.pending = self.pending.saturating_sub(1);
    }

    /// Whether the allocated exceptions fill the current area.
    pub fn fills_area(&self) -> bool {
        self.committed + self.pending >= self.layout.records_per_area()
    }

    fn advance(&mut self) {
        self.committed += 1;
        if self.committed == self.layout.records_per_area() {
            self.area += 1;
            self.committed = 0;
        }
    }

    /// The numbers of the status line. Exceptions that are only journaled count like any other.
    pub fn usage(&self, cow_size: Sectors, journaled: u64) -> Usage {
        let chunk = self.layout.chunk_size.sectors().0;
        let area = self.area + (self.committed + journaled) / self.layout.records_per_area();
        Usage {
            allocated: Sectors(self.next_free.0 * chunk),
            total: cow_size,
            metadata: Sectors((area + 2) * chunk),
        }
    }
}
