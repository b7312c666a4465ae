//! How a store is written: its creation, its records and its end.
//!
//! Rules kept here:
//!
//! * I1: a batch of records is written with FUA, after a flush that began when all their data had
//!   been written.
//! * I2: before the record that fills an area, the next area is written with zeroes, and that flush
//!   covers it.
//! * The records of a batch are written one disk block at a time, each a single FUA write, so a
//!   torn write can never leave a later record without an earlier one.
//! * Area 0 is zero and flushed before the header that makes it valid; bytes behind the terminator
//!   are zeroed before the first commit. The kernel does neither (its header comes first, its tail
//!   is written back).
//!
//! Only blocks that change are written, where the kernel writes the whole area. The result on disk
//! is the same.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::format::identity::{self, IDENTITY_END};
use super::format::{HEADER_BYTES, Header, Identity, Layout, RECORD_BYTES, Record};
use super::store_open::OpenStore;
use super::store_undo::{Before, Unmade};
use crate::disk::{Buffer, Disk, DiskError, Host, Memory};
use crate::io::{self, IoOp, IoRegion};
use crate::mutant::{self, Mutant};
use crate::units::{Sector, Sectors};

/// Bytes of zeroes written together when an area is cleared; bounds the writes in flight.
const ZERO_STRETCH_BYTES: u64 = 8 << 20;
/// Size of the buffer that zeroes are written from.
const ZERO_PAGE_BYTES: u32 = 65536;

/// What [`Persistent::activate`] still has to write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Unwritten {
    Nothing,
    NewStore,
    /// Nonzero bytes follow the terminator in the current area.
    StaleTail,
}

/// The part of a store's header that the kernel does not read.
pub(super) struct Ours {
    pub(super) identity: Option<Identity>,
    /// The header does not contain it yet.
    pub(super) adopted: bool,
    /// It has no identity, and the header says that a merge has begun.
    pub(super) marked: bool,
}

impl Ours {
    fn is_merging(&self) -> bool {
        self.identity.as_ref().map_or(self.marked, |identity| identity.merging)
    }
}

/// A store on its COW.
pub(super) struct Persistent {
    io: io::Client,
    layout: Layout,
    block_bytes: u32,
    /// The block of the current area that takes the next record; zero from there on.
    block: RefCell<Vec<u8>>,
    area_buffer: Buffer,
    ours: Ours,
    /// The header says that a merge has begun.
    merging: Cell<bool>,
    /// Separate from the area's, because invalidation may run beside a commit.
    header_buffer: Buffer,
    zero_pages: Rc<[Buffer]>,
    unwritten: Cell<Unwritten>,
    host: Rc<dyn Host>,
    /// What a new store has overwritten, until the store is known to be wanted.
    before: RefCell<Option<Before>>,
    /// This process has made the store, or adopted it for this origin.
    made: Cell<bool>,
    /// The header has been written, or may have been.
    headed: Cell<bool>,
    /// Commits so far: area writes, not records.
    commits: Cell<u64>,
}

impl Persistent {
    /// Acquires the buffers for writing; `None` when there is no memory for them. `tail` is the
    /// content of the current block.
    pub(super) fn new(
        open: &OpenStore<'_>,
        layout: Layout,
        mut tail: Vec<u8>,
        unwritten: Unwritten,
        ours: Ours,
    ) -> Option<Persistent> {
        let block_bytes = open.cow.limits().logical_block_bytes;
        tail.resize(block_bytes as usize, 0);
        let zero_page = Buffer::acquire(open.host, ZERO_PAGE_BYTES)?;
        zero_page.at(0).clear(0, u64::from(ZERO_PAGE_BYTES));
        Some(Persistent {
            io: io::Client::new(open.executor, 4),
            layout,
            block_bytes,
            block: RefCell::new(tail),
            merging: Cell::new(ours.is_merging()),
            ours,
            area_buffer: Buffer::acquire(open.host, block_bytes)?,
            header_buffer: Buffer::acquire(open.host, block_bytes)?,
            zero_pages: Rc::new([zero_page]),
            unwritten: Cell::new(unwritten),
            host: open.host.clone(),
            before: RefCell::default(),
            made: Cell::new(false),
            headed: Cell::new(false),
            commits: Cell::new(0),
        })
    }

