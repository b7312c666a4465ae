//! The exception store: where records live and how they become durable.
//!
//! Opening has two steps. [`Store::open`] only reads and judges, so that a refused COW stays
//! unchanged byte for byte. [`Store::activate`] then writes what a usable store needs: the area and
//! header of a new one, zeroes over stale bytes behind the terminator of another.
//!
//! Rules kept here: nothing is written before the whole store has been judged; a chunk counts as
//! committed, and the next position advances, only when its record is durable (`store_write`).

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use super::exceptions::{Exceptions, Health};
use super::format::{self, Cursor, Found, HeaderError, Layout, Record, Usage};
use super::journal::Journaled;
pub use super::store_error::StoreError;
use super::store_load::{self, Loaded};
pub use super::store_open::{OpenStore, Ownership};
use super::store_open::{read_header, whose};
pub use super::store_undo::Unmade;
use super::store_write::{Ours, Persistent, Unwritten};
use crate::disk::{Disk, DiskError};
use crate::mutant::{self, Mutant};
use crate::units::{ChunkSize, CowChunk, SECTOR_BYTES, Sector, Sectors};

/// A persistent or transient exception store.
pub struct Store {
    cow: Disk,
    chunk_size: ChunkSize,
    persistent: Option<Persistent>,
    cursor: RefCell<Cursor>,
    transient_next: Cell<u64>,
    /// A chunk has been handed out.
    used: Cell<bool>,
    /// The last records found on the COW, for [`Store::take_over`].
    last: RefCell<VecDeque<Record>>,
}

impl Store {
    /// Reads and judges; writes nothing. Returns the store and the exceptions it holds.
    pub async fn open(open: OpenStore<'_>) -> Result<(Store, Exceptions), StoreError> {
        let block_bytes =
            open.cow.limits().logical_block_bytes.max(open.origin.limits().logical_block_bytes);
        let default = format::DEFAULT_CHUNK_SECTORS.max(u64::from(block_bytes) / SECTOR_BYTES);
        let wanted = open.chunk_size.or(ChunkSize::from_sectors(default));
        let wanted =
            wanted.ok_or(StoreError::ChunkBelowBlock { chunk: Sectors(default), block_bytes })?;
        if !open.persistent {
            check_size(wanted, block_bytes, open.cow, 1)?;
            return Ok((Store::transient(open.cow, wanted), Exceptions::new(Health::Valid)));
        }
        if open.cow.limits().read_only {
            return Err(StoreError::ReadOnly(open.cow.name().clone()));
        }
        let (found, identity, marked) = match read_header(&open).await {
            Err(StoreError::Header(_, HeaderError::Foreign { .. })) if open.overwrite => {
                (Found::Empty, None, false)
            }
            found => found?,
        };
        let (identity, adopted) = whose(&open, found, identity)?;
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
        let loaded = if unwritten == Unwritten::Nothing && health == Health::Valid {
            store_load::load(&open, layout).await?
        } else {
            Loaded::nothing(layout)
        };
        let Loaded { mapping, cursor, tail, stale, last } = loaded;
        let unwritten = if stale { Unwritten::StaleTail } else { unwritten };
        let marked = marked && found != Found::Empty;
        let ours = Ours { identity, adopted: adopted && health == Health::Valid, marked };
        let persistent =
            Persistent::new(&open, layout, tail, unwritten, ours).ok_or(StoreError::NoMemory)?;
        let store = Store {
            cow: open.cow.clone(),
            chunk_size,
            persistent: Some(persistent),
            cursor: RefCell::new(cursor),
            transient_next: Cell::new(0),
            used: Cell::new(false),
            last: RefCell::new(last),
        };
        Ok((store, Exceptions::loaded(health, mapping)))
    }

    /// A store that lives as long as its device.
    fn transient(cow: &Disk, chunk_size: ChunkSize) -> Store {
        Store {
            cow: cow.clone(),
            chunk_size,
            persistent: None,
            cursor: RefCell::new(Cursor::new(Layout { chunk_size })),
            transient_next: Cell::new(0),
            used: Cell::new(false),
            last: RefCell::default(),
        }
    }

