//! The exception store: where records live and how they become durable.
//!
//! Opening has two steps. [`Store::open`] only reads and judges, so that a refused COW is left byte for byte as it was.
//! [`Store::activate`] then writes what a usable store needs: a new one its area and header, one with stale bytes behind
//! its terminator their removal.
//!
//! Rules kept here:
//!
//! * I1: a batch of records is written after a flush that began when all their data had been written, with FUA.
//! * I2: before the record that fills an area, the next area is written with zeroes, and that flush covers it.
//! * The records of a batch are written one disk block at a time, each a single FUA write, so a torn write can never
//!   leave a later record without an earlier one.
//! * Area 0 is zero and flushed before the header that makes it count; what stands behind the terminator is zeroed before
//!   the first commit. The kernel does neither (its header comes first, its tail is written back).
//!
//! Only blocks that change are written, where the kernel writes the whole area. On disk there is no difference.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::rc::Rc;

use super::creation::Before;
use super::exceptions::{Exceptions, Health};
use super::format::{
    self, Cursor, Found, HEADER_BYTES, Header, HeaderError, Layout, RECORD_BYTES, Record, RecordError, Usage,
};
use super::load::Loader;
use crate::disk::{Buffer, Disk, DiskError, Host, Memory};
use crate::exec::Executor;
use crate::io::{self, IoOp, IoRegion};
use crate::mutant::{self, Mutant};
use crate::units::{ChunkSize, CowChunk, SECTOR_BYTES, Sector, Sectors};

/// Bytes of zeroes written in one go when an area is cleared; bounds what one clearing puts in flight.
const ZERO_STRETCH_BYTES: u64 = 8 << 20;
/// Bytes of the buffer that zeroes are written from.
const ZERO_PAGE_BYTES: u32 = 65536;

/// Why a store cannot be opened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreError {
    /// A disk failed.
    Disk(DiskError),
    /// The header is not usable.
    Header(Rc<str>, HeaderError),
    /// A record is not usable.
    Record(Rc<str>, RecordError),
    /// The COW cannot hold a single exception of that chunk size, or ends before its own areas.
    TooSmall {
        /// The COW's name.
        disk: Rc<str>,
        /// Its size.
        size: Sectors,
        /// What it would need.
        needed: Sectors,
    },
    /// The chunk size is not a multiple of a disk's block size.
    ChunkBelowBlock {
        /// The chunk size.
        chunk: Sectors,
        /// The larger of the disks' logical block sizes.
        block_bytes: u32,
    },
    /// A store must be written to be used, and the COW is read-only.
    ReadOnly(Rc<str>),
    /// No memory for buffers.
    NoMemory,
}

impl From<DiskError> for StoreError {
    fn from(error: DiskError) -> StoreError {
        StoreError::Disk(error)
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            StoreError::Disk(error) => error.fmt(f),
            StoreError::Header(disk, error) => write!(f, "{disk}: {error}"),
            StoreError::Record(disk, error) => write!(f, "{disk}: {error}; see `ublk-dm check {disk}`"),
            StoreError::TooSmall { disk, size, needed } => {
                write!(f, "{disk}: too small for a snapshot store: {size} sectors, at least {needed} are needed")
            }
            StoreError::ChunkBelowBlock { chunk, block_bytes } => write!(
                f,
                "chunk size of {} bytes is not a multiple of the disks' block size of {block_bytes} bytes",
                chunk.bytes()
            ),
            StoreError::ReadOnly(disk) => write!(f, "{disk}: read-only; a snapshot store must be writable"),
            StoreError::NoMemory => write!(f, "no memory left for buffers"),
        }
    }
}

impl std::error::Error for StoreError {}

