//! The dirty log: marks made durable in batches, on a device or nowhere.
//!
//! The bits themselves are kept by [`super::regions`]; what stands there may be on disk at any
//! moment. Here is only what has changed since it was written, and how far writing has come. All
//! marks made until a batch is taken share its writes; a mark names the batch that will make it
//! durable, and a write to the legs waits until that batch has *ended* (I7).
//!
//! How a batch is written is in `batch`. Left to others: when regions are cleaned (`cleaner`), and
//! what a failed log means for writes (`write`).
//!
//! Rule kept here: a log that could not be read says nothing, and one that could not be written
//! stays failed until it has been written as a whole.

mod batch;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use super::bits::Bits;
use super::format::{HEADER_BYTES, Layout, LegFlags, resume};
use super::legs::LegSet;
use super::table::InitialSync;
use crate::disk::{Buffer, Disk, DiskError, Host};
use crate::exec::WaitQueue;
use crate::mutant::{self, Mutant};
use crate::units::{RegionIndex, SECTOR_BYTES, Sector, Sectors};

/// Writes of one batch in flight together; the rest of a batch follows.
const WRITES_IN_FLIGHT: usize = 8;
/// Longest read or write of the log, and so the memory for one: 32 KiB, the bits of 262,144
/// regions.
const PIECE_BYTES: u32 = 32 * 1024;

/// What the log's task does next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Write what has changed.
    Write,
    /// End.
    End,
}

/// Blocks that differ from what is on disk.
#[derive(Default)]
struct Changed {
    /// Each once.
    queue: VecDeque<u64>,
    queued: Option<Bits>,
}

/// A device's part of the log.
struct OnDisk {
    disk: Disk,
    buffer: Buffer,
    piece_bytes: u32,
}

/// The dirty log of a mirror.
pub(super) struct Log {
    device: Option<OnDisk>,
    layout: Layout,
    header: RefCell<Box<[u8; HEADER_BYTES]>>,
    /// What stands in the last block behind the bits.
    tail: RefCell<Vec<u8>>,
    changed: RefCell<Changed>,
    /// The batch that marks made now will be in.
    collecting: Cell<u64>,
    /// The last batch that was written, or could not be.
    ended: Cell<u64>,
    /// The batch that makes the leg flags durable.
    flags_batch: Cell<u64>,
    /// The header names the legs whatever there is to remember.
    named: Cell<bool>,
    /// It names others than the mirror has, so nothing in it is trusted.
    pub(super) foreign_legs: Cell<bool>,
    /// A batch is wanted; with marks in it.
    wanted: Cell<bool>,
    marks: Cell<bool>,
    closing: Cell<bool>,
    /// A read or write failed at some time: letter `D`.
    pub(super) dead: Cell<bool>,
    /// A flush of the log's device failed: letter `F`. That a leg could not be flushed is the leg's
    /// letter, as in the kernel.
    pub(super) flush_failed: Cell<bool>,
    /// Marks could not be made durable. Stays until the log has been written as a whole.
    pub(super) failed: Cell<bool>,
    pub(super) failure: RefCell<Option<DiskError>>,
    /// The last batch could not be written.
    last_failed: Cell<bool>,
    /// It had marks, which are in memory only.
    behind: Cell<bool>,
    pub(super) work: WaitQueue,
    changes: WaitQueue,
}

/// Why a log cannot be opened.
pub(super) enum Unusable {
    /// The device is smaller than this.
    TooSmall(Sectors),
    /// There is no memory for it.
    NoMemory,
}

