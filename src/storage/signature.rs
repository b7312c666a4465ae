//! What a disk already holds: file systems, partition tables, RAID, and our own stores.
//!
//! Used before a disk is put to a new use, so that nothing is overwritten by mistake. Rules kept
//! here:
//!
//! - Pure: [`find`] decides on bytes that a closure reads; [`find_in_file`] reads them from a disk.
//! - Nothing is written, and no more than three ranges are read: the first 68 KiB, the ZFS labels'
//!   128 KiB, and the last 132 KiB.
//! - A magic number of two bytes counts only together with plausible fields around it.
//! - The order matters: a store of ours takes precedence over the remains of a file system it was
//!   made on, a GPT over its protective MBR.
//!
//! A disk without a known signature may still hold data.

mod found;
mod identity;
mod partitions;
mod probes;
mod view;

use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;

pub use found::{Signature, SignatureKind};
pub use partitions::partitions;
use view::{View, ZFS_BYTES, ZFS_OFFSET};

/// Bytes examined from the start: up to the end of a btrfs magic number and of a 64 KiB swap
/// header.
const HEAD_BYTES: u64 = 68 * 1024;
/// Bytes examined from the end: up to an md 0.90 superblock.
const TAIL_BYTES: u64 = 132 * 1024;
/// Reads start at multiples of this.
const ALIGN: u64 = 4096;

/// Looks for the first known signature of a disk of `size_bytes`. `read` fills its buffer from a
/// byte offset; it is called at multiples of 4096, never beyond the size, and at most three times.
///
/// # Errors
/// Those of `read`.
pub fn find<E>(
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
    size_bytes: u64,
) -> Result<Option<Signature>, E> {
    let mut look = |start: u64, end: u64, probe: fn(&View<'_>) -> Option<Signature>| {
        let end = end.min(size_bytes);
        // The ranges are shorter than 200 KiB.
        let Ok(len) = usize::try_from(end.saturating_sub(start)) else { return Ok(None) };
        if len == 0 {
            return Ok(None);
        }
        let mut bytes = vec![0; len];
        read(start, &mut bytes)?;
        let view = View { bytes: &bytes, start, size: size_bytes };
        Ok(probe(&view).map(|found| found.identified(&view)))
    };
    if let Some(found) = look(0, HEAD_BYTES, probes::head)? {
        return Ok(Some(found));
    }
    if let Some(found) = look(ZFS_OFFSET, ZFS_OFFSET + ZFS_BYTES, probes::zfs)? {
        return Ok(Some(found));
    }
    let tail = size_bytes.saturating_sub(TAIL_BYTES) / ALIGN * ALIGN;
    look(tail, size_bytes, probes::tail)
}

/// [`find`] on an open disk. `block_bytes` is its logical block, of which `size_bytes` is a
/// multiple; memory, offsets and lengths are aligned for `O_DIRECT`.
///
/// # Errors
/// Those of reading; `UnexpectedEof` if the disk is shorter than `size_bytes`.
pub fn find_in_file(
    file: &File,
    size_bytes: u64,
    block_bytes: u32,
) -> io::Result<Option<Signature>> {
    find_in_range(file, 0, size_bytes, block_bytes)
}

/// The same for a range of the disk, as if the range were a disk of its own.
///
/// # Errors
/// As [`find_in_file`].
pub fn find_in_range(
    file: &File,
    start_bytes: u64,
    len_bytes: u64,
    block_bytes: u32,
) -> io::Result<Option<Signature>> {
    let read = |offset: u64, buffer: &mut [u8]| {
        read_aligned(file, block_bytes, start_bytes + offset, buffer)
    };
    find(read, len_bytes)
}

/// The [`partitions`] of an open disk.
///
/// # Errors
/// Those of reading.
pub fn partitions_in_file(
    file: &File,
    size_bytes: u64,
    block_bytes: u32,
) -> io::Result<Option<Vec<Range<u64>>>> {
    let read = |offset: u64, buffer: &mut [u8]| read_aligned(file, block_bytes, offset, buffer);
    partitions(read, size_bytes, block_bytes)
}

/// Whether the first sector is all zeroes: a disk without a known signature may still be in use.
///
/// # Errors
/// Those of reading.
pub fn starts_with_zeroes(file: &File, block_bytes: u32) -> io::Result<bool> {
    Ok(first_sector(file, block_bytes)?.iter().all(|byte| *byte == 0))
}

/// The first sector.
///
/// # Errors
/// Those of reading.
pub fn first_sector(file: &File, block_bytes: u32) -> io::Result<[u8; 512]> {
    let mut sector = [0; 512];
    read_aligned(file, block_bytes, 0, &mut sector)?;
    Ok(sector)
}

/// Reads bytes at any offset, in whole blocks.
pub(super) fn read_aligned(
    file: &File,
    block_bytes: u32,
    offset: u64,
    buffer: &mut [u8],
) -> io::Result<()> {
    let unit = u64::from(block_bytes).max(ALIGN);
    let skip = usize::try_from(offset % unit).map_err(io::Error::other)?;
    let align = usize::try_from(unit).map_err(io::Error::other)?;
    let block = usize::try_from(block_bytes.max(1)).map_err(io::Error::other)?;
    let len = (skip + buffer.len()).next_multiple_of(block);
    let mut memory = vec![0; len + align];
    let start = memory.as_ptr().align_offset(align);
    let aligned = &mut memory[start..start + len];
    // A short read in the middle of a disk ends at the end of a block: the rest stays aligned.
    file.read_exact_at(aligned, offset - offset % unit)?;
    buffer.copy_from_slice(&aligned[skip..skip + buffer.len()]);
    Ok(())
}

#[cfg(test)]
mod tests;
