//! The dirty log: marks made durable in batches on a device, or kept in memory only.
//!
//! The bits themselves are kept by [`super::regions`]; their current values may reach the disk at
//! any moment. This file tracks only the blocks changed since they were last written, and the
//! progress of writing. All marks made until a batch is taken share its writes; a mark names the
//! batch that will make it durable, and a write to the legs waits until that batch has *ended*
//! (I7).
//!
//! `batch` writes a batch, `load` reads the log. Elsewhere: when regions are cleaned (`cleaner`),
//! and what a failed log means for writes (`write`).
//!
//! Rule kept here: a log that could not be read is not trusted, and a log that could not be written
//! stays failed until it has been written as a whole.

mod batch;
pub(super) mod grow;
mod health;
mod load;

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;

use super::bits::Bits;
use super::format::{HEADER_BYTES, Layout};
use super::leg_flags::LegFlags;
use super::leg_set::LegSet;
use super::log_region_size::LogRegionSize;
use crate::disk::{Buffer, Disk, DiskError, Host};
use crate::exec::WaitQueue;
use crate::mutant::{self, Mutant};
use crate::units::{RegionIndex, SECTOR_BYTES, Sector, Sectors};
use health::LastBatch;
pub(super) use health::{Health, Letter};

/// Most writes of one batch in flight together.
const WRITES_IN_FLIGHT: usize = 8;
/// Longest read or write of the log, and so the buffer space for one: 32 KiB, the bits of 262,144
/// regions.
const PIECE_BYTES: u32 = 32 * 1024;

/// The next action of the log's task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Write the changed blocks.
    Write,
    /// End.
    End,
}

/// Blocks that differ from the log on disk.
#[derive(Default)]
struct Changed {
    /// Each block once.
    queue: VecDeque<u64>,
    queued: Option<Bits>,
}

/// The log's device and buffer.
struct OnDisk {
    disk: Disk,
    buffer: RefCell<Buffer>,
    piece_bytes: Cell<u32>,
}

/// The bytes around the bits, and the legs named in them.
struct Header {
    bytes: RefCell<Box<[u8; HEADER_BYTES]>>,
    /// The bytes in the last block after the bits.
    tail: RefCell<Vec<u8>>,
    /// The batch that makes the leg flags durable.
    flags_batch: Cell<u64>,
    /// The header names the legs even if no leg is stale.
    named: Cell<bool>,
    /// Identities of legs in headers of earlier versions, each with that of today.
    renamed: Vec<(u64, u64)>,
    /// The size of a region.
    region_size: Sectors,
    /// The size of the regions that the bits were about when they were read, if it is another one.
    other_size: Cell<Option<Sectors>>,
    /// The log was not a mirror's when it was read.
    fresh: Cell<bool>,
    /// It had all regions in sync, or said which legs are not up to date, so that all others are.
    tells_sources: Cell<bool>,
    /// Another program has used the log while it had legs as stale, of which it knew nothing.
    doubtful: Cell<bool>,
    /// The header on disk if it names legs that the mirror does not have, or if the bits are about
    /// regions of another size: until the log has been cleared under it.
    foreign: RefCell<Option<Rc<[u8; HEADER_BYTES]>>>,
}

/// The changed blocks, and the progress of writing them. Each of the three flags may be set without
/// the others: marks wait for a batch that is not requested yet, and a batch requested at the end
/// is still written.
struct Batches {
    changed: RefCell<Changed>,
    /// The batch that marks made now will be in.
    collecting: Cell<u64>,
    /// The last batch that was written or failed, and its result.
    ended: Cell<u64>,
    last: Cell<LastBatch>,
    /// The changes include marks.
    marks: Cell<bool>,
    /// A batch is requested.
    wanted: Cell<bool>,
    /// The log's task ends when no batch is requested.
    closing: Cell<bool>,
}

/// The dirty log of a mirror.
pub(super) struct Log {
    device: Option<OnDisk>,
    layout: Cell<Layout>,
    header: Header,
    batches: Batches,
    health: Cell<Health>,
    /// The first error.
    pub(super) failure: RefCell<Option<DiskError>>,
    pub(super) work: WaitQueue,
    changes: WaitQueue,
}