/// What is needed to open a store.
pub struct OpenStore<'a> {
    /// Runs the store's I/O.
    pub executor: &'a Executor,
    /// Lends its buffers.
    pub host: &'a Rc<dyn Host>,
    /// The origin: its size bounds the records, its block size the chunk size.
    pub origin: &'a Disk,
    /// The COW device.
    pub cow: &'a Disk,
    /// The chunk size of a new store; one on disk wins over it.
    pub chunk_size: Option<ChunkSize>,
    /// Whether records are kept on disk.
    pub persistent: bool,
    /// Treat a COW that holds something else as empty.
    pub overwrite: bool,
}

/// What [`Store::activate`] still has to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unwritten {
    Nothing,
    NewStore,
    /// Nonzero bytes stand behind the terminator of the current area.
    StaleTail,
}

/// A persistent or transient exception store.
pub struct Store {
    cow: Disk,
    chunk_size: ChunkSize,
    persistent: Option<Persistent>,
    cursor: RefCell<Cursor>,
    transient_next: Cell<u64>,
}

struct Persistent {
    io: io::Client,
    layout: Layout,
    block_bytes: u32,
    /// The block of the current area that takes the next record; zero from there on.
    block: RefCell<Vec<u8>>,
    area_buffer: Buffer,
    /// Apart from the area's, because invalidation may run beside a commit.
    header_buffer: Buffer,
    zero_pages: Rc<[Buffer]>,
    unwritten: Cell<Unwritten>,
    host: Rc<dyn Host>,
    /// What a new store has overwritten, until it is known to be wanted.
    before: RefCell<Option<Before>>,
    /// Commits so far: area writes, not records.
    commits: Cell<u64>,
}

impl Store {
    /// Reads and judges; writes nothing. Gives the store and the exceptions it holds.
    pub async fn open(open: OpenStore<'_>) -> Result<(Store, Exceptions), StoreError> {
        let block_bytes = open.cow.limits().logical_block_bytes.max(open.origin.limits().logical_block_bytes);
        let default = format::DEFAULT_CHUNK_SECTORS.max(u64::from(block_bytes) / SECTOR_BYTES);
        let wanted = open.chunk_size.or(ChunkSize::from_sectors(default));
        let wanted = wanted.ok_or(StoreError::ChunkBelowBlock { chunk: Sectors(default), block_bytes })?;
        if !open.persistent {
            check_size(wanted, block_bytes, open.cow, 1)?;
            let cursor = RefCell::new(Cursor::new(Layout { chunk_size: wanted }));
            let transient_next = Cell::new(0);
            let store = Store { cow: open.cow.clone(), chunk_size: wanted, persistent: None, cursor, transient_next };
            return Ok((store, Exceptions::new(Health::Valid)));
        }
        if open.cow.limits().read_only {
            return Err(StoreError::ReadOnly(open.cow.name().clone()));
        }
        let found = match read_header(&open).await {
            Err(StoreError::Header(_, HeaderError::Foreign { .. })) if open.overwrite => Found::Empty,
            found => found?,
        };
        let (chunk_size, health, unwritten) = match found {
            Found::Empty => (wanted, Health::Valid, Unwritten::NewStore),
            Found::Store { header, chunk_size } if header.valid == 0 => {
                (chunk_size, Health::Invalid, Unwritten::Nothing)
            }
            Found::Store { chunk_size, .. } => (chunk_size, Health::Valid, Unwritten::Nothing),
        };
        let fewest = if unwritten == Unwritten::NewStore { format::MIN_COW_CHUNKS } else { 2 };
        check_size(chunk_size, block_bytes, open.cow, fewest)?;
        let layout = Layout { chunk_size };
        let mut loader = Loader::new(&open, layout, health);
        if unwritten == Unwritten::Nothing && health == Health::Valid {
            loader.load().await?;
        }
        let Loader { exceptions, cursor, tail, stale, .. } = loader;
        let unwritten = if stale { Unwritten::StaleTail } else { unwritten };
        let persistent = Persistent::new(&open, layout, tail, unwritten).ok_or(StoreError::NoMemory)?;
        let store = Store {
            cow: open.cow.clone(),
            chunk_size,
            persistent: Some(persistent),
            cursor: RefCell::new(cursor),
            transient_next: Cell::new(0),
        };
        Ok((store, exceptions))
    }