impl Log {
    /// A log for so many regions; nothing is read yet.
    pub(super) fn new(
        host: &Rc<dyn Host>,
        disk: Option<Disk>,
        regions: u64,
    ) -> Result<Log, Unusable> {
        let block_bytes = disk.as_ref().map_or(512, |disk| disk.limits().logical_block_bytes);
        let layout = Layout { regions, block_bytes };
        let mut tail = 0;
        let mut queued = None;
        let device = match disk {
            None => None,
            Some(disk) => {
                if disk.size() < layout.len() {
                    return Err(Unusable::TooSmall(layout.len()));
                }
                tail = usize::try_from(layout.len().bytes() - layout.used_bytes()).unwrap_or(0);
                queued = Some(Bits::zeroes(layout.blocks()).ok_or(Unusable::NoMemory)?);
                let piece_bytes = u32::try_from(layout.len().bytes()).unwrap_or(PIECE_BYTES);
                let piece_bytes = piece_bytes.min(PIECE_BYTES.max(block_bytes));
                // at most eight pieces
                #[allow(clippy::cast_possible_truncation)]
                let pieces = layout.blocks().min(WRITES_IN_FLIGHT as u64) as u32;
                let buffer =
                    Buffer::acquire(host, piece_bytes * pieces).ok_or(Unusable::NoMemory)?;
                Some(OnDisk { disk, buffer, piece_bytes })
            }
        };
        Ok(Log {
            device,
            layout,
            header: RefCell::new(Box::new([0; HEADER_BYTES])),
            tail: RefCell::new(vec![0; tail]),
            changed: RefCell::new(Changed { queue: VecDeque::new(), queued }),
            collecting: Cell::new(1),
            ended: Cell::new(0),
            flags_batch: Cell::new(0),
            named: Cell::new(false),
            foreign_legs: Cell::new(false),
            wanted: Cell::new(false),
            marks: Cell::new(false),
            closing: Cell::new(false),
            dead: Cell::new(false),
            flush_failed: Cell::new(false),
            failed: Cell::new(false),
            failure: RefCell::default(),
            last_failed: Cell::new(false),
            behind: Cell::new(false),
            work: WaitQueue::default(),
            changes: WaitQueue::default(),
        })
    }

    /// Whether there is a device.
    pub(super) fn on_disk(&self) -> bool {
        self.device.is_some()
    }

    /// Reads the log: which regions are in sync, and which legs, of those identities, missed
    /// something. Nothing is written yet. An error of the device is not one of this call: the log
    /// is taken to be empty, and is dead.
    pub(super) async fn read(&self, initial: InitialSync, bits: &mut Bits, legs: &[u64]) -> LegSet {
        let Some(device) = &self.device else {
            bits.fill_from(0, initial == InitialSync::NoSync);
            return LegSet::default();
        };
        let mut header = Box::new([0; HEADER_BYTES]);
        let mut tail = vec![0; self.tail.borrow().len()];
        let result = self.read_pieces(device, &mut header, bits, &mut tail).await;
        if let Err(error) = &result {
            self.failure.borrow_mut().get_or_insert(error.clone());
            header.fill(0);
            tail.fill(0);
        }
        let before = (*header, bits.count());
        let resumed = resume(&mut header, bits, result.is_ok(), initial);
        let flags = match initial {
            _ if resumed.fresh => None,
            InitialSync::NoSync => LegFlags::decode(&header, legs),
            _ => LegFlags::missed(&header, legs),
        };
        // Whoever says that the legs are the same means all of them.
        let trusted = initial == InitialSync::NoSync
            || resumed.fresh
            || mutant::is(Mutant::ForeignLegsTrusted);
        if !trusted && LegFlags::names_foreign_legs(&header, legs) {
            bits.fill_from(0, false);
            self.foreign_legs.set(true);
        }
        let padded = result.unwrap_or(true);
        if padded || before != (*header, bits.count()) {
            self.change_all();
        }
        self.dead.set(self.dead.get() || resumed.failed);
        *self.header.borrow_mut() = header;
        self.tail.replace(tail);
        LegSet(flags.unwrap_or(0))
    }

    /// Reads the log of a mirror that is in use; says whether it could be read and understood. If
    /// not, what was known of its other content stays.
    pub(super) async fn read_again(
        &self,
        initial: InitialSync,
        bits: &mut Bits,
        legs: &[u64],
    ) -> bool {
        let (header, tail) = (self.header.borrow().clone(), self.tail.borrow().clone());
        let dead = self.dead.replace(false);
        self.read(initial, bits, legs).await;
        let readable = !self.dead.get();
        if !readable {
            *self.header.borrow_mut() = header;
            self.tail.replace(tail);
        }
        self.dead.set(dead || !readable);
        readable
    }

    /// Reads all pieces; says whether there were bits after the last region.
    async fn read_pieces(
        &self,
        device: &OnDisk,
        header: &mut [u8; HEADER_BYTES],
        bits: &mut Bits,
        tail: &mut [u8],
    ) -> Result<bool, DiskError> {
        let mut padded = false;
        let mut bytes = vec![0; device.piece_bytes as usize];
        let (mut at, end) = (0, self.layout.len().bytes());
        while at < end {
            let len = (end - at).min(u64::from(device.piece_bytes));
            device.disk.read(sector(at), Sectors::from_bytes(len), device.buffer.at(0)).await?;
            let bytes = &mut bytes[..usize::try_from(len).unwrap_or(0)];
            device.buffer.read(0, bytes);
            padded |= self.layout.decode(at, bytes, header, bits, tail);
            at += len;
        }
        Ok(padded)
    }

