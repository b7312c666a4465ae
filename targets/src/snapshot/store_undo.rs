//! Unmaking a store whose device was not created, or not reported to its user: the COW is restored
//! byte for byte.
//!
//! Rule kept here: wherever this ends, the COW holds what it held before, an invalid store, or the
//! empty one that was made; never the start of a valid store with other bytes in its first area.

use std::rc::Rc;

use crate::disk::{Buffer, Disk, DiskError, Host};
use crate::units::{ChunkSize, Sector, Sectors};

/// Bytes that are remembered: all that a new store overwrites with chunks of up to 8 MiB. With
/// larger chunks the first block is restored, which unmakes the store; what stood behind it in area
/// 0 stays zero.
const REMEMBERED_BYTES: u64 = 16 << 20;
/// Size of the pieces in which they are read and written.
const PIECE_BYTES: u64 = 256 << 10;

/// The result of unmaking a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unmade {
    /// The store existed before, or none was made: nothing to restore.
    NotNew,
    /// As `NotNew`, but chunks have been copied onto a COW that had no store.
    Copies,
    /// The COW is as it was, byte for byte.
    Whole,
    /// What the store had overwritten is restored; chunks that were copied behind it stay.
    ButCopies,
    /// Only the first block is restored: the rest was too large to be remembered.
    OnlyStart,
    /// The store stays: what it had overwritten is unknown, or records made since follow its
    /// header.
    Stays,
}

impl Unmade {
    /// Whether the store is gone.
    pub fn is_gone(self) -> bool {
        matches!(self, Unmade::Whole | Unmade::ButCopies | Unmade::OnlyStart)
    }
}

/// What a COW held where a new store was written.
pub(super) struct Before {
    bytes: Vec<u8>,
    /// Length of its first block, which decides whether there is a store.
    block: u64,
}

impl Before {
    /// Reads what a new store overwrites. `None` when there is no memory for it.
    pub(super) async fn read(
        host: &Rc<dyn Host>,
        cow: &Disk,
        chunk: ChunkSize,
    ) -> Result<Option<Before>, DiskError> {
        let overwritten = 2 * chunk.bytes();
        if overwritten > REMEMBERED_BYTES {
            return Before::read_header(host, cow).await;
        }
        Before::read_start(host, cow, overwritten).await
    }

    /// Reads the header's block.
    pub(super) async fn read_header(
        host: &Rc<dyn Host>,
        cow: &Disk,
    ) -> Result<Option<Before>, DiskError> {
        Before::read_start(host, cow, u64::from(cow.limits().logical_block_bytes)).await
    }

    async fn read_start(
        host: &Rc<dyn Host>,
        cow: &Disk,
        len: u64,
    ) -> Result<Option<Before>, DiskError> {
        let Some(buffer) = buffer(host, len) else { return Ok(None) };
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        for piece in pieces(0, len) {
            cow.read(piece.at, piece.count, buffer.at(0)).await?;
            buffer.read(0, &mut bytes[piece.range]);
        }
        Ok(Some(Before { bytes, block: u64::from(cow.limits().logical_block_bytes) }))
    }

    /// Bytes that are remembered.
    pub(super) fn len(&self) -> u64 {
        self.bytes.len() as u64
    }

    /// Whether there is more than the first block.
    pub(super) fn has_rest(&self) -> bool {
        self.len() > self.block
    }

    /// A buffer for restoring it. `None` when there is no memory for it.
    pub(super) fn buffer(&self, host: &Rc<dyn Host>) -> Option<Buffer> {
        buffer(host, self.len())
    }

    /// Restores the bytes, the first block when the rest is durable: until then that block must not
    /// make a valid store of the rest.
    pub(super) async fn put_back(&self, buffer: &Buffer, cow: &Disk) -> Result<(), DiskError> {
        let rest = pieces(self.block, self.len());
        for piece in rest {
            self.write(piece, buffer, cow).await?;
        }
        if self.has_rest() {
            cow.flush().await?;
        }
        for piece in pieces(0, self.block) {
            self.write(piece, buffer, cow).await?;
        }
        cow.flush().await
    }

    async fn write(&self, piece: Piece, buffer: &Buffer, cow: &Disk) -> Result<(), DiskError> {
        buffer.write(0, &self.bytes[piece.range]);
        cow.write(piece.at, piece.count, buffer.at(0), false).await
    }
}

struct Piece {
    at: Sector,
    count: Sectors,
    range: std::ops::Range<usize>,
}

/// The bytes between two positions, in pieces.
fn pieces(from: u64, to: u64) -> impl Iterator<Item = Piece> {
    (0..to.saturating_sub(from).div_ceil(PIECE_BYTES)).map(move |number| {
        let (start, end) = (from + number * PIECE_BYTES, to.min(from + (number + 1) * PIECE_BYTES));
        let range = usize::try_from(start).unwrap_or(0)..usize::try_from(end).unwrap_or(0);
        Piece {
            at: Sector(Sectors::from_bytes(start).0),
            count: Sectors::from_bytes(end - start),
            range,
        }
    })
}

fn buffer(host: &Rc<dyn Host>, len: u64) -> Option<Buffer> {
    Buffer::acquire(host, u32::try_from(len.min(PIECE_BYTES)).ok()?)
}
