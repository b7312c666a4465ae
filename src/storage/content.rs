//! What a disk holds before it is given a new purpose: nothing that somebody may miss is
//! overwritten.

use std::io;

use dm_targets::snapshot::format::{Identity, MAGIC};

use super::OpenDisk;
use super::opening::Opening;
use super::signature::{self, Signature};
use crate::failure::Reason;

fn unreadable(disk: &OpenDisk) -> impl Fn(io::Error) -> Reason {
    |error| format!("{}: cannot be read: {error}", disk.path.display()).into()
}

/// What a disk holds, if it is something known.
pub fn of(disk: &OpenDisk) -> Result<Option<Signature>, Reason> {
    let _opening = Opening::of(&disk.path);
    let (size, block) = (disk.size_sectors * 512, disk.limits.logical_block_size);
    signature::find_in_file(&disk.file, size, block).map_err(unreadable(disk))
}

/// A snapshot store on a COW.
pub struct FoundStore {
    /// What it says of itself; nothing if the kernel has made it.
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