    /// The batch that marks made now will be in.
    pub(super) fn collecting(&self) -> u64 {
        if self.device.is_some() { self.collecting.get() } else { 0 }
    }

    /// Whether a batch has been written, or could not be.
    pub(super) fn has_ended(&self, batch: u64) -> bool {
        batch <= self.ended.get()
    }

    /// Whether marks of earlier batches are missing on disk, because the disk refused them.
    pub(super) fn is_behind(&self) -> bool {
        self.behind.get()
    }

    /// A region's bit was cleared, and a write waits for it.
    pub(super) fn mark(&self, region: RegionIndex) {
        self.note(self.layout.block_of(region), true);
    }

    /// A region's bit was set. Written with the next batch, or when [`Log::request`] asks for one.
    pub(super) fn clear(&self, region: RegionIndex) {
        self.note(self.layout.block_of(region), false);
    }

    /// Everything has to be written.
    pub(super) fn change_all(&self) {
        for block in 0..self.layout.blocks() {
            self.note(block, true);
        }
    }

    /// The header has to be written.
    pub(super) fn change_header(&self) {
        self.note(0, true);
    }

    fn note(&self, block: u64, mark: bool) {
        if self.device.is_none() {
            return;
        }
        let mut changed = self.changed.borrow_mut();
        if changed.queued.as_mut().is_some_and(|queued| queued.put(block, true)) {
            changed.queue.push_back(block);
        }
        self.marks.set(self.marks.get() | mark);
    }

    /// Asks for a batch; what is marked until it is taken is in it.
    pub(super) fn request(&self) {
        if self.device.is_some() && !self.wanted.replace(true) {
            self.work.wake_all();
        }
    }

    /// Waits until a batch has ended.
    pub(super) async fn until_ended(&self, batch: u64) {
        if !self.has_ended(batch) {
            if batch >= self.collecting.get() {
                self.request();
            }
            self.changes.until(|| self.has_ended(batch).then_some(())).await;
        }
    }

    /// Writes what has changed so far and waits for it; then everything written is made durable.
    pub(super) async fn sync(&self) -> Result<(), DiskError> {
        let Some(device) = &self.device else { return Ok(()) };
        self.until_ended(self.collecting.get()).await;
        if let Some(error) = self.failure.borrow().clone().filter(|_| self.last_failed.get()) {
            // A flush would say nothing about it; as in the kernel, the letter stays `D`.
            return Err(error);
        }
        device.disk.flush().await.inspect_err(|_| self.flush_failed.set(true))
    }

    /// Puts the legs that missed something into the header; durable when [`Log::remembers_legs`].
    pub(super) fn set_flags(&self, legs: &[u64], stale: LegSet) {
        if self.device.is_none() {
            return;
        }
        let header = &mut self.header.borrow_mut();
        if self.named.get() {
            LegFlags::name(header, legs, stale.0);
        } else {
            LegFlags::encode(header, legs, stale.0);
        }
        self.change_header();
        self.flags_batch.set(self.collecting.get());
        self.request();
    }

    /// The header names its legs from now on, also when none has missed anything.
    pub(super) fn name_legs(&self) {
        self.named.set(!mutant::is(Mutant::LegsNotNamed));
    }

    /// Whether the legs that missed something are in the header on disk, as far as that is
    /// possible.
    pub(super) fn remembers_legs(&self) -> bool {
        self.has_ended(self.flags_batch.get())
    }

    /// Waits until the legs that missed something are remembered.
    pub(super) async fn until_legs_remembered(&self) {
        self.until_ended(self.flags_batch.get()).await;
    }

    /// Ends the log's task when nothing is left to write.
    pub(super) fn close(&self) {
        self.closing.set(true);
        self.work.wake_all();
    }

    /// What the task does next, if anything.
    pub(super) fn next_work(&self) -> Option<Work> {
        if self.wanted.get() { Some(Work::Write) } else { self.closing.get().then_some(Work::End) }
    }
}

fn sector(bytes: u64) -> Sector {
    Sector(bytes / SECTOR_BYTES)
}
