//! The persistent exception store on disk, version 1, as the kernel writes it. Pure: bytes in, facts out.
//!
//! ```text
//! chunk 0        header: "SnAp", valid, version, chunk size in sectors; the rest zero
//! chunk 1        area 0: records of 16 bytes, old chunk and new chunk, ended by a record with new chunk 0
//! chunk 2..      as many data chunks as an area has records, then area 1, and so on
//! ```
//!
//! All numbers are little-endian and there are no checksums, so everything that can be checked is checked here:
//! the kernel takes any record, this loader refuses one that points outside the devices, into metadata, or twice.

use std::fmt;

use crate::mutant::{self, Mutant};
use crate::units::{Chunk, ChunkSize, CowChunk, Sector, Sectors};

/// The header's first four bytes, `53 6E 41 70` ("SnAp").
pub const MAGIC: u32 = 0x7041_6E53;
/// The only version of the format there is.
pub const VERSION: u32 = 1;
/// Bytes of the header that mean something.
pub const HEADER_BYTES: usize = 16;
/// Bytes of one exception record.
pub const RECORD_BYTES: u64 = 16;
/// The kernel keeps a run length in the upper 8 bits of `new_chunk`, so no chunk number may reach them.
pub const NEW_CHUNK_LIMIT: u64 = 1 << 56;
/// Chunk size of a new store when none is asked for: 16 KiB, as in the kernel.
pub const DEFAULT_CHUNK_SECTORS: u64 = 32;
/// Fewest chunks a COW needs to hold an exception: header, area 0 and one data chunk.
pub const MIN_COW_CHUNKS: u64 = 3;

/// The header's four words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Whether the snapshot can still be used; any value but zero counts as valid.
    pub valid: u32,
    /// Format version.
    pub version: u32,
    /// Chunk size in sectors, unchecked.
    pub chunk_sectors: u32,
}

/// Why a header cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HeaderError {
    /// The magic word is neither zero (a new store) nor "SnAp".
    Foreign {
        /// The word found.
        magic: u32,
    },
    /// The chunk size is not a power of two of sectors up to 1 GiB, or not a multiple of a disk's block size.
    ChunkSize {
        /// The sectors found.
        sectors: u32,
    },
    /// A version other than 1.
    Version {
        /// The version found.
        version: u32,
    },
}

/// What the first bytes of a COW device are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Found {
    /// The magic word is zero: no store yet. Only that word is looked at, as in the kernel.
    Empty,
    /// A header with a usable chunk size and version, valid or not.
    Store {
        /// Its words.
        header: Header,
        /// Its chunk size.
        chunk_size: ChunkSize,
    },
}

fn word(bytes: &[u8], at: usize) -> u32 {
    let mut word = [0; 4];
    word.copy_from_slice(&bytes[at..at + 4]);
    u32::from_le_bytes(word)
}

fn double_word(bytes: &[u8], at: usize) -> u64 {
    let mut word = [0; 8];
    word.copy_from_slice(&bytes[at..at + 8]);
    u64::from_le_bytes(word)
}

impl Header {
    /// Reads the words without judging them; `None` if the magic word is another.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Option<Header> {
        (word(bytes, 0) == MAGIC).then(|| Header {
            valid: word(bytes, 4),
            version: word(bytes, 8),
            chunk_sectors: word(bytes, 12),
        })
    }

    /// The header's bytes; the rest of its chunk is zero.
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut bytes = [0; HEADER_BYTES];
        for (at, word) in [MAGIC, self.valid, self.version, self.chunk_sectors].into_iter().enumerate() {
            bytes[at * 4..at * 4 + 4].copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }

    /// The header of a store of that chunk size.
    pub fn new(chunk_size: ChunkSize, valid: bool) -> Header {
        let chunk_sectors = u32::try_from(chunk_size.sectors().0).unwrap_or(u32::MAX);
        Header { valid: u32::from(valid), version: VERSION, chunk_sectors }
    }
}