/// The log could not be written and made durable.
pub(super) struct SyncError {
    pub(super) error: DiskError,
    /// Nothing had failed before, so the administrator has not been notified.
    pub(super) is_news: bool,
}

/// Why a log cannot be opened.
pub(super) enum Unusable {
    /// The device is smaller than the log, which has this length.
    TooSmall(Sectors),
    /// There is no memory for it.
    NoMemory,
}

impl Log {
    /// A log for `regions` regions; nothing is read yet.
    pub(super) fn new(
        host: &Rc<dyn Host>,
        disk: Option<Disk>,
        (regions, region_size): (u64, Sectors),
        renamed: Vec<(u64, u64)>,
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
                let (buffer, piece_bytes) = memory(host, layout).ok_or(Unusable::NoMemory)?;
                let (buffer, piece_bytes) = (RefCell::new(buffer), Cell::new(piece_bytes));
                Some(OnDisk { disk, buffer, piece_bytes })
            }
        };
        Ok(Log {
            device,
            layout: Cell::new(layout),
            header: Header {
                bytes: RefCell::new(Box::new([0; HEADER_BYTES])),
                tail: RefCell::new(vec![0; tail]),
                flags_batch: Cell::new(0),
                named: Cell::new(false),
                renamed,
                region_size,
                other_size: Cell::new(None),
                fresh: Cell::new(false),
                tells_sources: Cell::new(false),
                doubtful: Cell::new(false),
                foreign: RefCell::default(),
            },
            batches: Batches {
                changed: RefCell::new(Changed { queue: VecDeque::new(), queued }),
                collecting: Cell::new(1),
                ended: Cell::new(0),
                last: Cell::default(),
                marks: Cell::new(false),
                wanted: Cell::new(false),
                closing: Cell::new(false),
            },
            health: Cell::default(),
            failure: RefCell::default(),
            work: WaitQueue::default(),
            changes: WaitQueue::default(),
        })
    }

    /// Whether there is a device.
    pub(super) fn on_disk(&self) -> bool {
        self.device.is_some()
    }

    /// The log's health.
    #[inline]
    pub(super) fn health(&self) -> Health {
        self.health.get()
    }

    /// The batch that marks made now will be in.
    pub(super) fn collecting(&self) -> u64 {
        if self.device.is_some() { self.batches.collecting.get() } else { 0 }
    }

    /// Whether a batch has been written or has failed.
    pub(super) fn has_ended(&self, batch: u64) -> bool {
        batch <= self.batches.ended.get()
    }

    /// Whether marks of the last batch are missing on disk, because its writes failed.
    pub(super) fn is_behind(&self) -> bool {
        self.batches.last.get() == LastBatch::MarksLost
    }

    /// A region's bit was cleared, and a write waits until that is durable.
    pub(super) fn mark(&self, region: RegionIndex) {
        if self.on_disk() {
            self.change_block(self.layout.get().block_of(region), true);
        }
    }

    /// A region's bit was set. It is written with the next batch, or when [`Log::request`] requests
    /// one.
    pub(super) fn clear(&self, region: RegionIndex) {
        self.change_block(self.layout.get().block_of(region), false);
    }

    /// Marks all blocks as changed.
    pub(super) fn change_all(&self) {
        for block in 0..self.layout.get().blocks() {
            self.change_block(block, true);
        }
    }

    /// The whole log is about to be written, header first: if that succeeds, marks can be made
    /// again.
    pub(super) fn begin_whole(&self) {
        self.change_header();
        self.health.set(self.health.get().tried_again());
    }

    /// The log could not be written as a whole: marks cannot be made.
    pub(super) fn fail(&self) {
        self.health.set(self.health.get().without_marks());
    }

    /// Whether each leg that the log, as it was read, does not have as stale is up to date.
    pub(super) fn tells_sources(&self) -> bool {
        self.header.tells_sources.get()
    }

    /// Whether the log was not a mirror's when it was read.
    pub(super) fn is_fresh(&self) -> bool {
        self.header.fresh.get()
    }

    /// Whether another program has used the log since it had legs as stale: it does not say which
    /// legs are right where it has marks.
    pub(super) fn is_doubtful(&self) -> bool {
        self.header.doubtful.get()
    }

    /// The size of the regions that the bits were about when they were read, if it is not that of
    /// the mirror's regions.
    pub(super) fn other_region_size(&self) -> Option<Sectors> {
        self.header.other_size.get()
    }

    /// Marks the header as changed.
    pub(super) fn change_header(&self) {
        self.change_block(0, true);
    }

    fn change_block(&self, block: u64, mark: bool) {
        if self.device.is_none() {
            return;
        }
        let mut changed = self.batches.changed.borrow_mut();
        if changed.queued.as_mut().is_some_and(|queued| queued.put(block, true)) {
            changed.queue.push_back(block);
        }
        self.batches.marks.set(self.batches.marks.get() | mark);
    }

    /// Requests a batch; marks made until it is taken are in it.
    pub(super) fn request(&self) {
        if self.device.is_some() && !self.batches.wanted.replace(true) {
            self.work.wake_all();
        }
    }

    /// Waits until a batch has ended.
    pub(super) async fn until_ended(&self, batch: u64) {
        if !self.has_ended(batch) {
            if batch >= self.batches.collecting.get() {
                self.request();
            }
            self.changes.until(|| self.has_ended(batch).then_some(())).await;
        }
    }

    /// Writes the blocks changed so far, waits for the writes, and flushes the device.
    pub(super) async fn sync(&self) -> Result<(), SyncError> {
        let Some(device) = &self.device else { return Ok(()) };
        self.until_ended(self.batches.collecting.get()).await;
        let lost = self.batches.last.get() != LastBatch::Written;
        if let Some(error) = self.failure.borrow().clone().filter(|_| lost) {
            // A flush would not report this error; as in the kernel, the letter stays `D`.
            return Err(SyncError { error, is_news: false });
        }
        device.disk.flush().await.map_err(|error| {
            let before = self.health.get();
            self.health.set(before.after_flush_error());
            SyncError { error, is_news: !before.is_dead() }
        })
    }

    /// Puts the stale legs into the header; durable once [`Log::remembers_legs`] returns `true`.
    pub(super) fn set_flags(&self, legs: &[u64], stale: LegSet) {
        if self.device.is_none() {
            return;
        }
        let header = &mut self.header.bytes.borrow_mut();
        if self.header.named.get() {
            LegFlags::name(header, legs, stale.0);
        } else {
            LegFlags::encode(header, legs, stale.0);
        }
        LogRegionSize::put(header, self.header.region_size);
        LegFlags::sign(header);
        self.change_header();
        self.header.flags_batch.set(self.batches.collecting.get());
        self.request();
    }

    /// The header names its legs from now on, even if none is stale.
    pub(super) fn name_legs(&self) {
        self.header.named.set(!mutant::is(Mutant::LegsNotNamed));
    }

    /// Whether the batch with the stale legs has ended: they are in the header on disk, unless it
    /// failed.
    pub(super) fn remembers_legs(&self) -> bool {
        self.has_ended(self.header.flags_batch.get())
    }

    /// Waits until the batch with the stale legs has ended.
    pub(super) async fn until_legs_remembered(&self) {
        self.until_ended(self.header.flags_batch.get()).await;
    }

    /// Ends the log's task once no batch is requested.
    pub(super) fn close(&self) {
        self.batches.closing.set(true);
        self.work.wake_all();
    }

    /// The task's next action, if any.
    pub(super) fn next_work(&self) -> Option<Work> {
        if self.batches.wanted.get() {
            return Some(Work::Write);
        }
        self.batches.closing.get().then_some(Work::End)
    }
}

/// The buffer for the writes of a batch, and the length of the longest one.
fn memory(host: &Rc<dyn Host>, layout: Layout) -> Option<(Buffer, u32)> {
    let piece_bytes = u32::try_from(layout.len().bytes()).unwrap_or(PIECE_BYTES);
    let piece_bytes = piece_bytes.min(PIECE_BYTES.max(layout.block_bytes));
    // at most eight pieces
    #[allow(clippy::cast_possible_truncation)]
    let pieces = layout.blocks().min(WRITES_IN_FLIGHT as u64) as u32;
    Some((Buffer::acquire(host, piece_bytes * pieces)?, piece_bytes))
}

fn sector(bytes: u64) -> Sector {
    Sector(bytes / SECTOR_BYTES)
}
