//! A range of a disk that has been read, as the probes see it.
//!
//! Rule kept here: bytes outside the range are never taken for a signature.

/// Offset of the array of uberblocks in ZFS's first label ...
pub(super) const ZFS_OFFSET: u64 = 128 * 1024;
/// ... and its length.
pub(super) const ZFS_BYTES: u64 = 128 * 1024;

/// A range of the disk, and the disk's size.
pub(super) struct View<'a> {
    pub(super) bytes: &'a [u8],
    pub(super) start: u64,
    pub(super) size: u64,
}

impl<'a> View<'a> {
    /// `len` bytes at `offset` of the disk, if they are in this range.
    pub(super) fn get(&self, offset: u64, len: usize) -> Option<&'a [u8]> {
        let from = usize::try_from(offset.checked_sub(self.start)?).ok()?;
        self.bytes.get(from..from.checked_add(len)?)
    }

    /// Whether `magic` is at `offset`.
    pub(super) fn has(&self, offset: u64, magic: &[u8]) -> bool {
        self.get(offset, magic.len()) == Some(magic)
    }

    /// The byte at `offset`; 0 outside.
    pub(super) fn u8(&self, offset: u64) -> u8 {
        self.get(offset, 1).map_or(0, |bytes| bytes[0])
    }

    /// The little-endian number at `offset`; 0 outside.
    pub(super) fn u32(&self, offset: u64) -> u32 {
        let mut array = [0; 4];
        if let Some(bytes) = self.get(offset, 4) {
            array.copy_from_slice(bytes);
        }
        u32::from_le_bytes(array)
    }

    /// The little-endian number of eight bytes at `offset`; 0 outside.
    pub(super) fn u64(&self, offset: u64) -> u64 {
        u64::from(self.u32(offset)) | u64::from(self.u32(offset + 4)) << 32
    }
}
