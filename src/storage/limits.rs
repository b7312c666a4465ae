//! The limits of a disk: block sizes, cache, discard, alignment.
//!
//! Those of a block device are in `queue/` of its sysfs directory; a partition's queue is its
//! disk's. An attribute that is missing gets the value that cannot lose data or break a request: a
//! volatile cache, no FUA, no discard, memory aligned to the logical block.

use std::fs::{self, File, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::DiskId;
use crate::sys::disk as sys;

/// A file's logical block if `O_DIRECT` accepts it ...
const SMALL_BLOCK: u32 = 512;
/// ... and if it does not, and what it accepts is not known.
const LARGE_BLOCK: u32 = 4096;
/// The largest hole punched into a file at once: file systems do it in one transaction or a few.
const FILE_DISCARD_MAX_BYTES: u64 = 1 << 30;
/// The largest request to a file, in KiB. Files have no such limit; this is the usual limit of
/// disks.
const FILE_MAX_SECTORS_KB: u32 = 1280;

/// The limits of a disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Unit of reads and writes, in bytes: a power of two from 512.
    pub logical_block_size: u32,
    /// Unit of the medium, in bytes; not below the logical block.
    pub physical_block_size: u32,
    /// Smallest size of I/O without a penalty, in bytes.
    pub io_min: u32,
    /// Optimal size of I/O, in bytes; 0: not known.
    pub io_opt: u32,
    /// Until a flush, a completed write may be lost on power failure.
    pub volatile_cache: bool,
    /// It supports FUA writes.
    pub fua: bool,
    /// The largest discard, in bytes; 0: none.
    pub discard_max_bytes: u64,
    /// Unit of discards, in bytes; 0: none.
    pub discard_granularity: u32,
    /// The largest write-zeroes, in bytes; 0: none. A file may still refuse one with EOPNOTSUPP.
    pub write_zeroes_max_bytes: u64,
    /// Address bits that must be 0 in the memory of its I/O.
    pub dma_alignment: u32,
    /// The largest request, in KiB.
    pub max_sectors_kb: u32,
    /// It is a rotational disk.
    pub rotational: bool,
    /// The device refuses all writes.
    pub read_only: bool,
}

impl Limits {
    /// What a device without disks can do: everything that disks can.
    pub const NO_DISK: Limits = Limits {
        logical_block_size: SMALL_BLOCK,
        physical_block_size: SMALL_BLOCK,
        io_min: SMALL_BLOCK,
        io_opt: 0,
        volatile_cache: false,
        fua: false,
        discard_max_bytes: u32::MAX as u64 * 512,
        discard_granularity: SMALL_BLOCK,
        write_zeroes_max_bytes: 0,
        dma_alignment: 0,
        max_sectors_kb: FILE_MAX_SECTORS_KB,
        rotational: false,
        read_only: false,
    };

    /// The limits of an open block device.
    pub(super) fn of_block_device(file: &File, major: u32, minor: u32) -> io::Result<Limits> {
        let queue = queue_dir(&Path::new("/sys/dev/block").join(format!("{major}:{minor}")));
        let attribute = |name: &str| fs::read_to_string(queue.join(name)).ok();
        let logical = sys::logical_block_size(file)?;
        Ok(Limits { read_only: sys::is_read_only(file)?, ..Limits::of_queue(logical, attribute) })
    }

    /// Reads the attributes of a queue; the caller sets `read_only`.
    fn of_queue(logical_block_size: u32, attribute: impl Fn(&str) -> Option<String>) -> Limits {
        let number = |name: &str| attribute(name)?.trim().parse::<u64>().ok();
        // A count of bytes that does not fit becomes the greatest that does.
        let small = |name: &str| number(name).map(|value| u32::try_from(value).unwrap_or(u32::MAX));
        let or_block = |name: &str| small(name).unwrap_or(0).max(logical_block_size);
        Limits {
            logical_block_size,
            physical_block_size: or_block("physical_block_size"),
            io_min: or_block("minimum_io_size"),
            io_opt: small("optimal_io_size").unwrap_or(0),
            volatile_cache: attribute("write_cache")
                .is_none_or(|text| text.trim() != "write through"),
            fua: number("fua") == Some(1),
            discard_max_bytes: number("discard_max_bytes").unwrap_or(0),
            discard_granularity: small("discard_granularity").unwrap_or(0),
            write_zeroes_max_bytes: number("write_zeroes_max_bytes").unwrap_or(0),
            dma_alignment: small("dma_alignment").unwrap_or(logical_block_size - 1),
            max_sectors_kb: small("max_sectors_kb")
                .filter(|&kb| kb > 0)
                .unwrap_or(FILE_MAX_SECTORS_KB),
            rotational: number("rotational") == Some(1),
            read_only: false,
        }
    }