    /// Writes what a usable store needs. To be called once, before the first allocation.
    pub async fn activate(&self) -> Result<(), DiskError> {
        let Some(store) = &self.persistent else { return Ok(()) };
        match store.unwritten.replace(Unwritten::Nothing) {
            Unwritten::Nothing => Ok(()),
            Unwritten::NewStore => {
                let before = Before::read(&store.host, &self.cow, self.chunk_size).await?;
                store.before.replace(before);
                store.create(&self.cow).await
            }
            Unwritten::StaleTail if mutant::is(Mutant::StaleTailKept) => Ok(()),
            Unwritten::StaleTail => {
                let position = self.cursor.borrow().position();
                store.drop_stale_tail(&self.cow, position).await
            }
        }
    }

    /// Unmakes a store that [`Store::activate`] has made, or begun to make. To be called when nothing else uses it.
    pub async fn unmake(&self) -> Result<(), DiskError> {
        let Some(store) = &self.persistent else { return Ok(()) };
        let before = store.before.take();
        match before {
            Some(before) => before.put_back(&store.host, &self.cow).await,
            None => Ok(()),
        }
    }

    /// The store is wanted: what it has overwritten is forgotten.
    pub fn keep(&self) {
        if let Some(store) = &self.persistent {
            store.before.take();
        }
    }

    /// Whether records are kept on disk.
    pub fn is_persistent(&self) -> bool {
        self.persistent.is_some()
    }

    /// Whether [`Store::activate`] would write a new store.
    pub fn is_new(&self) -> bool {
        self.persistent.as_ref().is_some_and(|store| store.unwritten.get() == Unwritten::NewStore)
    }

    /// The chunk size, which is the one on disk if there is a store.
    pub fn chunk_size(&self) -> ChunkSize {
        self.chunk_size
    }

    /// Hands out the next COW chunk, or `None` when the COW is full even after looking at its size again.
    pub fn allocate(&self) -> Option<CowChunk> {
        self.allocate_within(self.cow.size()).or_else(|| self.allocate_within(self.cow.refresh_size()))
    }

    fn allocate_within(&self, size: Sectors) -> Option<CowChunk> {
        if self.persistent.is_some() {
            return self.cursor.borrow_mut().allocate(size);
        }
        let next = self.transient_next.get();
        let fits = (next + 1) * self.chunk_size.sectors().0 <= size.0;
        fits.then(|| {
            self.transient_next.set(next + 1);
            CowChunk(next)
        })
    }

    /// Makes records durable, in their order. Their data must have been written.
    pub async fn commit(&self, records: &[Record]) -> Result<(), DiskError> {
        let Some(store) = &self.persistent else { return Ok(()) };
        let mut left = records;
        while !left.is_empty() {
            let room = usize::try_from(self.cursor.borrow().room_in_area()).unwrap_or(usize::MAX);
            let (now, later) = left.split_at(room.min(left.len()));
            let position = self.cursor.borrow().position();
            store.commit_in_area(&self.cow, position, now, now.len() == room).await?;
            for _ in now {
                self.cursor.borrow_mut().commit();
            }
            left = later;
        }
        Ok(())
    }

    /// Durably marks the store invalid (I9). Nothing to mark in a transient one.
    pub async fn invalidate(&self) -> Result<(), DiskError> {
        match &self.persistent {
            Some(store) => store.write_header(&self.cow, false).await,
            None => Ok(()),
        }
    }

    /// The numbers of the status line.
    pub fn usage(&self) -> Usage {
        if self.persistent.is_some() {
            return self.cursor.borrow().usage(self.cow.size());
        }
        let allocated = Sectors(self.transient_next.get() * self.chunk_size.sectors().0);
        Usage { allocated, total: self.cow.size(), metadata: Sectors(0) }
    }

