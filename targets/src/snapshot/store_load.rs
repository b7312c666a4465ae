//! Loading a store: its areas are read, several ahead, and every record is checked before it
//! counts.
//!
//! Records are gathered and sorted when all have been read, in portions between which other tasks
//! run. Duplicates are detected only then; to find which record is one, the store is read a second
//! time, record by record. So a valid store pays nothing for the error message of a faulty one.
//! Loading stops as soon as there are more records than possible.

use std::collections::{HashSet, VecDeque};
use std::task::Poll;

use super::format::{self, Cursor, Layout, RECORD_BYTES, Record, RecordError, RecordFault};
use super::journal::PLACES;
use super::mapping::{Gathered, Mapping};
use super::store_error::StoreError;
use super::store_open::OpenStore;
use crate::disk::{Buffer, Io};
use crate::units::{CowChunk, Sectors};

/// Metadata is read in pieces of at most this: one piece for every chunk size in common use.
const PIECE_BYTES: u64 = 1 << 19;
/// [`RECORD_BYTES`] as a memory size.
const RECORD_LEN: usize = size_of::<[u64; 2]>();
/// Pieces read ahead while loading. The kernel reads 12 ahead; here twice as many are read, 12 at a
/// time.
const PIECES_AHEAD: usize = 24;
/// Runs that are sorted before other tasks run: a few milliseconds' work.
const SORTED_AT_ONCE: usize = 1 << 15;

/// The content of a store.
pub(super) struct Loaded {
    pub(super) mapping: Mapping,
    pub(super) cursor: Cursor,
    /// Bytes of the current block before the terminator.
    pub(super) tail: Vec<u8>,
    /// Nonzero bytes follow the terminator.
    pub(super) stale: bool,
    /// The last records, at most [`PLACES`]: those that a journal may contain.
    pub(super) last: VecDeque<Record>,
}

impl Loaded {
    /// The content of an empty store.
    pub(super) fn nothing(layout: Layout) -> Loaded {
        Loaded {
            mapping: Mapping::default(),
            cursor: Cursor::new(layout),
            tail: Vec::new(),
            stale: false,
            last: VecDeque::new(),
        }
    }
}

/// Reads and checks all records of a store.
pub(super) async fn load(open: &OpenStore<'_>, layout: Layout) -> Result<Loaded, StoreError> {
    let chunks = Gathered::of(layout.chunk_size.chunks_in(open.origin.size()));
    let mut records = Records::Together { chunks, last: 0, orderly: true };
    loop {
        let mut loader = Loader::new(open, layout, records);
        loader.walk().await?;
        let Loader { records: found, loaded, last, .. } = loader;
        if let Some(mapping) = found.into_mapping(open).await {
            return Ok(Loaded { mapping, last: last.decode(), ..loaded });
        }
        records = Records::Single { mapping: Mapping::default(), new: HashSet::new() };
    }
}

/// Records that have been checked individually, and how duplicates among them are found.
enum Records {
    /// All together, at the end, for stores whose COW chunks are in order: all but those of old
    /// kernels. If not `orderly`, they must be checked one by one.
    Together { chunks: Gathered, last: u64, orderly: bool },
    /// Each as it is read, which takes several times as long.
    Single { mapping: Mapping, new: HashSet<u64> },
}

impl Records {
    /// Takes the records of a piece for which `check` finds no fault. Returns how many, and the
    /// highest of their COW chunks.
    ///
    /// The loop runs for every record of a store, on copies of the numbers that it changes.
    fn take(
        &mut self,
        records: impl Iterator<Item = Record>,
        check: impl Fn(Record) -> Option<RecordFault>,
    ) -> Result<(usize, CowChunk), FaultyRecord> {
        match self {
            Records::Together { chunks, last, orderly } => {
                let (mut before, mut in_order) = (*last, *orderly);
                let taken = take_each(records, |record| {
                    let fault = check(record);
                    if fault.is_none() {
                        in_order &= before < record.new.0 && chunks.push(record.old, record.new);
                        before = record.new.0;
                    }
                    fault
                });
                (*last, *orderly) = (before, in_order);
                taken
            }
            Records::Single { mapping, new } => take_each(records, |record| {
                let alone = check(record);
                alone.or_else(|| match new.insert(record.new.0) {
                    false => Some(RecordFault::NewTwice),
                    true => {
                        (!mapping.insert(record.old, record.new)).then_some(RecordFault::OldTwice)
                    }
                })
            }),
        }
    }

    fn are_orderly(&self) -> bool {
        !matches!(self, Records::Together { orderly: false, .. })
    }