/// Judges the first bytes of a COW in the kernel's order: magic, chunk size, version.
pub fn examine(bytes: &[u8; HEADER_BYTES]) -> Result<Found, HeaderError> {
    let magic = word(bytes, 0);
    if magic == 0 {
        return Ok(Found::Empty);
    }
    let header = Header::decode(bytes).ok_or(HeaderError::Foreign { magic })?;
    let chunk_size = ChunkSize::from_sectors(u64::from(header.chunk_sectors))
        .ok_or(HeaderError::ChunkSize { sectors: header.chunk_sectors })?;
    if header.version != VERSION {
        return Err(HeaderError::Version { version: header.version });
    }
    Ok(Found::Store { header, chunk_size })
}

impl fmt::Display for HeaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HeaderError::Foreign { magic } => {
                write!(f, "holds something else: its first word is {magic:#010x}, neither zero nor a snapshot's")
            }
            HeaderError::ChunkSize { sectors } => write!(
                f,
                "header names a chunk size of {sectors} sectors; it must be a power of two of at most {} sectors \
                 and a multiple of the disks' block sizes",
                ChunkSize::MAX_SECTORS
            ),
            HeaderError::Version { version } => {
                write!(f, "header has format version {version}; only version {VERSION} is known")
            }
        }
    }
}

impl std::error::Error for HeaderError {}

/// One exception: the origin's chunk `old` is kept in the COW's chunk `new`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// The chunk of the origin.
    pub old: Chunk,
    /// The chunk of the COW.
    pub new: CowChunk,
}

impl Record {
    /// The record at the start of `bytes` (at least 16); `None` for the terminator.
    pub fn decode(bytes: &[u8]) -> Option<Record> {
        let new = double_word(bytes, 8);
        (new != 0).then(|| Record { old: Chunk(double_word(bytes, 0)), new: CowChunk(new) })
    }

    /// The record's bytes.
    pub fn encode(&self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.old.0.to_le_bytes());
        bytes[8..].copy_from_slice(&self.new.0.to_le_bytes());
        bytes
    }
}

/// Where things are in a store of a given chunk size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// The chunk size.
    pub chunk_size: ChunkSize,
}

impl Layout {
    /// Records in a metadata area, which is one chunk.
    pub const fn records_per_area(self) -> u64 {
        self.chunk_size.bytes() / RECORD_BYTES
    }

    /// The COW chunk that holds an area.
    pub const fn area_chunk(self, area: u64) -> CowChunk {
        CowChunk(1 + area * (self.records_per_area() + 1))
    }

    /// Whether a COW chunk holds a header or an area, never data.
    pub const fn is_metadata(self, chunk: CowChunk) -> bool {
        chunk.0 == 0 || chunk.0 % (self.records_per_area() + 1) == 1
    }

    /// Whole chunks on a COW of that size; a trailing part is never used.
    pub const fn cow_chunks(self, cow_size: Sectors) -> u64 {
        cow_size.0 / self.chunk_size.sectors().0
    }

    /// The first data chunk at or after one.
    const fn skip_metadata(self, chunk: CowChunk) -> CowChunk {
        if self.is_metadata(chunk) { CowChunk(chunk.0 + 1) } else { chunk }
    }

    /// Where an area starts.
    pub const fn area_start(self, area: u64) -> Sector {
        self.chunk_size.start_of_cow(self.area_chunk(area))
    }
}

/// Something wrong with a record, and where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RecordError {
    /// The area the record is in.
    pub area: u64,
    /// Its index in the area.
    pub index: u64,
    /// The record.
    pub record: Record,
    /// What is wrong.
    pub fault: RecordFault,
}

/// What can be wrong with a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RecordFault {
    /// The origin has no such chunk.
    OldBeyondOrigin,
    /// The COW has no such chunk.
    NewBeyondCow,
    /// The COW chunk holds the header or an area.
    NewIsMetadata,
    /// Another record is about the same origin chunk.
    OldTwice,
    /// Another record uses the same COW chunk.
    NewTwice,
}