    /// Writes what a usable store needs.
    pub(super) async fn activate(&self, cow: &Disk, position: (u64, u64)) -> Result<(), DiskError> {
        if self.ours.adopted {
            self.made.set(true);
            self.before.replace(Before::read_header(&self.host, cow).await?);
            self.write_header(cow, true).await?;
        }
        match self.unwritten.replace(Unwritten::Nothing) {
            Unwritten::Nothing => Ok(()),
            Unwritten::NewStore => {
                self.made.set(true);
                let before = Before::read(&self.host, cow, self.layout.chunk_size).await?;
                self.before.replace(before);
                self.create(cow).await
            }
            Unwritten::StaleTail if mutant::is(Mutant::StaleTailKept) => Ok(()),
            Unwritten::StaleTail => self.drop_stale_tail(cow, position).await,
        }
    }

    /// Restores what a new store has overwritten. `used`: chunks have been allocated.
    pub(super) async fn unmake(&self, cow: &Disk, used: bool) -> Result<Unmade, DiskError> {
        let Some(before) = self.before.take() else {
            return Ok(if self.made.get() { Unmade::Stays } else { Unmade::NotNew });
        };
        // With records of this origin the store would be wrong for the origin that it was made for.
        let is_mixed = self.ours.adopted && used;
        let Some(buffer) = before.buffer(&self.host).filter(|_| !is_mixed) else {
            return Ok(Unmade::Stays);
        };
        if before.has_rest() && self.headed.get() && !mutant::is(Mutant::UnmadeWhileValid) {
            // The bytes restored in its first area are not records.
            self.write_header(cow, false).await?;
        }
        before.put_back(&buffer, cow).await?;
        let is_start = !self.ours.adopted && before.len() < 2 * self.layout.chunk_size.bytes();
        Ok(match (is_start, used) {
            (true, _) => Unmade::OnlyStart,
            (false, true) => Unmade::ButCopies,
            (false, false) => Unmade::Whole,
        })
    }

    /// Forgets what a new store has overwritten.
    pub(super) fn keep(&self) {
        self.before.take();
    }

    /// Whether a new store must still be written.
    pub(super) fn is_new(&self) -> bool {
        self.unwritten.get() == Unwritten::NewStore
    }

    /// Whether this process has made the store, or adopted it.
    pub(super) fn is_made(&self) -> bool {
        self.made.get()
    }

    /// Area writes so far.
    pub(super) fn commits(&self) -> u64 {
        self.commits.get()
    }

