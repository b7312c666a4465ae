//! The log of a mirror that grows: its bits take more blocks, and its header has another number of
//! regions.
//!
//! Rule kept here: the header has the new number of regions only when the bits of the new regions
//! are durable. What is on the log's disk behind the old bits is not the log's: as bits it would
//! say of some of the new regions that they are in sync.

use std::rc::Rc;

use super::super::bits::Bits;
use super::super::format::{Layout, WORDS_BYTES, Words};
use super::super::log_region_size::LogRegionSize;
use super::{Changed, Log, Unusable, memory, sector};
use crate::disk::{Buffer, DiskError, Host};
use crate::units::{RegionIndex, Sectors};

/// What a log needs to have more regions.
pub(in crate::mirror) struct Growth {
    layout: Layout,
    /// The bytes in its last block after the bits.
    tail: Vec<u8>,
    queued: Bits,
    buffer: Buffer,
    piece_bytes: u32,
}

/// Why a log cannot have more regions. It is as it was.
pub(in crate::mirror) enum NotGrown {
    /// There is no memory for it.
    NoMemory,
    /// Its disk cannot be read.
    Unreadable(DiskError),
}

impl Log {
    /// Checks that the log's disk, whose size is read again, has room for so many regions.
    pub(in crate::mirror) fn check_room(&self, regions: u64) -> Result<(), Unusable> {
        let Some(device) = &self.device else { return Ok(()) };
        let layout = Layout { regions, ..self.layout.get() };
        if device.disk.refresh_size() < layout.len() {
            return Err(Unusable::TooSmall(layout.len()));
        }
        Ok(())
    }

    /// The disk of the log, as errors name it.
    pub(in crate::mirror) fn disk_name(&self) -> Option<Rc<str>> {
        self.device.as_ref().map(|device| device.disk.name().clone())
    }

    /// Gets what the log needs for so many regions, and waits until no batch is being written.
    /// `None`: a log in memory needs nothing.
    pub(in crate::mirror) async fn begin_growth(
        &self,
        host: &Rc<dyn Host>,
        regions: u64,
    ) -> Result<Option<Growth>, NotGrown> {
        let Some(device) = &self.device else { return Ok(None) };
        let layout = Layout { regions, ..self.layout.get() };
        let (buffer, piece_bytes) = memory(host, layout).ok_or(NotGrown::NoMemory)?;
        let queued = Bits::zeroes(layout.blocks()).ok_or(NotGrown::NoMemory)?;
        let block_bytes = u64::from(layout.block_bytes);
        let last = (layout.blocks() - 1) * block_bytes;
        let read = device.disk.read(sector(last), Sectors::from_bytes(block_bytes), buffer.at(0));
        read.await.map_err(NotGrown::Unreadable)?;
        let mut block = vec![0; layout.block_bytes as usize];
        buffer.read(0, &mut block);
        let used = usize::try_from(layout.used_bytes().saturating_sub(last)).unwrap_or(0);
        let tail = block.split_off(used.min(block.len()));
        self.until_idle().await;
        Ok(Some(Growth { layout, tail, queued, buffer, piece_bytes }))
    }

    /// Waits until no batch is requested or being written.
    pub(in crate::mirror) async fn until_idle(&self) {
        while self.on_disk() && !self.is_idle() {
            self.until_ended(self.batches.collecting.get()).await;
        }
    }

    /// Whether no batch is requested or being written.
    fn is_idle(&self) -> bool {
        let batches = &self.batches;
        !batches.wanted.get() && batches.ended.get() + 1 == batches.collecting.get()
    }

    /// Has more regions from now on. `first`: the first one whose bit may have changed. Called in
    /// the step in which [`Log::begin_growth`] returned, and the bits grow in the same step. The
    /// header keeps the old number of regions until [`Log::count_regions`].
    pub(in crate::mirror) fn grow(&self, growth: Option<Growth>, first: RegionIndex) {
        let (Some(device), Some(growth)) = (&self.device, growth) else { return };
        let Growth { layout, tail, queued, buffer, piece_bytes } = growth;
        self.layout.set(layout);
        *device.buffer.borrow_mut() = buffer;
        device.piece_bytes.set(piece_bytes);
        self.header.tail.replace(tail);
        {
            let mut changed = self.batches.changed.borrow_mut();
            let before = std::mem::take(&mut changed.queue);
            changed.queued = Some(queued);
            drop(changed);
            before.into_iter().for_each(|block| self.change_block(block, true));
        }
        (layout.block_of(first)..layout.blocks()).for_each(|block| self.change_block(block, true));
    }

    /// Has only the first regions from now on, in the step in which [`Log::until_idle`] returned;
    /// the bits are cut in the same step.
    pub(in crate::mirror) fn cut(&self, regions: u64) {
        if self.device.is_none() {
            return;
        }
        let layout = Layout { regions, ..self.layout.get() };
        self.layout.set(layout);
        let tail = layout.len().bytes() - layout.used_bytes();
        self.header.tail.replace(vec![0; usize::try_from(tail).unwrap_or(0)]);
        {
            let Changed { queue, queued } = &mut *self.batches.changed.borrow_mut();
            queue.retain(|block| *block < layout.blocks());
            if let Some(queued) = queued {
                queued.fill_from(layout.blocks(), false);
            }
        }
        self.change_block(layout.blocks() - 1, true);
    }

    /// The header has the number of regions that the log has, from the next batch on.
    pub(in crate::mirror) fn count_regions(&self) {
        if self.device.is_none() {
            return;
        }
        let header = &mut self.header.bytes.borrow_mut();
        let mut words = [0; WORDS_BYTES];
        words.copy_from_slice(&header[..WORDS_BYTES]);
        let words = Words { regions: self.layout.get().regions, ..Words::decode(&words) };
        header[..WORDS_BYTES].copy_from_slice(&words.encode());
        LogRegionSize::put(header, self.header.region_size);
        self.change_header();
    }
}