impl fmt::Display for RecordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.fault {
            RecordFault::OldBeyondOrigin => "names a chunk beyond the origin's end",
            RecordFault::NewBeyondCow => "points beyond the COW's end",
            RecordFault::NewIsMetadata => "points into metadata",
            RecordFault::OldTwice => "repeats an origin chunk",
            RecordFault::NewTwice => "repeats a COW chunk",
        };
        let Record { old, new } = self.record;
        write!(f, "record {} of area {} ({} -> {}) {what}", self.index, self.area, old.0, new.0)
    }
}

impl std::error::Error for RecordError {}

/// Checks one record by itself; repetition is for whoever sees all of them. `origin_chunks` is `None` when the origin
/// is unknown (an offline check of a COW alone).
pub fn check_record(
    layout: Layout,
    record: Record,
    origin_chunks: Option<u64>,
    cow_chunks: u64,
) -> Option<RecordFault> {
    if origin_chunks.is_some_and(|chunks| record.old.0 >= chunks) {
        Some(RecordFault::OldBeyondOrigin)
    } else if record.new.0 >= cow_chunks || record.new.0 >= NEW_CHUNK_LIMIT {
        Some(RecordFault::NewBeyondCow)
    } else if layout.is_metadata(record.new) {
        Some(RecordFault::NewIsMetadata)
    } else {
        None
    }
}