    /// Area writes so far.
    pub fn commits(&self) -> u64 {
        self.persistent.as_ref().map_or(0, |store| store.commits.get())
    }
}

fn check_size(chunk_size: ChunkSize, block_bytes: u32, cow: &Disk, fewest: u64) -> Result<(), StoreError> {
    let chunk = chunk_size.sectors();
    if chunk.bytes() % u64::from(block_bytes) != 0 {
        return Err(StoreError::ChunkBelowBlock { chunk, block_bytes });
    }
    let needed = Sectors(fewest * chunk.0);
    if cow.size() < needed {
        return Err(StoreError::TooSmall { disk: cow.name().clone(), size: cow.size(), needed });
    }
    Ok(())
}

async fn read_header(open: &OpenStore<'_>) -> Result<Found, StoreError> {
    let block = open.cow.limits().logical_block_bytes;
    let needed = Sectors::from_bytes(u64::from(block));
    if open.cow.size() < needed {
        return Err(StoreError::TooSmall { disk: open.cow.name().clone(), size: open.cow.size(), needed });
    }
    let buffer = Buffer::acquire(open.host, block).ok_or(StoreError::NoMemory)?;
    open.cow.read(Sector(0), needed, buffer.at(0)).await?;
    let mut bytes = [0; HEADER_BYTES];
    buffer.read(0, &mut bytes);
    format::examine(&bytes).map_err(|error| StoreError::Header(open.cow.name().clone(), error))
}

impl Persistent {
    fn new(open: &OpenStore<'_>, layout: Layout, mut tail: Vec<u8>, unwritten: Unwritten) -> Option<Persistent> {
        let block_bytes = open.cow.limits().logical_block_bytes;
        tail.resize(block_bytes as usize, 0);
        let zero_page = Buffer::acquire(open.host, ZERO_PAGE_BYTES)?;
        zero_page.at(0).clear(0, u64::from(ZERO_PAGE_BYTES));
        Some(Persistent {
            io: io::Client::new(open.executor, 4),
            layout,
            block_bytes,
            block: RefCell::new(tail),
            area_buffer: Buffer::acquire(open.host, block_bytes)?,
            header_buffer: Buffer::acquire(open.host, block_bytes)?,
            zero_pages: Rc::new([zero_page]),
            unwritten: Cell::new(unwritten),
            host: open.host.clone(),
            before: RefCell::default(),
            commits: Cell::new(0),
        })
    }

    async fn run(&self, op: IoOp, memory: Memory, cow: &Disk, at: Sector, count: Sectors) -> Result<(), DiskError> {
        let region = [IoRegion { disk: cow.clone(), sector: at, count }];
        self.io.run(op, memory, &region).await.map_or(Ok(()), io::Outcome::result)
    }

    async fn zero(&self, cow: &Disk, from: Sector, count: Sectors) -> Result<(), DiskError> {
        let mut done = 0;
        while done < count.0 {
            let now = Sectors((count.0 - done).min(Sectors::from_bytes(ZERO_STRETCH_BYTES).0));
            let memory = Memory::Pages { pages: self.zero_pages.clone(), offset_bytes: 0 };
            let op = IoOp::Write { preflush: false, fua: false };
            self.run(op, memory, cow, from.plus(Sectors(done)), now).await?;
            done += now.0;
        }
        Ok(())
    }

    fn block_sectors(&self) -> Sectors {
        Sectors::from_bytes(u64::from(self.block_bytes))
    }

