//! What a disk holds before it becomes a leg that is recovered: data that a user may miss is not
//! overwritten.
//!
//! Rules kept here:
//!
//! * Content counts as the mirror's own only if the bytes that identify it are those of a leg that
//!   is up to date: its kind alone says nothing.
//! * An offset hides nothing: what claims the whole disk (a file system, swap, a member of RAID or
//!   LVM, an encrypted disk) is judged wherever the leg begins, and so are the partitions and the
//!   content in the leg's own range.

use std::fmt;
use std::ops::Range;

use dm_targets::units::{Sector, Sectors};

use super::wipe::wipe;
use crate::failure::Reason;
use crate::server::admin::machine::OpenDisk;
use crate::server::admin::mutant::{self, Mutant};
use crate::storage::signature::{Signature, SignatureKind};

/// Content of a disk that a recovery would destroy.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    name: &'static str,
    /// Where it was recognized, in bytes of the disk.
    at_byte: u64,
    /// The disk's block size in bytes.
    block_bytes: u32,
    /// The leg overlaps a partition of it.
    partition: bool,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Foreign { name, at_byte, partition, .. } = self;
        write!(f, "holds {name} (at byte {at_byte})")?;
        if *partition {
            write!(f, " with a partition in that range")?;
        }
        Ok(())
    }
}

impl Foreign {
    /// How the disk at a path is wiped.
    pub(super) fn remedy(&self, path: &str) -> String {
        wipe(path, self.at_byte, self.block_bytes)
    }
}

/// What is recognized in a leg that is up to date.
pub(super) fn content_of_leg(
    disk: &impl OpenDisk,
    offset: Sector,
    len: Sectors,
) -> Result<Vec<Signature>, Reason> {
    let whole = if offset == Sector(0) { disk.content()? } else { None };
    Ok(whole.into_iter().chain(content_of_range(disk, offset, len)?).collect())
}

/// The content that the recovery of a leg would destroy, unless it is that of `right`, the legs
/// that are up to date. `beside`: another leg of the mirror has the start of the disk, and the
/// content of the whole disk is judged with that leg.
pub(super) fn foreign_content(
    disk: &impl OpenDisk,
    offset: Sector,
    len: Sectors,
    right: &[Signature],
    beside: bool,
) -> Result<Option<Foreign>, Reason> {
    let at_start = offset == Sector(0);
    if !at_start && mutant::is(Mutant::OffsetUnjudged) {
        return Ok(None);
    }
    let is_ours = |found: &Signature| right.iter().any(|other| is_copy(other, found));
    let foreign = |found: Signature, from: u64, partition| Foreign {
        name: found.name,
        at_byte: from + found.offset,
        block_bytes: disk.limits().logical_block_size,
        partition,
    };
    let whole = if beside { None } else { disk.content()? };
    if let Some(found) = whole.filter(|found| !(at_start && is_ours(found))) {
        let is_table = !at_start && found.kind == SignatureKind::PartitionTable;
        if !is_table {
            return Ok(Some(foreign(found, 0, false)));
        }
        let (start, end) = (offset.bytes(), offset.bytes().saturating_add(len.bytes()));
        let parts = disk.partitions()?;
        let free = parts
            .is_some_and(|parts| parts.iter().all(|part| part.end <= start || end <= part.start));
        if !free {
            return Ok(Some(foreign(found, 0, true)));
        }
    }
    let part = content_of_range(disk, offset, len)?.filter(|found| !is_ours(found));
    Ok(part.map(|found| foreign(found, offset.bytes(), false)))
}

/// A partition in a range behind the end of a device. `has_start`: the device has the start of the
/// disk, so a partition table there is its users' own: what reaches from inside the device to the
/// end of the disk, as the place of such a table's copy does, is not in the way.
pub(super) fn partition_in(
    disk: &impl OpenDisk,
    start: Sector,
    len: Sectors,
    has_start: bool,
) -> Result<Option<Foreign>, Reason> {
    let (start, end) = (start.bytes(), start.bytes().saturating_add(len.bytes()));
    let whole = disk.size().bytes();
    let is_own = |part: &Range<u64>| has_start && part.start < start && part.end >= whole;
    let is_there = |part: &Range<u64>| part.start < end && start < part.end && !is_own(part);
    if !disk.partitions()?.is_some_and(|parts| parts.iter().any(is_there)) {
        return Ok(None);
    }
    let found = disk.content()?.filter(|found| found.kind == SignatureKind::PartitionTable);
    Ok(found.map(|found| Foreign {
        name: found.name,
        at_byte: found.offset,
        partition: true,
        block_bytes: disk.limits().logical_block_size,
    }))
}

/// The content of a range that is not the whole disk.
fn content_of_range(
    disk: &impl OpenDisk,
    offset: Sector,
    len: Sectors,
) -> Result<Option<Signature>, Reason> {
    if offset == Sector(0) && len == disk.size() {
        return Ok(None);
    }
    disk.content_of(offset, len)
}

fn is_copy(one: &Signature, other: &Signature) -> bool {
    one.is_copy_of(other) || mutant::is(Mutant::ContentByKind) && one.kind == other.kind
}