/// Where the next exception goes: the store's in-memory numbers.
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

    /// Where things are.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// The area that takes the next record, and the index in it.
    pub fn position(&self) -> (u64, u64) {
        (self.area, self.committed)
    }

    /// Exceptions allocated and not yet committed.
    pub fn pending(&self) -> u64 {
        self.pending
    }

    /// The next COW chunk to be handed out.
    pub fn next_free(&self) -> CowChunk {
        self.next_free
    }

    /// Takes over a record found on disk. Its position says nothing about its chunk: stores of old kernels have holes.
    pub fn load(&mut self, record: Record) {
        if self.next_free.0 <= record.new.0 {
            // The chunk after the last may be an area; data written there would destroy it (CVE-2013-4299).
            self.next_free = self.layout.skip_metadata(CowChunk(record.new.0 + 1));
        }
        self.advance();
    }

    /// Hands out a COW chunk, or `None` when the COW is full. Full is also a COW whose last slot of an area could be
    /// filled but that has no room for the next area: the kernel invalidates the snapshot there (rule 5.3).
    pub fn allocate(&mut self, cow_size: Sectors) -> Option<CowChunk> {
        let cow_chunks = self.layout.cow_chunks(cow_size);
        let records = self.area * self.layout.records_per_area() + self.committed + self.pending + 1;
        let fills_area = records % self.layout.records_per_area() == 0;
        let next_area = self.layout.area_chunk(records / self.layout.records_per_area());
        let no_successor = fills_area && next_area.0 >= cow_chunks && !mutant::is(Mutant::FullAreaWithoutSuccessor);
        if self.next_free.0 >= cow_chunks || no_successor {
            return None;
        }
        let new = self.next_free;
        self.next_free = self.layout.skip_metadata(CowChunk(new.0 + 1));
        self.pending += 1;
        Some(new)
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

    fn advance(&mut self) {
        self.committed += 1;
        if self.committed == self.layout.records_per_area() {
            self.area += 1;
            self.committed = 0;
        }
    }

    /// The numbers the status line shows.
    pub fn usage(&self, cow_size: Sectors) -> Usage {
        let chunk = self.layout.chunk_size.sectors().0;
        Usage {
            allocated: Sectors(self.next_free.0 * chunk),
            total: cow_size,
            metadata: Sectors((self.area + 2) * chunk),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout(sectors: u64) -> Layout {
        Layout { chunk_size: ChunkSize::from_sectors(sectors).unwrap() }
    }

    #[test]
    fn the_header_is_the_kernels() {
        let fresh = Header::new(ChunkSize::from_sectors(8).unwrap(), true).encode();
        assert_eq!(fresh, *b"SnAp\x01\0\0\0\x01\0\0\0\x08\0\0\0");
        assert!(matches!(examine(&fresh), Ok(Found::Store { .. })));
        let invalid = Header::new(ChunkSize::from_sectors(8).unwrap(), false).encode();
        assert_eq!(invalid, *b"SnAp\0\0\0\0\x01\0\0\0\x08\0\0\0");
        assert_eq!(examine(&[0; 16]), Ok(Found::Empty));
        assert_eq!(examine(b"\0\0\0\0abcdefghijkl"), Ok(Found::Empty), "only the magic word is looked at");
        assert_eq!(examine(b"ABCD\x01\0\0\0\x01\0\0\0\x08\0\0\0"), Err(HeaderError::Foreign { magic: 0x4443_4241 }));
        for sectors in [0_u8, 3, 7] {
            let mut bytes = fresh;
            bytes[12] = sectors;
            assert_eq!(examine(&bytes), Err(HeaderError::ChunkSize { sectors: sectors.into() }));
        }
        let mut bytes = fresh;
        bytes[8] = 2;
        assert_eq!(examine(&bytes), Err(HeaderError::Version { version: 2 }));
    }

    #[test]
    fn areas_lie_where_the_kernel_puts_them() {
        let small = layout(8);
        assert_eq!([0, 1, 2].map(|area| small.area_chunk(area).0), [1, 0x102, 0x203]);
        let larger = layout(16);
        assert_eq!([0, 1].map(|area| larger.area_start(area).bytes()), [0x2000, 0x40_4000]);
        assert!(small.is_metadata(CowChunk(258)) && !small.is_metadata(CowChunk(257)));
    }

    #[test]
    fn usage_matches_observed_status_lines() {
        let total = Sectors(32768);
        let line = |cursor: &Cursor| {
            let usage = cursor.usage(total);
            (usage.allocated.0, usage.metadata.0)
        };
        let mut cursor = Cursor::new(layout(8));
        assert_eq!(line(&cursor), (16, 16));
        for index in 0..300 {
            let new = cursor.allocate(total).unwrap();
            assert_eq!(new.0, if index < 256 { 2 + index } else { 3 + index });
            cursor.commit();
            if index == 255 {
                assert_eq!(line(&cursor), (2072, 24));
            }
        }
        assert_eq!(line(&cursor), (2424, 24));
    }

    #[test]
    fn stores_with_holes_go_on_after_their_highest_chunk() {
        let record = |old, new| Record { old: Chunk(old), new: CowChunk(new) };
        let mut cursor = Cursor::new(layout(8));
        cursor.load(record(1, 2));
        cursor.load(record(2, 257));
        assert_eq!(cursor.allocate(Sectors(3200)), Some(CowChunk(259)));
        let mut cursor = Cursor::new(layout(8));
        for index in 0..200 {
            cursor.load(record(index, index + 2));
        }
        cursor.load(record(201, 260));
        cursor.load(record(202, 257));
        assert_eq!(cursor.allocate(Sectors(3200)), Some(CowChunk(261)));
    }

    #[test]
    fn a_cow_that_ends_with_a_stride_is_full_one_record_early() {
        // 258 chunks: header, area 0, 256 data chunks, and no room for area 1
        let exact = Sectors(258 * 8);
        let mut cursor = Cursor::new(layout(8));
        for _ in 0..255 {
            assert!(cursor.allocate(exact).is_some());
        }
        assert_eq!(cursor.allocate(exact), None);
        // one chunk more holds area 1, so its predecessor may be filled
        assert!(cursor.allocate(Sectors(259 * 8)).is_some());
        assert_eq!(cursor.allocate(Sectors(259 * 8)), None);
    }

    #[test]
    fn records_are_checked_one_by_one() {
        let check = |old, new| check_record(layout(8), Record { old: Chunk(old), new: CowChunk(new) }, Some(10), 300);
        assert_eq!(check(9, 299), None);
        assert_eq!(check(10, 2), Some(RecordFault::OldBeyondOrigin));
        assert_eq!(check(0, 300), Some(RecordFault::NewBeyondCow));
        assert_eq!(check(0, u64::MAX), Some(RecordFault::NewBeyondCow));
        assert_eq!(check(0, 258), Some(RecordFault::NewIsMetadata));
        assert_eq!(check(0, 1), Some(RecordFault::NewIsMetadata));
    }
}