    async fn run(
        &self,
        op: IoOp,
        memory: Memory,
        cow: &Disk,
        at: Sector,
        count: Sectors,
    ) -> Result<(), DiskError> {
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

    /// Creates a store: the header's chunk behind its first block and area 0 are zero and durable
    /// before the header is written. Until then the COW has no magic word, or a foreign one, and is
    /// no store.
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

    /// Durably writes whether the store is valid.
    pub(super) async fn write_header(&self, cow: &Disk, valid: bool) -> Result<(), DiskError> {
        self.headed.set(true);
        let mut bytes = [0; IDENTITY_END];
        bytes[..HEADER_BYTES].copy_from_slice(&Header::new(self.layout.chunk_size, valid).encode());
        match &self.ours.identity {
            Some(identity) => {
                Identity { merging: self.merging.get(), ..identity.clone() }.encode(&mut bytes);
            }
            None if self.merging.get() => identity::mark(&mut bytes),
            None => {}
        }
        self.header_buffer.at(0).clear(0, u64::from(self.block_bytes));
        self.header_buffer.write(0, &bytes);
        let op = IoOp::Write { preflush: false, fua: true };
        self.run(op, self.header_buffer.at(0), cow, Sector(0), self.block_sectors()).await
    }

    /// The identity of the store.
    pub(super) fn identity(&self) -> Option<&Identity> {
        self.ours.identity.as_ref()
    }

    /// Whether the header says that a merge has begun.
    pub(super) fn is_merging(&self) -> bool {
        self.merging.get()
    }

    /// Durably writes into the header whether a merge has begun.
    pub(super) async fn set_merging(&self, cow: &Disk, merging: bool) -> Result<(), DiskError> {
        if self.merging.get() == merging {
            return Ok(());
        }
        let before = self.merging.replace(merging);
        self.write_header(cow, true).await.inspect_err(|_| self.merging.set(before))
    }

    /// Zeroes what follows the terminator: first the blocks after the current one, durably, then
    /// the rest of the current one. In the other order, a full current block would be followed by
    /// stale records after a crash.
    async fn drop_stale_tail(
        &self,
        cow: &Disk,
        (area, committed): (u64, u64),
    ) -> Result<(), DiskError> {
        let block_start =
            committed * RECORD_BYTES / u64::from(self.block_bytes) * u64::from(self.block_bytes);
        let start = self.layout.area_start(area).plus(Sectors::from_bytes(block_start));
        let area_end = self.layout.area_start(area).plus(self.layout.chunk_size.sectors());
        let next = start.plus(self.block_sectors());
        self.zero(cow, next, Sectors(area_end.0 - next.0)).await?;
        self.area_buffer.write(0, &self.block.borrow());
        let op = IoOp::Write { preflush: true, fua: true };
        self.run(op, self.area_buffer.at(0), cow, start, self.block_sectors()).await
    }

    /// Zeroes the area behind one that is about to be filled (I2: the flush before the records
    /// covers it).
    pub(super) async fn prepare_next_area(
        &self,
        cow: &Disk,
        area: u64,
        fills: bool,
    ) -> Result<(), DiskError> {
        if !fills || mutant::is(Mutant::NextAreaLate) {
            return Ok(());
        }
        self.zero(cow, self.layout.area_start(area + 1), self.layout.chunk_size.sectors()).await
    }

    /// Writes records that fit into the current area, one block at a time. The next area must have
    /// been prepared if they fill it.
    pub(super) async fn commit_in_area(
        &self,
        cow: &Disk,
        (area, committed): (u64, u64),
        records: &[Record],
        fills: bool,
    ) -> Result<(), DiskError> {
        let per_block = u64::from(self.block_bytes) / RECORD_BYTES;
        let (mut index, mut left) = (committed, records);
        let mut preflush = !mutant::is(Mutant::NoFlushBeforeArea);
        while !left.is_empty() {
            let room = usize::try_from(per_block - index % per_block).unwrap_or(usize::MAX);
            let (now, later) = left.split_at(room.min(left.len()));
            self.fill_block(index % per_block, now);
            let at = self
                .layout
                .area_start(area)
                .plus(Sectors::from_bytes(index / per_block * u64::from(self.block_bytes)));
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
            self.zero(cow, self.layout.area_start(area + 1), self.layout.chunk_size.sectors())
                .await?;
        }
        Ok(())
    }

    /// Rewrites a block of an area: these records, then zeroes.
    pub(super) async fn rewrite_block(
        &self,
        cow: &Disk,
        at: Sector,
        records: &[Record],
    ) -> Result<(), DiskError> {
        self.block.borrow_mut().fill(0);
        self.fill_block(0, records);
        let op = IoOp::Write { preflush: false, fua: !mutant::is(Mutant::MergeRemovesSoftly) };
        self.run(op, self.area_buffer.at(0), cow, at, self.block_sectors()).await?;
        self.commits.set(self.commits.get() + 1);
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
