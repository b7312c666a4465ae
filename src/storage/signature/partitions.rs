//! Which bytes of a disk belong to partitions, as its partition table says: of a GPT, or of an MBR
//! without one.
//!
//! Pure, as the search for signatures. Logical partitions count as their extended one.

use std::ops::Range;

use super::probes::{GPT_BLOCKS, GPT_MAGIC};
use super::view::View;

/// Bytes read at once; reads start at multiples of this.
const PAGE: u64 = 4096;
/// Bytes of a GPT's entries that are examined; tables have 16 KiB of them.
const ENTRIES_BYTES: u64 = 256 * 1024;
/// Bytes of an MBR's sectors.
const SECTOR: u64 = 512;
/// The type of the MBR's entry that protects a GPT.
const PROTECTIVE: u8 = 0xEE;

/// The partitions' ranges in bytes, and those of the tables themselves; `None` if there is no
/// table, or one that cannot be understood. `read` fills its buffer from a multiple of 4096. An MBR
/// counts in the disk's blocks.
///
/// # Errors
/// Those of `read`.
pub fn partitions<E>(
    mut read: impl FnMut(u64, &mut [u8]) -> Result<(), E>,
    size_bytes: u64,
    block_bytes: u32,
) -> Result<Option<Vec<Range<u64>>>, E> {
    let mut look = |start: u64, end: u64| {
        let start = start / PAGE * PAGE;
        let len = usize::try_from(end.min(size_bytes).saturating_sub(start)).unwrap_or(0);
        let mut bytes = vec![0; len];
        if len > 0 {
            read(start, &mut bytes)?;
        }
        Ok::<_, E>((bytes, start))
    };
    let (head, _) = look(0, 2 * PAGE)?;
    let view = View { bytes: &head, start: 0, size: size_bytes };
    let Some(block) = GPT_BLOCKS.into_iter().find(|block| view.has(*block, GPT_MAGIC)) else {
        return Ok(of_mbr(&view, u64::from(block_bytes)));
    };
    let (first, count, each) =
        (view.u64(block + 72), view.u32(block + 80), u64::from(view.u32(block + 84)));
    let len = u64::from(count).saturating_mul(each);
    let Some(start) = first.checked_mul(block) else { return Ok(None) };
    if each < 128 || len > ENTRIES_BYTES || start.saturating_add(len) > size_bytes {
        return Ok(None);
    }
    let (bytes, at) = look(start, start + len)?;
    let entries = View { bytes: &bytes, start: at, size: size_bytes };
    let used = (0..u64::from(count)).map(|number| start + number * each).filter_map(|entry| {
        let named = entries.get(entry, 16)?.iter().any(|byte| *byte != 0);
        let (from, to) = (entries.u64(entry + 32), entries.u64(entry + 40));
        named.then(|| from.saturating_mul(block)..to.saturating_add(1).saturating_mul(block))
    });
    // The tables themselves: at the start, and the copy behind the last usable block.
    let usable = (view.u64(block + 40), view.u64(block + 48));
    let tables = [
        0..usable.0.saturating_mul(block),
        usable.1.saturating_add(1).saturating_mul(block)..size_bytes,
    ];
    Ok(Some(used.chain(tables).collect()))
}

/// The four entries of an MBR, and its own sector.
fn of_mbr(view: &View<'_>, block: u64) -> Option<Vec<Range<u64>>> {
    if !view.has(510, &[0x55, 0xAA]) {
        return None;
    }
    let entries = [446, 462, 478, 494].into_iter().filter(|entry| view.u8(entry + 4) != 0);
    let own = 0..SECTOR;
    let mut ranges = Vec::from([own]);
    for entry in entries {
        // The GPT that is protected cannot be found.
        if view.u8(entry + 4) == PROTECTIVE {
            return None;
        }
        let start = u64::from(view.u32(entry + 8)) * block;
        ranges.push(start..start + u64::from(view.u32(entry + 12)) * block);
    }
    Some(ranges)
}