    /// Takes over records that a server journaled and could not commit any more. Returns those that
    /// are not in the store, for [`Store::commit`]; none if the store is new or invalid. An error
    /// if a record cannot belong to this store.
    pub(super) fn take_over(
        &self,
        journaled: Journaled,
        exceptions: &mut Exceptions,
        origin: &Disk,
        journal: &str,
    ) -> Result<Vec<Record>, StoreError> {
        let Journaled { records: mut journaled, recorded } = journaled;
        let last = self.last.take();
        if self.is_new() || exceptions.health() != Health::Valid {
            return Ok(Vec::new());
        }
        let misfit = |record: &Record| {
            let (disk, journal) = (self.cow.name().clone(), journal.to_owned());
            StoreError::Journaled { disk, journal, record: *record }
        };
        if let Some(first) =
            journaled.first().filter(|_| !is_own_end(&last, self.recorded(), recorded, &journaled))
        {
            return Err(misfit(first));
        }
        let mut cursor = self.cursor.borrow_mut();
        let (origin_chunks, cow_chunks) =
            (self.chunk_size.chunks_in(origin.size()), cursor.layout().cow_chunks(self.cow.size()));
        journaled.sort_by_key(|record| record.new);
        // The server died between the commit of a record and its removal from the journal.
        journaled.retain(|record| exceptions.mapped(record.old) != Some(record.new));
        for record in &journaled {
            let fault =
                format::check_record(cursor.layout(), *record, Some(origin_chunks), cow_chunks);
            // Commits follow the order of allocation, so uncommitted records lie behind all
            // committed ones.
            if fault.is_some() || !cursor.take_over(record.new) || !exceptions.load(*record) {
                return Err(misfit(record));
            }
        }
        Ok(journaled)
    }

    /// Writes what a usable store needs. Must be called once, before the first allocation.
    pub async fn activate(&self) -> Result<(), DiskError> {
        self.last.take();
        let Some(store) = &self.persistent else { return Ok(()) };
        let position = self.cursor.borrow().position();
        store.activate(&self.cow, position).await
    }

    /// Unmakes a store that [`Store::activate`] has made, or begun to make. Nothing else may use
    /// the store.
    pub async fn unmake(&self) -> Result<Unmade, DiskError> {
        match &self.persistent {
            Some(store) => store.unmake(&self.cow, self.used.get()).await,
            None if self.used.get() => Ok(Unmade::Copies),
            None => Ok(Unmade::NotNew),
        }
    }

    /// The store is wanted: forgets what it has overwritten.
    pub fn keep(&self) {
        if let Some(store) = &self.persistent {
            store.keep();
        }
    }

    /// Whether records are kept on disk.
    pub fn is_persistent(&self) -> bool {
        self.persistent.is_some()
    }

    /// Whether [`Store::activate`] would write a new store.
    pub fn is_new(&self) -> bool {
        self.persistent.as_ref().is_some_and(Persistent::is_new)
    }

    /// Whether this process has made it, will make it, or has taken it over from another origin: it
    /// shows its origin as this process found it.
    pub(super) fn is_made_here(&self) -> bool {
        self.persistent.as_ref().is_none_or(|store| store.is_new() || store.is_made())
    }

    /// The chunk size; the one on disk if there is a store.
    pub fn chunk_size(&self) -> ChunkSize {
        self.chunk_size
    }