    /// A new store: the header's chunk behind its first block and area 0 are zero and durable before the header is
    /// written. Until then the COW has no magic word, or a foreign one, and is no store.
    async fn create(&self, cow: &Disk) -> Result<(), DiskError> {
        if mutant::is(Mutant::HeaderBeforeArea) {
            self.write_header(cow, true).await?;
        }
        let chunk = self.layout.chunk_size.sectors();
        let block = self.block_sectors();
        let header_rest = Sectors(chunk.0 - block.0);
        self.zero(cow, Sector(block.0), header_rest).await?;
        self.zero(cow, self.layout.area_start(0), chunk).await?;
        self.run(IoOp::FLUSH, Memory::None, cow, Sector(0), Sectors(0)).await?;
        self.write_header(cow, true).await
    }

    async fn write_header(&self, cow: &Disk, valid: bool) -> Result<(), DiskError> {
        let header = Header::new(self.layout.chunk_size, valid).encode();
        self.header_buffer.at(0).clear(0, u64::from(self.block_bytes));
        self.header_buffer.write(0, &header);
        let op = IoOp::Write { preflush: false, fua: true };
        self.run(op, self.header_buffer.at(0), cow, Sector(0), self.block_sectors()).await
    }

    /// Zeroes what stands behind the terminator: first the blocks after the current one, durably, then its own rest.
    /// The other way round, a full current block would run into stale records after a crash.
    async fn drop_stale_tail(&self, cow: &Disk, (area, committed): (u64, u64)) -> Result<(), DiskError> {
        let block_start = committed * RECORD_BYTES / u64::from(self.block_bytes) * u64::from(self.block_bytes);
        let start = self.layout.area_start(area).plus(Sectors::from_bytes(block_start));
        let area_end = self.layout.area_start(area).plus(self.layout.chunk_size.sectors());
        let next = start.plus(self.block_sectors());
        self.zero(cow, next, Sectors(area_end.0 - next.0)).await?;
        self.area_buffer.write(0, &self.block.borrow());
        let op = IoOp::Write { preflush: true, fua: true };
        self.run(op, self.area_buffer.at(0), cow, start, self.block_sectors()).await
    }

    /// Writes records that fit into the current area, one block at a time.
    async fn commit_in_area(
        &self,
        cow: &Disk,
        (area, committed): (u64, u64),
        records: &[Record],
        fills: bool,
    ) -> Result<(), DiskError> {
        let next_area = (self.layout.area_start(area + 1), self.layout.chunk_size.sectors());
        if fills && !mutant::is(Mutant::NextAreaLate) {
            self.zero(cow, next_area.0, next_area.1).await?;
        }
        let per_block = u64::from(self.block_bytes) / RECORD_BYTES;
        let (mut index, mut left) = (committed, records);
        let mut preflush = !mutant::is(Mutant::NoFlushBeforeArea);
        while !left.is_empty() {
            let room = usize::try_from(per_block - index % per_block).unwrap_or(usize::MAX);
            let (now, later) = left.split_at(room.min(left.len()));
            self.fill_block(index % per_block, now);
            let at =
                self.layout.area_start(area).plus(Sectors::from_bytes(index / per_block * u64::from(self.block_bytes)));
            let op = IoOp::Write { preflush, fua: !mutant::is(Mutant::NoFua) };
            self.run(op, self.area_buffer.at(0), cow, at, self.block_sectors()).await?;
            self.commits.set(self.commits.get() + 1);
            // The first flush covered the data of all records of the batch.
            preflush = false;
            index += now.len() as u64;
            if index % per_block == 0 {
                self.block.borrow_mut().fill(0);
            }
            left = later;
        }
        if fills && mutant::is(Mutant::NextAreaLate) {
            self.zero(cow, next_area.0, next_area.1).await?;
        }
        Ok(())
    }

    fn fill_block(&self, first: u64, records: &[Record]) {
        let mut block = self.block.borrow_mut();
        let start = usize::try_from(first * RECORD_BYTES).unwrap_or(0);
        for (slot, record) in block[start..].chunks_exact_mut(16).zip(records) {
            slot.copy_from_slice(&record.encode());
        }
        self.area_buffer.write(0, &block);
    }
}
