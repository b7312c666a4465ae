//! Loading a store: its areas are read, several ahead, and every record is checked before it counts.

use std::collections::{HashSet, VecDeque};

use super::exceptions::{Exceptions, Health};
use super::format::{self, Cursor, Layout, RECORD_BYTES, Record, RecordError, RecordFault};
use super::store::{OpenStore, StoreError};
use crate::disk::{Buffer, Io};
use crate::units::Sectors;

/// Metadata is read in pieces of at most this: one piece for every chunk size people use.
const PIECE_BYTES: u64 = 1 << 19;
/// Areas read ahead while loading; the kernel reads 12 ahead, more gains nothing on any disk.
const AREAS_AHEAD: usize = 12;

/// Reads the areas of a store, several ahead, and checks every record.
pub(super) struct Loader<'a> {
    open: &'a OpenStore<'a>,
    layout: Layout,
    pub(super) exceptions: Exceptions,
    pub(super) cursor: Cursor,
    /// Bytes of the current block before the terminator.
    pub(super) tail: Vec<u8>,
    /// Something stands behind the terminator.
    pub(super) stale: bool,
    last_new: u64,
    /// Filled from the first record on whose chunk is not above the one before it: stores of old kernels only.
    seen_new: Option<HashSet<u64>>,
    bytes: Vec<u8>,
}

/// A piece of an area on its way from the disk.
struct Piece {
    area: u64,
    offset: u64,
    len: u64,
    buffer: Buffer,
    io: Io,
}

impl<'a> Loader<'a> {
    pub(super) fn new(open: &'a OpenStore<'a>, layout: Layout, health: Health) -> Loader<'a> {
        Loader {
            open,
            layout,
            exceptions: Exceptions::new(health),
            cursor: Cursor::new(layout),
            tail: Vec::new(),
            stale: false,
            last_new: 0,
            seen_new: None,
            bytes: Vec::new(),
        }
    }

    pub(super) async fn load(&mut self) -> Result<(), StoreError> {
        let piece_len = PIECE_BYTES.min(self.layout.chunk_size.bytes());
        let (mut area, mut offset) = (0, 0);
        let mut ahead: VecDeque<Piece> = VecDeque::new();
        let mut ended = None;
        loop {
            // Within the area that has ended only the search for stale bytes goes on.
            while ahead.len() < AREAS_AHEAD && ended.is_none_or(|end| end == area) && self.area_exists(area) {
                ahead.push_back(self.start_piece(area, offset, piece_len)?);
                offset += piece_len;
                if offset == self.layout.chunk_size.bytes() {
                    (area, offset) = (area + 1, 0);
                }
            }
            let Some(piece) = ahead.pop_front() else {
                return if ended.is_some() { Ok(()) } else { Err(self.no_successor(area)) };
            };
            if ended.is_some_and(|end| piece.area > end) {
                continue;
            }
            piece.io.await?;
            self.bytes.resize(usize::try_from(piece.len).unwrap_or(0), 0);
            piece.buffer.read(0, &mut self.bytes);
            if ended.is_some() {
                self.stale |= self.bytes.iter().any(|byte| *byte != 0);
            } else if self.take_records(piece.area, piece.offset)? {
                ended = Some(piece.area);
            }
        }
    }

    fn area_exists(&self, area: u64) -> bool {
        self.layout.area_chunk(area).0 < self.layout.cow_chunks(self.open.cow.size())
    }

    /// A full last area whose successor would lie beyond the device: such a store cannot be opened by anyone.
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

    /// Takes the records of a piece; `true` if the terminator is in it.
    fn take_records(&mut self, area: u64, offset: u64) -> Result<bool, StoreError> {
        let bytes = std::mem::take(&mut self.bytes);
        let block = self.open.cow.limits().logical_block_bytes as usize;
        let mut ended = false;
        let record_len = 16;
        for (index, slot) in bytes.chunks_exact(record_len).enumerate() {
            let Some(record) = Record::decode(slot) else {
                let at = index * record_len;
                self.tail = bytes[at - at % block..at].to_vec();
                self.stale = bytes[at..].iter().any(|byte| *byte != 0);
                ended = true;
                break;
            };
            let index = offset / RECORD_BYTES + index as u64;
            self.check(record)
                .map_err(|fault| RecordError { area, index, record, fault })
                .map_err(|error| StoreError::Record(self.open.cow.name().clone(), error))?;
        }
        self.bytes = bytes;
        Ok(ended)
    }

    fn check(&mut self, record: Record) -> Result<(), RecordFault> {
        let origin_chunks = self.layout.chunk_size.chunks_in(self.open.origin.size());
        let cow_chunks = self.layout.cow_chunks(self.open.cow.size());
        if let Some(fault) = format::check_record(self.layout, record, Some(origin_chunks), cow_chunks) {
            return Err(fault);
        }
        if record.new.0 <= self.last_new && self.seen_new.is_none() {
            self.seen_new = Some(self.exceptions.cow_chunks().map(|chunk| chunk.0).collect());
        }
        self.last_new = record.new.0;
        if self.seen_new.as_mut().is_some_and(|seen| !seen.insert(record.new.0)) {
            return Err(RecordFault::NewTwice);
        }
        if !self.exceptions.load(record) {
            return Err(RecordFault::OldTwice);
        }
        self.cursor.load(record);
        Ok(())
    }
}
