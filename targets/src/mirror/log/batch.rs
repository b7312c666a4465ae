//! Writing one batch of the log to the device.
//!
//! One task writes ([`Log::write`]), one batch at a time, so two writes of the same block are never
//! in flight together. Adjacent blocks are written together, and at most eight such writes are in
//! flight at a time.
//!
//! Rule kept here: the durable half of I7. Batches with marks are written with FUA. Batches that
//! only clean regions are not: a clean bit need not become durable, but must not do so before the
//! legs are flushed, which happens before the bit is set in memory. And: a log of other legs, or of
//! regions of another size, is cleared durably under the header that it has before a batch writes
//! the mirror's own: its bits never applied to what that names. If that fails, it is repeated by
//! the next batch.

use std::rc::Rc;

use super::super::bits::WithBits;
use super::health::LastBatch;
use super::{Changed, HEADER_BYTES, Log, OnDisk, WRITES_IN_FLIGHT, sector};
use crate::disk::{DiskError, Io};
use crate::mutant::{self, Mutant};
use crate::units::Sectors;

/// Bytes encoded at a time.
const SECTOR_LEN: usize = 512;

impl Log {
    /// Takes all changed blocks as a batch and writes it, with FUA if it contains marks. `bits`
    /// lends the bits as they are when each block is encoded.
    pub(in crate::mirror) async fn write(&self, bits: &impl WithBits) -> Result<(), DiskError> {
        let Some(device) = &self.device else { return Ok(()) };
        let batches = &self.batches;
        batches.wanted.set(false);
        let foreign = self.header.foreign.borrow().clone();
        let foreign = foreign.filter(|_| !mutant::is(Mutant::NamedBeforeCleared));
        let fua = batches.marks.replace(false) || foreign.is_some();
        let batch = batches.collecting.get();
        batches.collecting.set(batch + 1);
        let cleared = match foreign {
            Some(header) => self.forget_others(device, header, bits).await,
            None => Ok(()),
        };
        let result = match cleared {
            Ok(()) => self.write_changed(device, bits, None, fua).await,
            failed => failed,
        };
        batches.last.set(match &result {
            Ok(()) => LastBatch::Written,
            Err(_) if fua => LastBatch::MarksLost,
            Err(_) => LastBatch::ClearsLost,
        });
        if let Err(error) = &result {
            let health = self.health.get();
            self.health.set(if fua { health.without_marks() } else { health.after_error() });
            self.failure.borrow_mut().get_or_insert(error.clone());
        }
        batches.ended.set(batch);
        self.changes.wake_all();
        result
    }

    /// Clears a log that is about other legs than the mirror's, or regions of another size, under
    /// the header that says so.
    async fn forget_others(
        &self,
        device: &OnDisk,
        header: Rc<[u8; HEADER_BYTES]>,
        bits: &impl WithBits,
    ) -> Result<(), DiskError> {
        self.change_all();
        let cleared = self.write_changed(device, bits, Some(&header), true).await;
        if cleared.is_ok() || mutant::is(Mutant::UnclearedNamed) {
            self.header.foreign.replace(None);
        }
        self.change_all();
        cleared
    }

    /// Writes the changed blocks; with `clears`: under this header, and without any region in sync.
    async fn write_changed(
        &self,
        device: &OnDisk,
        bits: &impl WithBits,
        clears: Option<&[u8; HEADER_BYTES]>,
        fua: bool,
    ) -> Result<(), DiskError> {
        // Blocks that change from now on belong to the next batch, even if this batch already
        // writes their new content.
        let mut left = self.batches.changed.borrow().queue.len();
        let mut first_error = None;
        let mut ios: [Option<(Io, u64, u64)>; WRITES_IN_FLIGHT] =
            [const { None }; WRITES_IN_FLIGHT];
        while left > 0 {
            for (piece, io) in ios.iter_mut().enumerate() {
                if left > 0 {
                    // A mark made since the batch was taken may be in a block that is written only
                    // now.
                    let fua =
                        (fua || self.batches.marks.get()) && !mutant::is(Mutant::MarkNotDurable);
                    *io = Some(self.start_run(device, bits, clears, (fua, piece), &mut left));
                }
            }
            for io in &mut ios {
                let Some((io, first, count)) = io.take() else { continue };
                if let Err(error) = io.await {
                    // The blocks' content on disk is unknown now, so they have to be written again.
                    (first..first + count).for_each(|block| self.change_block(block, fua));
                    first_error.get_or_insert(error);
                }
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Starts the write of the oldest changed block, together with blocks that follow it both on
    /// disk and in the queue.
    fn start_run(
        &self,
        device: &OnDisk,
        bits: &impl WithBits,
        clears: Option<&[u8; HEADER_BYTES]>,
        (fua, piece): (bool, usize),
        left: &mut usize,
    ) -> (Io, u64, u64) {
        let layout = self.layout.get();
        let (buffer, piece_bytes) = (device.buffer.borrow(), device.piece_bytes.get());
        let block_bytes = u64::from(layout.block_bytes);
        let most = u64::from(piece_bytes) / block_bytes;
        let mut changed = self.batches.changed.borrow_mut();
        let Changed { queue, queued } = &mut *changed;
        let first = queue.front().copied().unwrap_or(0);
        let mut count = 0;
        while *left > 0 && count < most && queue.front() == Some(&(first + count)) {
            queue.pop_front();
            if let Some(queued) = queued {
                queued.put(first + count, false);
            }
            *left -= 1;
            count += 1;
        }
        // a piece is at most 32 KiB or one block long, and eight pieces fit the buffer
        #[allow(clippy::cast_possible_truncation)]
        let offset_bytes = piece as u32 * piece_bytes;
        let header = self.header.bytes.borrow();
        let tail = self.header.tail.borrow();
        let mut out = [0; SECTOR_LEN];
        for sector_bytes in (0..count * block_bytes).step_by(out.len()) {
            let start = first * block_bytes + sector_bytes;
            let bits = |out: &mut [u8]| match clears {
                Some(header) => layout.encode(start, header, None, &tail, out),
                None => {
                    bits.with_bits(|bits| layout.encode(start, &header, Some(bits), &tail, out))
                }
            };
            bits(&mut out);
            #[allow(clippy::cast_possible_truncation)]
            buffer.write(offset_bytes + sector_bytes as u32, &out);
        }
        let at = sector(first * block_bytes);
        let io = device.disk.write(
            at,
            Sectors::from_bytes(count * block_bytes),
            buffer.at(offset_bytes),
            fua,
        );
        (io, first, count)
    }
}