    /// Allocates the next COW chunk, or returns `None` when the COW is full even after its size has
    /// been read again.
    pub fn allocate(&self) -> Option<CowChunk> {
        let allocated = self.allocate_within(self.cow.size());
        let allocated = allocated.or_else(|| self.allocate_within(self.cow.refresh_size()));
        self.used.set(self.used.get() || allocated.is_some());
        allocated
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

    /// Makes records durable, in order. Their data must have been written.
    pub async fn commit(&self, records: &[Record]) -> Result<(), DiskError> {
        let Some(store) = &self.persistent else { return Ok(()) };
        let mut left = records;
        while !left.is_empty() {
            let room = usize::try_from(self.cursor.borrow().room_in_area()).unwrap_or(usize::MAX);
            let (now, later) = left.split_at(room.min(left.len()));
            let position = self.cursor.borrow().position();
            let fills = now.len() == room;
            if let Err(error) = store.prepare_next_area(&self.cow, position.0, fills).await {
                // The records before the one that fills the area do not need the next area.
                if error.errno.is_no_space() {
                    self.commit_now(store, position, &now[..now.len() - 1], false).await?;
                }
                return Err(error);
            }
            self.commit_now(store, position, now, fills).await?;
            left = later;
        }
        Ok(())
    }

    async fn commit_now(
        &self,
        store: &Persistent,
        position: (u64, u64),
        records: &[Record],
        fills: bool,
    ) -> Result<(), DiskError> {
        store.commit_in_area(&self.cow, position, records, fills).await?;
        records.iter().for_each(|_| self.cursor.borrow_mut().commit());
        Ok(())
    }

    /// The layout of the COW.
    pub(super) fn layout(&self) -> Layout {
        self.cursor.borrow().layout()
    }

    /// Durably rewrites a block of an area: the records that a merge leaves in it, then zeroes.
    /// Before an exception is allocated again the store must be reopened.
    pub(super) async fn rewrite_block(
        &self,
        at: Sector,
        records: &[Record],
    ) -> Result<(), DiskError> {
        let Some(store) = &self.persistent else { return Ok(()) };
        store.rewrite_block(&self.cow, at, records).await
    }

    /// The origin's size when the store was made, if that is known.
    pub(super) fn origin_sectors(&self) -> Option<Sectors> {
        Some(Sectors(self.persistent.as_ref()?.identity()?.origin_sectors))
    }

    /// Whether its header says that a merge has begun.
    pub(super) fn is_merging(&self) -> bool {
        self.persistent.as_ref().is_some_and(Persistent::is_merging)
    }

    /// Durably writes into the header whether a merge has begun.
    pub(super) async fn set_merging(&self, merging: bool) -> Result<(), DiskError> {
        let Some(store) = &self.persistent else { return Ok(()) };
        store.set_merging(&self.cow, merging).await
    }

    /// The last `count` records are durably gone.
    pub(super) fn removed(&self, count: usize) {
        self.cursor.borrow_mut().remove(count as u64);
    }

    /// Exceptions whose chunks are allocated and that will get no records.
    pub(super) fn give_up(&self, count: usize) {
        (0..count).for_each(|_| self.cursor.borrow_mut().give_up());
    }

    /// Whether the allocated exceptions fill an area: their commit needs space for the next one.
    pub(super) fn fills_area(&self) -> bool {
        self.persistent.is_some() && self.cursor.borrow().fills_area()
    }

    /// How many records are durable.
    pub(super) fn recorded(&self) -> u64 {
        self.cursor.borrow().recorded()
    }

    /// Durably marks the store invalid (I9). Does nothing for a transient one.
    pub async fn invalidate(&self) -> Result<(), DiskError> {
        match &self.persistent {
            Some(store) => store.write_header(&self.cow, false).await,
            None => Ok(()),
        }
    }

    /// The numbers of the status line; `journaled` is the number of journaled exceptions.
    pub fn usage(&self, journaled: usize) -> Usage {
        if self.persistent.is_some() {
            return self.cursor.borrow().usage(self.cow.size(), journaled as u64);
        }
        let allocated = Sectors(self.transient_next.get() * self.chunk_size.sectors().0);
        Usage { allocated, total: self.cow.size(), metadata: Sectors(0) }
    }

    /// Area writes so far.
    pub fn commits(&self) -> u64 {
        self.persistent.as_ref().map_or(0, Persistent::commits)
    }
}

/// Whether a COW with `recorded` records, the last ones in `last`, has got no others since the
/// death of a server that knew of `known` records and had the rest in its journal: its last commit
/// may have become durable without being counted.
fn is_own_end(last: &VecDeque<Record>, recorded: u64, known: u64, journal: &[Record]) -> bool {
    let Some(since) = recorded.checked_sub(known).and_then(|count| usize::try_from(count).ok())
    else {
        return false;
    };
    let in_journal =
        |record: &Record| journal.contains(record) || mutant::is(Mutant::JournalOverForeign);
    since <= last.len() && last.iter().rev().take(since).all(in_journal)
}

fn check_size(
    chunk_size: ChunkSize,
    block_bytes: u32,
    cow: &Disk,
    fewest: u64,
) -> Result<(), StoreError> {
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
