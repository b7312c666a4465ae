//! What a disk holds before it is put to a new use: no data in use is overwritten.

use std::io;
use std::ops::Range;

use dm_targets::mirror::format::{self, HEADER_BYTES};
use dm_targets::snapshot::format::{Identity, MAGIC};

use super::OpenDisk;
use super::opening::Opening;
use super::signature::{self, Signature};
use crate::failure::{Failure, Reason};

fn unreadable(disk: &OpenDisk) -> impl Fn(io::Error) -> Reason {
    |error| Failure::from(error).context(format!("{}: cannot be read", disk.path.display()))
}

/// The known signature on a disk, if there is one.
pub fn of(disk: &OpenDisk) -> Result<Option<Signature>, Reason> {
    let _opening = Opening::of(&disk.path);
    let (size, block) = (disk.size_sectors * 512, disk.limits.logical_block_size);
    signature::find_in_file(&disk.file, size, block).map_err(unreadable(disk))
}

/// The known signature in a range of a disk, if there is one.
pub fn of_range(disk: &OpenDisk, start: u64, len: u64) -> Result<Option<Signature>, Reason> {
    let _opening = Opening::of(&disk.path);
    let block = disk.limits.logical_block_size;
    signature::find_in_range(&disk.file, start, len, block).map_err(unreadable(disk))
}

/// The ranges of a disk that a partition table assigns, if it has a table that can be understood.
pub fn partitions_on(disk: &OpenDisk) -> Result<Option<Vec<Range<u64>>>, Reason> {
    let _opening = Opening::of(&disk.path);
    let (size, block) = (disk.size_sectors * 512, disk.limits.logical_block_size);
    signature::partitions_in_file(&disk.file, size, block).map_err(unreadable(disk))
}

/// A snapshot store on a COW.
pub struct FoundStore {
    /// The store's own identity; `None` if the kernel made the store.
    pub identity: Option<Identity>,
}

/// The store on a COW, if there is one.
pub fn store_on(disk: &OpenDisk) -> Result<Option<FoundStore>, Reason> {
    let _opening = Opening::of(&disk.path);
    let first = signature::first_sector(&disk.file, disk.limits.logical_block_size)
        .map_err(unreadable(disk))?;
    Ok(first
        .starts_with(&MAGIC.to_le_bytes())
        .then(|| FoundStore { identity: Identity::decode(&first) }))
}

/// The header of the mirror log on a disk, if there is one.
pub fn mirror_log_on(disk: &OpenDisk) -> Result<Option<Box<[u8; HEADER_BYTES]>>, Reason> {
    let _opening = Opening::of(&disk.path);
    let mut header = Box::new([0; HEADER_BYTES]);
    signature::read_aligned(&disk.file, disk.limits.logical_block_size, 0, &mut header[..])
        .map_err(unreadable(disk))?;
    Ok(header.starts_with(&format::MAGIC.to_le_bytes()).then_some(header))
}
