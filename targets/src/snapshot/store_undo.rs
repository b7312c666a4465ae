//! Making a store, and unmaking it when the device it was made for does not come to be: a failed `add` leaves the COW
//! byte for byte as it was.

use std::rc::Rc;

use crate::disk::{Buffer, Disk, DiskError, Host};
use crate::units::{ChunkSize, Sector, Sectors};

/// Bytes that are remembered: all that a new store overwrites with chunks of up to 8 MiB. Of larger chunks the first block
/// is put back, which unmakes the store; what stood behind it in area 0 stays zero.
const REMEMBERED_BYTES: u64 = 16 << 20;
/// They are read and written in pieces of this.
const PIECE_BYTES: u64 = 256 << 10;

/// What a COW held where a new store was written.
pub(super) struct Before {
    bytes: Vec<u8>,
}

impl Before {
    /// Reads it. `None` when there is no memory for it.
    pub(super) async fn read(host: &Rc<dyn Host>, cow: &Disk, chunk: ChunkSize) -> Result<Option<Before>, DiskError> {
        let overwritten = 2 * chunk.bytes();
        if overwritten > REMEMBERED_BYTES {
            return Before::read_header(host, cow).await;
        }
        Before::read_start(host, cow, overwritten).await
    }

    /// Reads the header's block.
    pub(super) async fn read_header(host: &Rc<dyn Host>, cow: &Disk) -> Result<Option<Before>, DiskError> {
        Before::read_start(host, cow, u64::from(cow.limits().logical_block_bytes)).await
    }

    async fn read_start(host: &Rc<dyn Host>, cow: &Disk, len: u64) -> Result<Option<Before>, DiskError> {
        let Some(buffer) = buffer(host, len) else { return Ok(None) };
        let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
        for piece in pieces(len) {
            cow.read(piece.at, piece.count, buffer.at(0)).await?;
            buffer.read(0, &mut bytes[piece.range]);
        }
        Ok(Some(Before { bytes }))
    }

    /// Puts it back, the first block last: until then there is a store or nothing that could be taken for one.
    pub(super) async fn put_back(&self, host: &Rc<dyn Host>, cow: &Disk) -> Result<(), DiskError> {
        let Some(buffer) = buffer(host, self.bytes.len() as u64) else { return Ok(()) };
        for piece in pieces(self.bytes.len() as u64).collect::<Vec<_>>().into_iter().rev() {
            buffer.write(0, &self.bytes[piece.range]);
            cow.write(piece.at, piece.count, buffer.at(0), false).await?;
        }
        cow.flush().await
    }
}

struct Piece {
    at: Sector,
    count: Sectors,
    range: std::ops::Range<usize>,
}

fn pieces(len: u64) -> impl Iterator<Item = Piece> {
    (0..len.div_ceil(PIECE_BYTES)).map(move |number| {
        let (start, end) = (number * PIECE_BYTES, len.min((number + 1) * PIECE_BYTES));
        let range = usize::try_from(start).unwrap_or(0)..usize::try_from(end).unwrap_or(0);
        Piece { at: Sector(Sectors::from_bytes(start).0), count: Sectors::from_bytes(end - start), range }
    })
}

fn buffer(host: &Rc<dyn Host>, len: u64) -> Option<Buffer> {
    Buffer::acquire(host, u32::try_from(len.min(PIECE_BYTES)).ok()?)
}