    /// The limits of an open regular file.
    pub(super) fn of_file(file: &File, metadata: &Metadata, buffered: bool) -> io::Result<Limits> {
        let (memory, logical) = match sys::direct_alignment(file)? {
            _ if buffered => (1, SMALL_BLOCK),
            Some((memory, offset)) => (memory, offset.max(SMALL_BLOCK)),
            None if sys::direct_reads(file, SMALL_BLOCK) => (SMALL_BLOCK, SMALL_BLOCK),
            None => (LARGE_BLOCK, LARGE_BLOCK),
        };
        let unit = u32::try_from(metadata.blksize()).unwrap_or(LARGE_BLOCK);
        let unit =
            if unit.is_power_of_two() { unit.clamp(SMALL_BLOCK, 1 << 16) } else { LARGE_BLOCK };
        let physical = unit.max(logical);
        let holes = sys::hole_support(file)?;
        Ok(Limits {
            logical_block_size: logical,
            physical_block_size: physical,
            io_min: physical,
            io_opt: 0,
            volatile_cache: true,
            fua: false,
            discard_max_bytes: if holes.punch { FILE_DISCARD_MAX_BYTES } else { 0 },
            discard_granularity: if holes.punch { physical } else { 0 },
            write_zeroes_max_bytes: if holes.zero { FILE_DISCARD_MAX_BYTES } else { 0 },
            dma_alignment: memory.max(1) - 1,
            max_sectors_kb: FILE_MAX_SECTORS_KB,
            rotational: false,
            read_only: false,
        })
    }
}

/// Whether the kernel shows the device, which could not be opened, as read-only. A file never is.
pub(super) fn is_set_read_only(id: DiskId) -> bool {
    let DiskId::Block { .. } = id else { return false };
    fs::read_to_string(format!("/sys/dev/block/{id}/ro")).is_ok_and(|text| text.trim() == "1")
}

/// Where the queue's attributes are: a partition has none of its own.
fn queue_dir(device: &Path) -> PathBuf {
    let own = device.join("queue");
    if own.is_dir() { own } else { device.join("../queue") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_queue_is_read() {
        let limits = Limits::of_queue(512, |name| {
            let text = match name {
                "physical_block_size" | "minimum_io_size" => "4096\n",
                "optimal_io_size" => "131072\n",
                "write_cache" => "write through\n",
                "fua" | "rotational" => "1\n",
                "discard_max_bytes" => "2199023255040\n",
                "discard_granularity" => "512\n",
                "write_zeroes_max_bytes" => "131072\n",
                "dma_alignment" => "3\n",
                "max_sectors_kb" => "128\n",
                _ => return None,
            };
            Some(text.to_owned())
        });
        let expected = Limits {
            logical_block_size: 512,
            physical_block_size: 4096,
            io_min: 4096,
            io_opt: 131_072,
            volatile_cache: false,
            fua: true,
            discard_max_bytes: 2_199_023_255_040,
            discard_granularity: 512,
            write_zeroes_max_bytes: 131_072,
            dma_alignment: 3,
            max_sectors_kb: 128,
            rotational: true,
            read_only: false,
        };
        assert_eq!(limits, expected);
    }

    #[test]
    fn silence_is_read_as_the_safe_value() {
        let limits = Limits::of_queue(4096, |_| None);
        assert!(limits.volatile_cache);
        assert!(!limits.fua);
        assert_eq!((limits.physical_block_size, limits.io_min), (4096, 4096));
        assert_eq!((limits.discard_max_bytes, limits.write_zeroes_max_bytes), (0, 0));
        assert_eq!(limits.dma_alignment, 4095);
        assert!(limits.max_sectors_kb > 0);
        let strange = Limits::of_queue(512, |_| Some("none\n".to_owned()));
        assert!(strange.volatile_cache);
    }
}