    /// The map of all records; `None` if they must be checked one by one.
    async fn into_mapping(self, open: &OpenStore<'_>) -> Option<Mapping> {
        match self {
            Records::Together { orderly: false, .. } => None,
            Records::Together { chunks, .. } => {
                let (mut mapping, mut sorted) = (Mapping::default(), 0);
                for portion in chunks.into_portions() {
                    sorted += portion.runs();
                    if !mapping.append(portion) {
                        return None;
                    }
                    if sorted >= SORTED_AT_ONCE {
                        sorted = 0;
                        next_round(open).await;
                    }
                }
                Some(mapping)
            }
            Records::Single { mapping, .. } => Some(mapping),
        }
    }
}

/// A record with a fault, and its index in its piece.
type FaultyRecord = (usize, Record, RecordFault);

/// Gives each record to `take`, up to the first that has a fault. Returns how many there were, and
/// the highest of their COW chunks.
fn take_each(
    records: impl Iterator<Item = Record>,
    mut take: impl FnMut(Record) -> Option<RecordFault>,
) -> Result<(usize, CowChunk), FaultyRecord> {
    let (mut taken, mut highest) = (0, CowChunk(0));
    for record in records {
        if let Some(fault) = take(record) {
            return Err((taken, record, fault));
        }
        highest = highest.max(record.new);
        taken += 1;
    }
    Ok((taken, highest))
}

/// Lets all other tasks of this thread run first: the origin may be in use.
async fn next_round(open: &OpenStore<'_>) {
    let mut asked = false;
    std::future::poll_fn(|cx| {
        if std::mem::replace(&mut asked, true) {
            return Poll::Ready(());
        }
        open.host.wake_at(open.host.now_ms(), cx.waker());
        Poll::Pending
    })
    .await;
}

/// Reads the areas of a store, several ahead, and checks every record.
struct Loader<'a> {
    open: &'a OpenStore<'a>,
    layout: Layout,
    origin_chunks: u64,
    cow_chunks: u64,
    records: Records,
    loaded: Loaded,
    last: LastRecords,
    bytes: Vec<u8>,
}

/// The last of the records read so far, at most [`PLACES`]: as bytes, because copying all records
/// of a large store costs little, and decoding every one of them a second time costs much.
#[derive(Default)]
struct LastRecords(VecDeque<u8>);

impl LastRecords {
    /// Takes records that follow those taken so far.
    fn take(&mut self, records: &[u8]) {
        const MOST: usize = PLACES * RECORD_LEN;
        let LastRecords(last) = self;
        last.extend(&records[records.len().saturating_sub(MOST)..]);
        last.drain(..last.len().saturating_sub(MOST));
    }

    fn decode(mut self) -> VecDeque<Record> {
        let records = self.0.make_contiguous().chunks_exact(RECORD_LEN);
        records.filter_map(Record::decode).collect()
    }
}

/// A piece of an area in flight from the disk.
struct Piece {
    area: u64,
    offset: u64,
    len: u64,
    buffer: Buffer,
    io: Io,
}

impl<'a> Loader<'a> {
    fn new(open: &'a OpenStore<'a>, layout: Layout, records: Records) -> Loader<'a> {
        Loader {
            open,
            layout,
            origin_chunks: layout.chunk_size.chunks_in(open.origin.size()),
            cow_chunks: layout.cow_chunks(open.cow.size()),
            records,
            loaded: Loaded::nothing(layout),
            last: LastRecords::default(),
            bytes: Vec::new(),
        }
    }

    /// Reads all areas up to the terminator, or until the records are no longer orderly.
    async fn walk(&mut self) -> Result<(), StoreError> {
        let mut ahead = VecDeque::new();
        let result = self.walk_areas(&mut ahead).await;
        // Also the pieces that are no longer needed (I6): the caller uses the disk next.
        for piece in ahead {
            drop(piece.io.await);
        }
        result
    }

    async fn walk_areas(&mut self, ahead: &mut VecDeque<Piece>) -> Result<(), StoreError> {
        let piece_len = PIECE_BYTES.min(self.layout.chunk_size.bytes());
        let (mut area, mut offset) = (0, 0);
        let mut ended = None;
        loop {
            // Half of them together, which is one submission. Within the area that has ended only
            // the search for stale bytes continues.
            let more = if ahead.len() <= PIECES_AHEAD / 2 { PIECES_AHEAD - ahead.len() } else { 0 };
            for _ in 0..more {
                if !self.area_exists(area) || ended.is_some_and(|end| end != area) {
                    break;
                }
                match self.start_piece(area, offset, piece_len) {
                    // Other tasks hold the memory: fewer pieces ahead will do.
                    Err(StoreError::NoMemory) if !ahead.is_empty() => break,
                    piece => ahead.push_back(piece?),
                }
                offset += piece_len;
                if offset == self.layout.chunk_size.bytes() {
                    (area, offset) = (area + 1, 0);
                }
            }
            if ahead.front().is_some_and(|piece| ended.is_some_and(|end| piece.area > end)) {
                return Ok(());
            }
            let Some(piece) = ahead.pop_front() else {
                return if ended.is_some() { Ok(()) } else { Err(self.no_successor(area)) };
            };
            piece.io.await?;
            self.bytes.resize(usize::try_from(piece.len).unwrap_or(0), 0);
            piece.buffer.read(0, &mut self.bytes);
            if ended.is_some() {
                self.loaded.stale |= self.bytes.iter().any(|byte| *byte != 0);
            } else if self.take_records(piece.area, piece.offset)? {
                ended = Some(piece.area);
            }
            if !self.records.are_orderly() {
                return Ok(());
            }
        }
    }

    fn area_exists(&self, area: u64) -> bool {
        self.layout.area_chunk(area).0 < self.cow_chunks
    }

    /// A full last area whose successor would lie beyond the device: no program can open such a
    /// store.
    fn no_successor(&self, area: u64) -> StoreError {
        let needed = self.layout.area_start(area).plus(self.layout.chunk_size.sectors());
        let disk = self.open.cow.name().clone();
        StoreError::TooSmall { disk, size: self.open.cow.size(), needed: Sectors(needed.0) }
    }

    fn start_piece(&self, area: u64, offset: u64, len: u64) -> Result<Piece, StoreError> {
        let bytes = u32::try_from(len).map_err(|_| StoreError::NoMemory)?;
        let buffer = Buffer::acquire(self.open.host, bytes).ok_or(StoreError::NoMemory)?;
        let sector = self.layout.area_start(area).plus(Sectors::from_bytes(offset));
        let io = self.open.cow.read(sector, Sectors::from_bytes(len), buffer.at(0));
        Ok(Piece { area, offset, len, buffer, io })
    }

    /// Takes the records of a piece; returns `true` if the terminator is in it.
    fn take_records(&mut self, area: u64, offset: u64) -> Result<bool, StoreError> {
        let bytes = std::mem::take(&mut self.bytes);
        let slots = bytes.chunks_exact(RECORD_LEN);
        let count = slots.len();
        let (layout, origin_chunks, cow_chunks) =
            (self.layout, Some(self.origin_chunks), self.cow_chunks);
        let check = |record| format::check_record(layout, record, origin_chunks, cow_chunks);
        let faulty = |(at, record, fault)| {
            let index = offset / RECORD_BYTES + at as u64;
            let error = RecordError { area, index, record, fault };
            StoreError::Record(self.open.cow.name().clone(), error)
        };
        let records = slots.map_while(Record::decode);
        let (taken, highest) = self.records.take(records, check).map_err(faulty)?;
        self.loaded.cursor.load(taken as u64, highest);
        self.last.take(&bytes[..taken * RECORD_LEN]);
        let ended = taken < count;
        if ended {
            let block = self.open.cow.limits().logical_block_bytes as usize;
            let at = taken * RECORD_LEN;
            self.loaded.tail = bytes[at - at % block..at].to_vec();
            self.loaded.stale = bytes[at..].iter().any(|byte| *byte != 0);
        }
        self.bytes = bytes;
        Ok(ended)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::units::Chunk;

    /// Pieces of every size: none, shorter than the journal, as long, and longer.
    #[test]
    fn the_last_records_are_those_that_a_journal_may_contain() {
        let record = |number: u64| Record { old: Chunk(3 * number), new: CowChunk(number + 1) };
        let (mut last, mut all) = (LastRecords::default(), Vec::new());
        for count in [0, 1, 256, 0, PLACES - 300, 256, PLACES, 7, PLACES + 5, 256, PLACES - 1] {
            let piece: Vec<Record> = (all.len()..).take(count).map(|n| record(n as u64)).collect();
            last.take(&piece.iter().flat_map(Record::encode).collect::<Vec<u8>>());
            all.extend(piece);
            let kept = LastRecords(last.0.clone()).decode();
            assert!(kept.iter().eq(&all[all.len().saturating_sub(PLACES)..]));
        }
    }
}
